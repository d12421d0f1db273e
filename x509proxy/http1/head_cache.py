"""Heads that have been read before, by their octets: the same one comes again and again, and it means the same.

Reading a head is a pure function of its octets and of the limits; tests/integration/test_costs.py shows what a new one costs.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Generic, TypeVar

from x509proxy.http1.messages import Framing, RequestHead, ResponseHead
from x509proxy.settings import ClientSettings, UpstreamSettings

__all__ = ["KnownHeads", "known_answers", "known_heads"]

_LARGEST = 4096  # bytes
_MOST_FIELDS = 100  # each of which takes some 150 bytes more as a pair of values than in the head
_MOST = 512
# A query may hold a token or a code (RFC 6750 section 2.3, RFC 6749 section 4.1.2), and so may what repeats it.
_SECRET = re.compile(
    rb"\A[a-z]+ [^ ?]*\?|\n[^:\n]*(?:auth|cookie|key|secret|token|passw|dpop|csrf|session|jwt|location|referer)[^:\n]*:",
    re.IGNORECASE,
)

Head = TypeVar("Head", RequestHead, ResponseHead)


class KnownHeads(Generic[Head]):
    """Only what was read to its end without any objection is kept, and only if its body has a length or none.

    No query is, nor a field that by its name holds a password, a token, a key or a cookie; what somebody puts into a path, or
    into a field that does not say so, can be. At the worst a table takes 24 MiB, with all that is found out about its heads
    (:mod:`x509proxy.forwarding.forwarded_fields`): 512 heads of 4 KiB that somebody made for this.
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def find(self, data: bytes, place: int) -> tuple[Head | None, int]:
        """The head that stands there, complete and known, and the place behind it."""
        end = data.find(b"\r\n\r\n", place, place + _LARGEST) + 4
        return (self._heads.get(data[place:end]), end) if end > place else (None, place)

    def add(self, raw: bytes, head: Head) -> None:
        """Remember it; when there are too many, all are forgotten."""
        small = len(raw) <= _LARGEST and len(head.pairs) <= _MOST_FIELDS
        if small and head.body in (Framing.LENGTH, Framing.NONE) and not _SECRET.search(raw):
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
