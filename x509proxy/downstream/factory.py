"""The server factories: one of channels, which it counts and drains, and one of TLS streams."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory

from x509proxy.downstream.address_limits import AddressLimits
from x509proxy.downstream.channel import Channel
from x509proxy.downstream.request import RequestHandler
from x509proxy.monitoring.counters import NULL_METRICS, MetricsObserver
from x509proxy.settings import ClientSettings
from x509proxy.transport.deadlines import Deadlines, HasDeadline
from x509proxy.transport.tls_context import ServerConnections
from x509proxy.transport.tls_stream import TlsStream

__all__ = ["NamedFactory", "ProxyFactory", "TlsFactory", "TrackedConnection"]


class TrackedConnection(HasDeadline, Interface):
    """A connection that a factory counts.

    It is a channel, or a connection whose PROXY header is not complete
    (:mod:`x509proxy.downstream.proxy_protocol_listener`).
    """

    def drain(self) -> None: ...
    def cut(self) -> None: ...
    def make_room(self) -> None: ...


class NamedFactory(Factory):
    """A base class that sets the log prefix of a port to ``x509proxy``."""

    noisy = False

    def logPrefix(self) -> str:
        # Each port logs "… starting on 8443" with it, even for a factory that is not noisy.
        return "x509proxy"


class ProxyFactory(NamedFactory):
    """A factory of channels, which counts them and drains them at the end.

    At the limit, the oldest connection that serves no request is cut for a new one. Those whose
    handshake is not complete are cut first, then those that wait for a request, and last those that
    have sent their last response. So silent connections do not keep clients out.

    ``serves`` responds to the requests, such as :class:`x509proxy.resource.X509ProxyResource`. Its
    ``deadlines`` are shared with the factory. ``settings``: the limits of connections and requests.
    ``watch`` counts connections that a limit cuts or rejects. ``most_connections``: the number that
    the file descriptors of this process permit. ``waiting``: the connections that wait for a
    request, those that have waited longest first. A channel enters and leaves it by itself.
    """

    def __init__(
        self,
        serves: RequestHandler,
        deadlines: Deadlines,
        settings: ClientSettings = ClientSettings(),
        watch: MetricsObserver = NULL_METRICS,
    ) -> None:
        self.serves = serves
        self.deadlines = deadlines
        self.settings = settings
        self._watch = watch
        self.draining = False
        self.most_connections = math.inf
        # Each connection, with the address that it counts for.
        self._connections: dict[TrackedConnection, str | None] = {}
        # Those that serve no request, the oldest first: dicts, since sets have no order.
        self._in_handshake: dict[TrackedConnection, None] = {}
        self.waiting: dict[TrackedConnection, None] = {}
        self._closing: dict[TrackedConnection, None] = {}
        self._limits = AddressLimits(settings, deadlines.clock.seconds)
        self._drained: list[Deferred[None]] = []

    def use(self, settings: ClientSettings) -> None:
        """Apply other limits to new connections; open ones keep theirs."""
        self.settings = settings
        self._limits.use(settings)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make a channel; for ``None`` the port closes the connection."""
        # Not later, since each connection takes a file descriptor.
        has_room = len(self._connections) < self.most_connections or self._make_room()
        return Channel(self) if has_room else None

    def make_channel(self) -> Channel:
        """Make a channel for a connection that is already open."""
        return Channel(self)

    def admit(self, channel: Channel) -> bool:
        """Return true, and count the connection, if no limit rejects it."""
        return (
            self._has_room()
            and self._admit_address(channel.peer)
            and self._keep(channel, channel.peer)
        )

    def hold(self, connection: TrackedConnection) -> bool:
        """Return true, and count the connection for no address, if there is room for it.

        Its client is unknown until the PROXY header is complete.
        """
        return self._has_room() and self._keep(connection, None)

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def _has_room(self) -> bool:
        if self.draining:
            return False
        most = min(self.settings.max_connections, self.most_connections)
        return len(self._connections) < most or self._make_room()

    def _make_room(self) -> bool:
        """Cut the oldest connection that serves no request; return false if there is none."""
        self._watch.limited("client.max-connections")
        for group in (self._in_handshake, self.waiting, self._closing):
            if oldest := next(iter(group), None):
                oldest.make_room()
                # The connection ends in a later reactor turn, and more may be accepted in this one.
                self.leave(oldest)
                return True
        return False

    def _admit_address(self, host: str) -> bool:
        admitted = self._limits.admit(host)
        if not admitted:
            self._watch.limited(self._limits.exceeded_limit)
        return admitted

    def _keep(self, connection: TrackedConnection, host: str | None) -> bool:
        self._connections[connection] = host
        self._in_handshake[connection] = None
        self.deadlines.watch(connection)
        return True

    # The connections' calls.

    def handshaken(self, connection: TrackedConnection) -> None:
        """Note that a connection waits for its first request."""
        self._in_handshake.pop(connection, None)
        self.waiting[connection] = None

    def closes(self, connection: TrackedConnection) -> None:
        """Note that a connection only has a response to read."""
        self.waiting.pop(connection, None)
        self._closing[connection] = None

    def hand_over(self, connection: TrackedConnection, connect: Callable[[], object]) -> None:
        """Replace ``connection`` by the channel that ``connect`` makes on the same transport.

        The connection has been counted already. So the channel is admitted during a drain too.
        """
        self._connections.pop(connection, None)
        self._in_handshake.pop(connection, None)
        self.deadlines.forget(connection)
        draining, self.draining = self.draining, False
        try:
            connect()
        finally:
            self.draining = draining
        self._end_if_empty()

    def leave(self, connection: TrackedConnection) -> None:
        """Count the end of a connection."""
        host = self._connections.pop(connection, None)
        if host is not None:
            self._limits.leave(host)
        for group in (self._in_handshake, self.waiting, self._closing):
            group.pop(connection, None)
        self.deadlines.forget(connection)
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if not self._connections:
            drained, self._drained = self._drained, []
            for deferred in drained:
                deferred.callback(None)

    def drain(self) -> Deferred[None]:
        """Finish open requests within ``drain_timeout``; fire when no connection is left."""
        self.draining = True
        for connection in tuple(self._connections):
            connection.drain()
        if not self._connections:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drained.append(drained)
        cut = self.deadlines.clock.callLater(self.settings.drain_timeout, self._cut_all)
        return drained.addBoth(lambda _: cut.cancel() if cut.active() else None)

    def _cut_all(self) -> None:
        for connection in tuple(self._connections):
            connection.cut()


class TlsFactory(NamedFactory):
    """A factory of TLS streams, each below a protocol of ``factory``; ``protocols`` are open."""

    def __init__(
        self, connections: ServerConnections, factory: Factory, clock: IReactorTime
    ) -> None:
        self.protocols: set[TlsStream] = set()
        self._connections = connections
        self._clock = clock
        self._factory = factory

    def buildProtocol(self, addr: IAddress | None) -> TlsStream | None:
        protocol = self._factory.buildProtocol(addr)
        if protocol is None:
            return None
        stream = TlsStream(self._connections, protocol, self.protocols, self._clock)
        self.protocols.add(stream)
        return stream

    def doStart(self) -> None:
        super().doStart()
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()
        super().doStop()
