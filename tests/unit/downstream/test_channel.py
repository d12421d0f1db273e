"""Tests of :mod:`x509proxy.downstream.channel`.

They are about the order of requests, the limits, the deadlines, and the end of processing after an
error.
"""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import certificate
from tests.support.memory import (
    CUT,
    GET,
    Consumer,
    RecordingHandler,
    RequestTransport,
    TlsWire,
    accept,
    post,
    reply,
    undated,
)
from tests.support.tls_streams import StreamTestCase
from x509proxy.downstream import channel
from x509proxy.downstream.factory import ProxyFactory
from x509proxy.downstream.request import Request
from x509proxy.exchange import Outcome
from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.http1.messages import Framing
from x509proxy.settings import ClientSettings
from x509proxy.transport.deadlines import Deadlines

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OK_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BAD = b"GET / HTTP/1.1\r\nHost: as.example\r\nBad Name: x\r\n\r\n"


def expecting(body: bytes = b"", length: int = 3) -> bytes:
    return post(body, b"Expect: 100-continue", length=length)


def status(answer: bytes) -> bytes:
    return answer[9:12]


class ChannelTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.handler = RecordingHandler()
        self.consumer = Consumer()
        self.arrange()

    def arrange(self, settings: ClientSettings = ClientSettings()) -> None:
        self.factory = ProxyFactory(self.handler, Deadlines(self.clock), settings)

    def connect(self, *pieces: bytes) -> RequestTransport:
        wire = RequestTransport(self.clock).attach(self.factory.buildProtocol(None))
        wire.deliver(*pieces)
        return wire

    def accept(self, request: Request) -> None:
        """Accept the head, and send nothing."""
        request.consumer = self.consumer
        request.accept()

    def begin(self, request: Request) -> None:
        """Begin a response to the head at once, and leave it open."""
        self.accept(request)
        request.begin(200, b"OK", (), Framing.LENGTH, 9)

    def expect_closing(self, wire: RequestTransport) -> None:
        """Check that the response can be read, and that nothing more is served."""
        self.assertTrue(wire.disconnecting)
        self.assertFalse(wire.aborted)
        self.assertIsNone(wire.producer)

    def expect_open(self, wire: RequestTransport) -> None:
        self.assertFalse(wire.disconnecting)

    def expect_cut(self, wire: RequestTransport) -> None:
        self.assertTrue(wire.aborted)


class KeepAlive(ChannelTestCase):
    """One connection serves requests in order, as long as both ends permit."""

    def setUp(self) -> None:
        super().setUp()
        self.handler.then = reply

    def test_stays(self) -> None:
        """An HTTP/1.1 connection serves request after request."""
        wire = self.connect(GET, GET)
        self.assertEqual(OK + OK, undated(wire.sent()))
        self.expect_open(wire)

    def test_itself(self) -> None:
        """Each request of the proxy to itself gets 508, and reaches no back end."""
        self.patch(channel, "is_own", lambda _: True)
        wire = self.connect(GET, GET)
        answers = wire.sent()
        self.assertEqual(2, answers.count(b"HTTP/1.1 508 Loop Detected\r\n"))
        self.assertEqual([], self.handler.requests)

    def test_byte_by_byte(self) -> None:
        """The number of pieces in which a request arrives makes no difference."""
        self.handler.then = lambda request: accept(request, lambda: reply(request))
        wire = self.connect(*(bytes([octet]) for octet in GET + post(b"abc")))
        self.assertEqual(OK + OK, undated(wire.sent()))

    def test_old_version(self) -> None:
        """An HTTP/1.0 connection ends after its request."""
        wire = self.connect(b"GET / HTTP/1.0\r\n\r\n")
        self.assertEqual(OK_CLOSE, undated(wire.sent()))
        self.expect_closing(wire)

    def test_old_version_that_asks(self) -> None:
        """An HTTP/1.0 connection stays open if the client requests it, with keep-alive."""
        wire = self.connect(
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"
        )
        kept = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
        self.assertEqual(kept + OK_CLOSE, undated(wire.sent()))

    def test_connection_close(self) -> None:
        """``Connection: close`` ends the requests of a client: what follows is not served."""
        wire = self.connect(
            b"GET / HTTP/1.1\r\nHost: as.example\r\nConnection: close\r\n\r\n" + GET, GET
        )
        self.assertEqual(OK_CLOSE, undated(wire.sent()))
        self.assertEqual(1, len(self.handler.requests))
        self.expect_closing(wire)

    def test_lifetime(self) -> None:
        """A connection above its maximum age is closed with its next response, even if busy."""
        self.arrange(ClientSettings(max_connection_age=40, handshake_timeout=10))
        self.handler.then = reply
        wire = self.connect(GET)
        for _ in range(2):
            self.clock.advance(19)
            wire.sent()
            wire.deliver(GET)
            self.assertNotIn(b"Connection: close", wire.sent())
        self.clock.advance(2)
        wire.deliver(GET)
        self.assertIn(b"\r\nConnection: close\r\n", wire.sent())

    def test_number_of_requests(self) -> None:
        """The last permitted request of a connection gets ``Connection: close``."""
        self.arrange(ClientSettings(max_requests_per_connection=2))
        wire = self.connect(GET + GET + GET)
        self.assertEqual(OK + OK_CLOSE, undated(wire.sent()))
        self.expect_closing(wire)


class Pipelining(ChannelTestCase):
    """Requests that arrive before the responses to earlier ones."""

    def test_order(self) -> None:
        """One request is served at a time, and the responses keep the order of the requests."""
        wire = self.connect(GET + GET)
        self.assertEqual(1, len(self.handler.requests))
        reply(self.handler.requests[0], b"1")
        self.assertEqual(2, len(self.handler.requests))
        reply(self.handler.requests[1], b"2")
        self.assertEqual(
            [b"1", b"2"], [answer[-1:] for answer in wire.sent().split(b"HTTP/1.1 200 OK")[1:]]
        )

    def test_reading_stops(self) -> None:
        """While a request waits for its turn nothing more is read."""
        wire = self.connect(GET)
        self.assertTrue(wire.reading)
        wire.deliver(GET)
        self.assertFalse(wire.reading)
        reply(self.handler.requests[0])
        self.assertTrue(wire.reading)

    def test_many_answered_at_once(self) -> None:
        """A thousand requests in one piece, each with an immediate response, do not nest."""
        self.handler.then = reply
        wire = self.connect(GET * 999)
        self.assertEqual(OK * 999, undated(wire.sent()))

    def test_body_of_the_next(self) -> None:
        """A body that arrives before its request's turn waits with it."""
        wire = self.connect(GET + post(b"abc")[:-1])
        reply(self.handler.requests[0])
        second = self.handler.requests[1]
        self.assertEqual((2, False), (second.held, second.body_complete))
        wire.deliver(b"c")
        self.assertEqual((3, True), (second.held, second.body_complete))

    def test_client_that_does_not_read(self) -> None:
        """A client that reads no responses gets no further request served.

        So memory does not grow with its requests.
        """
        self.handler.then = reply
        wire = self.connect(GET)
        wire.fill()
        wire.deliver(GET, GET)
        self.assertEqual(1, len(self.handler.requests))
        self.assertFalse(wire.reading)
        wire.drain()
        self.assertEqual(3, len(self.handler.requests))
        self.assertTrue(wire.reading)

    def test_client_that_sends_and_does_not_read(self) -> None:
        """Requests do not extend the deadline of a client that does not read."""
        self.arrange(ClientSettings(send_timeout=30))
        self.handler.then = reply
        wire = self.connect(GET)
        wire.fill()
        self.clock.advance(20)
        wire.deliver(GET)
        self.clock.advance(10)
        self.expect_cut(wire)


class AfterAnError(ChannelTestCase):
    """After an error response nothing that still arrives is served (invariant L3)."""

    def test_later_feeds(self) -> None:
        """The rest of a rejected head, and complete requests after it, are ignored."""
        self.handler.then = reply
        wire = self.connect(b"GET / HTTP/1.1\r\nHost: as.example\r\nBad Name: x\r\n")
        self.assertEqual(b"400", status(wire.sent()))
        self.expect_closing(wire)
        wire.deliver(b"\r\n", GET, GET)
        self.assertEqual((b"", []), (wire.sent(), self.handler.requests))

    def recorded(self, *pieces: bytes) -> tuple[int, Outcome, str, str, str]:
        """Return the only record of a rejected request."""
        self.connect(*pieces)
        self.clock.advance(11)
        (exchange,) = self.handler.exchanges
        self.handler.exchanges.clear()
        return exchange.status, exchange.outcome, exchange.method, exchange.target, exchange.version

    def test_discarded(self) -> None:
        """8 MiB behind it are dropped, so that a client can read it; with more it is cut."""
        wire = self.connect(BAD, *[bytes(1 << 20)] * 8)
        self.expect_closing(wire)
        wire.deliver(b"x")
        self.assertTrue(wire.aborted)

    def test_record(self) -> None:
        """A rejected head leaves a record with its request line, without the query."""
        post_to = b"POST /token?code=SECRET HTTP/1.0\r\n"
        for status, method, lines in (
            (400, "POST", post_to + b"Bad Name: x\r\n\r\n"),
            (413, "POST", post_to + b"Content-Length: 99999999\r\n\r\n"),
            (431, "POST", post_to + b"A: b\r\n" * 101 + b"\r\n"),
            (408, "POST", post_to),
            (501, "BREW", post_to.replace(b"POST", b"BREW")),
        ):
            for pieces in ((lines,), (lines[:9], lines[9:40], lines[40:])):
                self.assertEqual(
                    (status, Outcome.REJECTED, method, "/token", "HTTP/1.0"), self.recorded(*pieces)
                )

    def test_record_of_what_is_no_request(self) -> None:
        """A malformed request line leaves a record without method and target."""
        for status, line in ((400, b"GET  / HTTP/1.1\r\n\r\n"), (408, b"GET /to")):
            self.assertEqual((status, Outcome.REJECTED, "-", "-", "HTTP/1.1"), self.recorded(line))

    def test_record_of_the_second(self) -> None:
        """The record of a rejected request has nothing of requests before it."""
        self.handler.then = reply
        for second in (b"GET  /", b"\x16\x03"):
            self.connect(GET + second)
            self.clock.advance(11)
            exchange = self.handler.exchanges[-1]
            self.assertEqual(
                (Outcome.REJECTED, "-", "-"), (exchange.outcome, exchange.method, exchange.target)
            )

    def test_head(self) -> None:
        """The error response to ``HEAD`` has a length and no body (RFC 9110 section 9.3.2)."""
        head, _, body = self.connect(BAD.replace(b"GET", b"HEAD")).sent().partition(b"\r\n\r\n")
        self.assertEqual((b"400", b""), (status(head), body))
        self.assertIn(b"Content-Length: ", head)

    def test_body_of_one_that_waits(self) -> None:
        """A request whose body is found malformed while it waits is rejected in its own turn."""
        wire = self.connect(GET)
        wire.deliver(post(b"zz\r\n", length=-1))
        self.assertEqual((b"", 1), (wire.sent(), len(self.handler.requests)))
        reply(self.handler.requests[0])
        self.assertEqual(
            [b"200", b"400"],
            [status(b"HTTP/1.1 " + answer) for answer in wire.sent().split(b"HTTP/1.1 ")[1:]],
        )
        self.assertEqual(1, len(self.handler.requests))

    def test_second_of_two(self) -> None:
        """A malformed request is rejected after the response to the one before it."""
        wire = self.connect(GET + BAD + GET)
        self.assertEqual(b"", wire.sent())
        reply(self.handler.requests[0])
        first, _, second = undated(wire.sent()).partition(b"ok")
        self.assertEqual((OK[:-2], b"400"), (first, status(second)))
        self.assertEqual(1, len(self.handler.requests))
        self.expect_closing(wire)

    def test_second_of_two_comes_later(self) -> None:
        """A malformed request does not take the place of a response that is awaited."""
        wire = self.connect(GET)
        wire.deliver(BAD)
        self.assertEqual(b"", wire.sent())
        reply(self.handler.requests[0])
        first, _, second = undated(wire.sent()).partition(b"ok")
        self.assertEqual((OK[:-2], b"400"), (first, status(second)))
        self.expect_closing(wire)

    def test_second_body_of_two(self) -> None:
        """A request whose body is found malformed while it waits is never served."""
        wire = self.connect(GET + post(b"3\r\nabcX", length=-1))
        reply(self.handler.requests[0])
        self.assertEqual(1, len(self.handler.requests))
        self.assertIn(b"HTTP/1.1 400 Bad Request", wire.sent())
        self.expect_closing(wire)

    def test_body_before_the_answer(self) -> None:
        """A request with a malformed body is rejected, and its consumer is notified."""
        self.handler.then = self.accept
        wire = self.connect(post(b"3\r\nabc\r\n", length=-1))
        wire.deliver(b"X")
        self.assertEqual((b"400", ["gone"]), (status(wire.sent()), self.consumer.told))
        self.expect_closing(wire)

    def test_body_after_the_answer_began(self) -> None:
        """A malformed body after the response has begun cuts the connection."""
        self.handler.then = self.begin
        wire = self.connect(post(b"3\r\nabc\r\n", length=-1))
        wire.deliver(b"X")
        self.expect_cut(wire)
        self.assertEqual(["gone"], self.consumer.told)
        (exchange,) = self.handler.exchanges
        self.assertEqual(Outcome.ABORTED, exchange.outcome)

    def test_malformed_in_one_piece(self) -> None:
        """A malformed body in the same piece as its head is rejected before it is served."""
        wire = self.connect(post(b"3\r\nabcX", length=-1))
        self.assertEqual([], self.handler.requests)
        self.assertEqual(b"400", status(wire.sent()))

    def test_rejected_by_the_handler(self) -> None:
        """An error response of the handler ends the connection too."""
        self.handler.then = lambda request: request.answer(ErrorResponse(Code.NO_CERTIFICATE, "no"))
        wire = self.connect(GET + GET)
        self.assertEqual(1, len(self.handler.requests))
        self.assertIn(b"Connection: close", wire.sent())
        self.expect_closing(wire)

    def test_not_even_read(self) -> None:
        """Valid requests after an error response are not kept either.

        So memory does not grow with them.
        """
        self.handler.then = lambda request: request.answer(
            ErrorResponse(Code.NO_CERTIFICATE, "no client certificate")
        )
        wire = self.connect(GET)
        wire.deliver(*[GET] * 100)
        self.assertEqual((1, 0), (len(self.handler.requests), len(wire.protocol._queue._queue)))

    def test_not_kept(self) -> None:
        """Requests after a rejected one are dropped while the connection closes (invariant L7)."""
        wire = self.connect(GET)
        wire.deliver(GET)
        self.assertEqual((1, 1), (len(self.handler.requests), len(wire.protocol._queue._queue)))
        self.handler.requests[0].answer(ErrorResponse(Code.NO_CERTIFICATE, "no client certificate"))
        self.assertEqual((1, 0), (len(self.handler.requests), len(wire.protocol._queue._queue)))

    def test_back_ends_failure(self) -> None:
        """A failure of the back end is not the client's fault: the connection stays open."""
        self.handler.then = lambda request: request.answer(
            ErrorResponse(Code.INVALID_RESPONSE, "no")
        )
        wire = self.connect(GET, GET)
        self.assertEqual(2, wire.sent().count(b"HTTP/1.1 502 Bad Gateway"))
        self.expect_open(wire)


class Waiting(ChannelTestCase):
    """Every wait has a deadline, and octets without progress do not extend it."""

    def setUp(self) -> None:
        super().setUp()
        settings = ClientSettings(
            handshake_timeout=10,
            head_timeout=11,
            body_timeout=12,
            idle_timeout=13,
            send_timeout=14,
            request_buffer_bytes=8,
        )
        self.arrange(settings)

    def wait(self, seconds: float) -> None:
        """Advance the clock in the steps of the timer."""
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)

    def test_handshake(self) -> None:
        """A handshake that does not complete ends the connection."""
        wire = TlsWire(self.clock)
        wire.attach(self.factory.buildProtocol(None))
        self.wait(9.75)
        self.assertFalse(wire.aborted)
        self.wait(0.25)
        self.expect_cut(wire)

    def test_after_the_handshake(self) -> None:
        """A client may idle after the handshake."""
        wire = TlsWire(self.clock)
        wire.attach(self.factory.buildProtocol(None))
        wire.shake()
        self.wait(12.75)
        self.expect_open(wire)
        self.wait(0.25)
        self.expect_closing(wire)

    def test_slow_head(self) -> None:
        """A head has its time from its first octet, however many follow.

        Then the response is 408.
        """
        wire = self.connect(GET[:1])
        for octet in GET[1:11]:
            self.wait(1)
            wire.deliver(bytes([octet]))
        self.expect_open(wire)
        self.wait(1)
        self.assertEqual(b"408", status(wire.sent()))
        self.expect_closing(wire)
        wire.deliver(GET[11:], GET)
        self.assertEqual([], self.handler.requests)

    def test_second_head(self) -> None:
        """A head that began during another request has its time from the end of that one."""
        wire = self.connect(GET + GET[:5])
        self.wait(100)
        reply(self.handler.requests[0])
        self.wait(10.75)
        self.expect_open(wire)
        self.wait(0.25)
        self.assertIn(b"HTTP/1.1 408 Request Timeout", wire.sent())

    def test_slow_body(self) -> None:
        """A body has its time between octets.

        Then the response is 408, and the consumer is notified.
        """
        self.handler.then = self.accept
        wire = self.connect(post(b"", length=9))
        self.wait(11)
        wire.deliver(b"a")
        self.wait(11.75)
        self.assertEqual(b"", wire.sent())
        self.wait(0.25)
        self.assertEqual((b"408", ["gone"]), (status(wire.sent()), self.consumer.told))
        self.expect_closing(wire)

    def test_dripping_body(self) -> None:
        """Slow octets do not extend the deadline: after the body timeout, a minimum rate holds."""
        self.arrange(ClientSettings(body_timeout=12, min_body_rate=2))
        self.handler.then = self.accept
        for rate, cut in ((1, True), (3, False)):
            wire = self.connect(post(b"", length=1000))
            for _ in range(30):
                self.wait(1)
                wire.deliver(b"a" * rate)
            self.assertEqual(cut, wire.sent().startswith(b"HTTP/1.1 408 "))

    def test_slow_body_after_the_answer_began(self) -> None:
        """A body that stops after its response has begun cuts the connection."""
        self.handler.then = self.begin
        wire = self.connect(post(b"a", length=9))
        self.wait(12)
        self.expect_cut(wire)
        self.assertEqual(["gone"], self.consumer.told)

    def test_idle(self) -> None:
        """An idle connection is closed without a response."""
        wire = self.connect()
        self.wait(12.75)
        self.expect_open(wire)
        self.wait(0.25)
        self.expect_closing(wire)
        self.assertEqual((b"", []), (wire.sent(), self.handler.exchanges))

    def test_idle_again(self) -> None:
        """The idle time counts from the last response, and empty lines do not extend it."""
        self.handler.then = reply
        wire = self.connect()
        self.wait(12)
        wire.deliver(GET)
        self.wait(12)
        wire.deliver(b"\r\n")
        self.wait(0.75)
        self.expect_open(wire)
        self.wait(0.25)
        self.expect_closing(wire)

    def test_back_end(self) -> None:
        """While the back end works, the client has no deadline; that wait is limited elsewhere."""
        wire = self.connect(GET)
        self.wait(1000)
        self.expect_open(wire)

    def test_held_body(self) -> None:
        """A client whose body is paused has no deadline."""
        self.handler.then = self.accept
        wire = self.connect(post(b"12345678", length=20))
        self.assertFalse(wire.reading)
        self.wait(1000)
        self.expect_open(wire)

    def test_client_that_stops_reading(self) -> None:
        """A client that does not read its response is cut, and the consumer is notified."""
        self.handler.then = self.begin
        wire = self.connect(GET)
        wire.fill()
        self.wait(13.75)
        self.assertFalse(wire.aborted)
        self.wait(0.25)
        self.expect_cut(wire)
        self.assertEqual(["pause", "gone"], self.consumer.told)
        self.assertEqual(
            [Outcome.ABORTED], [exchange.outcome for exchange in self.handler.exchanges]
        )

    def test_client_that_reads_again(self) -> None:
        """A client that reads again has the whole timeout the next time."""
        self.handler.then = self.begin
        wire = self.connect(GET)
        for _ in range(3):
            self.handler.requests[0].write(b"a" * 10000)
            wire.fill()
            self.wait(13.75)
            wire.drain()
        self.assertEqual(["pause", "resume"] * 3, self.consumer.told)
        self.expect_open(wire)

    def test_dripping_reader(self) -> None:
        """A client that reads slowly is cut: after the timeout, a minimum rate holds."""
        for rate, cut in ((1, True), (3, False)):
            self.arrange(ClientSettings(send_timeout=12, min_response_rate=2))
            self.handler.then = self.begin
            wire = self.connect(GET)
            self.handler.requests[-1].write(b"a" * 10000)
            for _ in range(10):
                wire.fill()
                self.wait(6)
                wire.drain()
                self.handler.requests[-1].write(b"a" * 6 * rate)
            self.assertEqual(cut, wire.aborted)

    def test_earlier_response(self) -> None:
        """The speed of a client at an earlier response has no effect."""
        self.arrange(ClientSettings(send_timeout=12, min_response_rate=2))
        self.handler.then = self.begin
        wire = self.connect(GET)
        for _ in range(4):
            wire.fill()
            self.wait(6)
            wire.drain()
            self.handler.requests[-1].write(b"a")
            self.handler.requests[-1].finish()
            wire.deliver(GET)
        self.assertEqual((5, False), (len(self.handler.requests), wire.aborted))

    def test_slow_back_end(self) -> None:
        """Time in which nothing waits for the client does not count."""
        self.arrange(ClientSettings(send_timeout=12, min_response_rate=2))
        self.handler.then = self.begin
        wire = self.connect(GET)
        for _ in range(20):
            self.handler.requests[-1].write(b"a")
            wire.fill()
            wire.drain()
            self.wait(20)
        self.expect_open(wire)

    def test_client_that_does_not_read_the_last(self) -> None:
        """A client that does not read a completely written response is cut as well."""
        self.handler.then = reply
        wire = self.connect(GET)
        wire.fill()
        self.wait(14)
        self.expect_cut(wire)

    def test_answer_that_ends_meanwhile(self) -> None:
        """A completely written response gives a client that does not read no more time."""
        self.handler.then = self.begin
        wire = self.connect(GET)
        wire.fill()
        self.wait(7)
        self.handler.requests[0].finish()
        self.wait(6.75)
        self.assertFalse(wire.aborted)
        self.wait(0.25)
        self.expect_cut(wire)

    def test_answer_without_source(self) -> None:
        """A slow reader of a response without a consumer pauses nothing."""
        wire = self.connect(GET)
        wire.fill()
        wire.drain()
        reply(self.handler.requests[0])
        self.assertEqual(OK, undated(wire.sent()))

    def test_next_answer_to_a_slow_reader(self) -> None:
        """A client that sends its body and does not read has the send timeout, and no more."""
        self.handler.then = self.accept
        wire = self.connect(post(b"", length=9))
        wire.fill()
        self.wait(7)
        wire.deliver(b"a")
        self.wait(7)
        self.expect_cut(wire)

    def test_lingering(self) -> None:
        """A connection that is closing is cut if the client does not close."""
        wire = self.connect(BAD)
        self.wait(13.75)
        self.expect_closing(wire)
        self.wait(0.25)
        self.expect_cut(wire)

    def test_lingering_for_nothing(self) -> None:
        """A client that had nothing to read is cut sooner, so that a drain is not delayed."""
        wire = self.connect()
        self.wait(13 + 1.75)
        self.expect_closing(wire)
        self.wait(0.25)
        self.expect_cut(wire)


class Continue(ChannelTestCase):
    """``100 Continue`` is sent for an accepted head without a body, in its turn."""

    def setUp(self) -> None:
        super().setUp()
        self.handler.then = self.accept

    def test_welcome(self) -> None:
        """An accepted head gets ``100 Continue``."""
        self.assertEqual(CONTINUE, self.connect(expecting()).sent())

    def test_refused(self) -> None:
        """A rejected head does not get it."""
        self.handler.then = lambda request: request.answer(ErrorResponse(Code.NO_CERTIFICATE, "no"))
        wire = self.connect(expecting())
        self.assertEqual(b"401", status(wire.sent()))
        self.expect_closing(wire)

    def test_not_yet(self) -> None:
        """It is not sent before the head is accepted."""
        self.handler.then = id
        self.assertEqual(b"", self.connect(expecting()).sent())

    def test_body_is_there(self) -> None:
        """A client that has sent a part of its body does not get it."""
        self.assertEqual(b"", self.connect(expecting(b"a")).sent())
        self.assertEqual(b"", self.connect(expecting(b"abc")).sent())

    def test_after_earlier_answers(self) -> None:
        """It is sent after the responses to the requests before."""
        self.handler.then = id
        wire = self.connect(GET + expecting())
        self.handler.then = self.accept
        reply(self.handler.requests[0])
        self.assertEqual(OK + CONTINUE, undated(wire.sent()))


class Streaming(ChannelTestCase):
    """A body larger than the buffer is read as fast as it is taken."""

    def setUp(self) -> None:
        super().setUp()
        self.arrange(ClientSettings(request_buffer_bytes=4))

    def test_enough(self) -> None:
        """When the buffer is full, reading stops until the consumer takes the body."""
        ready: list[int] = []
        self.handler.then = lambda request: accept(request, lambda: ready.append(request.held))
        wire = self.connect(post(b"abc", length=9))
        self.assertEqual(([], True), (ready, wire.reading))
        wire.deliver(b"d")
        self.assertEqual(([4], False), (ready, wire.reading))

    def test_taken(self) -> None:
        """Once the body is taken, reading goes on, and stops when the consumer pauses it."""
        self.handler.then = self.accept
        wire = self.connect(post(b"abcd", length=9))
        (request,) = self.handler.requests
        self.assertEqual(b"abcd", request.take_body())
        self.assertFalse(wire.reading)
        request.stream_body()
        self.assertTrue(wire.reading)
        request.pause_body()
        self.assertFalse(wire.reading)
        request.resume_body()
        self.assertTrue(wire.reading)
        wire.deliver(b"efghi")
        self.assertEqual([b"efghi", None], self.consumer.taken)

    def test_taken_within_the_call(self) -> None:
        """The consumer may take and pause the body within the call that reports it ready."""
        taken: list[bytes] = []

        def take(request: Request) -> None:
            accept(request, lambda: taken.append(request.take_body()))
            request.pause_body()

        self.handler.then = take
        wire = self.connect(post(b"abcd", length=9))
        self.assertEqual([b"abcd"], taken)
        self.assertFalse(wire.reading)
        self.handler.requests[0].resume_body()
        self.assertTrue(wire.reading)

    def test_early_answer(self) -> None:
        """A response that is complete before the body closes the connection.

        The rest of the body is read and dropped.
        """
        consumer = Consumer()

        def take(request: Request) -> None:
            request.consumer, consumer.ready = consumer, request.take_body
            request.accept()

        self.handler.then = take
        wire = self.connect(post(b"abcd", length=9))
        (request,) = self.handler.requests
        request.pause_body()
        reply(request)
        self.assertEqual(OK_CLOSE, undated(wire.sent()))
        self.expect_closing(wire)
        self.assertTrue(wire.reading)
        wire.deliver(b"efghi", GET)
        self.assertEqual(([], 1, b""), (consumer.taken, len(self.handler.requests), wire.sent()))


class Leaving(ChannelTestCase):
    """A client that leaves cancels its requests."""

    def test_while_served(self) -> None:
        """The consumer is notified once, and waiting requests are dropped."""
        self.handler.then = self.accept
        wire = self.connect(post(b"", length=9))
        wire.lose()
        self.assertEqual(["gone"], self.consumer.told)
        (exchange,) = self.handler.exchanges
        self.assertEqual((Outcome.ABORTED, "the client left"), (exchange.outcome, exchange.detail))

    def test_others_wait(self) -> None:
        """A request that waited for its turn is never served."""
        wire = self.connect(GET + GET)
        wire.lose()
        reply(self.handler.requests[0])
        self.assertEqual((1, 1), (len(self.handler.requests), len(self.handler.exchanges)))

    def test_idle(self) -> None:
        """A client that leaves without a request leaves no record."""
        wire = self.connect(GET)
        reply(self.handler.requests[0])
        wire.lose()
        self.assertEqual(
            [Outcome.COMPLETED], [exchange.outcome for exchange in self.handler.exchanges]
        )
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_full(self) -> None:
        """While a client does not read, nothing more is read from it (invariant L7)."""
        wire = self.connect(GET)
        wire.protocol.pauseProducing()
        wire.deliver(GET[:9])
        self.assertFalse(wire.protocol._reading)

    def test_slowly(self) -> None:
        """Events of the transport are ignored once the connection is closing."""
        self.handler.then = reply
        wire = self.connect(b"GET / HTTP/1.0\r\n\r\n")
        wire.protocol.pauseProducing()
        self.clock.advance(29)
        self.expect_closing(wire)


class Failing(ChannelTestCase):
    """An exception becomes an error response and a line in the log (invariant L3)."""

    def fail(self, request: Request) -> None:  # type: ignore[override]
        raise ZeroDivisionError

    def test_serve(self) -> None:
        """An exception while a request is served is a 502; the connection serves the next one."""
        self.handler.then = self.fail
        wire = self.connect(GET)
        self.assertEqual(b"502", status(wire.sent()))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.handler.then = reply
        wire.deliver(GET)
        self.assertEqual(OK, undated(wire.sent()))

    def test_ready(self) -> None:
        """An exception when the body is complete is a 502, and the consumer is notified."""

        def take(request: Request) -> None:
            request.consumer = self.consumer
            self.consumer.ready = lambda: self.fail(request)
            request.accept()

        self.handler.then = take
        wire = self.connect(post(b"ab", length=3), b"c")
        self.assertEqual((b"502", ["gone"]), (status(wire.sent()), self.consumer.told))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_after_the_answer_began(self) -> None:
        """An exception after the response has begun cuts the connection."""

        def begin(request: Request) -> None:
            self.begin(request)
            self.fail(request)

        self.handler.then = begin
        wire = self.connect(GET + GET)
        self.expect_cut(wire)
        self.assertEqual((1, ["gone"]), (len(self.handler.requests), self.consumer.told))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


class Draining(ChannelTestCase):
    """During a drain, open requests get their responses, and no others begin."""

    def drain(self) -> list[str]:
        """Begin the drain; the result fires at its end."""
        ended: list[str] = []
        self.factory.drain().addCallback(lambda _: ended.append("ended"))
        return ended

    def test_no_connections(self) -> None:
        """Without connections the drain ends at once."""
        self.assertEqual(["ended"], self.drain())

    def test_newcomers(self) -> None:
        """A connection after the beginning of the drain is rejected."""
        self.connect(GET)
        self.drain()
        late = self.connect()
        self.expect_cut(late)
        self.clock.advance(0)
        self.assertTrue(late.gone)

    def test_idle(self) -> None:
        """Idle connections are closed at once."""
        self.handler.then = reply
        wires = [self.connect(GET), self.connect(GET)]
        ended = self.drain()
        for wire in wires:
            self.expect_closing(wire)
            self.assertEqual([], ended)
            wire.lose()
        self.assertEqual(["ended"], ended)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_just_connected(self) -> None:
        """A client that connected before the drain may still send its first request."""
        self.handler.then = reply
        wire = self.connect()
        ended = self.drain()
        self.expect_open(wire)
        wire.deliver(GET)
        self.assertEqual(OK_CLOSE, undated(wire.sent()))
        self.expect_closing(wire)
        wire.lose()
        self.assertEqual(["ended"], ended)

    def test_in_the_middle_of_a_head(self) -> None:
        """A client that has begun to send a request may finish it, the first or a later one."""
        self.handler.then = reply
        for wire in (self.connect(GET[:5]), self.connect(GET + GET[:5])):
            wire.sent()
            self.drain()
            wire.deliver(GET[5:])
            self.assertEqual(OK_CLOSE, undated(wire.sent()))
            self.expect_closing(wire)
            self.factory.draining = False

    def test_says_nothing(self) -> None:
        """Neither has more than two seconds, nor has one whose handshake ends during the drain."""
        silent, late = self.connect(), TlsWire(self.clock).attach(self.factory.buildProtocol(None))
        self.drain()
        self.clock.advance(1)
        late.protocol.handshakeCompleted()
        self.clock.advance(1)
        self.expect_closing(silent)
        self.expect_open(late)
        self.clock.advance(1)
        self.expect_closing(late)

    def test_handshake_without_end(self) -> None:
        """A handshake that does not complete by then is cut."""
        wire = TlsWire(self.clock).attach(self.factory.buildProtocol(None))
        self.drain()
        self.clock.advance(2)
        self.expect_cut(wire)

    def test_in_flight(self) -> None:
        """Open requests get their responses, with ``Connection: close``."""
        wire = self.connect(GET)
        ended = self.drain()
        self.expect_open(wire)
        reply(self.handler.requests[0])
        self.assertEqual(OK_CLOSE, undated(wire.sent()))
        self.expect_closing(wire)
        wire.lose()
        self.assertEqual(["ended"], ended)

    def test_pipelined(self) -> None:
        """Each request that has arrived gets its response; the last closes the connection."""
        self.handler.then = self.accept
        wire = self.connect(GET * 3)
        self.drain()
        for number, expected in enumerate([OK, OK, OK_CLOSE]):
            reply(self.handler.requests[number])
            self.assertEqual(expected, undated(wire.sent()))
        self.expect_closing(wire)

    def test_already_closing(self) -> None:
        """A connection that is closing has two seconds left, as in :meth:`test_idle`."""
        wire = self.connect(BAD)
        self.drain()
        self.clock.advance(1.75)
        self.expect_closing(wire)
        self.clock.advance(0.25)
        self.assertTrue(wire.aborted)

    def test_already_closing_and_still_reading(self) -> None:
        """A client that cannot yet have read its last response keeps ``send_timeout``."""
        self.handler.then = self.accept
        wire = self.connect(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        wire.fill()
        reply(self.handler.requests[0])
        self.drain()
        self.clock.advance(29)
        self.assertFalse(wire.aborted)
        self.clock.advance(1)
        self.expect_cut(wire)

    def test_answer_had_begun(self) -> None:
        """A connection whose response had begun before the drain is closed after that response."""
        self.handler.then = self.begin
        wire = self.connect(GET)
        self.drain()
        self.handler.requests[0].finish()
        self.expect_closing(wire)

    def test_answer_had_begun_and_others_wait(self) -> None:
        """A request that came before the drain is served.

        This holds also if the response before it announced an open connection.
        """
        self.handler.then = self.begin
        wire = self.connect(GET + GET)
        self.drain()
        self.handler.then = reply
        self.handler.requests[0].finish()
        self.assertIn(OK_CLOSE, undated(wire.sent()))
        self.expect_closing(wire)

    def test_still_reading(self) -> None:
        """A client that still reads its last response may finish, within ``send_timeout``."""
        self.handler.then = reply
        wire = self.connect(GET)
        wire.fill()
        self.drain()
        self.clock.advance(29)
        self.expect_closing(wire)
        self.clock.advance(1)
        self.expect_cut(wire)

    def test_large_last_response(self) -> None:
        """A client that still receives a large last response is not cut with those that stay."""
        self.handler.then = self.accept
        wire = self.connect(GET)
        self.drain()
        write = wire.write

        def fill(data: bytes) -> None:
            write(data)
            wire.fill()

        self.patch(wire, "write", fill)
        reply(self.handler.requests[0], bytes(20000))
        self.assertTrue(wire.disconnecting)
        self.clock.advance(4)
        self.assertFalse(wire.aborted)

    def test_too_long(self) -> None:
        """After ``drain_timeout`` open requests are cut, and their consumers are notified."""
        self.arrange(ClientSettings(drain_timeout=5))
        self.handler.then = self.accept
        wire = self.connect(GET)
        ended = self.drain()
        self.clock.advance(4.75)
        self.expect_open(wire)
        self.clock.advance(0.25)
        self.expect_cut(wire)
        self.assertEqual((["ended"], ["gone"]), (ended, self.consumer.told))
        (exchange,) = self.handler.exchanges
        self.assertEqual((Outcome.ABORTED, "the proxy ended"), (exchange.outcome, exchange.detail))

    def test_record_comes_first(self) -> None:
        """At the end of the drain all exchanges are recorded: an access log may be closed."""
        seen: list[int] = []
        wire = self.connect(GET)
        self.factory.drain().addCallback(lambda _: seen.append(len(self.handler.exchanges)))
        wire.lose()
        self.assertEqual([1], seen)

    def test_answer_after_the_cut(self) -> None:
        """A response that comes after the connection was cut has no effect."""
        self.handler.then = self.begin
        wire = self.connect(GET + GET)
        wire.protocol.cut()
        self.handler.requests[0].finish()
        self.assertEqual(1, len(self.handler.requests))

    def test_twice(self) -> None:
        """A second call of ``drain`` gets a result as well."""
        wire = self.connect(GET)
        first, second = self.drain(), self.drain()
        wire.lose()
        self.assertEqual((["ended"], ["ended"]), (first, second))


class Limits(ChannelTestCase):
    """The number of connections is limited."""

    def test_room(self) -> None:
        """A connection that makes room for another is cut."""
        wire = self.connect()
        wire.protocol.make_room()
        self.assertTrue(wire.aborted)

    def test_connections(self) -> None:
        """A connection above the limit is rejected if all serve requests; an end makes room."""
        self.arrange(ClientSettings(max_connections=2))
        first, second, third = self.connect(GET), self.connect(GET), self.connect(GET)
        self.assertEqual([False, False, True], [first.aborted, second.aborted, third.aborted])
        self.clock.advance(0)
        first.lose()
        self.assertFalse(self.connect().aborted)


class Peers(ChannelTestCase):
    """Each request has the client of its connection."""

    def test_tcp(self) -> None:
        """Over TCP: the client's address and the proxy's port."""
        self.connect(GET)
        (request,) = self.handler.requests
        self.assertEqual(
            ("198.51.100.7", 8443, "http"),
            (request.client.hop.peer, request.client.hop.port, request.client.hop.scheme),
        )
        self.assertEqual((None, ""), (request.client.certificate, request.client.tls_version))

    def test_unix(self) -> None:
        """Over a unix socket, nothing is known of the client."""
        wire = RequestTransport(self.clock, UNIXAddress("/run/socket"))
        wire.attach(self.factory.buildProtocol(None))
        wire.deliver(GET)
        self.assertEqual("unknown", self.handler.requests[0].client.hop.peer)

    def test_tls(self) -> None:
        """Over TLS: the certificate too, parsed once for all requests of the connection."""
        wire = TlsWire(self.clock, certificate())
        wire.attach(self.factory.buildProtocol(None))
        wire.shake().deliver(GET + GET)
        reply(self.handler.requests[0])
        first, second = self.handler.requests
        assert first.client.certificate is not None
        self.assertEqual("CN=client", first.client.certificate.subject)
        self.assertIs(first.client.certificate, second.client.certificate)
        self.assertEqual(("https", "TLSv1.3"), (first.client.hop.scheme, first.client.tls_version))

    def test_deferred_is_none(self) -> None:
        """A factory that was never drained notifies nothing at its end."""
        self.connect().lose()
        self.assertIsInstance(self.factory.drain(), Deferred)


class Counts:
    """The kernel's counters for each connection of a test."""

    def __init__(self, _transport: object = None) -> None:
        self.held: int | None = 0
        self.received: int | None = 0

    def unsent(self) -> int | None:
        return self.held

    def acknowledged(self) -> int | None:
        return self.received


class SlowReaders(ChannelTestCase):
    """Clients that receive slowly by the kernel's counters, or have stopped."""

    def setUp(self) -> None:
        super().setUp()
        self.counts = Counts()
        self.patch(channel, "Delivery", lambda _transport: self.counts)
        self.arrange(ClientSettings(send_timeout=10, min_response_rate=100))

    def large(self, request: Request) -> None:
        """Send a complete response that does not fit the first flight."""
        self.accept(request)
        request.begin(200, b"OK", (), Framing.LENGTH, 20000)
        request.write(bytes(20000))
        request.flush()
        request.finish()

    def outcomes(self) -> list[tuple[Outcome, Code | None]]:
        return [(exchange.outcome, exchange.code) for exchange in self.handler.exchanges]

    def test_receives(self) -> None:
        """A response is not cut while the client receives fast enough; then it is."""
        self.handler.then = self.begin
        wire = self.connect(GET)
        wire.fill()
        for received in (1100, 2200, 3300):
            self.counts.received = received
            self.clock.advance(10.25)
            self.expect_open(wire)
        self.counts.received = 3400
        self.clock.advance(10.25)
        self.expect_cut(wire)
        self.assertEqual([(Outcome.ABORTED, Code.SEND_TIMEOUT)], self.outcomes())

    def test_confirmed(self) -> None:
        """A large response is recorded when the client has all of it.

        Meanwhile the connection goes on.
        """
        self.handler.then = self.large
        wire = self.connect(GET)
        self.assertEqual([], self.outcomes())
        self.counts.held = 5000
        self.clock.advance(0.25)
        self.assertEqual([], self.outcomes())
        self.counts.held, self.counts.received = 0, 5000
        self.clock.advance(0.25)
        self.assertEqual([(Outcome.COMPLETED, None)], self.outcomes())
        self.expect_open(wire)

    def test_closing(self) -> None:
        """A closing connection waits for a client that still receives, until it has everything."""
        self.handler.then = self.large
        wire = self.connect(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        self.counts.held = 20000
        self.counts.received = 2000
        self.clock.advance(10.25)
        self.assertFalse(wire.aborted)
        self.counts.held = 0
        self.clock.advance(10.25)
        self.assertTrue(wire.aborted)
        wire.lose()
        self.assertEqual([(Outcome.COMPLETED, None)], self.outcomes())

    def test_closing_stuck(self) -> None:
        """A client that stops receiving is cut, and its exchange was not complete."""
        self.handler.then = self.large
        wire = self.connect(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        self.counts.held = 20000
        self.clock.advance(10.25)
        self.expect_cut(wire)
        self.assertEqual([(Outcome.ABORTED, Code.SEND_TIMEOUT)], self.outcomes())

    def test_lost(self) -> None:
        """A reset connection loses what was not received; one that ends cleanly does not."""
        self.handler.then = self.large
        for reason, ended in (
            (CUT, (Outcome.ABORTED, Code.CLIENT_LEFT)),
            (None, (Outcome.COMPLETED, None)),
        ):
            self.handler.exchanges.clear()
            wire = self.connect(GET)
            self.counts.held = 20000
            wire.lose(reason)
            self.assertEqual([ended], self.outcomes())

    def test_end_of_drain(self) -> None:
        """At the end of a drain received responses are complete, and others are not."""
        self.handler.then = self.large
        for held, ended in (
            (20000, (Outcome.ABORTED, Code.SHUTDOWN)),
            (0, (Outcome.COMPLETED, None)),
        ):
            self.handler.exchanges.clear()
            wire = self.connect(GET)
            self.counts.held = held
            wire.protocol.cut()
            self.expect_cut(wire)
            self.assertEqual([ended], self.outcomes())

    def test_drain(self) -> None:
        """A drain waits for a client that still receives, two seconds at a time."""
        self.handler.then = self.large
        wire = self.connect(GET)
        self.counts.held = 20000
        drained: list[object] = []
        self.factory.drain().addCallback(drained.append)
        for received in (1000, 2000, 3000):
            self.counts.received = received
            self.clock.advance(2.25)
            self.assertFalse(wire.aborted)
        self.counts.held = 0
        self.clock.advance(2.25)
        wire.lose()
        self.assertEqual([None], drained)
        self.assertEqual([(Outcome.COMPLETED, None)], self.outcomes())


class OverTls(StreamTestCase):
    """The end of a connection whose transport is a stream of :mod:`x509proxy.transport`."""

    def setUp(self) -> None:
        self.patch(channel, "Delivery", Counts)
        self.channel_clock = Clock()
        handler = RecordingHandler()
        handler.then = reply
        settings = ClientSettings(send_timeout=10)
        self.handler = handler
        self.connect(ProxyFactory(handler, Deadlines(self.channel_clock), settings))
        self.exchange()

    def test_large_end(self) -> None:
        """The end of a large last response is sent once."""
        self.handler.then = lambda request: reply(request, b"~" * 20000)
        self.client.send(GET[:-2] + b"Connection: close\r\n\r\n")
        received = self.exchange()
        body = received.partition(b"\r\n\r\n")[2]
        self.assertEqual(b"~" * 20000 + b"<close_notify>", body)

    def test_one_packet(self) -> None:
        """The last response and close_notify are one write."""
        writes: list[bytes] = []
        self.patch(self.wire, "write", writes.append)
        self.say(GET[:-2] + b"Connection: close\r\n\r\n")
        (packet,) = writes
        self.client.bio_write(packet)
        self.assertEqual(OK_CLOSE, undated(self.client.recv(1000)))
        self.assertRaises(SSL.ZeroReturnError, self.client.recv, 1000)

    def test_everything_received(self) -> None:
        """TCP is not reset for a client that has received everything and does not end TLS."""
        self.say(GET[:-2] + b"Connection: close\r\n\r\n")
        self.assertFalse(self.wire.disconnecting)
        self.channel_clock.pump([0.25] * 42)
        self.assertEqual((True, False), (self.wire.disconnecting, self.wire.aborted))

    def test_room(self) -> None:
        """A connection that makes room ends at once, and is not a failed handshake."""
        stream = self.factory.buildProtocol(None)
        assert stream is not None
        wire = RequestTransport(self.clock).attach(stream)
        stream._protocol.make_room()
        self.clock.advance(0)
        self.assertTrue(wire.gone)
        self.assertEqual([], self.logged)
