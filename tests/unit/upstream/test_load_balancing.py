"""Tests of :mod:`x509proxy.upstream.load_balancing`: the order of the back ends."""

from __future__ import annotations

from collections import Counter

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import OK, BackEnd, RecordingWaiter
from x509proxy.monitoring.backend_status import HealthState
from x509proxy.settings import Backend, HealthSettings, UpstreamSettings
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.load_balancing import candidates
from x509proxy.upstream.pool import Pool

SETTINGS = UpstreamSettings(failure_threshold=1, retry_delay=1, slow_start=10, response_timeout=20)


class BalanceTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.arrange(3)

    def arrange(
        self,
        number: int,
        checks: HealthSettings | None = None,
        settings: UpstreamSettings = SETTINGS,
    ) -> None:
        deadlines, urls = (
            Deadlines(self.clock),
            [f"http://127.0.0.1:{8080 + index}" for index in range(number)],
        )
        self.pools = [
            Pool(Backend.parse(url), BackEnd(self.clock), deadlines, settings, checks)
            for url in urls
        ]

    def order(self, *, streams: bool = False) -> list[int]:
        """Return the order in which back ends are tried if none can be connected to."""
        waiter = RecordingWaiter(streams=streams)
        return [self.pools.index(pool) for pool in candidates(self.pools, waiter)]

    def first(self) -> int:
        return self.pools.index(next(candidates(self.pools, RecordingWaiter())))

    def busy(self, index: int, number: int = 1) -> None:
        for _ in range(number):
            self.pools[index].acquire(RecordingWaiter(RecordingWaiter.ask))

    def upload(self, index: int, number: int) -> None:
        for _ in range(number):
            self.pools[index].acquire(RecordingWaiter(streams=True))

    def refuse(self, index: int) -> None:
        self.pools[index].record.failed(self.clock.seconds(), "refused")

    def bring_back(self, index: int) -> None:
        self.pools[index].record.served(self.clock.seconds())


class AllUp(BalanceTestCase):
    """All back ends are up."""

    def test_only_one(self) -> None:
        """A single back end is used, whatever its health."""
        self.arrange(1)
        self.assertEqual([0], self.order())
        self.refuse(0)
        self.assertEqual([0], self.order())

    def test_least_load(self) -> None:
        """The least loaded is tried first, the others by their load."""
        self.busy(0, 2)
        self.busy(1, 1)
        self.assertEqual([2, 1, 0], self.order())

    def test_turns(self) -> None:
        """Equals take turns: the one whose last turn is oldest comes first."""
        self.assertEqual([0, 1, 2, 0, 1, 2], [self.first() for _ in range(6)])
        self.busy(1)
        self.assertEqual([0, 2, 0, 2], [self.first() for _ in range(4)])

    def test_late_choice(self) -> None:
        """The next one is chosen after the first has failed, by the state at that time."""
        order = candidates(self.pools, RecordingWaiter())
        self.assertIs(self.pools[0], next(order))
        self.busy(1)
        self.refuse(0)
        self.assertEqual([self.pools[2], self.pools[1]], [*order])


class Room(BalanceTestCase):
    """Each back end has four connections, of which uploads may hold two."""

    def setUp(self) -> None:
        super().setUp()
        self.arrange(3, settings=UpstreamSettings(max_connections=4, max_queued_requests=8))

    def test_upload(self) -> None:
        """An upload prefers a back end that admits one to a less loaded one."""
        self.upload(0, 2)
        self.busy(1, 3)
        self.busy(2, 4)
        self.assertEqual([1, 0, 2], self.order(streams=True))
        self.assertEqual([0, 1, 2], self.order())

    def test_least_load(self) -> None:
        """Among several back ends that admit an upload, the least loaded comes first."""
        self.upload(0, 2)
        self.busy(1, 3)
        self.busy(2, 2)
        self.assertEqual([2, 1, 0], self.order(streams=True))

    def test_queued_uploads(self) -> None:
        """A complete request prefers a free connection to a shorter queue of uploads."""
        self.busy(0, 4)
        self.upload(1, 5)
        self.busy(2, 5)
        self.assertEqual([1, 0, 2], self.order())


class Down(BalanceTestCase):
    """Some back ends are down."""

    def test_left_alone(self) -> None:
        """One that is down is not tried, even if the others cannot serve."""
        self.refuse(0)
        self.assertEqual([1, 2], self.order())

    def test_all(self) -> None:
        """If all are down, all are tried, the longest down first."""
        for index in (1, 0, 2):
            self.refuse(index)
            self.clock.advance(0.1)
        self.assertEqual([1, 0, 2], self.order())

    def test_last_one_goes_down(self) -> None:
        """If the last one that is up goes down when it is tried, the others are tried too."""
        self.refuse(2)
        self.refuse(0)
        order = candidates(self.pools, RecordingWaiter())
        self.assertIs(self.pools[1], next(order))
        self.refuse(1)
        self.assertEqual({self.pools[0], self.pools[2]}, {*order})

    def test_trial(self) -> None:
        """After the retry delay one request tries it first; later ones use the others."""
        self.refuse(1)
        self.clock.advance(1)
        self.assertEqual([1, 0, 2, 0, 2], [self.first() for _ in range(5)])

    def test_trial_fails(self) -> None:
        """The request of a failed trial continues to a healthy back end."""
        self.refuse(1)
        self.clock.advance(1)
        order = candidates(self.pools, RecordingWaiter())
        self.assertIs(self.pools[1], next(order))
        self.refuse(1)
        self.assertEqual([self.pools[0], self.pools[2]], [*order])
        self.assertEqual([0, 2], self.order())

    def test_checks(self) -> None:
        """With checks, no request tries it."""
        self.arrange(2, HealthSettings(path="/"))
        self.pools[0].record.checked("found status 500, expected 200")
        self.clock.advance(60)
        self.assertEqual([1], self.order())


class HeldBack(BalanceTestCase):
    """Some back ends pass their checks while exchanges fail."""

    def setUp(self) -> None:
        super().setUp()
        self.arrange(3, HealthSettings(path="/"))

    def test_last(self) -> None:
        """One that is held back comes after all others, whatever their load."""
        self.refuse(0)
        self.busy(1, 5)
        self.assertEqual([2, 1, 0], self.order())

    def test_all(self) -> None:
        """If all are held back, all are tried, by load."""
        for index in range(3):
            self.refuse(index)
        self.busy(0, 2)
        self.busy(1)
        self.assertEqual([2, 1, 0], self.order())

    def test_before_those_that_are_down(self) -> None:
        """One that checks took down is not tried while another is only held back."""
        self.refuse(0)
        self.refuse(1)
        self.pools[2].record.checked("found status 500, expected 200")
        self.assertEqual([0, 1], self.order())


class SlowStart(BalanceTestCase):
    """One back end has just recovered."""

    def setUp(self) -> None:
        super().setUp()
        self.arrange(2)
        self.refuse(0)
        self.clock.advance(1)
        self.bring_back(0)

    def test_share(self) -> None:
        """Its load is limited to its share of the others' load, which grows from above zero."""
        self.assertEqual(HealthState.SLOW, self.pools[0].record.health.state)
        self.busy(1, 20)
        loads = []
        for _ in range(4):
            while self.first() == 0:
                self.busy(0)
            loads.append(self.pools[0].load)
            self.clock.advance(2.5)
        self.assertEqual([1, 5, 10, 15], loads)

    def test_over(self) -> None:
        """After the slow start it is equal to the others."""
        self.clock.advance(10)
        self.assertEqual(Counter({0: 5, 1: 5}), Counter(self.first() for _ in range(10)))
        self.assertEqual(HealthState.UP, self.pools[0].record.health.state)

    def test_nothing_to_do(self) -> None:
        """Without load they take turns: one request at a time does no harm."""
        self.assertEqual(Counter({0: 5, 1: 5}), Counter(self.first() for _ in range(10)))


class Fairness(BalanceTestCase):
    """Over many exchanges."""

    def test_even(self) -> None:
        """Each gets the same number, and each of its connections is used."""
        for _ in range(30):
            pool = next(candidates(self.pools, RecordingWaiter()))
            waiter = RecordingWaiter(RecordingWaiter.ask)
            pool.acquire(waiter)
            waiter.connection.transport.deliver(OK)
        self.assertEqual([10, 10, 10], [pool.status().exchanges for pool in self.pools])
