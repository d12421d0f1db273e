"""The name of one request in the logs of client, proxy and back end: ``X-Request-Id``.

Facts
-----
* The field is in no RFC, and yet what Heroku, Envoy, HAProxy, Rails and Spring read and write. nginx makes 32 hexadecimal digits.
* An id that counts tells a client how many requests others make between two of its own. So each has 128 random bits; they are
  fetched 256 at a time, which costs less than a counter that is written out.
* A client that chooses the id writes into the logs of the back end, and can make its request look like another's: its own
  never passes as such, unless a trusted hop in front of the proxy gives ids (``request-id = "trust"``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from x509proxy.http1.fields import Pairs

__all__ = ["REQUEST_ID", "given_request_id", "new_request_id"]

REQUEST_ID = b"X-Request-Id"
_FOLDED = REQUEST_ID.lower()
_SIZE = 32
_BATCH = 256
_GIVEN = re.compile(rb"[A-Za-z0-9-]{1,64}")


def _make() -> Iterator[bytes]:
    while True:
        batch = os.urandom(_BATCH * _SIZE // 2).hex().encode("ascii")
        for place in range(0, len(batch), _SIZE):
            yield batch[place : place + _SIZE]


_ids = _make()


def _renew() -> None:
    global _ids  # noqa: PLW0603 - a fork is one for the whole process
    _ids = _make()


# The child of a fork would give the same ids as its parent.
os.register_at_fork(after_in_child=_renew)


def new_request_id() -> bytes:
    """32 hexadecimal digits, never the same and not to be guessed."""
    return next(_ids)


def given_request_id(pairs: Pairs) -> bytes | None:
    """The id that came with the request, if there is exactly one and it is of ``[A-Za-z0-9-]``, 1 to 64 of them."""
    found = [value for name, value in pairs if name.lower() == _FOLDED]
    return found[0] if len(found) == 1 and _GIVEN.fullmatch(found[0]) else None
