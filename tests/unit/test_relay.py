"""Tests of :mod:`x509proxy.relay`.

They are about the exact octets that a back end receives, and the response that the client receives.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import patch

from cryptography import x509
from twisted.internet.defer import Deferred

from tests.support.certificates import certificate
from tests.support.memory import CUT, GET, HEADER, OK, RULES, RequestTransport, post, undated
from tests.support.relays import RelayTestCase, asked, identity
from tests.support.tokens import OWN, bound, request
from x509proxy import relay as transfer
from x509proxy.authorization.token_check import TokenCheck
from x509proxy.config.token_files import TokenFiles
from x509proxy.downstream import request as downstream
from x509proxy.downstream.request import Request
from x509proxy.exchange import Outcome, TokenVerdict
from x509proxy.forwarding import decision as forwarding
from x509proxy.forwarding.token_claims import CheckedToken
from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.settings import (
    CertificateRequirement,
    ClientAuth,
    ClientSettings,
    DiscoverySettings,
    PolicySettings,
    RuleSettings,
    TokenLevel,
    TokenRequirement,
    TokenSettings,
    UpstreamSettings,
)
from x509proxy.upstream.connection import Connection

SMALL = ClientSettings(request_buffer_bytes=4)
TWO = ("http://127.0.0.1:8081", "http://127.0.0.1:8082/base")
BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab"


class Decisions(RelayTestCase):
    """Requests that are not forwarded are rejected before a back end receives anything."""

    def test_policy(self) -> None:
        """A request without a required certificate is a 401, and no connection is acquired."""
        self.arrange(policy=PolicySettings(client_certificate=ClientAuth.REQUIRED))
        self.expect_status(401, self.proxy.client(GET))
        self.expect_unasked()

    def test_forged_and_rejected(self) -> None:
        """A forged field of a request that is rejected is counted as well (L4)."""
        self.arrange(policy=PolicySettings(client_certificate=ClientAuth.REQUIRED))
        self.proxy.client(GET[:-2] + HEADER + b": forged\r\n\r\n")
        (exchange,) = self.proxy.exchanges
        self.assertEqual((401, 1), (exchange.status, exchange.forged))

    def test_policy_before_the_body(self) -> None:
        """It is rejected at its head, without a wait for its body."""
        self.arrange(policy=PolicySettings(client_certificate=ClientAuth.REQUIRED))
        self.expect_status(401, self.proxy.client(post(b"", b"Expect: 100-continue", length=9)))
        self.expect_unasked()

    def test_connection_that_names_too_much(self) -> None:
        """A ``Connection`` field that names a routing or framing field is a 400."""
        for name in (b"Host", b"content-length", b"close, Transfer-Encoding"):
            self.arrange()
            client = self.proxy.client(
                b"GET / HTTP/1.1\r\nHost: as.example\r\nConnection: " + name + b"\r\n\r\n"
            )
            self.expect_status(400, client)
            self.expect_unasked()

    def test_policy_raises(self) -> None:
        """An exception in the decision is a 502, and no back end receives anything."""
        with patch.object(forwarding, "admit", side_effect=ZeroDivisionError):
            self.expect_status(502, self.proxy.client(GET))
        self.expect_unasked()
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_body_without_a_meaning(self) -> None:
        """A body on a method that gives it no meaning is a 502 here, and nothing is sent."""
        serve = self.proxy.serve

        def with_body(request: Request) -> None:
            request.receive(GET)
            serve(request)

        self.patch(self.proxy, "serve", with_body)
        for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS"):
            client = self.proxy.client(GET.replace(b"GET", method))
            self.assertEqual(b"502", client.sent()[9:12])
        self.expect_unasked()
        self.assertEqual(4, len(self.flushLoggedErrors(HttpError)))

    def test_line_end(self) -> None:
        """A line end in a head to write is a 502, and nothing is sent."""
        forwarding._certificate_fields.cache_clear()
        with patch.object(forwarding, "identity", return_value=((HEADER, b"x\r\nX-Evil: y"),)):
            self.expect_status(502, self.proxy.client(GET))
        self.expect_unasked()
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_line_end_after_a_body(self) -> None:
        """This also holds if it is found after the body has arrived."""
        with patch.object(transfer, "write_head", side_effect=ValueError):
            client = self.proxy.client(post(b"ab", length=3))
            self.assertEqual(b"", client.sent())
            client.deliver(b"c")
        self.expect_status(502, client)
        self.expect_unasked()
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))


class Heads(RelayTestCase):
    """The exact head that a back end receives."""

    def head(self, *pieces: bytes, shown: x509.Certificate | None = None) -> bytes:
        (self.proxy.tls_client(shown, *pieces) if shown else self.proxy.client(*pieces))
        return undated(self.back.sent())

    def test_get(self) -> None:
        """A GET has no framing."""
        self.assertEqual(asked(b"GET / HTTP/1.1"), self.head(GET))

    def test_fields(self) -> None:
        """Fields keep their order, spelling and repeats.

        Hop-by-hop fields are removed, and those that they name.
        """
        sent = (
            b"GET /a%2Fb;c?d=%20 HTTP/1.1\r\nX-a: 1\r\nHost: AS.example:8443\r\n"
            b"x-A: 2\r\nConnection: X-Gone, close\r\n"
            b"X-Gone: 3\r\nTE: trailers\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n"
        )
        first, _, rest = asked(b"GET /a%2Fb;c?d=%20 HTTP/1.1", host=b"AS.example:8443").partition(
            b"X-Forwarded-For"
        )
        self.assertEqual(first + b"X-a: 1\r\nx-A: 2\r\nX-Forwarded-For" + rest, self.head(sent))

    def test_certificate(self) -> None:
        """The certificate of the handshake comes last, once, whatever the client sends."""
        sent = b"GET / HTTP/1.1\r\nHost: as.example\r\n" + HEADER.upper() + b": forged\r\n\r\n"
        expected = asked(b"GET / HTTP/1.1", identity(), scheme=b"https")
        self.assertEqual(expected, self.head(sent, shown=certificate()))
        self.back.deliver(OK)
        (exchange,) = self.proxy.exchanges
        self.assertEqual((1, "http://127.0.0.1:8080"), (exchange.forged, exchange.backend))

    def test_no_certificate(self) -> None:
        """Without a certificate there is no such field."""
        sent = b"GET / HTTP/1.1\r\nHost: as.example\r\n" + HEADER + b": forged\r\n\r\n"
        self.assertEqual(asked(b"GET / HTTP/1.1"), self.head(sent))

    def test_length(self) -> None:
        """A complete body has its length, however it arrived."""
        expected = asked(b"POST /token HTTP/1.1", b"Content-Length: 3") + b"abc"
        self.assertEqual(expected, self.head(post(b"abc")))
        self.assertEqual(expected, self.head(post(b"a", length=3), b"bc"))
        self.assertEqual(expected, self.head(post(b"3\r\nabc\r\n", length=-1), b"0\r\n\r\n"))

    def test_no_body(self) -> None:
        """A POST without a body has a length of zero, since servers require one."""
        self.assertEqual(asked(b"POST /token HTTP/1.1", b"Content-Length: 0"), self.head(post(b"")))

    def test_streamed_with_length(self) -> None:
        """A long body with a length is streamed with it."""
        self.arrange(client=SMALL)
        expected = asked(b"POST /token HTTP/1.1", b"Content-Length: 9") + b"abcdefghi"
        self.assertEqual(expected, self.head(post(b"abcd", length=9), b"ef", b"ghi"))

    def test_streamed_in_chunks(self) -> None:
        """A long chunked body is streamed in chunks of the proxy's own."""
        self.arrange(client=SMALL)
        expected = (
            asked(b"POST /token HTTP/1.1", b"Transfer-Encoding: chunked")
            + b"4\r\nabcd\r\n2\r\nef\r\n0\r\n\r\n"
        )
        self.assertEqual(
            expected,
            self.head(
                post(b"2;x=y\r\nab\r\n2\r\ncd\r\n", length=-1), b"2\r\nef\r\n", b"0\r\nX: y\r\n\r\n"
            ),
        )

    def test_completed_while_waiting(self) -> None:
        """A body that ends after its framing was chosen keeps that framing.

        The connection is not ready yet.
        """
        self.arrange(client=SMALL, at_once=False)
        client = self.proxy.client(post(b"4\r\nabcd\r\n", length=-1))
        client.deliver(b"2\r\nef\r\n0\r\n\r\n")
        self.proxy.back_end.attempts[0].succeed()
        expected = (
            asked(b"POST /token HTTP/1.1", b"Transfer-Encoding: chunked")
            + b"6\r\nabcdef\r\n0\r\n\r\n"
        )
        self.assertEqual(expected, undated(self.back.sent()))
        self.back.deliver(OK)
        self.assertIn(b"HTTP/1.1 200 OK", client.sent())

    def test_rest_within_the_call(self) -> None:
        """The rest of a body that arrives as reading goes on is sent after the head, whole.

        A TLS connection delivers it so. If an octet were lost, the next client's request would
        be read in its place.
        """
        for framed, expected in (
            (post(b"abcd", length=9), b"Content-Length: 9\r\n\r\nabcdefghi"),
            (
                post(b"4\r\nabcd\r\n", length=-1),
                b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n5\r\nefghi\r\n0\r\n\r\n",
            ),
        ):
            self.arrange(client=SMALL, at_once=False)
            client = self.proxy.client(framed)
            rest = b"efghi" if framed.endswith(b"\nabcd") else b"5\r\nefghi\r\n0\r\n\r\n"
            with patch.object(client, "resumeProducing", partial(client.deliver, rest)):
                self.proxy.back_end.attempts[0].succeed()
            self.assertTrue(self.back.sent().endswith(expected))
            self.back.deliver(OK)
            self.assertIn(b"HTTP/1.1 200 OK\r\n", client.sent())
            self.assertEqual((1, 0), (self.proxy.pools[0].exchanges, self.proxy.pools[0].load))

    def test_malformed_rest_within_the_call(self) -> None:
        """If that rest is malformed, the request is a 400, and the connection is not used again."""
        self.arrange(client=SMALL, at_once=False)
        client = self.proxy.client(post(b"4\r\nabcd\r\n", length=-1))
        with patch.object(client, "resumeProducing", lambda: client.deliver(b"nonsense\r\n")):
            self.proxy.back_end.attempts[0].succeed()
        self.expect_status(400, client)
        self.assertTrue(self.back.aborted)

    def test_base(self) -> None:
        """A back end's base path precedes every target."""
        self.arrange(urls=("http://127.0.0.1:8080/base",))
        self.assertEqual(asked(b"GET /base/ HTTP/1.1"), self.head(GET))

    def test_asterisk(self) -> None:
        """``OPTIONS *`` is about the server as a whole, without its base path."""
        self.arrange(urls=("http://127.0.0.1:8080/base",))
        self.assertEqual(
            asked(b"OPTIONS * HTTP/1.1"),
            self.head(b"OPTIONS * HTTP/1.1\r\nHost: as.example\r\n\r\n"),
        )

    def test_absolute(self) -> None:
        """A target in absolute-form becomes origin-form."""
        sent = b"GET http://as.example/a?b HTTP/1.1\r\nHost: as.example\r\n\r\n"
        self.assertEqual(asked(b"GET /a?b HTTP/1.1"), self.head(sent))

    def test_no_host(self) -> None:
        """HTTP/1.0 without a host gets that of the back end."""
        self.assertEqual(
            asked(b"GET / HTTP/1.1", host=b"127.0.0.1:8080"), self.head(b"GET / HTTP/1.0\r\n\r\n")
        )


class Uploads(RelayTestCase):
    def test_slow(self) -> None:
        """Any number of slow uploads leaves room for a complete request."""
        self.arrange(client=SMALL, upstream=UpstreamSettings(max_connections=4))
        for _ in range(4):
            self.proxy.client(post(b"half of it", length=100))
        self.assertEqual(2, len(self.proxy.back_end.wires))
        client = self.proxy.client(GET)
        self.proxy.back_end.wire.deliver(OK)
        self.assertIn(b"200 OK", client.sent())

    def test_come_whole(self) -> None:
        """A complete upload makes room for the next one, even if the back end takes its time."""
        self.arrange(client=SMALL, upstream=UpstreamSettings(max_connections=4))
        clients = [self.proxy.client(post(b"half of it", length=12)) for _ in range(3)]
        self.assertEqual(2, len(self.proxy.back_end.wires))
        clients[0].deliver(b"!!")
        self.assertEqual(3, len(self.proxy.back_end.wires))

    def test_small(self) -> None:
        """A body that is held until it is complete is no upload."""
        self.arrange(upstream=UpstreamSettings(max_connections=4))
        for _ in range(4):
            self.proxy.client(post(b"grant_type=client_credentials"))
        self.assertEqual(4, len(self.proxy.back_end.wires))


class SlowReaders(RelayTestCase):
    """Half of the connections to a back end are for responses whose clients read."""

    def setUp(self) -> None:
        super().setUp()
        self.arrange(
            client=ClientSettings(send_timeout=60), upstream=UpstreamSettings(max_connections=4)
        )

    def reader(self) -> RequestTransport:
        """Connect a client that requests a long response and reads nothing of it."""
        client = self.proxy.client(GET)
        self.back.deliver(BEGUN)
        client.fill()
        return client

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.proxy.clock.advance(0.25)

    def test_all(self) -> None:
        """If slow readers hold more than half, a waiting request replaces the slowest.

        That is the one that has not read for longest.
        """
        readers = []
        for _ in range(4):
            readers.append(self.reader())
            self.wait(1)
        for _ in range(8):
            client = self.proxy.client(GET)
            self.back.deliver(OK)
            self.assertIn(b"200 OK", client.sent())
        self.assertEqual([True, False, False, False], [reader.aborted for reader in readers])
        (exchange, *_) = self.proxy.exchanges
        self.assertEqual((Outcome.ABORTED, Code.SLOW_CLIENT), (exchange.outcome, exchange.code))
        self.assertEqual(0, self.proxy.pools[0].status().failures)

    def test_at_once(self) -> None:
        """No request waits for clients that have just stopped reading, however many come."""
        for _ in range(20):
            self.reader()
        client = self.proxy.client(GET)
        self.back.deliver(OK)
        self.assertIn(b"200 OK", client.sent())

    def test_later(self) -> None:
        """A request that waits gets a connection when clients stop reading meanwhile."""
        others = [self.proxy.client(GET) for _ in range(4)]
        client = self.proxy.client(GET)
        for other in others:
            other.fill()
        self.wait(1)
        self.back.deliver(OK)
        self.assertIn(b"200 OK", client.sent())

    def test_before_the_response(self) -> None:
        """A client that reads nothing before its response has begun is cut too."""
        readers = [self.proxy.client(GET) for _ in range(4)]
        for reader in readers:
            reader.fill()
            self.wait(1)
        client = self.proxy.client(GET)
        self.assertEqual([True, False, False, False], [reader.aborted for reader in readers])
        self.assertEqual(b"", readers[0].sent())
        (exchange,) = self.proxy.exchanges
        self.assertEqual((Outcome.ABORTED, Code.SLOW_CLIENT), (exchange.outcome, exchange.code))
        self.back.deliver(OK)
        self.assertIn(b"200 OK", client.sent())

    def test_half(self) -> None:
        """Half of the connections may be held: waiting requests wait, and nothing is cut."""
        readers = [self.reader() for _ in range(2)]
        self.wait(2)
        others = [self.proxy.client(GET) for _ in range(3)]
        self.wait(5)
        self.assertFalse(any(reader.aborted for reader in readers))
        self.expect_status(503, others[2])

    def test_upload_that_waits(self) -> None:
        """An upload that waits for another upload's end cuts no slow reader.

        It would not get that connection.
        """
        self.arrange(client=SMALL, upstream=UpstreamSettings(max_connections=5))
        readers = [self.reader() for _ in range(3)]
        for _ in range(3):
            self.proxy.client(post(b"half of it", length=100))
        self.assertEqual(
            (5, 1), (len(self.proxy.back_end.wires), self.proxy.pools[0].status().waiting)
        )
        self.wait(3)
        self.assertFalse(any(reader.aborted for reader in readers))

    def test_nobody_waits(self) -> None:
        """No reader is cut while no other request needs the connection, nor after it has read."""
        readers = [self.reader() for _ in range(4)]
        self.wait(10)
        self.assertFalse(any(reader.aborted for reader in readers))
        for reader in readers[:2]:
            reader.drain()
        self.proxy.client(GET)
        self.wait(4)
        self.assertFalse(any(reader.aborted for reader in readers))


class Choosing(RelayTestCase):
    """Several back ends."""

    def setUp(self) -> None:
        super().setUp()
        self.arrange(urls=TWO)

    def heard(self) -> list[int]:
        """Return the number of connections that each has received."""
        return [len(back_end.attempts) for back_end in self.proxy.back_ends]

    def test_least_load(self) -> None:
        """The least busy back end is used; among equals the one not used for longest."""
        client = self.proxy.client(GET)
        self.assertEqual([1, 0], self.heard())
        self.proxy.client(GET)
        self.assertEqual([1, 1], self.heard())
        self.back.deliver(OK)
        client.deliver(GET)
        self.assertEqual(2, self.back.sent().count(b"GET / HTTP/1.1"))

    def test_room_for_an_upload(self) -> None:
        """An upload goes to the back end with room for one, even if the other is less busy."""
        self.arrange(client=SMALL, upstream=UpstreamSettings(max_connections=4), urls=TWO)
        busy, uploads = (self.proxy.back_ends[1], self.proxy.back_ends[0])
        for _ in range(2):
            self.proxy.client(post(b"half of it", length=100))
            self.proxy.client(GET)
        self.proxy.client(GET).lose()
        self.proxy.client(GET)
        self.assertEqual([2, 3], [pool.load for pool in self.proxy.pools])
        asked_before = len(busy.attempts)
        self.proxy.client(post(b"half of it", length=100))
        self.assertEqual((3, asked_before + 1), (len(uploads.attempts), len(busy.attempts)))

    def test_next(self) -> None:
        """If a connection fails, the next back end is used with its base path, and recorded."""
        self.arrange(urls=TWO, at_once=False)
        client = self.proxy.client(GET)
        self.proxy.back_ends[0].attempts[0].fail()
        self.assertEqual([1, 1], self.heard())
        second = self.proxy.back_ends[1].attempts[0].succeed()
        self.assertEqual(asked(b"GET /base/ HTTP/1.1"), undated(second.sent()))
        second.deliver(OK)
        self.assertEqual(OK, undated(client.sent()))
        self.assertEqual("http://127.0.0.1:8082/base", self.proxy.exchanges[0].backend)

    def test_none_left(self) -> None:
        """If all connections fail, the last error is the response, and its back end recorded."""
        self.arrange(urls=TWO, at_once=False)
        client = self.proxy.client(GET)
        self.proxy.back_ends[0].attempts[0].fail()
        self.assertEqual(b"", client.sent())
        self.proxy.clock.advance(5)
        self.expect_status(504, client)
        self.assertEqual("http://127.0.0.1:8082/base", self.proxy.exchanges[0].backend)
        self.expect_quiet()

    def test_not_after_the_first_byte(self) -> None:
        """After an octet has been written no other is used: it may have been processed."""
        client = self.proxy.client(GET)
        self.back.lose()
        self.expect_status(502, client)
        self.assertEqual([1, 0], self.heard())

    def test_down(self) -> None:
        """A back end that failed to connect is avoided.

        If all are down they are used all the same.
        """
        self.arrange(urls=TWO, at_once=False)
        self.proxy.client(GET)
        self.proxy.back_ends[0].attempts[0].fail()
        self.proxy.client(GET)
        self.assertEqual([1, 2], self.heard())
        client = self.proxy.client(GET)
        for attempt in self.proxy.back_ends[1].attempts:
            attempt.fail()
        self.assertEqual([3, 3], self.heard())
        self.proxy.back_ends[0].attempts[2].succeed().deliver(OK)
        self.assertEqual(OK, undated(client.sent()))

    def test_not_down_but_full(self) -> None:
        """A request is not sent to one that is down because the others are busy.

        It is rejected with 503.
        """
        self.arrange(
            urls=TWO,
            upstream=UpstreamSettings(max_connections=1, max_queued_requests=1),
            at_once=False,
        )
        self.proxy.client(GET)
        self.proxy.back_ends[0].attempts[0].fail()
        self.proxy.client(GET)
        self.expect_status(503, self.proxy.client(GET))
        self.assertEqual([1, 1], self.heard())
        self.assertEqual("http://127.0.0.1:8082/base", self.proxy.exchanges[-1].backend)

    def test_trial(self) -> None:
        """After the retry-delay one request tries it, and uses the next one if it fails."""
        self.arrange(urls=TWO, at_once=False)
        self.proxy.client(GET)
        self.proxy.back_ends[0].attempts[0].fail()
        self.proxy.clock.advance(1)
        for _ in range(3):
            self.proxy.client(GET)
        self.assertEqual([2, 3], self.heard())
        self.proxy.back_ends[0].attempts[1].fail()
        self.assertEqual([2, 4], self.heard())

    def test_queue(self) -> None:
        """A full queue is a 503 only if every queue is full."""
        self.arrange(urls=TWO, upstream=UpstreamSettings(max_connections=1, max_queued_requests=1))
        clients = [self.proxy.client(GET) for _ in range(5)]
        self.expect_status(503, clients[4])

    def test_body_kept(self) -> None:
        """A complete body is sent to the back end that finally accepts a connection."""
        self.arrange(urls=TWO, at_once=False, client=SMALL)
        self.proxy.client(post(b"abcd", length=6))
        self.proxy.back_ends[0].attempts[0].fail()
        second = self.proxy.back_ends[1].attempts[0].succeed()
        self.assertEqual(
            asked(b"POST /base/token HTTP/1.1", b"Content-Length: 6") + b"abcd",
            undated(second.sent()),
        )


class Answers(RelayTestCase):
    """The response on its way to the client."""

    def test_framing(self) -> None:
        """The response is framed anew, and loses the fields of its connection."""
        client = self.proxy.client(GET)
        self.back.deliver(
            b"HTTP/1.1 201 Made\r\nX-A: b\r\nKeep-Alive: timeout=5\r\n"
            b"Connection: X-Gone\r\nX-Gone: c\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\nX-Trailer: d\r\n\r\n"
        )
        expected = (
            b"HTTP/1.1 201 Made\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\n\r\n"
        )
        self.assertEqual(expected, undated(client.sent()))
        self.expect_quiet()

    def test_secret(self) -> None:
        """The secret name is removed from the reason and the fields of a response."""
        client = self.proxy.client(GET)
        self.back.deliver(
            b"HTTP/1.1 200 no "
            + HEADER
            + b"\r\n"
            + HEADER
            + b": x\r\nVary: Accept, "
            + HEADER
            + b"\r\nContent-Length: 0\r\n\r\n"
        )
        self.assertEqual(
            b"HTTP/1.1 200 OK\r\nVary: Accept, *\r\nContent-Length: 0\r\n\r\n",
            undated(client.sent()),
        )

    def test_one_connection(self) -> None:
        """Clients use one connection in turn, and each gets its own response."""
        for word in (b"ab", b"cd", b"ef"):
            client = self.proxy.client(GET)
            self.back.deliver(OK.replace(b"ok", word))
            self.assertEqual(word, client.sent()[-2:])
        self.assertEqual(1, len(self.proxy.back_end.attempts))

    def test_bound_connection(self) -> None:
        """A connection that credentials may have authenticated serves no other client."""
        self.proxy.client(GET[:-2] + b"Authorization: Negotiate YIIZ\r\n\r\n")
        self.back.deliver(OK)
        self.proxy.client(GET)
        first, second = self.proxy.back_end.wires
        self.assertIn(b"Negotiate", first.sent())
        self.assertNotIn(b"Negotiate", second.sent())

    def test_connection_of_its_own(self) -> None:
        """Without ``keep_alive`` each request has a connection of its own, and says so."""
        self.arrange(upstream=UpstreamSettings(keep_alive=False))
        for count in (1, 2):
            client = self.proxy.client(GET)
            self.assertIn(b"\r\nConnection: close\r\n", self.back.sent())
            self.back.deliver(OK)
            self.assertIn(b"200 OK", client.sent())
            self.assertNotIn(b"Connection", client.sent())
            self.assertEqual(count, len(self.proxy.back_end.attempts))
            self.assertTrue(self.back.disconnecting)

    def test_queued(self) -> None:
        """Clients that wait for the only connection get their own responses, in turn."""
        self.arrange(upstream=UpstreamSettings(max_connections=1))
        clients = [self.proxy.client(GET + GET) for _ in range(3)]
        for number in range(6):
            self.back.deliver(OK.replace(b"ok", b"%02d" % number))
        self.assertEqual(
            [(b"00", b"03"), (b"01", b"04"), (b"02", b"05")],
            [bodies(client.sent()) for client in clients],
        )
        self.assertEqual(1, len(self.proxy.back_end.attempts))
        self.expect_quiet()

    def test_early(self) -> None:
        """A response that is complete before the body closes both connections.

        The rest of the body is dropped.
        """
        self.arrange(client=SMALL)
        client = self.proxy.client(post(b"abcd", length=9))
        self.back.sent()
        self.back.deliver(OK)
        self.assertIn(b"Connection: close\r\n", client.sent())
        client.deliver(b"efghi")
        self.assertEqual(
            (b"", True, True), (self.back.sent(), self.back.aborted, client.disconnecting)
        )
        self.assertFalse(client.aborted)

    def test_failed_before(self) -> None:
        """A failure before the response is an error response, and the connection stays open."""
        client = self.proxy.client(GET)
        self.back.lose(CUT)
        self.expect_status(502, client)
        client.deliver(GET)
        self.back.deliver(OK)
        self.assertEqual(OK, undated(client.sent()))

    def test_failed_after(self) -> None:
        """A failure in the response cuts the client, so that it is not taken for complete."""
        client = self.proxy.client(GET)
        self.back.deliver(BEGUN)
        self.back.lose(CUT)
        self.assertTrue(client.aborted)
        (exchange,) = self.proxy.exchanges
        self.assertEqual(
            (Outcome.ABORTED, "back end's response: cut short"), (exchange.outcome, exchange.detail)
        )
        self.proxy.clock.advance(0)
        self.expect_quiet()

    def test_failed_while_uploading(self) -> None:
        """A failure during the body is an error response, and the rest of the body is dropped."""
        self.arrange(client=SMALL)
        client = self.proxy.client(post(b"abcd", length=9))
        self.back.lose(CUT)
        self.expect_status(502, client)
        client.deliver(b"efghi")
        self.assertTrue(client.disconnecting)

    def test_failed_half_way_both_ways(self) -> None:
        """A failure during body and response cuts the client, without an error response."""
        self.arrange(client=SMALL)
        client = self.proxy.client(post(b"abcd", length=9))
        self.back.deliver(BEGUN)
        self.back.lose(CUT)
        # Octets that were on their way nevertheless.
        client.protocol.dataReceived(b"efghi")
        self.assertTrue(client.aborted)


def bodies(answers: bytes) -> tuple[bytes, ...]:
    """Return the bodies, of two bytes each, of several responses."""
    return tuple(answer[-2:] for answer in answers.split(b"HTTP/1.1 200 OK")[1:])


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError


class Failing(RelayTestCase):
    """A failure in a later reactor turn gets a response too (invariant L3)."""

    def expect_logged(self) -> None:
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_sending(self) -> None:
        """If the request cannot be sent, it is rejected, and the connection is closed."""
        self.arrange(at_once=False)
        client = self.proxy.client(GET)
        self.patch(Connection, "send", broken)
        self.proxy.back_end.attempts[0].succeed()
        self.expect_status(502, client)
        self.assertTrue(self.back.aborted)
        self.expect_logged()

    def test_handing_on(self) -> None:
        """If the head of a response cannot be forwarded, there is an error; for a body, a cut."""
        client = self.proxy.client(GET)
        self.patch(Request, "begin", broken)
        self.back.deliver(OK)
        self.expect_status(502, client)
        self.assertTrue(self.back.aborted)
        self.expect_logged()

    def test_head_that_cannot_be_written(self) -> None:
        """The error response in place of a chunked one, whose head failed, is not chunked.

        Its connection stays open: what stands behind its length would be read as the next response.
        """
        client = self.proxy.client(GET)
        with patch.object(downstream, "write_response_head", side_effect=[ValueError, b""]):
            self.back.deliver(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.assertEqual(b'{"error": "server_error"', client.sent()[:24])
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_handing_on_half_way(self) -> None:
        """If the rest of a response cannot be forwarded, the client is cut."""
        client = self.proxy.client(GET)
        self.patch(Request, "write", broken)
        self.back.deliver(OK)
        self.assertEqual((True, True), (client.aborted, self.back.aborted))
        self.expect_logged()

    def test_end(self) -> None:
        """If only the end fails, after the connection was released, that is closed too."""
        client = self.proxy.client(GET)
        self.patch(Request, "finish", broken)
        self.back.deliver(OK)
        self.assertEqual((True, True), (client.aborted, self.back.aborted))
        self.expect_logged()

    def test_next_back_end(self) -> None:
        """If the next back end cannot be asked, the request is rejected, and waits for none."""
        self.arrange(urls=TWO, at_once=False)
        client = self.proxy.client(GET)
        with patch.object(Connection, "open", side_effect=ZeroDivisionError):
            self.proxy.back_ends[0].attempts[0].fail()
        self.expect_status(502, client)
        self.assertEqual([0, 0], [pool.load for pool in self.proxy.pools])
        self.expect_logged()

    def test_no_next_back_end(self) -> None:
        """If the request cannot be rejected either, the client is cut."""
        self.arrange(at_once=False)
        client = self.proxy.client(GET)
        self.patch(Request, "answer", broken)
        self.proxy.back_end.attempts[0].fail()
        self.assertTrue(client.aborted)
        self.assertEqual(2, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_refusing(self) -> None:
        """If not even the error response can be sent, the client is cut."""
        client = self.proxy.client(GET)
        self.patch(Request, "answer", broken)
        self.back.lose()
        self.assertTrue(client.aborted)
        self.expect_logged()


class BackPressure(RelayTestCase):
    """A slow peer on one side pauses the other."""

    def test_slow_client(self) -> None:
        """A client that does not read pauses the back end until it reads."""
        client = self.proxy.client(GET)
        self.back.deliver(BEGUN)
        client.fill()
        self.assertFalse(self.back.reading)
        client.drain()
        self.assertTrue(self.back.reading)
        self.back.deliver(b"cd")
        self.assertEqual(b"abcd", client.sent()[-4:])

    def test_slow_client_that_never_reads(self) -> None:
        """A client that never reads again is cut, and its connection to the back end released."""
        self.arrange(upstream=UpstreamSettings(max_connections=1))
        client = self.proxy.client(GET)
        self.back.deliver(BEGUN)
        client.fill()
        self.proxy.clock.advance(30)
        self.assertTrue(client.aborted)
        self.assertTrue(self.back.aborted)
        self.expect_quiet()

    def test_slow_client_before(self) -> None:
        """A client that does not read at the beginning of its response pauses it too."""
        client = self.proxy.client(GET)
        client.fill()
        self.assertFalse(self.back.reading)
        client.drain()
        self.assertTrue(self.back.reading)

    def test_slow_client_while_waiting(self) -> None:
        """A client that pauses and resumes while its request waits has no effect."""
        self.arrange(at_once=False)
        client = self.proxy.client(GET)
        client.fill()
        client.drain()
        self.proxy.back_end.attempts[0].succeed().deliver(OK)
        self.assertEqual(OK, undated(client.sent()))

    def test_slow_client_of_a_document(self) -> None:
        """A response that begins with its end pauses no connection of another exchange."""
        self.arrange(
            upstream=UpstreamSettings(max_connections=1),
            discovery=DiscoverySettings(mtls="https://mtls.example"),
        )
        path = b"/.well-known/openid-configuration"
        client = self.proxy.client(GET.replace(b" / ", b" " + path + b" "))
        other = self.proxy.client(GET)
        client.fill()
        document = b'{"issuer":"https://as.example"}'
        self.back.deliver(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(document), document)
        )
        self.assertTrue(self.back.reading)
        self.back.deliver(OK)
        self.assertIn(b"200 OK", other.sent())

    def test_slow_back_end(self) -> None:
        """A back end that does not read pauses the client until it reads."""
        self.arrange(client=SMALL)
        client = self.proxy.client(post(b"abcd", length=9))
        self.assertTrue(client.reading)
        self.back.fill()
        self.assertFalse(client.reading)
        self.back.drain()
        self.assertTrue(client.reading)

    def test_slow_back_end_that_never_reads(self) -> None:
        """A back end that never reads again is a 504."""
        self.arrange(client=SMALL)
        client = self.proxy.client(post(b"abcd", length=9))
        self.back.fill()
        self.proxy.clock.advance(30)
        self.expect_status(504, client)
        self.assertTrue(client.reading)


class Leaving(RelayTestCase):
    """A client that leaves releases what it had."""

    def test_while_its_body_comes(self) -> None:
        """Before its body is complete, the back end has received nothing."""
        client = self.proxy.client(post(b"", length=9))
        client.lose()
        self.expect_unasked()

    def test_while_a_connection_is_opened(self) -> None:
        """A connection that is being opened is kept for the next request, without a write."""
        self.arrange(at_once=False)
        client = self.proxy.client(GET)
        client.lose()
        self.proxy.back_end.attempts[0].succeed()
        self.assertEqual((b"", False), (self.back.sent(), self.back.disconnecting))
        self.expect_quiet()

    def test_in_the_queue(self) -> None:
        """Its request leaves the queue."""
        self.arrange(upstream=UpstreamSettings(max_connections=1))
        first, second = self.proxy.client(GET), self.proxy.client(GET)
        second.lose()
        self.back.sent()
        self.back.deliver(OK)
        self.assertEqual(b"", self.back.sent())
        first.deliver(GET)
        self.assertEqual(asked(b"GET / HTTP/1.1"), undated(self.back.sent()))

    def test_while_answered(self) -> None:
        """Its exchange is cancelled, and the connection closed."""
        for answer in (b"", BEGUN):
            client = self.proxy.client(GET)
            self.back.deliver(answer)
            client.lose()
            self.assertTrue(self.back.aborted)
            self.expect_quiet()
        self.assertEqual(
            [Outcome.ABORTED] * 2, [exchange.outcome for exchange in self.proxy.exchanges]
        )

    def test_while_uploading(self) -> None:
        """The same holds while its body is sent."""
        self.arrange(client=SMALL)
        client = self.proxy.client(post(b"abcd", length=9))
        client.lose()
        self.assertTrue(self.back.aborted)
        self.expect_quiet()

    def test_malformed_while_a_connection_is_opened(self) -> None:
        """If its body proves malformed meanwhile, the back end receives nothing."""
        self.arrange(client=SMALL, at_once=False)
        client = self.proxy.client(post(b"4\r\nabcd\r\n", length=-1))
        client.deliver(b"X")
        self.expect_status(400, client)
        self.proxy.back_end.attempts[0].succeed()
        self.assertEqual(b"", self.back.sent())

    def test_malformed_while_uploading(self) -> None:
        """If a streamed body proves malformed, its connection is cut before the end."""
        self.arrange(client=SMALL)
        client = self.proxy.client(post(b"4\r\nabcd\r\n", length=-1))
        client.deliver(b"X")
        self.expect_status(400, client)
        self.assertEqual((b"4\r\nabcd\r\n", True), (self.back.sent()[-9:], self.back.aborted))

    def test_everybody(self) -> None:
        """When all have left there are no deadlines."""
        client = self.proxy.client(GET)
        self.back.deliver(OK)
        client.lose()
        self.proxy.pools[0].close()
        self.back.lose()
        self.assertEqual([], self.proxy.clock.getDelayedCalls())


class Secrets(RelayTestCase):
    """Secrets are not shown."""

    def test_rules(self) -> None:
        """The text of the rules does not show the name."""
        self.assertNotIn(HEADER.decode(), repr(RULES))


class Tokens(RelayTestCase):
    """Access tokens are checked before a back end is used."""

    def setUp(self) -> None:
        super().setUp()
        self.arrange_tokens()

    def arrange_tokens(
        self, need: TokenRequirement = TokenRequirement.BOUND, **others: Any
    ) -> None:
        tokens = TokenCheck.from_files(TokenFiles(TokenSettings(level=TokenLevel.UNVERIFIED)), None)
        rules = (RuleSettings(path="/api", token=need),)
        self.arrange(policy=PolicySettings(rules=rules), tokens=tokens, **others)

    def expect_rejected(self, client: RequestTransport, status: int, code: Code) -> bytes:
        sent = client.sent()
        self.assertEqual(str(status).encode(), sent[9:12])
        self.assertTrue(client.disconnecting)
        self.expect_unasked()
        (exchange,) = self.proxy.exchanges
        self.assertEqual(
            (code, TokenVerdict.REJECTED, Outcome.REJECTED),
            (exchange.code, exchange.token, exchange.outcome),
        )
        return sent

    def test_own(self) -> None:
        """The owner of a token reaches the back end, with the token unchanged."""
        client = self.proxy.tls_client(certificate(), request(b"Bearer " + bound()))
        self.assertIn(b"\r\nAuthorization: Bearer " + bound() + b"\r\n", self.back.sent())
        self.back.deliver(OK)
        self.assertIn(b"200 OK", client.sent())
        self.assertIs(TokenVerdict.BOUND, self.proxy.exchanges[0].token)

    def test_another(self) -> None:
        """With another certificate, or none, it is 401 in the exact form of RFC 6750.

        Nothing more is read.
        """
        for shown, reason in (
            (certificate("CN=other"), b"The access token is bound to another client certificate"),
            (None, b"The access token must be bound to a client certificate, and none was sent"),
        ):
            self.arrange_tokens()
            client = self.proxy.tls_client(shown, request(b"bearer " + bound()), GET)
            sent = self.expect_rejected(client, 401, Code.TOKEN_MISMATCH)
            challenge = b'Bearer error="invalid_token", error_description="%b"' % reason
            self.assertIn(b"\r\nWWW-Authenticate: " + challenge + b"\r\n", sent)
            self.assertIn(b"\r\nCache-Control: no-store\r\n", sent)
            body = b'{"error": "invalid_token", "error_description": "%b"}\n' % reason
            self.assertEqual(body, sent.partition(b"\r\n\r\n")[2])

    def test_later_on_the_connection(self) -> None:
        """Each request is checked, also after an accepted one and for a cached head."""
        own, other = request(b"Bearer " + bound()), request(b"Bearer " + bound("A" * 43))
        client = self.proxy.tls_client(certificate(), own)
        for _ in range(2):
            self.back.deliver(OK)
            client.deliver(own)
        self.back.deliver(OK)
        self.back.sent()
        client.sent()
        client.deliver(other)
        self.assertEqual((b"", b"401"), (self.back.sent(), client.sent()[9:12]))

    def test_same_head_from_another(self) -> None:
        """A cached head of the owner admits no other client, and none without a certificate."""
        own = request(b"Bearer " + bound())
        for shown in (certificate(), certificate("CN=other"), None, certificate()):
            client = self.proxy.tls_client(shown, own)
            if shown == certificate():
                self.back.deliver(OK)
            status = b"200" if shown == certificate() else b"401"
            self.assertEqual(status, client.sent()[9:12])

    def test_before_the_body(self) -> None:
        """It is rejected at its head, without a wait for its body."""
        lines = (b"Expect: 100-continue", b"Content-Length: 9")
        sent = request(b"Bearer a b", b"/api", *lines).replace(b"GET", b"POST")
        self.expect_rejected(self.proxy.tls_client(certificate(), sent), 400, Code.TOKEN_MALFORMED)

    def test_missing(self) -> None:
        """Without a token it is 401, with a challenge that names no error."""
        sent = self.expect_rejected(
            self.proxy.tls_client(certificate(), request()), 401, Code.TOKEN_MISSING
        )
        self.assertIn(b'\r\nWWW-Authenticate: Bearer realm="api"\r\n', sent)

    def test_dpop(self) -> None:
        """A rejected DPoP token gets a challenge of its scheme (RFC 9449 section 7.1)."""
        client = self.proxy.tls_client(certificate("CN=other"), request(b"DPoP " + bound()))
        sent = self.expect_rejected(client, 401, Code.TOKEN_MISMATCH)
        self.assertIn(b'\r\nWWW-Authenticate: DPoP error="invalid_token", ', sent)

    def test_elsewhere(self) -> None:
        """Without a rule nothing is checked, and nothing is recorded."""
        client = self.proxy.client(request(b"Bearer nonsense or not", b"/other"))
        self.back.deliver(OK)
        self.assertIn(b"200 OK", client.sent())
        self.assertIs(TokenVerdict.UNCHECKED, self.proxy.exchanges[0].token)

    def test_when_bound(self) -> None:
        """With ``when-bound``, a request without a token is forwarded."""
        self.arrange_tokens(TokenRequirement.WHEN_BOUND)
        self.proxy.client(request())
        self.back.deliver(OK)
        self.assertIs(TokenVerdict.ABSENT, self.proxy.exchanges[0].token)

    def test_ignored_certificate(self) -> None:
        """A certificate that a rule ignores is no proof for a token either."""
        ignored = RuleSettings(client_certificate=CertificateRequirement.IGNORED)
        rules = (ignored, RuleSettings(path="/api", token=TokenRequirement.BOUND))
        tokens = TokenCheck.from_files(TokenFiles(TokenSettings(level=TokenLevel.UNVERIFIED)), None)
        self.arrange(policy=PolicySettings(rules=rules), tokens=tokens)
        client = self.proxy.tls_client(certificate(), request(b"Bearer " + bound()))
        self.expect_rejected(client, 401, Code.TOKEN_MISMATCH)

    def test_unfit_certificate(self) -> None:
        """A certificate that is rejected takes precedence, whatever the token."""
        self.arrange_tokens()
        with patch.object(transfer, "time") as clock:
            clock.time.return_value = OWN.not_after + 1
            client = self.proxy.tls_client(certificate(), request(b"Bearer " + bound()))
        self.assertEqual(b"401", client.sent()[9:12])
        self.assertIs(Code.EXPIRED, self.proxy.exchanges[0].code)
        self.expect_unasked()

    def test_two_fields(self) -> None:
        """Two ``Authorization`` fields are 400, in any case, before a token is checked."""
        for name in (b"Authorization", b"authorization", b"AUTHORIZATION"):
            self.arrange_tokens()
            token = b"Bearer " + bound()
            client = self.proxy.tls_client(
                certificate(), request(token, b"/api", name + b": " + token)
            )
            self.assertEqual(b"400", client.sent()[9:12])
            self.expect_unasked()

    def test_no_checker(self) -> None:
        """A rule about tokens without a token check is a 502, and nothing is sent."""
        rules = (RuleSettings(path="/api", token=TokenRequirement.BOUND),)
        self.arrange(policy=PolicySettings(rules=rules))
        self.expect_status(502, self.proxy.client(request(b"Bearer " + bound())))
        self.expect_unasked()
        self.assertEqual(1, len(self.flushLoggedErrors(AssertionError)))


class _Slow:
    """A check of access tokens that the test completes."""

    def __init__(self) -> None:
        self.checks: list[Deferred[CheckedToken]] = []
        self.cancelled = 0

    def check(self, *_: object) -> Deferred[CheckedToken]:
        self.checks.append(Deferred(self._cancel))
        return self.checks[-1]

    def _cancel(self, _: object) -> None:
        self.cancelled += 1


class SlowTokens(RelayTestCase):
    """A token that another server verifies: until then nothing of the request is forwarded."""

    def setUp(self) -> None:
        super().setUp()
        self.arrange_slow()

    def arrange_slow(self, client: ClientSettings = ClientSettings(), **others: Any) -> None:
        self.slow = _Slow()
        rules = (RuleSettings(token=TokenRequirement.BOUND),)
        self.arrange(policy=PolicySettings(rules=rules), tokens=self.slow, client=client, **others)

    def accept(self, claims: bytes = b"") -> None:
        self.slow.checks[-1].callback(CheckedToken(TokenVerdict.BOUND, claims))

    def reject(self, code: Code = Code.TOKEN_MISMATCH) -> None:
        self.slow.checks[-1].errback(HttpError(ErrorResponse(code, "detail")))

    def test_accepted(self) -> None:
        """An accepted request is forwarded, with the body that has arrived meanwhile."""
        client = self.proxy.client(post(b"a", length=3))
        client.deliver(b"b")
        self.expect_unasked()
        self.accept()
        self.expect_unasked()
        client.deliver(b"c")
        expected = asked(b"POST /token HTTP/1.1", b"Content-Length: 3") + b"abc"
        self.assertEqual(expected, undated(self.back.sent()))
        self.back.deliver(OK)
        self.assertIn(b"200 OK", client.sent())
        self.assertIs(TokenVerdict.BOUND, self.proxy.exchanges[0].token)

    def test_accepted_whole(self) -> None:
        """A complete one is forwarded at once."""
        self.proxy.client(GET)
        self.expect_unasked()
        self.accept()
        self.assertEqual(asked(b"GET / HTTP/1.1"), undated(self.back.sent()))

    def test_rejected(self) -> None:
        """A rejected one gets a response, and nothing of it, or after it, is forwarded."""
        client = self.proxy.client(GET, GET)
        self.assertEqual(b"", client.sent())
        self.reject()
        self.expect_status(401, client)
        self.expect_unasked()
        self.assertEqual(1, len(self.slow.checks))
        self.assertIs(TokenVerdict.REJECTED, self.proxy.exchanges[0].token)

    def test_not_verifiable(self) -> None:
        """A token that cannot be verified now is 503, and the connection stays open."""
        client = self.proxy.client(GET)
        self.reject(Code.TOKEN_UNVERIFIABLE)
        self.assertEqual(b"503", client.sent()[9:12])
        client.deliver(GET)
        self.accept()
        self.back.deliver(OK)
        self.assertIn(b"200 OK", client.sent())

    def test_continue(self) -> None:
        """``100 Continue`` is sent when the token is accepted, not before."""
        client = self.proxy.client(post(b"", b"Expect: 100-continue", length=3))
        self.assertEqual(b"", client.sent())
        self.accept()
        self.assertEqual(b"HTTP/1.1 100 Continue\r\n\r\n", client.sent())

    def test_large_body(self) -> None:
        """A body fills the buffer, and is streamed once the token is accepted."""
        self.arrange_slow(SMALL)
        client = self.proxy.client(post(b"abcdef", length=9))
        self.assertFalse(client.reading)
        self.expect_unasked()
        self.accept()
        self.assertTrue(client.reading)
        client.deliver(b"ghi")
        expected = asked(b"POST /token HTTP/1.1", b"Content-Length: 9") + b"abcdefghi"
        self.assertEqual(expected, undated(self.back.sent()))

    def test_client_leaves(self) -> None:
        """The check of a client that leaves is cancelled, and no back end is used afterwards."""
        client = self.proxy.client(GET)
        client.lose()
        self.assertEqual(1, self.slow.cancelled)
        (exchange,) = self.proxy.exchanges
        self.assertEqual((Code.CLIENT_LEFT, Outcome.ABORTED), (exchange.code, exchange.outcome))
        self.expect_unasked()
        self.expect_quiet()

    def test_client_leaves_later(self) -> None:
        """A client that leaves after its token was accepted frees its connection."""
        client = self.proxy.client(GET)
        self.accept()
        client.lose()
        self.assertTrue(self.back.aborted)
        self.expect_quiet()
        self.arrange_slow(at_once=False)
        client = self.proxy.client(GET)
        self.accept()
        client.lose()
        self.proxy.back_end.attempts[0].succeed()
        self.assertEqual((b"", False), (self.back.sent(), self.back.disconnecting))
        self.expect_quiet()

    def test_body_does_not_come(self) -> None:
        """So is that of a request whose body is late or malformed."""
        for late in (True, False):
            self.arrange_slow()
            client = self.proxy.client(post(b"3\r\nabc\r\n", length=-1))
            if late:
                self.proxy.deadlines.clock.advance(31)  # type: ignore[attr-defined]
            else:
                client.deliver(b"nonsense\r\n")
            self.assertEqual(1, self.slow.cancelled)
            self.assertEqual(b"408" if late else b"400", client.sent()[9:12])
            self.expect_unasked()

    def test_broken(self) -> None:
        """An exception in the check is a 502, and the back end receives nothing."""
        client = self.proxy.client(GET)
        self.slow.checks[0].errback(ZeroDivisionError())
        self.expect_status(502, client)
        self.expect_unasked()
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_broken_afterwards(self) -> None:
        """So is one in the steps after it."""
        client = self.proxy.client(GET)
        with patch.object(transfer, "write_head", side_effect=ValueError):
            self.accept()
        self.expect_status(502, client)
        self.expect_unasked()
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
