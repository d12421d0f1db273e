"""Tests of :mod:`x509proxy.upstream.health`: going down, the retry delay, and recovery."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.monitoring.backend_status import HealthState
from x509proxy.settings import HealthSettings, UpstreamSettings
from x509proxy.upstream.health import Health

SETTINGS = UpstreamSettings(
    failure_threshold=3, retry_delay=1, max_retry_delay=6, slow_start=10, response_timeout=20
)
CHECKS = HealthSettings(path="/health", rise=2, fall=3)
NEW = Health(0.0)


def down(at: float = 100.0) -> Health:
    """Return the health after a failed connection."""
    return NEW.failed(at, at, "refused", SETTINGS)


class Falling(SynchronousTestCase):
    """Failures that take a back end down."""

    def test_new(self) -> None:
        """A new back end is up, with its whole share."""
        self.assertEqual(
            (HealthState.UP, 1.0, True), (NEW.state, NEW.share(0, SETTINGS), NEW.spotless)
        )
        self.assertFalse(NEW.due(1000))

    def test_no_connection(self) -> None:
        """One failed connection is enough."""
        found = down()
        self.assertEqual(
            (HealthState.DOWN, 100.0, "refused", 0.0),
            (found.state, found.since, found.reason, found.share(100, SETTINGS)),
        )
        self.assertFalse(found.spotless)

    def test_faults(self) -> None:
        """Failed exchanges count in a row; a good one resets the count."""
        found = NEW
        for expected in (HealthState.UP, HealthState.UP, HealthState.DOWN):
            self.assertEqual((HealthState.UP, 1.0), (found.state, found.share(5, SETTINGS)))
            found = found.faulted(5, 1, "late", SETTINGS)
            self.assertEqual((expected, False, "late"), (found.state, found.spotless, found.reason))
        found = (
            NEW.faulted(5, 1, "late", SETTINGS).faulted(5, 1, "late", SETTINGS).served(5, 1, None)
        )
        self.assertTrue(found.spotless)
        self.assertEqual(HealthState.UP, found.faulted(5, 1, "late", SETTINGS).state)

    def test_old_connections(self) -> None:
        """Outcomes of connections begun before a fall do not count, even after recovery."""
        found = down()
        for changed in (
            found.served(102, 99, None),
            found.failed(102, 99, "reset", SETTINGS),
            found.faulted(102, 99, "late", SETTINGS),
        ):
            self.assertEqual(found, changed)
        back = found.served(102, 101, None)
        self.assertEqual(back, back.failed(103, 99, "reset", SETTINGS))


class Trying(SynchronousTestCase):
    """One request tries a back end after its retry delay."""

    def test_due(self) -> None:
        """It is due after the retry delay, and not before."""
        found = down()
        self.assertEqual((False, False, True), (found.due(100), found.due(100.9), found.due(101)))

    def test_one(self) -> None:
        """During a trial there is no other; without an outcome, the next may begin."""
        found = down().tried(101, SETTINGS)
        self.assertEqual(
            (HealthState.DOWN, False, True), (found.state, found.due(120), found.due(121))
        )

    def test_longer_each_time(self) -> None:
        """The retry delay doubles with each failed trial up to its maximum; ``since`` is kept."""
        found, now, waits = down(), 100.0, []
        for _ in range(5):
            waits.append(found.until - now)
            now = found.until
            found = found.tried(now, SETTINGS).faulted(now, now, "late", SETTINGS)
        self.assertEqual(([1, 2, 4, 6, 6], 100.0), (waits, found.since))

    def test_many_falls(self) -> None:
        """Any number of failures gives a finite delay."""
        found = attrs.evolve(down(), falls=10**6, until=0.0).failed(200, 200, "refused", SETTINGS)
        self.assertEqual(206, found.until)

    def test_at_once(self) -> None:
        """Many connections that fail together are one failure."""
        found = down()
        for _ in range(10):
            found = found.failed(100.5, 100.2, "unreachable", SETTINGS)
        self.assertEqual((101, 1, "unreachable"), (found.until, found.falls, found.reason))

    def test_next_at_once(self) -> None:
        """After a failed trial the next waits for the retry delay, not for the trial's end."""
        found = down().tried(101, SETTINGS).failed(101, 101, "refused", SETTINGS)
        self.assertEqual((False, True), (found.due(102.9), found.due(103)))


class ComingBack(SynchronousTestCase):
    """A slow start follows recovery."""

    def test_served(self) -> None:
        """One good exchange brings it back; its share grows from near zero to one."""
        found = down().served(110, 105, None)
        self.assertEqual(
            (HealthState.SLOW, 110.0, False), (found.state, found.since, found.spotless)
        )
        self.assertEqual(
            [0.01, 0.01, 0.5, 0.9], [found.share(now, SETTINGS) for now in (110, 110.05, 115, 119)]
        )
        self.assertIs(found, found.at(119.9, SETTINGS))
        up = found.at(125, SETTINGS)
        self.assertEqual(
            (HealthState.UP, 120.0, 1.0, True),
            (up.state, up.since, up.share(125, SETTINGS), up.spotless),
        )

    def test_late(self) -> None:
        """A share is never more than one."""
        self.assertEqual(1.0, down().served(110, 105, None).share(1000, SETTINGS))

    def test_forgiven(self) -> None:
        """A good exchange resets the doubling."""
        found = (
            down()
            .failed(101, 101, "refused", SETTINGS)
            .served(104, 104, None)
            .failed(105, 105, "refused", SETTINGS)
        )
        self.assertEqual((105.0, 106.0), (found.since, found.until))

    def test_falls_again(self) -> None:
        """In a slow start faults count in a row, as when up."""
        found = down().served(110, 105, None).faulted(111, 110, "late", SETTINGS)
        self.assertEqual((HealthState.SLOW, 1), (found.state, found.faults))


class Checking(SynchronousTestCase):
    """Where there are checks, only they bring it back."""

    def test_fall(self) -> None:
        """``fall`` failed checks in a row take it down; a passed one resets the count."""
        found = NEW.check_passed(1, CHECKS)
        for _ in range(2):
            found = found.check_failed(2, "500", CHECKS)
        self.assertEqual((HealthState.UP, "500"), (found.state, found.reason))
        self.assertEqual(HealthState.DOWN, found.check_failed(3, "500", CHECKS).state)
        again = found.check_passed(3, CHECKS).check_failed(4, "500", CHECKS)
        self.assertEqual((HealthState.UP, 1), (again.state, again.bad))

    def test_first(self) -> None:
        """The very first check decides alone."""
        found = NEW.check_failed(1, "500", CHECKS)
        self.assertEqual((HealthState.DOWN, 1.0, "500"), (found.state, found.since, found.reason))

    def test_rise(self) -> None:
        """``rise`` passed checks in a row bring it back; a failed one resets the count."""
        found = NEW.check_failed(1, "500", CHECKS).check_passed(2, CHECKS)
        self.assertEqual(HealthState.DOWN, found.state)
        self.assertEqual(
            (HealthState.SLOW, 3.0), ((back := found.check_passed(3, CHECKS)).state, back.since)
        )
        self.assertEqual(
            HealthState.DOWN, found.check_failed(3, "500", CHECKS).check_passed(4, CHECKS).state
        )

    def test_exchanges(self) -> None:
        """With checks, a good exchange clears faults, but brings back nothing that is down."""
        found = NEW.check_failed(1, "500", CHECKS)
        self.assertEqual(found, found.served(3, 2, CHECKS))
        self.assertTrue(NEW.faulted(1, 1, "late", SETTINGS).served(2, 2, CHECKS).spotless)


class HeldBack(SynchronousTestCase):
    """Where there are checks, exchanges only lower the share: clients can cause failures."""

    def failed(self, before: Health = NEW, at: float = 100.0) -> Health:
        return before.failed(at, at, "refused", SETTINGS, CHECKS)

    def shares(self, found: Health, *times: float) -> list[float]:
        return [found.share(now, SETTINGS) for now in times]

    def test_no_connection(self) -> None:
        """A failed connection holds it back for the retry delay; then its share grows."""
        found = self.failed()
        self.assertEqual((HealthState.SLOW, "refused"), (found.state, found.reason))
        self.assertEqual([0.0, 0.0, 0.01, 0.5], self.shares(found, 100, 100.9, 101, 106))
        self.assertIs(found, found.at(110.9, SETTINGS))
        self.assertEqual(HealthState.UP, found.at(111, SETTINGS).state)

    def test_faults(self) -> None:
        """Failed exchanges count in a row, as without checks."""
        found = NEW
        for expected in (HealthState.UP, HealthState.UP, HealthState.SLOW):
            found = found.faulted(5, 1, "late", SETTINGS, CHECKS)
            self.assertEqual(expected, found.state)

    def test_longer_each_time(self) -> None:
        """The retry delay doubles until a good exchange; simultaneous failures count once."""
        found, now, waits = NEW, 100.0, []
        for _ in range(5):
            found = self.failed(self.failed(found, now), now + 0.1)
            waits.append(found.since - now)
            now = found.since
        self.assertEqual([1, 2, 4, 6, 6], waits)
        found = self.failed(found.served(now, now, CHECKS), now)
        self.assertEqual(1, found.since - now)

    def test_checks_decide(self) -> None:
        """Failed checks take a held back one down; then an exchange only changes the reason."""
        found = self.failed(NEW.check_passed(1, CHECKS))
        for _ in range(3):
            found = found.check_failed(101, "500", CHECKS)
        self.assertEqual(HealthState.DOWN, found.state)
        found = self.failed(found, 102)
        self.assertEqual((HealthState.DOWN, "refused"), (found.state, found.reason))
        found = found.check_passed(102, CHECKS).check_passed(102.1, CHECKS)
        self.assertEqual((HealthState.SLOW, 102.1), (found.state, found.since))
