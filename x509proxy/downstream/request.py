"""One request on a client's connection: its body as it arrives, and its response.

The body is held until it is complete, or until it is so large that it has to be streamed
(``request-buffer-bytes``). A request that is malformed up to there sends nothing to a back end
(invariant L3), and a slow client occupies no connection to one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from x509proxy.downstream.base_request import BaseRequest
from x509proxy.downstream.client_progress import FIRST_FLIGHT
from x509proxy.exchange import Observer, Outcome
from x509proxy.http1.body import LAST_CHUNK, write_chunk
from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.http1.fields import Framing, Pairs
from x509proxy.http1.messages import RequestHead
from x509proxy.http1.request_id import REQUEST_ID
from x509proxy.http1.response_writer import write_response_head

if TYPE_CHECKING:
    from x509proxy.downstream.channel import Channel

__all__ = ["Request", "RequestHandler"]

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestHandler(Protocol):
    """The application, which responds to requests. ``observe`` receives each exchange's record."""

    observe: Observer

    def serve(self, request: Request) -> None:
        """Respond to the request, now or later, by its methods."""


class Request(BaseRequest):
    """A request on a connection of the proxy's own.

    ``body_complete``: no more of the body will arrive; ``error``: the response to a request that
    was malformed before its turn came.
    """

    __slots__ = (
        "_channel", "_chunked", "_held", "_hold_bytes", "_paused", "_streams", "_unsent", "_waits",
        "body_complete", "error",
    )  # fmt: skip

    def __init__(self, head: RequestHead, channel: Channel, request_buffer_bytes: int) -> None:
        super().__init__(head, channel.client, channel.observe, channel.now)
        self.error: ErrorResponse | None = None
        self.body_complete = False
        self._channel = channel
        self._hold_bytes = request_buffer_bytes
        # A bytearray: a body may come two bytes at a time, and a list takes 56 bytes for each.
        self._held = bytearray()
        self._paused = False
        self._waits = False
        self._streams = False
        self._chunked = False
        self._unsent: list[bytes] = []

    # The body, from the client.

    @property
    def wants_more(self) -> bool:
        """True if the body should be read on: there is room, and the back end keeps up."""
        return not self._paused and (self._streams or len(self._held) < self._hold_bytes)

    @property
    def held(self) -> int:
        """The number of the body's octets that have arrived and have not been taken."""
        return len(self._held)

    def receive(self, data: bytes) -> None:
        """Take a piece of the body."""
        self.bytes_in += len(data)
        if self._streams and self.consumer is not None:
            self.consumer.body_data(data)
        else:
            self._held += data

    def receive_end(self) -> None:
        """Take the body's end."""
        self.body_complete = True
        if self._streams and self.consumer is not None:
            self.consumer.body_end()

    def accept(self) -> None:
        """Call the consumer's ``request_ready`` when the body is complete or has to be streamed."""
        self._waits = True
        if self.head.expects_continue and not self.body_complete and not self._held:
            self._channel.send(_CONTINUE)
        self.check_ready()

    def check_ready(self) -> None:
        """Call ``request_ready`` after a batch of events, in which an error comes first."""
        if self._waits and (self.body_complete or len(self._held) >= self._hold_bytes):
            self._waits = False
            assert self.consumer is not None
            self.consumer.request_ready()

    def take_body(self) -> bytes:
        """Return the octets that are held. No other arrives before :meth:`stream_body`."""
        body, self._held = bytes(self._held), bytearray()
        return body

    def stream_body(self) -> None:
        """Let the rest of the body, and its end, go to the consumer: now, and as they arrive."""
        assert self.consumer is not None
        if self.body_complete:
            self.consumer.body_end()
        else:
            self._streams = True
            self._channel.body_moved()

    def pause_body(self) -> None:
        """Pause the body: the back end is slower than the client."""
        self._paused = True
        self._channel.body_moved()

    def resume_body(self) -> None:
        """Resume the body."""
        self._paused = False
        self._channel.body_moved()

    # The response, to the client.

    def answer(self, error: ErrorResponse) -> None:
        """Send an error response, whole."""
        self.code, self.detail = error.code, error.detail
        body = error.body
        # Nothing more is read from a client that has sent what is rejected (L3); a failure of the
        # back end is not the client's.
        is_clients = error.status < 500
        self._write_head(
            error.status, b"", error.pairs, Framing.LENGTH, len(body), is_last=is_clients
        )
        if self.head.method != b"HEAD":
            self.write(body)
        self._finish(Outcome.REJECTED)

    def begin(self, status: int, reason: bytes, pairs: Pairs, body: Framing, length: int) -> None:
        """Begin a back end's response; ``pairs`` without framing, ``length`` -1 if unknown."""
        if body is Framing.NONE and length >= 0:
            body = Framing.LENGTH
        elif body in (Framing.CHUNKED, Framing.CLOSE):
            body = Framing.CHUNKED if self.head.version == "1.1" else Framing.CLOSE
        self._write_head(status, reason, pairs, body, length, is_last=body is Framing.CLOSE)
        # Only now: if that failed, an error response with a length takes its place.
        self._chunked = body is Framing.CHUNKED
        if self._channel.blocked and self.consumer is not None:
            self.consumer.pause_response()

    def write(self, data: bytes) -> None:
        """Add a piece of the body, which :meth:`flush` sends; an empty chunk would end the body."""
        self.bytes_out += len(data)
        self._unsent.append(write_chunk(data) if self._chunked else data)

    def finish(self) -> None:
        """End the response."""
        if self._chunked:
            self._unsent.append(LAST_CHUNK)
        self._finish(Outcome.COMPLETED)

    def flush(self) -> None:
        """Send what has been written: a head and a short body are one TLS record, one packet."""
        if self._unsent and not self.ended:
            data, self._unsent = b"".join(self._unsent), []
            self._channel.send(data)

    def abort(self, code: Code, detail: str) -> None:
        """Cut the connection, so that the client does not take the response for complete."""
        if not self.ended:
            self.lost(code, detail)
            self._channel.cut()

    def fail(self, error: ErrorResponse) -> None:
        """Reject the request if no response has begun, else cut the connection."""
        if self.ended:
            return
        self._leave_consumer()
        if self.begun:
            self.abort(error.code, error.detail)
        else:
            self.answer(error)

    def _leave_consumer(self) -> None:
        self._streams = self._waits = False
        super()._leave_consumer()

    def _write_head(
        self,
        status: int,
        reason: bytes,
        pairs: Pairs,
        body: Framing,
        length: int,
        *,
        is_last: bool,
    ) -> None:
        own = [(REQUEST_ID, self.request_id)]
        if not self._channel.stays_open(self, is_last=is_last):
            own.append((b"Connection", b"close"))
        elif self.head.version == "1.0":
            own.append((b"Connection", b"keep-alive"))
        self._unsent.append(
            write_response_head(status, reason, pairs, own, body, length, time.time)
        )
        self.begun, self.status = True, status

    def _finish(self, outcome: Outcome) -> None:
        if self.ended:
            return
        self.consumer = None
        self._streams = self._waits = False
        data, self._unsent = b"".join(self._unsent), []
        # Before it is recorded: to count and log a forged header takes longer, and the client must
        # not be able to measure that (L4). Medians were 910 us for the right name, and 513 us for
        # others.
        self._channel.send_last(data)
        # A connection that was lost during the write has recorded the exchange already.
        if not self.ended:
            # The connection reports a large response when the client has it.
            is_large = outcome is Outcome.COMPLETED and self.bytes_out > FIRST_FLIGHT
            self.record(outcome, self._channel.confirm if is_large else None)
            try:
                self._channel.answered()
            except Exception:
                # What follows this response must not reach its back end's connection.
                self._log.failure("a connection could not go on with its next request")
                self._channel.cut()
