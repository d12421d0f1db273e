"""Tests of :mod:`x509proxy.upstream.endpoints`: only a verified back end receives anything."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ServerEndpoint,
    UNIXServerEndpoint,
    wrapServerTLS,
)
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import directlyProvides, implementer

from tests.support.memory import OK, RecordingWaiter
from tests.support.raw_tls import until
from tests.support.tls_memory import accept, pump, server_context
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.http1.errors import Code
from x509proxy.settings import Backend, ClientAuth, SettingsError, UpstreamSettings
from x509proxy.transport.deadlines import Deadlines, HasDeadline
from x509proxy.transport.tls_context import ServerConnections, make_context, peer_certificate
from x509proxy.upstream import endpoints
from x509proxy.upstream.endpoints import (
    PendingInput,
    UnreadInput,
    backend_endpoint,
    check_identity,
)
from x509proxy.upstream.pool import Pool

SETTINGS = UpstreamSettings(connect_timeout=7)


def server(*names: str) -> SelfSigned:
    return make_self_signed(KeyKind.EC, names[0], names=names, server=True)


def identity(made: SelfSigned) -> Identity:
    return Identity(made.certificate, made.private_key)


class Doubts(SynchronousTestCase):
    def test_doubt(self) -> None:
        """A certificate with a doubtful name is rejected, to OpenSSL and to Twisted.

        One that OpenSSL objects to is rejected as well.
        """
        failures: list[Failure] = []
        connection: Any = SimpleNamespace(
            get_app_data=lambda: SimpleNamespace(failVerification=failures.append)
        )
        good, other = (
            crypto.X509.from_cryptography(server(name).certificate)
            for name in ("localhost", "other.example")
        )
        verified = endpoints._VerifyingCreator(None, "localhost")
        answers = [
            verified._verify(connection, *seen)
            for seen in ((good, 0, 0, 1), (good, 20, 0, 0), (other, 0, 0, 1), (other, 0, 1, 1))
        ]
        self.assertEqual(([True, False, False, True], 1), (answers, len(failures)))


class OwnCertificate(SynchronousTestCase):
    def test_good(self) -> None:
        """A certificate that OpenSSL accepts raises nothing."""
        check_identity(identity(server("proxy")))

    def test_bad(self) -> None:
        """A certificate or key that OpenSSL rejects is one error sentence."""

        def reject(*_: object) -> None:
            raise SSL.Error

        self.patch(endpoints, "_client_options", reject)
        error = str(self.assertRaises(SettingsError, check_identity, identity(server("a"))))
        self.assertTrue(
            error.startswith("upstream.certificate: found a certificate or a key"), error
        )


class ByUrl(SynchronousTestCase):
    """Endpoints by the form of the URL."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()

    def connect(self, url: str) -> None:
        backend_endpoint(self.reactor, Backend.parse(url), SETTINGS).connect(
            Factory.forProtocol(Protocol)
        )

    def test_address(self) -> None:
        """An address of either version is used as it is, with its timeout, with or without TLS."""
        for url, expected in (
            ("http://192.0.2.1", ("192.0.2.1", 80, 7)),
            ("http://[2001:db8::1]:8080", ("2001:db8::1", 8080, 7)),
            ("https://192.0.2.1", ("192.0.2.1", 443, 7)),
            ("https://[2001:db8::1]:8443", ("2001:db8::1", 8443, 7)),
        ):
            self.connect(url)
            host, port, _, timeout, _ = self.reactor.tcpClients[-1]
            self.assertEqual(expected, (host, port, timeout))

    def test_unix(self) -> None:
        """A unix socket is used with its timeout."""
        self.connect("unix:/run/as.sock")
        path, _, timeout, _ = self.reactor.unixClients[0]
        self.assertEqual(("/run/as.sock", 7), (path, timeout))

    def test_name(self) -> None:
        """A name is resolved."""
        endpoint = backend_endpoint(self.reactor, Backend.parse("http://as.example:8080"), SETTINGS)
        self.assertIsInstance(endpoint, HostnameEndpoint)
        self.assertIn("as.example", str(endpoint))


class SocketTransport:
    """A transport over a real socket."""

    def __init__(self, handle: socket.socket) -> None:
        self._handle = handle

    def getHandle(self) -> socket.socket:
        return self._handle


class UnreadInputTests(SynchronousTestCase):
    """Input that a back end sent before it closed."""

    def setUp(self) -> None:
        self.own, self.far = socket.socketpair()
        self.addCleanup(self.own.close)
        self.addCleanup(self.far.close)

    def test_taken(self) -> None:
        """Octets in the kernel can be read though the transport has closed its socket."""
        unread = UnreadInput(SocketTransport(self.own))
        self.far.sendall(b"abc")
        self.far.close()
        self.own.close()
        self.assertEqual((b"ab", b""), (unread.take(2), unread.take(2)))

    def test_nothing(self) -> None:
        """Without input, nothing is waited for."""
        self.assertEqual(b"", UnreadInput(SocketTransport(self.own)).take(10))

    def test_forgotten(self) -> None:
        """The duplicate can be closed without being read, even twice."""
        unread = UnreadInput(SocketTransport(self.own))
        unread.forget()
        unread.forget()
        self.assertEqual(b"", unread.take(10))

    def test_no_socket(self) -> None:
        """Over TLS there is no duplicate: encrypted octets are of no use."""
        self.assertEqual(b"", UnreadInput(object()).take(10))


def connected() -> tuple[SSL.Connection, SSL.Connection]:
    """Return a server and a client with a finished handshake."""
    server = accept(ServerConnections(server_context()))
    server.set_accept_state()
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    client.set_connect_state()
    for one in (client, server) * 2:
        with contextlib.suppress(SSL.WantReadError):
            one.do_handshake()
        pump(client, server)
    return server, client


class PendingInputTests(SynchronousTestCase):
    """Input of an idle connection, plain or over TLS, before the connection is lent again."""

    def setUp(self) -> None:
        self.own, self.far = socket.socketpair()
        self.addCleanup(self.own.close)
        self.addCleanup(self.far.close)

    def found_empty(self) -> list[bool]:
        """Return the answers for the socket alone, and for TLS over it."""
        carrier = SocketTransport(self.own)
        transports = (carrier, SimpleNamespace(transport=carrier))
        return [PendingInput(transport).is_empty() for transport in transports]

    def test_quiet(self) -> None:
        """An open socket without input is empty."""
        self.assertEqual([True, True], self.found_empty())

    def test_closed(self) -> None:
        """A socket that the back end has closed is not empty."""
        self.far.close()
        self.assertEqual([False, False], self.found_empty())

    def test_octets(self) -> None:
        """Unrequested octets count, and stay unread; over TLS they may be a close_notify."""
        self.far.send(b"H")
        self.assertEqual(([False, False], b"H"), (self.found_empty(), self.own.recv(2)))

    def test_records(self) -> None:
        """Octets in OpenSSL count, and stay unread; so does the end of TLS, and its failure."""
        server, client = connected()
        pending = PendingInput(SimpleNamespace(getHandle=lambda: client))
        self.assertTrue(pending.is_empty())
        server.send(b"H")
        pump(server, client)
        self.assertEqual(
            (False, b"H", True), (pending.is_empty(), client.recv(2), pending.is_empty())
        )
        server.shutdown()
        pump(server, client)
        self.assertFalse(pending.is_empty())
        _, client = connected()
        client.bio_write(b"GET / HTTP/1.1\r\n")
        self.assertFalse(PendingInput(SimpleNamespace(getHandle=lambda: client)).is_empty())

    def test_closed_here(self) -> None:
        """A socket that has been closed on this side is not empty.

        Its number may belong to another socket by then.
        """
        pending = PendingInput(SocketTransport(self.own))
        number = self.own.detach()
        self.addCleanup(os.close, number)
        quiet, other = socket.socketpair()
        with quiet, other:
            os.dup2(quiet.fileno(), number)
            self.assertFalse(pending.is_empty())

    def test_reset(self) -> None:
        """A socket that was reset is not empty."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.own = socket.create_connection(listening.getsockname())
            self.addCleanup(self.own.close)
            far, _ = listening.accept()
        # To close with a linger time of zero resets the connection.
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        self.assertEqual([False, False], self.found_empty())

    def test_no_socket(self) -> None:
        """A transport without a socket counts as empty."""
        for transport in (object(), SimpleNamespace(getHandle=lambda: None)):
            self.assertTrue(PendingInput(transport).is_empty())


class Server(Protocol):
    """A back end that responds to any input; it keeps that input and the client certificate."""

    def __init__(self) -> None:
        self.received = b""
        self.client: ClientCertificate | None = None
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        assert self.transport is not None
        handle = getattr(self.transport, "getHandle", lambda: None)()
        if isinstance(handle, SSL.Connection):
            self.client = peer_certificate(handle)
        self.transport.write(OK)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


class ForOne(Factory):
    noisy = False

    def __init__(self, only: Server) -> None:
        self._only = only

    def buildProtocol(self, addr: IAddress | None) -> Server:
        return self._only


@implementer(IHostnameResolver, IHostResolution)
class ResolvingReactor:
    """The reactor with a resolver that the test controls."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.nameResolver = self
        self.name = ""  # of the resolution
        self.address = ""
        self.asked: list[str] = []
        directlyProvides(self, IReactorPluggableNameResolver, IHostnameResolver, IHostResolution)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        self.asked.append(hostName)
        resolutionReceiver.resolutionBegan(self)
        resolutionReceiver.addressResolved(IPv4Address("TCP", self.address, portNumber))
        resolutionReceiver.resolutionComplete()
        return self

    def cancel(self) -> None:
        """Do nothing: the resolution has ended."""


class Ending(Deadlines):
    """Deadlines that report when the only connection has ended."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self.ended: Deferred[None] = Deferred()

    def forget(self, waiter: HasDeadline) -> None:
        super().forget(waiter)
        if not self.ended.called:
            self.ended.callback(None)


class Sockets(TestCase):
    """Over real sockets."""

    timeout = 20

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.server = Server()
        self.deadlines = Ending()
        self.waiter = RecordingWaiter()

    async def listen(self, endpoint: IStreamServerEndpoint) -> Any:
        port = await endpoint.listen(ForOne(self.server))
        self.addCleanup(port.stopListening)
        return port.getHost()

    async def listen_tls(self, made: SelfSigned) -> int:
        connections = ServerConnections(make_context(identity(made), ClientAuth.OPTIONAL))
        host = await self.listen(
            wrapServerTLS(connections, TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1"))
        )
        assert isinstance(host, IPv4Address)
        return host.port

    async def ask(
        self, url: str, *authorities: SelfSigned, client: SelfSigned | None = None
    ) -> None:
        """Send a request; wait until it and its connection have ended."""
        backend = Backend.parse(url)
        trusted = [made.certificate for made in authorities]
        endpoint = backend_endpoint(
            self.reactor, backend, SETTINGS, trusted, identity(client) if client else None
        )
        pool = Pool(backend, endpoint, self.deadlines, SETTINGS)
        over: Deferred[None] = Deferred()
        self.waiter = RecordingWaiter(RecordingWaiter.ask, lambda _: over.callback(None))
        pool.acquire(self.waiter)
        await over
        pool.close()
        await gatherResults([self.server.lost, self.deadlines.ended])

    def expect_served(self) -> None:
        self.assertEqual([200, b"ok", "end"], self.waiter.told)
        self.assertEqual(b"GET / HTTP/1.1\r\n\r\n", self.server.received)

    def expect_not_served(self) -> None:
        """Check that no byte of the request was sent, encrypted or not."""
        self.assertEqual(
            ([502], [], []), (self.waiter.statuses, self.waiter.told, self.waiter.connections)
        )
        self.assertEqual(b"", self.server.received)

    async def test_plain(self) -> None:
        """A back end over TCP responds."""
        host = await self.listen(TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1"))
        await self.ask(f"http://127.0.0.1:{host.port}")
        self.expect_served()

    async def test_moved(self) -> None:
        """A name is looked up for each connection, so a name that moves is followed."""
        port = (await self.listen(TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1"))).port
        there = Server()
        listening = await TCP4ServerEndpoint(self.reactor, port, interface="127.0.0.2").listen(
            ForOne(there)
        )
        self.addCleanup(listening.stopListening)
        names, clock, backend = (
            ResolvingReactor(self.reactor),
            Clock(),
            Backend.parse(f"http://as.example:{port}"),
        )
        settings = UpstreamSettings(max_connection_age=100, idle_timeout=1000)
        pool = Pool(backend, backend_endpoint(names, backend, settings), Deadlines(clock), settings)
        for address, wait in (("127.0.0.1", 0), ("127.0.0.2", 101), ("127.0.0.2", 0)):
            names.address = address
            over: Deferred[RecordingWaiter] = Deferred()
            pool.acquire(RecordingWaiter(RecordingWaiter.ask, over.callback))
            await over
            clock.advance(wait)
        self.assertEqual(["as.example"] * 2, names.asked)
        asked = b"GET / HTTP/1.1\r\n\r\n"
        self.assertEqual((asked * 2, asked), (self.server.received, there.received))
        pool.close()
        await gatherResults([self.server.lost, there.lost])

    async def test_unix(self) -> None:
        """A back end behind a unix socket responds."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        path = str(Path(folder) / "s")
        await self.listen(UNIXServerEndpoint(self.reactor, path))
        await self.ask(f"unix:{path}")
        self.expect_served()

    async def test_name(self) -> None:
        """A back end with the right name and authority responds, and gets no client certificate."""
        made = server("localhost")
        await self.ask(
            f"https://localhost:{await self.listen_tls(made)}", server("other.example"), made
        )
        self.expect_served()
        self.assertIsNone(self.server.client)

    async def test_address(self) -> None:
        """So does a back end with the right address."""
        made = server("127.0.0.1")
        await self.ask(f"https://127.0.0.1:{await self.listen_tls(made)}", made)
        self.expect_served()

    async def test_wrong_name(self) -> None:
        """A back end with another name gets nothing, even with the right authority."""
        made = server("other.example")
        await self.ask(f"https://localhost:{await self.listen_tls(made)}", made)
        self.expect_not_served()

    async def test_no_name(self) -> None:
        """A back end without any name gets nothing.

        Twisted takes that for an error of its own, logs it, and continues (26.10).
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject, now = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]),
            datetime.now(UTC),
        )
        builder = x509.CertificateBuilder(
            subject, subject, key.public_key(), 1, now - timedelta(1), now + timedelta(1)
        )
        made = SelfSigned(builder.sign(key, hashes.SHA256()), key)
        await self.ask(f"https://localhost:{await self.listen_tls(made)}", made)
        self.expect_not_served()

    async def test_unreadable(self) -> None:
        """A back end whose certificate cannot be parsed gets nothing."""
        self.patch(crypto.X509, "to_cryptography", lambda _: 1 / 0)
        made = server("localhost")
        await self.ask(f"https://localhost:{await self.listen_tls(made)}", made)
        self.expect_not_served()

    async def test_wrong_address(self) -> None:
        """A back end with another address gets nothing."""
        made = server("127.0.0.2", "localhost")
        await self.ask(f"https://127.0.0.1:{await self.listen_tls(made)}", made)
        self.expect_not_served()

    async def test_unknown_authority(self) -> None:
        """A back end of another authority gets nothing, even with the right name."""
        await self.ask(
            f"https://localhost:{await self.listen_tls(server('localhost'))}", server("localhost")
        )
        self.expect_not_served()

    async def test_no_authority(self) -> None:
        """Without an authority none is trusted, not even those of the system."""
        await self.ask(f"https://localhost:{await self.listen_tls(server('localhost'))}")
        self.expect_not_served()

    async def test_identity(self) -> None:
        """A back end that requests a certificate gets the proxy's."""
        made, own = server("localhost"), make_self_signed(KeyKind.EC, "the proxy")
        await self.ask(f"https://localhost:{await self.listen_tls(made)}", made, client=own)
        self.expect_served()
        assert self.server.client is not None
        self.assertEqual("CN=the proxy", self.server.client.subject)

    async def test_ml_dsa_identity(self) -> None:
        """So does one with ML-DSA keys on both sides, for which pyOpenSSL has no class."""
        made = make_self_signed(KeyKind.ML_DSA_44, "localhost", server=True)
        own = make_self_signed(KeyKind.ML_DSA_65, "the proxy")
        await self.ask(f"https://localhost:{await self.listen_tls(made)}", made, client=own)
        self.expect_served()
        assert self.server.client is not None
        self.assertEqual("ML-DSA-65", self.server.client.key)
        # PKey; Python's default filters hide it.
        self.assertEqual(
            {DeprecationWarning}, {found["category"] for found in self.flushWarnings()}
        )

    async def test_no_complaints(self) -> None:
        """No deprecated interface of Twisted or pyOpenSSL is used."""
        made, own = server("localhost"), make_self_signed(KeyKind.EC, "the proxy")
        await self.ask(f"https://localhost:{await self.listen_tls(made)}", made, client=own)
        backend_endpoint(self.reactor, Backend.parse("https://as.example"), SETTINGS)
        self.assertEqual([], [warning["message"] for warning in self.flushWarnings()])


class FullQueue(TestCase):
    """A back end whose accept queue is full, so that no attempt to connect ends."""

    async def test_in_time(self) -> None:
        """It is a 504 with the code of the connect timeout, by address and by name."""
        from twisted.internet import reactor

        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            held = [socket.socket() for _ in range(4)]
            for one in held:
                self.addCleanup(one.close)
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            for host in ("127.0.0.1", "localhost"):
                backend = Backend.parse(f"http://{host}:{port}")
                settings = UpstreamSettings(connect_timeout=0.3)
                pool = Pool(
                    backend,
                    backend_endpoint(reactor, backend, settings),
                    Deadlines(reactor),
                    settings,
                )
                waiter = RecordingWaiter(RecordingWaiter.ask)
                pool.acquire(waiter)
                await until(lambda waiter=waiter: waiter.refusals)  # type: ignore[misc]
                self.assertEqual([Code.CONNECT_TIMEOUT], [one.code for one in waiter.refusals])
