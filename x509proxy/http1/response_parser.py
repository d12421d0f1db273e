"""Octets of a back end to one response, without a transport: strictly, and within limits.

Facts
-----
* A response to HEAD, a 204 and a 304 have no body, whatever they announce (RFC 9112 section 6.3).
  Some servers send one all the same, a little later: it would be the response to the next request
  on the connection, which may be another client's. So these, and 205, leave no reusable connection.
* An interim response (1xx) has no body either (RFC 9110 section 15.2), and is dropped. One that
  announces a body, or the end of the connection, is an error. So is 101, since no request of the
  proxy has ``Upgrade``.
* Empty lines before a status line are not skipped: RFC 9112 section 2.2 has this for servers only.
"""

from __future__ import annotations

import sys
from typing import Final, Protocol

from x509proxy.http1.body import BodyTooLarge, ChunkDecoder, MalformedBody
from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.http1.grammar import RESPONSE, Malformed, check_lines, split_fields
from x509proxy.http1.messages import (
    END,
    EndOfMessage,
    Framing,
    ResponseHead,
    check_interim,
    invalid_response,
    response_head,
    response_too_large,
)
from x509proxy.settings import UpstreamSettings

__all__ = ["ResponseEvent", "ResponseHandler", "ResponseParser"]

ResponseEvent = ResponseHead | bytes | EndOfMessage | ErrorResponse

_INTERIM_RESPONSES = 16
_START = b"HTTP/1."
_VERSIONS = {b"1": "1.1", b"0": "1.0"}
_CHUNKED: Final = Framing.CHUNKED
_CLOSE: Final = Framing.CLOSE


class ResponseHandler(Protocol):
    """The user of a connection: it takes the response, and holds its request back on demand.

    ``response_flush``: the received octets end here, so all that was forwarded has to be sent.
    ``response_failed``: the last call, in place of ``response_end``. ``pause_request`` and
    ``resume_request``: the back end does not read the request's body, or reads it again.
    """

    def response_head(self, head: ResponseHead) -> None: ...
    def response_data(self, data: bytes) -> None: ...
    def response_flush(self) -> None: ...
    def response_end(self) -> None: ...
    def response_failed(self, error: ErrorResponse) -> None: ...
    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...


class ResponseParser:
    """One response. ``reusable``, after ``END``: the connection can serve another request."""

    __slots__ = (
        "_begun", "_checked", "_chunks", "_ended", "_head", "_interim", "_left", "_limit",
        "_max_fields", "_method", "_part", "dead", "reusable",
    )  # fmt: skip

    def __init__(self, method: bytes, settings: UpstreamSettings) -> None:
        self._method = method
        self._limit = settings.max_head_bytes
        self._max_fields = settings.max_header_fields
        self._part = b""
        self._checked = 0
        self._interim = 0
        self._begun = self._ended = False
        self._head: ResponseHead | None = None
        self._chunks: ChunkDecoder | None = None
        self._left = 0
        self.dead = False
        self.reusable = False

    def feed(self, data: bytes) -> list[ResponseEvent]:
        """Take octets; return the events that they complete.

        After the end, or an error, more octets make the connection unfit for another request.
        """
        events: list[ResponseEvent] = []
        if self.dead:
            self.reusable = False
            return events
        self._begun = self._begun or bool(data)
        try:
            if self._head is None:
                self._read_heads(data, events)
            else:
                self._read_body(self._head, data, events)
        except HttpError as rejected:
            self.dead, self._ended, self._part = True, True, b""
            events.append(rejected.response)
        except Exception:
            # An error of the proxy. The caller cuts the connection, whose end fails the response.
            self.dead = True
            raise
        return events

    def end_of_stream(self, *, clean: bool) -> list[ResponseEvent]:
        """Take the connection's end: that of a body without framing, or of a response cut short."""
        if self._ended:
            return []
        is_broken, self.dead, self._ended = self.dead, True, True
        if clean and not is_broken and self._head is not None and self._head.body is _CLOSE:
            return [END]
        reason = "cut short" if self._begun else "none"
        return [ErrorResponse(Code.INVALID_RESPONSE, f"back end's response: {reason}")]

    def _read_heads(self, data: bytes, events: list[ResponseEvent]) -> None:
        """Read the head, and the interim responses before it; together they have one limit."""
        new = len(self._part)
        data = self._part + data
        # The empty line may have begun in the last piece.
        while (end := data.find(b"\r\n\r\n", new - 3 if new > 3 else 0, self._limit) + 4) >= 4:
            self._part, self._checked, new = b"", 0, 0
            self._limit -= end
            version, status, reason, block = self._match(data, end)
            pairs, data = split_fields(block), data[end:]
            if status >= 200:
                self._begin(
                    response_head(status, reason, version, pairs, self._method, self._max_fields),
                    data,
                    events,
                )
                return
            self._interim += 1
            check_interim(status, version, pairs)
            if self._interim > _INTERIM_RESPONSES:
                raise invalid_response("too many interim responses")
        self._keep(data, new)

    def _match(self, data: bytes, end: int) -> tuple[str, int, bytes, bytes]:
        match = RESPONSE.head.fullmatch(data, 0, end)
        if match is None:
            self._check_line(data[: data.index(b"\r\n")])
            raise invalid_response("malformed header field")
        version, status, reason, block = match.groups(b"")
        return _VERSIONS[version], int(status), reason, block

    def _check_line(self, line: bytes) -> None:
        if not RESPONSE.line.fullmatch(line):
            raise invalid_response("malformed status line")

    def _keep(self, data: bytes, new: int) -> None:
        """Keep the beginning of a head, unless it cannot become one."""
        part = data[: self._limit]
        if not _START.startswith(part[: len(_START)]):
            raise invalid_response("malformed status line")
        if not self._checked and (end := part.find(b"\r\n")) >= 0:
            self._check_line(part[:end])
            self._checked = end + 2
        try:
            checked = check_lines(RESPONSE, part, self._checked, new)
        except Malformed:
            what = "header field" if self._checked else "status line"
            raise invalid_response(f"malformed {what}") from None
        if checked > self._checked:
            self._checked = checked
            if part.count(b"\n") - 1 > self._max_fields:
                raise response_too_large("too many header fields")
        if len(data) >= self._limit:
            raise response_too_large("head too large")
        self._part = data

    def _begin(self, head: ResponseHead, data: bytes, events: list[ResponseEvent]) -> None:
        self._head = head
        if head.body is _CHUNKED:
            self._chunks = ChunkDecoder(sys.maxsize)
        elif head.body is Framing.LENGTH:
            self._left = head.length
        events.append(head)
        self._read_body(head, data, events)

    def _read_body(self, head: ResponseHead, data: bytes, events: list[ResponseEvent]) -> None:
        if self._chunks is not None:
            data = self._read_chunks(self._chunks, data, events)
            if not self._chunks.done:
                return
        elif head.body is _CLOSE:
            if data:
                events.append(data)
            return
        elif self._left:
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            if piece:
                events.append(piece)
            if self._left:
                return
        self.dead = self._ended = True
        self.reusable = head.keep_alive and not data
        events.append(END)

    def _read_chunks(self, chunks: ChunkDecoder, data: bytes, events: list[ResponseEvent]) -> bytes:
        pieces: list[bytes] = []
        try:
            return chunks.decode(data, pieces)
        except MalformedBody as malformed:
            raise invalid_response(str(malformed)) from None
        except BodyTooLarge:
            raise invalid_response("more octets in chunks than a 64-bit integer holds") from None
        finally:
            if pieces:
                events.append(b"".join(pieces))
