"""Tests of :mod:`x509proxy.forwarding.metadata_rewriter`.

Metadata documents get aliases, and every other response is unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from tests.support.certificates import certificate
from tests.support.memory import CUT, HEADER, OK, RULES, RequestTransport, post, undated
from tests.support.relays import RelayTestCase, asked, identity
from x509proxy.certificates.pem_files import Identity
from x509proxy.config.loader import Configuration
from x509proxy.downstream.request import Request
from x509proxy.exchange import Outcome
from x509proxy.forwarding import metadata_rewriter as rewriting
from x509proxy.forwarding.metadata_rewriter import MetadataRewriter
from x509proxy.http1.messages import Framing
from x509proxy.resource import X509ProxyResource
from x509proxy.settings import (
    Backend,
    ClientAuth,
    DiscoverySettings,
    PolicySettings,
    ProxySettings,
    UpstreamSettings,
)
from x509proxy.testing import client_identity

TARGET = b"/.well-known/openid-configuration"
SETTINGS = DiscoverySettings(mtls="https://mtls.example", max_body_bytes=200)
DOCUMENT = b'{"issuer":"https://as.example","token_endpoint":"https://as.example/t"}'
REWRITTEN = (
    DOCUMENT[:-1] + b', "mtls_endpoint_aliases": {"token_endpoint": "https://mtls.example/t"},'
    b' "tls_client_certificate_bound_access_tokens": true}'
)
JSON = b"Content-Type: application/json"
VALIDATORS = (
    b'ETag: "a"', b"Last-Modified: Mon, 24 Nov 2025 00:00:00 GMT", b"Digest: a=b",
    b"Accept-Ranges: bytes"
)  # fmt: skip
OTHERS = (b'{"issuer":1}', b"{", b"[]", b"\xff", b'{"a":NaN}', b"<html>")


def get(
    *fields: bytes, target: bytes = TARGET, method: bytes = b"GET", version: bytes = b"1.1"
) -> bytes:
    return b"\r\n".join(
        [method + b" " + target + b" HTTP/" + version, b"Host: as.example", *fields, b"", b""]
    )


def answer(*fields: bytes, status: bytes = b"200 OK", body: bytes = b"") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *fields, b"", body])


def sized(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    return answer(*fields, b"Content-Length: %d" % len(body), status=status, body=body)


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


class RewritingTestCase(RelayTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.arrange(discovery=SETTINGS)

    def ask(self, *pieces: bytes, request: bytes = get()) -> RequestTransport:
        """Send a request, and respond to it with ``pieces``."""
        client = self.proxy.client(request)
        self.back.sent()
        self.back.deliver(*pieces)
        return client

    def expect_same(self, *pieces: bytes, request: bytes = get()) -> None:
        """Check that the client receives the response that it has without a rewriter."""
        said = []
        for discovery in (None, SETTINGS):
            self.arrange(discovery=discovery)
            client = self.ask(*pieces, request=request)
            self.back.lose()
            said.append((undated(client.sent()), client.aborted, client.disconnecting))
        self.assertNotEqual(b"", said[0][0])
        self.assertEqual(*said)


class Asking(RewritingTestCase):
    """The request that the back end receives."""

    def test_whole(self) -> None:
        """The complete document is requested, without coding; the certificate's header is last."""
        fields = (
            b"Accept: a/b",
            b"Accept-Encoding: gzip",
            b"Range: bytes=0-1",
            b'If-None-Match: "a"',
            HEADER + b": x",
            b"Z: y",
        )
        for method in (b"GET", b"HEAD"):
            self.arrange(discovery=SETTINGS)
            self.proxy.tls_client(certificate(), get(*fields, method=method))
            expected = asked(method + b" " + TARGET + b" HTTP/1.1", identity(), scheme=b"https")
            kept = b"Accept: a/b\r\nZ: y\r\nAccept-Encoding: identity\r\n"
            self.assertEqual(
                expected.replace(b"X-Forwarded-For", kept + b"X-Forwarded-For"),
                undated(self.back.sent()),
            )

    def test_others(self) -> None:
        """Any other request is unchanged, and so is every request without these settings."""
        fields = (b"Accept-Encoding: gzip", b"Range: bytes=0-1", b'If-None-Match: "a"')
        for settings, sent in (
            (SETTINGS, get(*fields, target=b"/a" + TARGET + b"/")),
            (SETTINGS, get(*fields, method=b"DELETE")),
            (None, get(*fields)),
        ):
            self.arrange(discovery=settings)
            self.proxy.client(sent)
            self.assertIn(b"\r\n".join(fields), self.back.sent())

    def test_post(self) -> None:
        """A response to POST is not metadata, and is unchanged."""
        self.expect_same(sized(DOCUMENT, JSON), request=post(b"a").replace(b"/token", TARGET))

    def test_policy(self) -> None:
        """A request for metadata has no privilege: without a required certificate it is a 401."""
        self.arrange(
            discovery=SETTINGS, policy=PolicySettings(client_certificate=ClientAuth.REQUIRED)
        )
        self.expect_status(401, self.proxy.client(get()))
        self.expect_unasked()


class Documents(RewritingTestCase):
    """Documents that get aliases."""

    def expect_rewritten(
        self, *pieces: bytes, request: bytes = get(), more: Iterable[bytes] = ()
    ) -> None:
        self.arrange(discovery=SETTINGS)
        client = self.ask(*pieces, request=request)
        self.assertEqual(sized(REWRITTEN, *more, JSON), undated(client.sent()))
        self.assertEqual(
            [Outcome.COMPLETED], [exchange.outcome for exchange in self.proxy.exchanges]
        )
        self.expect_quiet()

    def test_length(self) -> None:
        """A response with a length gets a new length.

        The validators of the old body are removed.
        """
        self.expect_rewritten(sized(DOCUMENT, b"Cache-Control: no-cache, no-transform", *VALIDATORS,
        JSON),
                              more=[b"Cache-Control: no-cache, no-transform"])  # fmt: skip

    def test_chunked(self) -> None:
        """A chunked response gets a length, which is known now."""
        body = chunks(DOCUMENT[:9], DOCUMENT[9:]) + b"0\r\nETag: x\r\n\r\n"
        self.expect_rewritten(answer(JSON, b"Transfer-Encoding: chunked", body=body))

    def test_until_the_end(self) -> None:
        """So does one that ends with its connection."""
        client = self.ask(answer(JSON, body=DOCUMENT))
        self.assertEqual(b"", client.sent())
        self.back.lose()
        self.assertEqual(sized(REWRITTEN, JSON), undated(client.sent()))
        self.assertFalse(client.disconnecting)

    def test_byte_by_byte(self) -> None:
        """Nothing is sent before a slow document is complete."""
        whole = sized(DOCUMENT, JSON)
        self.expect_rewritten(*(whole[place : place + 1] for place in range(len(whole))))
        client = self.ask(whole[:-1])
        self.assertEqual(b"", client.sent())
        self.assertFalse(client.disconnecting)

    def test_old_client(self) -> None:
        """A client of HTTP/1.0 receives it too, with a length."""
        client = self.ask(
            answer(JSON, b"Transfer-Encoding: chunked", body=chunks(DOCUMENT, b"")),
            request=get(version=b"1.0"),
        )
        self.assertEqual(sized(REWRITTEN, JSON, b"Connection: close"), undated(client.sent()))

    def test_largest(self) -> None:
        """A document of exactly the maximum size is rewritten."""
        for body in (DOCUMENT + b" " * (200 - len(DOCUMENT)),):
            self.assertIn(b"mtls.example", self.ask(sized(body, JSON)).sent())
            chunked = answer(JSON, b"Transfer-Encoding: chunked", body=chunks(body, b""))
            self.assertIn(b"mtls.example", self.ask(chunked).sent())

    def test_next(self) -> None:
        """Client and back end keep their connections."""
        client = self.ask(sized(DOCUMENT, JSON))
        client.deliver(get(), get(target=b"/"))
        self.back.deliver(sized(DOCUMENT, JSON), OK)
        self.assertEqual(sized(REWRITTEN, JSON) * 2 + OK, undated(client.sent()))
        self.assertEqual(1, len(self.proxy.back_end.attempts))

    def test_secret(self) -> None:
        """The secret name is removed from this response as from any other."""
        client = self.ask(
            sized(DOCUMENT, HEADER + b": x", b"Allow: " + HEADER, JSON, status=b"200 " + HEADER)
        )
        self.assertEqual(sized(REWRITTEN, JSON), undated(client.sent()))


class Others(RewritingTestCase):
    """Other responses are unchanged: fields, framing, octets."""

    def test_not_what_is_expected(self) -> None:
        """Invalid JSON, or a document without additions, keeps its octets and validators.

        This holds for every framing.
        """
        for body in OTHERS:
            self.expect_same(sized(body, JSON, *VALIDATORS))
            self.expect_same(
                answer(
                    JSON,
                    b"Transfer-Encoding: chunked",
                    *VALIDATORS,
                    body=chunks(body) + b"0\r\n\r\n",
                )
            )
            self.expect_same(answer(JSON, *VALIDATORS, body=body))
            self.expect_same(answer(JSON, *VALIDATORS, body=body), request=get(version=b"1.0"))

    def test_empty(self) -> None:
        """So does an empty body."""
        self.expect_same(sized(b"", JSON, *VALIDATORS))
        self.expect_same(answer(JSON, b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"))
        self.expect_same(answer(JSON))

    def test_status(self) -> None:
        """A response with any status but 200 is forwarded at once."""
        for status in (b"201 Created", b"302 Found", b"404 Not Found", b"500 Oops"):
            self.expect_same(sized(DOCUMENT, JSON, *VALIDATORS, status=status))
        self.expect_same(answer(*VALIDATORS, status=b"204 No Content"))

    def test_type(self) -> None:
        """So is one with any type but JSON, and one with a coding that was not requested."""
        self.expect_same(sized(DOCUMENT, b"Content-Type: text/html", *VALIDATORS))
        self.expect_same(sized(DOCUMENT, *VALIDATORS))
        self.expect_same(sized(b"\x1f\x8b", JSON, b"Content-Encoding: gzip", *VALIDATORS))

    def test_at_once(self) -> None:
        """A forwarded response is not buffered: its pieces are sent as they arrive."""
        client = self.ask(sized(DOCUMENT, b"Content-Type: text/html")[:-1])
        self.assertEqual(DOCUMENT[:-1], client.sent().partition(b"\r\n\r\n")[2])

    def test_too_large_by_its_length(self) -> None:
        """A response with a length above the maximum is forwarded from its first octet."""
        body = DOCUMENT + b" " * (201 - len(DOCUMENT))
        self.expect_same(sized(body, JSON, *VALIDATORS))
        self.arrange(discovery=SETTINGS)
        client = self.ask(sized(body, JSON)[:-200])
        self.assertTrue(client.sent().endswith(b"\r\n\r\n{"))

    def test_too_large(self) -> None:
        """One that proves to be larger is forwarded: first the buffer, then the rest."""
        body = DOCUMENT + b" " * (201 - len(DOCUMENT))
        for framing, end in (((b"Transfer-Encoding: chunked",), b"0\r\n\r\n"), ((), b"")):
            pieces = [body[:150], body[150:200], body[200:], b"x" * 1000]
            framed = [chunks(piece) for piece in pieces] if framing else pieces
            self.arrange(discovery=SETTINGS)
            client = self.ask(answer(JSON, *framing, *VALIDATORS), *framed[:2])
            self.assertEqual(b"", client.sent())
            self.back.deliver(framed[2])
            expected = answer(JSON, *VALIDATORS, b"Transfer-Encoding: chunked", body=chunks(body))
            self.assertEqual(expected, undated(client.sent()))
            self.back.deliver(framed[3] + end)
            self.back.lose()
            self.assertEqual(chunks(pieces[3]) + b"0\r\n\r\n", client.sent())
            self.expect_quiet()

    def test_nothing_is_kept(self) -> None:
        """Nothing is kept of a forwarded response (invariant L7), large or small."""
        sink = Kept()
        gathering = MetadataRewriter(sink, SETTINGS)
        gathering.begin(200, b"OK", [(b"Content-Type", b"application/json")], Framing.CHUNKED, -1)
        for _ in range(100):
            gathering.write(b"x" * 100)
            self.assertLessEqual(len(gathering._body), SETTINGS.max_body_bytes)
        self.assertEqual((1, 10000, b""), (len(sink.begun), len(sink.body), gathering._body))


class Kept:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.begun: list[object] = []
        self.body = b""

    def begin(self, *head: object) -> None:
        self.begun.append(head)

    def write(self, data: bytes) -> None:
        self.body += data

    def finish(self) -> None:
        """Do nothing more."""


class Heads(RewritingTestCase):
    """HEAD, and 304: no body, and nothing is promised about one (RFC 9110 section 8.6)."""

    def head(self, *fields: bytes, status: bytes = b"200 OK") -> bytes:
        self.arrange(discovery=SETTINGS)
        client = self.ask(
            answer(*fields, status=status), request=get(method=b"HEAD") + get(target=b"/")
        )
        said = undated(client.sent())
        self.back.deliver(OK)
        self.assertEqual(OK, undated(client.sent()))
        return said

    def test_document(self) -> None:
        """Where GET could be rewritten, there is neither a length nor a validator.

        The connection stays open.
        """
        self.assertEqual(
            answer(b"A: b", JSON), self.head(b"A: b", b"Content-Length: 70", *VALIDATORS, JSON)
        )
        self.assertEqual(answer(JSON), self.head(JSON, b"Transfer-Encoding: chunked"))
        self.assertEqual(answer(JSON), self.head(JSON))

    def test_others(self) -> None:
        """Where GET is unchanged, HEAD is too, with all its fields."""
        for status, fields in (
            (b"404 Not Found", (JSON, *VALIDATORS, b"Content-Length: 70")),
            (b"200 OK", (b"Content-Type: text/html", *VALIDATORS, b"Content-Length: 70")),
            (b"200 OK", (JSON, b"Content-Encoding: gzip", *VALIDATORS, b"Content-Length: 70")),
            (b"200 OK", (JSON, *VALIDATORS, b"Content-Length: 201")),
        ):
            self.assertEqual(answer(*fields, status=status), self.head(*fields, status=status))

    def test_not_modified(self) -> None:
        """An unexpected 304 is forwarded without the length, which is that of the old body."""
        for method in (b"GET", b"HEAD"):
            self.arrange(discovery=SETTINGS)
            sent = answer(*VALIDATORS, b"Content-Length: 70", status=b"304 Not Modified")
            client = self.ask(sent, request=get(method=method))
            self.assertEqual(
                answer(*VALIDATORS, status=b"304 Not Modified"), undated(client.sent())
            )


class Failing(RewritingTestCase):
    """Responses that are not complete."""

    def test_cut_short(self) -> None:
        """A response that is truncated while buffered is a 502: nothing of it has been sent."""
        for pieces in (
            (sized(DOCUMENT, JSON)[:-1],),
            (answer(JSON, b"Transfer-Encoding: chunked", body=chunks(DOCUMENT)),),
            (answer(JSON, body=DOCUMENT),),
        ):
            self.arrange(discovery=SETTINGS)
            client = self.ask(*pieces)
            self.back.lose(CUT)
            self.expect_status(502, client)
            self.assertFalse(client.disconnecting)
            self.expect_quiet()

    def test_cut_short_later(self) -> None:
        """One that is truncated after it has begun cuts the client."""
        client = self.ask(answer(JSON, b"Transfer-Encoding: chunked", body=chunks(b"x" * 201)))
        self.assertIn(b"x" * 201, client.sent())
        self.back.lose(CUT)
        self.assertTrue(client.aborted)
        self.assertEqual([Outcome.ABORTED], [exchange.outcome for exchange in self.proxy.exchanges])

    def test_malformed(self) -> None:
        """Malformed chunks are a 502 while the response is buffered."""
        client = self.ask(answer(JSON, b"Transfer-Encoding: chunked", body=b"5\r\n{"), b"xxxxxxxx")
        self.expect_status(502, client)

    def test_silence(self) -> None:
        """A back end that does not continue is abandoned in time."""
        client = self.ask(sized(DOCUMENT, JSON)[:-1])
        self.proxy.clock.advance(31)
        self.expect_status(504, client)
        self.assertTrue(self.back.aborted)

    def test_fault(self) -> None:
        """An error of the proxy is a 502, and not half a response (invariant L3)."""
        with patch.object(rewriting, "with_aliases", side_effect=ZeroDivisionError):
            self.expect_status(502, self.ask(sized(DOCUMENT, JSON)))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_fault_before(self) -> None:
        """An error before the request is sent sends nothing to the back end."""
        with patch.object(rewriting, "for_whole_document", side_effect=ZeroDivisionError):
            self.expect_status(502, self.proxy.client(get()))
        self.expect_unasked()
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


class BackPressure(RewritingTestCase):
    """A slow peer pauses the other one of its exchange, and nothing else."""

    def test_slow_client(self) -> None:
        """A client that does not read pauses the back end once the response is forwarded."""
        client = self.ask(answer(JSON, b"Transfer-Encoding: chunked", body=chunks(b"x" * 201)))
        client.fill()
        self.assertFalse(self.back.reading)
        client.drain()
        self.assertTrue(self.back.reading)
        self.back.deliver(chunks(b"yz") + b"0\r\n\r\n")
        self.assertTrue(client.sent().endswith(chunks(b"yz") + b"0\r\n\r\n"))

    def test_slow_client_while_gathering(self) -> None:
        """So does a client that does not read while the response is buffered."""
        client = self.ask(sized(DOCUMENT, JSON)[:-1])
        client.fill()
        self.assertFalse(self.back.reading)
        client.drain()
        self.assertTrue(self.back.reading)
        self.back.deliver(b"}")
        self.assertEqual(sized(REWRITTEN, JSON), undated(client.sent()))

    def test_not_the_next_one(self) -> None:
        """A client that is blocked while its document is written pauses nothing else.

        The connection serves another client by then.
        """
        self.arrange(discovery=SETTINGS, upstream=UpstreamSettings(max_connections=1))
        first, second = self.proxy.client(get()), self.proxy.client(get(target=b"/"))
        first.protocol.blocked = True
        self.back.sent()
        self.back.deliver(sized(DOCUMENT, JSON))
        self.assertEqual(sized(REWRITTEN, JSON), undated(first.sent()))
        self.assertEqual(
            (asked(b"GET / HTTP/1.1"), True), (undated(self.back.sent()), self.back.reading)
        )
        self.back.deliver(OK)
        self.assertEqual(OK, undated(second.sent()))

    def test_not_the_next_ones_end(self) -> None:
        """A client that cannot be written to does not end the next one's exchange."""
        self.arrange(discovery=SETTINGS, upstream=UpstreamSettings(max_connections=1))
        first, second = self.proxy.client(get()), self.proxy.client(get(target=b"/"))
        real = Request.write
        self.patch(
            Request,
            "write",
            lambda request, data: real(request, data) if request.head.target == b"/" else 1 / 0,
        )
        self.back.deliver(sized(DOCUMENT, JSON))
        self.assertEqual((True, False), (first.aborted, self.back.aborted))
        self.back.deliver(OK)
        self.assertEqual(OK, undated(second.sent()))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


class Leaving(RewritingTestCase):
    def test_while_gathering(self) -> None:
        """A client that leaves cancels the buffered response, and its connection."""
        client = self.ask(sized(DOCUMENT, JSON)[:-1])
        client.lose()
        self.assertTrue(self.back.aborted)
        self.expect_quiet()
        (exchange,) = self.proxy.exchanges
        self.assertEqual((Outcome.ABORTED, 0), (exchange.outcome, exchange.bytes_out))
        self.proxy.pools[0].close()
        self.proxy.clock.advance(1)
        self.assertEqual([], self.proxy.clock.getDelayedCalls())

    def test_record(self) -> None:
        """The record has what the client received."""
        self.ask(sized(DOCUMENT, JSON))
        (exchange,) = self.proxy.exchanges
        self.assertEqual((200, len(REWRITTEN)), (exchange.status, exchange.bytes_out))
        self.assertEqual(
            {"token_endpoint": "https://mtls.example/t"},
            json.loads(REWRITTEN)["mtls_endpoint_aliases"],
        )


class UnderSite(SynchronousTestCase):
    """A stock ``Site``, with a resource that a configuration has made."""

    def ask(self, method: bytes, pieces: bytes) -> bytes:
        made, clock = client_identity(), MemoryReactorClock()
        backends = (Backend.parse("http://127.0.0.1:8080"),)
        own = Identity(made.certificate, made.private_key)
        configuration = Configuration(ProxySettings(discovery=SETTINGS), own, backends, RULES)
        channel: Any = Site(
            X509ProxyResource.from_configuration(configuration, clock), reactor=clock
        ).buildProtocol(None)
        client, back = StringTransport(lenient=True), StringTransport()
        channel.makeConnection(client)
        channel.dataReceived(get(b"Accept-Encoding: gzip", method=method))
        connection: Any = clock.tcpClients[-1][2].buildProtocol(None)
        connection.makeConnection(back)
        self.assertIn(b"Accept-Encoding: identity\r\n", back.value())
        connection.dataReceived(pieces)
        said: bytes = client.value()
        return said

    def test_document(self) -> None:
        """The document gets aliases there too."""
        said = self.ask(b"GET", sized(DOCUMENT, JSON, *VALIDATORS))
        self.assertEqual(REWRITTEN, said.partition(b"\r\n\r\n")[2])
        self.assertEqual(1, said.count(b"Content-Length: %d\r\n" % len(REWRITTEN)))
        self.assertNotIn(b"etag", said.lower())

    def test_others(self) -> None:
        """Any other response is unchanged."""
        for body in OTHERS:
            said = self.ask(b"GET", sized(body, JSON, b'ETag: "a"'))
            self.assertTrue(said.endswith(b"\r\n\r\n" + body))
            self.assertIn(b'"a"', said)

    def test_head(self) -> None:
        """The response to HEAD has no length that GET would not have."""
        self.assertNotIn(b"length", self.ask(b"HEAD", answer(JSON, b"Content-Length: 70")).lower())
