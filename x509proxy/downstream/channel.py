"""The client's side of HTTP/1.1: one connection, its requests one after the other, its limits and its deadlines.

Facts
-----
* Stock ``HTTPChannel`` goes on serving a request it has answered 400 when the rest comes in later TLS records. Here a refusal is
  the last thing that is ever done with what a connection sends: the reader is dead, the channel mute (invariant L3).
* ``loseConnection`` over TLS sends close_notify and reads on until the client's, which is the lingering close that lets a
  client read an early answer (RFC 9112 section 9.6); a deadline ends it.
* A producer registered with a TLS transport keeps ``loseConnection`` waiting: it is unregistered first.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Any
from typing import Protocol as Interface

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IPushProducer, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from x509proxy.downstream.client_progress import ClientProgress
from x509proxy.downstream.request import Request, RequestHandler
from x509proxy.downstream.request_queue import RequestQueue
from x509proxy.exchange import Exchange
from x509proxy.forwarding.client import Client, Hop
from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.http1.request_parser import HEAD, IDLE
from x509proxy.settings import ClientSettings
from x509proxy.transport.deadlines import NEVER, Deadlines
from x509proxy.transport.delivery import Delivery
from x509proxy.transport.peer import client_of, peer_of
from x509proxy.transport.tls_stream import TlsStream

__all__ = ["Channel", "ChannelOwner", "write_and_close"]

_NOBODY = Client(Hop(""))
_LINGER = (
    2.0  # for a client that has nothing to read but the end, or has just come when the end does
)


class ChannelOwner(Interface):
    """Whoever made the channel (:mod:`x509proxy.downstream.factory`): what all channels share."""

    serves: RequestHandler
    settings: ClientSettings
    deadlines: Deadlines
    draining: bool

    def admit(self, channel: Channel) -> bool: ...
    def leave(self, channel: Channel) -> None: ...


class _Phase(enum.Enum):
    NEW = "new"
    HANDSHAKE = "handshake"
    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    BACK_END = "back end"
    SENDING = "sending"
    CLOSING = "closing"


# A look into an enumeration takes four times as long as one at a name of this module's (Python 3.11).
_NEW, _HANDSHAKE, _IDLE, _HEAD, _BODY, _BACK_END, _SENDING, _CLOSING = _Phase


@implementer(IHandshakeListener, IPushProducer)
class Channel(Protocol):
    """One client connection."""

    # TCP or TLS: ITransport, IConsumer and IPushProducer at once, and abortConnection.
    transport: Any
    _log = Logger()

    def __init__(self, owner: ChannelOwner) -> None:
        self._owner = owner
        self.observe = owner.serves.observe
        self.deadline = NEVER
        self.client = _NOBODY
        self._settings = owner.settings
        self._clock = owner.deadlines.clock
        self._phase = _NEW
        self._inbox = RequestQueue(self, owner.settings)
        self._current: Request | None = None
        self._served = 0
        self._body_since = (0.0, 0)
        # Of the response: since when the client is waited for, for how long it has been, and the octets that it had read by then.
        self._blocked_at = self._blocked_for = 0.0
        self._read_before = 0
        self._progress: ClientProgress | None = None
        self._reading = True
        self.blocked = self._advancing = False

    # Twisted calls: the connection.

    def connectionMade(self) -> None:
        self.peer = peer_of(self.transport)
        if not self._owner.admit(self):
            self.transport.abortConnection()
            return
        self.transport.registerProducer(self, streaming=True)
        self._enter(_HANDSHAKE, self._settings.handshake_timeout)
        self._old_from = self.deadline + self._settings.max_connection_age
        if not ISSLTransport.providedBy(self.transport):
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        self._update()

    def dataReceived(self, data: bytes) -> None:
        if self._phase is _CLOSING:
            return
        if not self.client.hop.peer:
            self.client = client_of(self.transport)
        self._inbox.feed(data)
        self._advance()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lose(Code.CLIENT_LEFT, "the client left")
        if self._progress is not None:
            self._progress.end(None if reason.check(ConnectionDone) else Code.CLIENT_LEFT)
        self._owner.leave(self)
        self._inbox.end()

    # Twisted calls: the client reads too slowly, or again.

    def pauseProducing(self) -> None:
        if self._phase is _CLOSING:
            return
        self.blocked = True
        self._blocked_at = self._clock.seconds()
        self._measured().begin()
        self._enter(_SENDING, self._settings.send_timeout)
        if self._current is not None and self._current.source is not None:
            self._current.source.pause_response()

    def resumeProducing(self) -> None:
        self.blocked = False
        self._measured()
        if self._current is not None and self._reads_in_drips(self._current):
            self._current.abort(Code.SEND_TIMEOUT, "the client reads too slowly")
            return
        if self._current is not None and self._current.source is not None:
            self._current.source.resume_response()
        self._advance()

    def stopProducing(self) -> None:
        """The transport is going; ``connectionLost`` says so."""

    def expired(self) -> None:
        """Whatever was waited for does not come."""
        current = self._current
        if self._phase in (_SENDING, _CLOSING) and not self._is_stuck():
            return
        if self._phase is _SENDING and current is not None:
            current.abort(Code.SEND_TIMEOUT, "the client does not read")
        elif self._phase is _BODY and current is not None:
            current.fail(ErrorResponse(Code.BODY_TIMEOUT, "the body did not come in time"))
        elif self._phase is _HEAD:
            self._inbox.refuse(ErrorResponse(Code.HEAD_TIMEOUT, "the head did not come in time"))
            self._advance()
        elif self._phase is _IDLE:
            self._close(_LINGER)
        else:
            self.cut()

    def _is_stuck(self) -> bool:
        """Return whether the client has stopped receiving; if it has not, wait for it, or end the connection with FIN."""
        progress = self._measured()
        if self._phase is _CLOSING and progress.is_complete:
            self.deadline = NEVER
            progress.end(None)
            end_without_close_notify(self.transport)
            return False
        if progress.continues():
            self.deadline = self._clock.seconds() + self._timeout
            return False
        progress.end(Code.SEND_TIMEOUT)
        return True

    def _measured(self) -> ClientProgress:
        """Return the client's progress, of which most connections end without need."""
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

    def now(self) -> float:
        return self._clock.seconds()

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def may_stay_open(self) -> bool:
        young = (
            self._served < self._settings.max_requests_per_connection
            and self._clock.seconds() < self._old_from
        )
        return young and not self._owner.draining

    def body_moved(self) -> None:
        """A body is handed on, held up, or asked for again."""
        if not self._advancing:
            self._update()

    def answered(self, stays_open: bool) -> None:
        """The whole response has been sent, and the exchange is recorded."""
        self._current = None
        lives_on = stays_open and (not self._owner.draining or self._inbox.waits)
        if self._phase is not _SENDING:
            # Whatever is waited for next is waited for from now on.
            self._phase = _NEW
        if lives_on:
            self._advance()
        else:
            # At the end of all, a client that has been told so and stays is not waited for.
            self._close(
                _LINGER
                if self._owner.draining and not self.blocked
                else self._settings.send_timeout
            )

    def cut(self) -> None:
        """End at once, so that nobody takes what was sent for whole."""
        self.deadline = NEVER
        self._lose(Code.SHUTDOWN, "the proxy ended")
        if self._progress is not None:
            self._progress.end(None if self._progress.is_complete else Code.SHUTDOWN)
        self.transport.abortConnection()

    def drain(self) -> None:
        """No more requests than those that have come; who has only just connected may still say the first one."""
        if self._current is None and not self._inbox.waits and self._phase is not _CLOSING:
            if self._served and self._inbox.reader.stage is IDLE:
                self._close(self._settings.send_timeout if self.blocked else _LINGER)
            else:
                self.deadline = min(self.deadline, self._clock.seconds() + _LINGER)

    # Inside.

    def _lose(self, code: Code, detail: str) -> None:
        """The request that is being served will not be answered."""
        self._phase, current, self._current = _CLOSING, self._current, None
        if current is not None:
            current.lost(code, detail)

    def _advance(self) -> None:
        """Serve what waits, one at a time; an answer given at once comes back here by ``answered``, and is not nested."""
        if self._advancing:
            return
        self._advancing = True
        try:
            if self._current is not None:
                self._guard(self._current, self._current.check_ready)
            while self._current is None and not self.blocked and self._phase is not _CLOSING:
                self._current = request = self._inbox.next()
                if request is None:
                    break
                self._serve(request)
        finally:
            self._advancing = False
        self._update()

    def _serve(self, request: Request) -> None:
        self._served += 1
        self._blocked_for, self._read_before = 0.0, 0
        if request.refusal is not None:
            request.answer(request.refusal)
        else:
            self._guard(request, partial(self._owner.serves.serve, request))

    def _guard(self, request: Request, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            # Fail closed (L3). The failure's text is ours or the standard library's, and neither quotes a header.
            self._log.failure("a request could not be served")
            request.fail(ErrorResponse(Code.INTERNAL_ERROR, "internal error"))

    def _update(self) -> None:
        """What is waited for now, for how long, and whether to read on."""
        if self._phase is _CLOSING:
            return
        current, settings = self._current, self._settings
        waiting = current if current is not None and not current.body_complete else None
        wanted = (
            not self.blocked and not self._inbox.waits and (waiting is None or waiting.wants_more)
        )
        if self.blocked:
            self._enter(_SENDING, settings.send_timeout)
        elif waiting is not None and wanted:
            self._await_body(waiting)
        elif current is not None:
            self._enter(_BACK_END, NEVER)
        elif self._inbox.reader.stage is HEAD:
            self._enter(_HEAD, settings.head_timeout)
        else:
            self._enter(_IDLE, _LINGER if self._owner.draining else settings.idle_timeout)
        # Last: what waits inside OpenSSL comes while it is at it, and all of the above is out of date then.
        if wanted is not self._reading:
            self._read_on(wanted=wanted)

    def _await_body(self, request: Request) -> None:
        """Each byte puts the deadline off, but drips do not: they would keep a place, and a back end's connection, for ever."""
        now, settings = self._clock.seconds(), self._settings
        if self._phase is not _BODY:
            self._body_since = (now, request.bytes_in)
        since, bytes_then = self._body_since
        drips = (
            now - since > settings.body_timeout
            and request.bytes_in - bytes_then < (now - since) * settings.min_body_rate
        )
        self._phase, self.deadline = _BODY, now if drips else now + settings.body_timeout

    def _reads_in_drips(self, request: Request) -> bool:
        """Return true for a client, which has just read all there was, that is slower than it may be.

        Each pause ends in time, and still it would keep a back end's connection for ever. Only pauses count: in between it is
        the back end that is slow.
        """
        self._blocked_for += self._clock.seconds() - self._blocked_at
        if self._blocked_for <= self._settings.send_timeout:
            return False
        read = request.bytes_out - self._read_before
        drips = read < self._blocked_for * self._settings.min_response_rate
        self._blocked_for, self._read_before = 0.0, request.bytes_out
        return drips

    def _enter(self, phase: _Phase, timeout: float) -> None:
        """A deadline that no byte puts off: it counts from the phase's beginning."""
        if phase is not self._phase:
            self._phase, self._timeout = phase, timeout
            self.deadline = self._clock.seconds() + timeout

    def _read_on(self, *, wanted: bool) -> None:
        self._reading = wanted
        step = self.transport.resumeProducing if wanted else self.transport.pauseProducing
        step()

    def _close(self, linger: float) -> None:
        """Send and read no more; the client has ``linger`` seconds to read what was sent."""
        self._inbox.clear()
        self._phase, self._timeout = _CLOSING, linger
        self.deadline = self._clock.seconds() + linger
        write_and_close(self.transport, b"")
        if not self._reading:
            self._read_on(wanted=True)


def write_and_close(transport: Any, data: bytes) -> None:
    """The last that is written to a transport, and its end; in one packet if it is a stream of ours."""
    if isinstance(transport, TlsStream):
        transport.write_last(data)
    else:
        transport.unregisterProducer()
        if data:
            transport.write(data)
        transport.loseConnection()


def end_without_close_notify(transport: Any) -> None:
    """End the TCP connection of a client that has received everything and does not end TLS itself."""
    if isinstance(transport, TlsStream):
        transport.finish()
    else:
        transport.abortConnection()
