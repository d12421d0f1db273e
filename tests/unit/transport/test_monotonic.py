"""Tests of :mod:`x509proxy.transport.monotonic`."""

from __future__ import annotations

import time

from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.transport.monotonic import use_monotonic_time


class Monotonic(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = SelectReactor()
        self.addCleanup(self.reactor.removeAll)
        self.fired: list[float] = []

    def wait(self) -> None:
        """Let the reactor turn until a timer has fired."""
        end = time.monotonic() + 10
        while not self.fired and time.monotonic() < end:
            self.reactor.iterate(0.01)

    def test_timer(self) -> None:
        """A timer is made and fires by the monotonic clock."""
        use_monotonic_time(self.reactor)
        before = time.monotonic()
        call = self.reactor.callLater(0.02, lambda: self.fired.append(time.monotonic()))
        self.assertTrue(before + 0.02 <= call.getTime() <= time.monotonic() + 0.02)
        self.wait()
        self.assertTrue(before + 0.02 <= self.fired[0] <= time.monotonic())

    def test_timers_before(self) -> None:
        """A reactor that has a timer is left alone: that one would never fire."""
        self.reactor.callLater(0.02, lambda: self.fired.append(0.0))
        use_monotonic_time(self.reactor)
        self.assertIs(time.time, self.reactor.seconds)
        self.wait()
        self.assertEqual([0.0], self.fired)

    def test_other_clock(self) -> None:
        """So is one that goes by another clock."""
        clock = Clock()
        use_monotonic_time(clock)
        self.assertEqual(0.0, clock.seconds())
