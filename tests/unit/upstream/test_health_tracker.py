"""Tests of :mod:`x509proxy.upstream.health_tracker`: the current health, and its log lines."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.monitoring.backend_status import HealthState, PoolStatus
from x509proxy.settings import Backend, HealthSettings, UpstreamSettings
from x509proxy.upstream.health_tracker import BackendHealth

SETTINGS = UpstreamSettings(failure_threshold=2, retry_delay=1, slow_start=10)
BACKEND = Backend.parse("https://as.example/base")


class BackendHealthTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100)
        self.arrange()

    def arrange(self, checks: HealthSettings | None = None) -> None:
        self.record = BackendHealth(BACKEND, self.clock, SETTINGS, checks)

    def test_log(self) -> None:
        """One line is logged when it goes down, and one when it is back."""
        with capturedLogs() as events:
            for _ in range(3):
                self.record.failed(self.clock.seconds(), "cannot connect to the back end: Refused")
            self.clock.advance(1)
            self.record.tried()
            self.record.failed(self.clock.seconds(), "refused")
            self.clock.advance(2.5)
            for _ in range(3):
                self.record.served(self.clock.seconds())
            self.clock.advance(10)
            self.assertEqual(1.0, self.record.share())
        expected = [
            "warn: back end https://as.example/base is down: "
            "cannot connect to the back end: Refused",
            "info: back end https://as.example/base is back after 3.5 s",
        ]
        self.assertEqual(
            expected, [f"{event['log_level'].name}: {formatEvent(event)}" for event in events]
        )

    def test_share(self) -> None:
        """Its share is all, none, or between them, and all again, by the clock."""
        self.assertEqual((True, 1.0), (self.record.spotless, self.record.share()))
        self.record.failed(100, "refused")
        self.assertEqual((False, 0.0), (self.record.spotless, self.record.share()))
        self.clock.advance(1)
        self.record.served(101)
        self.clock.advance(5)
        self.assertEqual((False, 0.5), (self.record.spotless, self.record.share()))
        self.clock.advance(5)
        self.assertEqual((1.0, True), (self.record.share(), self.record.spotless))

    def test_trial(self) -> None:
        """One request may try it after its retry delay; with checks, none may."""
        self.arrange(HealthSettings(path="/"))
        self.record.checked("no response in time")
        self.clock.advance(60)
        self.assertFalse(self.record.due())
        self.arrange()
        self.record.failed(self.clock.seconds(), "refused")
        self.assertFalse(self.record.due())
        self.clock.advance(1)
        self.assertTrue(self.record.due())
        self.arrange()
        self.record.failed(self.clock.seconds(), "refused")
        self.clock.advance(1)
        self.record.tried()
        self.assertFalse(self.record.due())

    def test_checks(self) -> None:
        """Checks take it down and bring it back, with log lines."""
        self.arrange(HealthSettings(path="/", rise=1))
        with capturedLogs() as events:
            self.record.checked("found status 500, expected 200")
            self.clock.advance(5)
            self.record.checked("")
        expected = [
            "back end https://as.example/base is down: check: found status 500, expected 200",
            "back end https://as.example/base is back after 5.0 s",
        ]
        self.assertEqual(expected, [formatEvent(event) for event in events])

    def test_held_back(self) -> None:
        """With checks, failures lower the share, with one log line; the state is not down."""
        self.arrange(HealthSettings(path="/"))
        with capturedLogs() as events:
            for _ in range(3):
                self.record.failed(self.clock.seconds(), "refused")
            self.clock.advance(11)
            self.assertEqual(1.0, self.record.share())
        expected = ["back end https://as.example/base gets fewer requests: refused"]
        self.assertEqual(expected, [formatEvent(event) for event in events])
        self.assertNotIn(
            HealthState.DOWN, {self.record.health.state, self.record.status(1000.0).state}
        )

    def test_status(self) -> None:
        """The status is a value, in the time of day."""
        expected = PoolStatus(name="https://as.example/base", state=HealthState.UP, since=1000.0)
        self.assertEqual(expected, self.record.status(1000.0))
        self.arrange(HealthSettings(path="/", rise=1))
        self.record.failed(100, "refused")
        self.record.faulted(100, "late")
        self.clock.advance(5)
        self.record.checked("")
        self.clock.advance(12)
        expected = PoolStatus(
            name="https://as.example/base",
            state=HealthState.UP,
            since=1011.0,
            last_error="late",
            failures=2,
            last_check=1005.0,
            last_failure=1000.0,
        )
        self.assertEqual(expected, self.record.status(1017.0))
