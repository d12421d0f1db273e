"""One connection to a back end in HTTP/1.1: one exchange at a time, deadlines, back-pressure both ways.

Facts
-----
* The back end may have closed a pooled connection while it was idle. Such a connection is read all
  the time, and checked once more before use. A request that has been written is never sent again,
  since nothing shows how far the back end has processed it.
* Over TLS a connection is lent when its handshake is complete. The header must not be written to a
  server whose certificate has not been verified (RFC 9440 section 4: this hop "needs to be
  secured").
* Whatever is irregular about a response ends the connection: octets after its end, framing of two
  kinds, ``Connection: close``.
"""

from __future__ import annotations

import errno
import math
import random
from typing import Any
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone, TCPTimedOutError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import (
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.http1.messages import END, ResponseHead
from x509proxy.http1.response_parser import ResponseEvent, ResponseHandler, ResponseParser
from x509proxy.monitoring.reason_codes import connect_reason
from x509proxy.settings import UpstreamSettings
from x509proxy.transport.deadlines import NEVER, Deadlines
from x509proxy.upstream.endpoints import PendingInput, connect
from x509proxy.upstream.request_writer import RequestWriter
from x509proxy.upstream.timeouts import (
    ANSWERING,
    AWAITING,
    CLOSED,
    IDLE,
    OPENING,
    SENDING,
    timeout_for,
)

__all__ = ["Connection", "ConnectionOwner"]

# The process or the machine has run out of these; the back end is not at fault.
_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
_TOO_LATE = ErrorResponse(Code.CONNECT_TIMEOUT, "the back end could not be connected to in time")


class ConnectionOwner(Interface):
    """The opener of a connection: a pool, or a health check.

    ``exchanges``: how many have gone well on all of its connections.
    """

    settings: UpstreamSettings
    deadlines: Deadlines
    exchanges: int

    def opened(self, connection: Connection) -> None: ...
    def failed(self, connection: Connection, error: ErrorResponse) -> None: ...
    def served(self, connection: Connection) -> None: ...
    def faulted(self, connection: Connection, error: ErrorResponse) -> None: ...
    def release(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


@implementer(IHandshakeListener, IPushProducer)
class Connection(Protocol):
    """One connection to a back end.

    ``born``: when it was begun; ``expires``: from when on it is lent to no other exchange;
    ``paused_at``: when the client of the response stopped reading, ``math.inf`` while it reads.
    """

    # TCP, unix or TLS: ITransport, IConsumer and IPushProducer at once, and abortConnection.
    transport: Any = None
    _writer: RequestWriter
    _input: PendingInput
    _log = Logger()

    def __init__(self, pool: ConnectionOwner, endpoint: IStreamClientEndpoint) -> None:
        self.deadline = NEVER
        self._pool = pool
        self._endpoint = endpoint
        self._settings = pool.settings
        self._now = pool.deadlines.clock.seconds
        self.born = self._now()
        # Not at one time for all those that a burst has opened.
        self.expires = self.born + self._settings.max_connection_age * random.uniform(0.9, 1.0)  # noqa: S311 - no secret
        self._state = OPENING
        self._attempt: Deferred[Any] | None = None
        self._handler: ResponseHandler | None = None
        self._parser: ResponseParser | None = None
        self._request_ended = self._request_paused = self._was_paused = False
        self.paused_at = math.inf
        self._served_before = 0

    # The pool's calls.

    def open(self) -> None:
        """Connect; the pool's ``opened`` or ``failed`` says how it went, within ``connect_timeout``, TLS included."""
        self._wait_anew()
        self._pool.deadlines.watch(self)
        self._attempt = attempt = maybeDeferred(connect, self._endpoint, self)
        # It results in this connection: a cycle, were it kept.
        attempt.addCallbacks(lambda _: None, self._not_opened)

    def rest(self) -> None:
        """Wait for the next exchange."""
        self._state = IDLE
        ends = self._now() + self._settings.idle_timeout
        self.deadline = min(self.expires, ends)

    def close(self) -> None:
        """End it, politely, but within ``read_timeout``; the pool forgets it at once."""
        self._shut()
        self.transport.loseConnection()

    def is_open(self) -> bool:
        """Return false if the back end has closed the idle connection, or sent what nothing asked for."""
        return self._input.is_empty()

    # The relay's calls.

    def send(self, method: bytes, data: bytes, handler: ResponseHandler) -> None:
        """Send a whole request, its body included, and wait for the response."""
        self._begin(method, handler)
        self._request_ended = True
        self._await_response()
        self._writer.write(data)

    def send_head(self, method: bytes, data: bytes, handler: ResponseHandler) -> None:
        """Send a head with the first octets of its body; :meth:`body_data` and :meth:`body_end` follow."""
        self._begin(method, handler)
        self._request_ended = False
        self._state = SENDING
        self._wait_anew()
        self._writer.begin(self)
        self._writer.write(data)

    def _begin(self, method: bytes, handler: ResponseHandler) -> None:
        self._handler = handler
        self._parser = ResponseParser(method, self._settings)
        self._request_paused = self._was_paused = False
        self.paused_at = math.inf

    def _await_response(self) -> None:
        self._state = AWAITING
        self._served_before = self._pool.exchanges
        self._wait_anew()

    def retire(self) -> None:
        """Make this exchange the connection's last: the pool lends it to no other client."""
        self.expires = -math.inf

    def body_data(self, data: bytes) -> None:
        """Send a piece of the request's body, framed."""
        if self._handler is not None:
            self._writer.write(data)

    def body_end(self) -> None:
        """End the request's body, and wait for the response."""
        self._writer.release()
        self._request_ended = True
        if self._state is SENDING:
            self._await_response()

    def pause_response(self) -> None:
        """Stop reading: the client of the response does not read."""
        self._was_paused = True
        self.paused_at = min(self.paused_at, self._now())
        self._wait_anew()
        self.transport.pauseProducing()

    def resume_response(self) -> None:
        """Read on."""
        if self.paused_at < math.inf:
            self.paused_at = math.inf
            self._wait_anew()
            self.transport.resumeProducing()

    def give_up(self, error: ErrorResponse) -> None:
        """End the exchange for the sake of others; the back end is not at fault."""
        self._fail(error, is_fault=False)

    def cancel(self) -> None:
        """End the exchange without a report: its client has left. The connection cannot be used again."""
        self._handler = None
        self._abort()

    # Twisted calls.

    def connectionMade(self) -> None:
        self._writer = RequestWriter(self.transport)
        self._input = PendingInput(self.transport)
        if self._state is CLOSED:
            self.transport.abortConnection()
        elif not ISSLTransport.providedBy(self.transport):
            self._pool.opened(self)

    def handshakeCompleted(self) -> None:
        # A certificate that was not accepted ends in failVerification, which has aborted the transport by now.
        if self._state is OPENING and not self.transport.disconnecting:
            self._pool.opened(self)

    def dataReceived(self, data: bytes) -> None:
        if self._state is CLOSED:
            return
        if self._parser is None or self._handler is None:
            # Nothing has been asked for.
            self._abort()
            return
        self._handle(self._parser, self._parser.feed(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._state is OPENING:
            self._not_opened(reason)
            return
        parser = self._parser
        if self._state in (SENDING, ANSWERING) and (unread := self._writer.unread()) and parser:
            self._handle(parser, parser.feed(unread))
            parser = self._parser
        self._shut()
        self._pool.deadlines.forget(self)
        if parser is not None:
            is_clean = reason.check(ConnectionDone) is not None
            self._handle(parser, parser.end_of_stream(clean=is_clean))
            self._parser = None

    def pauseProducing(self) -> None:
        if self._handler is not None:
            self._request_paused = True
            self._wait_anew()
            self._handler.pause_request()

    def resumeProducing(self) -> None:
        if self._handler is not None:
            self._request_paused = False
            self._wait_anew()
            self._handler.resume_request()

    def stopProducing(self) -> None:
        """The transport is going; ``connectionLost`` says so."""

    def expired(self) -> None:
        """Whatever was waited for does not come."""
        if self._state is OPENING and self._attempt is not None:
            self._fail_opening(_TOO_LATE)
            self._attempt.cancel()
        elif self._state is IDLE:
            self.close()
        elif self._state is CLOSED:
            self.transport.abortConnection()
        else:
            is_fault = self._request_paused or self._serves_nothing()
            late = ErrorResponse(Code.BACKEND_TIMEOUT, "the back end did not go on in time")
            self._fail(late, is_fault=is_fault)

    # Inside.

    def _handle(self, parser: ResponseParser, events: list[ResponseEvent]) -> None:
        """Hand the events on, up to the response's end.

        After it the connection may have been lent to another exchange, which gets none of the rest.
        """
        for event in events:
            handler = self._handler
            if handler is None or parser is not self._parser:
                return
            try:
                if event is END:
                    self._end_exchange(parser, handler)
                elif isinstance(event, bytes):
                    handler.response_data(event)
                elif isinstance(event, ResponseHead):
                    self._state = ANSWERING
                    handler.response_head(event)
                else:
                    self._fail(event, is_fault=self._is_fault(event))
            except Exception:
                # Fail closed (L3): the response is incomplete, and its client has to notice that.
                self._log.failure("a response could not be forwarded")
                if self._handler in (None, handler):
                    self._handler = None
                    self._abort()
                handler.response_failed(ErrorResponse(Code.INTERNAL_ERROR, "internal error"))
                return
        if parser is self._parser and self._handler is not None:
            if self._state is ANSWERING:
                self._wait_anew()
            self._handler.response_flush()

    def _is_fault(self, error: ErrorResponse) -> bool:
        """Return true for a response, cut short or malformed, that tells of the back end and not of the client.

        A back end may have lost its patience with a client whose next piece was waited for, or that did not read: Tomcat's
        ``connectionTimeout`` is 20 s.
        """
        waits_for_client = self._state is CLOSED and not (
            self._request_ended or self._request_paused
        )
        is_too_large = error.code is Code.RESPONSE_TOO_LARGE
        return not (waits_for_client or self._was_paused or is_too_large)

    def _serves_nothing(self) -> bool:
        """Return true for a timeout that tells of the back end, and not of one resource such as a slow report.

        It has not begun this response, nor ended any other since this one was asked for.
        """
        return self._state is AWAITING and self._pool.exchanges == self._served_before

    def _end_exchange(self, parser: ResponseParser, handler: ResponseHandler) -> None:
        """End the exchange, and decide, here alone, whether the connection is lent again."""
        self._handler = self._parser = None
        if self.paused_at < math.inf:
            self.resume_response()
        self._pool.served(self)
        if not self._request_ended:
            # The response came early, and the back end may never read the rest of the request.
            self._abort()
        elif parser.reusable and self.expires > self._now():
            self._pool.release(self)
        else:
            self.close()
        handler.response_end()

    def _fail(self, error: ErrorResponse, *, is_fault: bool) -> None:
        handler, self._handler = self._handler, None
        if is_fault:
            self._pool.faulted(self, error)
        self._abort()
        assert handler is not None
        handler.response_failed(error)

    def _not_opened(self, failure: Failure) -> None:
        if self._state is not OPENING:
            return
        error = failure.value
        if (
            isinstance(error, ConnectTimeout | TCPTimedOutError)
            or _number(error) == errno.ETIMEDOUT
        ):
            self._fail_opening(_TOO_LATE)
            return
        reason = f"the back end could not be connected to: {connect_reason(error)}"
        is_ours = _number(error) in _SHORTAGES
        code = Code.OUT_OF_RESOURCES if is_ours else Code.CONNECT_FAILED
        self._fail_opening(ErrorResponse(code, reason))

    def _fail_opening(self, error: ErrorResponse) -> None:
        self._state = CLOSED
        self._pool.deadlines.forget(self)
        if self.transport is not None:
            self.transport.abortConnection()
        self._pool.failed(self, error)

    def _abort(self) -> None:
        self._shut()
        self._parser = None
        self.deadline = NEVER
        self.transport.abortConnection()

    def _shut(self) -> None:
        """No more exchanges; the pool forgets it."""
        if self._state is not CLOSED:
            self._state = CLOSED
            self._wait_anew()
            self._writer.release()
            self._pool.lost(self)

    def _wait_anew(self) -> None:
        seconds = timeout_for(
            self._state, self._settings, self._request_paused, self.paused_at < math.inf
        )
        self.deadline = self._now() + seconds


def _number(error: BaseException | None) -> int | None:
    return getattr(error, "osError", None)
