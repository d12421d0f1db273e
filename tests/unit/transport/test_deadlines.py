"""Tests of :mod:`x509proxy.transport.deadlines`: on time, and no timer without waiters."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from x509proxy.transport.deadlines import NEVER, Deadlines


class Waiting:
    """A waiter that records the times of its calls."""

    def __init__(self, clock: Clock, deadline: float = NEVER) -> None:
        self.clock = clock
        self.deadline = deadline
        self.calls: list[float] = []

    def expired(self) -> None:
        self.calls.append(self.clock.seconds())
        self.deadline = NEVER


class Stubborn(Waiting):
    """A waiter that does not change its deadline."""

    def expired(self) -> None:
        self.calls.append(self.clock.seconds())


class Forgetting(Waiting):
    """A waiter that forgets itself and others when it expires."""

    def __init__(
        self, clock: Clock, deadline: float, deadlines: Deadlines, *others: Waiting
    ) -> None:
        super().__init__(clock, deadline)
        self.deadlines = deadlines
        self.others = others

    def expired(self) -> None:
        super().expired()
        for waiter in (self, *self.others):
            self.deadlines.forget(waiter)


class DeadlineTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock, resolution=0.25)

    def watched(self, deadline: float = NEVER) -> Waiting:
        waiter = Waiting(self.clock, deadline)
        self.deadlines.watch(waiter)
        return waiter

    def advance(self, seconds: float) -> None:
        """Advance in steps much smaller than the resolution."""
        self.clock.pump([1 / 64] * round(seconds * 64))


class Reactor(Clock):
    """A clock with the time of day, as Twisted's reactors have it."""

    seconds = staticmethod(time.time)


class TimeOfDay(SynchronousTestCase):
    def test_steps(self) -> None:
        """Deadlines use the monotonic clock, though the reactor uses the time of day."""
        clock = Deadlines(Reactor()).clock
        before = time.monotonic()
        self.assertTrue(before <= clock.seconds() <= time.monotonic())

    def test_timers(self) -> None:
        """The timers are the reactor's."""
        reactor = Reactor()
        clock = Deadlines(reactor).clock
        verifyObject(IReactorTime, clock)
        call = clock.callLater(3, self.fail, "not yet")
        self.assertEqual(([call], [call]), (reactor.getDelayedCalls(), clock.getDelayedCalls()))

    def test_steps_back(self) -> None:
        """A step back delays the reactor's timers; the next waiter restarts them."""
        reactor, now = Clock(), [100.0]
        clock: Any = SimpleNamespace(seconds=lambda: now[0], callLater=reactor.callLater)
        deadlines = Deadlines(clock)
        waiter = Waiting(reactor, 101.0)
        deadlines.watch(waiter)
        reactor.rightNow -= 3600
        now[0] = 103.0
        deadlines.watch(Waiting(reactor))
        self.assertEqual(1, len(reactor.getDelayedCalls()))
        reactor.advance(0.25)
        self.assertEqual(1, len(waiter.calls))

    def test_other_clocks(self) -> None:
        """Any other clock is used as it is."""
        clock = Clock()
        self.assertIs(clock, Deadlines(clock).clock)


class Resolution(DeadlineTestCase):
    def test_never_early_and_soon_after(self) -> None:
        """No waiter expires early, nor later than ``resolution`` after its deadline."""
        waiters = [self.watched(tenths / 10) for tenths in range(1, 30)]
        self.advance(4)
        for waiter in waiters:
            wanted, (called,) = 0.1 * (1 + waiters.index(waiter)), waiter.calls
            self.assertGreaterEqual(called + 1e-9, wanted)
            self.assertLessEqual(called, wanted + 0.25)

    def test_exactly(self) -> None:
        """A deadline at the time of a check expires in it."""
        waiter = self.watched(0.5)
        self.clock.advance(0.25)
        self.assertEqual([], waiter.calls)
        self.clock.advance(0.25)
        self.assertEqual([0.5], waiter.calls)

    def test_of_ones_own(self) -> None:
        """The resolution is a quarter of a second by default."""
        for deadlines, pause in ((Deadlines(self.clock), 0.25), (Deadlines(self.clock, 2), 2)):
            waiter = Waiting(self.clock)
            deadlines.watch(waiter)
            (call,) = self.clock.getDelayedCalls()
            self.assertEqual(self.clock.seconds() + pause, call.getTime())
            deadlines.forget(waiter)

    def test_clock(self) -> None:
        """The clock is public, for all waiters."""
        self.assertIs(self.clock, self.deadlines.clock)


class Expiry(DeadlineTestCase):
    def test_never(self) -> None:
        """A waiter without a deadline never expires."""
        waiter = self.watched()
        self.clock.pump([1000] * 10)
        self.assertEqual([], waiter.calls)

    def test_put_off(self) -> None:
        """A deadline counts as it is at the check, however often it was changed before."""
        waiter = self.watched(1)
        self.advance(0.9)
        waiter.deadline = 2
        self.advance(1)
        self.assertEqual([], waiter.calls)
        self.advance(0.5)
        self.assertEqual([2.0], waiter.calls)

    def test_once(self) -> None:
        """A waiter that changes its deadline is called once."""
        waiter = self.watched(1)
        self.advance(10)
        self.assertEqual([1.0], waiter.calls)

    def test_unchanged(self) -> None:
        """A waiter that keeps its deadline is called at each check."""
        waiter = Stubborn(self.clock, 1)
        self.deadlines.watch(waiter)
        self.advance(1.75)
        self.assertEqual([1.0, 1.25, 1.5, 1.75], waiter.calls)

    def test_watched_twice(self) -> None:
        """A waiter that is watched twice is called once, and forgotten at once."""
        waiter = self.watched(1)
        self.deadlines.watch(waiter)
        self.advance(2)
        self.assertEqual([1.0], waiter.calls)
        self.deadlines.forget(waiter)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_in_order(self) -> None:
        """Waiters that expire together are called in the order in which they were watched."""
        order: list[Waiting] = []
        waiters = [self.watched(deadline) for deadline in (0.3, 0.1, 0.2)]
        for waiter in waiters:
            self.patch(waiter, "expired", lambda waiter=waiter: order.append(waiter))
        self.clock.advance(0.5)
        self.assertEqual(waiters, order[:3])


class Forget(DeadlineTestCase):
    def test_forgotten(self) -> None:
        """A forgotten waiter is not called; the others are."""
        gone, other = self.watched(1), self.watched(1)
        self.deadlines.forget(gone)
        self.advance(2)
        self.assertEqual([[], [1.0]], [gone.calls, other.calls])

    def test_unknown(self) -> None:
        """To forget twice, or a waiter that was never watched, is no error."""
        waiter = self.watched(1)
        for _ in range(3):
            self.deadlines.forget(waiter)
        self.deadlines.forget(Waiting(self.clock))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_while_looking(self) -> None:
        """A waiter may forget itself during a check; the last one stops the timer."""
        waiter = Forgetting(self.clock, 1, self.deadlines)
        self.deadlines.watch(waiter)
        self.advance(2)
        self.assertEqual([1.0], waiter.calls)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_watch_while_looking(self) -> None:
        """A waiter that is added during a check is checked in the next."""
        late = Waiting(self.clock, 0)
        early = self.watched(1)

        def expired() -> None:
            early.deadline = NEVER
            self.deadlines.watch(late)

        self.patch(early, "expired", expired)
        self.advance(1)
        self.assertEqual([], late.calls)
        self.advance(0.25)
        self.assertEqual([1.25], late.calls)

    def test_put_off_while_looking(self) -> None:
        """A waiter whose deadline changes during a check is not called in it."""
        early, other = self.watched(1), Waiting(self.clock, 1)
        self.deadlines.watch(other)

        def expired() -> None:
            early.deadline, other.deadline = NEVER, 1.5

        self.patch(early, "expired", expired)
        self.advance(2)
        self.assertEqual([1.5], other.calls)

    def test_forgotten_while_looking(self) -> None:
        """A waiter that is forgotten during a check is not called in it."""
        other = Waiting(self.clock, 1)
        self.deadlines.watch(Forgetting(self.clock, 1, self.deadlines, other))
        self.deadlines.watch(other)
        self.advance(2)
        self.assertEqual([], other.calls)


class Turn(DeadlineTestCase):
    """A late check, after a long turn of the reactor."""

    def late(self) -> None:
        """Let three seconds pass in one turn, and keep the calls for the next turn."""
        self.next_turn: list[Any] = []
        later = self.clock.callLater

        def call_later(delay: float, step: Any) -> Any:
            if delay:
                return later(delay, step)
            self.next_turn.append(step)
            return SimpleNamespace(cancel=self.next_turn.clear)

        self.patch(self.clock, "callLater", call_later)
        self.clock.advance(3)

    def test_sockets_first(self) -> None:
        """Input in the turn after the check extends the deadline in time."""
        early, other = self.watched(1), self.watched(1)
        self.late()
        self.assertEqual([], early.calls)
        early.deadline = 4
        self.next_turn.pop()()
        self.assertEqual(([], [3.0]), (early.calls, other.calls))
        self.clock.advance(1.25)
        self.next_turn.pop()()
        self.assertEqual([4.25], early.calls)

    def test_newcomers(self) -> None:
        """A waiter that is added meanwhile does not delay the others."""
        early = self.watched(1)
        self.late()
        self.watched(9)
        (step,) = self.next_turn
        step()
        self.assertEqual([3.0], early.calls)

    def test_forgotten(self) -> None:
        """No call is left when all have been forgotten meanwhile."""
        early = self.watched(1)
        self.late()
        self.deadlines.forget(early)
        self.assertEqual([], self.next_turn)


class Timer(DeadlineTestCase):
    def test_none_without_waiters(self) -> None:
        """Without waiters there is no timer, so a reactor may stop clean."""
        self.assertEqual([], self.clock.getDelayedCalls())
        waiters = [self.watched(), self.watched()]
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.deadlines.forget(waiters[0])
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.deadlines.forget(waiters[1])
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_starts_again(self) -> None:
        """After a time without waiters the checks start again."""
        self.deadlines.forget(self.watched())
        self.clock.advance(100)
        waiter = self.watched(100.5)
        self.advance(1)
        self.assertEqual([100.5], waiter.calls)

    def test_outlives_an_exception(self) -> None:
        """An exception is logged, and affects neither this check nor the next."""
        bad, good, later = self.watched(0.5), self.watched(0.5), self.watched(0.6)
        self.patch(bad, "expired", lambda: 1 / 0)
        self.advance(0.5)
        bad.deadline = NEVER
        self.advance(0.5)
        self.assertEqual(([0.5], [0.75]), (good.calls, later.calls))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
