"""The head of a response, written (RFC 9112 section 4, RFC 9110 section 6.6.1)."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from x509proxy.http1.fields import Framing, Pairs, write_head

__all__ = ["date_value", "status_line", "write_response_head"]

_PHRASES = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}


def status_line(status: int, reason: bytes) -> bytes:
    """Write a status line without its line end; without a ``reason``, with the usual phrase."""
    return b"HTTP/1.1 %d %b" % (status, reason or _PHRASES.get(status, b""))


@lru_cache(maxsize=2)
def date_value(second: int) -> bytes:
    """Write a time, in seconds since the epoch, as the value of ``Date``."""
    return formatdate(second, usegmt=True).encode("ascii")


def write_response_head(
    status: int,
    reason: bytes,
    pairs: Pairs,
    own: Pairs,
    body: Framing,
    length: int,
    now: Callable[[], float],
) -> bytes:
    """Write the head of a response: the back end's ``pairs``, the proxy's ``own``, one framing.

    ``Date`` is added if there is none; ``now``: the time in seconds since the epoch.

    :raises ValueError: a line end inside a field; nothing of it may be sent.
    """
    names = [name for name, _ in pairs]
    # Nearly every server spells it so: the others are searched only without it.
    if b"Date" not in names and b"date" not in [name.lower() for name in names]:
        own = [(b"Date", date_value(int(now()))), *own]
    return write_head(status_line(status, reason), [*pairs, *own], body, length)
