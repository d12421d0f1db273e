"""The server factories: a channel for each connection, counted, and drained at the end; and the TLS stream below it."""

from __future__ import annotations

import enum
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

__all__ = ["NamedFactory", "ProxyFactory", "TlsFactory", "TrackedConnection", "WhenFull"]


class WhenFull(enum.Enum):
    """The treatment of one connection more than ``max_connections``."""

    REJECT = "reject"
    CUT_OLDEST = "cut oldest"
    """For a listener whose requests are short: what stays has nothing to say, or reads nothing."""


class TrackedConnection(HasDeadline, Interface):
    """A connection: a channel, or one whose client is not known yet (:mod:`x509proxy.downstream.proxy_protocol_listener`)."""

    def drain(self) -> None: ...
    def cut(self) -> None: ...


class NamedFactory(Factory):
    """What a port is bound to, by the name that is to stand in the log. By itself it makes no protocols."""

    noisy = False

    def logPrefix(self) -> str:
        # "… starting on 8443", says each port, be its factory noisy or not.
        return "x509proxy"


class ProxyFactory(NamedFactory):
    """Makes a channel for each connection, keeps count of them, and drains them at the end.

    ``watch``: who is told of connections that are not taken, since a limit is met; ``when_full``: which of them is not.
    ``most_connections``: how many there can be on this machine; what is beyond that is closed in the turn that accepts it.
    """

    def __init__(
        self,
        serves: RequestHandler,
        deadlines: Deadlines,
        settings: ClientSettings = ClientSettings(),
        watch: MetricsObserver = NULL_METRICS,
        when_full: WhenFull = WhenFull.REJECT,
    ) -> None:
        self._when_full = when_full
        self.serves = serves
        self.deadlines = deadlines
        self.settings = settings
        self._watch = watch
        self.draining = False
        self.most_connections = math.inf
        # Each with the address that it counts to.
        self._callers: dict[TrackedConnection, str | None] = {}
        self._limits = AddressLimits(settings, deadlines.clock.seconds)
        self._drained: list[Deferred[None]] = []

    def use(self, settings: ClientSettings) -> None:
        """Other limits for the connections to come; those that are keep theirs."""
        self.settings = settings
        self._limits.use(settings)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make a channel, or ``None``: the port closes the connection then."""
        if len(self._callers) < self.most_connections:
            return Channel(self)
        self._watch.limited("client.max-connections")
        return None

    def make_channel(self) -> Channel:
        """Make a channel for a connection that has been accepted already."""
        return Channel(self)

    def admit(self, channel: Channel) -> bool:
        """Whether there is room for one more connection."""
        return (
            self._has_room()
            and self._may_have_one(channel.peer)
            and self._keep(channel, channel.peer)
        )

    def hold(self, caller: TrackedConnection) -> bool:
        """Whether there is room for one more whose client is not known yet, and so counts to no address."""
        return self._has_room() and self._keep(caller, None)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._callers)

    def _has_room(self) -> bool:
        taken = len(self._callers)
        if taken >= self.settings.max_connections or taken >= self.most_connections:
            self._watch.limited("client.max-connections")
            if self._when_full is WhenFull.REJECT:
                return False
            oldest = next(iter(self._callers))
            oldest.cut()
            # Its connection ends in a later turn, and others may come in this one.
            self.leave(oldest)
        return not self.draining

    def _may_have_one(self, host: str) -> bool:
        admitted = self._limits.admit(host)
        if not admitted:
            self._watch.limited(self._limits.met)
        return admitted

    def _keep(self, caller: TrackedConnection, host: str | None) -> bool:
        self._callers[caller] = host
        self.deadlines.watch(caller)
        return True

    def hand_over(self, caller: TrackedConnection, connect: Callable[[], object]) -> None:
        """The connection goes on as another caller, which ``connect`` lets in, at the end too; meanwhile that is not there."""
        self._callers.pop(caller, None)
        self.deadlines.forget(caller)
        draining, self.draining = self.draining, False
        try:
            connect()
        finally:
            self.draining = draining
        self._end_if_empty()

    def leave(self, caller: TrackedConnection) -> None:
        """The connection has ended."""
        host = self._callers.pop(caller, None)
        if host is not None:
            self._limits.leave(host)
        self.deadlines.forget(caller)
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if not self._callers:
            drained, self._drained = self._drained, []
            for deferred in drained:
                deferred.callback(None)

    def drain(self) -> Deferred[None]:
        """Let what is in flight end within ``drain_timeout``; fires when no connection is left."""
        self.draining = True
        for caller in tuple(self._callers):
            caller.drain()
        if not self._callers:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drained.append(drained)
        cut = self.deadlines.clock.callLater(self.settings.drain_timeout, self._cut_all)
        return drained.addBoth(lambda _: cut.cancel() if cut.active() else None)

    def _cut_all(self) -> None:
        for caller in tuple(self._callers):
            caller.cut()


class TlsFactory(NamedFactory):
    """Makes a TLS stream for each connection, with a protocol of ``factory``'s on it. ``protocols``: those that are."""

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
