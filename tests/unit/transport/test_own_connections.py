"""Tests of :mod:`x509proxy.transport.own_connections`: the process recognizes itself."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.transport import own_connections


@attrs.frozen
class Transport:
    """A connection with an address at one end, and the same at the other."""

    address: Any

    def getHost(self) -> Any:
        return self.address

    getPeer = getHost


class Own(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(own_connections, "_local", set())

    def test_open(self) -> None:
        """A client is this process as long as its connection is open."""
        here = Transport(IPv4Address("TCP", "127.0.0.1", 4000))
        key = own_connections.opened(here)
        self.assertTrue(own_connections.is_own(here))
        for host, port in (("127.0.0.1", 4001), ("127.0.0.2", 4000)):
            other = Transport(IPv4Address("TCP", host, port))
            self.assertFalse(own_connections.is_own(other))
        own_connections.closed(key)
        self.assertFalse(own_connections.is_own(here))

    def test_mapped(self) -> None:
        """A listener for both families reports an IPv4 client as a mapped address."""
        own_connections.opened(Transport(IPv4Address("TCP", "127.0.0.1", 4000)))
        mapped = Transport(IPv6Address("TCP", "::ffff:127.0.0.1", 4000))
        self.assertTrue(own_connections.is_own(mapped))

    def test_unix(self) -> None:
        """A unix socket has no address to compare."""
        socket = Transport(UNIXAddress(b"/a"))
        own_connections.closed(own_connections.opened(socket))
        own_connections.opened(Transport(IPv4Address("TCP", "127.0.0.1", 4000)))
        self.assertFalse(own_connections.is_own(socket))
