"""One client connection in HTTP/1.1: its requests in order, its limits and its deadlines.

Facts
-----
* Stock ``HTTPChannel`` serves a request that it has answered with 400 when the rest arrives in
  later TLS records. Here nothing is parsed after an error that the client caused, and nothing more
  is sent (invariant L3).
* ``loseConnection`` over TLS sends close_notify and reads on until the client's. That is the
  lingering close, by which a client can read an early response (RFC 9112 section 9.6). A deadline
  ends it.
* A producer that is registered with a TLS transport keeps ``loseConnection`` waiting, so it is
  unregistered first.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IPushProducer, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from x509proxy.downstream.client_progress import FIRST_FLIGHT, ClientProgress
from x509proxy.downstream.request import Request
from x509proxy.downstream.request_queue import RequestQueue
from x509proxy.exchange import Exchange
from x509proxy.forwarding.client import Client, Hop
from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.http1.request_parser import HEAD, IDLE
from x509proxy.transport.deadlines import NEVER
from x509proxy.transport.delivery import Delivery
from x509proxy.transport.own_connections import is_own
from x509proxy.transport.peer import client_of, peer_of
from x509proxy.transport.tls_stream import TlsStream

if TYPE_CHECKING:
    from x509proxy.downstream.factory import ProxyFactory

__all__ = ["Channel", "write_and_close"]

_UNKNOWN = Client(Hop(""))
# Seconds for a client that has only the connection's end to read, or that connects during a drain.
_LINGER = 2.0
# Octets behind the last response. A client may send a whole body before it reads its 413.
_MAX_DISCARDED = 8 << 20


class _Phase(enum.Enum):
    NEW = "new"
    HANDSHAKE = "handshake"
    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    BACK_END = "back end"
    SENDING = "sending"
    CLOSING = "closing"


# Module names: a look into an enumeration takes four times as long (Python 3.11).
_NEW, _HANDSHAKE, _IDLE, _HEAD, _BODY, _BACK_END, _SENDING, _CLOSING = _Phase


@implementer(IHandshakeListener, IPushProducer)
class Channel(Protocol):
    """One client connection. ``blocked``: the client does not read what has been written."""

    # TCP or TLS: ITransport, IConsumer and IPushProducer at once, and abortConnection.
    transport: Any
    _log = Logger()

    def __init__(self, owner: ProxyFactory) -> None:
        self._owner = owner
        self._waiting = owner.waiting
        self.observe = owner.serves.observe
        self.deadline = NEVER
        self.client = _UNKNOWN
        self._settings = owner.settings
        self.now = owner.deadlines.clock.seconds
        self._phase = _NEW
        self._queue = RequestQueue(self, owner.settings)
        self._current: Request | None = None
        self._served = 0
        self._stays_open = False
        self._body_since = (0.0, 0)
        # Of the response: when the client stopped reading, for how long it has, and the octets that
        # it had read by then.
        self._blocked_at = self._blocked_for = 0.0
        self._read_before = 0
        self._progress: ClientProgress | None = None
        self._reading = True
        self.blocked = self._advancing = False
        self._discarded = 0
        self._is_own = False

    # Twisted calls: the connection.

    def connectionMade(self) -> None:
        self.peer = peer_of(self.transport)
        if not self._owner.admit(self):
            self.transport.abortConnection()
            return
        self.transport.registerProducer(self, streaming=True)
        self._enter(_HANDSHAKE, self._settings.handshake_timeout)
        self._max_age_at = self.now() + self._settings.max_connection_age
        if not ISSLTransport.providedBy(self.transport):
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        self._owner.handshaken(self)
        self._update()

    def dataReceived(self, data: bytes) -> None:
        if self._phase is _CLOSING:
            self._discard(len(data))
            return
        if not self.client.hop.peer:
            self.client = client_of(self.transport)
        self._queue.feed(data)
        self._advance()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lose(Code.CLIENT_LEFT, "the client left")
        if self._progress is not None:
            self._progress.end(None if reason.check(ConnectionDone) else Code.CLIENT_LEFT)
        self._owner.leave(self)
        self._queue.end()

    # Twisted calls: the client reads too slowly, or again.

    def pauseProducing(self) -> None:
        if self._phase is _CLOSING:
            return
        self.blocked = True
        self._blocked_at = self.now()
        self._measured().begin()
        self._enter(_SENDING, self._settings.send_timeout)
        if self._current is not None and self._current.consumer is not None:
            self._current.consumer.pause_response()

    def resumeProducing(self) -> None:
        self.blocked = False
        self._measured()
        if self._current is not None and self._reads_too_slowly(self._current):
            self._current.abort(Code.SEND_TIMEOUT, "the client reads too slowly")
            return
        if self._current is not None and self._current.consumer is not None:
            self._current.consumer.resume_response()
        self._advance()

    def stopProducing(self) -> None:
        """Cut an incomplete response, because the client has ended TLS.

        After close_notify a client may read on (RFC 8446 section 6.1). Another close_notify would
        make what it has received look complete.
        """
        if self._current is not None:
            self._lose(Code.CLIENT_LEFT, "the client left")
            self._timeout = self._settings.send_timeout
            self.deadline = self.now() + self._timeout
            end_without_close_notify(self.transport)

    def expired(self) -> None:
        """End the wait for the client, by the phase it is in."""
        current = self._current
        if self._phase in (_SENDING, _CLOSING) and not self._is_stuck():
            return
        if self._phase is _SENDING and current is not None:
            current.abort(Code.SEND_TIMEOUT, "the client does not read")
        elif self._phase is _BODY and current is not None:
            current.fail(ErrorResponse(Code.BODY_TIMEOUT, "the body did not come in time"))
        elif self._phase is _HEAD:
            self._queue.reject(ErrorResponse(Code.HEAD_TIMEOUT, "the head did not come in time"))
            self._advance()
        elif self._phase is _IDLE:
            self._close(_LINGER)
        else:
            self.cut()

    def _is_stuck(self) -> bool:
        """Return true if the client has stopped receiving.

        If it has not, extend the deadline; if it has received everything, end the connection.
        """
        progress = self._measured()
        if self._phase is _CLOSING and progress.is_complete:
            self.deadline = NEVER
            progress.end(None)
            end_without_close_notify(self.transport)
            return False
        if progress.continues():
            self.deadline = self.now() + self._timeout
            return False
        progress.end(Code.SEND_TIMEOUT)
        return True

    def _measured(self) -> ClientProgress:
        """Return the client's progress, which is made on demand: most connections need none."""
        if self._progress is None:
            self._progress = ClientProgress(
                Delivery(self.transport),
                self._owner.deadlines,
                self._settings.min_response_rate,
                self.observe,
            )
        self._progress.is_blocked = self.blocked
        return self._progress

    # The request's calls.

    def confirm(self, exchange: Exchange) -> None:
        """Report the exchange of a large response when the client has received it."""
        self._measured().confirm(exchange)

    def stays_open(self, request: Request, *, is_last: bool) -> bool:
        """Decide, for the head of a response, whether the connection outlives that response.

        This is the only place that decides it. ``is_last``: the response permits no other one.
        """
        self._stays_open = (
            not is_last
            and request.body_complete
            and request.head.keep_alive
            and (not self._owner.draining or self._queue.has_unserved)
            and self._served < self._settings.max_requests_per_connection
            and self.now() < self._max_age_at
        )
        return self._stays_open

    def send(self, data: bytes) -> None:
        """Send a part of a response that is not its end."""
        self.transport.write(data)

    def send_last(self, data: bytes) -> None:
        """Send the end of a response, and in the same packet that of a connection which it ends.

        A connection that was to stay open ends all the same if the proxy drains meanwhile, unless
        the client has sent its next request already.
        """
        if self._stays_open and (not self._owner.draining or self._queue.has_unserved):
            self.transport.write(data)
            return
        if len(data) > FIRST_FLIGHT:
            # Its progress is measured while the transport can still report that it is blocked.
            self.transport.write(data)
            data = b""
        # During a drain, a client that has received everything has little time to close.
        is_over = self._owner.draining and not self.blocked
        self._close(_LINGER if is_over else self._settings.send_timeout, data)

    def body_moved(self) -> None:
        """Update the deadline: a body is streamed, paused or resumed."""
        if not self._advancing:
            self._update()

    def answered(self) -> None:
        """Go on with the next request: the whole response has been sent, and recorded."""
        self._current = None
        if self._phase is _CLOSING:
            return
        self._waiting[self] = None
        if self._phase is not _SENDING:
            # The next wait begins now.
            self._phase = _NEW
        self._advance()

    def cut(self) -> None:
        """End at once, so that the client does not take what was sent for complete."""
        self.deadline = NEVER
        self._lose(Code.SHUTDOWN, "the proxy ended")
        if self._progress is not None:
            self._progress.end(None if self._progress.is_complete else Code.SHUTDOWN)
        self.transport.abortConnection()

    def make_room(self) -> None:
        """End at once, for a new connection: a limit counts it, and not a failed handshake."""
        if isinstance(self.transport, TlsStream):
            self.transport.is_counted()
        self.cut()

    def drain(self) -> None:
        """Serve only requests that have arrived; a new connection may still send its first one.

        A client that has its last response to read has as little time as in :meth:`send_last`.
        """
        if self._phase is _CLOSING:
            if not self.blocked and self.deadline is not NEVER:
                self._timeout = _LINGER
                self.deadline = min(self.deadline, self.now() + _LINGER)
        elif self._current is None and not self._queue.has_unserved:
            if self._served and self._queue.parser.stage is IDLE:
                self._close(self._settings.send_timeout if self.blocked else _LINGER)
            else:
                self.deadline = min(self.deadline, self.now() + _LINGER)

    # Inside.

    def _discard(self, count: int) -> None:
        """Read on, so that the client can read its last response, but not without end."""
        self._discarded += count
        if self._discarded > _MAX_DISCARDED:
            self.cut()

    def _lose(self, code: Code, detail: str) -> None:
        """Record that the request that is being served gets no response."""
        self._phase, current, self._current = _CLOSING, self._current, None
        if current is not None:
            current.lost(code, detail)

    def _advance(self) -> None:
        """Serve the requests that wait, one at a time.

        A response that is sent at once comes back here by ``answered``, and is not nested.
        """
        if self._advancing:
            return
        self._advancing = True
        try:
            if self._current is not None:
                self._check_ready(self._current)
            while self._current is None and not self.blocked and self._phase is not _CLOSING:
                self._current = request = self._queue.next()
                if request is None:
                    break
                self._serve(request)
        finally:
            self._advancing = False
        self._update()

    def _check_ready(self, request: Request) -> None:
        try:
            request.check_ready()
        except Exception:
            self._fail_closed(request)

    def _serve(self, request: Request) -> None:
        # It has waited since its handshake, or since its last response.
        del self._waiting[self]
        self._served += 1
        self._blocked_for, self._read_before = 0.0, 0
        try:
            if self._served == 1:
                self._is_own = is_own(self.transport)
            if request.error is not None:
                request.answer(request.error)
            elif self._is_own:
                request.answer(ErrorResponse(Code.LOOP, "the client is this proxy"))
            else:
                self._owner.serves.serve(request)
        except Exception:
            self._fail_closed(request)

    def _fail_closed(self, request: Request) -> None:
        """Log the failure and reject the request (L3).

        The text is the proxy's or the standard library's, and neither quotes a header.
        """
        self._log.failure("a request could not be served")
        request.fail(ErrorResponse(Code.INTERNAL_ERROR, "internal error"))

    def _update(self) -> None:
        """Set the phase, its deadline, and whether to read on."""
        if self._phase is _CLOSING:
            return
        current, settings = self._current, self._settings
        waiting = current if current is not None and not current.body_complete else None
        wanted = (
            not self.blocked
            and not self._queue.has_unserved
            and (waiting is None or waiting.wants_more)
        )
        if self.blocked:
            self._enter(_SENDING, settings.send_timeout)
        elif waiting is not None and wanted:
            self._await_body(waiting)
        elif current is not None:
            self._enter(_BACK_END, NEVER)
        elif self._queue.parser.stage is HEAD:
            self._enter(_HEAD, settings.head_timeout)
        else:
            self._enter(_IDLE, _LINGER if self._owner.draining else settings.idle_timeout)
        # Last: reading on may deliver what waits inside OpenSSL, and then the above is out of date.
        if wanted is not self._reading:
            self._read_on(wanted=wanted)

    def _await_body(self, request: Request) -> None:
        """Extend the deadline with each octet, unless the body comes too slowly.

        A slow body would occupy a back end's connection without end.
        """
        now, settings = self.now(), self._settings
        if self._phase is not _BODY:
            self._body_since = (now, request.bytes_in)
        since, bytes_then = self._body_since
        is_slow = (
            now - since > settings.body_timeout
            and request.bytes_in - bytes_then < (now - since) * settings.min_body_rate
        )
        self._phase, self.deadline = _BODY, now if is_slow else now + settings.body_timeout

    def _reads_too_slowly(self, request: Request) -> bool:
        """Return true for a client that has just read everything, but is slower than permitted.

        Each pause ends in time, and still it would occupy a back end's connection without end. Only
        pauses count: between them the back end is slow.
        """
        self._blocked_for += self.now() - self._blocked_at
        if self._blocked_for <= self._settings.send_timeout:
            return False
        read = request.bytes_out - self._read_before
        is_slow = read < self._blocked_for * self._settings.min_response_rate
        self._blocked_for, self._read_before = 0.0, request.bytes_out
        return is_slow

    def _enter(self, phase: _Phase, timeout: float) -> None:
        """Enter a phase. Its deadline counts from its beginning, and no octet extends it."""
        if phase is not self._phase:
            self._phase, self._timeout = phase, timeout
            self.deadline = self.now() + timeout

    def _read_on(self, *, wanted: bool) -> None:
        self._reading = wanted
        step = self.transport.resumeProducing if wanted else self.transport.pauseProducing
        step()

    def _close(self, linger: float, data: bytes = b"") -> None:
        """Send ``data`` and the end, and read no more requests.

        The client has ``linger`` seconds to read what was sent.
        """
        self._queue.clear()
        self._phase, self._timeout = _CLOSING, linger
        self.deadline = self.now() + linger
        if not self.blocked:
            self._owner.closes(self)
        write_and_close(self.transport, data)
        if not self._reading:
            self._read_on(wanted=True)


def write_and_close(transport: Any, data: bytes) -> None:
    """Write the last octets and the connection's end, in one packet over a :class:`TlsStream`."""
    if isinstance(transport, TlsStream):
        transport.write_last(data)
    else:
        transport.unregisterProducer()
        if data:
            transport.write(data)
        transport.loseConnection()


def end_without_close_notify(transport: Any) -> None:
    """End TCP for a client that has received everything and does not end TLS itself."""
    if isinstance(transport, TlsStream):
        transport.finish()
    else:
        transport.abortConnection()
