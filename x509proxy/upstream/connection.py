"""The back end's side of HTTP/1.1: one connection, one exchange at a time, deadlines, and back-pressure both ways.

Facts
-----
* A pooled connection may have been closed by the back end while it was idle. It is read all the time, and looked at once more
  before use; a request that has been written is never sent again, since nobody knows what has been done with it.
* Over TLS the handshake is waited for before a connection is lent: the header must not be written to a server whose
  certificate has not been verified (RFC 9440 section 4: this hop "needs to be secured").
* Whatever is odd about an answer costs the connection: bytes after its end, framing of two kinds, ``Connection: close``.
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
from x509proxy.upstream.endpoints import connect
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

# What this process or this machine has run out of; a back end is no better or worse for it.
_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
_TOO_LATE = ErrorResponse(Code.CONNECT_TIMEOUT, "the back end could not be connected to in time")


class ConnectionOwner(Interface):
    """Whose connection it is (:mod:`x509proxy.upstream.pool`), and what it wants to hear of it.

    ``exchanges``: how many have gone well on all of its connections.
    """

    settings: UpstreamSettings
    deadlines: Deadlines
    exchanges: int

    def opened(self, connection: Connection) -> None: ...
    def failed(self, connection: Connection, refusal: ErrorResponse) -> None: ...
    def served(self, connection: Connection) -> None: ...
    def faulted(self, connection: Connection, refusal: ErrorResponse) -> None: ...
    def release(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


@implementer(IHandshakeListener, IPushProducer)
class Connection(Protocol):
    """One connection to a back end. ``born``, ``expires``: when it was begun, and from when on nobody else is lent it.

    ``paused_at``: since when the client of the response has not read, ``math.inf`` if it does.
    """

    # TCP, unix or TLS: ITransport, IConsumer and IPushProducer at once, and abortConnection.
    transport: Any = None
    _outgoing: RequestWriter
    _log = Logger()

    def __init__(self, pool: ConnectionOwner, endpoint: IStreamClientEndpoint) -> None:
        self.deadline = NEVER
        self._pool = pool
        self._endpoint = endpoint
        self._settings = pool.settings
        self._clock = pool.deadlines.clock
        self.born = self._clock.seconds()
        # Not at one time for all those that a burst has opened.
        self.expires = self.born + self._settings.max_connection_age * random.uniform(0.9, 1.0)  # noqa: S311 - no secret
        self._state = OPENING
        self._attempt: Deferred[Any] | None = None
        self._taker: ResponseHandler | None = None
        self._reader: ResponseParser | None = None
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
        self._wait_anew()
        self.deadline = min(self.deadline, self.expires)

    def close(self) -> None:
        """End it, politely, but within ``read_timeout``; the pool forgets it at once."""
        self._shut()
        self.transport.loseConnection()

    # The borrower's calls.

    def send(self, method: bytes, head: bytes, taker: ResponseHandler, whole: bool) -> None:
        """Begin an exchange. ``whole``: no body will follow by :meth:`body_data` that is not written in this turn."""
        self._taker = taker
        self._reader = ResponseParser(method, self._settings)
        self._state = SENDING
        self._request_ended = self._request_paused = self._was_paused = False
        self.paused_at = math.inf
        if not whole:
            self._wait_anew()
        self._outgoing.begin(head, None if whole else self)

    def retire(self) -> None:
        """Make this exchange the connection's last: the pool lends it to no other client."""
        self.expires = -math.inf

    def body_data(self, data: bytes) -> None:
        """A piece of the request's body, framed."""
        if self._taker is not None:
            self._outgoing.write(data)

    def body_end(self) -> None:
        """The request is complete: from now on its answer is waited for."""
        self._outgoing.end()
        self._request_ended = True
        if self._state is SENDING:
            self._state = AWAITING
            self._served_before = self._pool.exchanges
            self._wait_anew()

    def pause_response(self) -> None:
        """The client reads too slowly."""
        self._was_paused = True
        self.paused_at = min(self.paused_at, self._clock.seconds())
        self._wait_anew()
        self.transport.pauseProducing()

    def resume_response(self) -> None:
        """It reads again."""
        if self.paused_at < math.inf:
            self.paused_at = math.inf
            self._wait_anew()
            self.transport.resumeProducing()

    def give_up(self, refusal: ErrorResponse) -> None:
        """End the exchange for the sake of others; the back end is not at fault."""
        self._fail(refusal, is_fault=False)

    def cancel(self) -> None:
        """The exchange is off: nobody waits for its answer, and the connection is no good to anybody else."""
        self._taker = None
        self._abort()

    # Twisted calls.

    def connectionMade(self) -> None:
        self._outgoing = RequestWriter(self.transport)
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
        if self._reader is None or self._taker is None:
            # Nobody has asked for anything.
            self._abort()
            return
        self._hear(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._state is OPENING:
            self._not_opened(reason)
            return
        if self._state in (SENDING, ANSWERING):
            self._hear(self._outgoing.last_words())
        reader = self._reader
        self._shut()
        self._pool.deadlines.forget(self)
        if reader is not None:
            self._take_all(
                reader, reader.end_of_stream(clean=reason.check(ConnectionDone) is not None)
            )
            self._reader = None

    def pauseProducing(self) -> None:
        if self._taker is not None:
            self._request_paused = True
            self._wait_anew()
            self._taker.pause_request()

    def resumeProducing(self) -> None:
        if self._taker is not None:
            self._request_paused = False
            self._wait_anew()
            self._taker.resume_request()

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

    def _hear(self, data: bytes) -> None:
        if self._reader is not None and data:
            self._take_all(self._reader, self._reader.feed(data))

    def _take_all(self, reader: ResponseParser, events: list[ResponseEvent]) -> None:
        """Hand the events on. After the end somebody else may have been lent the connection: the rest is not for them."""
        for event in events:
            taker = self._taker
            if taker is None or reader is not self._reader:
                return
            try:
                self._take(event, taker)
            except Exception:
                # Fail closed (L3): no client waits for the rest. By now another may have been lent the connection.
                self._log.failure("an answer could not be handed on")
                if self._taker in (None, taker):
                    self._taker = None
                    self._abort()
                taker.response_failed(ErrorResponse(Code.INTERNAL_ERROR, "internal error"))
                return
        if reader is self._reader and self._taker is not None:
            if self._state is ANSWERING:
                self._wait_anew()
            self._taker.response_flush()

    def _take(self, event: ResponseEvent, taker: ResponseHandler) -> None:
        if isinstance(event, bytes):
            taker.response_data(event)
        elif isinstance(event, ResponseHead):
            self._state = ANSWERING
            taker.response_head(event)
        elif event is END:
            self._end_exchange(taker)
        else:
            self._fail(event, is_fault=self._is_fault(event))

    def _is_fault(self, refusal: ErrorResponse) -> bool:
        """Return true for a response, cut short or malformed, that tells of the back end and not of the client.

        A back end may have lost its patience with a client whose next piece was waited for, or that did not read: Tomcat's
        ``connectionTimeout`` is 20 s.
        """
        waits_for_client = self._state is CLOSED and not (
            self._request_ended or self._request_paused
        )
        is_too_large = refusal.code is Code.RESPONSE_TOO_LARGE
        return not (waits_for_client or self._was_paused or is_too_large)

    def _serves_nothing(self) -> bool:
        """Return true for a timeout that tells of the back end, and not of one resource such as a slow report.

        It has not begun this response, nor ended any other since this one was asked for.
        """
        return self._state is AWAITING and self._pool.exchanges == self._served_before

    def _end_exchange(self, taker: ResponseHandler) -> None:
        reusable = self._reader is not None and self._reader.reusable and self._request_ended
        self._taker = self._reader = None
        self.resume_response()
        self._pool.served(self)
        if reusable:
            self._pool.release(self)
        elif self._request_ended:
            self.close()
        else:
            # It answered early and may never read the rest of the request.
            self._abort()
        taker.response_end()

    def _fail(self, refusal: ErrorResponse, *, is_fault: bool) -> None:
        taker, self._taker = self._taker, None
        if is_fault:
            self._pool.faulted(self, refusal)
        self._abort()
        assert taker is not None
        taker.response_failed(refusal)

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

    def _fail_opening(self, refusal: ErrorResponse) -> None:
        self._state = CLOSED
        self._pool.deadlines.forget(self)
        if self.transport is not None:
            self.transport.abortConnection()
        self._pool.failed(self, refusal)

    def _abort(self) -> None:
        self._shut()
        self._reader = None
        self.deadline = NEVER
        self.transport.abortConnection()

    def _shut(self) -> None:
        """No more exchanges; the pool forgets it."""
        if self._state is not CLOSED:
            self._state = CLOSED
            self._wait_anew()
            self._outgoing.release()
            self._pool.lost(self)

    def _wait_anew(self) -> None:
        seconds = timeout_for(
            self._state, self._settings, self._request_paused, self.paused_at < math.inf
        )
        self.deadline = self._clock.seconds() + seconds


def _number(error: BaseException | None) -> int | None:
    return getattr(error, "osError", None)
