"""The server factory: makes a channel for each connection, keeps count of them, and drains them at the end."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from x509proxy.channel import Channel
from x509proxy.deadline import Deadlines
from x509proxy.limits import AddressLimits
from x509proxy.request import Serves
from x509proxy.settings import ClientSettings

__all__ = ["ProxyFactory"]


class ProxyFactory(Factory):
    """Makes a channel for each connection, keeps count of them, and drains them at the end."""

    noisy = False

    def __init__(self, serves: Serves, deadlines: Deadlines, settings: ClientSettings = ClientSettings()) -> None:
        self.serves = serves
        self.deadlines = deadlines
        self.settings = settings
        self.draining = False
        self._channels: set[Channel] = set()
        self._limits = AddressLimits(settings, deadlines.clock.seconds)
        self._drained: list[Deferred[None]] = []

    def buildProtocol(self, addr: IAddress | None) -> Channel:
        return Channel(self)

    def admit(self, channel: Channel) -> bool:
        """Whether there is room for one more connection."""
        if self.draining or len(self._channels) >= self.settings.connections or not self._limits.admit(channel.peer):
            return False
        self._channels.add(channel)
        self.deadlines.watch(channel)
        return True

    def leave(self, channel: Channel) -> None:
        """The connection has ended."""
        if channel in self._channels:
            self._channels.remove(channel)
            self._limits.leave(channel.peer)
        self.deadlines.forget(channel)
        if not self._channels:
            drained, self._drained = self._drained, []
            for deferred in drained:
                deferred.callback(None)

    def drain(self) -> Deferred[None]:
        """Let what is in flight end within ``stop_timeout``; fires when no connection is left."""
        self.draining = True
        for channel in tuple(self._channels):
            channel.drain()
        if not self._channels:
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drained.append(drained)
        cut = self.deadlines.clock.callLater(self.settings.stop_timeout, self._cut_all)
        return drained.addBoth(lambda _: cut.cancel() if cut.active() else None)

    def _cut_all(self) -> None:
        for channel in tuple(self._channels):
            channel.cut()
