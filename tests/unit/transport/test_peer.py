"""Tests of :mod:`x509proxy.transport.peer`: who is there, of whatever transport."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.memory import TlsWire
from x509proxy.forwarding.client import Client, Hop
from x509proxy.transport.peer import client_of, peer_of


class Clients(SynchronousTestCase):
    def test_without_tls(self) -> None:
        """Without TLS there are addresses and no certificate."""
        transport = StringTransport(
            IPv6Address("TCP", "::1", 80), IPv6Address("TCP", "2001:db8::1", 40000)
        )
        self.assertEqual(Client(Hop("2001:db8::1", 80, "http")), client_of(transport))

    def test_plain(self) -> None:
        """A client by IPv4 on a dual-stack socket has its IPv4 address; no address has a zone."""
        for host, told in (("::ffff:192.0.2.1", "192.0.2.1"), ("fe80::1%eth0", "fe80::1")):
            transport = StringTransport(
                IPv6Address("TCP", "::", 80), IPv6Address("TCP", host, 40000)
            )
            self.assertEqual((told, told), (peer_of(transport), client_of(transport).hop.peer))
        over_tls = TlsWire(Clock())
        over_tls.peerAddr = IPv6Address("TCP", "::ffff:192.0.2.1", 40000)
        self.assertEqual("192.0.2.1", client_of(over_tls).hop.peer)

    def test_unix(self) -> None:
        """A unix socket has no addresses."""
        transport = StringTransport(UNIXAddress("/run/x"), UNIXAddress(None))
        self.assertEqual(
            ("unknown", Hop("unknown", 0, "http")), (peer_of(transport), client_of(transport).hop)
        )

    def test_over_tls(self) -> None:
        """Over TLS there are the certificate, the version and the key exchange group."""
        certificate = samples.certificate("CN=client")
        client = client_of(TlsWire(Clock(), certificate))
        assert client.certificate is not None
        self.assertEqual(
            ("https", "TLSv1.3", "X25519MLKEM768", "CN=client"),
            (
                client.hop.scheme,
                client.tls_version,
                client.key_exchange,
                client.certificate.subject,
            ),
        )
        self.assertIsNone(client_of(TlsWire(Clock())).certificate)

    def test_one_of_each(self) -> None:
        """A client with the same certificate and address is the same object.

        Any other is another.
        """
        one, two = samples.certificate("CN=client"), samples.certificate("CN=other")
        found = client_of(TlsWire(Clock(), one))
        self.assertIs(found, client_of(TlsWire(Clock(), one)))
        elsewhere = TlsWire(Clock(), one)
        elsewhere.peerAddr = IPv4Address("TCP", "198.51.100.8", 40000)
        others = [client_of(wire) for wire in (TlsWire(Clock(), two), TlsWire(Clock()), elsewhere)]
        self.assertEqual(4, len({id(client) for client in (found, *others)}))
