"""One request on a client's connection: what was asked, its body as it comes, and the way to answer it.

A request's body is held until it is complete, or until so much has come that it has to be streamed (``request_buffer_bytes``): what
turns out malformed within that has cost the back end not one byte (invariant L3), and a slow client keeps no back end waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from x509proxy.downstream.base_request import BaseRequest
from x509proxy.downstream.client_progress import FIRST_FLIGHT
from x509proxy.exchange import Exchange, Observer, Outcome
from x509proxy.forwarding.client import Client
from x509proxy.http1.body import LAST_CHUNK, write_chunk
from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.http1.fields import Framing, Pairs, write_head
from x509proxy.http1.messages import RequestHead
from x509proxy.http1.request_id import REQUEST_ID
from x509proxy.http1.response_writer import date_value, status_line

__all__ = ["BodySink", "Request", "RequestHandler", "RequestTransport"]


class RequestTransport(Protocol):
    """The connection a request came on, as far as the request needs it."""

    client: Client
    observe: Observer
    blocked: bool

    def send(self, data: bytes) -> None: ...
    def may_stay_open(self) -> bool: ...
    def body_moved(self) -> None: ...
    def confirm(self, exchange: Exchange) -> None: ...
    def answered(self, stays_open: bool) -> None: ...
    def cut(self) -> None: ...
    def now(self) -> float: ...


class BodySink(Protocol):
    """Where a request's body goes."""

    def body_data(self, data: bytes) -> None: ...
    def body_end(self) -> None: ...


class Request(BaseRequest):
    """A request on a connection of ours."""

    __slots__ = (
        "_chunked", "_held", "_hold_bytes", "_paused", "_ready", "_sink", "_stays_open", "_unsent", "_wire", "body_complete",
        "refusal",
    )  # fmt: skip

    def __init__(
        self, head: RequestHead, wire: RequestTransport, request_buffer_bytes: int
    ) -> None:
        super().__init__(head, wire.client, wire.observe, wire.now)
        self.refusal: ErrorResponse | None = None
        self.body_complete = False
        self._wire = wire
        self._hold_bytes = request_buffer_bytes
        # Not a list of pieces: a body may come two bytes at a time, and each piece would take 56.
        self._held = bytearray()
        self._paused = False
        self._ready: Callable[[], None] | None = None
        self._sink: BodySink | None = None
        self._chunked = False
        self._stays_open = False
        self._unsent: list[bytes] = []

    # The body, on its way in.

    @property
    def wants_more(self) -> bool:
        """Whether the body should be read on: not while as much is held as may be, nor while the back end is slow."""
        return not self._paused and (self._sink is not None or len(self._held) < self._hold_bytes)

    def receive(self, data: bytes) -> None:
        """A piece of the body."""
        self.bytes_in += len(data)
        if self._sink is not None:
            self._sink.body_data(data)
        else:
            self._held += data

    def receive_end(self) -> None:
        """The body's end."""
        self.body_complete = True
        if self._sink is not None:
            self._sink.body_end()

    def accept(self, ready: Callable[[], None]) -> None:
        """The head is welcome: ``ready`` is called once the body is complete, or large enough to be streamed."""
        self._ready = ready
        if self.head.expects_continue and not self.body_complete and not self._held:
            self._wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.check_ready()

    def check_ready(self) -> None:
        """Called after each batch of events, not after each event: a fault in the same batch comes first."""
        if self._ready is not None and (self.body_complete or len(self._held) >= self._hold_bytes):
            ready, self._ready = self._ready, None
            ready()

    @property
    def held(self) -> int:
        """How many bytes of the body have come and not been handed on."""
        return len(self._held)

    def stream_to(self, sink: BodySink) -> None:
        """Hand on what is held, and whatever comes from now on."""
        held, self._held = bytes(self._held), bytearray()
        if held:
            sink.body_data(held)
        if self.body_complete:
            sink.body_end()
        else:
            self._sink = sink
            self._wire.body_moved()

    def pause_body(self) -> None:
        """The sink has enough for now."""
        self._paused = True
        self._wire.body_moved()

    def resume_body(self) -> None:
        """The sink can take more."""
        self._paused = False
        self._wire.body_moved()

    # The answer, on its way out.

    def answer(self, refusal: ErrorResponse) -> None:
        """The proxy's own answer, whole."""
        self.code, self.detail = refusal.code, refusal.detail
        body = refusal.body
        # A client that sent what is refused is not listened to any more (L3); a back end's failure is not the client's.
        self._write_head(
            refusal.status, b"", refusal.pairs, Framing.LENGTH, len(body), refusal.status >= 500
        )
        if self.head.method != b"HEAD":
            self._send(body)
        self._finish(Outcome.REJECTED)

    def begin(self, status: int, reason: bytes, pairs: Pairs, body: Framing, length: int) -> None:
        """The head of a back end's answer; ``pairs`` without framing; ``length`` -1 if unknown."""
        if body is Framing.NONE and length >= 0:
            body = Framing.LENGTH
        elif body in (Framing.CHUNKED, Framing.CLOSE):
            body = Framing.CHUNKED if self.head.version == "1.1" else Framing.CLOSE
        self._chunked = body is Framing.CHUNKED
        self._write_head(status, reason, pairs, body, length, body is not Framing.CLOSE)
        if self._wire.blocked and self.source is not None:
            self.source.pause_response()

    def write(self, data: bytes) -> None:
        """A piece of the answer's body, not empty: an empty chunk would be its end. It goes out with :meth:`flush`."""
        self._send(write_chunk(data) if self._chunked else data, len(data))

    def finish(self) -> None:
        """The answer's end."""
        if self._chunked:
            self._send(LAST_CHUNK, 0)
        self._finish(Outcome.COMPLETED)

    def abort(self, code: Code, detail: str) -> None:
        """The answer cannot be completed: the client must see that, so the connection is cut."""
        if not self.ended:
            self.lost(code, detail)
            self._wire.cut()

    def fail(self, refusal: ErrorResponse) -> None:
        """The body turned out unfit, or does not come: refuse the request if that can still be said, else cut it."""
        if self.ended:
            return
        self._leave_source()
        if self.begun:
            self.abort(refusal.code, refusal.detail)
        else:
            self.answer(refusal)

    def _leave_source(self) -> None:
        self._sink = self._ready = None
        super()._leave_source()

    def _write_head(
        self, status: int, reason: bytes, pairs: Pairs, body: Framing, length: int, stays_open: bool
    ) -> None:
        self._stays_open = (
            stays_open
            and self.body_complete
            and self.head.keep_alive
            and self._wire.may_stay_open()
        )
        ours = []
        if b"date" not in [name.lower() for name, _ in pairs]:
            ours.append((b"Date", date_value(int(time.time()))))
        ours.append((REQUEST_ID, self.request_id))
        if not self._stays_open:
            ours.append((b"Connection", b"close"))
        elif self.head.version == "1.0":
            ours.append((b"Connection", b"keep-alive"))
        head = write_head(status_line(status, reason), [*pairs, *ours], body, length)
        self.begun, self.status = True, status
        self._send(head, 0)

    def _send(self, data: bytes, counted: int | None = None) -> None:
        self.bytes_out += len(data) if counted is None else counted
        self._unsent.append(data)

    def flush(self) -> None:
        """Send what has been said so far: a head and a short body are one write, one TLS record, one packet."""
        unsent, self._unsent = self._unsent, []
        if unsent and not self.ended:
            self._wire.send(b"".join(unsent))

    def _finish(self, outcome: Outcome) -> None:
        if self.ended:
            return
        self.source = self._sink = self._ready = None
        # Before it is recorded: to count and log a forged header takes longer, and the client must
        # not be able to measure that (L4). Medians were 910 us for the right name, 513 us for others.
        self.flush()
        # Unless the connection was lost as this was sent; that has been recorded then.
        if not self.ended:
            # The connection reports a large response when the client has it.
            is_large = outcome is Outcome.COMPLETED and self.bytes_out > FIRST_FLIGHT
            self.record(outcome, self._wire.confirm if is_large else None)
            self._wire.answered(self._stays_open)


class RequestHandler(Protocol):
    """Whatever answers requests; ``observe`` is told of each exchange's end."""

    observe: Observer

    def serve(self, request: Request) -> None:
        """Answer it, now or later, by its methods."""
