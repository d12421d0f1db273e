"""Tests of :mod:`x509proxy.resource`.

The same rules hold under the proxy's own factory and under a stock ``Site``, through real TLS.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, ClassVar

import attrs
from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.proxy import ReverseProxyResource
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.support.raw_tls import HEADER, ProxyTestCase, get, read_reply, read_to_end, until
from tests.support.tokens import bound, key_set
from x509proxy.authorization.http_client import Fetched
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import SelfSigned
from x509proxy.config.loader import Configuration
from x509proxy.config.token_files import TokenFiles
from x509proxy.exchange import Outcome
from x509proxy.forwarding import decision as forwarding
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.forwarding.presets import find_preset
from x509proxy.monitoring.snapshot import TokenState
from x509proxy.resource import X509ProxyResource
from x509proxy.settings import (
    Backend,
    ClientAuth,
    ClientSettings,
    HealthSettings,
    PolicySettings,
    ProxySettings,
    RuleSettings,
    SettingsError,
    TokenLevel,
    TokenRequirement,
    TokenSettings,
    Trust,
    UpstreamSettings,
)
from x509proxy.testing import ThrowAwayAuthority, client_identity, header_value


def post(*lines: str, body: bytes = b"", target: str = "/token") -> bytes:
    return get(target, *lines, method="POST") + body


class EitherFactory(ProxyTestCase):
    """Rules that hold under either factory.

    This class runs under the proxy's own.
    """

    factory: ClassVar[Any] = None

    def serve(self, *answers: Any, **options: Any) -> None:
        self.start(*answers, factory=type(self).factory, **options)

    async def test_certificate(self) -> None:
        """The certificate reaches the back end once, in the secret header as it is spelt."""
        self.serve()
        client = client_identity()
        self.assertEqual(200, (await self.ask(get("/token"), client)).status)
        [request] = self.back_end.requests
        self.assertEqual(
            [(HEADER.encode(), header_value(client))],
            [pair for pair in request.pairs if b"-Cert-" in pair[0]],
        )

    async def test_no_certificate(self) -> None:
        """Without a certificate there is no such header, not even an empty one."""
        self.serve()
        await self.ask(get("/token"))
        self.assertNotIn(HEADER.lower().encode(), self.back_end.received.lower())

    async def test_forged(self) -> None:
        """A forged header is removed and counted, and the genuine one takes its place."""
        self.serve()
        client = client_identity()
        for who, expected in ((client, [header_value(client)]), (None, [])):
            await self.ask(get("/token", f"{HEADER}: EVIL", f"{HEADER.lower()}: EVIL"), who)
            self.assertEqual(expected, self.back_end.requests[-1].values(HEADER))
            self.assertEqual(2, self.proxy.exchanges[-1].forged)
        self.assertNotIn(b"EVIL", self.back_end.received)

    async def test_certificate_of_this_connection(self) -> None:
        """Two clients on one pooled connection keep their own certificates.

        One without a certificate has none.
        """
        self.serve()
        one, other = client_identity(common_name="one"), client_identity(common_name="other")
        for who in (one, other, None, one):
            await self.ask(get("/token"), who)
        values = [request.values(HEADER) for request in self.back_end.requests]
        self.assertEqual(
            [[header_value(one)], [header_value(other)], [], [header_value(one)]], values
        )
        self.assertEqual(1, self.back_end.accepted)

    async def test_target(self) -> None:
        """The target is unchanged: nothing is decoded, encoded, merged or resolved."""
        self.serve()
        targets = (
            "/",
            "//",
            "/a//b/",
            "/%2e/%2E/",
            "/a%2Fb;c?x=%20&y=+",
            "/a:b@c+d",
            "/token/../x/./",
            "/?",
            "/~'()*!|{}",
        )
        for target in targets:
            await self.ask(get(target))
        starts = [f"GET {target} HTTP/1.1".encode() for target in targets]
        self.assertEqual(starts, [request.start for request in self.back_end.requests])

    async def test_path(self) -> None:
        """The resource's path precedes every target."""
        self.serve(path=b"/as")
        await self.ask(get("/token?a"))
        self.assertEqual(b"GET /as/token?a HTTP/1.1", self.back_end.requests[0].start)

    async def test_out_of_the_path(self) -> None:
        """Paths beside the resource's path, and paths that avoid its rules, are not reachable."""
        self.serve(path=b"/as")
        for target in (
            "/../manager/html",
            "/../as/token",
            "/x/../../as/token",
            "/%2e%2e/as/token",
            "/..;/as/token",
            "/%c0%ae%c0%ae/manager/html",
            "/x/..%c0%af..%c0%afmanager/html",
            "/%uff0e%uff0e/manager/html",
            "/.%ff./manager/html",
        ):
            reply = await self.ask(get(target))
            self.assertEqual(400, reply.status, target)
        self.assertEqual([], self.back_end.requests)

    async def test_host(self) -> None:
        """The client's ``Host`` is kept: issuers and redirects are made of it."""
        self.serve()
        await self.ask(b"GET / HTTP/1.1\r\nHost: as.example\r\nConnection: close\r\n\r\n")
        self.assertEqual([b"as.example"], self.back_end.requests[0].values("Host"))

    async def test_no_host(self) -> None:
        """An HTTP/1.0 request without ``Host`` gets the back end's own."""
        self.serve()
        self.assertEqual(200, (await self.ask(b"GET / HTTP/1.0\r\n\r\n")).status)
        self.assertEqual(
            [f"127.0.0.1:{self.back_end.port}".encode()], self.back_end.requests[0].values("Host")
        )

    async def test_body(self) -> None:
        """A body arrives complete and framed once, however the client framed it."""
        self.serve()
        for line, body in (
            ("Content-Length: 4", b"a=%b"),
            ("Transfer-Encoding: chunked", b"1\r\na\r\n3\r\n=%b\r\n0\r\n\r\n"),
        ):
            self.assertEqual(200, (await self.ask(post(line, body=body))).status)
            request = self.back_end.requests[-1]
            self.assertEqual((b"a=%b", [b"4"]), (request.body, request.values("Content-Length")))
            self.assertEqual([], request.values("Transfer-Encoding"))

    async def test_large_body(self) -> None:
        """A body larger than the buffer arrives complete, and so does the same response."""
        body = bytes(range(256)) * 2048
        self.serve(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        reply = await self.ask(post(f"Content-Length: {len(body)}", body=body))
        self.assertEqual((200, body), (reply.status, reply.body))
        self.assertEqual(body, self.back_end.requests[0].body)

    async def test_body_limit(self) -> None:
        """A body above the limit gets 413, chunked or not, and the back end receives nothing."""
        self.serve(client=ClientSettings(max_body_bytes=10))
        for line, body in (
            ("Content-Length: 11", b"a" * 11),
            ("Transfer-Encoding: chunked", b"b\r\nabcdefghijk\r\n0\r\n\r\n"),
        ):
            self.assertEqual(413, (await self.ask(post(line, body=body))).status)
        self.assertEqual(200, (await self.ask(post("Content-Length: 10", body=b"a" * 10))).status)
        self.assertEqual(1, len(self.back_end.requests))

    async def test_refusals(self) -> None:
        """A malformed or misdirected request is rejected.

        The back end receives nothing, and the connection ends.
        """
        self.serve()
        refused = {
            get("/", method="TRACE"): 405,
            get("a.example:443", method="CONNECT"): 405,
            get("/", "Host: other"): 400,
            get("http://other/"): 400,
            get("/", "Content-Length: 1") + b"a": 400,
            post("Content-Length: 1", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"): 400,
            get("/", "X: \x01"): 400,
            get("/", "Connection: host"): 400,
            post("Expect: something", "Content-Length: 1", body=b"a"): 417,
        }
        for request, status in refused.items():
            answer = (await self.raw(request)).split()
            self.assertEqual(status, int(answer[1]), request)
        self.assertEqual(b"", self.back_end.received)

    async def raw(self, request: bytes) -> bytes:
        def step(connection: ssl.SSLSocket) -> bytes:
            connection.sendall(request)
            return read_to_end(connection)

        return await self.dialogue(step)

    async def test_policy(self) -> None:
        """The policy decides: a missing certificate gets 401 with an error of RFC 6749."""
        policy = PolicySettings(client_certificate=ClientAuth.REQUIRED, trust=Trust.CA)
        authority = ThrowAwayAuthority()
        self.serve(policy=policy, authorities=[authority.certificate])
        wanted: tuple[tuple[SelfSigned | None, int], ...] = (
            (None, 401),
            (client_identity(), 401),
            (authority.client(), 200),
        )
        for client, status in wanted:
            reply = await self.ask(get("/token"), client)
            self.assertEqual(
                (status, status == 401), (reply.status, b'"invalid_client"' in reply.body)
            )
        self.assertEqual(1, len(self.back_end.requests))

    async def test_tokens(self) -> None:
        """An access token is forwarded with its own certificate, and with no other."""
        rules = (RuleSettings(path="/api", token=TokenRequirement.BOUND),)
        tokens = TokenSettings(level=TokenLevel.UNVERIFIED)
        self.serve(policy=PolicySettings(rules=rules), tokens=tokens)
        owner = client_identity()
        shown = ClientCertificate.from_x509(owner.certificate, ())
        token = f"Authorization: Bearer {bound(shown.thumbprint).decode()}"
        for client, status in ((owner, 200), (client_identity(), 401), (None, 401), (owner, 200)):
            self.assertEqual(status, (await self.ask(get("/api", token), client)).status)
        self.assertEqual(401, (await self.ask(get("/api"), owner)).status)
        self.assertEqual(2, len(self.back_end.requests))

    async def test_preset(self) -> None:
        """A preset with header names of its own needs no secret one."""
        self.serve(preset="rfc9440", header=None)
        await self.ask(get("/token", "Client-Cert: EVIL"), client_identity())
        [value] = self.back_end.requests[0].values("Client-Cert")
        self.assertRegex(value, rb"\A:[A-Za-z0-9+/]+=*:\Z")

    async def test_secret_is_kept(self) -> None:
        """A secret name that the back end repeats does not reach the client."""
        name = HEADER.encode()
        self.serve(
            b"HTTP/1.1 200 OK\r\nVary: Accept, %b\r\n%b: x\r\nContent-Length: 0\r\n\r\n"
            % (name, name)
        )
        reply = await self.ask(get())
        self.assertEqual(["Accept, *"], reply.get("Vary"))
        self.assertNotIn(HEADER.lower(), str(reply).lower())

    async def test_answer(self) -> None:
        """Status, reason, repeated fields and body of the response arrive.

        Neither a banner nor a type is added.
        """
        self.serve(
            b"HTTP/1.1 418 Short And Stout\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n"
            b"Content-Length: 3\r\n\r\ntea"
        )
        reply = await self.ask(get())
        self.assertEqual((418, "Short And Stout", b"tea"), (reply.status, reply.reason, reply.body))
        self.assertEqual(["a", "b"], reply.get("Set-Cookie"))
        self.assertEqual([[], []], [reply.get("Server"), reply.get("Content-Type")])
        self.assertEqual(1, len(reply.get("Date")))

    async def test_answers_of_unknown_length(self) -> None:
        """A chunked response, or one that ends with its connection, arrives complete.

        Its end is visible, in HTTP/1.0 too.
        """
        chunked = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"
        )

        def closed(transport: Any) -> None:
            transport.write(b"HTTP/1.1 200 OK\r\n\r\nabc")
            transport.loseConnection()

        self.serve(chunked, closed, chunked, closed)
        for version in ("1.1", "1.1", "1.0", "1.0"):
            reply = await self.ask(get(version=version))
            self.assertEqual((200, b"abc"), (reply.status, reply.body))
            self.assertEqual(
                ["chunked"] if version == "1.1" else [], reply.get("Transfer-Encoding")
            )

    async def test_answers_without_a_body(self) -> None:
        """Responses to HEAD, 204 and 304 have no body; that to HEAD has the length."""
        self.serve(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            *(b"HTTP/1.1 %d X\r\n\r\n" % code for code in (204, 304)),
        )
        reply = await self.ask(get(method="HEAD"), method="HEAD")
        self.assertEqual((200, ["5"], b""), (reply.status, reply.get("Content-Length"), reply.body))
        for status in (204, 304):
            answer = await self.raw(get())
            self.assertIn(b" %d " % status, answer)
            self.assertTrue(answer.endswith(b"\r\n\r\n"), answer)
            self.assertNotIn(b"transfer-encoding", answer.lower())

    async def test_keep_alive(self) -> None:
        """Requests of one connection get responses in order, each with the certificate.

        Pipelined requests too.
        """
        self.serve()
        client = client_identity()

        def step(connection: ssl.SSLSocket) -> list[bytes]:
            connection.sendall(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
            first = read_reply(connection).body
            connection.sendall(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n" + get("/3"))
            return [first, *read_to_end(connection).split(b"\r\n\r\n")[1:]]

        answers = await self.dialogue(step, client)
        self.assertEqual((3, b"ok"), (len(answers), answers[-1]))
        self.assertEqual(
            [b"/1", b"/2", b"/3"], [request.start.split()[1] for request in self.back_end.requests]
        )
        self.assertEqual(
            [[header_value(client)]] * 3,
            [request.values(HEADER) for request in self.back_end.requests],
        )

    async def test_client_leaves(self) -> None:
        """A client that leaves cancels its request at the back end.

        The exchange is recorded as aborted.
        """
        self.serve(lambda _: None)
        connection = await deferToThread(self.proxy.connect)
        connection.sendall(get())
        await self.back_end.heard(1)
        connection.close()
        await until(lambda: self.proxy.exchanges and not self.back_end.connections)
        [exchange] = self.proxy.exchanges
        self.assertEqual((Outcome.ABORTED, "the client left"), (exchange.outcome, exchange.detail))

    async def test_truncated_answer(self) -> None:
        """A truncated response is visibly truncated for the client, whatever its framing."""

        def cut(start: bytes) -> Callable[[Any], None]:
            def act(transport: Any) -> None:
                transport.write(start)
                transport.loseConnection()

            return act

        short = cut(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        endless = cut(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        self.serve(short, endless, endless)
        for version in ("1.1", "1.1", "1.0"):
            error = await self.assertFailure(
                self._failing(version), HTTPException, ssl.SSLError, ConnectionError
            )
            self.assertIsInstance(error, Exception)
        self.assertEqual(
            [Outcome.ABORTED] * 3, [exchange.outcome for exchange in self.proxy.exchanges]
        )

    def _failing(self, version: str) -> Any:
        def step() -> Any:
            with self.proxy.connect() as connection:
                connection.sendall(get(version=version))
                return read_reply(connection)

        return deferToThread(step)

    async def test_bad_answers(self) -> None:
        """An ambiguous or malformed response becomes 502; a missing back end is never a 200."""

        def silent(transport: Any) -> None:
            transport.loseConnection()

        both = (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        self.serve(both, silent, b"garbage\r\n\r\n")
        for _ in range(3):
            self.assertEqual(502, (await self.ask(get())).status)
        await self.back_end.stop()
        self.assertEqual(502, (await self.ask(get())).status)

    async def test_fails_closed(self) -> None:
        """An exception before the header is an error response, is recorded, and sends nothing."""

        def broken(*_: object) -> None:
            raise LookupError

        self.serve()
        self.patch(forwarding, "admit", broken)
        self.assertIn((await self.ask(get(), client_identity())).status, (500, 502))
        self.assertEqual(1, len(self.flushLoggedErrors(LookupError)))
        self.assertEqual(b"", self.back_end.received)
        self.assertEqual(
            [Outcome.REJECTED], [exchange.outcome for exchange in self.proxy.exchanges]
        )

    async def test_slow_client(self) -> None:
        """While a client does not read, the back end is paused.

        Less than a tenth of the response is read from it.
        """
        size = 64 << 20
        written: list[int] = [0]

        def pour(transport: Any) -> None:
            transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            transport.registerProducer(_Pouring(transport, written), streaming=False)

        self.serve(pour)
        connection = await deferToThread(self.proxy.connect)
        self.addCleanup(connection.close)
        connection.sendall(get())
        await self.back_end.heard(1)
        before = -1
        while before != written[0]:
            before = written[0]
            await until(_Countdown(2000))
        self.assertLess(written[0], size // 4)


class _Pouring:
    """A producer that writes on demand, without end."""

    def __init__(self, transport: Any, written: list[int]) -> None:
        self._transport, self._written = transport, written

    def resumeProducing(self) -> None:
        self._written[0] += 65536
        self._transport.write(b"x" * 65536)

    def stopProducing(self) -> None:
        pass


class _Countdown:
    """A value that is true after a number of tests."""

    def __init__(self, times: int) -> None:
        self._times = times

    def __call__(self) -> bool:
        self._times -= 1
        return self._times < 0


class UnderStockSite(EitherFactory):
    """The same under ``twisted.web.server.Site``."""

    factory = Site

    async def test_mute_after_400(self) -> None:
        """A request that the stock channel has answered with 400 is not served.

        The rest of it comes in later TLS records.
        """
        self.serve()
        for bad in (b"Bad Name: x", b"No colon", b"X-A: a\0b"):
            await self.go_on_after_400(bad)
        self.assertEqual(b"", self.back_end.received)
        self.assertEqual(
            {"rejected by the stock channel"},
            {exchange.detail for exchange in self.proxy.exchanges},
        )

    async def test_mute_after_bad_framing(self) -> None:
        """Nor is one with two framings or a malformed one; the stock channel fails and logs it."""
        self.start(factory=self._without_timeout)
        await self.go_on_after_400(b"Content-Length: +1")
        await self.go_on_after_400(b"Content-Length: 1\r\nTransfer-Encoding: chunked")
        await self.go_on_after_400(b"Transfer-Encoding: chunked\r\nContent-Length: 1")
        self.assertTrue(self.flushLoggedErrors(AttributeError))
        self.assertEqual(b"", self.back_end.received)
        self.assertNotIn(Outcome.COMPLETED, [exchange.outcome for exchange in self.proxy.exchanges])

    @staticmethod
    def _without_timeout(resource: X509ProxyResource) -> Site:
        # The failed channel would leave its timer running.
        return Site(resource, timeout=None)

    async def go_on_after_400(self, bad: bytes) -> None:
        def step(connection: ssl.SSLSocket) -> bytes:
            connection.sendall(b"POST /admin HTTP/1.1\r\nHost: a\r\n" + bad + b"\r\nX-A: a\r\n")
            answer = connection.recv(65536)
            try:
                for piece in (
                    b"X-B: b\r\n",
                    b"X-C: c\r\n",
                    b"\r\n",
                    b"GET / HTTP/1.1\r\nHost: a\r\n",
                    b"\r\n",
                ):
                    connection.sendall(piece)
            except (ssl.SSLError, ConnectionError):
                pass
            return answer + read_to_end(connection)

        answer = await self.dialogue(step, client_identity())
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer)
        self.assertEqual(1, answer.count(b"HTTP/1.1"))

    async def test_mounted(self) -> None:
        """Below a site's root, the segments above the resource are removed from the target.

        Nothing else changes.
        """
        for targets in (
            {
                "/token/a%2Fb;c?x=%20": "/a%2Fb;c?x=%20",
                "/token": "/",
                "/token/": "/",
                "/token?x=/": "/?x=/",
            },
            {
                "/%74oken//a/../": "//a/../",
                "/token//": "//",
                "/token/token/%74oken": "/token/%74oken",
            },
        ):
            self.start(factory=self._mounted)
            for target in targets:
                await self.ask(get(target, f"{HEADER}: EVIL"))
            expected = [f"GET {target} HTTP/1.1".encode() for target in targets.values()]
            self.assertEqual(expected, [request.start for request in self.back_end.requests])
            self.assertNotIn(b"EVIL", self.back_end.received)

    @staticmethod
    def _mounted(resource: X509ProxyResource) -> Site:
        root = Resource()
        root.putChild(b"token", resource)
        return Site(root)

    async def test_beside(self) -> None:
        """Resources beside it are not proxied."""
        self.start(factory=self._mounted)
        self.assertEqual(404, (await self.ask(get("/tokens"))).status)
        self.assertEqual(b"", self.back_end.received)


class Whole(SynchronousTestCase):
    def make(self, **options: Any) -> X509ProxyResource:
        return X509ProxyResource("127.0.0.1", 8080, reactor=MemoryReactorClock(), **options)

    def test_is_a_leaf(self) -> None:
        """It is a ``ReverseProxyResource`` without children; ``getChild`` returns the resource."""
        resource = self.make(header=HEADER)
        self.assertIsInstance(resource, ReverseProxyResource)
        self.assertTrue(resource.isLeaf)
        for name in (b"", b"token", b".."):
            self.assertIs(resource, resource.getChild(name, object()))  # type: ignore[arg-type]

    def test_bad_names(self) -> None:
        """A short, ordinary or malformed header name is an error, which does not repeat it."""
        names = (
            "",
            "X-Cert",
            "X" * 40,
            "X-Client-Certificate-Of-Our-Own-Server",
            HEADER + ":",
            HEADER + "\r\n",
            "x_" + HEADER,
        )
        for name in names:
            error = self.assertRaises(SettingsError, self.make, header=name)
            if name:
                self.assertNotIn(name, str(error))

    def test_tokens(self) -> None:
        """A rule about access tokens needs ``tokens``."""
        policy = PolicySettings(rules=(RuleSettings(token=TokenRequirement.BOUND),))
        error = self.assertRaises(SettingsError, self.make, header=HEADER, policy=policy)
        self.assertIn("tokens: found none", str(error))

    def test_unverified_claims(self) -> None:
        """A header for claims needs tokens that are verified."""
        policy = PolicySettings(rules=(RuleSettings(token=TokenRequirement.BOUND),))
        tokens = TokenSettings(level=TokenLevel.UNVERIFIED)
        with self.assertRaisesRegex(SettingsError, "tokens.level: found unverified beside"):
            X509ProxyResource(
                "127.0.0.1", 8080, b"", MemoryReactorClock(),
                preset="token-claims", policy=policy, tokens=tokens,
            )  # fmt: skip

    def test_bad_preset(self) -> None:
        """An unknown preset is an error."""
        self.assertRaises(SettingsError, self.make, header=HEADER, preset="nginx")

    def test_no_name(self) -> None:
        """A preset with an open name needs one; a preset with fixed names takes none."""
        self.assertRaises(SettingsError, self.make)
        self.assertRaises(SettingsError, self.make, preset="xfcc", header=HEADER)

    def test_no_header_at_all(self) -> None:
        """A preset without any header, and no header beside it, is an error."""
        error = self.assertRaises(SettingsError, self.make, preset="none")
        self.assertIn("headers: found none", str(error))

    def test_bad_paths(self) -> None:
        """A path that would change the request line is an error."""
        for path in (b"/a b", b"/a\r\nX: y", b"/a?b", b"a"):
            self.assertRaises(SettingsError, self.make, header=HEADER, path=path)

    def test_bad_kinds(self) -> None:
        """Octets for text, or text for octets, are one error sentence without the value."""
        for name, value, kinds in (
            ("header", HEADER.encode(), "bytes, expected str"),
            ("path", "/x", "str, expected bytes"),
            ("preset", b"xfcc", "bytes, expected str"),
            ("host", b"127.0.0.1", "bytes, expected str"),
            ("port", "8080", "str, expected int"),
        ):
            arguments: dict[str, Any] = {
                "host": "a",
                "port": 1,
                "reactor": MemoryReactorClock(),
                "header": HEADER,
                name: value,
            }
            error = self.assertRaises(SettingsError, X509ProxyResource, **arguments)
            self.assertEqual(f"{name}: found {kinds}", str(error))

    def test_bad_hosts(self) -> None:
        """A host is a name or an address.

        A URL, a port or a path in its place is an error, which does not repeat it.
        """
        for host in (
            "http://127.0.0.1",
            "localhost:8080",
            "a/b",
            "key@a",
            "",
            "a b",
            "[::1]",
            "a?b",
            "a#b",
        ):
            error = self.assertRaises(
                SettingsError,
                X509ProxyResource,
                host,
                1,
                reactor=MemoryReactorClock(),
                header=HEADER,
            )
            self.assertTrue(
                str(error).startswith(
                    "host: found no host name or address, expected one such as 127.0.0.1"
                )
            )
        for host in ("localhost", "AS.example.com", "127.0.0.1", "::1", "a_b"):
            X509ProxyResource(host, 1, reactor=MemoryReactorClock(), header=HEADER)

    def test_bad_port(self) -> None:
        """An impossible port is an error."""
        self.assertRaises(
            SettingsError,
            X509ProxyResource,
            "127.0.0.1",
            0,
            reactor=MemoryReactorClock(),
            header=HEADER,
        )

    def test_global_reactor(self) -> None:
        """Without a reactor it uses the global one, and observes nothing."""
        resource = X509ProxyResource("127.0.0.1", 8080, header=HEADER)
        self.assertIs(reactor, resource.reactor)
        resource.observe(None)  # type: ignore[arg-type]

    def test_secret_is_not_shown(self) -> None:
        """Neither its text nor that of its attributes shows the secret name."""
        resource = self.make(header=HEADER)
        self.assertNotIn(HEADER, repr(resource) + repr(vars(resource)))

    def test_from_configuration(self) -> None:
        """A configuration makes one with a pool for each back end.

        Idle connections can be closed.
        """
        made = client_identity()
        backends = (Backend.parse("http://127.0.0.1:8080/as"), Backend.parse("unix:/run/as.sock"))
        rules = HeaderRules.for_preset(find_preset("connect2id"), HEADER.encode())
        configuration = Configuration(
            ProxySettings(), Identity(made.certificate, made.private_key), backends, rules
        )
        resource = X509ProxyResource.from_configuration(configuration, MemoryReactorClock())
        self.assertEqual(("127.0.0.1", 8080, b"/as"), (resource.host, resource.port, resource.path))
        resource.close()

    def test_back_ends(self) -> None:
        """The state of each back end is a value.

        Without health checks its start connects to none.
        """
        resource = self.make(header=HEADER)
        self.assertEqual(["http://127.0.0.1:8080"], [pool.status().name for pool in resource.pools])
        resource.start()
        self.assertEqual([], resource.reactor.tcpClients)

    def test_endpoint_without_certificates(self) -> None:
        """An endpoint that requests no certificate is logged once, where one may be needed."""
        for needed, times in ((ClientAuth.OPTIONAL, 1), (ClientAuth.NONE, 0)):
            policy = PolicySettings(client_certificate=needed)
            resource = self.make(header=HEADER, policy=policy)
            site = Site(resource, reactor=resource.reactor)
            with capturedLogs() as events:
                for _ in range(2):
                    channel: Any = site.buildProtocol(None)
                    channel.makeConnection(StringTransport(lenient=True))
                    channel.dataReceived(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            found = [str(event.get("log_format")) for event in events]
            self.assertEqual(times, str(found).count("no client can send a certificate"), needed)

    def test_kept_pools(self) -> None:
        """A back end that stays keeps its pool, even if its place in the list changes."""
        made = client_identity()
        backends = [Backend.parse(f"http://127.0.0.1:{port}") for port in (8081, 8082, 8083)]
        rules = HeaderRules.for_preset(find_preset("connect2id"), HEADER.encode())
        configuration = Configuration(
            ProxySettings(), Identity(made.certificate, made.private_key),
            tuple(backends[:2]), rules,
        )  # fmt: skip
        resource = X509ProxyResource.from_configuration(configuration, MemoryReactorClock())
        _, kept = resource.pools
        resource.use(attrs.evolve(configuration, backends=(backends[1], backends[2])))
        self.assertIs(kept, resource.pools[0])
        self.assertEqual(backends[1:], [pool.backend for pool in resource.pools])

    def test_checks(self) -> None:
        """Its checks begin with its start, also those of later back ends, and end with it."""
        made = client_identity()
        backends = (Backend.parse("http://127.0.0.1:8080"),)
        rules = HeaderRules.for_preset(find_preset("connect2id"), HEADER.encode())
        settings = ProxySettings(health=HealthSettings(path="/health"))
        configuration = Configuration(
            settings, Identity(made.certificate, made.private_key), backends, rules
        )
        reactor = MemoryReactorClock()
        resource = X509ProxyResource.from_configuration(configuration, reactor)
        reactor.advance(10)
        self.assertEqual([], reactor.tcpClients)
        resource.start()
        reactor.advance(0)
        again = attrs.evolve(
            configuration, backends=(*backends, Backend.parse("http://127.0.0.1:8081"))
        )
        resource.use(again)
        reactor.advance(0)
        self.assertEqual([8080, 8081], [port for _, port, *_ in reactor.tcpClients])
        other = ProxySettings(health=HealthSettings(path="/healthier"))
        resource.use(attrs.evolve(again, settings=other))
        reactor.advance(0)
        self.assertEqual([8080, 8081] * 2, [port for _, port, *_ in reactor.tcpClients])
        resource.close()
        reactor.pump([0.25] * 12)
        self.assertEqual(([], 4), (reactor.getDelayedCalls(), len(reactor.tcpClients)))

    def with_tokens(self) -> tuple[TokenSettings, Configuration]:
        """Return settings that have signed tokens checked, and a configuration with them."""
        made = client_identity()
        rules = HeaderRules.for_preset(find_preset("connect2id"), HEADER.encode())
        tokens = TokenSettings(
            level=TokenLevel.JWT,
            issuer="https://127.0.0.1:1",
            audience=("a",),
            jwks_url="http://127.0.0.1:1/",
        )
        configuration = Configuration(
            ProxySettings(), Identity(made.certificate, made.private_key),
            (Backend.parse("http://127.0.0.1:8080"),), rules, tokens=TokenFiles(tokens),
        )  # fmt: skip
        return tokens, configuration

    def test_token_reload(self) -> None:
        """Keys are fetched at the start, and again if ``[tokens]`` changes."""
        tokens, configuration = self.with_tokens()
        reactor = MemoryReactorClock()
        resource = X509ProxyResource.from_configuration(configuration, reactor)
        self.assertEqual(
            TokenState(level="jwt", issuer="https://127.0.0.1:1"), resource.token_state
        )
        self.assertIsNone(self.make(header=HEADER).token_state)
        other = attrs.evolve(
            configuration, tokens=TokenFiles(replace(tokens, jwks_url="http://127.0.0.1:2/"))
        )
        resource.use(other)
        self.assertEqual([], reactor.tcpClients)
        resource.start()
        resource.use(attrs.evolve(other))
        self.assertEqual([2], [port for _, port, *_ in reactor.tcpClients])
        resource.use(configuration)
        self.assertEqual([2, 1], [port for _, port, *_ in reactor.tcpClients])
        resource.use(attrs.evolve(configuration, tokens=None))
        resource.use(configuration)
        self.assertEqual([2, 1, 1], [port for _, port, *_ in reactor.tcpClients])
        resource.close()
        reactor.advance(100)
        self.assertEqual([], reactor.getDelayedCalls())

    def test_keys_outlive_a_reload(self) -> None:
        """With another audience, the issuer's keys stay in use: its server may be down."""
        tokens, configuration = self.with_tokens()
        cases: tuple[tuple[dict[str, Any], dict[str, Any], int], ...] = (
            ({"audience": ("b",)}, {}, 1),
            ({"clock_skew": 5.0}, {}, 1),
            ({}, {"authorities": ()}, 0),
            ({"jwks_url": "http://127.0.0.1:2/"}, {}, 0),
            ({"jwks_url": None, "jwks_file": "a"}, {"key_set": key_set()}, 1),
            ({"level": TokenLevel.UNVERIFIED}, {}, 0),
        )
        for changes, files, keys in cases:
            resource = X509ProxyResource.from_configuration(configuration, MemoryReactorClock())
            resource.start()
            assert resource._tokens is not None
            verifier: Any = resource._tokens._verifier
            verifier._keys._use(Fetched(200, key_set()))
            found = TokenFiles(replace(tokens, **changes), **files)
            resource.use(attrs.evolve(configuration, tokens=found))
            assert resource.token_state is not None
            self.assertEqual(keys, resource.token_state.keys, changes)
            resource.close()

    def test_upstream_settings(self) -> None:
        """Its own pool uses the upstream settings."""
        resource = self.make(header=HEADER, upstream=UpstreamSettings(connect_timeout=1.5))
        self.assertEqual(1.5, resource._pools[0].settings.connect_timeout)
