"""The proxy's side of a response: status line and date (RFC 9112 section 4, RFC 9110 section 6.6.1)."""

from __future__ import annotations

from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

__all__ = ["date_value", "status_line"]

_PHRASES = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}


def status_line(status: int, reason: bytes) -> bytes:
    """Write a status line without its line end; without a ``reason``, with the usual phrase."""
    return b"HTTP/1.1 %d %b" % (status, reason or _PHRASES.get(status, b""))


@lru_cache(maxsize=2)
def date_value(second: int) -> bytes:
    """Write a time, in seconds since the epoch, as the value of ``Date``."""
    return formatdate(second, usegmt=True).encode("ascii")
