"""Tests of :mod:`x509proxy.downstream.request`.

They are about how a body is held, how a response is framed, and the single record of an exchange.
"""

from __future__ import annotations

from typing import Any, cast

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import client
from tests.support.memory import Consumer, undated
from x509proxy.downstream.channel import Channel
from x509proxy.downstream.request import Request
from x509proxy.exchange import Exchange, Outcome
from x509proxy.forwarding.client import Client, Hop
from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.http1.fields import Pairs
from x509proxy.http1.messages import Framing, RequestHead

HEAD = RequestHead(b"GET", b"/token?code=secret", "1.1", (), b"as.example", Framing.NONE)
BUSY = ErrorResponse(Code.QUEUE_FULL, "busy")


class Line:
    """A fake of the connection that a request came on."""

    def __init__(self) -> None:
        self.client = Client(Hop("198.51.100.7"), client(), "TLSv1.3")
        self.exchanges: list[Exchange] = []
        self.observe = self.exchanges.append
        self.blocked = False
        self.many = True
        self.lives = False
        self.seconds = 5.0
        self.sent = b""
        self.told: list[object] = []

    def send(self, data: bytes) -> None:
        self.sent += data

    def stays_open(self, request: Request, *, is_last: bool) -> bool:
        self.lives = not is_last and request.body_complete and request.head.keep_alive and self.many
        return self.lives

    def send_last(self, data: bytes) -> None:
        self.send(data)

    def body_moved(self) -> None:
        self.told.append("moved")

    def answered(self) -> None:
        self.told.append(self.lives)

    def confirm(self, exchange: Exchange) -> None:
        self.told.append("confirm")
        self.observe(exchange)

    def cut(self) -> None:
        self.told.append("cut")

    def now(self) -> float:
        return self.seconds


class RequestTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.line = Line()
        self.consumer = Consumer(self.be_ready)
        self.readied = 0

    def request(self, *, complete: bool = True, hold: int = 4, **parts: Any) -> Request:
        request = Request(attrs.evolve(HEAD, **parts), cast("Channel", self.line), hold)
        request.consumer = self.consumer
        if complete:
            request.receive_end()
        return request

    def be_ready(self) -> None:
        self.readied += 1

    @property
    def exchange(self) -> Exchange:
        (exchange,) = self.line.exchanges
        return exchange


class GoingOn(RequestTestCase):
    def test_exception(self) -> None:
        """An exception in what follows a response ends the client's connection alone."""
        request = self.request()
        self.patch(self.line, "answered", lambda: 1 / 0)
        request.begin(200, b"", (), Framing.LENGTH, 0)
        request.finish()
        self.assertEqual(["cut"], self.line.told)
        self.assertIs(Outcome.COMPLETED, self.exchange.outcome)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


class BodyFraming(RequestTestCase):
    """The proxy frames each response itself, whatever framing the back end used."""

    def answer(
        self,
        body: Framing,
        length: int,
        *pieces: bytes,
        status: int = 200,
        pairs: Pairs = (),
        **parts: Any,
    ) -> bytes:
        """Return what is sent for a response; ``parts`` are its pieces."""
        self.line = Line()
        request = self.request(**parts)
        request.begin(status, b"Word", pairs, body, length)
        for piece in pieces:
            request.write(piece)
        request.finish()
        return undated(self.line.sent)

    def expect_kept(self, kept: bool) -> None:
        self.assertEqual([kept], self.line.told)

    def test_length(self) -> None:
        """A length is forwarded."""
        expected = b"HTTP/1.1 200 Word\r\nContent-Length: 4\r\n\r\nabcd"
        self.assertEqual(expected, self.answer(Framing.LENGTH, 4, b"ab", b"cd"))
        self.expect_kept(True)

    def test_length_in_old_version(self) -> None:
        """A length is forwarded to HTTP/1.0 too, where keep-alive has to be announced."""
        expected = b"HTTP/1.1 200 Word\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab"
        self.assertEqual(expected, self.answer(Framing.LENGTH, 2, b"ab", version="1.0"))
        self.expect_kept(True)

    def test_chunks(self) -> None:
        """A body without a length is chunked."""
        expected = (
            b"HTTP/1.1 200 Word\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nab\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
        )
        for body in (Framing.CHUNKED, Framing.CLOSE):
            self.assertEqual(expected, self.answer(body, -1, b"ab", b"0123456789abcdef"))
            self.expect_kept(True)

    def test_no_chunks_in_old_version(self) -> None:
        """HTTP/1.0 has no chunks: a body without a length ends with the connection."""
        expected = b"HTTP/1.1 200 Word\r\nConnection: close\r\n\r\nab"
        for body in (Framing.CHUNKED, Framing.CLOSE):
            self.assertEqual(expected, self.answer(body, -1, b"ab", version="1.0"))
            self.expect_kept(False)

    def test_empty_chunked(self) -> None:
        """An empty chunked body has its last chunk."""
        expected = b"HTTP/1.1 200 Word\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        self.assertEqual(expected, self.answer(Framing.CHUNKED, -1))

    def test_none(self) -> None:
        """204 has no framing, and needs none."""
        self.assertEqual(b"HTTP/1.1 204 Word\r\n\r\n", self.answer(Framing.NONE, -1, status=204))
        self.expect_kept(True)

    def test_length_of_what_is_not_sent(self) -> None:
        """A response to HEAD, and 304, have the length of the response to GET, if it is known."""
        for status, method in ((200, b"HEAD"), (304, b"GET")):
            expected = b"HTTP/1.1 %d Word\r\nContent-Length: 7\r\n\r\n" % status
            self.assertEqual(expected, self.answer(Framing.NONE, 7, status=status, method=method))
            self.assertEqual(
                b"HTTP/1.1 %d Word\r\n\r\n" % status,
                self.answer(Framing.NONE, -1, status=status, method=method),
            )
            self.expect_kept(True)

    def test_reason(self) -> None:
        """A missing reason phrase is added; an unknown status has none."""
        for status, expected in ((404, b"HTTP/1.1 404 Not Found"), (499, b"HTTP/1.1 499 ")):
            request = self.request()
            request.begin(status, b"", (), Framing.NONE, -1)
            request.flush()
            self.assertEqual(expected, self.line.sent.partition(b"\r\n")[0])
            self.line.sent = b""

    def test_date(self) -> None:
        """The date of the back end is forwarded; a missing one is added."""
        dated = self.answer(Framing.NONE, -1, pairs=[(b"date", b"then"), (b"X-A", b"b")])
        self.assertEqual(b"HTTP/1.1 200 Word\r\ndate: then\r\nX-A: b\r\n\r\n", dated)
        self.answer(Framing.NONE, -1)
        dated = (
            rb"^HTTP/1\.1 200 Word\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n"
            rb"X-Request-Id: \w{32}\r\n\r\n$"
        )
        self.assertRegex(self.line.sent, dated)

    def test_closing(self) -> None:
        """``Connection: close`` is sent in three cases.

        They are: the client asked for it; this is the last request of the connection; or the body
        is incomplete.
        """
        for parts, many in (
            ({"keep_alive": False}, True),
            ({}, False),
            ({"complete": False}, True),
        ):
            self.line = Line()
            self.line.many = many
            request = self.request(**parts)
            request.begin(200, b"Word", (), Framing.LENGTH, 0)
            request.flush()
            self.assertEqual(
                b"HTTP/1.1 200 Word\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                undated(self.line.sent),
            )
            request.finish()
            self.expect_kept(False)


class OwnAnswers(RequestTestCase):
    """The proxy's own responses."""

    def test_literal(self) -> None:
        """An error is JSON with a length; nothing more is read from a client that caused it."""
        self.request().answer(ErrorResponse(Code.BAD_REQUEST, "why"))
        body = b'{"error": "invalid_request", "error_description": "Bad Request"}\n'
        expected = (
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            b"Cache-Control: no-store\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.assertEqual(expected, undated(self.line.sent))
        self.assertEqual([False], self.line.told)
        self.assertEqual((400, Outcome.REJECTED, "why", len(body)), self.record())

    def record(self) -> tuple[int, Outcome, str, int]:
        exchange = self.exchange
        return exchange.status, exchange.outcome, exchange.detail, exchange.bytes_out

    def test_back_ends_fault(self) -> None:
        """After a failure of the back end the connection stays open."""
        self.request().answer(BUSY)
        self.assertIn(b"Retry-After: 1\r\n", self.line.sent)
        self.assertEqual([True], self.line.told)

    def test_head(self) -> None:
        """An error for HEAD has no body, and the length of the body."""
        self.request(method=b"HEAD").answer(BUSY)
        self.assertTrue(self.line.sent.endswith(b"\r\n\r\n"))
        self.assertIn(b"Content-Length: %d\r\n" % len(BUSY.body), self.line.sent)
        self.assertEqual((503, Outcome.REJECTED, "busy", 0), self.record())

    def test_twice(self) -> None:
        """A request that has a response gets no other one, no error and no second record."""
        request = self.request()
        request.answer(BUSY)
        sent = self.line.sent
        request.answer(BUSY)
        request.finish()
        request.fail(BUSY)
        request.abort(Code.INTERNAL_ERROR, "late")
        request.lost(Code.CLIENT_LEFT, "late")
        self.assertEqual((sent, [True], []), (self.line.sent, self.line.told, self.consumer.told))
        self.assertEqual("busy", self.exchange.detail)


class Holding(RequestTestCase):
    """A body is held until it is complete, or until it is so large that it must be streamed."""

    def post(self, **parts: Any) -> Request:
        return self.request(complete=False, method=b"POST", body=Framing.LENGTH, length=9, **parts)

    def test_complete(self) -> None:
        """A complete body is ready at once."""
        self.request().accept()
        self.assertEqual(1, self.readied)

    def test_completed(self) -> None:
        """A body is ready when it is complete, and only once."""
        request = self.post()
        request.receive(b"a")
        request.accept()
        request.check_ready()
        self.assertEqual(0, self.readied)
        request.receive_end()
        request.check_ready()
        request.check_ready()
        self.assertEqual(1, self.readied)

    def test_large(self) -> None:
        """A body is ready when the buffer is full; nothing more is read until it is streamed."""
        request = self.post()
        request.accept()
        request.receive(b"abc")
        request.check_ready()
        self.assertEqual((0, True, 3), (self.readied, request.wants_more, request.held))
        request.receive(b"d")
        request.check_ready()
        self.assertEqual((1, False, 4), (self.readied, request.wants_more, request.held))

    def test_not_before_it_is_accepted(self) -> None:
        """The consumer is not called before the head is accepted."""
        request = self.post()
        request.receive_end()
        request.check_ready()
        self.assertEqual(0, self.readied)

    def test_take_whole(self) -> None:
        """A complete body is taken in one piece, and the consumer receives nothing more."""
        request = self.post()
        request.receive(b"ab")
        request.receive(b"cd")
        request.receive_end()
        self.assertEqual((b"abcd", 0), (request.take_body(), request.held))
        self.assertEqual(([], []), (self.line.told, self.consumer.taken))

    def test_take_nothing(self) -> None:
        """An empty body is taken as no octets."""
        self.assertEqual(b"", self.request().take_body())

    def test_stream(self) -> None:
        """An incomplete body is forwarded as it arrives, and the connection reads on."""
        request = self.post()
        request.receive(b"abcd")
        self.assertEqual((b"abcd", []), (request.take_body(), self.line.told))
        request.stream_body()
        self.assertEqual((["moved"], True), (self.line.told, request.wants_more))
        request.receive(b"e")
        request.receive_end()
        self.assertEqual(([b"e", None], 0), (self.consumer.taken, request.held))

    def test_stream_nothing(self) -> None:
        """A body that has become complete meanwhile has no rest, and its end is passed on."""
        request = self.post()
        request.receive(b"abcd")
        request.receive_end()
        self.assertEqual(b"abcd", request.take_body())
        request.stream_body()
        self.assertEqual(([], [None]), (self.line.told, self.consumer.taken))

    def test_pause(self) -> None:
        """While the consumer pauses the body, nothing more is read."""
        request = self.post()
        request.take_body()
        request.stream_body()
        request.pause_body()
        self.assertFalse(request.wants_more)
        request.resume_body()
        self.assertTrue(request.wants_more)
        self.assertEqual(["moved"] * 3, self.line.told)

    def test_continue(self) -> None:
        """``100 Continue`` is sent if it is expected and nothing of the body has arrived."""
        self.post(expects_continue=True).accept()
        self.assertEqual(b"HTTP/1.1 100 Continue\r\n\r\n", self.line.sent)

    def test_no_continue(self) -> None:
        """Otherwise it is not sent."""
        for expects, complete, data in (
            (False, False, b""),
            (True, False, b"a"),
            (True, True, b""),
        ):
            request = self.request(complete=complete, method=b"POST", expects_continue=expects)
            if data:
                request.receive(data)
            request.accept()
        self.assertEqual(b"", self.line.sent)


class BreakingOff(RequestTestCase):
    """A request whose body is malformed, or does not arrive."""

    def test_before(self) -> None:
        """Before a response has begun, the request is rejected, and the consumer is notified."""
        request = self.request(complete=False)
        request.accept()
        request.fail(ErrorResponse(Code.BAD_REQUEST, "bad"))
        self.assertIn(b"HTTP/1.1 400 Bad Request\r\n", self.line.sent)
        self.assertEqual((["gone"], [False]), (self.consumer.told, self.line.told))
        request.receive_end()
        request.check_ready()
        self.assertEqual(0, self.readied)

    def test_after(self) -> None:
        """After a response has begun, the connection is cut, and the consumer is notified."""
        request = self.request(complete=False)
        request.take_body()
        request.stream_body()
        request.begin(200, b"", (), Framing.LENGTH, 4)
        request.fail(ErrorResponse(Code.BAD_REQUEST, "bad"))
        self.assertEqual((["gone"], ["moved", "cut"]), (self.consumer.told, self.line.told))
        self.assertEqual(
            (200, Outcome.ABORTED, "bad"),
            (self.exchange.status, self.exchange.outcome, self.exchange.detail),
        )
        request.receive(b"late")
        self.assertEqual([], self.consumer.taken)

    def test_without_consumer(self) -> None:
        """A request without a consumer is rejected alike."""
        request = self.request(complete=False)
        request.consumer = None
        request.fail(BUSY)
        self.assertEqual(503, self.exchange.status)

    def test_abort(self) -> None:
        """A response that cannot be completed is cut; the consumer is notified once."""
        request = self.request(complete=False)
        request.take_body()
        request.stream_body()
        request.begin(200, b"", (), Framing.LENGTH, 4)
        request.flush()
        request.abort(Code.INVALID_RESPONSE, "the back end left")
        self.assertEqual((["gone"], ["moved", "cut"]), (self.consumer.told, self.line.told))
        request.receive(b"late")
        request.write(b"late")
        self.assertEqual(([], True), (self.consumer.taken, self.line.sent.endswith(b"\r\n\r\n")))

    def test_lost_before_it_is_ready(self) -> None:
        """The consumer is not called after the client has left before its body was complete."""
        request = self.request(complete=False)
        request.accept()
        request.lost(Code.CLIENT_LEFT, "the client left")
        request.receive_end()
        request.check_ready()
        self.assertEqual(0, self.readied)

    def test_lost(self) -> None:
        """A lost connection leaves a record, and the consumer is notified once."""
        request = self.request()
        request.lost(Code.CLIENT_LEFT, "the client left")
        request.lost(Code.CLIENT_LEFT, "the client left")
        self.assertEqual((["gone"], []), (self.consumer.told, self.line.told))
        self.assertEqual(
            (0, Outcome.ABORTED, "the client left"),
            (self.exchange.status, self.exchange.outcome, self.exchange.detail),
        )


class SlowReader(RequestTestCase):
    """A response that begins while the client does not read."""

    def test_begins_paused(self) -> None:
        """The response is paused at once."""
        self.line.blocked = True
        self.request().begin(200, b"", (), Framing.LENGTH, 4)
        self.assertEqual(["pause"], self.consumer.told)

    def test_without_consumer(self) -> None:
        """A response without a consumer goes on."""
        self.line.blocked = True
        request = self.request()
        request.consumer = None
        request.begin(200, b"", (), Framing.LENGTH, 4)
        self.assertEqual([], self.consumer.told)


class Flushing(RequestTestCase):
    def test_flush(self) -> None:
        """Written data is sent once, and nothing after the exchange's end."""
        request = self.request()
        request.flush()
        self.assertEqual(b"", self.line.sent)
        request.begin(200, b"", (), Framing.LENGTH, 4)
        request.write(b"ab")
        request.flush()
        sent = self.line.sent
        self.assertTrue(sent.endswith(b"\r\n\r\nab"))
        request.flush()
        request.lost(Code.CLIENT_LEFT, "the client left")
        request.write(b"cd")
        request.flush()
        self.assertEqual(sent, self.line.sent)


class Recording(RequestTestCase):
    """Each exchange is recorded once, after its end."""

    def test_after_the_response(self) -> None:
        """It is recorded after the response is sent, so that its time is invisible (L4)."""
        for method, length in ((b"GET", 2), (b"POST", -1)):
            self.setUp()
            request = self.request(method=method)
            sent: list[bytes] = []
            self.patch(request, "observe", lambda _, sent=sent: sent.append(self.line.sent))
            request.begin(200, b"", (), Framing.LENGTH if length > 0 else Framing.CHUNKED, length)
            request.write(b"ok")
            request.finish()
            self.assertEqual(([self.line.sent], [True]), (sent, self.line.told))

    def test_lost_as_it_is_sent(self) -> None:
        """A connection that is lost while the end is sent is recorded once, as lost."""
        request = self.request()

        def lose(_: bytes) -> None:
            request.lost(Code.CLIENT_LEFT, "the client left")

        self.patch(self.line, "send", lose)
        request.answer(ErrorResponse(Code.NO_CERTIFICATE, "no client certificate"))
        self.assertEqual([Outcome.ABORTED], [each.outcome for each in self.line.exchanges])
        self.assertEqual([], self.line.told)

    def test_observer_that_fails(self) -> None:
        """An observer that fails is logged, and changes nothing."""
        request = self.request()
        self.patch(request, "observe", lambda _: 1 / 0)
        request.answer(ErrorResponse(Code.NO_CERTIFICATE, "no client certificate"))
        self.assertEqual(
            (True, 1),
            (
                self.line.sent.startswith(b"HTTP/1.1 401 "),
                len(self.flushLoggedErrors(ZeroDivisionError)),
            ),
        )

    def test_large(self) -> None:
        """A response larger than TCP's first flight is recorded when the connection confirms it.

        A smaller one is recorded at once.
        """
        for size, told in ((14600, []), (14601, ["confirm"])):
            self.line.told.clear()
            request = self.request()
            request.begin(200, b"", (), Framing.LENGTH, size)
            request.write(bytes(size))
            request.finish()
            self.assertEqual((told, True), (self.line.told[:-1], request.ended))
        self.assertEqual(
            [Outcome.COMPLETED] * 2, [exchange.outcome for exchange in self.line.exchanges]
        )

    def test_answered(self) -> None:
        """A record has the client, the request, the connection and the outcome, but no query."""
        request = self.request(complete=False, method=b"POST", invalid_header_names=2)
        request.receive(b"abc")
        request.receive_end()
        request.forged, request.backend = 1, "http://127.0.0.1:8080"
        request.begin(201, b"", (), Framing.CHUNKED, -1)
        request.write(b"12345")
        self.assertEqual([], self.line.exchanges)
        self.line.seconds = 7.5
        request.finish()
        expected = Exchange(
            started=self.exchange.started, duration=2.5, peer="198.51.100.7", method="POST",
            target="/token", version="HTTP/1.1",
            status=201, outcome=Outcome.COMPLETED, bytes_in=3, bytes_out=5, tls_version="TLSv1.3",
            certificate=self.line.client.certificate, forged=1, invalid_header_names=2,
            backend="http://127.0.0.1:8080",
            request_id=request.request_id.decode(),
        )  # fmt: skip
        self.assertEqual(expected, self.exchange)
        self.assertGreater(self.exchange.started, 1.7e9)

    def test_recorded_before_the_next(self) -> None:
        """It is recorded before the connection serves the next request."""
        request = self.request()
        request.observe = lambda exchange: self.line.told.append(exchange.status)
        request.answer(BUSY)
        self.assertEqual([503, True], self.line.told)
