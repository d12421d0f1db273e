"""Heads that have been read before, by their octets: the same one comes again and again, and it means the same.

Reading a head is a pure function of its octets and of the limits; tests/test_costs.py shows what a new one costs.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Generic, TypeVar

from x509proxy.head import Body, RequestHead, ResponseHead
from x509proxy.settings import ClientSettings, UpstreamSettings

__all__ = ["KnownHeads", "known_answers", "known_heads"]

_LARGEST = 4096  # bytes
_MOST = 512
# Location: an authorization code, or an ID token, goes to the client in it (RFC 6749 section 4.1.2).
_SECRET = re.compile(
    rb"\n(?:(?:proxy-)?authorization|(?:set-)?cookie|dpop|(?:content-)?location|(?:proxy-)?authentication-info):", re.IGNORECASE
)

Head = TypeVar("Head", RequestHead, ResponseHead)


class KnownHeads(Generic[Head]):
    """Only what was read to its end without any objection is kept, and only if its body has a length or none; 2 MiB at most.

    No passwords, tokens or cookies are kept in memory for this.
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def find(self, data: bytes, place: int) -> tuple[Head | None, int]:
        """The head that stands there, complete and known, and the place behind it."""
        end = data.find(b"\r\n\r\n", place, place + _LARGEST) + 4
        return (self._heads.get(data[place:end]), end) if end > place else (None, place)

    def add(self, raw: bytes, head: Head) -> None:
        """Remember it; when there are too many, all are forgotten."""
        if len(raw) <= _LARGEST and head.body in (Body.LENGTH, Body.NONE) and not _SECRET.search(raw):
            if len(self._heads) >= _MOST:
                self._heads.clear()
            self._heads[raw] = head


@lru_cache(maxsize=4)
def known_heads(_: ClientSettings) -> KnownHeads[RequestHead]:
    """Those of requests that were read within these limits."""
    return KnownHeads()


@lru_cache(maxsize=4)
def known_answers(_: UpstreamSettings) -> KnownHeads[ResponseHead]:
    """Those of answers that were read within these limits; none to ``HEAD``, which mean something else."""
    return KnownHeads()
