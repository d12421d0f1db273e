"""Connections that come through a balancer: the headers before TLS are taken off, and the stream's ends are those they name.

Facts
-----
* TLS begins behind the headers (:mod:`x509proxy.transport.proxy_protocol`), so OpenSSL must not see them; Twisted's wrapper for them stands
  below TLS too, and drops a header that TCP has cut.
* Until the client is known, a connection counts as one, and to no address: all of a balancer's have the same. Headers and
  handshake have one deadline together.
* A balancer that only looks whether the port is open connects and leaves; that is not worth a word.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from x509proxy.downstream.channel import Channel
from x509proxy.downstream.factory import NamedFactory, ProxyFactory, TlsFactory
from x509proxy.monitoring.reason_codes import counted
from x509proxy.settings import ListenerSettings
from x509proxy.transport.deadlines import NEVER
from x509proxy.transport.proxy_protocol import (
    BadHeader,
    End,
    ProxyAddresses,
    ProxyHeaderParser,
    TrustedProxies,
)
from x509proxy.transport.tls_context import ServerConnections
from x509proxy.transport.tls_stream import TlsStream

__all__ = ["ProxiedFactory", "stream_factory", "use_place"]

_LINGER = 2.0  # seconds that a header has once the proxy ends
_QUIET = (
    60.0  # seconds between two words about connections that were cut: a flood must not fill a disk
)


def stream_factory(
    connections: ServerConnections, factory: ProxyFactory, place: ListenerSettings
) -> Factory:
    """What makes the streams of one place to listen at, with channels of ``factory``'s on them."""
    if place.is_proxied:
        return ProxiedFactory(connections, factory, TrustedProxies.of(place))
    return TlsFactory(connections, factory, factory.deadlines.clock)


def use_place(factory: Factory, place: ListenerSettings) -> None:
    """Believe whom ``place`` trusts now; whether there are headers, and how many, stays as it was."""
    if isinstance(factory, ProxiedFactory):
        factory.believed = TrustedProxies.of(place)


class _ProxiedStream(TlsStream):
    """A stream behind a balancer: its ends are those that the header has named.

    Tickets are sent at once: the acknowledgement that this kernel sends for the handshake ends at the balancer. The balancer's
    kernel delays its own, and a client with Nagle's algorithm holds its request back until then (44 ms measured).
    """

    holds_tickets = False
    ends: ProxyAddresses | None = None

    def getPeer(self) -> Any:
        return super().getPeer() if self.ends is None else _address(self.ends.source)

    def getHost(self) -> Any:
        return super().getHost() if self.ends is None else _address(self.ends.destination)


def _address(end: End) -> IPv4Address | IPv6Address:
    return (IPv6Address if ":" in end.host else IPv4Address)("TCP", end.host, end.port)


class ProxyHeaderProtocol(Protocol):
    """A connection that waits for its headers, and then hands everything on to a stream."""

    transport: Any

    def __init__(self, factory: ProxiedFactory) -> None:
        self._factory = factory
        self._owner = factory.owner
        self.deadline = NEVER
        self._stream: TlsStream | None = None
        self._over = False

    # Twisted calls.

    def connectionMade(self) -> None:
        if not self._owner.hold(self):
            self.cut()
            return
        self.deadline = (
            self._owner.deadlines.clock.seconds() + self._owner.settings.handshake_timeout
        )
        self._headers = ProxyHeaderParser(
            self._factory.believed, getattr(self.transport.getPeer(), "host", None)
        )
        self._take(b"")

    def dataReceived(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.dataReceived(data)
        elif not self._over:
            self._take(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True
        self._owner.leave(self)
        if self._stream is not None:
            self._stream.connectionLost(reason)

    # The owner calls.

    def expired(self) -> None:
        """The headers have not come in time."""
        self._refuse("no whole PROXY header in time")

    def drain(self) -> None:
        """A balancer has given its client to this node, and can give it to no other: the header is on its way."""
        self.deadline = min(self.deadline, self._owner.deadlines.clock.seconds() + _LINGER)

    def cut(self) -> None:
        """End it at once."""
        self._over = True
        self.transport.abortConnection()

    # Inside.

    def _take(self, data: bytes) -> None:
        try:
            found = self._headers.feed(data)
        except BadHeader as problem:
            self._refuse(str(problem))
        else:
            if found is not None:
                self._hand_over(*found)

    def _refuse(self, reason: str) -> None:
        self._factory.say(self.transport.getPeer(), reason)
        self.cut()

    def _hand_over(self, ends: ProxyAddresses | None, rest: bytes) -> None:
        # It counts as the client's from here on.
        channel, self._stream = self._factory.make(ends)
        self._owner.hand_over(self, partial(self._stream.makeConnection, self.transport))
        channel.deadline = min(channel.deadline, self.deadline)
        if rest:
            self._stream.dataReceived(rest)


class ProxiedFactory(NamedFactory):
    """Makes a TLS stream for each connection whose headers are as they have to be. ``protocols``: those that are."""

    _log = Logger()

    def __init__(
        self, connections: ServerConnections, owner: ProxyFactory, believed: TrustedProxies
    ) -> None:
        self.protocols: set[TlsStream] = set()
        self.owner = owner
        self.believed = believed
        self._connections = connections
        self._unsaid = 0
        self._quiet_until = 0.0

    def buildProtocol(self, addr: IAddress | None) -> ProxyHeaderProtocol:
        return ProxyHeaderProtocol(self)

    def make(self, ends: ProxyAddresses | None) -> tuple[Channel, TlsStream]:
        """A channel and the stream below it. ``ends``: what it takes for its own, if not the connection's."""
        channel = self.owner.make_channel()
        stream = _ProxiedStream(
            self._connections, channel, self.protocols, self.owner.deadlines.clock
        )
        stream.ends = ends
        self.protocols.add(stream)
        return channel, stream

    def say(self, peer: Any, reason: str) -> None:
        """That a connection from ``peer`` is cut; in the log only if it is long since the last word."""
        self._connections.watch.handshake_failed("proxy_header")
        self._unsaid += 1
        now = self.owner.deadlines.clock.seconds()
        if now >= self._quiet_until:
            count, self._unsaid, self._quiet_until = self._unsaid, 0, now + _QUIET
            host = getattr(peer, "host", "a unix socket")
            sentence, what = (
                "{what} cut before TLS, the last one from {peer}: {reason}",
                counted(count, "connection"),
            )
            self._log.warn(sentence, what=what, count=count, peer=host, reason=reason)
