"""A client's connection over IPv4: Twisted's, made with fewer steps.

Facts
-----
* ``Server`` makes two texts for logs of each connection, asks the protocol for its name for them, and asks the kernel and makes
  an address whenever it is asked who is where.
* What a socket is accepted by gives it ``TCP_NODELAY`` (tests/unit/transport/test_fast_accept.py looks).
"""

from __future__ import annotations

import socket
from functools import partial
from ipaddress import ip_address
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IProtocol
from twisted.internet.tcp import Port, Server

__all__ = ["Accepted", "take_for"]


class Accepted(Server):
    """What its parent is, but for the text that says in a log who is there. ``host``: of its port, if it is one address."""

    logstr = "x509proxy"

    def __init__(
        self, host: IPv4Address | None, sock: socket.socket, protocol: IProtocol, client: tuple[Any, ...], server: Port,
        sessionno: int, reactor: Any,
    ) -> None:  # fmt: skip
        # Not the parent's: all that it would do is here.
        FileDescriptor.__init__(self, reactor)
        sock.setblocking(False)  # noqa: FBT003 - Python's argument
        self.socket = sock
        self.fileno = sock.fileno
        self.protocol = protocol
        self.server = server
        self.client = client
        self.sessionno = sessionno
        self.hostname = client[0]
        self._host = host
        self._peer = IPv4Address("TCP", *client)
        self._no_delay = True
        self.startReading()  # type: ignore[no-untyped-call]
        self.connected = 1

    def __repr__(self) -> str:
        return f"<{type(self).__name__} #{self.sessionno}>"

    def getPeer(self) -> IPv4Address:
        return self._peer

    def getHost(self) -> Any:
        return self._host or super().getHost()  # type: ignore[no-untyped-call]

    def setTcpNoDelay(self, enabled: bool) -> None:
        if enabled is not self._no_delay:
            self._no_delay = enabled
            super().setTcpNoDelay(enabled)


def take_for(port: Any) -> None:
    """Have a port that listens make such connections from now on, if it makes Twisted's, and of IPv4."""
    if port.transport is Server and port.addressFamily == socket.AF_INET:
        port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host = port.getHost()
        port.transport = partial(Accepted, None if ip_address(host.host).is_unspecified else host)
