"""Where in an HTTP/1.1 message a reader stands, and what it counts: bytes of a head, or of framing, without end.

Facts
-----
* httptools joins a field that arrives in pieces without any limit, so a head, or a trailer section, that does not end is
  counted from outside, by the bytes fed while it lasted.
* A chunked body may be mostly chunk extensions or one-byte chunks (Go CVE-2023-39326): what is not body is bounded by what is.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["BODY", "END", "HEAD", "IDLE", "EndOfMessage", "ParserBase", "ParserState"]

_OVERHEAD = 16384  # bytes
_OVERHEAD_PER_BYTE = 8


class EndOfMessage(enum.Enum):
    """The event that has nothing to carry."""

    END = "end"


class ParserState(enum.Enum):
    """Where in a message the reader stands."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"


# A look into an enumeration takes four times as long as one at a module's name (Python 3.11).
END: Final = EndOfMessage.END
IDLE, HEAD, BODY = ParserState


class ParserBase:
    """What the readers of requests and of answers have in common (:mod:`x509proxy.http1.request_parser`, :mod:`x509proxy.http1.response_parser`)."""

    def __init__(self, max_head_bytes: int, fields: int) -> None:
        self.stage = IDLE
        self.dead = False
        self._head_limit = max_head_bytes
        self._field_limit = fields
        self._pairs: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._body_size = 0
        self._waste = 0
        self._standstill = 0
        self._begun = False

    def release_parser(self) -> None:
        """Nothing more is fed. A parser and its reader are a cycle that only the collector would find."""
        self.__dict__.pop("_parser", None)

    def _begin_message(self) -> None:
        self.stage = HEAD
        self._begun = True
        self._pairs = []
        self._head_size = self._body_size = self._waste = self._standstill = 0

    def _begin_body(self) -> None:
        self.stage = BODY
        self._begun = True
        self._waste = self._standstill = 0

    def _count_field(self, name: bytes, value: bytes) -> bool:
        """Whether it is a field of the head; a trailer is dropped."""
        if self.stage is BODY:
            return False
        self._head_size += len(name) + len(value) + 4
        return True

    def _is_endless(self, fed: int, body_before: int) -> bool:
        """Whether a message that began in an earlier feed is taking more than its share without getting on."""
        if self.dead or self._begun or self.stage is IDLE:
            self._begun = False
            return False
        body = self._body_size - body_before
        self._waste += fed - body
        # A trailer field that does not end is joined anew with each piece, so here the body before it buys nothing.
        self._standstill = 0 if body else self._standstill + fed
        if self.stage is HEAD:
            return self._waste > self._head_limit
        return (
            self._standstill > self._head_limit
            or self._waste > _OVERHEAD + _OVERHEAD_PER_BYTE * self._body_size
        )
