"""Tests of :mod:`x509proxy.testing`, the helpers for applications' tests."""

from __future__ import annotations

import ssl
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import BasicConstraints, DNSName, SubjectAlternativeName
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.server import Site
from twisted.web.test.requesthelper import DummyRequest

from tests.support.raw_tls import HEADER, ProxyTestCase, get, read_reply, until
from x509proxy import client_certificate
from x509proxy.certificates.client_certificate import Flag, Verdict
from x509proxy.certificates.self_signed import KeyKind, SelfSigned
from x509proxy.exchange import Exchange, Outcome
from x509proxy.testing import (
    RecordingBackEnd,
    ThrowAwayAuthority,
    client_identity,
    header_value,
    present,
    running_proxy,
)


class Certificates(SynchronousTestCase):
    def test_client_identity(self) -> None:
        """A client's certificate is self-signed and has the requested kind of key."""
        made = client_identity(KeyKind.RSA, "somebody")
        made.certificate.verify_directly_issued_by(made.certificate)
        self.assertIsInstance(made.private_key, rsa.RSAPrivateKey)
        self.assertEqual("CN=somebody", made.certificate.subject.rfc4514_string())
        self.assertIsInstance(client_identity().private_key, ec.EllipticCurvePrivateKey)

    def test_issued_to_clients(self) -> None:
        """The authority issues a client's certificate for the client's own key."""
        authority = ThrowAwayAuthority()
        made = authority.client("somebody", KeyKind.RSA)
        made.certificate.verify_directly_issued_by(authority.certificate)
        self.assertEqual(made.private_key.public_key(), made.certificate.public_key())
        self.assertEqual("CN=somebody", made.certificate.subject.rfc4514_string())

    def test_issued_to_servers(self) -> None:
        """A server's certificate holds the requested names, or ``localhost``."""
        authority = ThrowAwayAuthority()
        for asked, expected in (
            ((), ["localhost"]),
            (("a.example", "b.example"), ["a.example", "b.example"]),
        ):
            made = authority.server(*asked)
            names = made.certificate.extensions.get_extension_for_class(SubjectAlternativeName)
            self.assertEqual(expected, names.value.get_values_for_type(DNSName))

    def test_authority(self) -> None:
        """The authority is marked as one, critically."""
        constraints = ThrowAwayAuthority().certificate.extensions.get_extension_for_class(
            BasicConstraints
        )
        self.assertEqual((True, True), (constraints.critical, constraints.value.ca))

    def test_header_value(self) -> None:
        """The expected header value has the armour lines and no white space between them."""
        value = header_value(client_identity())
        self.assertRegex(
            value, rb"\A-----BEGIN CERTIFICATE-----[A-Za-z0-9+/]+=*-----END CERTIFICATE-----\Z"
        )


class Present(SynchronousTestCase):
    def present(self, client: SelfSigned | None, verdict: Verdict | None = None) -> Any:
        return client_certificate(present(DummyRequest([b""]), client, verdict))

    def test_self_signed(self) -> None:
        """A request has the certificate, as ``client_certificate`` returns it, without TLS."""
        made = client_identity(common_name="somebody")
        found = self.present(made)
        self.assertEqual(("CN=somebody", Verdict.SELF_SIGNED), (found.subject, found.verdict))
        self.assertEqual(made.certificate.public_bytes(Encoding.DER), found.der)
        self.assertEqual(frozenset(), found.flags_at(time.time()))

    def test_verdicts(self) -> None:
        """An issued certificate is trusted by default."""
        issued = ThrowAwayAuthority().client()
        self.assertIs(Verdict.TRUSTED, self.present(issued).verdict)
        self.assertIs(Verdict.UNTRUSTED, self.present(issued, Verdict.UNTRUSTED).verdict)

    def test_none(self) -> None:
        """A client without a certificate has none."""
        self.assertIsNone(self.present(None))

    def test_expired(self) -> None:
        """The certificate's dates are checked as usual."""
        found = self.present(client_identity())
        self.assertIn(Flag.EXPIRED, found.flags_at(found.not_after + 1))

    def test_transport(self) -> None:
        """The request's transport keeps its other methods."""
        request: Any = DummyRequest([b""])
        request.transport = StringTransport()
        present(request, client_identity())
        request.transport.write(b"data")
        self.assertEqual(b"data", request.transport.value())


class BackEnd(TestCase):
    timeout = 10

    def setUp(self) -> None:
        self.back_end = RecordingBackEnd(reactor)
        self.addCleanup(self.back_end.stop)

    def feed(self, *pieces: bytes) -> list[bytes]:
        """Return the bytes written to a connection that receives these pieces, without a socket."""
        written: list[bytes] = []

        class Transport:
            write = staticmethod(written.append)
            abortConnection = staticmethod(self.back_end.connections.clear)

        connection: Any = self.back_end.buildProtocol(None)
        connection.makeConnection(Transport())
        for piece in pieces:
            connection.dataReceived(piece)
        return written

    def test_raw(self) -> None:
        """A request is recorded byte for byte, for any split into pieces."""
        raw = b"POST /a?b HTTP/1.1\r\nHost: a\r\nx_odd:  1 \r\nContent-Length: 3\r\n\r\nabc"
        self.feed(*(raw[place : place + 1] for place in range(len(raw))))
        [request] = self.back_end.requests
        self.assertEqual(
            (raw, b"POST /a?b HTTP/1.1", b"abc"), (request.raw, request.start, request.body)
        )
        self.assertEqual(
            [(b"Host", b"a"), (b"x_odd", b"1"), (b"Content-Length", b"3")], request.pairs
        )
        self.assertEqual(raw, self.back_end.received)

    def test_chunked(self) -> None:
        """A chunked body is joined, and the request ends at the end of the body's frame."""
        first = (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nab\r\n3\r\ncd\n\r\n0\r\n\r\n"
        )
        second = b"GET /b HTTP/1.1\r\n\r\n"
        for pieces in (
            [first + second],
            [(first + second)[place : place + 1] for place in range(len(first + second))],
        ):
            self.back_end.requests.clear()
            self.feed(*pieces)
            self.assertEqual([first, second], [request.raw for request in self.back_end.requests])
            self.assertEqual(b"abcd\n", self.back_end.requests[0].body)

    def test_answers(self) -> None:
        """Scripted responses are used up in order; the default is a short 200.

        A function is called with the transport.
        """
        self.back_end.answers.extend([b"one", lambda transport: transport.write(b"two")])
        written = self.feed(b"GET / HTTP/1.1\r\n\r\n" * 3)
        self.assertEqual(
            [b"one", b"two", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"], written
        )

    def test_values(self) -> None:
        """All fields of a name are found, in any case."""
        self.feed(b"GET / HTTP/1.1\r\nA: 1\r\nb: 2\r\na: 3\r\n\r\n")
        self.assertEqual([b"1", b"3"], self.back_end.requests[0].values("a"))

    def test_heard(self) -> None:
        """A wait for a number of requests ends when they have arrived, even before the wait."""
        waiting: Deferred[None] = self.back_end.heard(2)
        self.feed(b"GET / HTTP/1.1\r\n\r\n")
        self.assertNoResult(waiting)
        self.feed(b"GET / HTTP/1.1\r\n\r\n")
        self.successResultOf(waiting)
        self.successResultOf(self.back_end.heard(2))


class Proxy(ProxyTestCase):
    async def test_two_ends(self) -> None:
        """A request sent over TLS with a certificate reaches the back end with it in the header.

        The exchange is recorded.
        """
        self.start()
        client = client_identity()
        reply = await self.ask(get("/a"), client)
        self.assertEqual((200, b"ok"), (reply.status, reply.body))
        self.assertEqual([header_value(client)], self.back_end.requests[0].values(HEADER))
        self.assertEqual(
            [Verdict.SELF_SIGNED], [exchange.verdict for exchange in self.proxy.exchanges]
        )

    async def test_keep_alive(self) -> None:
        """The back end keeps its connections open: one connection carries two requests."""
        self.start()
        for _ in range(2):
            await self.ask(get("/a"))
        self.assertEqual((1, 2), (self.back_end.accepted, len(self.back_end.requests)))

    async def test_authorities(self) -> None:
        """A certificate of a configured authority is trusted."""
        authority = ThrowAwayAuthority()
        self.start(authorities=[authority.certificate])
        await self.ask(get(), authority.client())
        self.assertEqual([Verdict.TRUSTED], [exchange.verdict for exchange in self.proxy.exchanges])

    async def test_observer(self) -> None:
        """An observer of the test receives the exchanges too."""
        observed: list[Exchange] = []
        self.start(observe=observed.append)
        await self.ask(get())
        self.assertEqual(self.proxy.exchanges, observed)
        self.assertEqual(1, len(observed))

    async def test_stock_site(self) -> None:
        """The proxy serves under any given factory."""
        self.start(factory=Site)
        self.assertEqual(200, (await self.ask(get())).status)

    async def test_new_secret(self) -> None:
        """Two proxies have different secret names."""
        names = set()
        for _ in range(2):
            proxy = running_proxy(reactor, 9)
            self.addCleanup(proxy.stop)
            names.add(proxy.header_name)
        self.assertEqual(2, len(names))

    async def test_protocols(self) -> None:
        """A client offers the given protocols (RFC 7301)."""
        self.start()
        for offered, expected in ((["h2", "http/1.1"], "http/1.1"), ([], None)):
            connection = await deferToThread(self.proxy.connect, alpn=offered)
            self.addCleanup(connection.close)
            self.assertEqual(expected, connection.selected_alpn_protocol())

    async def test_nothing_is_left(self) -> None:
        """A stop during an exchange aborts it, and leaves no connection and no file."""
        self.start(lambda _: None)
        connection = await deferToThread(self.proxy.connect)
        self.addCleanup(connection.close)
        connection.sendall(get())
        await self.back_end.heard(1)
        await self.proxy.stop()
        error = await self.assertFailure(
            deferToThread(read_reply, connection), ssl.SSLError, ConnectionError
        )
        self.assertIsInstance(error, Exception)
        self.assertFalse(self.proxy.server_pem.parent.exists())
        await until(lambda: not self.back_end.connections)
        self.assertEqual([Outcome.ABORTED], [exchange.outcome for exchange in self.proxy.exchanges])
