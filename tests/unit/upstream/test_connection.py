"""Promises of :mod:`x509proxy.upstream.connection`: one connection to a back end, its exchanges one by one, its deadlines and its end."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.error import ConnectError, ConnectionLost, TCPTimedOutError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import CUT, OK, BackEnd, RecordingWaiter, RequestTransport, TlsWire
from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.http1.response_parser import ResponseParser
from x509proxy.monitoring.backend_status import BackendState
from x509proxy.settings import Backend, UpstreamSettings
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.connection import Connection
from x509proxy.upstream.endpoints import PendingInput
from x509proxy.upstream.pool import Pool

HEAD = b"GET / HTTP/1.1\r\nHost: as.example\r\n\r\n"
BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab"
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\n\r\nok"
SETTINGS = UpstreamSettings(connect_timeout=5, response_timeout=6, read_timeout=7, idle_timeout=8)


class UpstreamTestCase(SynchronousTestCase):
    tls = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.back_end = BackEnd(self.clock, tls=self.tls)
        self.pool = Pool(
            Backend.parse("http://127.0.0.1:8080"), self.back_end, Deadlines(self.clock), SETTINGS
        )

    @property
    def wire(self) -> RequestTransport:
        return self.back_end.wire

    def acquire(self) -> RecordingWaiter:
        borrower = RecordingWaiter()
        self.pool.acquire(borrower)
        return borrower

    def ask(self, method: bytes = b"GET") -> RecordingWaiter:
        """A request that has been sent, and whose answer is waited for."""
        borrower = self.acquire()
        borrower.ask(method)
        self.wire.sent()
        return borrower

    def upload(self) -> RecordingWaiter:
        """A request whose head has been sent, and whose body is to come."""
        borrower = self.acquire()
        borrower.connection.send_head(b"POST", HEAD, borrower)
        return borrower

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)

    def expect(self, busy: int = 0, idle: int = 0, opening: int = 0) -> None:
        self.assertEqual(
            f"<Pool http://127.0.0.1:8080 busy={busy} idle={idle} opening={opening} waiting=0>",
            repr(self.pool),
        )

    def expect_reusable(self) -> None:
        self.assertEqual((False, True), (self.wire.disconnecting, self.wire.reading))
        self.expect(idle=1)

    def expect_closing(self) -> None:
        self.assertEqual((True, False), (self.wire.disconnecting, self.wire.aborted))
        self.expect()

    def expect_aborted(self) -> None:
        self.assertTrue(self.wire.aborted)
        self.expect()

    def expect_forgotten(self) -> None:
        """Nobody looks at a clock for what has ended."""
        self.clock.advance(0)
        self.assertEqual([], self.clock.getDelayedCalls())


class Connecting(UpstreamTestCase):
    """A connection is opened in time, or not at all."""

    def setUp(self) -> None:
        super().setUp()
        self.back_end.at_once = False

    def test_accepted(self) -> None:
        """It is lent as soon as it is there, and nothing has been written to it."""
        borrower = self.acquire()
        self.back_end.attempts[0].succeed()
        self.assertEqual((1, b""), (len(borrower.connections), self.wire.sent()))

    def test_refused(self) -> None:
        """One that is refused is a 502, whose reason says why, and not by the error's text."""
        borrower = self.acquire()
        self.back_end.attempts[0].fail(ConnectError(errno.ECONNREFUSED, "secret"))
        (refusal,) = borrower.refusals
        self.assertEqual(
            (502, "the back end could not be connected to: Connection refused"),
            (refusal.status, refusal.detail),
        )
        self.expect()
        self.expect_forgotten()

    def test_no_fault_of_the_back_end(self) -> None:
        """No descriptor, port or memory left on this side is a 503, and says nothing of the back end."""
        for number in (
            errno.EMFILE,
            errno.ENFILE,
            errno.ENOBUFS,
            errno.ENOMEM,
            errno.EADDRNOTAVAIL,
        ):
            borrower = self.acquire()
            self.back_end.attempts[-1].fail(ConnectError(number, "text"))
            self.assertEqual([503], borrower.statuses)
            self.expect()
        self.assertEqual(
            (0, BackendState.UP), (self.pool.status().failures, self.pool.status().state)
        )

    def test_timed_out_below(self) -> None:
        """A timeout of Twisted's, or of the kernel's, is the same 504 as one of this connection's own."""
        for reason in (ConnectTimeout(), TCPTimedOutError(), ConnectError(errno.ETIMEDOUT, "text")):
            borrower = self.acquire()
            self.back_end.attempts[-1].fail(reason)
            self.assertEqual(
                [(504, "the back end could not be connected to in time")],
                [(refusal.status, refusal.detail) for refusal in borrower.refusals],
            )

    def test_in_time(self) -> None:
        """One that takes too long is a 504, and the attempt is given up."""
        borrower = self.acquire()
        self.wait(4.75)
        self.assertEqual([], borrower.statuses)
        self.wait(0.25)
        self.assertEqual(([504], True), (borrower.statuses, self.back_end.attempts[0].cancelled))
        self.expect()
        self.expect_forgotten()

    def test_too_late(self) -> None:
        """One that is accepted after it has been given up is cut."""
        borrower = self.acquire()
        self.wait(5)
        self.back_end.attempts[0].succeed()
        self.assertTrue(self.wire.aborted)
        self.clock.advance(0)
        self.assertEqual(([504], []), (borrower.statuses, borrower.connections))
        self.expect()


class Shaking(UpstreamTestCase):
    """Over TLS a connection is lent after the handshake, when the certificate has been verified, and not before."""

    tls = True

    def shake(self) -> None:
        assert isinstance(self.wire, TlsWire)
        self.wire.shake()

    def test_lent(self) -> None:
        """Nobody has it before the handshake has ended, and not one byte is written to it."""
        borrower = self.acquire()
        self.assertEqual(([], b""), (borrower.connections, self.wire.sent()))
        self.shake()
        self.assertEqual(1, len(borrower.connections))

    def test_not_verified(self) -> None:
        """A certificate that is not accepted is a 502, though the handshake has ended."""
        borrower = self.acquire()
        # What Twisted does in failVerification: it aborts, and goes on to say that the handshake has ended.
        self.wire.abortConnection()
        self.shake()
        self.clock.advance(0)
        self.assertEqual(
            ([502], [], b""), (borrower.statuses, borrower.connections, self.wire.sent())
        )
        self.expect()
        self.expect_forgotten()

    def test_failed(self) -> None:
        """A handshake that fails is a 502."""
        borrower = self.acquire()
        self.wire.lose(ConnectionLost())
        self.assertEqual([502], borrower.statuses)
        self.expect()

    def test_in_time(self) -> None:
        """A handshake that takes too long is a 504, and cut."""
        borrower = self.acquire()
        self.wait(5)
        self.assertEqual(([504], True), (borrower.statuses, self.wire.aborted))
        self.shake()
        self.assertEqual([], borrower.connections)
        self.expect()
        self.expect_forgotten()

    def test_nobody_wants_it(self) -> None:
        """One whose borrower has gone is kept."""
        borrower = self.acquire()
        self.pool.cancel(borrower)
        self.shake()
        self.expect_reusable()


class Exchanging(UpstreamTestCase):
    """A request out, an answer in, and the connection as it was before."""

    def test_whole(self) -> None:
        """The head goes out as it is; the answer comes in pieces as they arrive; then the connection is idle."""
        borrower = self.acquire()
        borrower.connection.send(b"GET", HEAD, borrower)
        self.assertEqual(HEAD, self.wire.sent())
        for octet in OK:
            self.wire.deliver(bytes([octet]))
        self.assertEqual([200, b"o", b"k", "end"], borrower.told)
        self.expect_reusable()

    def test_body(self) -> None:
        """The body goes out as it is."""
        borrower = self.upload()
        borrower.connection.body_data(b"ab")
        borrower.connection.body_data(b"c")
        borrower.connection.body_end()
        self.assertEqual(HEAD + b"abc", self.wire.sent())
        self.assertIsNone(self.wire.producer)
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], borrower.told)
        self.expect_reusable()

    def test_interim(self) -> None:
        """Interim answers are passed over."""
        borrower = self.ask()
        self.wire.deliver(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
        self.assertEqual([200, b"ok", "end"], borrower.told)

    def test_asked_to_close(self) -> None:
        """A back end that says ``Connection: close``, or speaks HTTP/1.0, is not asked again."""
        for answer in (CLOSING, OK.replace(b"1.1", b"1.0")):
            borrower = self.ask()
            self.wire.deliver(answer)
            self.assertEqual([200, b"ok", "end"], borrower.told)
            self.expect_closing()
            self.wire.lose()
            self.expect_forgotten()

    def test_more_than_asked_for(self) -> None:
        """A back end that says more than it was asked for is not asked again."""
        borrower = self.ask()
        self.wire.deliver(OK + b"H")
        self.assertEqual([200, b"ok", "end"], borrower.told)
        self.expect_closing()
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], borrower.told)

    def test_body_to_head(self) -> None:
        """A body in an answer to HEAD is no body, and costs the connection."""
        borrower = self.ask(b"HEAD")
        self.wire.deliver(OK)
        self.assertEqual([200, "end"], borrower.told)
        self.expect_closing()

    def test_until_closed(self) -> None:
        """A body without a length ends with the connection."""
        borrower = self.ask()
        self.wire.deliver(UNTIL_CLOSED)
        self.assertEqual([200, b"ok"], borrower.told)
        self.wire.lose()
        self.assertEqual([200, b"ok", "end"], borrower.told)
        self.expect_forgotten()

    def test_malformed(self) -> None:
        """An answer that is malformed is a 502, and costs the connection."""
        borrower = self.ask()
        self.wire.deliver(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
        self.assertEqual(([502], []), (borrower.statuses, borrower.told))
        self.expect_aborted()
        self.expect_forgotten()

    def test_end_in_a_later_piece(self) -> None:
        """What follows an answer's end in the same piece does not concern whoever is lent the connection next."""
        self.pool = Pool(
            self.pool.backend,
            self.back_end,
            Deadlines(self.clock),
            UpstreamSettings(max_connections=1),
        )
        first = self.ask(b"HEAD")
        second = RecordingWaiter(RecordingWaiter.ask)
        self.pool.acquire(second)
        # A long head in two pieces: the reader used to find, after the end, that it was endless.
        self.wire.deliver(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", b"X-Long: " + b"a" * 20000 + b"\r\n\r\n"
        )
        self.assertEqual(([200, "end"], []), (first.told, first.refusals))
        self.assertEqual([], second.refusals)
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], second.told)

    def test_borrower_that_fails_at_the_end(self) -> None:
        """If somebody's end fails when the connection has been lent on already, the next one does not suffer for it."""
        self.pool = Pool(
            self.pool.backend,
            self.back_end,
            Deadlines(self.clock),
            UpstreamSettings(max_connections=1),
        )
        first = self.ask()
        second = RecordingWaiter(RecordingWaiter.ask)
        self.pool.acquire(second)
        self.patch(first, "response_end", lambda: 1 / 0)
        self.wire.deliver(OK)
        self.assertEqual(
            ([502], 1), (first.statuses, len(self.flushLoggedErrors(ZeroDivisionError)))
        )
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], second.told)

    def test_reader_that_goes_on(self) -> None:
        """Whatever a reader said after an answer's end, whoever is lent the connection next would not hear of it."""
        self.pool = Pool(
            self.pool.backend,
            self.back_end,
            Deadlines(self.clock),
            UpstreamSettings(max_connections=1),
        )
        first = self.ask()
        second = RecordingWaiter(RecordingWaiter.ask)
        self.pool.acquire(second)
        feed = ResponseParser.feed
        self.patch(
            ResponseParser,
            "feed",
            lambda reader, data: [
                *feed(reader, data),
                ErrorResponse(Code.INVALID_RESPONSE, "too late"),
            ],
        )
        self.wire.deliver(OK)
        self.assertEqual(
            ([200, b"ok", "end"], [], []), (first.told, first.refusals, second.refusals)
        )


class EarlyAnswers(UpstreamTestCase):
    """A back end may answer before it has the whole request."""

    def test_complete(self) -> None:
        """If its answer is complete before the request is, the connection is of no more use, and the rest goes nowhere."""
        borrower = self.upload()
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], borrower.told)
        self.expect_aborted()
        connection = borrower.connection
        self.wire.sent()
        connection.body_data(b"late")
        connection.body_end()
        self.assertEqual((b"", None), (self.wire.sent(), self.wire.producer))

    def test_unread(self) -> None:
        """A response that the kernel has, when the connection breaks during a body, still counts."""
        for response, expected in ((OK, [200, b"ok", "end"]), (BEGUN, [200, b"ab"])):
            borrower = self.acquire()
            wire = self.wire
            near, far = socket.socketpair()
            with near, far:
                wire.getHandle = lambda near=near: near  # type: ignore[attr-defined]
                borrower.connection.send_head(b"POST", HEAD, borrower)
                far.sendall(response)
                wire.lose(CUT)
            self.assertEqual(expected, borrower.told)
            self.assertEqual(0 if expected[-1] == "end" else 1, len(borrower.refusals))

    def test_begun(self) -> None:
        """If the request is complete before its answer is, all is well."""
        borrower = self.upload()
        self.wire.deliver(BEGUN)
        borrower.connection.body_data(b"abc")
        borrower.connection.body_end()
        self.assertEqual(HEAD + b"abc", self.wire.sent())
        self.wire.deliver(b"cd")
        self.assertEqual([200, b"ab", b"cd", "end"], borrower.told)
        self.expect_reusable()

    def test_until_closed(self) -> None:
        """A body that ends with the connection ends the exchange, though the request was not complete."""
        borrower = self.upload()
        self.wire.deliver(UNTIL_CLOSED)
        self.wire.lose()
        self.assertEqual([200, b"ok", "end"], borrower.told)
        self.expect_forgotten()


class Unread(UpstreamTestCase):
    """A response in the kernel, of a back end that has reset the connection."""

    def cut(self, sent: bytes) -> RecordingWaiter:
        """Return a borrower whose back end sent this, and reset the connection before it was read."""
        ours, far = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(far.close)
        borrower = self.acquire()
        self.wire.getHandle = lambda: ours  # type: ignore[attr-defined]
        borrower.connection.send_head(b"POST", HEAD, borrower)
        far.send(sent)
        self.wire.lose(CUT)
        self.expect()
        return borrower

    def test_whole(self) -> None:
        """It is read all the same, and the connection is not used again."""
        borrower = self.cut(OK)
        self.assertEqual(([200, b"ok", "end"], []), (borrower.told, borrower.refusals))

    def test_part(self) -> None:
        """A part of it is no response."""
        borrower = self.cut(BEGUN)
        self.assertEqual(([200, b"ab"], [502]), (borrower.told, borrower.statuses))


class UsedBefore(UpstreamTestCase):
    """A connection that has served an exchange keeps nothing of it."""

    def setUp(self) -> None:
        super().setUp()
        self.ask()
        self.wire.deliver(OK)
        self.expect_reusable()

    def test_early(self) -> None:
        """An early response costs it the connection: the rest of the body would be read from the next request."""
        borrower = self.upload()
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], borrower.told)
        self.expect_aborted()
        self.assertEqual(1, len(self.back_end.wires))

    def test_paused_upload(self) -> None:
        """A body that ended while the back end did not read says nothing about the next exchange."""
        borrower = self.upload()
        self.wire.fill()
        borrower.connection.body_end()
        self.wire.deliver(OK)
        following = self.upload()
        self.assertEqual(1, len(self.back_end.wires))
        self.wait(100)
        self.assertEqual([], following.refusals)
        self.wire.lose(CUT)
        self.assertEqual(([502], 0), (following.statuses, self.pool.status().failures))

    def test_late(self) -> None:
        """A request that is not responded to is a fault, whatever was served before it was asked, or sent."""
        upload = self.upload()
        other = self.ask()
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], other.told)
        upload.connection.body_end()
        self.wait(SETTINGS.response_timeout)
        self.assertEqual(([504], 1), (upload.statuses, self.pool.status().failures))
        late = self.ask()
        self.wait(SETTINGS.response_timeout)
        self.assertEqual(([504], 2), (late.statuses, self.pool.status().failures))


class CutShort(UpstreamTestCase):
    """What has been cut short is never taken for whole."""

    def test_no_answer(self) -> None:
        """A back end that goes without an answer is a 502, however it goes, and it is not asked again."""
        for reason in (None, CUT):
            borrower = self.ask()
            self.wire.lose(reason)
            self.assertEqual(([502], []), (borrower.statuses, borrower.told))
        self.assertEqual(2, len(self.back_end.attempts))
        self.expect()
        self.expect_forgotten()

    def test_while_sending(self) -> None:
        """A back end that goes while it is sent a request is a 502."""
        borrower = self.upload()
        self.wire.lose(CUT)
        self.assertEqual([502], borrower.statuses)
        self.expect()

    def test_out_of_patience(self) -> None:
        """One that goes while the client's next piece is waited for is not at fault, or whoever stalls would take it out."""
        for _ in range(2 * SETTINGS.failure_threshold):
            self.upload()
            self.wire.lose()
        self.assertEqual(
            (BackendState.UP, 0), (self.pool.status().state, self.pool.status().failures)
        )

    def test_at_fault(self) -> None:
        """One that goes when it has the whole request is, and one that is sent no more since it reads too slowly."""
        self.ask()
        self.wire.lose()
        self.upload()
        self.wire.fill()
        self.wire.lose()
        self.assertEqual(2, self.pool.status().failures)

    def test_paused_for_the_client(self) -> None:
        """One that cuts a response off which was paused for its client is not at fault, even after the pause."""
        for resumes in (False, True):
            borrower = self.ask()
            self.wire.deliver(BEGUN)
            borrower.connection.pause_response()
            self.wait(60)
            if resumes:
                borrower.connection.resume_response()
            self.wire.lose(CUT)
            self.assertEqual([502], borrower.statuses)
        self.assertEqual(0, self.pool.status().failures)

    def test_next_after_a_pause(self) -> None:
        """The pause of one response excuses nothing in the next one on the same connection."""
        borrower = self.ask()
        self.wire.deliver(BEGUN)
        borrower.connection.pause_response()
        borrower.connection.resume_response()
        self.wire.deliver(b"cd")
        self.ask()
        self.wire.lose()
        self.assertEqual(1, self.pool.status().failures)

    def test_too_large(self) -> None:
        """A head that is merely too large is a 502, and no fault: a client may have asked for it."""
        large = b"x" * SETTINGS.max_head_bytes
        for pieces in ((b"X: %b\r\n\r\n" % large,), (b"X: x\r\n" * 300,), (b"X: ", large, large)):
            borrower = self.ask()
            self.wire.deliver(b"HTTP/1.1 200 OK\r\n", *pieces)
            self.assertEqual([502], borrower.statuses)
        self.assertEqual(0, self.pool.status().failures)

    def test_malformed(self) -> None:
        """One that is malformed is a fault."""
        self.ask()
        self.wire.deliver(b"HTTP/1.1 2000 OK\r\n\r\n")
        self.assertEqual(1, self.pool.status().failures)

    def test_in_the_head(self) -> None:
        """A head that is cut short is a 502."""
        borrower = self.ask()
        self.wire.deliver(OK[:20])
        self.wire.lose()
        self.assertEqual(([502], []), (borrower.statuses, borrower.told))

    def test_in_the_body(self) -> None:
        """A body that is cut short is a failure, however politely the connection ended."""
        for reason in (None, CUT):
            borrower = self.ask()
            self.wire.deliver(BEGUN)
            self.wire.lose(reason)
            self.assertEqual(([502], [200, b"ab"]), (borrower.statuses, borrower.told))

    def test_until_closed(self) -> None:
        """A body that ends with the connection is whole only if the connection ended politely."""
        borrower = self.ask()
        self.wire.deliver(UNTIL_CLOSED)
        self.wire.lose(CUT)
        self.assertEqual(([502], [200, b"ok"]), (borrower.statuses, borrower.told))

    def test_idle(self) -> None:
        """An idle connection that ends is forgotten."""
        self.ask()
        self.wire.deliver(OK)
        self.wire.lose(CUT)
        self.expect()
        self.expect_forgotten()


class Late(UpstreamTestCase):
    """A timeout is a fault only where it says something of the back end, and not of one resource."""

    def test_never(self) -> None:
        """One that responds to nothing while a request waits is at fault."""
        borrower = self.ask()
        self.wait(SETTINGS.response_timeout)
        self.assertEqual(([504], 1), (borrower.statuses, self.pool.status().failures))

    def test_one_of_many(self) -> None:
        """One that has served another request in the meantime is not."""
        late = self.ask()
        self.wait(1)
        self.ask()
        self.wire.deliver(OK)
        self.wait(SETTINGS.response_timeout)
        self.assertEqual(([504], 0), (late.statuses, self.pool.status().failures))

    def test_stream(self) -> None:
        """One that has begun its response and pauses, as a stream of events does, is not."""
        borrower = self.ask()
        self.wire.deliver(BEGUN)
        self.wait(SETTINGS.read_timeout)
        self.assertEqual(([504], 0), (borrower.statuses, self.pool.status().failures))


class Cancelling(UpstreamTestCase):
    """An exchange that nobody waits for any more."""

    def test_cancel(self) -> None:
        """It is cut, and what still comes is nobody's."""
        borrower = self.ask()
        self.wire.deliver(BEGUN)
        borrower.connection.cancel()
        self.expect_aborted()
        self.wire.protocol.dataReceived(b"cd")
        self.assertEqual(([200, b"ab"], []), (borrower.told, borrower.refusals))
        self.expect_forgotten()

    def test_within_the_call(self) -> None:
        """It may be called off while its answer is being handed on: the rest of the same piece is nobody's either."""
        borrower = self.ask()
        borrower.then = lambda _: borrower.connection.cancel()
        self.wire.deliver(OK)
        self.assertEqual(([200], []), (borrower.told, borrower.refusals))
        self.expect_aborted()

    def test_while_sending(self) -> None:
        """It may be called off while its request is being sent."""
        borrower = self.upload()
        borrower.connection.cancel()
        self.assertIsNone(self.wire.producer)
        self.expect_aborted()


class Unasked(UpstreamTestCase):
    """A back end that speaks when nobody has asked."""

    def test_idle(self) -> None:
        """Bytes on an idle connection cost it."""
        self.ask()
        self.wire.deliver(OK)
        self.wire.deliver(b"H")
        self.expect_aborted()
        self.expect_forgotten()

    def test_before_it_is_asked(self) -> None:
        """Bytes on a connection that has been lent, and not asked, cost it."""
        self.acquire()
        self.wire.deliver(OK)
        self.expect_aborted()


class Waiting(UpstreamTestCase):
    """No wait without a deadline."""

    def test_answer(self) -> None:
        """An answer that does not begin is a 504; bytes of its head, and interim answers, do not put that off."""
        borrower = self.ask()
        self.wait(5)
        self.wire.deliver(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
        self.wait(0.75)
        self.assertEqual([], borrower.statuses)
        self.wait(0.25)
        self.assertEqual([504], borrower.statuses)
        self.expect_aborted()
        self.expect_forgotten()

    def test_between_bytes(self) -> None:
        """An answer that does not go on is a 504; every byte of its body has its time anew."""
        borrower = self.ask()
        self.wait(5)
        self.wire.deliver(BEGUN)
        self.wait(6)
        self.wire.deliver(b"c")
        self.wait(6.75)
        self.assertEqual([], borrower.statuses)
        self.wait(0.25)
        self.assertEqual([504], borrower.statuses)
        self.expect_aborted()

    def test_sending(self) -> None:
        """While a request is being sent its answer is not waited for; once it has been, it is."""
        borrower = self.upload()
        self.wait(100)
        borrower.connection.body_end()
        self.wait(5.75)
        self.assertEqual([], borrower.statuses)
        self.wait(0.25)
        self.assertEqual([504], borrower.statuses)

    def test_back_end_that_does_not_read(self) -> None:
        """A back end that does not read its request is a 504."""
        borrower = self.upload()
        self.wire.fill()
        self.assertEqual(["pause"], borrower.told)
        self.wait(6.75)
        self.assertEqual([], borrower.statuses)
        self.wait(0.25)
        self.assertEqual([504], borrower.statuses)
        self.expect_aborted()

    def test_back_end_that_reads_again(self) -> None:
        """A back end that reads again has its time anew the next time."""
        borrower = self.upload()
        for _ in range(3):
            self.wire.fill()
            self.wait(6)
            self.wire.drain()
            self.wait(6)
            self.wire.drain()
        self.assertEqual(["pause", "resume", "resume"] * 3, borrower.told)

    def test_reading_again_during_an_answer(self) -> None:
        """A back end that reads again while it answers is still to go on with its answer."""
        borrower = self.upload()
        self.wire.deliver(BEGUN)
        self.wire.fill()
        self.wire.drain()
        self.wait(7)
        self.assertEqual([504], borrower.statuses)

    def test_idle(self) -> None:
        """An idle connection is closed in time, before the back end does it."""
        self.ask()
        self.wire.deliver(OK)
        self.wait(7.75)
        self.expect_reusable()
        self.wait(0.25)
        self.expect_closing()
        self.wire.lose()
        self.expect_forgotten()

    def test_lifetime(self) -> None:
        """A connection that has lived for nine tenths of its time, or more, is not lent again, however much it is used."""
        self.patch(random, "uniform", min)
        self.pool = Pool(
            self.pool.backend,
            self.back_end,
            Deadlines(self.clock),
            UpstreamSettings(max_connection_age=100),
        )
        for _ in range(18):
            self.ask()
            self.wait(5)
            self.wire.deliver(OK)
        self.assertEqual(1, len(self.back_end.attempts))
        self.expect_closing()
        self.ask()
        self.assertEqual(2, len(self.back_end.attempts))

    def test_lifetime_while_idle(self) -> None:
        """An idle one is closed at the end of its time."""
        self.patch(random, "uniform", max)
        self.pool = Pool(
            self.pool.backend,
            self.back_end,
            Deadlines(self.clock),
            UpstreamSettings(max_connection_age=10, idle_timeout=8),
        )
        self.ask()
        self.wait(5)
        self.wire.deliver(OK)
        self.wait(4.75)
        self.expect_reusable()
        self.wait(0.25)
        self.expect_closing()

    def test_lifetimes(self) -> None:
        """Those that are opened together are not all closed together."""
        connections = [self.acquire().connection for _ in range(20)]
        ends = {connection.expires for connection in connections}
        self.assertEqual((20, True), (len(ends), all(270 <= end <= 300 for end in ends)))

    def test_closing(self) -> None:
        """A connection that is being closed is cut if the back end does not go."""
        self.ask()
        self.wire.deliver(CLOSING)
        self.wait(6.75)
        self.expect_closing()
        self.wait(0.25)
        self.expect_aborted()
        self.expect_forgotten()


class BackPressure(UpstreamTestCase):
    """A client that reads slowly holds its back end up, and not the other way round."""

    def paused(self) -> RecordingWaiter:
        borrower = self.ask()
        self.wire.deliver(BEGUN)
        borrower.connection.pause_response()
        return borrower

    def test_pause(self) -> None:
        """While an answer is paused nothing is read, and the back end has all the time there is."""
        borrower = self.paused()
        self.assertFalse(self.wire.reading)
        self.wait(100)
        self.assertEqual([], borrower.refusals)

    def test_resume(self) -> None:
        """After that, it has its time anew."""
        borrower = self.paused()
        self.wait(100)
        borrower.connection.resume_response()
        self.assertTrue(self.wire.reading)
        self.wait(6.75)
        self.assertEqual([], borrower.refusals)
        self.wait(0.25)
        self.assertEqual([504], borrower.statuses)

    def test_bytes_nonetheless(self) -> None:
        """Bytes that were under way, as TLS has them, come through, and start no clock."""
        borrower = self.paused()
        self.wire.deliver(b"c")
        self.wait(100)
        self.assertEqual(([200, b"ab", b"c"], []), (borrower.told, borrower.refusals))

    def test_head_nonetheless(self) -> None:
        """So does a head."""
        borrower = self.ask()
        borrower.connection.pause_response()
        self.wire.deliver(BEGUN)
        self.wait(100)
        self.assertEqual(([200, b"ab"], []), (borrower.told, borrower.refusals))

    def test_paused_by_its_own_head(self) -> None:
        """An answer that is paused while its head is handed on is paused."""
        borrower = self.ask()
        borrower.then = lambda _: borrower.connection.pause_response()
        self.wire.deliver(BEGUN)
        self.assertFalse(self.wire.reading)
        self.wait(100)
        self.assertEqual([], borrower.refusals)

    def test_ends_paused(self) -> None:
        """A connection whose answer ended while it was paused reads again for the next."""
        borrower = self.paused()
        self.wire.deliver(b"cd")
        self.assertEqual([200, b"ab", b"cd", "end"], borrower.told)
        self.expect_reusable()

    def test_not_paused(self) -> None:
        """To resume what has not been paused changes nothing."""
        borrower = self.ask()
        self.wait(5)
        borrower.connection.resume_response()
        self.wait(1)
        self.assertEqual([504], borrower.statuses)

    def test_paused_while_sending(self) -> None:
        """A pause during the request, and its end, start no clock for an answer that cannot have begun."""
        borrower = self.upload()
        borrower.connection.pause_response()
        borrower.connection.resume_response()
        self.wait(100)
        self.assertEqual([], borrower.refusals)

    def test_request_ends_while_paused(self) -> None:
        """A request that ends while its answer is paused starts no clock either: nobody can have seen the answer."""
        borrower = self.upload()
        borrower.connection.pause_response()
        borrower.connection.body_end()
        self.wait(100)
        self.assertEqual([], borrower.refusals)

    def test_paused_both_ways(self) -> None:
        """A back end that reads again, while its answer is paused, has all the time there is."""
        borrower = self.upload()
        self.wire.deliver(BEGUN)
        borrower.connection.pause_response()
        self.wire.fill()
        self.wire.drain()
        self.wait(100)
        self.assertEqual([], borrower.refusals)

    def test_over(self) -> None:
        """What the transport has to say after an exchange is of no interest."""
        borrower = self.upload()
        protocol = self.wire.protocol
        self.wire.deliver(OK)
        protocol.pauseProducing()
        protocol.resumeProducing()
        self.assertEqual([200, b"ok", "end"], borrower.told)


class Alive(UpstreamTestCase):
    """An idle connection is looked at once more before it is used."""

    @contextmanager
    def carried(
        self, *, tls: bool = False
    ) -> Iterator[tuple[Connection, socket.socket, socket.socket]]:
        """A connection over a real pair of sockets: the connection, our end, the far end."""
        borrower = self.acquire()
        connection = borrower.connection
        near, far = socket.socketpair()
        with near, far:
            carrier = RequestTransport(self.clock)
            carrier.getHandle = lambda: near  # type: ignore[attr-defined]
            if tls:
                connection.transport.transport = carrier
            else:
                connection.transport = carrier
            yield connection, near, far

    def test_quiet(self) -> None:
        """One on which nothing has happened is alive, over TLS too."""
        for tls in (False, True):
            with self.carried(tls=tls) as (connection, _, _):
                self.assertTrue(PendingInput(connection.transport).is_empty())

    def test_closed(self) -> None:
        """One that the back end has closed is not."""
        for tls in (False, True):
            with self.carried(tls=tls) as (connection, _, far):
                far.close()
                self.assertFalse(PendingInput(connection.transport).is_empty())

    def test_bytes(self) -> None:
        """Bytes that nobody asked for are a bad sign, over TLS too: they may be those that say that it is being closed."""
        for tls in (False, True):
            with self.carried(tls=tls) as (connection, near, far):
                far.send(b"H")
                self.assertFalse(PendingInput(connection.transport).is_empty())
                self.assertEqual(b"H", near.recv(1))

    def test_broken(self) -> None:
        """One that the kernel knows an error of is not."""
        with self.carried() as (connection, near, _):
            pending = PendingInput(connection.transport)
            near.close()
            self.assertFalse(pending.is_empty())

    def test_reset(self) -> None:
        """One that has been reset is not."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            near = socket.create_connection(server.getsockname())
            far, _ = server.accept()
        with near, self.carried() as (connection, _, _):
            connection.transport.getHandle = lambda: near
            # To close with a time of zero is to reset.
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            far.close()
            self.assertFalse(PendingInput(connection.transport).is_empty())

    def test_unknown(self) -> None:
        """One of which nothing can be known is used."""
        self.assertTrue(PendingInput(self.acquire().connection.transport).is_empty())
