"""Listening sockets that another process has bound: the parent of workers, or systemd.

Facts
-----
* Twisted's port for an adopted unix socket changes the mode of its file to 666 and the length of
  its accept queue to 50. At the end it shuts the socket down for all processes, and removes the
  file. Each of these belongs to the process that has bound the socket.
* With an open mode, any local user can connect, and with a PROXY header choose an address.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from x509proxy.redaction import without_secrets

__all__ = ["adopt_port", "keeping_files"]


def adopt_port(reactor: Any, number: int, family: int, factory: Factory) -> IListeningPort:
    """Listen on a non-blocking socket that is already bound. Its descriptor is duplicated."""
    if family != socket.AF_UNIX:
        port: IListeningPort = reactor.adoptStreamPort(number, family, factory)
        return port
    adopted = _AdoptedUnixPort(socket.socket(fileno=os.dup(number)), factory, reactor)
    adopted.startListening()
    return adopted


def keeping_files(endpoint: Any) -> Any:
    """Return the endpoint, which from now on leaves the file of an adopted unix socket as it is."""
    if isinstance(endpoint, AdoptedStreamServerEndpoint):
        # The endpoint calls nothing else of its reactor.
        endpoint.reactor = _Adopter(endpoint.reactor)
    return endpoint


class _Adopter:
    """The part of a reactor that an endpoint of a passed socket calls."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def adoptStreamPort(self, number: int, family: int, factory: Factory) -> IListeningPort:
        return adopt_port(self._reactor, number, family, factory)


class _AdoptedUnixPort(unix.Port):
    """A port that leaves mode, owner, queue and file of its socket to the process that bound it."""

    _log = Logger(namespace=__name__)
    _shouldShutdown = False

    def __init__(self, held: socket.socket, factory: Factory, reactor: Any) -> None:
        super().__init__(held.getsockname(), factory, reactor=reactor)
        self._held = held

    def startListening(self) -> None:
        tcp._reservedFD.reserve()  # noqa: SLF001 - for accepting when no descriptors are left
        path = without_secrets(os.fsdecode(self._held.getsockname()))
        prefix = self._getLogPrefix(self.factory)
        self._log.info("{prefix} starting on {path!r}", prefix=prefix, path=path)
        self.factory.doStart()  # type: ignore[union-attr]
        self.socket = self._held
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        self.connected = True
        self.numberAccepts = 100
        self.startReading()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:
        # Not that of unix.Port, which removes the file.
        tcp.Port.connectionLost(self, reason)
