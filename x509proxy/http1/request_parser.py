"""Bytes to requests: llhttp with the limits it leaves open, and no transport. What comes out has been validated.

The reader turns what is fed to it into a list of events, in order: a head, pieces of its body, ``EndOfMessage.END``; or a
:class:`~x509proxy.http1.errors.ErrorResponse`, after which the reader is dead and whatever is fed to it vanishes (law L3).

Facts
-----
* Trailer fields are dropped: merged by a next hop, they become header fields (lighttpd CVE-2025-12642).
* The request line is ours: it is waited for, and judged, before the parser sees it (:mod:`x509proxy.http1.request_line`).
"""

from __future__ import annotations

import re
from functools import cached_property

import httptools

from x509proxy.http1.errors import Code, ErrorResponse, HttpError, bad_request
from x509proxy.http1.head_cache import known_heads
from x509proxy.http1.messages import Framing, RequestHead, read_request_head
from x509proxy.http1.parser import BODY, END, HEAD, IDLE, EndOfMessage, ParserBase, ParserState
from x509proxy.http1.request_line import check_request_line
from x509proxy.settings import ClientSettings

__all__ = ["RequestEvent", "RequestParser"]


RequestEvent = RequestHead | bytes | EndOfMessage | ErrorResponse

_EMPTY_LINES = re.compile(rb"\A(?:\r\n)+")
_PART_OF_LINE = re.compile(rb"[ -~]*\r?")
_LINE_AROUND_TARGET = 32


class RequestParser(ParserBase):
    """Requests from one client connection, one after the other. ``line``: that of a request whose head is not complete yet."""

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings.max_head_bytes, settings.max_header_fields)
        self._settings = settings
        self._events: list[RequestEvent] = []
        self._pieces: list[bytes] = []
        self._target = b""
        self._line = b""
        self.line = b""
        self.rest = b""
        self._tail = b""
        self._left = 0
        self._stays_open = True
        self._known = known_heads(settings)
        self._plain: RequestHead | None = None
        self._whole_head = False
        self._head_read: RequestHead | None = None

    @cached_property
    def _parser(self) -> httptools.HttpRequestParser:
        # Made when it is needed: a client whose heads are known needs none.
        return httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> list[RequestEvent]:
        """What the bytes complete, up to the end of one request; what is behind it stays in ``rest`` until the next call.

        So a piece full of small requests is as many bytes, not as many requests. A refusal is the last event there will ever be.
        """
        events = self._events = []
        data, place, self.rest = self.rest + data, 0, b""
        while not self.dead and place < len(data):
            if events and events[-1] is END:
                self.rest = data[place:]
                break
            if self._plain is not None:
                place = self._plain_body(data, place, self._plain)
                continue
            if self.stage is IDLE or self._line:
                head, end = (None, 0) if self._line else self._known.find(data, place)
                if head is not None:
                    self._begin_known(head)
                    place = end
                    continue
                # A request line is looked at wherever it stands in what was fed: so no message begins within a piece.
                data, place = self._whole_line(data[place:]), 0
                self._tail = b""
            if data:
                end = self._end_of_piece(data, place)
                self._feed_piece(data[place:end])
                place = end
        return events

    def _begin_known(self, head: RequestHead) -> None:
        """A head that has been read before: the parser, which stands between two messages, need not see it, nor its body."""
        self._events.append(head)
        self._left = head.length
        if self._left:
            self.stage, self._plain = BODY, head
        else:
            self._end(head.keep_alive)

    def _plain_body(self, data: bytes, place: int, head: RequestHead) -> int:
        piece = data[place : place + self._left]
        self._left -= len(piece)
        self._events.append(piece)
        if not self._left:
            self._plain = None
            self._end(head.keep_alive)
        return place + len(piece)

    def _end(self, stays_open: bool) -> None:
        self.stage = IDLE
        # After its last request a connection has nothing to say.
        self.dead = not stays_open
        self._events.append(END)

    def _end_of_piece(self, data: bytes, place: int) -> int:
        """Where a message may end: a body of a known length there, anything else only behind an empty line."""
        if self._left:
            end = min(len(data), place + self._left)
            self._left -= end - place
            return end
        tail, self._tail = self._tail, data[max(place, len(data) - 3) :]
        straddling = tail + data[place : place + 3]
        found = straddling.find(b"\r\n\r\n")
        if found >= 0:
            end = place + found + 4 - len(tail)
        else:
            found = data.find(b"\r\n\r\n", place)
            if found < 0:
                self._tail = (tail + data[place:])[-3:]
                return len(data)
            end = found + 4
        self._tail = b""
        return end

    def _feed_piece(self, data: bytes) -> None:
        before = self._body_size
        self._whole_head, self._head_read = False, None
        try:
            self._parser.feed_data(data)
            self._hand_on()
        except httptools.HttpParserUpgrade:
            # The request stands, without its upgrade; what follows it would be another protocol's.
            self.dead = True
        except httptools.HttpParserError as error:
            self._refuse(error)
        else:
            if self._is_endless(len(data), before):
                self._die(_endless(self.stage))
            elif self._head_read is not None:
                self._known.add(data, self._head_read)

    def _whole_line(self, data: bytes) -> bytes:
        """What to feed the parser: nothing until a request line is complete, and well formed in our own eyes."""
        self.stage = IDLE
        data = self._line + data
        data = _EMPTY_LINES.sub(b"", data, count=1)
        line, end, _ = data.partition(b"\r\n")
        self._line = self.line = b""
        if end:
            self.line = line
            try:
                check_request_line(line)
            except HttpError as error:
                self._die(error.response)
            return b"" if self.dead else data
        if not _PART_OF_LINE.fullmatch(data):
            self._die(
                ErrorResponse(Code.BAD_REQUEST, "malformed request line", "Malformed request")
            )
        elif len(data) > self._settings.max_target_bytes + _LINE_AROUND_TARGET:
            self._die(ErrorResponse(Code.TARGET_TOO_LONG, "request line too long"))
        elif data:
            # Half an empty line begins nothing: a client that drips empty lines would have a new deadline with each of them.
            self.stage, self._line = IDLE if data == b"\r" else HEAD, data
        return b""

    def _refuse(self, error: httptools.HttpParserError) -> None:
        if isinstance(error.__context__, HttpError):
            self._die(error.__context__.response)
        elif error.__context__ is not None:
            # A fault of ours in a callback is none of the client's; whoever feeds ends the connection for it.
            self.dead = True
            raise error.__context__
        else:
            self._die(
                ErrorResponse(Code.BAD_REQUEST, f"malformed request: {error}", "Malformed request")
            )

    def _die(self, refusal: ErrorResponse) -> None:
        self._hand_on()
        self.dead = True
        self._events.append(refusal)

    def _hand_on(self) -> None:
        """What has come of a body, as one: to send each chunk of an octet on by itself costs a hundred times as much."""
        if self._pieces:
            self._events.append(b"".join(self._pieces))
            self._pieces = []

    # Called by httptools.

    def on_message_begin(self) -> None:
        self._begin_message()
        self._whole_head = True
        self._target = b""

    def on_url(self, piece: bytes) -> None:
        self._target += piece
        if len(self._target) > self._settings.max_target_bytes:
            raise HttpError(ErrorResponse(Code.TARGET_TOO_LONG, "target too long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._count_field(name, value):
            return
        if len(name) + len(value) + 2 > self._settings.max_line_bytes:
            raise HttpError(ErrorResponse(Code.HEAD_TOO_LARGE, "header line too long"))
        self._pairs.append((name, value.strip(b" \t")))
        if len(self._pairs) > self._field_limit or self._head_size > self._head_limit:
            raise HttpError(
                ErrorResponse(Code.HEAD_TOO_LARGE, "too many header fields, or too large")
            )

    def on_headers_complete(self) -> None:
        parser = self._parser
        self._stays_open = parser.should_keep_alive()
        head = read_request_head(
            parser.get_method(), self._target, parser.get_http_version(), self._pairs, self._settings,
            self._stays_open and not parser.should_upgrade(),
        )  # fmt: skip
        self._left = head.length
        if len(self._target) + self._head_size > self._head_limit:
            raise HttpError(ErrorResponse(Code.HEAD_TOO_LARGE, "head too large"))
        if parser.should_upgrade() and head.body is not Framing.NONE:
            # httptools leaves its body out.
            raise bad_request("upgrade of a request with a body")
        self._begin_body()
        self.line = b""
        self._events.append(head)
        # It began in the piece that is being fed, and a piece ends with a head: so the piece is this head.
        self._head_read = head if self._whole_head else None

    def on_body(self, piece: bytes) -> None:
        self._body_size += len(piece)
        if self._body_size > self._settings.max_body_bytes:
            raise HttpError(
                ErrorResponse(
                    Code.BODY_TOO_LARGE,
                    "body too large",
                    f"The body may have {self._settings.max_body_bytes} bytes",
                )
            )
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self._hand_on()
        if self._stays_open and not self._parser.should_keep_alive():
            raise bad_request("connection field in a trailer")
        self._end(self._parser.should_keep_alive())


def _endless(stage: ParserState) -> ErrorResponse:
    if stage is HEAD:
        return ErrorResponse(Code.HEAD_TOO_LARGE, "head too large")
    return ErrorResponse(Code.BAD_REQUEST, "body framing larger than the body", "Malformed request")
