"""Promises of :mod:`x509proxy.transport.fast_accept`: connections like Twisted's own."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Server
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.raw_tls import until
from x509proxy.transport.epoll import join
from x509proxy.transport.fast_accept import Accepted, take_for


class Alike(SynchronousTestCase):
    def test_attributes(self) -> None:
        """It has all that Twisted's has, with the same values, but for the two texts."""
        one, other = socket.socketpair()
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        protocol, watcher = Protocol(), Watcher()
        given: Any = (one, protocol, ("192.0.2.1", 4000), Port(), 7, watcher)
        theirs, ours = Server(*given), Accepted(None, *given)
        expected = {
            name: value for name, value in vars(theirs).items() if name not in ("logstr", "repstr")
        }
        found = {
            name: value
            for name, value in vars(ours).items()
            if name not in ("_peer", "_host", "_no_delay")
        }
        self.assertEqual(expected, found)
        self.assertEqual((theirs.getPeer(), [theirs, ours]), (ours.getPeer(), watcher.readers))
        self.assertEqual("<Accepted #7>", repr(ours))

    def test_others(self) -> None:
        """A port that makes connections of another kind goes on doing so."""

        class Other(Server):
            """Somebody's own."""

        port: Any = reactor.listenTCP(0, Factory(), interface="127.0.0.1")  # type: ignore[arg-type]
        self.addCleanup(port.stopListening)
        port.transport = Other
        take_for(port)
        self.assertIs(Other, port.transport)


class Watcher(Clock):
    """A reactor that remembers whom it watches."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)


class Port:
    """As much of a port as a connection looks at."""

    _realPortNumber = 8443


class Real(TestCase):
    """On the loopback."""

    timeout = 30

    async def accepted(self, interface: str, address: str) -> Any:
        """The transport of a connection to that address, of a port that has been joined."""
        made: list[Protocol] = []

        def build() -> Protocol:
            made.append(Protocol())
            return made[-1]

        factory: Any = Factory.forProtocol(build)
        port: Any = reactor.listenTCP(0, factory, interface=interface)
        self.addCleanup(port.stopListening)
        join(port)
        client = socket.create_connection((address, port.getHost().port), 10)
        self.addCleanup(client.close)
        await until(lambda: made and made[0].transport)
        self.addCleanup(made[0].transport.abortConnection)  # type: ignore[union-attr]
        self.names = client.getsockname(), client.getpeername()
        return made[0].transport

    async def test_ipv4(self) -> None:
        """It says who is at either end, be it that its port has one address or all."""
        for interface, address in (("127.0.0.1", "127.0.0.1"), ("", "127.0.0.2")):
            transport = await self.accepted(interface, address)
            self.assertIsInstance(transport, Accepted)
            near, far = self.names
            self.assertEqual(
                (IPv4Address("TCP", *near), IPv4Address("TCP", *far)),
                (transport.getPeer(), transport.getHost()),
            )

    async def test_no_delay(self) -> None:
        """The kernel sends what is written without delay, until it is told otherwise, and then again."""
        transport = await self.accepted("127.0.0.1", "127.0.0.1")
        self.assertTrue(transport.getTcpNoDelay())
        for enabled in (True, False, False, True):
            transport.setTcpNoDelay(enabled)
            self.assertIs(enabled, transport.getTcpNoDelay())

    async def test_ipv6(self) -> None:
        """With other addresses it is Twisted's."""
        transport = await self.accepted("::1", "::1")
        self.assertIs(Server, type(transport))
        self.assertEqual(IPv6Address("TCP", *self.names[0]), transport.getPeer())
