"""The chunked transfer coding (RFC 9112 section 7.1), read strictly and written.

Facts
-----
* ``chunk-ext`` and trailer fields are read and dropped. A trailer that a next hop merges becomes a
  header field (lighttpd CVE-2025-12642).
* RFC 9112 section 7.1.1 permits white space (BWS) around ``;`` and ``=``, as a leniency towards
  old senders. It is rejected here, as are a bare LF (Kestrel CVE-2025-55315) and signs or ``0x``
  before a size (Twisted CVE-2022-24801).
* A body of one-octet chunks, or of extensions, costs much more than it carries (Go CVE-2023-39326).
  So the framing is bounded by the body that it has carried so far, and in a request the number of
  chunks too. In a response it is not: an event stream may have small chunks only.
"""

from __future__ import annotations

import re
import sys

import attrs

from x509proxy.http1.grammar import TOKEN

__all__ = ["LAST_CHUNK", "BodyTooLarge", "ChunkDecoder", "MalformedBody", "write_chunk"]

LAST_CHUNK = b"0\r\n\r\n"
"""The end of a chunked body, without trailer fields."""

# Octets. Sixteen digits are 2**64 - 1; the line with them, its extensions and its line ends.
_MAX_SIZE_LINE = 1024
_MAX_TRAILERS = 4096
_OVERHEAD = 16384
_OVERHEAD_PER_BYTE = 8
_OCTETS_PER_CHUNK = 64

# A repeated group is not possessive: Python 3.11 before 3.11.5 matched such ones wrongly
# (python/cpython#106052). They are linear all the same, since no two alternatives begin alike.
_QUOTED = rb'"(?:[\t !#-\[\]-~]|\\[\t -~])*"'
_EXTENSION = rb"(?:;%b++(?:=(?:%b++|%b))?)*" % (TOKEN, TOKEN, _QUOTED)
_SIZE = rb"([0-9A-Fa-f]{1,16}+)%b\r\n" % _EXTENSION
_PART_OF_SIZE = rb"(?:[0-9A-Fa-f]{1,16}+(?:;[\t -~]*+)?\r?+)?"
_TRAILER_TEXT = rb"[\t -~\x80-\xff]"


@attrs.frozen
class _Line:
    """One kind of line between the data of chunks: whole, and as far as it may have come."""

    name: str
    limit: int
    whole: re.Pattern[bytes]
    part: re.Pattern[bytes]


_FIRST_SIZE = _Line("chunk", _MAX_SIZE_LINE, re.compile(_SIZE), re.compile(_PART_OF_SIZE))
# The CRLF behind the data of a chunk is read with the next size.
_NEXT_SIZE = _Line(
    "chunk",
    _MAX_SIZE_LINE,
    re.compile(rb"\r\n" + _SIZE),
    re.compile(rb"\r?+|\r\n" + _PART_OF_SIZE),
)
# The empty line has no name.
_TRAILER = _Line(
    "trailer",
    _MAX_TRAILERS,
    re.compile(rb"(?:(%b++):%b*+)?\r\n" % (TOKEN, _TRAILER_TEXT)),
    re.compile(rb"(?:%b++(?::%b*+\r?+)?|\r)?" % (TOKEN, _TRAILER_TEXT)),
)
# RFC 9110 section 6.5.1: fields that frame or control a message must not be sent as trailers.
_NO_TRAILERS = frozenset({b"content-length", b"transfer-encoding", b"connection"})


class MalformedBody(Exception):
    """Framing that is malformed, or more than the body that it carries permits."""


class BodyTooLarge(Exception):
    """A chunk with which the body exceeds its limit."""


class ChunkDecoder:
    """The octets of one chunked body, in order. ``done``: its end has been read.

    ``limit``: the octets that the body may have. ``small_chunks``: the chunks that it may have, and
    one more for each 64 octets.
    """

    __slots__ = ("_chunks_left", "_framing", "_left", "_limit", "_line", "_part", "_size", "done")

    def __init__(self, limit: int, small_chunks: int = sys.maxsize) -> None:
        self.done = False
        self._limit = limit
        self._chunks_left = small_chunks
        self._line = _FIRST_SIZE
        self._part = b""
        self._left = self._size = self._framing = 0

    def decode(self, data: bytes, pieces: list[bytes]) -> bytes:
        """Read on: append the body's pieces, and return what follows its end.

        :raises MalformedBody: ``pieces`` has what came before.
        :raises BodyTooLarge: a chunk that exceeds the limit; none of its data is appended.
        """
        data, self._part, place = self._part + data, b"", 0
        while place < len(data) and not self.done:
            if self._left:
                piece = data[place : place + self._left]
                self._left -= len(piece)
                place += len(piece)
                pieces.append(piece)
            else:
                match = self._line.whole.match(data, place, place + self._line.limit)
                if match is None:
                    self._check_part(data, place)
                    self._part = data[place:]
                    return b""
                place = match.end()
                self._framing += place - match.start()
                self._take(match)
        return data[place:]

    def _check_part(self, data: bytes, place: int) -> None:
        if len(data) - place >= self._line.limit or not self._line.part.fullmatch(data, place):
            raise MalformedBody(f"malformed {self._line.name}")

    def _take(self, match: re.Match[bytes]) -> None:
        if self._line is _TRAILER:
            self._take_trailer(match[1])
            return
        self._left = int(match[1], 16)
        self._size += self._left
        if self._size > self._limit:
            raise BodyTooLarge
        if self._framing > _OVERHEAD + _OVERHEAD_PER_BYTE * self._size:
            raise MalformedBody("chunk framing larger than the body")
        self._chunks_left -= 1
        if self._chunks_left + self._size // _OCTETS_PER_CHUNK < 0:
            raise MalformedBody("too many small chunks")
        self._line = _NEXT_SIZE
        if not self._left:
            self._line, self._framing = _TRAILER, 0

    def _take_trailer(self, name: bytes | None) -> None:
        self.done = name is None
        if self._framing > _MAX_TRAILERS:
            raise MalformedBody("trailer section too large")
        if name is not None and name.lower() in _NO_TRAILERS:
            raise MalformedBody(f"{name.decode('ascii').lower()} in a trailer")


def write_chunk(data: bytes) -> bytes:
    """Write one chunk. ``data`` is not empty: an empty chunk would be the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)
