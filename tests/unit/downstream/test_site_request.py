"""Tests of :mod:`x509proxy.downstream.site_request`.

They are checked in memory, and over TLS where it matters.
"""

from __future__ import annotations

import ssl
from io import BytesIO
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.test.requesthelper import DummyRequest

from tests.support.http2 import Http2Client, Http2Response, Http2Site, pseudo
from tests.support.raw_tls import HEADER, ProxyTestCase, get, read_reply
from x509proxy.downstream.site_request import SiteRequest, read_stock_head
from x509proxy.exchange import Exchange, Outcome
from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.http1.messages import Framing
from x509proxy.relay import Relay
from x509proxy.resource import X509ProxyResource
from x509proxy.settings import ClientAuth, ClientSettings, InvalidNames, PolicySettings, RequestIds
from x509proxy.testing import client_identity, header_value
from x509proxy.transport import tls_context

REQUEST = b"GET /token HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class SiteTestCase(SynchronousTestCase):
    """A stock ``Site`` without sockets.

    ``client`` and ``back_end`` are the two transports that the proxy writes to.
    """

    def setUp(self) -> None:
        self.serve()

    client: Any
    back_end: Any
    connection: Any

    def serve(self, mount: bytes | None = None, **options: Any) -> None:
        self.clock = MemoryReactorClock()
        self.exchanges: list[Exchange] = []
        observe = self.exchanges.append
        self.resource = X509ProxyResource(
            "127.0.0.1", 8080, reactor=self.clock, header=HEADER, observe=observe, **options
        )
        root: Any = self.resource
        if mount is not None:
            root = Resource()
            root.putChild(mount, self.resource)
        self.channel: Any = Site(root, reactor=self.clock).buildProtocol(None)
        self.client = StringTransport(lenient=True)
        self.channel.makeConnection(self.client)

    def receive(self, data: bytes) -> None:
        self.channel.dataReceived(data)

    def connect(self) -> Any:
        """Accept the connection at the back end; return what the proxy sends to it."""
        factory = self.clock.tcpClients[-1][2]
        self.connection = factory.buildProtocol(None)
        self.back_end = StringTransport()
        self.connection.makeConnection(self.back_end)
        return self.back_end

    def started(self) -> SiteRequest:
        """Send a request that the back end receives and does not respond to."""
        made: list[SiteRequest] = []
        serve = self.resource.serve

        def watched(request: Any) -> None:
            made.append(request)
            serve(request)

        self.patch(self.resource, "serve", watched)
        self.receive(REQUEST)
        self.connect()
        return made[0]

    def leave(self) -> None:
        """Close the client's connection."""
        self.channel.connectionLost(Failure(ConnectionDone()))

    def expect_refused(self, request: bytes, status: int) -> None:
        self.receive(request)
        self.assertTrue(
            self.client.value().split(b" ", 1)[1].startswith(b"%d " % status), self.client.value()
        )
        self.assertEqual([], self.clock.tcpClients)
        self.assertEqual([Outcome.REJECTED], [exchange.outcome for exchange in self.exchanges])


class Endpoint(SiteTestCase):
    def warnings(self, connection: SSL.Connection | None = None, **options: Any) -> list[str]:
        self.serve(**options)
        if connection is not None:
            self.client.getHandle = lambda: connection
        with capturedLogs() as events:
            self.receive(REQUEST)
            self.receive(REQUEST)
        return [str(event["log_format"]) for event in events if event["log_level"].name == "warn"]

    def test_no_certificates(self) -> None:
        """An endpoint that requests no certificate is logged once, with a warning."""
        [warning] = self.warnings()
        self.assertIn("no client can send a certificate", warning)

    def test_none_wanted(self) -> None:
        """There is no warning if no certificate is needed."""
        policy = PolicySettings(client_certificate=ClientAuth.NONE)
        self.assertEqual([], self.warnings(policy=policy))

    def test_requested(self) -> None:
        """There is none for an endpoint that requests one, also with another program's context."""
        for mode, expected in ((SSL.VERIFY_PEER, 0), (SSL.VERIFY_NONE, 1)):
            context = SSL.Context(SSL.TLS_SERVER_METHOD)
            context.set_verify(mode, lambda *_: True)
            self.assertEqual(expected, len(self.warnings(SSL.Connection(context, None))))


class Head(SiteTestCase):
    def test_validated_again(self) -> None:
        """Requests that the stock channel accepts and the proxy does not are rejected.

        No connection to a back end is made for them.
        """
        for bad in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: \x0b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
            b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ):
            self.serve()
            self.expect_refused(bad, 400)

    def test_methods(self) -> None:
        """TRACE and CONNECT get 405, unknown methods 501."""
        for line, status in ((b"TRACE /", 405), (b"CONNECT a:443", 405), (b"BREW /", 501)):
            self.serve()
            self.expect_refused(line + b" HTTP/1.1\r\nHost: a\r\n\r\n", status)

    def test_settings(self) -> None:
        """The client settings hold: limits of target and fields, and the rejection of odd names."""
        for settings, line, status in (
            (ClientSettings(max_target_bytes=5), b"GET /token HTTP/1.1\r\nHost: a\r\n\r\n", 414),
            (
                ClientSettings(max_header_fields=1),
                b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\r\n",
                431,
            ),
            (
                ClientSettings(invalid_header_names=InvalidNames.REFUSE),
                b"GET / HTTP/1.1\r\nHost: a\r\nX_a: a\r\n\r\n",
                400,
            ),
        ):
            self.serve(client=settings)
            self.expect_refused(line, status)

    def test_body_limit(self) -> None:
        """A body above the limit gets 413, with or without an announced length."""
        head = b"POST / HTTP/1.1\r\nHost: a\r\n"
        for rest in (
            b"Content-Length: 4\r\n\r\nabcd",
            b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
        ):
            self.serve(client=ClientSettings(max_body_bytes=3))
            self.expect_refused(head + rest, 413)

    def test_refused_before(self) -> None:
        """A request on a connection that the stock channel is closing is not served."""
        self.client.disconnecting = True
        for line in REQUEST.splitlines(keepends=True):
            self.receive(line)
        self.assertEqual([], self.clock.tcpClients)
        self.assertEqual(
            ["rejected by the stock channel"], [exchange.detail for exchange in self.exchanges]
        )

    def test_version(self) -> None:
        """HTTP/1.0 keeps its own rules: ``Host`` may be missing."""
        self.receive(b"GET / HTTP/1.0\r\n\r\n")
        self.assertIn(b"\r\nHost: 127.0.0.1:8080\r\n", self.connect().value())


SECOND = b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n"


class AfterAnError(SiteTestCase):
    """After an error response nothing more of the connection is served (invariant L3)."""

    def expect_mute(self, request: bytes, status: int) -> None:
        for pieces in (
            [request + SECOND],
            [request, SECOND],
            [request[:-1], request[-1:] + SECOND[:9], SECOND[9:]],
        ):
            self.serve(
                client=ClientSettings(max_body_bytes=5, max_target_bytes=9, max_header_fields=3)
            )
            for piece in pieces:
                self.receive(piece)
            answer = self.client.value()
            self.assertTrue(answer.startswith(b"HTTP/1.1 %d " % status), answer)
            self.assertEqual(
                (1, 1), (answer.count(b"HTTP/1.1 "), answer.count(b"\r\nConnection: close\r\n"))
            )
            self.assertEqual(([], 1), (self.clock.tcpClients, len(self.exchanges)))
            self.assertTrue(self.client.disconnecting)

    def test_malformed(self) -> None:
        """Nothing is read after a malformed, misdirected, unknown or too large request."""
        for line, fields, body, status in (
            (b"GET /first", b"Host: a b\r\n", b"", 400),
            (b"GET /first", b"Host: a\r\nContent-Length: 5\r\n", b"hello", 400),
            (b"GET /first", b"Host: a\r\nConnection: host\r\n", b"", 400),
            (b"GET /..", b"Host: a\r\n", b"", 400),
            (
                b"POST /first",
                b"Host: a\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n",
                b"hello",
                400,
            ),
            (b"TRACE /first", b"Host: a\r\n", b"", 405),
            (b"BREW /first", b"Host: a\r\n", b"", 501),
            (b"POST /first", b"Host: a\r\nContent-Length: 6\r\n", b"hello!", 413),
            (b"GET /123456789", b"Host: a\r\n", b"", 414),
            (b"POST /first", b"Host: a\r\nExpect: more\r\n", b"", 417),
            (b"GET /first", b"Host: a\r\nA: b\r\nC: d\r\nE: f\r\n", b"", 431),
        ):
            self.expect_mute(line + b" HTTP/1.1\r\n" + fields + b"\r\n" + body, status)

    def test_unwanted(self) -> None:
        """The same holds for a valid request without a certificate, as on the own channel."""
        self.serve(policy=PolicySettings(client_certificate=ClientAuth.REQUIRED))
        self.receive(REQUEST + SECOND)
        self.assertEqual(
            (1, []), (self.client.value().count(b"HTTP/1.1 401 "), self.clock.tcpClients)
        )
        self.assertTrue(self.client.disconnecting)

    def test_failed_back_end(self) -> None:
        """A failure of the back end is not the client's fault: its next request is served."""
        self.receive(REQUEST + SECOND)
        self.connect()
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertIn(b"HTTP/1.1 502 ", self.client.value())
        self.assertIn(b"GET /second ", self.connect().value())

    def test_stream(self) -> None:
        """Over HTTP/2 the rejected stream ends, and the others of its connection go on."""
        request = self.started()
        request._request.channel.abortConnection = None
        request.answer(ErrorResponse(Code.BAD_REQUEST, "bad_request"))
        self.assertNotIn(b"Connection:", self.client.value())
        self.assertFalse(self.client.disconnecting)


class Bodies(SiteTestCase):
    """A body that its method or its announced length does not permit reaches no back end."""

    def test_methods_without_a_body(self) -> None:
        """A request with a body, whose method gives it no meaning, gets 400."""
        for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS"):
            for framing, body in (
                (b"Content-Length: 1", b"a"),
                (b"Transfer-Encoding: chunked", b"1\r\na\r\n0\r\n\r\n"),
                (b"Transfer-Encoding: chunked", b"0\r\n\r\n"),
            ):
                self.serve()
                self.expect_refused(
                    method + b" / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n" + body, 400
                )

    def test_size(self) -> None:
        """A body of another size than announced gets 400, whatever accepted it."""
        for length in (b"0", b"2", b"4"):
            self.serve()
            request = self.parsed(length, b"abc")
            with self.assertRaises(HttpError) as raised:
                read_stock_head(request, ClientSettings())
            self.assertEqual(400, raised.exception.response.status)

    @staticmethod
    def parsed(length: bytes, body: bytes) -> Any:
        """Make a stock request that announces this length and has this body."""
        request: Any = DummyRequest([])
        request.method, request.uri, request.clientproto = b"POST", b"/", b"HTTP/1.1"
        request.channel = StringTransport()
        request.channel.transport = StringTransport()
        request.content = BytesIO(body)
        request.requestHeaders.setRawHeaders(b"Host", [b"a"])
        request.requestHeaders.setRawHeaders(b"Content-Length", [length])
        return request


SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: localhost\r\nClient-Cert: EVIL\r\n\r\n"
FORGED = HEADER.lower().encode()


class Http2(SynchronousTestCase):
    """The header contract over HTTP/2, in memory: the client sends what no library would."""

    def serve(self, **options: Any) -> Http2Site:
        return Http2Site(self.patch, header=HEADER, **options)

    def expect_refused(
        self, fields: list[tuple[bytes, bytes]], status: int, data: list[bytes] | None = None
    ) -> None:
        """Check that the proxy sends an error on the stream, and the back end receives nothing."""
        site = self.serve()
        response = site.ask(fields, data)
        self.assertEqual((status, b""), (response.status, site.received), (fields, data))
        self.assertFalse(site.client.over)

    def expect_ended(self, fields: list[tuple[bytes, bytes]], data: list[bytes]) -> None:
        """Check that Twisted's HTTP/2 ends the connection, and the back end receives nothing."""
        site = self.serve()
        response = site.ask(fields, data)
        self.assertEqual((0, b""), (response.status, site.received), (fields, data))
        self.assertTrue(site.client.over, fields)

    def expect_head(self, site: Http2Site, *lines: bytes) -> None:
        """Check that the back end has received one head, with these lines and the proxy's own."""
        head, _, body = site.received.partition(b"\r\n\r\n")
        kept = [line for line in head.split(b"\r\n") if not line.startswith(OWN_LINES)]
        self.assertEqual((list(lines), b""), (kept, body))

    def test_body_without_length(self) -> None:
        """A body on a method that gives it no meaning gets 400, in one frame or many.

        DATA needs no length.
        """
        for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS"):
            for data in ([SMUGGLED], [SMUGGLED[:9], SMUGGLED[9:]], [b"", b"a"]):
                self.expect_refused(pseudo(method), 400, data)

    def test_body_with_length(self) -> None:
        """A correct length gets 400 too; a wrong length ends the connection."""
        size = b"%d" % len(SMUGGLED)
        self.expect_refused([*pseudo(), (b"content-length", size)], 400, [SMUGGLED])
        for length in (b"0", b"1", b"99999", b"x", b"-1"):
            for method in (b"GET", b"POST"):
                self.expect_ended([*pseudo(method), (b"content-length", length)], [SMUGGLED])

    def test_odd_lengths(self) -> None:
        """Two lengths, or one that is not plain digits, get 400 or end the connection."""
        for fields in ([b"2", b"2"], [b"+2"], [b"2", b"+2"]):
            site = self.serve()
            site.ask([*pseudo(b"POST"), *((b"content-length", each) for each in fields)], [b"ab"])
            self.assertEqual(b"", site.received, fields)

    def test_empty_data(self) -> None:
        """Empty DATA frames are no body."""
        site = self.serve()
        site.ask(pseudo(), [b"", b""])
        self.expect_head(site, b"GET /token HTTP/1.1", b"Host: localhost")

    def test_body(self) -> None:
        """A POST without a length arrives with one; trailers do not arrive."""
        site = self.serve()
        site.ask(pseudo(b"POST"), [b"a", b"b"], [(b"x-trailer", b"a"), (FORGED, b"EVIL")])
        head, _, body = site.received.partition(b"\r\n\r\n")
        self.assertTrue(head.endswith(b"\r\nContent-Length: 2"), head)
        self.assertEqual(b"ab", body)
        for unwanted in (b"trailer", b"EVIL", b"Transfer-Encoding"):
            self.assertNotIn(unwanted.lower(), head.lower())

    def test_pseudo_fields(self) -> None:
        """``:authority`` becomes ``Host``, or ``Host`` is used; ``:scheme`` is not forwarded."""
        site = self.serve()
        site.ask([(b":scheme", b"EVIL"), *pseudo()[:3]])
        self.expect_head(site, b"GET /token HTTP/1.1", b"Host: localhost")
        site = self.serve()
        site.ask([*pseudo()[:2], (b":scheme", b"https"), (b"host", b"other")])
        self.expect_head(site, b"GET /token HTTP/1.1", b"Host: other")

    def test_odd_pseudo_fields(self) -> None:
        """Repeated, late, unknown and missing pseudo-fields end the connection.

        So does a ``Host`` that differs from ``:authority``.
        """
        for fields in (
            [*pseudo(), (b":path", b"/admin")],
            [(b"x", b"y"), *pseudo()],
            [*pseudo(), (b":evil", b"a")],
            [*pseudo(), (b":protocol", b"websocket")],
            pseudo()[1:],
            pseudo()[:3],
            [*pseudo()[:2], (b":scheme", b"https")],
            [*pseudo(), (b"host", b"other")],
            pseudo(path=b""),
            pseudo(path=b"/ HTTP/1.1\r\nX-Evil: a"),
        ):
            self.expect_ended(fields, [])

    def test_host(self) -> None:
        """An authority with a user, an empty one, and one beside an equal ``Host`` get 400."""
        self.expect_refused(pseudo(authority=b"user@localhost"), 400)
        self.expect_refused(pseudo(authority=b""), 400)
        self.expect_refused(pseudo(authority=b"a b"), 400)
        self.expect_refused([*pseudo(), (b"host", b"localhost")], 400)

    def test_path(self) -> None:
        """An invalid target gets 400: with a blank, a control character, ``#`` or a high byte."""
        for path in (
            b"/a b", b"/a\tb", b"/\x01", b"/\x7f", b"/\xe4", b"/a#b", b"x", b"?x", b"/..",
            b"http://other/", b"/ HTTP/1.1",
        ):  # fmt: skip
            self.expect_refused(pseudo(path=path), 400)

    def test_methods(self) -> None:
        """TRACE and extended CONNECT get 405, unknown methods 501."""
        self.expect_refused(pseudo(b"TRACE"), 405)
        self.expect_refused([*pseudo(b"CONNECT"), (b":protocol", b"websocket")], 405)
        for method in (b"get", b"BREW", b"GET / HTTP/1.1", b""):
            self.expect_refused(pseudo(method), 501)

    def test_connect(self) -> None:
        """An ordinary CONNECT has no path, which breaks Twisted's code.

        Nothing reaches the back end.
        """
        site = self.serve()
        with self.assertRaises(AttributeError):
            site.ask([(b":method", b"CONNECT"), (b":authority", b"a:443")])
        self.assertEqual(b"", site.received)

    def test_connection_fields(self) -> None:
        """Connection fields end it (RFC 9113 section 8.2.2), or are dropped if permitted."""
        for name, value in (
            (b"connection", b"x"),
            (b"connection", FORGED),
            (b"transfer-encoding", b"chunked"),
            (b"keep-alive", b"timeout=5"),
            (b"proxy-connection", b"x"),
            (b"upgrade", b"h2c"),
            (b"te", b"gzip"),
        ):
            self.expect_ended([*pseudo(b"POST"), (name, value)], [b"0\r\n\r\n"])
        site = self.serve()
        site.ask([*pseudo(), (b"te", b"trailers"), (b"trailer", b"x"), (b"http2-settings", b"x")])
        self.expect_head(site, b"GET /token HTTP/1.1", b"Host: localhost")

    def test_forged_fields(self) -> None:
        """The header's name in any spelling, and other products' names, are removed and counted.

        This is as over HTTP/1.1.
        """
        site = self.serve()
        names = (FORGED, FORGED.replace(b"-", b"_"), b"client-cert", b"x-forwarded-client-cert")
        site.ask([*pseudo(), *((name, b"EVIL") for name in names)])
        self.expect_head(site, b"GET /token HTTP/1.1", b"Host: localhost")
        site.answer(ANSWER)
        self.assertEqual([1], [exchange.forged for exchange in site.exchanges])

    def test_odd_fields(self) -> None:
        """Upper case, blanks, colons and line ends in a field end the connection.

        High bytes get 400.
        """
        for field in (
            (HEADER.encode(), b"EVIL"),
            (b"x y", b"a"),
            (b"x:y", b"a"),
            (b"", b"a"),
            (b"x", b" a"),
            (b"x", b"a\r\nClient-Cert: EVIL"),
            (b"x", b"a\0"),
        ):
            self.expect_ended([*pseudo(), field], [])
        self.expect_refused([*pseudo(), (b"x", b"\xe4")], 400)
        self.expect_refused([*pseudo(), (b"authorization", b"a"), (b"authorization", b"b")], 400)

    def test_cookies(self) -> None:
        """The parts of a cookie become one field (RFC 9113 section 8.2.3)."""
        site = self.serve()
        site.ask([*pseudo(), (b"cookie", b"a=b"), (b"x", b"y"), (b"cookie", b"c=d")])
        self.assertEqual(1, site.received.lower().count(b"\r\ncookie:"))
        self.assertIn(b"\r\nCookie: a=b; c=d\r\n", site.received)

    def test_expectation(self) -> None:
        """``Expect: 100-continue`` is fulfilled, and not forwarded; any other value gets 417."""
        site = self.serve()
        site.ask([*pseudo(b"POST"), (b"expect", b"100-continue")], [b"a"])
        self.assertNotIn(b"xpect", site.received)
        self.expect_refused([*pseudo(b"POST"), (b"expect", b"x")], 417, [b"a"])

    def test_response(self) -> None:
        """A response has no trailers, and no fields of the back end's connection.

        HTTP/2 forbids those.
        """
        site = self.serve()
        response = site.ask(pseudo())
        site.answer(
            b"HTTP/1.1 200 OK\r\nConnection: X-A\r\nX-A: a\r\nKeep-Alive: timeout=5\r\nX-B: b\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-C: c\r\n\r\n"
        )
        names = sorted(name for name, _ in response.pairs)
        self.assertEqual([b":status", b"date", b"x-b", b"x-request-id"], names)
        self.assertEqual((200, b"ok", True), (response.status, response.body, response.ended))

    def test_streams(self) -> None:
        """A rejected stream ends alone: each of the others gets its own response."""
        site = self.serve()
        refused = site.ask(pseudo(), [SMUGGLED])
        first = site.ask(pseudo(path=b"/first"))
        second = site.ask(pseudo(path=b"/second"))
        for (protocol, transport), text in zip(site.back_ends, (b"1", b"2"), strict=True):
            self.assertEqual(1, transport.value().count(b"GET /"))
            protocol.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + text)
        site.turn()
        self.assertEqual(
            [(400, True), (200, True), (200, True)],
            [(each.status, each.ended) for each in (refused, first, second)],
        )
        self.assertEqual((b"1", b"2"), (first.body, second.body))

    def test_reset(self) -> None:
        """A stream that its client resets releases its connection to the back end."""
        site = self.serve()
        site.ask(pseudo())
        site.client.reset()
        site.turn()
        self.assertTrue(site.back_ends[0][1].disconnected)
        self.assertEqual([Outcome.ABORTED], [exchange.outcome for exchange in site.exchanges])


OWN_LINES = (b"X-Forwarded-", b"Forwarded: ", b"X-Request-Id: ")


class Target(SiteTestCase):
    def expect(self, target: bytes, expected: bytes, mount: bytes | None = b"token") -> None:
        self.serve(mount)
        self.receive(b"OPTIONS %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
        self.assertEqual(
            b"OPTIONS %b HTTP/1.1" % expected, self.connect().value().split(b"\r\n")[0]
        )

    def test_below_mount(self) -> None:
        """Below a root, the segments above the resource are removed, and nothing else changes."""
        self.expect(b"/token/a%2Fb;c?x=%20", b"/a%2Fb;c?x=%20")
        self.expect(b"/token", b"/")
        self.expect(b"/token?a/b", b"/?a/b")
        self.expect(b"/%74oken/token", b"/token")

    def test_at_root(self) -> None:
        """At the root nothing is removed; an absolute target becomes origin-form.

        See RFC 9112 section 3.2.1.
        """
        self.expect(b"//a//?b", b"//a//?b", None)
        self.expect(b"http://a/b?c", b"/b?c", None)

    def test_asterisk(self) -> None:
        """``OPTIONS *`` gets a response of the stock server, and the back end gets nothing."""
        self.receive(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n%b: EVIL\r\n\r\n" % HEADER.encode())
        self.assertEqual([], self.clock.tcpClients)

    def test_not_in_origin_form(self) -> None:
        """Below a root, a target without a leading slash is left as it is, and rejected."""
        self.serve(b"token")
        self.expect_refused(b"GET xtoken/a HTTP/1.1\r\nHost: a\r\n\r\n", 400)


class Way(SiteTestCase):
    def test_body(self) -> None:
        """The body is forwarded complete, framed by its length."""
        self.receive(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
        )
        head, _, body = self.connect().value().partition(b"\r\n\r\n")
        self.assertEqual(b"ab", body)
        self.assertTrue(head.endswith(b"\r\nContent-Length: 2"), head)

    def test_answer(self) -> None:
        """The response is forwarded: status, reason, fields, body.

        Neither ``Server`` nor a type is added.
        """
        self.started()
        self.connection.dataReceived(
            b"HTTP/1.1 201 Made So\r\nDate: then\r\nX: 1\r\nX: 2\r\nContent-Length: 2\r\n\r\nok"
        )
        head, _, body = self.client.value().partition(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        self.assertEqual((b"HTTP/1.1 201 Made So", b"ok"), (start, body))
        [given] = [line for line in lines if line.startswith(b"X-Request-Id: ")]
        self.assertEqual(
            [b"Content-Length: 2", b"Date: then", given, b"X: 1", b"X: 2"], sorted(lines)
        )

    def test_id(self) -> None:
        """Back end, client and record have one id of a request.

        It is the proxy's own, or with ``trust`` the client's.
        """
        for ids, kept in ((RequestIds.GENERATE, False), (RequestIds.TRUST, True)):
            self.serve(client=ClientSettings(request_id=ids))
            self.receive(REQUEST[:-2] + b"X-Request-Id: mine\r\n\r\n")
            asked = self.connect().value()
            self.connection.dataReceived(
                ANSWER.replace(b"\r\n", b"\r\nX-Request-Id: theirs\r\n", 1)
            )
            line = b"X-Request-Id: " + self.exchanges[0].request_id.encode() + b"\r\n"
            self.assertEqual(
                (1, 1),
                (asked.count(b"X-Request-Id: "), self.client.value().count(b"X-Request-Id: ")),
            )
            self.assertEqual(
                (True, True, kept), (line in asked, line in self.client.value(), b" mine" in line)
            )

    def test_recorded(self) -> None:
        """An exchange is recorded with the octets in both directions, and the back end."""
        self.receive(b"POST /a?secret HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        self.connect()
        self.connection.dataReceived(ANSWER)
        [exchange] = self.exchanges
        self.assertEqual(
            ("POST", "/a", "HTTP/1.1", 200),
            (exchange.method, exchange.target, exchange.version, exchange.status),
        )
        self.assertEqual(
            (3, 2, Outcome.COMPLETED), (exchange.bytes_in, exchange.bytes_out, exchange.outcome)
        )
        self.assertEqual(
            ("192.168.1.1", "http://127.0.0.1:8080"), (exchange.peer, exchange.backend)
        )

    def test_scheme(self) -> None:
        """Without TLS, the back end receives ``http``, and there is no certificate."""
        self.receive(REQUEST)
        told = self.connect().value()
        self.assertIn(b"\r\nX-Forwarded-Proto: http\r\n", told)
        self.assertNotIn(HEADER.encode(), told)

    def test_next_request(self) -> None:
        """After a response the stock channel serves the next request."""
        self.receive(REQUEST * 2)
        self.connect()
        self.connection.dataReceived(ANSWER)
        self.connection.dataReceived(ANSWER)
        self.assertEqual(2, self.client.value().count(b"HTTP/1.1 200 OK"))

    def test_back_pressure(self) -> None:
        """While the client does not read, the back end is not read either."""
        self.started()
        self.connection.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        assert self.client.producer is not None
        self.client.producer.pauseProducing()
        self.assertEqual("paused", self.back_end.producerState)
        self.client.producer.resumeProducing()
        self.assertEqual("producing", self.back_end.producerState)

    def wait(self) -> None:
        """Send two requests; complete the first response to a client that does not read."""
        self.receive(REQUEST + SECOND)
        self.connect()
        self.connection.dataReceived(ANSWER[:-1])
        assert self.client.producer is not None
        self.client.producer.pauseProducing()
        self.back_end.clear()
        self.connection.dataReceived(ANSWER[-1:])

    def test_pipelined_back_pressure(self) -> None:
        """The next request waits until the client reads again: its response would fill memory."""
        self.wait()
        self.assertEqual((b"", 1), (self.back_end.value(), len(self.clock.tcpClients)))
        self.client.producer.resumeProducing()
        self.assertTrue(self.back_end.value().startswith(b"GET /second "))
        self.connection.dataReceived(ANSWER)
        self.assertEqual(2, self.client.value().count(b"HTTP/1.1 200 OK"))

    def test_fault_after_a_wait(self) -> None:
        """A fault in a request that has waited sends nothing to the back end (L3)."""
        self.wait()
        self.patch(Relay, "request_ready", lambda _: 1 / 0)
        self.client.producer.resumeProducing()
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(b"", self.back_end.value())
        self.assertIn(b"HTTP/1.1 502 ", self.client.value())

    def test_client_leaves_while_it_waits(self) -> None:
        """A request that waits is dropped with its client."""
        self.wait()
        self.leave()
        self.client.producer.resumeProducing()
        self.assertEqual(b"", self.back_end.value())
        self.assertEqual(
            [Outcome.COMPLETED, Outcome.ABORTED], [one.outcome for one in self.exchanges]
        )

    def test_client_leaves(self) -> None:
        """When the client leaves, the back end's connection is cut and the exchange recorded.

        What still arrives is dropped.
        """
        self.started()
        self.leave()
        self.assertTrue(self.back_end.disconnected)
        self.assertEqual(
            [(Outcome.ABORTED, "the client left")],
            [(one.outcome, one.detail) for one in self.exchanges],
        )
        self.connection.dataReceived(ANSWER)
        self.assertEqual(b"", self.client.value())

    def test_cut_short(self) -> None:
        """A response that the back end does not finish cuts the client's connection.

        It is recorded once.
        """
        self.started()
        self.connection.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertTrue(self.client.disconnected)
        self.leave()
        self.assertEqual([Outcome.ABORTED], [exchange.outcome for exchange in self.exchanges])


class Alone(SiteTestCase):
    """One request by its methods, in every order that a back end and a client may cause."""

    def test_after_the_end(self) -> None:
        """After its end nothing is written, finished or recorded again."""
        request = self.started()
        request.abort(Code.INTERNAL_ERROR, "once")
        before = self.client.value()
        request.write(b"more")
        request.finish()
        request.abort(Code.INTERNAL_ERROR, "twice")
        self.leave()
        self.assertEqual(
            (before, ["once"]),
            (self.client.value(), [exchange.detail for exchange in self.exchanges]),
        )

    def test_before_a_consumer(self) -> None:
        """A client that leaves before its request is served is recorded, and can be paused."""
        request = self.started()
        request.consumer = None
        request.pauseProducing()
        request.resumeProducing()
        request.stopProducing()
        self.leave()
        self.assertEqual([Outcome.ABORTED], [exchange.outcome for exchange in self.exchanges])

    def test_body_is_there(self) -> None:
        """A complete body can be neither paused nor resumed."""
        request = self.started()
        request.pause_body()
        request.resume_body()
        self.assertTrue(request.body_complete)

    def test_refusal(self) -> None:
        """An error response is JSON with its length, and has no other type."""
        self.started().answer(ErrorResponse(Code.QUEUE_FULL, "busy"))
        head, _, body = self.client.value().partition(b"\r\n\r\n")
        self.assertIn(b"\r\nContent-Length: %d" % len(body), head)
        self.assertEqual(1, head.count(b"Content-Type: application/json"))
        self.assertIn(b"temporarily_unavailable", body)

    def test_broken_off(self) -> None:
        """A failure rejects the request before a response, and cuts the connection after it began.

        After the end it has no effect.
        """
        for begun in (False, True):
            self.serve()
            request = self.started()
            if begun:
                request.begin(200, b"", (), Framing.LENGTH, 5)
            request.fail(ErrorResponse(Code.INVALID_RESPONSE, "broken"))
            request.fail(ErrorResponse(Code.INVALID_RESPONSE, "broken again"))
            expected = (Outcome.ABORTED, 200) if begun else (Outcome.REJECTED, 502)
            self.assertEqual(
                [(*expected, "broken")],
                [(one.outcome, one.status, one.detail) for one in self.exchanges],
            )
            self.assertEqual(begun, self.client.disconnected)
            self.assertTrue(self.back_end.disconnected)

    def test_broken_off_before_the_back_end(self) -> None:
        """A failure while a connection to the back end is made sends it nothing (invariant L3)."""
        serve = self.resource.serve

        def broken(request: Any) -> None:
            serve(request)
            raise ZeroDivisionError

        self.patch(self.resource, "serve", broken)
        self.receive(REQUEST)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertIn(b"HTTP/1.1 502 ", self.client.value())
        self.assertEqual(b"", self.connect().value())

    def test_aborted(self) -> None:
        """An aborted request leaves the back end too: nothing more is read from it."""
        request = self.started()
        request.abort(Code.INTERNAL_ERROR, "enough")
        self.assertTrue(self.back_end.disconnected)
        self.assertIs(None, request.consumer)

    def test_broken_off_after_the_end(self) -> None:
        """After an end without a response, a failure has no effect."""
        request = self.started()
        request.abort(Code.INTERNAL_ERROR, "over")
        request.fail(ErrorResponse(Code.INVALID_RESPONSE, "broken"))
        self.assertEqual(["over"], [exchange.detail for exchange in self.exchanges])

    def test_unknown_length(self) -> None:
        """Without a length the stock channel frames the response itself."""
        request = self.started()
        request.begin(200, b"", (), Framing.CLOSE, -1)
        request.write(b"ab")
        request.finish()
        self.assertTrue(self.client.value().endswith(b"\r\n\r\n2\r\nab\r\n0\r\n\r\n"))

    def test_aborted_stream(self) -> None:
        """A stream over HTTP/2 is reset by its own method; the others of its connection go on."""
        request = self.started()
        aborted: list[str] = []
        request._request.channel.abortConnection = lambda: aborted.append("stream")
        request.abort(Code.INTERNAL_ERROR, "cut short")
        self.assertEqual((["stream"], False), (aborted, self.client.disconnected))


class OverTls(ProxyTestCase):
    async def test_certificate(self) -> None:
        """Over TLS the back end and the record have the client's certificate."""
        self.start(factory=Site)
        client = client_identity()
        await self.ask(get(), client)
        [request] = self.back_end.requests
        self.assertEqual([header_value(client)], request.values(HEADER))
        self.assertEqual([b"https"], request.values("X-Forwarded-Proto"))
        self.assertEqual(
            ["SELF_SIGNED"], [exchange.verdict.value for exchange in self.proxy.exchanges]
        )

    async def test_tls_version(self) -> None:
        """The record holds the version of TLS, as under the proxy's own factory."""
        self.start(factory=Site)
        await self.ask(get())
        self.assertEqual(["TLSv1.3"], [exchange.tls_version for exchange in self.proxy.exchanges])

    async def test_http2(self) -> None:
        """A client of HTTP/2 has the header on each stream, and 400 for a body on GET.

        It uses ALPN and a certificate.
        """
        # An application may choose this. The proxy's context offers HTTP/1.1 alone, and
        # CertificateOptions offer every protocol of the Site.
        self.patch(
            tls_context,
            "_choose_http_1_1",
            lambda _, offered: b"h2" if b"h2" in offered else b"http/1.1",
        )
        self.start(factory=Site)
        identity = client_identity()
        client = Http2Client()

        def step(connection: ssl.SSLSocket) -> list[Http2Response]:
            self.assertEqual("h2", connection.selected_alpn_protocol())
            responses = [
                client.request([*pseudo(), (FORGED, b"EVIL")]),
                client.request(pseudo(), [SMUGGLED]),
                client.request(pseudo(b"POST"), [b"ab"]),
                client.request(pseudo(b"DELETE"), [SMUGGLED]),
            ]
            while not all(response.ended for response in responses):
                if data := client.take():
                    connection.sendall(data)
                client.feed(connection.recv(65536))
            return responses

        responses = await self.dialogue(step, identity, alpn=("h2", "http/1.1"))
        self.assertEqual([200, 400, 200, 400], [response.status for response in responses])
        self.assertEqual(
            [b"GET /token HTTP/1.1", b"POST /token HTTP/1.1"],
            sorted(request.start for request in self.back_end.requests),
        )
        for request in self.back_end.requests:
            self.assertEqual([header_value(identity)], request.values(HEADER))
            self.assertEqual([b"https"], request.values("X-Forwarded-Proto"))
        self.assertNotIn(b"EVIL", self.back_end.received)
        self.assertNotIn(b"/admin", self.back_end.received)

    async def test_http_1_1_beside_http2(self) -> None:
        """A client that offers HTTP/1.1 alone gets it, with the same rules."""
        self.start(factory=Site)

        def step(connection: ssl.SSLSocket) -> str | None:
            connection.sendall(
                get("/token", "Transfer-Encoding: chunked", f"{HEADER}: EVIL")
                + b"1\r\na\r\n0\r\n\r\n"
            )
            self.assertEqual(400, read_reply(connection).status)
            return connection.selected_alpn_protocol()

        self.assertEqual("http/1.1", await self.dialogue(step, alpn=("http/1.1",)))
        self.assertEqual(b"", self.back_end.received)
