"""A parser from octets to requests: RFC 9112 without its leniencies, with every limit.

``feed`` turns octets into events, in order: a head, pieces of its body, ``END``; or an
:class:`~x509proxy.http1.errors.ErrorResponse`. After an error the parser is ``dead`` and ignores
all octets (invariant L3). Events do not depend on how the octets were cut into pieces. If one head
has two faults, either may be reported.

Facts
-----
* A complete head is parsed by one expression. Until then it is checked line by line, so that a
  malformed or endless head is rejected before its end.
* Empty lines before a request are skipped (RFC 9112 section 2.2). They do not begin a request: a
  client that sends nothing else keeps its first deadline.
* ``Upgrade`` is never followed. A client that requests one may send the other protocol at once
  (RFC 9931), so its request is its last.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from x509proxy.http1.body import BodyTooLarge, ChunkDecoder, MalformedBody
from x509proxy.http1.errors import Code, ErrorResponse, HttpError, bad_request
from x509proxy.http1.grammar import REQUEST, Malformed, check_lines, split_fields
from x509proxy.http1.messages import (
    END,
    EndOfMessage,
    Framing,
    RequestHead,
    body_too_large,
    request_head,
)
from x509proxy.http1.request_target import check_method
from x509proxy.settings import ClientSettings

__all__ = ["HEAD", "IDLE", "ParserState", "RequestEvent", "RequestParser"]

RequestEvent = RequestHead | bytes | EndOfMessage | ErrorResponse

_EMPTY_LINES = re.compile(rb"(?:\r\n)+")
_LINE_AROUND_TARGET = 32
# Chunks of any size in one body; each 64 octets permit one more. One read of 128 KiB has 21,800
# chunks of one octet, which take 20 ms, but fewer than 3,000 within this limit.
_SMALL_CHUNKS = 1024
_VERSIONS = {b"1": "1.1", b"0": "1.0"}


class ParserState(enum.Enum):
    """The part of a message that is being received."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"


# Module names: a look into an enumeration takes four times as long (Python 3.11).
IDLE, HEAD, BODY = ParserState
_CHUNKED: Final = Framing.CHUNKED


class RequestParser:
    """A parser of the requests of one connection, in order.

    ``stage``: the part of a request that comes next. ``line``: the request line of a head that is
    incomplete, or was rejected. ``rest``: the octets after a request, which the next call of
    ``feed`` parses.
    """

    __slots__ = (
        "_checked", "_chunks", "_keep_alive", "_left", "_part", "_settings", "dead", "line", "rest",
        "stage",
    )  # fmt: skip

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._part = b""
        self._checked = 0
        self._chunks: ChunkDecoder | None = None
        self._left = 0
        self._keep_alive = True
        self.stage = IDLE
        self.dead = False
        self.line = b""
        self.rest = b""

    def feed(self, data: bytes) -> list[RequestEvent]:
        """Parse octets; return the events that they complete, up to the end of one request.

        Octets after that end stay in ``rest``: many small requests take less memory as octets than
        as objects.
        """
        events: list[RequestEvent] = []
        if self.dead:
            return events
        if self.rest:
            data, self.rest = self.rest + data, b""
        try:
            if self.stage is BODY:
                self._read_body(data, events)
            else:
                self._read_head(data, events)
        except HttpError as rejected:
            self.dead, self._part = True, b""
            events.append(rejected.response)
        except Exception:
            # An error of the proxy, not of the client. The caller ends the connection.
            self.dead = True
            raise
        return events

    def _read_head(self, data: bytes, events: list[RequestEvent]) -> None:
        new = len(self._part)
        data = self._part + data
        if data.startswith(b"\r\n"):
            data, new = _EMPTY_LINES.sub(b"", data, count=1), 0
        # The empty line may have begun in the last piece.
        start = new - 3 if new > 3 else 0
        end = data.find(b"\r\n\r\n", start, self._settings.max_head_bytes) + 4
        if end < 4:
            self._keep(data, new)
            return
        self._part, self._checked = b"", 0
        try:
            head = self._parse_head(data, end)
        except HttpError:
            self.line = data[: data.index(b"\r\n")]
            raise
        self.line = b""
        self.stage = BODY
        self._keep_alive = head.keep_alive
        self._left = head.length
        if head.body is _CHUNKED:
            self._chunks = ChunkDecoder(self._settings.max_body_bytes, _SMALL_CHUNKS)
        events.append(head)
        self._read_body(data[end:], events)

    def _parse_head(self, data: bytes, end: int) -> RequestHead:
        match = REQUEST.head.fullmatch(data, 0, end)
        if match is None:
            self._check_line(data[: data.index(b"\r\n")])
            raise bad_request("malformed header field")
        method, target, version, block = match.groups()
        limit = self._settings.max_line_bytes
        if len(block) > limit and _has_line_above(limit, block):
            self._check_line(data[: data.index(b"\r\n")])
            raise _too_large("header line too long")
        return request_head(method, target, _VERSIONS[version], split_fields(block), self._settings)

    def _check_line(self, line: bytes) -> None:
        match = REQUEST.line.fullmatch(line)
        if match is None:
            raise bad_request("malformed request line")
        check_method(match[1])
        if len(match[2]) > self._settings.max_target_bytes:
            raise HttpError(ErrorResponse(Code.TARGET_TOO_LONG, "target too long"))

    def _keep(self, data: bytes, new: int) -> None:
        """Keep the beginning of a head; reject it if it cannot become a valid one."""
        if len(data) < 2 and data in b"\r":
            # Half an empty line.
            self._part = data
            return
        self.stage = HEAD
        limit = self._settings.max_head_bytes
        part = data[:limit]
        if not self.line and (end := part.find(b"\r\n")) >= 0:
            self.line = part[:end]
            self._check_line(self.line)
            self._checked = end + 2
        try:
            checked = check_lines(REQUEST, part, self._checked, new)
        except Malformed:
            part_name = "header field" if self.line else "request line"
            raise bad_request(f"malformed {part_name}") from None
        self._check_limits(part, checked)
        if len(data) >= limit:
            raise _too_large("head too large")
        self._part = data

    def _check_limits(self, part: bytes, checked: int) -> None:
        # The last octet may be the first of a line end.
        last = len(part) - checked - 1
        if not self.line:
            if last > self._settings.max_target_bytes + _LINE_AROUND_TARGET:
                raise HttpError(ErrorResponse(Code.TARGET_TOO_LONG, "request line too long"))
        elif last > self._settings.max_line_bytes:
            raise _too_large("header line too long")
        if checked > self._checked:
            block, self._checked = part[self._checked : checked], checked
            if _has_line_above(self._settings.max_line_bytes, block):
                raise _too_large("header line too long")
            if part.count(b"\n") - 1 > self._settings.max_header_fields:
                raise _too_large("too many header fields")

    def _read_body(self, data: bytes, events: list[RequestEvent]) -> None:
        if self._chunks is not None:
            data = self._read_chunks(self._chunks, data, events)
            if not self._chunks.done:
                return
            self._chunks = None
        elif self._left:
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            if piece:
                events.append(piece)
            if self._left:
                return
        self.stage = IDLE
        # Octets after a client's last request are ignored.
        self.dead = not self._keep_alive
        self.rest = data if self._keep_alive else b""
        events.append(END)

    def _read_chunks(self, chunks: ChunkDecoder, data: bytes, events: list[RequestEvent]) -> bytes:
        """Decode a part of a chunked body, as one event: events have a fixed cost."""
        pieces: list[bytes] = []
        try:
            return chunks.decode(data, pieces)
        except MalformedBody as malformed:
            raise bad_request(str(malformed)) from None
        except BodyTooLarge:
            raise body_too_large("body too large", self._settings.max_body_bytes) from None
        finally:
            if pieces:
                events.append(b"".join(pieces))


def _has_line_above(limit: int, block: bytes) -> bool:
    return len(block) > limit and max(map(len, block.split(b"\r\n"))) > limit


def _too_large(detail: str) -> HttpError:
    return HttpError(ErrorResponse(Code.HEAD_TOO_LARGE, detail))
