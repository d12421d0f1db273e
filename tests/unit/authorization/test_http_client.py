"""Tests of :mod:`x509proxy.authorization.http_client`, against hostile servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import LogEvent, eventAsText, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from x509proxy.authorization.http_client import Fetched, FetchError, HttpClient
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.certificates.trust_store import EMPTY
from x509proxy.config.token_files import TokenFiles
from x509proxy.settings import ClientAuth, TlsSettings, TokenLevel, TokenSettings
from x509proxy.transport.tls_context import ServerConnections, make_context

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
Act = Callable[[Any], None]


class HostileServer(Factory):
    """A server that calls ``act`` after each request, and records the requests."""

    noisy = False

    def __init__(self, act: Act) -> None:
        self.act = act
        self.requests: list[bytes] = []
        self.open: list[Protocol] = []

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Served(self)


class _Served(Protocol):
    transport: Any

    def __init__(self, server: HostileServer) -> None:
        self._server = server
        self._data = b""

    def connectionMade(self) -> None:
        self._server.open.append(self)

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if b"\r\n\r\n" in self._data:
            self._server.requests.append(self._data)
            self._server.act(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._server.open.remove(self)


def send(*pieces: bytes, close: bool = True) -> Act:
    """Return an ``act`` that sends the pieces, and closes the connection by default."""

    def act(transport: Any) -> None:
        transport.writeSequence(pieces)
        if close:
            transport.loseConnection()

    return act


class _Flood:
    """A producer of endless data."""

    def __init__(self, transport: Any, piece: bytes) -> None:
        self._transport = transport
        self._piece = piece
        self.sent = 0
        transport.registerProducer(self, streaming=False)

    def resumeProducing(self) -> None:
        self._transport.write(self._piece)
        self.sent += len(self._piece)

    def stopProducing(self) -> None:
        """Do nothing: the connection has ended."""


class ClientTestCase(TestCase):
    port: IListeningPort

    async def serve(self, act: Act, identity: Identity | None = None) -> HostileServer:
        server = HostileServer(act)
        if identity is None:
            endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        else:
            context = make_context(identity, ClientAuth.OPTIONAL, EMPTY, TlsSettings(), http=False)
            options = ServerConnections(context)
            endpoint = SSL4ServerEndpoint(reactor, 0, options, interface="127.0.0.1")
        self.port = await endpoint.listen(server)
        self.addCleanup(self.port.stopListening)
        self.addCleanup(self.until_closed, server)
        return server

    async def until_closed(self, server: HostileServer) -> None:
        """Wait until the client has closed all its connections."""
        from twisted.internet.task import deferLater

        while server.open:
            await deferLater(reactor, 0.001)

    def client(self, **settings: Any) -> HttpClient:
        authorities = settings.pop("authorities", None)
        changed = TokenSettings(level=TokenLevel.UNVERIFIED, **{"timeout": 10.0, **settings})
        return HttpClient(reactor, TokenFiles(changed, None, authorities))

    def url(self, path: str = "/", scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port.getHost().port}{path}"  # type: ignore[attr-defined]

    async def fetch(self, act: Act, **settings: Any) -> Fetched:
        await self.serve(act)
        return await self.client(**settings).get(self.url())

    async def reason(self, act: Act, **settings: Any) -> str:
        """Return the error's sentence for the log."""
        try:
            await self.fetch(act, **settings)
        except FetchError as error:
            return str(error)
        raise AssertionError("found a response, expected none")


class Logged(ClientTestCase):
    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    async def test_nothing(self) -> None:
        """A request writes no line: with introspection, a client can cause any number of them."""
        await self.fetch(send(OK))
        await self.reason(send(b"garbage"))
        shown = [eventAsText(event) for event in self.events if event["log_level"].name != "debug"]
        self.assertEqual([], [text for text in shown if "actory" in text])


class Good(ClientTestCase):
    async def test_response(self) -> None:
        """A response is read whole; the request is plain, on its own connection."""
        server = await self.serve(send(OK))
        self.assertEqual(Fetched(200, b"{}"), await self.client().get(self.url("/a?b=c")))
        (request,) = server.requests
        self.assertTrue(request.startswith(b"GET /a?b=c HTTP/1.1\r\n"))
        accepted = b"application/json, application/jwk-set+json"
        self.assertIn(b"\r\nAccept: " + accepted + b"\r\n", request)
        self.assertIn(b"\r\nConnection: close\r\n", request)

    async def test_framing(self) -> None:
        """A body is read if it is chunked, and if it ends with its connection."""
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        self.assertEqual(b"{}", (await self.fetch(send(chunked))).require_ok())
        for head in (b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"):
            self.assertEqual(b"{}", (await self.fetch(send(head + b"{}"))).require_ok())

    async def test_post(self) -> None:
        """A form is sent whole, with its header fields."""
        server = await self.serve(send(OK))
        fetched = await self.client().post(self.url(), b"token=a", {"Authorization": "Basic eA=="})
        self.assertEqual(b"{}", fetched.body)
        (request,) = server.requests
        head, _, body = request.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"POST / HTTP/1.1\r\n"))
        self.assertEqual(b"token=a", body)
        for field in (
            b"Accept: application/json",
            b"Content-Length: 7",
            b"Authorization: Basic eA==",
            b"Content-Type: application/x-www-form-urlencoded",
        ):
            self.assertIn(b"\r\n" + field, head)

    async def test_max_age(self) -> None:
        """``Cache-Control: max-age`` gives the lifetime of a response."""
        for value, age in (
            (b"max-age=60", 60.0),
            (b"public, Max-Age=5", 5.0),
            (b'max-age="7"', 7.0),
            (b"no-store", None),
            (b"s-max-age=3", None),
            (b"max-age=-1", None),
            (b"max-age=9999999999", 999999999.0),
        ):
            response = OK.replace(b"\r\n\r\n", b"\r\nCache-Control: " + value + b"\r\n\r\n")
            self.assertEqual(age, (await self.fetch(send(response))).max_age, value)

    async def test_status(self) -> None:
        """Other statuses are returned unchanged; a redirect is not followed."""
        response = b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"
        server = await self.serve(send(response))
        fetched = await self.client().get(self.url())
        self.assertEqual(302, fetched.status)
        error = self.assertRaises(FetchError, fetched.require_ok)
        self.assertEqual("found status 302, expected 200", str(error))
        self.assertEqual(1, len(server.requests))


class Hostile(ClientTestCase):
    async def test_silence(self) -> None:
        """A server that stops before, within or after the head costs at most the timeout."""
        for pieces in ((), (b"HTTP/1.1 200 OK\r\nA: ",), (OK[:-1],)):
            sentence = await self.reason(send(*pieces, close=False), timeout=0.1)
            self.assertEqual("found no response in time", sentence)

    async def test_floods(self) -> None:
        """An endless body, head, line or series of chunks is cut at the limit on bytes."""
        head = b"HTTP/1.1 200 OK\r\n"
        large = "found a response of more than 200000 bytes, expected max-response-bytes or less"
        for begin, piece, sentence in (
            (b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 65536, large),
            (head + b"Content-Length: 104857600\r\n\r\n", b"x" * 65536, large),
            (head + b"\r\n", b"x" * 65536, large),
            (head, b"A: b\r\n" * 8192, large),
            # Twisted's limit on a line is less than that.
            (head + b"A: ", b"x" * 8192, "found no whole response: "),
            (head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 8192, large),
        ):
            floods: list[_Flood] = []

            def act(
                transport: Any, start: bytes = begin, more: bytes = piece, kept: Any = floods
            ) -> None:
                transport.write(start)
                kept.append(_Flood(transport, more))

            server = await self.serve(act)
            with self.assertRaises(FetchError) as raised:
                await self.client(max_response_bytes=200000).get(self.url())
            self.assertTrue(str(raised.exception).startswith(sentence), str(raised.exception))
            await self.until_closed(server)
            # The kernel's buffers hold the rest.
            self.assertLess(floods[0].sent, 32 << 20)

    async def test_size(self) -> None:
        """A response of exactly the permitted size is read, and one of a byte more is not.

        Heads count. It makes no difference what ends the body.
        """
        for head in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n",
        ):
            size = len(head) + 1000
            fetched = await self.fetch(send(head, b"x" * 1000), max_response_bytes=size)
            self.assertEqual(b"x" * 1000, fetched.body)
            self.assertEqual(
                f"found a response of more than {size - 1} bytes, "
                "expected max-response-bytes or less",
                await self.reason(send(head, b"x" * 1000), max_response_bytes=size - 1),
            )

    async def test_end(self) -> None:
        """A server that closes the connection early is not taken for one without TLS."""
        for response in (
            b"",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
        ):
            self.assertEqual(
                "found no whole response: it closed the connection",
                await self.reason(send(response)),
            )

    async def test_nonsense(self) -> None:
        """An invalid response is reported in one sentence, without any of its text."""
        for response in (
            b"",
            b"secret\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsecret",
            b"HTTP/1.1 secret\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n",
        ):
            sentence = await self.reason(send(response))
            self.assertTrue(sentence.startswith("found no whole response: "), sentence)
            self.assertNotIn("secret", sentence)

    async def test_refused(self) -> None:
        """A refused connection is reported with the system's reason."""
        await self.serve(send(OK))
        url = self.url()
        await self.port.stopListening()  # type: ignore[misc]
        with self.assertRaises(FetchError) as raised:
            await self.client().get(url)
        self.assertIn("Connection refused", str(raised.exception))

    async def test_cancelled(self) -> None:
        """A cancelled request ends at once, in any state."""
        await self.serve(send(close=False))
        asked = self.client().get(self.url())
        asked.cancel()
        self.failureResultOf(asked, FetchError)


class Tls(ClientTestCase):
    async def test_verified(self) -> None:
        """Over TLS, the server's certificate must have a trusted issuer and match its name."""
        made = make_self_signed(KeyKind.EC, "localhost", server=True)
        identity = Identity(made.certificate, made.private_key, ())
        await self.serve(send(OK), identity)
        trusting = self.client(authorities=(made.certificate,))
        fetched = await trusting.get(self.url(scheme="https", host="localhost"))
        self.assertEqual(b"{}", fetched.body)
        other = make_self_signed(KeyKind.EC, "localhost", server=True)
        for client in (self.client(), self.client(authorities=(other.certificate,))):
            with self.assertRaises(FetchError) as raised:
                await client.get(self.url(scheme="https", host="localhost"))
            self.assertEqual(
                "found no whole response: "
                "its certificate is not valid now, or no authority in tokens.ca has issued it",
                str(raised.exception),
            )

    async def test_no_closure(self) -> None:
        """A body that ends with its connection is read without the ``close_notify`` of TLS, too.

        RFC 9112 section 9.8 calls the body incomplete; a JSON object that was cut does not parse.
        """

        def act(transport: Any) -> None:
            transport.write(b"HTTP/1.0 200 OK\r\n\r\n{}")
            transport.transport.loseConnection()

        made = make_self_signed(KeyKind.EC, "localhost", server=True)
        await self.serve(act, Identity(made.certificate, made.private_key, ()))
        client = self.client(authorities=(made.certificate,))
        fetched = await client.get(self.url(scheme="https", host="localhost"))
        self.assertEqual(b"{}", fetched.body)

    async def test_certificate(self) -> None:
        """A server that requires a certificate receives the configured one."""
        made, own = (
            make_self_signed(KeyKind.EC, name, server=True) for name in ("localhost", "api")
        )
        shown: list[Any] = []

        def act(transport: Any) -> None:
            shown.append(transport.getPeerCertificate())
            send(OK)(transport)

        await self.serve(act, Identity(made.certificate, made.private_key, ()))
        settings = TokenSettings(level=TokenLevel.UNVERIFIED)
        identity = Identity(own.certificate, own.private_key, ())
        files = TokenFiles(settings, authorities=(made.certificate,), identity=identity)
        url = self.url(scheme="https", host="localhost")
        await HttpClient(reactor, files).post(url, b"", {})
        self.assertEqual([own.certificate], [one.to_cryptography() for one in shown])

    async def test_not_tls(self) -> None:
        """A server without TLS receives no request for an https URL."""
        server = await self.serve(send(OK))
        with self.assertRaises(FetchError):
            await self.client(timeout=1.0).get(self.url(scheme="https"))
        self.assertEqual([], server.requests)


class Trust(SynchronousTestCase):
    def test_same(self) -> None:
        """Two clients have the same trust if their authorities are the same."""
        authority = make_self_signed(KeyKind.EC, "ca").certificate
        settings = TokenSettings(level=TokenLevel.UNVERIFIED)
        one, two, three = (
            HttpClient(None, TokenFiles(settings, authorities=authorities))
            for authorities in ((authority,), (authority,), None)
        )
        self.assertTrue(one.trusts_as(two))
        self.assertFalse(one.trusts_as(three))
