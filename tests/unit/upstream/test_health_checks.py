"""Tests of :mod:`x509proxy.upstream.health_checks`: requests, times, and verdicts."""

from __future__ import annotations

import itertools

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import CUT, OK, BackEnd, RequestTransport, TlsWire
from x509proxy.settings import Backend, HealthSettings
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.health_checks import Checks

SETTINGS = HealthSettings(path="/health?full", status=200, interval=10, timeout=2)
REQUEST = (
    b"GET /base/health?full HTTP/1.1\r\nHost: as.example:81\r\n"
    b"User-Agent: x509proxy\r\nConnection: close\r\n\r\n"
)
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
        """Start, so that the first check is sent."""
        self.checks.start()
        self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)

    def expect_forgotten(self) -> None:
        """Check that no timer is left."""
        self.checks.stop()
        self.clock.advance(0)
        self.assertEqual([], self.clock.getDelayedCalls())


class Requests(ChecksTestCase):
    """Requests of the checks, and their times."""

    def test_request(self) -> None:
        """A GET below the back end's base, for its own authority, without a client's identity."""
        self.begin()
        self.assertEqual(REQUEST, self.wire.sent())

    def test_times(self) -> None:
        """The first is sent at once, each other after the interval, plus or minus a tenth."""
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
        """A second start changes nothing, while waiting or during a check."""
        self.checks.start()
        self.begin()
        self.begin()
        self.assertEqual(1, len(self.back_end.attempts))

    def test_stop(self) -> None:
        """A stop aborts the check under way, and none follows; nothing is reported."""
        self.begin()
        self.checks.stop()
        self.assertTrue(self.wire.aborted)
        self.wait(30)
        self.assertEqual(([], 1), (self.reports, len(self.back_end.attempts)))
        self.expect_forgotten()

    def test_stop_between(self) -> None:
        """So does a stop between two checks, or before the first."""
        self.checks.start()
        self.checks.stop()
        self.begin()
        self.wire.deliver(CLOSING)
        self.wire.lose()
        self.expect_forgotten()

    def test_stop_while_connecting(self) -> None:
        """After a stop, a connection that opens is closed; one that does not is cancelled."""
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


class Verdicts(ChecksTestCase):
    """Verdicts on responses."""

    def expect(self, report: str) -> None:
        self.assertEqual([report], self.reports)
        self.wire.lose()
        self.expect_forgotten()

    def test_good(self) -> None:
        """The expected status passes; the connection is closed, even if it could be kept."""
        for answer in (CLOSING, OK):
            self.reports.clear()
            self.begin()
            self.wire.deliver(answer)
            self.assertEqual((True, False), (self.wire.disconnecting, self.wire.aborted))
            self.expect("")

    def test_other_status(self) -> None:
        """Any other status fails."""
        self.begin()
        self.wire.deliver(CLOSING.replace(b"200", b"503"))
        self.expect("found status 503, expected 200")

    def test_no_connection(self) -> None:
        """A failed connection is a failed check, and the next check is made."""
        self.back_end.at_once = False
        self.begin()
        self.back_end.attempts[0].fail()
        self.assertEqual(["cannot connect to the back end: ConnectionRefusedError"], self.reports)
        self.wait(11.25)
        self.assertEqual(2, len(self.back_end.attempts))

    def test_no_connection_within_the_call(self) -> None:
        """So is a connection that fails within the call."""
        self.patch(self.back_end, "connect", lambda _: 1 / 0)
        self.begin()
        self.assertEqual(["cannot connect to the back end: ZeroDivisionError"], self.reports)
        self.expect_forgotten()

    def test_late_connection(self) -> None:
        """An attempt to connect that takes too long is cancelled."""
        self.back_end.at_once = False
        self.begin()
        self.wait(2)
        self.assertTrue(self.back_end.attempts[0].cancelled)
        self.assertEqual(["timed out connecting to the back end"], self.reports)
        self.expect_forgotten()

    def test_no_answer(self) -> None:
        """A missing response fails, and the connection is aborted."""
        self.begin()
        self.wait(1.75)
        self.assertEqual([], self.reports)
        self.wait(0.25)
        self.assertTrue(self.wire.aborted)
        self.expect("timed out waiting for the back end")

    def test_dripping(self) -> None:
        """The whole check has one deadline: octets that arrive do not extend it."""
        self.begin()
        for octet in b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n":
            self.wire.deliver(bytes([octet]))
        for _ in range(7):
            self.wait(0.25)
            self.wire.deliver(b"a")
        self.assertEqual([], self.reports)
        self.wait(0.25)
        self.assertTrue(self.wire.aborted)
        self.expect("no response in time")

    def test_endless(self) -> None:
        """A response that is too large fails, and is not awaited."""
        self.begin()
        self.wire.deliver(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 65536)
        self.assertEqual([], self.reports)
        self.wire.deliver(b"a" * 4096)
        self.assertTrue(self.wire.aborted)
        self.expect("the response is larger than 65536 bytes")

    def test_cut_short(self) -> None:
        """A truncated response fails."""
        self.begin()
        self.wire.deliver(OK[:-1])
        self.wire.lose(CUT)
        self.expect("back end's response: cut short")

    def test_malformed(self) -> None:
        """A malformed response fails."""
        self.begin()
        self.wire.deliver(b"SMTP\r\n")
        self.assertEqual(1, len(self.reports))
        self.assertIn("back end's response: ", self.reports[0])


class OverTls(ChecksTestCase):
    """A back end over TLS is verified first."""

    tls = True

    def test_verified(self) -> None:
        """No byte is sent before the handshake has succeeded."""
        self.begin()
        self.assertEqual(b"", self.wire.sent())
        assert isinstance(self.wire, TlsWire)
        self.wire.shake()
        self.assertEqual(REQUEST, self.wire.sent())

    def test_not_verified(self) -> None:
        """A back end that cannot be verified fails."""
        self.begin()
        self.wire.lose(CUT)
        (report,) = self.reports
        self.assertEqual(
            "cannot connect to the back end: it closed the connection during the TLS handshake",
            report,
        )
