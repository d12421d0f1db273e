"""A TLS stream in memory, between a client and an application that records."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IHandshakeListener,
    IPushProducer,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.support.memory import RequestTransport
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.downstream.factory import TlsFactory
from x509proxy.monitoring.counters import Counters
from x509proxy.monitoring.handshake_log_format import HandshakeFailure
from x509proxy.settings import ClientAuth
from x509proxy.transport.tls_context import ServerConnections, make_context

SERVER = make_self_signed(KeyKind.EC, "localhost", server=True)


@implementer(IHandshakeListener, IPushProducer)
class Application(Protocol):
    """A protocol over the stream: it records events, and calls ``then`` with the data."""

    transport: Any

    def __init__(self) -> None:
        self.told: list[object] = []
        self.then: Any = id

    def handshakeCompleted(self) -> None:
        self.told.append("shaken")

    def dataReceived(self, data: bytes) -> None:
        self.told.append(data)
        self.then(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.told.append("lost")

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class StreamTestCase(SynchronousTestCase):
    VERSION = SSL.TLS1_3_VERSION
    LIMIT = 32768

    def setUp(self) -> None:
        self.application = Application()
        self.connect(Factory.forProtocol(lambda: self.application))

    def connect(self, factory: Factory) -> None:
        context = make_context(
            Identity(SERVER.certificate, SERVER.private_key), ClientAuth.OPTIONAL
        )
        self.clock = Clock()
        self.counters = Counters()
        self.logged: list[HandshakeFailure] = []
        connections = ServerConnections(
            context, None, self.counters, self.logged.append, self.LIMIT
        )
        self.factory = TlsFactory(connections, factory, self.clock)
        stream: Any = self.factory.buildProtocol(None)
        self.stream = stream
        self.wire = RequestTransport(self.clock).attach(stream)
        client = SSL.Context(SSL.TLS_CLIENT_METHOD)
        client.set_min_proto_version(self.VERSION)
        client.set_max_proto_version(self.VERSION)
        self.client = SSL.Connection(client, None)
        self.client.set_connect_state()

    def take(self) -> bytes:
        """Return the bytes that the client has to send."""
        try:
            return self.client.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""

    def exchange(self) -> bytes:
        """Transfer the pending bytes in both directions; return the client's decrypted bytes."""
        heard = b""
        for _ in range(6):
            if data := self.wire.sent():
                self.client.bio_write(data)
            try:
                self.client.do_handshake()
                while True:
                    heard += self.client.recv(1 << 20)
            except SSL.WantReadError:
                pass
            except SSL.ZeroReturnError:
                return heard + b"<close_notify>"
            if data := self.take():
                self.wire.deliver(data)
        return heard

    def shake(self) -> None:
        self.exchange()
        self.assertEqual(["shaken"], self.application.told)
        self.application.told.clear()

    def turn(self) -> None:
        """Run the scheduled turns of the reactor."""
        while self.clock.calls:
            self.clock.advance(0)

    def say(self, *said: bytes) -> None:
        """Send several records in one packet."""
        for one in said:
            self.client.send(one)
        self.wire.deliver(self.take())
