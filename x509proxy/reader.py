"""Bytes to messages, both ways: llhttp with the limits it leaves open, and no transport. What comes out has been validated.

Each reader turns what is fed to it into a list of events, in order: a head, pieces of its body, ``Mark.END``; or a
:class:`~x509proxy.refusal.Refusal`, after which the reader is dead and whatever is fed to it vanishes (law L3).

Facts
-----
* httptools joins a field that arrives in pieces without any limit, so a head, or a trailer section, that does not end is
  counted here from outside, by the bytes fed while it lasted.
* A chunked body may be mostly chunk extensions or one-byte chunks (Go CVE-2023-39326): what is not body is bounded by what is.
* Trailer fields are dropped: merged by a next hop, they become header fields (lighttpd CVE-2025-12642).
* httptools cannot tell llhttp that an answer is to a HEAD request. So there is a fresh parser for each answer, and one to HEAD
  ends with its head.
"""

from __future__ import annotations

import enum

import httptools

from x509proxy.head import Body, RequestHead, ResponseHead, read_request_head, read_response_head
from x509proxy.refusal import Refusal, Refused
from x509proxy.settings import ClientSettings, UpstreamSettings

__all__ = ["Mark", "RequestEvent", "RequestReader", "ResponseEvent", "ResponseReader", "Stage"]


class Mark(enum.Enum):
    """The event that has nothing to carry."""

    END = "end"


class Stage(enum.Enum):
    """Where in a message the reader stands."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"


RequestEvent = RequestHead | bytes | Mark | Refusal
ResponseEvent = ResponseHead | bytes | Mark | Refusal

_OVERHEAD = 16384
_OVERHEAD_PER_BYTE = 8
_INTERIM_ANSWERS = 16


class _Counter:
    """What both readers count: the bytes of a head, or of a body's framing, that does not end."""

    def __init__(self, head_bytes: int, fields: int) -> None:
        self.stage = Stage.IDLE
        self.dead = False
        self._head_limit = head_bytes
        self._field_limit = fields
        self._pairs: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._body_size = 0
        self._trailers = 0
        self._waste = 0
        self._begun = False

    def _begin_message(self) -> None:
        self.stage = Stage.HEAD
        self._begun = True
        self._pairs = []
        self._head_size = self._body_size = self._trailers = self._waste = 0

    def _count_field(self, name: bytes, value: bytes) -> bool:
        """Whether it is a field of the head; a trailer is counted and dropped."""
        if self.stage is Stage.BODY:
            self._trailers += 1
            return False
        self._head_size += len(name) + len(value) + 4
        return True

    def _is_endless(self, fed: int, body_before: int) -> bool:
        """Whether a message that began in an earlier feed is taking more than its share without getting on."""
        if self._begun or self.stage is Stage.IDLE:
            self._begun = False
            return False
        self._waste += fed - (self._body_size - body_before)
        if self.stage is Stage.HEAD:
            return self._waste > self._head_limit
        return self._waste > _OVERHEAD + _OVERHEAD_PER_BYTE * self._body_size


class RequestReader(_Counter):
    """Requests from one client connection, one after the other."""

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings.head_bytes, settings.fields)
        self._settings = settings
        self._parser = httptools.HttpRequestParser(self)
        self._events: list[RequestEvent] = []
        self._target = b""

    def feed(self, data: bytes) -> list[RequestEvent]:
        """What the bytes complete. A refusal is the last event there will ever be."""
        events = self._events = []
        if self.dead:
            return events
        before = self._body_size
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request stands, without its upgrade; what follows it would be another protocol's.
            self.dead = True
        except httptools.HttpParserError as error:
            self._refuse(error)
        else:
            if self._is_endless(len(data), before):
                self._die(_endless(self.stage))
        return events

    def _refuse(self, error: httptools.HttpParserError) -> None:
        if isinstance(error.__context__, Refused):
            self._die(error.__context__.refusal)
        elif str(error) == "Data after `Connection: close`":
            self.dead = True
        else:
            self._die(Refusal(400, f"malformed request: {error}", "Malformed request"))

    def _die(self, refusal: Refusal) -> None:
        self.dead = True
        self._events.append(refusal)

    # Called by httptools.

    def on_message_begin(self) -> None:
        self._begin_message()
        self._target = b""

    def on_url(self, piece: bytes) -> None:
        self._target += piece
        if len(self._target) > self._settings.target_bytes:
            raise Refused(Refusal(414, "target too long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._count_field(name, value):
            return
        if len(name) + len(value) + 2 > self._settings.line_bytes:
            raise Refused(Refusal(431, "header line too long"))
        self._pairs.append((name, value.strip(b" \t")))
        if len(self._pairs) > self._field_limit or self._head_size > self._head_limit:
            raise Refused(Refusal(431, "too many header fields, or too large"))

    def on_headers_complete(self) -> None:
        parser = self._parser
        head = read_request_head(
            parser.get_method(), self._target, parser.get_http_version(), self._pairs, self._settings,
            parser.should_keep_alive() and not parser.should_upgrade(),
        )  # fmt: skip
        if len(self._target) + self._head_size > self._head_limit:
            raise Refused(Refusal(431, "head too large"))
        self.stage, self._waste = Stage.BODY, 0
        self._events.append(head)

    def on_body(self, piece: bytes) -> None:
        self._body_size += len(piece)
        if self._body_size > self._settings.body_bytes:
            raise Refused(Refusal(413, "body too large", f"The body may have {self._settings.body_bytes} bytes"))
        self._events.append(piece)

    def on_message_complete(self) -> None:
        self.stage = Stage.IDLE
        self._events.append(Mark.END)


def _endless(stage: Stage) -> Refusal:
    if stage is Stage.HEAD:
        return Refusal(431, "head too large")
    return Refusal(400, "body framing larger than the body", "Malformed request")


class ResponseReader(_Counter):
    """One answer from a back end. ``reusable``, after its ``Mark.END``: the connection is as it was before."""

    def __init__(self, method: bytes, settings: UpstreamSettings) -> None:
        super().__init__(settings.head_bytes, settings.fields)
        self._method = method
        self._parser = httptools.HttpResponseParser(self)
        self._events: list[ResponseEvent] = []
        self._reason = b""
        self._interim = 0
        self._head: ResponseHead | None = None
        self.reusable = False

    def feed(self, data: bytes) -> list[ResponseEvent]:
        """What the bytes complete. After the end, or a refusal, anything more makes the connection unfit for use."""
        events = self._events = []
        if self.dead:
            self.reusable = False
            return events
        before = self._body_size
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(error)
        else:
            if self._is_endless(len(data), before):
                self._die("head or framing without end")
        return events

    def end_of_stream(self, clean: bool) -> list[ResponseEvent]:
        """What the connection's end means: the end of a close-delimited body, or an answer cut short."""
        events = self._events = []
        if self.dead:
            return events
        if clean and self._head is not None and self._head.body is Body.CLOSE:
            self._end(reusable=False)
        else:
            self._die("cut short" if self._begun or self.stage is not Stage.IDLE else "none")
        return events

    def _refuse(self, error: Exception) -> None:
        self.reusable = False
        if self.dead:
            return
        if isinstance(error.__context__, Refused):
            self.dead = True
            self._events.append(error.__context__.refusal)
        else:
            self._die(str(error))

    def _die(self, reason: str) -> None:
        self.dead = True
        self._events.append(Refusal(502, f"back end's answer: {reason}"))

    def _end(self, reusable: bool) -> None:
        self.dead = True
        self.reusable = reusable
        self._events.append(Mark.END)

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
            raise Refused(Refusal(502, "back end's answer: head too large"))

    def on_headers_complete(self) -> None:
        parser = self._parser
        status = parser.get_status_code()
        if self.dead or (100 <= status <= 199 and status != 101 and self._interim < _INTERIM_ANSWERS):
            self._interim += 1
            return
        head = read_response_head(status, self._reason, parser.get_http_version(), self._pairs, self._method, self._field_limit)
        self._head = head
        self.stage, self._waste = Stage.BODY, 0
        self._events.append(head)
        if head.body is Body.NONE:
            self._end(parser.should_keep_alive())

    def on_body(self, piece: bytes) -> None:
        if self.dead:
            self.reusable = False
            return
        self._body_size += len(piece)
        self._events.append(piece)

    def on_message_complete(self) -> None:
        if not self.dead and self._head is not None:
            self._end(self._parser.should_keep_alive())
