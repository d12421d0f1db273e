"""Bytes to a back end's answer: llhttp with the limits it leaves open, and no transport. What comes out has been validated.

Facts
-----
* httptools cannot tell llhttp that an answer is to a HEAD request. So there is a fresh parser for each answer, and one to HEAD
  ends with its head.
* llhttp takes RTSP and ICE for HTTP. A head stands behind as many empty lines as there were interim answers, so it can be found.
* 204 and 304 have no body (RFC 9112 section 6.3), whatever they announce. Some servers send one
  all the same, a little later: it would be the response to the connection's next request, which
  may be another client's. So these, 205, and every one to HEAD leave no reusable connection.
* An interim answer (1xx) has no body (RFC 9110 section 15.2). llhttp reads one all the same if it is given a length: it would
  come out before any head, an answer of the back end's own making.
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import httptools

from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.http1.head_cache import KnownHeads, known_answers
from x509proxy.http1.messages import Framing, ResponseHead, read_response_head
from x509proxy.http1.parser import BODY, END, HEAD, IDLE, EndOfMessage, ParserBase
from x509proxy.settings import UpstreamSettings

__all__ = ["ResponseEvent", "ResponseHandler", "ResponseParser"]

ResponseEvent = ResponseHead | bytes | EndOfMessage | ErrorResponse

_INTERIM_ANSWERS = 16
# A client can cause it (a long name, many cookies), so it is no fault of the back end.
_TOO_LARGE = ErrorResponse(Code.RESPONSE_TOO_LARGE, "back end's answer: head too large")
_FRAMING = (b"content-length", b"transfer-encoding")


class ResponseHandler(Protocol):
    """Who has lent a connection: it takes the answer, and is told when the back end takes its request too slowly."""

    def response_head(self, head: ResponseHead) -> None: ...
    def response_data(self, data: bytes) -> None: ...
    def response_flush(self) -> None: ...
    def response_end(self) -> None: ...
    def response_failed(self, refusal: ErrorResponse) -> None: ...
    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...


class ResponseParser(ParserBase):
    """One answer from a back end. ``reusable``, after its ``EndOfMessage.END``: the connection is as it was before.

    ``known``: the heads read within these ``settings``, if whoever makes many readers has looked them up.
    """

    def __init__(
        self,
        method: bytes,
        settings: UpstreamSettings,
        known: KnownHeads[ResponseHead] | None = None,
    ) -> None:
        super().__init__(settings.max_head_bytes, settings.max_header_fields)
        self._method = method
        self._known = known_answers(settings) if known is None else known
        self._events: list[ResponseEvent] = []
        self._reason = b""
        self._raw = b""
        self._interim = 0
        self._head: ResponseHead | None = None
        self._is_known = False
        self._left = 0
        self.reusable = False

    @cached_property
    def _parser(self) -> httptools.HttpResponseParser:
        # Made when it is needed: an answer whose head is known needs none.
        return httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> list[ResponseEvent]:
        """What the bytes complete. After the end, or a refusal, anything more makes the connection unfit for use."""
        events = self._events = []
        if self.dead:
            self.reusable = False
            return events
        is_first = self._head is None and not self._raw
        if is_first:
            data = self._begin_known(data)
        if self._is_known:
            self._plain_body(data)
        else:
            self._parse(data)
            if is_first:
                self._learn(data)
            if self.dead:
                self.release_parser()
        return events

    def _begin_known(self, data: bytes) -> bytes:
        """If a head that has been read before stands there, the parser need not see it, nor its body: what is behind it."""
        head, place = (None, 0) if self._method == b"HEAD" else self._known.find(data, 0)
        if head is None:
            return data
        self._is_known, self._head, self._left = True, head, head.length
        self.stage = BODY
        self._events.append(head)
        return data[place:]

    def _plain_body(self, data: bytes) -> None:
        piece = data[: self._left]
        self._left -= len(piece)
        if piece:
            self._events.append(piece)
        if not self._left:
            assert self._head is not None
            self._end(self._head.keep_alive and len(piece) == len(data))

    def _parse(self, data: bytes) -> None:
        if self._head is None:
            self._raw += data
        before = self._body_size
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(error)
        else:
            if self._is_endless(len(data), before):
                self._die_of(_TOO_LARGE if self.stage is HEAD else _bad("framing without end"))

    def _learn(self, data: bytes) -> None:
        """Remember the head of an answer that came with its first piece; not what follows an interim one or an empty line."""
        head = self._head
        if (
            head is not None
            and head.body is Framing.LENGTH
            and not self._interim
            and data.startswith(b"HTTP/")
        ):
            self._known.add(data[: data.find(b"\r\n\r\n") + 4], head)

    def end_of_stream(self, *, clean: bool) -> list[ResponseEvent]:
        """What the connection's end means: the end of a close-delimited body, or an answer cut short."""
        events = self._events = []
        if self.dead:
            return events
        if clean and self._head is not None and self._head.body is Framing.CLOSE:
            self._end(reusable=False)
        else:
            self._die("cut short" if self._begun or self.stage is not IDLE else "none")
        self.release_parser()
        return events

    def _refuse(self, error: Exception) -> None:
        self.reusable = False
        if self.dead:
            return
        if isinstance(error.__context__, HttpError):
            self._die_of(error.__context__.response)
        else:
            self._die(str(error))

    def _die(self, reason: str) -> None:
        self._die_of(_bad(reason))

    def _die_of(self, refusal: ErrorResponse) -> None:
        self.dead = True
        self._events.append(refusal)

    def _end(self, reusable: bool) -> None:
        self.dead = True
        self.reusable = reusable
        self._events.append(END)

    # Called by httptools.

    def on_message_begin(self) -> None:
        if self.dead:
            self.reusable = False
        elif self._interim == 0:
            self._begin_message()
        else:
            # A flood of interim answers counts as one head.
            self._pairs = []
        self._reason = b""

    def on_status(self, piece: bytes) -> None:
        self._reason += piece
        self._check_head(len(piece))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._count_field(name, value):
            self._pairs.append((name, value.strip(b" \t")))
            self._check_head(0)

    def _check_head(self, more: int) -> None:
        self._head_size += more
        if self._head_size > self._head_limit or len(self._pairs) > self._field_limit:
            raise HttpError(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        parser = self._parser
        status = parser.get_status_code()
        if not self.dead and not self._is_http():
            raise HttpError(ErrorResponse(Code.INVALID_RESPONSE, "back end's answer: not HTTP"))
        if self.dead or (
            100 <= status <= 199 and status != 101 and self._interim < _INTERIM_ANSWERS
        ):
            self._interim += 1
            if not self.dead and any(
                name.lower() in _FRAMING and value != b"0" for name, value in self._pairs
            ):
                raise HttpError(
                    ErrorResponse(
                        Code.INVALID_RESPONSE, "back end's answer: interim answer with a body"
                    )
                )
            return
        head = read_response_head(
            status, self._reason, parser.get_http_version(), self._pairs, self._method, self._field_limit,
            parser.should_keep_alive(),
        )  # fmt: skip
        self._head, self._raw = head, b""
        self._begin_body()
        self._events.append(head)
        if head.body is Framing.NONE:
            self._end(head.keep_alive)

    def _is_http(self) -> bool:
        head = self._raw.split(b"\r\n\r\n", self._interim + 1)[self._interim]
        return head.lstrip(b"\r\n").startswith(b"HTTP/")

    def on_body(self, piece: bytes) -> None:
        if self.dead or self._head is None:
            self.reusable = False
            return
        self._body_size += len(piece)
        self._events.append(piece)

    def on_message_complete(self) -> None:
        if not self.dead and self._head is not None:
            self._end(self._head.keep_alive and self._parser.should_keep_alive())


def _bad(reason: str) -> ErrorResponse:
    return ErrorResponse(Code.INVALID_RESPONSE, f"back end's answer: {reason}")
