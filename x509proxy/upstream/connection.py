"""HTTP/1.1 connection to a back end: one exchange at a time, deadlines, back-pressure both ways.

Facts
-----
* The back end may have closed a pooled connection while it was idle. Idle connections are read all
  the time, and checked once more before use. A request that has been written is never sent again,
  since nothing shows how far the back end has processed it.
* Over TLS a connection is lent when its handshake is complete. The header must not be written to a
  server whose certificate has not been verified (RFC 9440 section 4: this hop "needs to be
  secured").
* Any irregularity of a response ends the connection: octets after its end, framing of two kinds,
  ``Connection: close``.
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
from x509proxy.transport import own_connections
from x509proxy.transport.deadlines import NEVER, Deadlines
from x509proxy.transport.direct_writer import DirectWriter
from x509proxy.upstream.endpoints import PendingInput, UnreadInput, connect
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

# The process or the machine has run out of a resource; the back end is not at fault.
_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
_INTERNAL_ERROR = ErrorResponse(Code.INTERNAL_ERROR, "internal error")
_CONNECT_TIMEOUT = ErrorResponse(Code.CONNECT_TIMEOUT, "timed out connecting to the back end")
# Octets that the back end sent, and that were not read, while a body was written.
_MAX_UNREAD = 262144


class ConnectionOwner(Interface):
    """The opener of a connection: a pool, or a health check.

    ``exchanges``: the number of successful exchanges on all of its connections. Either ``opened``
    or ``failed`` ends an attempt to connect. ``served``: an exchange has ended with a complete
    response; ``faulted``: it has failed, and not by its client's fault. ``release``: the connection
    can serve another exchange. ``lost``: it cannot.
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

    ``begun_at``: the time of the connection attempt. ``expires``: the time after which the pool
    lends it no more. ``paused_at``: the time when the client of the response stopped reading,
    ``math.inf`` while it reads.
    """

    # TCP, unix or TLS: ITransport, IConsumer and IPushProducer at once, and abortConnection.
    transport: Any = None
    _writer: DirectWriter
    _input: PendingInput
    _log = Logger()

    def __init__(self, pool: ConnectionOwner, endpoint: IStreamClientEndpoint) -> None:
        self.deadline = NEVER
        self._pool = pool
        self._endpoint = endpoint
        self._settings = pool.settings
        self._now = pool.deadlines.clock.seconds
        self.begun_at = self._now()
        # Spread out: connections opened in one burst should not expire together.
        age = self._settings.max_connection_age * random.uniform(0.9, 1.0)  # noqa: S311 - no secret
        self.expires = self.begun_at + age
        self._state = OPENING
        self._attempt: Deferred[Any] | None = None
        self._key: tuple[str, int, str, int] | None = None
        self._handler: ResponseHandler | None = None
        self._parser: ResponseParser | None = None
        self._request_ended = self._request_paused = self._was_paused = False
        self.paused_at = math.inf
        self._exchanges_before = 0
        # While a body is streamed.
        self._unread: UnreadInput | None = None

    # The pool's calls.

    def open(self) -> None:
        """Connect; the pool's ``opened`` or ``failed`` is called within ``connect_timeout``.

        The time includes the TLS handshake.
        """
        self._restart_timeout()
        self._pool.deadlines.watch(self)
        self._attempt = attempt = maybeDeferred(connect, self._endpoint, self)
        # Its result would be this connection: a reference cycle.
        attempt.addCallbacks(lambda _: None, self._connect_failed).addErrback(self._not_reported)

    def mark_idle(self) -> None:
        """Wait for the next exchange."""
        self._state = IDLE
        ends = self._now() + self._settings.idle_timeout
        self.deadline = min(self.expires, ends)

    def close(self) -> None:
        """Close it when all is written, within ``read_timeout``; the pool drops it at once."""
        self._mark_closed()
        self.transport.loseConnection()

    def is_open(self) -> bool:
        """Return false if the back end closed the idle connection or sent unrequested octets."""
        return self._input.is_empty()

    # The relay's calls.

    def send(self, method: bytes, data: bytes, handler: ResponseHandler) -> None:
        """Send a whole request, its body included, and wait for the response."""
        self._begin_exchange(method, handler)
        self._request_ended = True
        self._state = AWAITING
        self.deadline = self._now() + self._settings.response_timeout
        self._writer.write(data)

    def send_head(self, method: bytes, data: bytes, handler: ResponseHandler) -> None:
        """Send a head with the first octets of its body.

        :meth:`body_data` and :meth:`body_end` follow.
        """
        self._begin_exchange(method, handler)
        self._request_ended = False
        self._state = SENDING
        self._restart_timeout()
        self._unread = UnreadInput(self.transport)
        self._writer.register(self)
        self._writer.write(data)

    def _end_stream(self) -> None:
        """End a streamed body, complete or not: the transport does not pause it any more."""
        if self._unread is not None:
            self._unread.forget()
            self._unread = None
            self._writer.unregister()

    def _begin_exchange(self, method: bytes, handler: ResponseHandler) -> None:
        self._handler = handler
        self._parser = ResponseParser(method, self._settings)
        self._request_paused = self._was_paused = False
        self.paused_at = math.inf
        self._exchanges_before = self._pool.exchanges

    def retire(self) -> None:
        """Make this exchange the connection's last: the pool lends it to no other client."""
        self.expires = -math.inf

    def body_data(self, data: bytes) -> None:
        """Send a piece of the request's body, framed."""
        if self._handler is not None:
            self._writer.write(data)

    def body_end(self) -> None:
        """End the request's body, and wait for the response."""
        self._end_stream()
        self._request_ended = True
        if self._state is SENDING:
            self._state = AWAITING
            self._exchanges_before = self._pool.exchanges
            self._restart_timeout()

    def pause_response(self) -> None:
        """Stop reading, because the client of the response does not read."""
        self._was_paused = True
        self.paused_at = min(self.paused_at, self._now())
        self._restart_timeout()
        self.transport.pauseProducing()

    def resume_response(self) -> None:
        """Continue to read."""
        if self.paused_at < math.inf:
            self.paused_at = math.inf
            self._restart_timeout()
            self.transport.resumeProducing()

    def give_up(self, error: ErrorResponse) -> None:
        """End the exchange in favour of waiting requests; the back end is not at fault."""
        self._fail(error, is_fault=False)

    def cancel(self) -> None:
        """End the exchange without a report, because its client has left.

        The connection cannot be used again.
        """
        self._handler = None
        self._abort()

    # Twisted calls.

    def connectionMade(self) -> None:
        self._key = own_connections.opened(self.transport)
        self._writer = DirectWriter(self.transport)
        self._input = PendingInput(self.transport)
        if self._state is CLOSED:
            self.transport.abortConnection()
        elif not ISSLTransport.providedBy(self.transport):
            self._pool.opened(self)

    def handshakeCompleted(self) -> None:
        # A rejected certificate ends in failVerification, which has aborted the transport by now.
        if self._state is OPENING and not self.transport.disconnecting:
            self._pool.opened(self)

    def dataReceived(self, data: bytes) -> None:
        if self._state is CLOSED:
            return
        if self._parser is None or self._handler is None:
            # There is no request.
            self._abort()
            return
        self._handle(self._parser, self._parser.feed(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        own_connections.closed(self._key)
        if self._state is OPENING:
            self._connect_failed(reason)
            return
        parser = self._parser
        if self._state in (SENDING, ANSWERING) and self._unread is not None and parser is not None:
            self._handle(parser, parser.feed(self._unread.take(_MAX_UNREAD)))
            parser = self._parser
        self._mark_closed()
        self._pool.deadlines.forget(self)
        try:
            if parser is not None:
                is_clean = reason.check(ConnectionDone) is not None
                self._handle(parser, parser.end_of_stream(clean=is_clean))
        finally:
            self._parser = None
            handler, self._handler = self._handler, None
            if handler is not None:
                # An exception: there is no other end that the handler could be told (L3).
                handler.response_failed(_INTERNAL_ERROR)

    def pauseProducing(self) -> None:
        if self._handler is not None:
            self._request_paused = True
            self._restart_timeout()
            self._handler.pause_request()

    def resumeProducing(self) -> None:
        if self._handler is not None:
            self._request_paused = False
            self._restart_timeout()
            self._handler.resume_request()

    def stopProducing(self) -> None:
        """Do nothing: ``connectionLost`` follows."""

    def expired(self) -> None:
        """Close the connection, or fail its exchange, because its deadline has passed."""
        if self._state is OPENING and self._attempt is not None:
            self._fail_opening(_CONNECT_TIMEOUT)
            self._attempt.cancel()
        elif self._state is IDLE:
            self.close()
        elif self._state is CLOSED:
            self.transport.abortConnection()
        else:
            is_fault = self._request_paused or self._serves_nothing()
            timeout = ErrorResponse(Code.BACKEND_TIMEOUT, "timed out waiting for the back end")
            self._fail(timeout, is_fault=is_fault)

    # Inside.

    def _handle(self, parser: ResponseParser, events: list[ResponseEvent]) -> None:
        """Forward the events, up to the response's end.

        The connection may then be lent to another exchange, which receives none of the remainder.
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
                # Fail closed (L3): the response is incomplete, and its client has to detect that.
                self._log.failure("cannot forward a response")
                if self._handler in (None, handler):
                    self._handler = None
                    self._abort()
                handler.response_failed(_INTERNAL_ERROR)
                return
        if parser is self._parser and self._handler is not None:
            if self._state is ANSWERING:
                self._restart_timeout()
            self._handler.response_flush()

    def _is_fault(self, error: ErrorResponse) -> bool:
        """Return true if a truncated or malformed response is not the client's fault.

        A back end may time out because the client sends its body slowly or does not read: Tomcat's
        ``connectionTimeout`` is 20 s.
        """
        waits_for_client = self._state is CLOSED and not (
            self._request_ended or self._request_paused
        )
        is_too_large = error.code is Code.RESPONSE_TOO_LARGE
        return not (waits_for_client or self._was_paused or is_too_large)

    def _serves_nothing(self) -> bool:
        """Return true if a timeout concerns the whole back end, not one slow resource.

        It has not begun this response, nor completed any other since this request was sent.
        """
        return self._state is AWAITING and self._pool.exchanges == self._exchanges_before

    def _end_exchange(self, parser: ResponseParser, handler: ResponseHandler) -> None:
        """End the exchange, and decide whether the connection is lent again.

        No other place decides that.
        """
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

    def _connect_failed(self, failure: Failure) -> None:
        if self._state is not OPENING:
            return
        error = failure.value
        if (
            isinstance(error, ConnectTimeout | TCPTimedOutError)
            or _os_error(error) == errno.ETIMEDOUT
        ):
            self._fail_opening(_CONNECT_TIMEOUT)
            return
        reason = f"cannot connect to the back end: {connect_reason(error)}"
        is_local = _os_error(error) in _SHORTAGES
        code = Code.OUT_OF_RESOURCES if is_local else Code.CONNECT_FAILED
        self._fail_opening(ErrorResponse(code, reason))

    def _not_reported(self, failure: Failure) -> None:
        # The deadline of the attempt is still to come, and reports again.
        self._log.failure("a failed connection could not be reported", failure)

    def _fail_opening(self, error: ErrorResponse) -> None:
        # First: if it raises, the attempt must not count as reported.
        self._pool.failed(self, error)
        self._state = CLOSED
        self._pool.deadlines.forget(self)
        if self.transport is not None:
            self.transport.abortConnection()

    def _abort(self) -> None:
        self._mark_closed()
        self._parser = None
        self.deadline = NEVER
        self.transport.abortConnection()

    def _mark_closed(self) -> None:
        """Accept no more exchanges; the pool drops the connection."""
        if self._state is not CLOSED:
            self._state = CLOSED
            self._restart_timeout()
            self._end_stream()
            self._pool.lost(self)

    def _restart_timeout(self) -> None:
        seconds = timeout_for(
            self._state, self._settings, self._request_paused, self.paused_at < math.inf
        )
        self.deadline = self._now() + seconds


def _os_error(error: BaseException | None) -> int | None:
    return getattr(error, "osError", None)
