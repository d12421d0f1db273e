"""The certificate header from end to end: ``curl``, real sockets, the back end's bytes."""

from __future__ import annotations

import itertools
from base64 import b64decode
from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults, inlineCallbacks
from twisted.internet.endpoints import TCP4ServerEndpoint, wrapServerTLS
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.support.certificates import KINDS, pair
from tests.support.endpoints import TLS_VERSIONS, curl, reactor, server_files, write_private
from x509proxy.certificates.pem_files import read_identity
from x509proxy.downstream.factory import ProxyFactory
from x509proxy.exchange import Exchange, Outcome
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.http1.fields import fold
from x509proxy.resource import X509ProxyResource
from x509proxy.settings import ClientAuth
from x509proxy.transport.tls_context import ServerConnections, make_context

BEGIN, END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_AT_ONCE = 6


class RecordingServer(Factory):
    """The back end: it responds to every request with its number, and records the bytes."""

    noisy = False

    def __init__(self) -> None:
        self.received: dict[bytes, list[tuple[bytes, bytes]]] = {}
        self.connections: set[RecordingProtocol] = set()
        self.none_left: Deferred[None] | None = None

    def buildProtocol(self, addr: object) -> RecordingProtocol:
        return RecordingProtocol(self)


class RecordingProtocol(Protocol):
    def __init__(self, server: RecordingServer) -> None:
        self.server = server
        self.buffer = b""

    def connectionMade(self) -> None:
        self.server.connections.add(self)

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            line, *fields = head.split(b"\r\n")
            target = line.split(b" ")[1]
            assert target not in self.server.received
            self.server.received[target] = [
                (name, value) for name, _, value in (field.partition(b": ") for field in fields)
            ]
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.server.connections.discard(self)
        if not self.server.connections and self.server.none_left is not None:
            self.server.none_left.callback(None)


class EndToEndTestCase(TestCase):
    def setUp(self) -> None:
        self.header = new_header_name()
        self.exchanges: list[Exchange] = []
        self.server = RecordingServer()
        certificate, key = self.mktemp(), self.mktemp()
        server_files(certificate, key)
        self.server_certificate = certificate

        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        server_port: Any = self.successResultOf(endpoint.listen(self.server))
        self.resource = X509ProxyResource(
            "127.0.0.1",
            server_port.getHost().port,
            b"",
            reactor,
            header=self.header,
            observe=self.exchanges.append,
        )
        self.proxy = ProxyFactory(self.resource, self.resource.deadlines)
        connections = ServerConnections(
            make_context(read_identity(certificate, key), ClientAuth.OPTIONAL)
        )
        proxy_port: Any = self.successResultOf(
            wrapServerTLS(connections, endpoint).listen(self.proxy)
        )
        self.port: int = proxy_port.getHost().port
        self.ports = (proxy_port, server_port)
        self.addCleanup(self.stop)

    @inlineCallbacks
    def stop(self) -> Generator[Any, Any, None]:
        for port in self.ports:
            yield port.stopListening()
        yield self.proxy.drain()
        self.resource.close()
        if self.server.connections:
            self.server.none_left = Deferred()
            yield self.server.none_left

    def ask(
        self, targets: list[str], version: str, *more: str
    ) -> Deferred[tuple[bytes, bytes, int]]:
        """Run one ``curl`` for all targets, which share a connection if possible.

        Return its output, with the number of connections for each target.
        """
        urls = [f"https://localhost:{self.port}{target}" for target in targets]
        where = (
            "--resolve",
            f"localhost:{self.port}:127.0.0.1",
            "--cacert",
            self.server_certificate,
        )
        return curl(
            *TLS_VERSIONS[version],
            *where,
            "--write-out",
            " %{http_code} %{num_connects}\n",
            *more,
            *urls,
        )

    def identity(self, target: str) -> list[tuple[bytes, bytes]]:
        """Return the fields that a lenient reader could take for the secret one, for a target."""
        wanted = fold(self.header.encode())
        return [
            field for field in self.server.received[target.encode()] if fold(field[0]) == wanted
        ]


class Evidence(EndToEndTestCase):
    @inlineCallbacks
    def test_table(self) -> Generator[Any, Any, None]:
        """With each key, TLS version, connection and forgery the one header is this client's."""
        files = {kind: write_private(self.mktemp(), pair(kind).pem) for kind in KINDS}
        forgeries = itertools.chain.from_iterable(
            ("--header", f"{name}: {BEGIN.decode()}AAAA{END.decode()}")
            for name in (
                self.header,
                self.header.upper(),
                self.header.replace("-", "_"),
                self.header.replace("-", "."),
            )
        )
        claims = tuple(forgeries)
        at_once = DeferredSemaphore(_AT_ONCE)
        cells = list(itertools.product(KINDS, TLS_VERSIONS, (1, 2)))
        answers = yield gatherResults(
            at_once.run(
                self.ask,
                self.targets(*cell),
                cell[1],
                "--cert",
                files[cell[0]],
                "--key",
                files[cell[0]],
                *claims,
            )
            for cell in cells
        )
        for cell, (output, complaint, code) in zip(cells, answers, strict=True):
            self.assertEqual((0, b""), (code, complaint), cell)
            # One connection for all of a cell's requests.
            self.assertEqual(
                b"".join(b"ok 200 %d\n" % (number == 0) for number in range(cell[2])), output, cell
            )
            for target in self.targets(*cell):
                self.check_identity(target, pair(cell[0]).der)
        self.check_exchanges(sum(cell[2] for cell in cells))

    def targets(self, kind: str, version: str, count: int) -> list[str]:
        return [f"/{kind.replace(' ', '-')}/{version}/{count}/{number}" for number in range(count)]

    def check_identity(self, target: str, der: bytes) -> None:
        ((name, value),) = self.identity(target)
        self.assertEqual(self.header.encode(), name)
        self.assertTrue(value.startswith(BEGIN) and value.endswith(END), target)
        text = value.removeprefix(BEGIN).removesuffix(END)
        self.assertEqual(der, b64decode(text, validate=True), target)
        self.assertEqual(len(text), -(-len(der) // 3) * 4, target)

    def check_exchanges(self, count: int) -> None:
        self.assertEqual(count, len(self.exchanges))
        self.assertEqual({Outcome.COMPLETED}, {exchange.outcome for exchange in self.exchanges})
        self.assertEqual(
            {(2, 2)},
            {(exchange.forged, exchange.invalid_header_names) for exchange in self.exchanges},
        )
        self.assertEqual(set(TLS_VERSIONS), {exchange.tls_version for exchange in self.exchanges})

    @inlineCallbacks
    def test_no_certificate(self) -> Generator[Any, Any, None]:
        """A client without a certificate has no such header, with any claim, in either version."""
        claim = ("--header", f"{self.header}: {BEGIN.decode()}AAAA{END.decode()}")
        for version in TLS_VERSIONS:
            output, complaint, code = yield self.ask([f"/{version}"], version, *claim)
            self.assertEqual((b"ok 200 1\n", b"", 0), (output, complaint, code))
            self.assertEqual([], self.identity(f"/{version}"))

    @inlineCallbacks
    def test_one_after_the_other(self) -> Generator[Any, Any, None]:
        """Two clients in a row over one connection to the back end are never confused."""
        for number, kind in enumerate(["EC P-256", "Ed25519", None, "EC P-256"]):
            shown: tuple[str, ...] = ()
            if kind is not None:
                path = write_private(self.mktemp(), pair(kind).pem)
                shown = ("--cert", path, "--key", path)
            _, complaint, code = yield self.ask([f"/{number}"], "TLSv1.3", *shown)
            self.assertEqual((b"", 0), (complaint, code))
            if kind is None:
                self.assertEqual([], self.identity(f"/{number}"))
            else:
                self.check_identity(f"/{number}", pair(kind).der)
        self.assertEqual(1, len(self.server.connections))
