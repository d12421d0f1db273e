"""Listeners behind the PROXY protocol, in memory."""

from __future__ import annotations

import contextlib

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import GET, RecordingHandler, RequestTransport, reply
from tests.support.proxy_headers import binary
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.downstream.factory import ProxyFactory
from x509proxy.downstream.proxy_protocol_listener import ProxiedFactory, stream_factory
from x509proxy.monitoring.counters import Counters
from x509proxy.settings import (
    ClientAuth,
    ClientSettings,
    ListenerSettings,
)
from x509proxy.transport.deadlines import Deadlines
from x509proxy.transport.tls_context import ServerConnections, make_context

SERVER = make_self_signed(KeyKind.EC, "localhost", server=True)


BALANCER = IPv4Address("TCP", "127.0.0.1", 50000)


ELSEWHERE = IPv4Address("TCP", "127.0.0.1", 50001)


LOCAL = binary(b"", 0x00, 0x20)


def hello() -> bytes:
    """Return a client's first flight."""
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    client.set_connect_state()
    with contextlib.suppress(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(1 << 16)


class ProxiedTestCase(SynchronousTestCase):
    SETTINGS = ClientSettings()
    PLACE = ListenerSettings(endpoint="haproxy:tcp:8443")

    def setUp(self) -> None:
        self.clock = Clock()
        self.handler = RecordingHandler()
        self.handler.then = reply
        self.owner = ProxyFactory(self.handler, Deadlines(self.clock), self.SETTINGS)
        context = make_context(
            Identity(SERVER.certificate, SERVER.private_key), ClientAuth.OPTIONAL
        )
        self.counters = Counters()
        connections = ServerConnections(context, watch=self.counters)
        factory = stream_factory(connections, self.owner, self.PLACE)
        assert isinstance(factory, ProxiedFactory)
        self.factory = factory

    def wire(self, *pieces: bytes, peer: object = BALANCER) -> RequestTransport:
        """Open a connection, on which these pieces arrive."""
        wire = RequestTransport(self.clock, peer).attach(self.factory.buildProtocol(None))
        wire.deliver(*pieces)
        return wire

    def talk(self, wire: RequestTransport, first: bytes, *, cut: bool = False) -> bytes:
        """Return the bytes that an OpenSSL client receives for a request after ``first``.

        ``cut``: each byte arrives alone; otherwise ``first`` is in one piece with the hello.
        """
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        client = SSL.Connection(context, None)
        client.set_connect_state()
        heard, asked = b"", False
        for _ in range(6):
            if data := wire.sent():
                client.bio_write(data)
            try:
                client.do_handshake()
                if not asked:
                    asked = True
                    client.send(GET)
                heard += client.recv(1 << 16)
            except SSL.WantReadError:
                pass
            try:
                data, first = first + client.bio_read(1 << 16), b""
            except SSL.WantReadError:
                continue
            wire.deliver(*([bytes([octet]) for octet in data] if cut else [data]))
        return heard

    def served(self) -> tuple[str, int]:
        """Return the address and the port that the last request came from and to."""
        hop = self.handler.requests[-1].client.hop
        return hop.peer, hop.port

    def assert_cut(self, wire: RequestTransport) -> None:
        """Check that the connection was aborted without a byte."""
        self.assertEqual((True, b""), (wire.aborted, wire.sent()))
