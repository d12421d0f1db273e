"""The name of one request in the logs of client, proxy and back end: ``X-Request-Id``.

Facts
-----
* The field is in no RFC, but Heroku, Envoy, HAProxy, Rails and Spring read and write it. nginx
  makes 32 hexadecimal digits.
* An id that counts would reveal to a client how many requests others make. So it is random.
* A client that chooses the id writes into the logs of the back end, and can make its request look
  like another's. Its own never passes, unless a trusted hop before the proxy gives ids
  (``request-id = "trust"``).
"""

from __future__ import annotations

import os
import re
from binascii import hexlify

from x509proxy.http1.fields import Pairs

__all__ = ["REQUEST_ID", "given_request_id", "new_request_id"]

REQUEST_ID = b"X-Request-Id"
_FOLDED = REQUEST_ID.lower()
_GIVEN = re.compile(rb"[A-Za-z0-9-]{1,64}")


def new_request_id() -> bytes:
    """Make 32 hexadecimal digits, never the same and not to be guessed."""
    return hexlify(os.urandom(16))


def given_request_id(pairs: Pairs) -> bytes | None:
    """Return the id in the request, if there is one, of 1 to 64 octets of ``[A-Za-z0-9-]``."""
    found = [value for name, value in pairs if name.lower() == _FOLDED]
    return found[0] if len(found) == 1 and _GIVEN.fullmatch(found[0]) else None
