"""Tests of :mod:`x509proxy.transport.own_connections`: the process recognizes itself."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.transport import own_connections


@attrs.frozen
class End:
    """One end of a connection."""

    here: Any
    there: Any

    def getHost(self) -> Any:
        return self.here

    def getPeer(self) -> Any:
        return self.there


def ipv4(port: int, host: str = "127.0.0.1") -> IPv4Address:
    return IPv4Address("TCP", host, port)


class Own(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(own_connections, "_open", set())

    def test_open(self) -> None:
        """A client is this process as long as its connection is open."""
        key = own_connections.opened(End(ipv4(4000), ipv4(443)))
        accepted = End(ipv4(443), ipv4(4000))
        self.assertTrue(own_connections.is_own(accepted))
        own_connections.closed(key)
        self.assertFalse(own_connections.is_own(accepted))

    def test_same_port(self) -> None:
        """Another client may have the address and port of a connection to a back end."""
        own_connections.opened(End(ipv4(4000), ipv4(8080)))
        for accepted in (
            End(ipv4(443), ipv4(4000)),
            End(ipv4(8080), ipv4(4001)),
            End(ipv4(8080), ipv4(4000, "127.0.0.2")),
            End(ipv4(8080, "127.0.0.2"), ipv4(4000)),
        ):
            self.assertFalse(own_connections.is_own(accepted))

    def test_mapped(self) -> None:
        """A listener for both families reports IPv4 addresses as mapped ones."""
        own_connections.opened(End(ipv4(4000), ipv4(443)))
        here, there = (IPv6Address("TCP", "::ffff:127.0.0.1", port) for port in (443, 4000))
        self.assertTrue(own_connections.is_own(End(here, there)))

    def test_unix(self) -> None:
        """A unix socket has no address to compare."""
        socket = End(UNIXAddress(b"/a"), UNIXAddress(None))
        own_connections.closed(own_connections.opened(socket))
        own_connections.opened(End(ipv4(4000), ipv4(443)))
        self.assertFalse(own_connections.is_own(socket))
