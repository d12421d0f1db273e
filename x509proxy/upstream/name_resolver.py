"""Lookups of back ends' names: by the system's resolver, one thread for each name.

The threads do not delay the end of the process.

Facts
-----
* Twisted's own resolver calls ``getaddrinfo`` in the reactor's pool of ten threads, once for each
  connection. A name server that does not respond fills the pool and its queue. The reactor ends
  only when both are empty: SIGTERM took 90 s.
* ``getaddrinfo`` cannot be cancelled. ``twisted.names`` can, but ignores ``nsswitch.conf``:
  ``/etc/hosts``, mDNS and systemd-resolved's names would be gone.
* A daemon thread does not delay the interpreter's end. The bound is one thread for each name:
  concurrent lookups of a name share the result, and give up by their own deadlines.
* Nothing is cached: ``getaddrinfo`` returns no time to live. The system's own caches have it.
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
    """Run ``work`` in a daemon thread, which does not delay the interpreter's end."""
    Thread(target=work, name="name lookup", daemon=True).start()


@implementer(IHostResolution)
@attrs.frozen
class _Resolution:
    name: str

    def cancel(self) -> None:
        """Do nothing: the lookup continues, and a receiver that has given up ignores the result."""


@attrs.frozen
class _Lookup:
    """A receiver of a lookup's result, with its port and address types."""

    receiver: IResolutionReceiver
    port: int
    types: tuple[Any, ...]
    transport: str

    def deliver(self, found: _Found) -> None:
        for family, _, _, _, address in found:
            type_ = _ADDRESSES.get(family)
            if type_ is not None and type_ in self.types:
                host, _, *rest = address
                self.receiver.addressResolved(type_(self.transport, host, self.port, *rest))
        self.receiver.resolutionComplete()


@implementer(IHostnameResolver)
class NameResolver:
    """Replacement for a reactor's resolver (``installNameResolver``)."""

    def __init__(
        self, reactor: Any, start: Callable[[Callable[[], None]], None] = start_thread
    ) -> None:
        self._reactor = reactor
        self._start = start
        self._waiting: dict[str, list[_Lookup]] = {}

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        resolution = _Resolution(hostName)
        types = tuple(_ADDRESSES.values() if addressTypes is None else addressTypes)
        resolutionReceiver.resolutionBegan(resolution)
        lookup = _Lookup(resolutionReceiver, portNumber, types, transportSemantics)
        if hostName in self._waiting:
            self._waiting[hostName].append(lookup)
        else:
            self._waiting[hostName] = [lookup]
            self._begin(hostName)
        return resolution

    def _begin(self, name: str) -> None:
        try:
            self._start(partial(self._look_up, name))
        except RuntimeError:
            # No more threads. The result is delivered later, since the receiver may not expect it
            # during this call.
            self._reactor.callLater(0, self._deliver, name, [])

    def _look_up(self, name: str) -> None:
        """Call ``getaddrinfo``; this runs in the thread."""
        try:
            found: _Found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = []
        self._reactor.callFromThread(self._deliver, name, found)

    def _deliver(self, name: str, found: _Found) -> None:
        for lookup in self._waiting.pop(name):
            lookup.deliver(found)
