"""Tests of :mod:`x509proxy.downstream.address_limits`.

The connections of one address are bounded, and so is the memory for them.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.downstream import address_limits
from x509proxy.downstream.address_limits import AddressLimits
from x509proxy.settings import ClientSettings


class Limits(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = 0.0

    def limits(
        self, connections: int | None = None, handshakes: float | None = None
    ) -> AddressLimits:
        settings = ClientSettings(
            max_connections_per_address=connections, handshake_rate_per_address=handshakes
        )
        return AddressLimits(settings, lambda: self.time)

    def admitted(self, limits: AddressLimits, host: str, times: int) -> int:
        return sum(limits.admit(host) for _ in range(times))


class Off(Limits):
    def test_off(self) -> None:
        """Without configured limits, an address may have any number of connections."""
        self.assertEqual(10000, self.admitted(self.limits(), "192.0.2.1", 10000))


class Connections(Limits):
    def test_most(self) -> None:
        """Each address may have the same number of connections, and no more."""
        limits = self.limits(connections=3)
        self.assertEqual(
            (3, 3), (self.admitted(limits, "192.0.2.1", 9), self.admitted(limits, "192.0.2.2", 9))
        )

    def test_leave(self) -> None:
        """A connection that ends makes room for another.

        An address without connections is dropped.
        """
        limits = self.limits(connections=2)
        self.admitted(limits, "192.0.2.1", 5)
        limits.leave("192.0.2.1")
        self.assertEqual(1, self.admitted(limits, "192.0.2.1", 5))
        limits.leave("192.0.2.1")
        limits.leave("192.0.2.1")
        self.assertEqual({}, limits._connections)

    def test_networks(self) -> None:
        """The addresses of one IPv6 /64 network count as one, with or without a zone."""
        limits = self.limits(connections=2)
        self.assertEqual(1, self.admitted(limits, "2001:db8::1", 1))
        self.assertEqual(1, self.admitted(limits, "2001:db8::ffff%eth0", 5))
        self.assertEqual(2, self.admitted(limits, "2001:db8:0:1::1", 5))

    def test_dual_stack(self) -> None:
        """Clients of a dual-stack socket (``::ffff:192.0.2.1``) count by their IPv4 address."""
        limits = self.limits(connections=1)
        hosts = ("::ffff:192.0.2.1", "::ffff:198.51.100.9", "192.0.2.1")
        self.assertEqual([True, True, False], [limits.admit(host) for host in hosts])

    def test_no_address(self) -> None:
        """A peer without an IP address is counted too."""
        self.assertEqual(2, self.admitted(self.limits(connections=2), "no:address", 5))


class Handshakes(Limits):
    def test_burst(self) -> None:
        """Connections of two seconds may come at once, and then the rate holds."""
        limits = self.limits(handshakes=5)
        self.assertEqual(10, self.admitted(limits, "192.0.2.1", 100))
        self.time = 1.0
        self.assertEqual(5, self.admitted(limits, "192.0.2.1", 100))
        self.time = 1000.0
        self.assertEqual(10, self.admitted(limits, "192.0.2.1", 100))

    def test_less_than_one(self) -> None:
        """A rate below one a second admits one connection at a time."""
        limits = self.limits(handshakes=0.1)
        self.assertEqual(1, self.admitted(limits, "192.0.2.1", 5))
        self.time = 10.5
        self.assertEqual(1, self.admitted(limits, "192.0.2.1", 5))

    def test_table(self) -> None:
        """The table does not grow with the number of addresses, even if none of them pauses."""
        self.patch(address_limits, "_MAX_ENTRIES", 100)
        limits = self.limits(handshakes=1)
        for number in range(1000):
            limits.admit(f"192.0.{number // 256}.{number % 256}")
            self.assertLessEqual(len(limits._tokens), 100)

    def test_rested(self) -> None:
        """A full table drops the entries of addresses that have paused."""
        self.patch(address_limits, "_MAX_ENTRIES", 3)
        limits = self.limits(handshakes=1)
        limits.admit("192.0.2.1")
        self.time = 100.0
        self.admitted(limits, "192.0.2.2", 2)
        self.admitted(limits, "192.0.2.3", 1)
        self.assertTrue(limits.admit("192.0.2.4"))
        self.assertFalse(limits.admit("192.0.2.2"))
