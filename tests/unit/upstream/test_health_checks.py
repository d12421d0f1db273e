"""Promises of :mod:`x509proxy.upstream.health_checks`: what a back end is asked when nobody needs it, when, and what is made of its answer."""

from __future__ import annotations

import itertools

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import CUT, OK, BackEnd, RequestTransport, TlsWire
from x509proxy.settings import Backend, HealthSettings
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.health_checks import Checks

SETTINGS = HealthSettings(path="/health?full", status=200, interval=10, timeout=2)
REQUEST = b"GET /base/health?full HTTP/1.1\r\nHost: as.example:81\r\nUser-Agent: x509proxy\r\nConnection: close\r\n\r\n"
CLOSING = OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")


class ChecksTestCase(SynchronousTestCase):
    tls = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.back_end = BackEnd(self.clock, tls=self.tls)
        self.reports: list[str] = []
        deadlines, backend = Deadlines(self.clock), Backend.parse("http://as.example:81/base")
        self.checks = Checks(backend, self.back_end, deadlines, SETTINGS, self.reports.append)

    @property
    def wire(self) -> RequestTransport:
        return self.back_end.wire

    def begin(self) -> None:
        """The first check has been sent."""
        self.checks.start()
        self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)

    def expect_forgotten(self) -> None:
        """Nothing is left that a clock would wake."""
        self.checks.stop()
        self.clock.advance(0)
        self.assertEqual([], self.clock.getDelayedCalls())


class Asking(ChecksTestCase):
    """What is sent, and when."""

    def test_request(self) -> None:
        """A plain GET below the back end's base, for its own authority, with nothing that tells of a client."""
        self.begin()
        self.assertEqual(REQUEST, self.wire.sent())

    def test_times(self) -> None:
        """The first at once, and each of the others an interval after the end of the one before, give or take a tenth."""
        self.begin()
        ends = [self.clock.seconds()]
        for number in range(1, 20):
            self.wire.deliver(CLOSING)
            self.wire.lose()
            while len(self.back_end.attempts) == number:
                self.clock.advance(0.05)
            ends.append(self.clock.seconds())
        waits = [later - earlier for earlier, later in itertools.pairwise(ends)]
        self.assertTrue(all(8.99 <= wait <= 11.06 for wait in waits), waits)
        self.assertGreater(len({round(wait, 2) for wait in waits}), 3)
        self.assertEqual([""] * 19, self.reports)

    def test_started_twice(self) -> None:
        """To start what has been started changes nothing, be it waiting or under way."""
        self.checks.start()
        self.begin()
        self.begin()
        self.assertEqual(1, len(self.back_end.attempts))

    def test_stop(self) -> None:
        """After the end there is none, and none under way, and nothing is reported."""
        self.begin()
        self.checks.stop()
        self.assertTrue(self.wire.aborted)
        self.wait(30)
        self.assertEqual(([], 1), (self.reports, len(self.back_end.attempts)))
        self.expect_forgotten()

    def test_stop_between(self) -> None:
        """Likewise between two of them, or before the first."""
        self.checks.start()
        self.checks.stop()
        self.begin()
        self.wire.deliver(CLOSING)
        self.wire.lose()
        self.expect_forgotten()

    def test_stop_while_connecting(self) -> None:
        """A connection that comes after the end is closed; one that does not come is given up in its time."""
        self.back_end.at_once = False
        self.begin()
        self.checks.stop()
        self.back_end.attempts[0].succeed()
        self.assertEqual((b"", True), (self.wire.sent(), self.wire.disconnecting))
        self.wire.lose()
        self.begin()
        self.checks.stop()
        self.wait(2)
        self.assertTrue(self.back_end.attempts[1].cancelled)
        self.assertEqual([], self.reports)
        self.expect_forgotten()


class Judging(ChecksTestCase):
    """What is made of an answer."""

    def expect(self, report: str) -> None:
        self.assertEqual([report], self.reports)
        self.wire.lose()
        self.expect_forgotten()

    def test_good(self) -> None:
        """The expected status is good; its connection is closed politely, whether or not the back end means to keep it."""
        for answer in (CLOSING, OK):
            self.reports.clear()
            self.begin()
            self.wire.deliver(answer)
            self.assertEqual((True, False), (self.wire.disconnecting, self.wire.aborted))
            self.expect("")

    def test_other_status(self) -> None:
        """Any other is not."""
        self.begin()
        self.wire.deliver(CLOSING.replace(b"200", b"503"))
        self.expect("found status 503, expected 200")

    def test_no_connection(self) -> None:
        """No connection is no good answer, and the next check is made nonetheless."""
        self.back_end.at_once = False
        self.begin()
        self.back_end.attempts[0].fail()
        self.assertEqual(
            ["the back end could not be connected to: ConnectionRefusedError"], self.reports
        )
        self.wait(11.25)
        self.assertEqual(2, len(self.back_end.attempts))

    def test_no_connection_within_the_call(self) -> None:
        """Likewise if it is refused at once."""
        self.patch(self.back_end, "connect", lambda _: 1 / 0)
        self.begin()
        self.assertEqual(
            ["the back end could not be connected to: ZeroDivisionError"], self.reports
        )
        self.expect_forgotten()

    def test_late_connection(self) -> None:
        """One that takes too long is given up."""
        self.back_end.at_once = False
        self.begin()
        self.wait(2)
        self.assertTrue(self.back_end.attempts[0].cancelled)
        self.assertEqual(["the back end could not be connected to in time"], self.reports)
        self.expect_forgotten()

    def test_no_answer(self) -> None:
        """Nor is no answer one: it is cut."""
        self.begin()
        self.wait(1.75)
        self.assertEqual([], self.reports)
        self.wait(0.25)
        self.assertTrue(self.wire.aborted)
        self.expect("the back end did not go on in time")

    def test_dripping(self) -> None:
        """All of it has one deadline: that bytes come does not put it off."""
        self.begin()
        for octet in b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n":
            self.wire.deliver(bytes([octet]))
        for _ in range(7):
            self.wait(0.25)
            self.wire.deliver(b"a")
        self.assertEqual([], self.reports)
        self.wait(0.25)
        self.assertTrue(self.wire.aborted)
        self.expect("no answer in time")

    def test_endless(self) -> None:
        """An answer that is too large is none, and is not waited for."""
        self.begin()
        self.wire.deliver(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 65536)
        self.assertEqual([], self.reports)
        self.wire.deliver(b"a" * 4096)
        self.assertTrue(self.wire.aborted)
        self.expect("the answer is larger than 65536 bytes")

    def test_cut_short(self) -> None:
        """Nor is one that is cut short."""
        self.begin()
        self.wire.deliver(OK[:-1])
        self.wire.lose(CUT)
        self.expect("back end's response: cut short")

    def test_malformed(self) -> None:
        """Nor one that is malformed."""
        self.begin()
        self.wire.deliver(b"SMTP\r\n")
        self.assertEqual(1, len(self.reports))
        self.assertIn("back end's response: ", self.reports[0])


class OverTls(ChecksTestCase):
    """A back end over TLS is verified first."""

    tls = True

    def test_verified(self) -> None:
        """Not a byte is sent before the handshake has ended well."""
        self.begin()
        self.assertEqual(b"", self.wire.sent())
        assert isinstance(self.wire, TlsWire)
        self.wire.shake()
        self.assertEqual(REQUEST, self.wire.sent())

    def test_not_verified(self) -> None:
        """One that is not who it should be is not well."""
        self.begin()
        self.wire.lose(CUT)
        (report,) = self.reports
        self.assertEqual(
            "the back end could not be connected to: it closed the connection during the TLS handshake",
            report,
        )
