"""Lookups of back ends' names: by the system's resolver, one at a time for each name, in threads that the end does not wait for.

Facts
-----
* Twisted's own resolver calls ``getaddrinfo`` in the reactor's pool of ten threads, once for each connection. A name server that
  does not respond fills the pool and its queue, and the reactor ends only when both are empty: SIGTERM took 90 s.
* ``getaddrinfo`` cannot be cancelled. ``twisted.names`` can, and does not know ``nsswitch.conf``: ``/etc/hosts``, mDNS and
  systemd-resolved's names would be gone.
* A daemon thread does not hold up the interpreter's end. One for each name is the bound: those who ask in the meantime share the
  result, and give up by their own deadlines.
* Nothing is cached: ``getaddrinfo`` returns no time to live, and the system's own caches know it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread
from typing import Any

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from zope.interface import implementer

__all__ = ["NameResolver", "start_thread"]

_Found = list[tuple[Any, ...]]
_ADDRESSES: dict[Any, Any] = {socket.AF_INET: IPv4Address, socket.AF_INET6: IPv6Address}


def start_thread(work: Callable[[], None]) -> None:
    """Do ``work`` in a thread that the interpreter's end does not wait for."""
    Thread(target=work, name="name lookup", daemon=True).start()


@implementer(IHostResolution)
@attrs.frozen
class _Resolution:
    name: str

    def cancel(self) -> None:
        """A lookup goes on; its result is ignored by those who have given up."""


@attrs.frozen
class _Waiting:
    """One who asks, and what for."""

    receiver: IResolutionReceiver
    port: int
    kinds: tuple[Any, ...]
    transport: str

    def deliver(self, found: _Found) -> None:
        for family, _, _, _, where in found:
            kind = _ADDRESSES.get(family)
            if kind is not None and kind in self.kinds:
                host, _, *rest = where
                self.receiver.addressResolved(kind(self.transport, host, self.port, *rest))
        self.receiver.resolutionComplete()


@implementer(IHostnameResolver)
class NameResolver:
    """Takes the place of a reactor's resolver (``installNameResolver``)."""

    def __init__(
        self, reactor: Any, start: Callable[[Callable[[], None]], None] = start_thread
    ) -> None:
        self._reactor = reactor
        self._start = start
        self._waiting: dict[str, list[_Waiting]] = {}

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        resolution = _Resolution(hostName)
        kinds = tuple(_ADDRESSES.values() if addressTypes is None else addressTypes)
        resolutionReceiver.resolutionBegan(resolution)
        waiting = _Waiting(resolutionReceiver, portNumber, kinds, transportSemantics)
        if hostName in self._waiting:
            self._waiting[hostName].append(waiting)
        else:
            self._waiting[hostName] = [waiting]
            self._begin(hostName)
        return resolution

    def _begin(self, name: str) -> None:
        try:
            self._start(partial(self._look_up, name))
        except RuntimeError:
            # There can be no more threads; not in this call, whose receiver may not be ready for an end.
            self._reactor.callLater(0, self._deliver, name, [])

    def _look_up(self, name: str) -> None:
        """In the thread."""
        try:
            found: _Found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = []
        self._reactor.callFromThread(self._deliver, name, found)

    def _deliver(self, name: str, found: _Found) -> None:
        for waiting in self._waiting.pop(name):
            waiting.deliver(found)
