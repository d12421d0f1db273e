"""Promises of :mod:`x509proxy.upstream.load_balancing`: which back end is asked, and in which order the others."""

from __future__ import annotations

from collections import Counter

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import OK, BackEnd, RecordingWaiter
from x509proxy.monitoring.backend_status import BackendState
from x509proxy.settings import Backend, HealthSettings, UpstreamSettings
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.load_balancing import candidates
from x509proxy.upstream.pool import Pool

SETTINGS = UpstreamSettings(failure_threshold=1, retry_delay=1, slow_start=10, response_timeout=20)


class BalanceTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.arrange(3)

    def arrange(self, number: int, checks: HealthSettings | None = None) -> None:
        deadlines, urls = (
            Deadlines(self.clock),
            [f"http://127.0.0.1:{8080 + place}" for place in range(number)],
        )
        self.pools = [
            Pool(Backend.parse(url), BackEnd(self.clock), deadlines, SETTINGS, checks)
            for url in urls
        ]

    def order(self) -> list[int]:
        """The places of those that are asked, if none can be connected to and all this takes no time."""
        return [self.pools.index(pool) for pool in candidates(self.pools, RecordingWaiter())]

    def first(self) -> int:
        return self.pools.index(next(candidates(self.pools, RecordingWaiter())))

    def busy(self, place: int, number: int = 1) -> None:
        for _ in range(number):
            self.pools[place].acquire(RecordingWaiter(RecordingWaiter.ask))

    def refuse(self, place: int) -> None:
        self.pools[place].record.failed(self.clock.seconds(), "refused")

    def bring_back(self, place: int) -> None:
        self.pools[place].record.served(self.clock.seconds())


class Well(BalanceTestCase):
    """While all are well."""

    def test_only_one(self) -> None:
        """The only one is asked, whatever is thought of it."""
        self.arrange(1)
        self.assertEqual([0], self.order())
        self.refuse(0)
        self.assertEqual([0], self.order())

    def test_least_load(self) -> None:
        """The one with the least to do is asked first, and the others as they have."""
        self.busy(0, 2)
        self.busy(1, 1)
        self.assertEqual([2, 1, 0], self.order())

    def test_turns(self) -> None:
        """Among equals it is the one that was chosen longest ago: one after the other."""
        self.assertEqual([0, 1, 2, 0, 1, 2], [self.first() for _ in range(6)])
        self.busy(1)
        self.assertEqual([0, 2, 0, 2], [self.first() for _ in range(4)])

    def test_late_choice(self) -> None:
        """Who comes next is decided when the first could not be had, by what is known then."""
        order = candidates(self.pools, RecordingWaiter())
        self.assertIs(self.pools[0], next(order))
        self.busy(1)
        self.refuse(0)
        self.assertEqual([self.pools[2], self.pools[1]], [*order])


class Down(BalanceTestCase):
    """Some are down."""

    def test_left_alone(self) -> None:
        """One that is down is not asked, not even if the others cannot serve."""
        self.refuse(0)
        self.assertEqual([1, 2], self.order())

    def test_all(self) -> None:
        """If all are down all are asked, the one that has been down longest first."""
        for place in (1, 0, 2):
            self.refuse(place)
            self.clock.advance(0.1)
        self.assertEqual([1, 0, 2], self.order())

    def test_all_of_a_sudden(self) -> None:
        """If the last one that was up goes down when it is asked, the others are asked all the same."""
        self.refuse(2)
        self.refuse(0)
        order = candidates(self.pools, RecordingWaiter())
        self.assertIs(self.pools[1], next(order))
        self.refuse(1)
        self.assertEqual({self.pools[0], self.pools[2]}, {*order})

    def test_trial(self) -> None:
        """After the retry-delay one request tries it, before the others, which go where all is well."""
        self.refuse(1)
        self.clock.advance(1)
        self.assertEqual([1, 0, 2, 0, 2], [self.first() for _ in range(5)])

    def test_trial_fails(self) -> None:
        """The request of a trial that fails goes on to one that is well."""
        self.refuse(1)
        self.clock.advance(1)
        order = candidates(self.pools, RecordingWaiter())
        self.assertIs(self.pools[1], next(order))
        self.refuse(1)
        self.assertEqual([self.pools[0], self.pools[2]], [*order])
        self.assertEqual([0, 2], self.order())

    def test_checks(self) -> None:
        """Where there are checks no request is risked."""
        self.arrange(2, HealthSettings(path="/"))
        self.pools[0].record.checked("found status 500, expected 200")
        self.clock.advance(60)
        self.assertEqual([1], self.order())


class HeldBack(BalanceTestCase):
    """Some have checks that are good, and exchanges that fail."""

    def setUp(self) -> None:
        super().setUp()
        self.arrange(3, HealthSettings(path="/"))

    def test_last(self) -> None:
        """One that is held back is asked after all others, however much these have to do."""
        self.refuse(0)
        self.busy(1, 5)
        self.assertEqual([2, 1, 0], self.order())

    def test_all(self) -> None:
        """If all are held back they are all asked, by what they have to do."""
        for place in range(3):
            self.refuse(place)
        self.busy(0, 2)
        self.busy(1)
        self.assertEqual([2, 1, 0], self.order())

    def test_before_those_that_are_down(self) -> None:
        """One that the checks have taken out is not asked while another is only held back."""
        self.refuse(0)
        self.refuse(1)
        self.pools[2].record.checked("found status 500, expected 200")
        self.assertEqual([0, 1], self.order())


class SlowStart(BalanceTestCase):
    """One is just back."""

    def setUp(self) -> None:
        super().setUp()
        self.arrange(2)
        self.refuse(0)
        self.clock.advance(1)
        self.bring_back(0)

    def test_share(self) -> None:
        """It has at the most its share of what the others have to do, which grows; but always something."""
        self.assertEqual(BackendState.SLOW, self.pools[0].record.health.state)
        self.busy(1, 20)
        loads = []
        for _ in range(4):
            while self.first() == 0:
                self.busy(0)
            loads.append(self.pools[0].load)
            self.clock.advance(2.5)
        self.assertEqual([1, 5, 10, 15], loads)

    def test_over(self) -> None:
        """After that it is as any other."""
        self.clock.advance(10)
        self.assertEqual(Counter({0: 5, 1: 5}), Counter(self.first() for _ in range(10)))
        self.assertEqual(BackendState.UP, self.pools[0].record.health.state)

    def test_nothing_to_do(self) -> None:
        """Where nobody has anything to do they take turns: one request at a time harms nobody."""
        self.assertEqual(Counter({0: 5, 1: 5}), Counter(self.first() for _ in range(10)))


class Fairness(BalanceTestCase):
    """Over many exchanges."""

    def test_even(self) -> None:
        """Each gets the same number, and each of its connections is used."""
        for _ in range(30):
            pool = next(candidates(self.pools, RecordingWaiter()))
            borrower = RecordingWaiter(RecordingWaiter.ask)
            pool.acquire(borrower)
            borrower.connection.transport.deliver(OK)
        self.assertEqual([10, 10, 10], [pool.status().exchanges for pool in self.pools])
