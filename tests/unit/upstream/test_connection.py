"""Tests of :mod:`x509proxy.upstream.connection`: one connection to a back end.

They cover its exchanges one by one, its deadlines and its end.
"""

from __future__ import annotations

import errno
import random
import socket
from unittest.mock import patch

from twisted.internet.error import ConnectError, ConnectionLost, TCPTimedOutError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import CUT, OK, BackEnd, RecordingWaiter, RequestTransport, TlsWire
from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.http1.response_parser import ResponseParser
from x509proxy.monitoring.backend_status import HealthState
from x509proxy.settings import Backend, UpstreamSettings
from x509proxy.transport.deadlines import Deadlines
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
        waiter = RecordingWaiter()
        self.pool.acquire(waiter)
        return waiter

    def ask(self, method: bytes = b"GET") -> RecordingWaiter:
        """Send a request, and return its waiter, which waits for the response."""
        waiter = self.acquire()
        waiter.ask(method)
        self.wire.sent()
        return waiter

    def upload(self) -> RecordingWaiter:
        """Send the head of a request whose body follows."""
        waiter = self.acquire()
        waiter.connection.send_head(b"POST", HEAD, waiter)
        return waiter

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
        """Check that no timer is left for a connection that has ended."""
        self.clock.advance(0)
        self.assertEqual([], self.clock.getDelayedCalls())


class Connecting(UpstreamTestCase):
    """A connection is opened in time, or not at all."""

    def setUp(self) -> None:
        super().setUp()
        self.back_end.at_once = False

    def test_accepted(self) -> None:
        """A connection is lent as soon as it is open, before anything is written to it."""
        waiter = self.acquire()
        self.back_end.attempts[0].succeed()
        self.assertEqual((1, b""), (len(waiter.connections), self.wire.sent()))

    def test_refused(self) -> None:
        """A refused connection is a 502, with a reason that does not repeat the error's text."""
        waiter = self.acquire()
        self.back_end.attempts[0].fail(ConnectError(errno.ECONNREFUSED, "secret"))
        (error,) = waiter.refusals
        self.assertEqual(
            (502, "cannot connect to the back end: Connection refused"),
            (error.status, error.detail),
        )
        self.expect()
        self.expect_forgotten()

    def test_no_fault_of_the_back_end(self) -> None:
        """A local lack of descriptors, ports or memory is a 503, and no fault of the back end."""
        for number in (
            errno.EMFILE,
            errno.ENFILE,
            errno.ENOBUFS,
            errno.ENOMEM,
            errno.EADDRNOTAVAIL,
        ):
            waiter = self.acquire()
            self.back_end.attempts[-1].fail(ConnectError(number, "text"))
            self.assertEqual([503], waiter.statuses)
            self.expect()
        self.assertEqual(
            (0, HealthState.UP), (self.pool.status().failures, self.pool.status().state)
        )

    def test_timed_out_below(self) -> None:
        """A timeout of Twisted or the kernel is the same 504 as the connection's own timeout."""
        for reason in (ConnectTimeout(), TCPTimedOutError(), ConnectError(errno.ETIMEDOUT, "text")):
            waiter = self.acquire()
            self.back_end.attempts[-1].fail(reason)
            self.assertEqual(
                [(504, "timed out connecting to the back end")],
                [(error.status, error.detail) for error in waiter.refusals],
            )

    def test_in_time(self) -> None:
        """An attempt that takes too long is a 504, and is cancelled."""
        waiter = self.acquire()
        self.wait(4.75)
        self.assertEqual([], waiter.statuses)
        self.wait(0.25)
        self.assertEqual(([504], True), (waiter.statuses, self.back_end.attempts[0].cancelled))
        self.expect()
        self.expect_forgotten()

    def test_too_late(self) -> None:
        """A connection that opens after the timeout is aborted."""
        waiter = self.acquire()
        self.wait(5)
        self.back_end.attempts[0].succeed()
        self.assertTrue(self.wire.aborted)
        self.clock.advance(0)
        self.assertEqual(([504], []), (waiter.statuses, waiter.connections))
        self.expect()


class TlsHandshakes(UpstreamTestCase):
    """Over TLS a connection is lent after the handshake, with a verified certificate."""

    tls = True

    def shake(self) -> None:
        assert isinstance(self.wire, TlsWire)
        self.wire.shake()

    def test_lent(self) -> None:
        """It is not lent before the handshake has ended, and no byte is written to it."""
        waiter = self.acquire()
        self.assertEqual(([], b""), (waiter.connections, self.wire.sent()))
        self.shake()
        self.assertEqual(1, len(waiter.connections))

    def test_not_verified(self) -> None:
        """A rejected certificate is a 502, though the handshake has ended."""
        waiter = self.acquire()
        # Twisted's failVerification aborts, and handshakeCompleted is called nevertheless.
        self.wire.abortConnection()
        self.shake()
        self.clock.advance(0)
        self.assertEqual(([502], [], b""), (waiter.statuses, waiter.connections, self.wire.sent()))
        self.expect()
        self.expect_forgotten()

    def test_failed(self) -> None:
        """A failed handshake is a 502."""
        waiter = self.acquire()
        self.wire.lose(ConnectionLost())
        self.assertEqual([502], waiter.statuses)
        self.expect()

    def test_in_time(self) -> None:
        """A handshake that takes too long is a 504, and is aborted."""
        waiter = self.acquire()
        self.wait(5)
        self.assertEqual(([504], True), (waiter.statuses, self.wire.aborted))
        self.shake()
        self.assertEqual([], waiter.connections)
        self.expect()
        self.expect_forgotten()

    def test_cancelled(self) -> None:
        """A connection whose waiter has cancelled is kept."""
        waiter = self.acquire()
        self.pool.cancel(waiter)
        self.shake()
        self.expect_reusable()


class Exchanging(UpstreamTestCase):
    """A request is sent, a response received, and the connection is idle again."""

    def test_whole(self) -> None:
        """The head is sent unchanged, the response arrives in pieces, the connection is idle."""
        waiter = self.acquire()
        waiter.connection.send(b"GET", HEAD, waiter)
        self.assertEqual(HEAD, self.wire.sent())
        for octet in OK:
            self.wire.deliver(bytes([octet]))
        self.assertEqual([200, b"o", b"k", "end"], waiter.told)
        self.expect_reusable()

    def test_body(self) -> None:
        """The body is sent unchanged."""
        waiter = self.upload()
        waiter.connection.body_data(b"ab")
        waiter.connection.body_data(b"c")
        waiter.connection.body_end()
        self.assertEqual(HEAD + b"abc", self.wire.sent())
        self.assertIsNone(self.wire.producer)
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], waiter.told)
        self.expect_reusable()

    def test_interim(self) -> None:
        """Interim responses are skipped."""
        waiter = self.ask()
        self.wire.deliver(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
        self.assertEqual([200, b"ok", "end"], waiter.told)

    def test_asked_to_close(self) -> None:
        """A connection with ``Connection: close``, or HTTP/1.0, is not reused."""
        for answer in (CLOSING, OK.replace(b"1.1", b"1.0")):
            waiter = self.ask()
            self.wire.deliver(answer)
            self.assertEqual([200, b"ok", "end"], waiter.told)
            self.expect_closing()
            self.wire.lose()
            self.expect_forgotten()

    def test_more_than_asked_for(self) -> None:
        """A connection with octets after the response is not reused."""
        waiter = self.ask()
        self.wire.deliver(OK + b"H")
        self.assertEqual([200, b"ok", "end"], waiter.told)
        self.expect_closing()
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], waiter.told)

    def test_body_to_head(self) -> None:
        """A body after a response to HEAD is not forwarded, and ends the connection."""
        waiter = self.ask(b"HEAD")
        self.wire.deliver(OK)
        self.assertEqual([200, "end"], waiter.told)
        self.expect_closing()

    def test_until_closed(self) -> None:
        """A body without a length ends with the connection."""
        waiter = self.ask()
        self.wire.deliver(UNTIL_CLOSED)
        self.assertEqual([200, b"ok"], waiter.told)
        self.wire.lose()
        self.assertEqual([200, b"ok", "end"], waiter.told)
        self.expect_forgotten()

    def test_malformed(self) -> None:
        """A malformed response is a 502, and ends the connection."""
        waiter = self.ask()
        self.wire.deliver(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
        self.assertEqual(([502], []), (waiter.statuses, waiter.told))
        self.expect_aborted()
        self.expect_forgotten()

    def test_end_in_a_later_piece(self) -> None:
        """Octets after a response's end do not reach the next exchange."""
        self.pool = Pool(
            self.pool.backend,
            self.back_end,
            Deadlines(self.clock),
            UpstreamSettings(max_connections=1),
        )
        first = self.ask(b"HEAD")
        second = RecordingWaiter(RecordingWaiter.ask)
        self.pool.acquire(second)
        # A long head in two pieces: the parser used to report, after the end, that it was endless.
        self.wire.deliver(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", b"X-Long: " + b"a" * 20000 + b"\r\n\r\n"
        )
        self.assertEqual(([200, "end"], []), (first.told, first.refusals))
        self.assertEqual([], second.refusals)
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], second.told)

    def test_handler_that_fails_at_the_end(self) -> None:
        """A handler that fails at the end does not affect the next exchange."""
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

    def test_handler_that_fails(self) -> None:
        """A handler that fails gets one error and no further call, and its connection ends."""
        waiter = self.upload()
        self.patch(waiter, "response_data", lambda _: 1 / 0)
        self.wire.deliver(OK)
        self.wire.protocol.pauseProducing()
        self.assertEqual(
            ([Code.INTERNAL_ERROR], [200], 1),
            (
                [error.code for error in waiter.refusals],
                waiter.told,
                len(self.flushLoggedErrors(ZeroDivisionError)),
            ),
        )
        self.expect_aborted()
        self.expect_forgotten()

    def test_handler_that_fails_on_an_idle_connection(self) -> None:
        """If the handler fails at the end, and no other waits, the connection is not lent again."""
        waiter = self.ask()
        self.patch(waiter, "response_end", lambda: 1 / 0)
        self.wire.deliver(OK)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.expect_aborted()

    def test_end_that_cannot_be_forwarded(self) -> None:
        """A connection that ends tells its exchange, even if the parser raises."""
        borrower = self.ask()
        with patch.object(ResponseParser, "end_of_stream", side_effect=ZeroDivisionError):
            self.assertRaises(ZeroDivisionError, self.wire.lose)
        self.assertEqual([502], borrower.statuses)
        self.expect()

    def test_failure_that_cannot_be_reported(self) -> None:
        """A failed attempt that could not be reported is reported at its deadline."""
        self.back_end.at_once = False
        waiter = self.acquire()
        with patch.object(Pool, "failed", side_effect=ZeroDivisionError):
            self.back_end.attempts[0].fail()
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.expect(opening=1)
        self.wait(SETTINGS.connect_timeout + 1)
        self.assertEqual([504], waiter.statuses)
        self.expect()

    def test_retired(self) -> None:
        """A retired connection completes its exchange, and is not lent again."""
        waiter = self.ask()
        waiter.connection.retire()
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], waiter.told)
        self.expect_closing()

    def test_parser_that_continues(self) -> None:
        """Events of a parser after the response's end do not reach the next exchange."""
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


class EarlyResponses(UpstreamTestCase):
    """A back end may respond before it has the whole request."""

    def test_complete(self) -> None:
        """A complete response before the request's end aborts the connection."""
        waiter = self.upload()
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], waiter.told)
        self.expect_aborted()
        connection = waiter.connection
        self.wire.sent()
        connection.body_data(b"late")
        connection.body_end()
        self.assertEqual((b"", None), (self.wire.sent(), self.wire.producer))

    def test_unread(self) -> None:
        """A response in the kernel still counts when the connection breaks during a body."""
        for response, expected in ((OK, [200, b"ok", "end"]), (BEGUN, [200, b"ab"])):
            waiter = self.acquire()
            wire = self.wire
            near, far = socket.socketpair()
            with near, far:
                wire.getHandle = lambda near=near: near  # type: ignore[attr-defined]
                waiter.connection.send_head(b"POST", HEAD, waiter)
                far.sendall(response)
                wire.lose(CUT)
            self.assertEqual(expected, waiter.told)
            self.assertEqual(0 if expected[-1] == "end" else 1, len(waiter.refusals))

    def test_begun(self) -> None:
        """If the request is complete before its response is, the connection is reused."""
        waiter = self.upload()
        self.wire.deliver(BEGUN)
        waiter.connection.body_data(b"abc")
        waiter.connection.body_end()
        self.assertEqual(HEAD + b"abc", self.wire.sent())
        self.wire.deliver(b"cd")
        self.assertEqual([200, b"ab", b"cd", "end"], waiter.told)
        self.expect_reusable()

    def test_until_closed(self) -> None:
        """A body that ends with the connection ends the exchange of an incomplete request."""
        waiter = self.upload()
        self.wire.deliver(UNTIL_CLOSED)
        self.wire.lose()
        self.assertEqual([200, b"ok", "end"], waiter.told)
        self.expect_forgotten()


class Unread(UpstreamTestCase):
    """A response in the kernel, of a back end that has reset the connection."""

    def cut(self, sent: bytes) -> RecordingWaiter:
        """Return a borrower whose back end sent this, and reset the connection unread."""
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
        """An early response ends the connection, which still awaits the rest of the body."""
        borrower = self.upload()
        self.wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], borrower.told)
        self.expect_aborted()
        self.assertEqual(1, len(self.back_end.wires))

    def test_paused_upload(self) -> None:
        """A body that ended while the back end did not read has no effect on the next one."""
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
        """A request without a response is a fault, whatever was served before it was sent."""
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
    """A truncated response is never treated as complete."""

    def test_no_answer(self) -> None:
        """A connection that ends without a response is a 502, and the request is not repeated."""
        for reason in (None, CUT):
            waiter = self.ask()
            self.wire.lose(reason)
            self.assertEqual(([502], []), (waiter.statuses, waiter.told))
        self.assertEqual(2, len(self.back_end.attempts))
        self.expect()
        self.expect_forgotten()

    def test_while_sending(self) -> None:
        """A connection that ends while the request is being sent is a 502."""
        waiter = self.upload()
        self.wire.lose(CUT)
        self.assertEqual([502], waiter.statuses)
        self.expect()

    def test_stalled_client(self) -> None:
        """A back end that closes while the client stalls is not at fault.

        Otherwise a client that stalls could take it down.
        """
        for _ in range(2 * SETTINGS.failure_threshold):
            self.upload()
            self.wire.lose()
        self.assertEqual(
            (HealthState.UP, 0), (self.pool.status().state, self.pool.status().failures)
        )

    def test_at_fault(self) -> None:
        """A back end that closes after the whole request, or without reading it, is at fault."""
        self.ask()
        self.wire.lose()
        self.upload()
        self.wire.fill()
        self.wire.lose()
        self.assertEqual(2, self.pool.status().failures)

    def test_paused_for_the_client(self) -> None:
        """A back end that closes during or after a pause of the client is not at fault."""
        for resumes in (False, True):
            waiter = self.ask()
            self.wire.deliver(BEGUN)
            waiter.connection.pause_response()
            self.wait(60)
            if resumes:
                waiter.connection.resume_response()
            self.wire.lose(CUT)
            self.assertEqual([502], waiter.statuses)
        self.assertEqual(0, self.pool.status().failures)

    def test_next_after_a_pause(self) -> None:
        """The pause of one response does not excuse the next one on the same connection."""
        waiter = self.ask()
        self.wire.deliver(BEGUN)
        waiter.connection.pause_response()
        waiter.connection.resume_response()
        self.wire.deliver(b"cd")
        self.ask()
        self.wire.lose()
        self.assertEqual(1, self.pool.status().failures)

    def test_too_large(self) -> None:
        """A head that is only too large is a 502, and no fault: a client may have caused it."""
        large = b"x" * SETTINGS.max_head_bytes
        for pieces in ((b"X: %b\r\n\r\n" % large,), (b"X: x\r\n" * 300,), (b"X: ", large, large)):
            waiter = self.ask()
            self.wire.deliver(b"HTTP/1.1 200 OK\r\n", *pieces)
            self.assertEqual([502], waiter.statuses)
        self.assertEqual(0, self.pool.status().failures)

    def test_malformed(self) -> None:
        """A malformed response is a fault."""
        self.ask()
        self.wire.deliver(b"HTTP/1.1 2000 OK\r\n\r\n")
        self.assertEqual(1, self.pool.status().failures)

    def test_in_the_head(self) -> None:
        """A truncated head is a 502."""
        waiter = self.ask()
        self.wire.deliver(OK[:20])
        self.wire.lose()
        self.assertEqual(([502], []), (waiter.statuses, waiter.told))

    def test_in_the_body(self) -> None:
        """A truncated body is a failure, even if the connection was closed cleanly."""
        for reason in (None, CUT):
            waiter = self.ask()
            self.wire.deliver(BEGUN)
            self.wire.lose(reason)
            self.assertEqual(([502], [200, b"ab"]), (waiter.statuses, waiter.told))

    def test_until_closed(self) -> None:
        """A body that ends with the connection is complete only if that was closed cleanly."""
        waiter = self.ask()
        self.wire.deliver(UNTIL_CLOSED)
        self.wire.lose(CUT)
        self.assertEqual(([502], [200, b"ok"]), (waiter.statuses, waiter.told))

    def test_idle(self) -> None:
        """An idle connection that ends is dropped."""
        self.ask()
        self.wire.deliver(OK)
        self.wire.lose(CUT)
        self.expect()
        self.expect_forgotten()


class Late(UpstreamTestCase):
    """A timeout is a fault only where it concerns the back end, not one resource."""

    def test_never(self) -> None:
        """A back end that responds to nothing while a request waits is at fault."""
        waiter = self.ask()
        self.wait(SETTINGS.response_timeout)
        self.assertEqual(([504], 1), (waiter.statuses, self.pool.status().failures))

    def test_one_of_many(self) -> None:
        """A back end that has served another request in the meantime is not at fault."""
        late = self.ask()
        self.wait(1)
        self.ask()
        self.wire.deliver(OK)
        self.wait(SETTINGS.response_timeout)
        self.assertEqual(([504], 0), (late.statuses, self.pool.status().failures))

    def test_stream(self) -> None:
        """A back end that pauses in a response, such as a stream of events, is not at fault."""
        waiter = self.ask()
        self.wire.deliver(BEGUN)
        self.wait(SETTINGS.read_timeout)
        self.assertEqual(([504], 0), (waiter.statuses, self.pool.status().failures))


class Cancelling(UpstreamTestCase):
    """An exchange may be cancelled."""

    def test_cancel(self) -> None:
        """It is aborted, and later octets are ignored."""
        waiter = self.ask()
        self.wire.deliver(BEGUN)
        waiter.connection.cancel()
        self.expect_aborted()
        self.wire.protocol.dataReceived(b"cd")
        self.assertEqual(([200, b"ab"], []), (waiter.told, waiter.refusals))
        self.expect_forgotten()

    def test_within_the_call(self) -> None:
        """A handler may cancel during its call: the rest of the same piece is ignored."""
        waiter = self.ask()
        waiter.then = lambda _: waiter.connection.cancel()
        self.wire.deliver(OK)
        self.assertEqual(([200], []), (waiter.told, waiter.refusals))
        self.expect_aborted()

    def test_give_up(self) -> None:
        """An exchange that is given up reports that error, and no fault of the back end."""
        waiter = self.ask()
        error = ErrorResponse(Code.SLOW_CLIENT, "others wait")
        waiter.connection.give_up(error)
        self.assertEqual(([error], 0), (waiter.refusals, self.pool.status().failures))
        self.expect_aborted()

    def test_while_sending(self) -> None:
        """An exchange may be cancelled while its request is being sent."""
        waiter = self.upload()
        waiter.connection.cancel()
        self.assertIsNone(self.wire.producer)
        self.expect_aborted()


class Unrequested(UpstreamTestCase):
    """A back end may send octets without a request."""

    def test_idle(self) -> None:
        """Octets on an idle connection end it."""
        self.ask()
        self.wire.deliver(OK)
        self.wire.deliver(b"H")
        self.expect_aborted()
        self.expect_forgotten()

    def test_before_it_is_asked(self) -> None:
        """Octets on a connection that is lent, before a request, end it."""
        self.acquire()
        self.wire.deliver(OK)
        self.expect_aborted()


class Timeouts(UpstreamTestCase):
    """Every wait has a deadline."""

    def test_answer(self) -> None:
        """A response that does not begin is a 504.

        Octets of its head, and interim responses, do not extend the deadline.
        """
        waiter = self.ask()
        self.wait(5)
        self.wire.deliver(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
        self.wait(0.75)
        self.assertEqual([], waiter.statuses)
        self.wait(0.25)
        self.assertEqual([504], waiter.statuses)
        self.expect_aborted()
        self.expect_forgotten()

    def test_between_bytes(self) -> None:
        """A response that stops is a 504; every octet of its body extends the deadline."""
        waiter = self.ask()
        self.wait(5)
        self.wire.deliver(BEGUN)
        self.wait(6)
        self.wire.deliver(b"c")
        self.wait(6.75)
        self.assertEqual([], waiter.statuses)
        self.wait(0.25)
        self.assertEqual([504], waiter.statuses)
        self.expect_aborted()

    def test_sending(self) -> None:
        """The response's timeout begins when the request has been sent."""
        waiter = self.upload()
        self.wait(100)
        waiter.connection.body_end()
        self.wait(5.75)
        self.assertEqual([], waiter.statuses)
        self.wait(0.25)
        self.assertEqual([504], waiter.statuses)

    def test_back_end_that_does_not_read(self) -> None:
        """A back end that does not read its request is a 504."""
        waiter = self.upload()
        self.wire.fill()
        self.assertEqual(["pause"], waiter.told)
        self.wait(6.75)
        self.assertEqual([], waiter.statuses)
        self.wait(0.25)
        self.assertEqual([504], waiter.statuses)
        self.expect_aborted()

    def test_back_end_that_reads_again(self) -> None:
        """A back end that reads again has the whole timeout the next time."""
        waiter = self.upload()
        for _ in range(3):
            self.wire.fill()
            self.wait(6)
            self.wire.drain()
            self.wait(6)
            self.wire.drain()
        self.assertEqual(["pause", "resume", "resume"] * 3, waiter.told)

    def test_reading_again_during_an_answer(self) -> None:
        """A back end that reads again must still continue its response."""
        waiter = self.upload()
        self.wire.deliver(BEGUN)
        self.wire.fill()
        self.wire.drain()
        self.wait(7)
        self.assertEqual([504], waiter.statuses)

    def test_idle(self) -> None:
        """An idle connection is closed in time, before the back end closes it."""
        self.ask()
        self.wire.deliver(OK)
        self.wait(7.75)
        self.expect_reusable()
        self.wait(0.25)
        self.expect_closing()
        self.wire.lose()
        self.expect_forgotten()

    def test_lifetime(self) -> None:
        """A connection is not lent after nine tenths of its maximum age, or later."""
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
        """An idle connection is closed at its maximum age."""
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
        """Connections that are opened together do not expire together."""
        connections = [self.acquire().connection for _ in range(20)]
        ends = {connection.expires for connection in connections}
        self.assertEqual((20, True), (len(ends), all(270 <= end <= 300 for end in ends)))

    def test_closing(self) -> None:
        """A connection that is being closed is aborted if the back end does not close it."""
        self.ask()
        self.wire.deliver(CLOSING)
        self.wait(6.75)
        self.expect_closing()
        self.wait(0.25)
        self.expect_aborted()
        self.expect_forgotten()


class BackPressure(UpstreamTestCase):
    """A client that reads slowly slows its back end down."""

    def paused(self) -> RecordingWaiter:
        waiter = self.ask()
        self.wire.deliver(BEGUN)
        waiter.connection.pause_response()
        return waiter

    def test_pause(self) -> None:
        """While a response is paused nothing is read, and no timeout runs."""
        waiter = self.paused()
        self.assertFalse(self.wire.reading)
        self.wait(100)
        self.assertEqual([], waiter.refusals)

    def test_resume(self) -> None:
        """After the pause, the whole timeout runs."""
        waiter = self.paused()
        self.wait(100)
        waiter.connection.resume_response()
        self.assertTrue(self.wire.reading)
        self.wait(6.75)
        self.assertEqual([], waiter.refusals)
        self.wait(0.25)
        self.assertEqual([504], waiter.statuses)

    def test_bytes_nonetheless(self) -> None:
        """Octets that arrive during a pause, as over TLS, are forwarded, and start no timeout."""
        waiter = self.paused()
        self.wire.deliver(b"c")
        self.wait(100)
        self.assertEqual(([200, b"ab", b"c"], []), (waiter.told, waiter.refusals))

    def test_head_nonetheless(self) -> None:
        """So is a head."""
        waiter = self.ask()
        waiter.connection.pause_response()
        self.wire.deliver(BEGUN)
        self.wait(100)
        self.assertEqual(([200, b"ab"], []), (waiter.told, waiter.refusals))

    def test_paused_by_its_own_head(self) -> None:
        """A response that is paused while its head is handled stays paused."""
        waiter = self.ask()
        waiter.then = lambda _: waiter.connection.pause_response()
        self.wire.deliver(BEGUN)
        self.assertFalse(self.wire.reading)
        self.wait(100)
        self.assertEqual([], waiter.refusals)

    def test_ends_paused(self) -> None:
        """A connection whose response ended during a pause reads again for the next."""
        waiter = self.paused()
        self.wire.deliver(b"cd")
        self.assertEqual([200, b"ab", b"cd", "end"], waiter.told)
        self.expect_reusable()

    def test_not_paused(self) -> None:
        """To resume without a pause changes nothing."""
        waiter = self.ask()
        self.wait(5)
        waiter.connection.resume_response()
        self.wait(1)
        self.assertEqual([504], waiter.statuses)

    def test_paused_while_sending(self) -> None:
        """A pause during the request, and its end, start no timeout for the response."""
        waiter = self.upload()
        waiter.connection.pause_response()
        waiter.connection.resume_response()
        self.wait(100)
        self.assertEqual([], waiter.refusals)

    def test_request_ends_while_paused(self) -> None:
        """A request that ends while its response is paused starts no timeout either."""
        waiter = self.upload()
        waiter.connection.pause_response()
        waiter.connection.body_end()
        self.wait(100)
        self.assertEqual([], waiter.refusals)

    def test_paused_both_ways(self) -> None:
        """A back end that reads again, while its response is paused, has no timeout."""
        waiter = self.upload()
        self.wire.deliver(BEGUN)
        waiter.connection.pause_response()
        self.wire.fill()
        self.wire.drain()
        self.wait(100)
        self.assertEqual([], waiter.refusals)

    def test_over(self) -> None:
        """The transport's calls after an exchange are ignored."""
        waiter = self.upload()
        protocol = self.wire.protocol
        self.wire.deliver(OK)
        protocol.pauseProducing()
        protocol.resumeProducing()
        self.assertEqual([200, b"ok", "end"], waiter.told)
