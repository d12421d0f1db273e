"""Tests of :mod:`x509proxy.downstream.client_progress`, with counts in the test's hands."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.downstream.client_progress import ClientProgress
from x509proxy.exchange import Exchange, Outcome
from x509proxy.http1.errors import Code
from x509proxy.transport.deadlines import Deadlines


class Kernel:
    """The kernel's counts for one connection."""

    def __init__(self, unsent: int | None = 0, acknowledged: int | None = 0) -> None:
        self.counts = (unsent, acknowledged)

    def unsent(self) -> int | None:
        return self.counts[0]

    def acknowledged(self) -> int | None:
        return self.counts[1]


class ProgressTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.kernel = Kernel()
        delivery: Any = self.kernel
        self.reported: list[tuple[Outcome, Code | None]] = []
        self.progress = ClientProgress(delivery, Deadlines(self.clock), 100, self.observe)

    def observe(self, exchange: Exchange) -> None:
        self.reported.append((exchange.outcome, exchange.code))

    def confirm(self) -> None:
        exchange = Exchange(
            started=0.0, duration=1.0, peer="", method="GET", target="/", outcome=Outcome.COMPLETED
        )
        self.progress.confirm(exchange)


class Rate(ProgressTestCase):
    def test_moves(self) -> None:
        """A client that receives at the rate continues, and a slower one does not."""
        self.progress.begin()
        self.clock.advance(10)
        self.kernel.counts = (500, 1000)
        self.assertTrue(self.progress.continues())
        self.clock.advance(10)
        self.kernel.counts = (500, 1999)
        self.assertFalse(self.progress.continues())

    def test_no_octet(self) -> None:
        """Without an octet nothing continues, however short the time."""
        self.progress.begin()
        self.assertFalse(self.progress.continues())

    def test_unknown(self) -> None:
        """Where nothing was measured before, or nothing can be, nothing continues."""
        self.kernel.counts = (0, 1000)
        self.assertFalse(self.progress.continues())
        self.kernel.counts = (None, None)
        self.assertFalse(self.progress.continues())

    def test_complete(self) -> None:
        """Everything has arrived when the kernel holds nothing, and has been given everything."""
        self.assertTrue(self.progress.is_complete)
        self.progress.is_blocked = True
        self.assertFalse(self.progress.is_complete)
        self.progress.is_blocked = False
        for unsent in (1, None):
            self.kernel.counts = (unsent, 0)
            self.assertFalse(self.progress.is_complete)


class Records(ProgressTestCase):
    def test_confirmed(self) -> None:
        """A response is complete when the client has acknowledged all that the kernel held."""
        self.confirm()
        self.assertEqual([], self.reported)
        self.kernel.counts = (900, 100)
        self.clock.advance(0.25)
        self.kernel.counts = (901, 999)
        self.clock.advance(0.25)
        self.assertEqual([], self.reported)
        self.kernel.counts = (900, 1000)
        self.clock.advance(0.25)
        self.assertEqual([(Outcome.COMPLETED, None)], self.reported)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_blocked(self) -> None:
        """As long as the kernel has not taken everything, its count is not used."""
        self.confirm()
        self.progress.is_blocked = True
        self.clock.advance(1)
        self.assertEqual([], self.reported)
        self.progress.is_blocked = False
        self.clock.advance(0.25)
        self.assertEqual([(Outcome.COMPLETED, None)], self.reported)

    def test_unknown(self) -> None:
        """Without counters a response is reported at once, or at the end if they are lost later."""
        self.kernel.counts = (None, None)
        self.confirm()
        self.assertEqual([(Outcome.COMPLETED, None)], self.reported)
        self.kernel.counts = (0, 0)
        self.confirm()
        self.kernel.counts = (None, None)
        self.clock.advance(1)
        self.assertEqual(1, len(self.reported))

    def test_observer_fails(self) -> None:
        """An observer that fails is logged, and changes nothing else."""
        self.kernel.counts = (None, None)
        self.patch(self.progress, "_observe", lambda _: 1 / 0)
        self.confirm()
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_end(self) -> None:
        """At the connection's end the rest is reported, as it ended; once."""
        for code, outcome in ((None, Outcome.COMPLETED), (Code.SEND_TIMEOUT, Outcome.ABORTED)):
            self.reported.clear()
            self.confirm()
            self.progress.end(code)
            self.progress.end(None)
            self.assertEqual([(outcome, code)], self.reported)
        self.assertEqual([], self.clock.getDelayedCalls())
