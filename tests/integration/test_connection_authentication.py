"""Authentication of a connection (NTLM, Negotiate): it never applies to another client.

A connection to a back end that may be authenticated is not used for a second client.
"""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.internet import reactor
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from tests.support.http2 import Http2Site, pseudo
from tests.support.memory import GET, OK, Proxy, RequestTransport, post
from tests.support.raw_tls import HEADER, ProxyTestCase, get
from x509proxy.certificates.pem_files import Identity
from x509proxy.settings import Backend, ClientAuth, ClientSettings, UpstreamSettings
from x509proxy.testing import Answer, RecordingBackEnd, ThrowAwayAuthority, running_proxy
from x509proxy.transport.deadlines import Deadlines
from x509proxy.transport.tls_context import ServerConnections, make_context
from x509proxy.upstream.endpoints import backend_endpoint
from x509proxy.upstream.pool import Pool

CLOCK: Any = reactor

BINDING = (
    b"Negotiate YIIZ",
    b"negotiate YIIZ",
    b"NEGOTIATE",
    b"NTLM TlRM",
    b"nTlM TlRM",
    b"Kerberos YIIZ",
    b"CredSSP MAAA",
    b"Nego2 YIIZ",
    b"Negotiate\tYIIZ",
    b", Negotiate YIIZ",
    b"Basic, Negotiate YIIZ",
    b"Basic\tYTpi",
    b"New-Scheme abc",
    b"",
)
SAFE = (b"Bearer abc", b"bearer abc", b"Basic YTpi", b"DPoP abc", b'Digest username="a"', b"Bearer")
CHALLENGES = (
    b"WWW-Authenticate: NTLM",
    b"WWW-Authenticate: Negotiate",
    b"www-authenticate: negotiate oYG2MIGz",
    b'WWW-Authenticate: Basic realm="a"\r\nWWW-AUTHENTICATE: nTLM',
    b'WWW-Authenticate: Basic realm="a, b", Negotiate',
    b'WWW-Authenticate: Digest realm="a", nonce="b" ,\tNTLM TlRM',
    b"WWW-Authenticate: ,,Kerberos",
    b"WWW-Authenticate: CredSSP",
    b"WWW-Authenticate: Nego2",
    b"Proxy-Authenticate: NTLM",
    b"Authentication-Info: Negotiate oYG2",
    b"Proxy-Authentication-Info: Negotiate oYG2",
    b"Persistent-Auth: true",
    b"persistent-auth: false",
    b"Proxy-Support: Session-Based-Authentication",
)
HARMLESS = (
    b'WWW-Authenticate: Bearer realm="a", error="invalid_token"',
    b'WWW-Authenticate: Basic realm="a"',
    b'Authentication-Info: nextnonce="a"',
    b"X-Persistent-Auth: true",
    b"X-Negotiate: Negotiate",
)


def authorized(credentials: bytes, request: bytes = GET) -> bytes:
    return request.replace(b"\r\n", b"\r\nAuthorization: " + credentials + b"\r\n", 1)


def with_field(field: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + field + b"\r\nContent-Length: 2\r\n\r\nok"


class BoundTestCase(SynchronousTestCase):
    proxy: Proxy

    def start(self, connections: int = 4, **options: Any) -> None:
        self.proxy = Proxy(upstream=UpstreamSettings(max_connections=connections), **options)

    @property
    def wires(self) -> list[RequestTransport]:
        return self.proxy.back_end.wires

    def expect_lent(self, request: bytes, response: bytes, *, again: bool) -> None:
        """Check that the next client gets this exchange's connection, or a new one.

        The same holds for a client that waits for a connection.
        """
        self.start()
        self.proxy.client(request)
        self.wires[0].deliver(response)
        self.proxy.client(GET)
        self.assertEqual(1 if again else 2, len(self.wires), (request, response))
        self.start(connections=1)
        self.proxy.client(request)
        self.proxy.client(GET)
        self.wires[0].deliver(response)
        self.assertEqual(1 if again else 2, len(self.wires), (request, response))
        self.assertEqual(not again, self.wires[0].disconnecting)


class Requests(BoundTestCase):
    """The credentials of a request decide, with any response."""

    def test_binding(self) -> None:
        """A request whose credentials may authenticate the connection is the last on it."""
        for credentials in BINDING:
            self.expect_lent(authorized(credentials), OK, again=False)

    def test_per_request(self) -> None:
        """A connection with OAuth credentials, or with none, is used for the next client."""
        for credentials in SAFE:
            self.expect_lent(authorized(credentials), OK, again=True)
        self.expect_lent(GET, OK, again=True)

    def test_body(self) -> None:
        """The same holds for a request with a body, short or streamed."""
        for settings in (ClientSettings(), ClientSettings(request_buffer_bytes=2)):
            self.start(client=settings)
            self.proxy.client(authorized(b"Negotiate YIIZ", post(b"abc")))
            self.wires[0].deliver(OK)
            self.proxy.client(GET)
            self.assertEqual(2, len(self.wires))

    def test_same_client(self) -> None:
        """The client's own next request gets another connection too.

        A handshake of three messages fails, and one of a single message works.
        """
        self.start()
        client = self.proxy.client(authorized(b"NTLM TlRMTVNTUAAB"))
        self.wires[0].deliver(with_field(b"WWW-Authenticate: NTLM TlRM", b"401 Unauthorized"))
        self.assertIn(b"\r\nWWW-Authenticate: NTLM TlRM\r\n", client.sent())
        self.assertFalse(client.disconnecting)
        client.deliver(authorized(b"NTLM TlRMTVNTUAAD"))
        self.assertEqual(2, len(self.wires))
        self.assertIn(b"\r\nAuthorization: NTLM TlRMTVNTUAAD\r\n", self.wires[1].sent())

    def test_proxy_authorization(self) -> None:
        """Credentials for a proxy are not forwarded, so they bind nothing."""
        self.expect_lent(
            GET.replace(b"\r\n", b"\r\nProxy-Authorization: NTLM TlRM\r\n", 1), OK, again=True
        )


class Responses(BoundTestCase):
    """A response that requests or accepts these credentials ends its connection."""

    def test_binding(self) -> None:
        for field in CHALLENGES:
            for status in (b"401 Unauthorized", b"407 Proxy", b"200 OK"):
                self.expect_lent(GET, with_field(field, status), again=False)

    def test_harmless(self) -> None:
        """After other challenges the connection is used for the next client."""
        for field in HARMLESS:
            self.expect_lent(GET, with_field(field, b"401 Unauthorized"), again=True)

    def test_chunked(self) -> None:
        """The same holds for a body in chunks, and for a head from the cache."""
        head = b"HTTP/1.1 401 U\r\nWWW-Authenticate: NTLM\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.expect_lent(GET, head + b"2\r\nok\r\n0\r\n\r\n", again=False)
        for _ in range(2):
            self.expect_lent(GET, with_field(b"Proxy-Support: x"), again=False)

    def test_not_forwarded(self) -> None:
        """Fields that describe the connection are removed: they would describe the client's."""
        self.start()
        client = self.proxy.client(GET)
        self.wires[0].deliver(
            with_field(b"Persistent-Auth: true\r\nProxy-Support: Session-Based-Authentication")
        )
        self.assertNotIn(b"uth", client.sent())


class Kestrel:
    """A back end that authenticates connections, as the Negotiate handler of Kestrel does.

    The body of each response is the user's name.
    """

    def __init__(self, back_end: RecordingBackEnd) -> None:
        self._back_end = back_end
        self._users: dict[Any, bytes] = {}

    def __call__(self, transport: Any) -> None:
        [*credentials] = self._back_end.requests[-1].values("Authorization")
        if credentials and credentials[0].startswith(b"Negotiate "):
            self._users[transport] = credentials[0].removeprefix(b"Negotiate ")
        user = self._users.get(transport, b"nobody")
        transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(user), user))


class Served(ProxyTestCase):
    """Over real sockets no client is served as another by that back end."""

    factory: ClassVar[Any] = None

    async def test_nobody_as_alice(self) -> None:
        self.start(factory=type(self).factory)
        self.back_end.answers.extend([Kestrel(self.back_end)] * 4)
        bodies = [
            (await self.ask(get("/", *fields))).body
            for fields in (
                ("Authorization: Negotiate alice",),
                (),
                ("Authorization: Bearer bob",),
                (),
            )
        ]
        self.assertEqual([b"alice", b"nobody", b"nobody", b"nobody"], bodies)
        # The last three share a connection.
        self.assertEqual(2, self.back_end.accepted)


class ServedByStockSite(Served):
    """The same under ``twisted.web.server.Site``."""

    factory = Site


class ServedOverHttps(Served):
    """The same with an ``https`` back end, whose connections cost a handshake."""

    def start(self, *answers: Answer, **options: Any) -> None:
        authority = ThrowAwayAuthority()
        server = authority.server()
        self.back_end = RecordingBackEnd(reactor, *answers)
        self.addCleanup(self.back_end.stop)
        context = make_context(Identity(server.certificate, server.private_key), ClientAuth.NONE)
        over_tls = TLSMemoryBIOFactory(
            ServerConnections(context), isClient=False, wrappedFactory=self.back_end
        )
        listening = CLOCK.listenTCP(0, over_tls, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        backend = Backend.parse(f"https://localhost:{listening.getHost().port}")
        settings, deadlines = UpstreamSettings(), Deadlines(reactor)
        endpoint = backend_endpoint(reactor, backend, settings, [authority.certificate])
        pool = Pool(backend, endpoint, deadlines, settings)
        self.proxy = running_proxy(
            CLOCK, self.back_end.port, pools=[pool], deadlines=deadlines, **options
        )
        self.addCleanup(self.proxy.stop)

    async def test_late_body(self) -> None:
        """A late body behind a response without a body reaches no client, over TLS too."""
        self.start(factory=None)
        stray = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nSTRAY"

        def late(transport: Any) -> None:
            transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            waiting.append(transport)

        def served(transport: Any) -> None:
            for each in waiting:
                each.write(stray)
            transport.write(OK)

        waiting: list[Any] = []
        self.back_end.answers.extend([late, served, late, served])
        replies = [await self.ask(get()) for _ in range(4)]
        self.assertEqual([204, 200, 204, 200], [reply.status for reply in replies])
        self.assertEqual([b"", b"ok", b"", b"ok"], [reply.body for reply in replies])


class Iis(BoundTestCase):
    """The responses of IIS with Windows authentication, as [MS-N2HT] and its traces show them."""

    CHALLENGE = (
        b"HTTP/1.1 401 Unauthorized\r\nContent-Type: text/html\r\nServer: Microsoft-IIS/10.0\r\n"
        b"WWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\n"
        b"X-Powered-By: ASP.NET\r\nContent-Length: 2\r\n\r\nno"
    )
    ACCEPTED = (
        b"HTTP/1.1 200 OK\r\nWWW-Authenticate: Negotiate oYG2MIGzoAMKAQ==\r\n"
        b"Persistent-Auth: true\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nalice\r\n0\r\n\r\n"
    )

    def test_one_leg(self) -> None:
        """Kerberos with a single message works: challenge and acceptance on two connections.

        No other client gets either of them.
        """
        self.start()
        client = self.proxy.client(GET)
        self.wires[0].deliver(self.CHALLENGE)
        received = client.sent()
        self.assertIn(b"\r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\n", received)
        client.deliver(authorized(b"Negotiate YIIZ"))
        self.wires[1].deliver(self.ACCEPTED)
        received = client.sent()
        self.assertIn(b"\r\nWWW-Authenticate: Negotiate oYG2MIGzoAMKAQ==\r\n", received)
        self.assertIn(b"alice", received)
        self.assertNotIn(b"Persistent-Auth", received)
        self.proxy.client(GET)
        self.assertEqual(
            (3, [True, True, False]), (len(self.wires), [w.disconnecting for w in self.wires])
        )


class OverHttp2(SynchronousTestCase):
    """The same under a stock ``Site`` over HTTP/2.

    Streams of many clients may wait for one connection.
    """

    def test_binding(self) -> None:
        for credentials in BINDING:
            site = Http2Site(self.patch, header=HEADER)
            if site.ask([*pseudo(), (b"authorization", credentials.strip())]).status:
                continue  # Rejected: it is not a valid field value.
            site.answer(OK)
            site.ask(pseudo())
            self.assertEqual(2, len(site.back_ends), credentials)
        site = Http2Site(self.patch, header=HEADER)
        site.ask([*pseudo(), (b"authorization", b"Bearer abc")])
        site.answer(OK)
        site.ask(pseudo())
        self.assertEqual(1, len(site.back_ends))
