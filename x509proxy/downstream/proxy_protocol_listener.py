"""A listener behind a load balancer, which takes clients' addresses from PROXY headers.

Facts
-----
* TLS begins after the headers (:mod:`x509proxy.transport.proxy_protocol`), so they are removed
  before OpenSSL receives any data. Twisted's wrapper for them drops a header that TCP has split.
* Until its header is complete, a connection counts for no address: all of a balancer's connections
  come from the same one. The headers and the handshake share one deadline.
* A health check of a balancer connects and closes. That is not logged.
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

__all__ = ["ProxiedFactory", "stream_factory", "use_listener"]

_LINGER = 2.0  # Seconds in which a header must be complete once the proxy drains.
# Seconds between two log lines about connections that were cut: a flood must not fill a disk.
_LOG_INTERVAL = 60.0


def stream_factory(
    connections: ServerConnections, factory: ProxyFactory, listener: ListenerSettings
) -> Factory:
    """Return the factory of the streams of one listener, which carry channels of ``factory``."""
    if listener.is_proxied:
        return ProxiedFactory(connections, factory, TrustedProxies.of(listener))
    return TlsFactory(connections, factory, factory.deadlines.clock)


def use_listener(factory: Factory, listener: ListenerSettings) -> None:
    """Trust the balancers that ``listener`` names; the number of headers does not change."""
    if isinstance(factory, ProxiedFactory):
        factory.trusted = TrustedProxies.of(listener)


class _ProxiedStream(TlsStream):
    """A TLS stream behind a balancer, with the addresses that the header names.

    Session tickets are sent at once. This kernel's acknowledgement of the handshake goes no further
    than the balancer, whose kernel delays its own. A client with Nagle's algorithm holds its
    request back until then (44 ms measured).
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
    """A connection that parses its PROXY headers, and then passes all data to a TLS stream."""

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
            self._factory.trusted, getattr(self.transport.getPeer(), "host", None)
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
        """Cut the connection: its headers were not complete in time."""
        self._reject("no complete PROXY header in time")

    def drain(self) -> None:
        """Allow a short time for the header.

        The balancer has assigned the client to this node, and does not assign it to another one.
        """
        self.deadline = min(self.deadline, self._owner.deadlines.clock.seconds() + _LINGER)

    def cut(self) -> None:
        """End the connection at once."""
        self._over = True
        self.transport.abortConnection()

    def make_room(self) -> None:
        """End the connection at once, for a new one."""
        self.cut()

    # Inside.

    def _take(self, data: bytes) -> None:
        try:
            found = self._headers.feed(data)
        except BadHeader as problem:
            self._reject(str(problem))
        else:
            if found is not None:
                self._hand_over(*found)

    def _reject(self, reason: str) -> None:
        self._factory.report(self.transport.getPeer(), reason)
        self.cut()

    def _hand_over(self, ends: ProxyAddresses | None, rest: bytes) -> None:
        # From here on, the connection counts for the client's address.
        channel, self._stream = self._factory.make_stream(ends)
        self._owner.hand_over(self, partial(self._stream.makeConnection, self.transport))
        channel.deadline = min(channel.deadline, self.deadline)
        if rest:
            self._stream.dataReceived(rest)


class ProxiedFactory(NamedFactory):
    """A factory of TLS streams below channels, one for each connection with valid headers.

    ``protocols``: the open streams.
    """

    _log = Logger()

    def __init__(
        self, connections: ServerConnections, owner: ProxyFactory, trusted: TrustedProxies
    ) -> None:
        self.protocols: set[TlsStream] = set()
        self.owner = owner
        self.trusted = trusted
        self._connections = connections
        self._unreported = 0
        self._quiet_until = 0.0

    def buildProtocol(self, addr: IAddress | None) -> ProxyHeaderProtocol:
        return ProxyHeaderProtocol(self)

    def make_stream(self, ends: ProxyAddresses | None) -> tuple[Channel, TlsStream]:
        """Make a channel and the stream below it; ``ends`` replace the connection's addresses."""
        channel = self.owner.make_channel()
        stream = _ProxiedStream(
            self._connections, channel, self.protocols, self.owner.deadlines.clock
        )
        stream.ends = ends
        self.protocols.add(stream)
        return channel, stream

    def report(self, peer: Any, reason: str) -> None:
        """Count a connection from ``peer`` that is cut; log once in ``_LOG_INTERVAL`` at most."""
        self._connections.watch.handshake_failed("proxy_header")
        self._unreported += 1
        now = self.owner.deadlines.clock.seconds()
        if now >= self._quiet_until:
            count, self._unreported, self._quiet_until = self._unreported, 0, now + _LOG_INTERVAL
            host = getattr(peer, "host", "a unix socket")
            self._log.warn(
                "{what} cut before TLS, the last one from {peer}: {reason}",
                what=counted(count, "connection"),
                count=count,
                peer=host,
                reason=reason,
            )
