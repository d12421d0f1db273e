"""Promises of :mod:`x509proxy.transport.deadlines`."""

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
    """Writes down when it was told, and lets a test say what it does then."""

    def __init__(self, clock: Clock, deadline: float = NEVER) -> None:
        self.clock = clock
        self.deadline = deadline
        self.told: list[float] = []

    def expired(self) -> None:
        self.told.append(self.clock.seconds())
        self.deadline = NEVER


class Stubborn(Waiting):
    """Leaves its deadline where it is."""

    def expired(self) -> None:
        self.told.append(self.clock.seconds())


class Forgetting(Waiting):
    """Ends itself and others when it is told."""

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
        """In steps much smaller than the resolution."""
        self.clock.pump([1 / 64] * round(seconds * 64))


class Reactor(Clock):
    """A reactor as Twisted's are: what it has is the time of day."""

    seconds = staticmethod(time.time)


class TimeOfDay(SynchronousTestCase):
    def test_steps(self) -> None:
        """Deadlines go by a clock that nobody sets, though the reactor goes by the time of day."""
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
        """After a step back of the clock the timers are late. The next deadline corrects them."""
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
        self.assertEqual(1, len(waiter.told))

    def test_other_clocks(self) -> None:
        """A clock that goes by something else is left alone."""
        clock = Clock()
        self.assertIs(clock, Deadlines(clock).clock)


class Resolution(DeadlineTestCase):
    def test_never_early_and_soon_after(self) -> None:
        """Nobody is told before the deadline, nor later than ``resolution`` after it."""
        waiters = [self.watched(tenths / 10) for tenths in range(1, 30)]
        self.advance(4)
        for waiter in waiters:
            wanted, (told,) = 0.1 * (1 + waiters.index(waiter)), waiter.told
            self.assertGreaterEqual(told + 1e-9, wanted)
            self.assertLessEqual(told, wanted + 0.25)

    def test_exactly(self) -> None:
        """A deadline that falls on a look is kept there."""
        waiter = self.watched(0.5)
        self.clock.advance(0.25)
        self.assertEqual([], waiter.told)
        self.clock.advance(0.25)
        self.assertEqual([0.5], waiter.told)

    def test_of_ones_own(self) -> None:
        """The resolution is a quarter of a second unless somebody wants another."""
        for deadlines, pause in ((Deadlines(self.clock), 0.25), (Deadlines(self.clock, 2), 2)):
            waiter = Waiting(self.clock)
            deadlines.watch(waiter)
            (call,) = self.clock.getDelayedCalls()
            self.assertEqual(self.clock.seconds() + pause, call.getTime())
            deadlines.forget(waiter)

    def test_clock(self) -> None:
        """Those who wait tell the time by the same clock."""
        self.assertIs(self.clock, self.deadlines.clock)


class Told(DeadlineTestCase):
    def test_never(self) -> None:
        """Who waits for nothing is never told."""
        waiter = self.watched()
        self.clock.pump([1000] * 10)
        self.assertEqual([], waiter.told)

    def test_put_off(self) -> None:
        """A deadline counts as it stands at the look, however often it was moved before."""
        waiter = self.watched(1)
        self.advance(0.9)
        waiter.deadline = 2
        self.advance(1)
        self.assertEqual([], waiter.told)
        self.advance(0.5)
        self.assertEqual([2.0], waiter.told)

    def test_once(self) -> None:
        """Who sets a new deadline, or none, is told once."""
        waiter = self.watched(1)
        self.advance(10)
        self.assertEqual([1.0], waiter.told)

    def test_until_it_listens(self) -> None:
        """Who leaves the deadline where it is, is told again at each look."""
        waiter = Stubborn(self.clock, 1)
        self.deadlines.watch(waiter)
        self.advance(1.75)
        self.assertEqual([1.0, 1.25, 1.5, 1.75], waiter.told)

    def test_watched_twice(self) -> None:
        """Who is watched twice is told once, and forgotten at once."""
        waiter = self.watched(1)
        self.deadlines.watch(waiter)
        self.advance(2)
        self.assertEqual([1.0], waiter.told)
        self.deadlines.forget(waiter)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_in_order(self) -> None:
        """Those whose time has come are told in the order in which they came."""
        order: list[Waiting] = []
        waiters = [self.watched(deadline) for deadline in (0.3, 0.1, 0.2)]
        for waiter in waiters:
            self.patch(waiter, "expired", lambda waiter=waiter: order.append(waiter))
        self.clock.advance(0.5)
        self.assertEqual(waiters, order[:3])


class Forget(DeadlineTestCase):
    def test_forgotten(self) -> None:
        """Who is forgotten is not told any more; the others are."""
        gone, other = self.watched(1), self.watched(1)
        self.deadlines.forget(gone)
        self.advance(2)
        self.assertEqual([[], [1.0]], [gone.told, other.told])

    def test_unknown(self) -> None:
        """Forgetting twice, or somebody who was never watched, is no error."""
        waiter = self.watched(1)
        for _ in range(3):
            self.deadlines.forget(waiter)
        self.deadlines.forget(Waiting(self.clock))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_while_looking(self) -> None:
        """Who is told may forget itself, and the last one stops the timer from within its look."""
        waiter = Forgetting(self.clock, 1, self.deadlines)
        self.deadlines.watch(waiter)
        self.advance(2)
        self.assertEqual([1.0], waiter.told)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_watch_while_looking(self) -> None:
        """Who begins to wait in the course of a look is looked at in the next."""
        late = Waiting(self.clock, 0)
        early = self.watched(1)

        def expired() -> None:
            early.deadline = NEVER
            self.deadlines.watch(late)

        self.patch(early, "expired", expired)
        self.advance(1)
        self.assertEqual([], late.told)
        self.advance(0.25)
        self.assertEqual([1.25], late.told)

    def test_put_off_while_looking(self) -> None:
        """Whose deadline is put off in the course of a look is not told in it."""
        early, other = self.watched(1), Waiting(self.clock, 1)
        self.deadlines.watch(other)

        def expired() -> None:
            early.deadline, other.deadline = NEVER, 1.5

        self.patch(early, "expired", expired)
        self.advance(2)
        self.assertEqual([1.5], other.told)

    def test_forgotten_while_looking(self) -> None:
        """Who is forgotten in the course of a look is not told in it, though its time has come."""
        other = Waiting(self.clock, 1)
        self.deadlines.watch(Forgetting(self.clock, 1, self.deadlines, other))
        self.deadlines.watch(other)
        self.advance(2)
        self.assertEqual([], other.told)


class Turn(DeadlineTestCase):
    """A look that comes late, since a turn of the reactor took long."""

    def late(self) -> None:
        """Three seconds pass in one turn; the calls for the next turn are kept."""
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
        """What a socket brings in the turn after the look puts the deadline off in time."""
        early, other = self.watched(1), self.watched(1)
        self.late()
        self.assertEqual([], early.told)
        early.deadline = 4
        self.next_turn.pop()()
        self.assertEqual(([], [3.0]), (early.told, other.told))
        self.clock.advance(1.25)
        self.next_turn.pop()()
        self.assertEqual([4.25], early.told)

    def test_newcomers(self) -> None:
        """Whoever is watched meanwhile does not put the others off."""
        early = self.watched(1)
        self.late()
        self.watched(9)
        (step,) = self.next_turn
        step()
        self.assertEqual([3.0], early.told)

    def test_forgotten(self) -> None:
        """Nothing is left to be done when all have gone meanwhile."""
        early = self.watched(1)
        self.late()
        self.deadlines.forget(early)
        self.assertEqual([], self.next_turn)


class Timer(DeadlineTestCase):
    def test_none_without_waiters(self) -> None:
        """While nobody waits there is no timer, and a reactor may stop clean."""
        self.assertEqual([], self.clock.getDelayedCalls())
        waiters = [self.watched(), self.watched()]
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.deadlines.forget(waiters[0])
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.deadlines.forget(waiters[1])
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_starts_again(self) -> None:
        """After a rest it looks again."""
        self.deadlines.forget(self.watched())
        self.clock.advance(100)
        waiter = self.watched(100.5)
        self.advance(1)
        self.assertEqual([100.5], waiter.told)

    def test_outlives_an_exception(self) -> None:
        """Somebody's fault is logged, and costs the others neither this look nor the next."""
        bad, good, later = self.watched(0.5), self.watched(0.5), self.watched(0.6)
        self.patch(bad, "expired", lambda: 1 / 0)
        self.advance(0.5)
        bad.deadline = NEVER
        self.advance(0.5)
        self.assertEqual(([0.5], [0.75]), (good.told, later.told))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
