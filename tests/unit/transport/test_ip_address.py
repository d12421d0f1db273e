"""Tests of :mod:`x509proxy.transport.ip_address`: one address per client, on any socket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.transport.ip_address import plain_address, subscriber


class Plain(SynchronousTestCase):
    def test_mapped(self) -> None:
        """An IPv4 client of a dual-stack socket is an IPv4 client."""
        for host in (
            "::ffff:192.0.2.1",
            "::FFFF:c000:201",
            "0:0:0:0:0:ffff:192.0.2.1",
            "::ffff:192.0.2.1%eth0",
        ):
            self.assertEqual("192.0.2.1", plain_address(host))

    def test_zone(self) -> None:
        """A zone names a network card of this host, and is no part of an address that is sent."""
        self.assertEqual("fe80::1", plain_address("fe80::1%eth0"))
        self.assertEqual("fe80::1", plain_address("fe80::1%25"))

    def test_plain(self) -> None:
        """Every other address stays what it is, and so does what is none."""
        for host in (
            "192.0.2.1",
            "2001:db8::7",
            "::1",
            "::",
            "::192.0.2.1",
            "64:ff9b::c000:201",
            "unknown",
            "",
            "no:address",
            "a%b",
        ):
            self.assertEqual(host.replace("::192.0.2.1", "::c000:201"), plain_address(host))

    @given(st.ip_addresses())
    def test_once(self, address: object) -> None:
        """A plain address stays plain."""
        self.assertEqual(plain_address(str(address)), plain_address(plain_address(str(address))))


class Subscriber(SynchronousTestCase):
    def test_ipv4(self) -> None:
        """An IPv4 client counts by its address, on any socket."""
        for host in ("192.0.2.1", "::ffff:192.0.2.1"):
            self.assertEqual("192.0.2.1", subscriber(host))

    def test_ipv6(self) -> None:
        """An IPv6 client counts by the network of its subscriber (RFC 6177)."""
        for host in ("2001:db8::1", "2001:db8::ffff%eth0"):
            self.assertEqual("2001:db8::/64", subscriber(host))

    def test_others(self) -> None:
        """Text that is no address counts as it is."""
        for host in ("unknown", "", "a:b"):
            self.assertEqual(host, subscriber(host))
