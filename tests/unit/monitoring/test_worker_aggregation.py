"""Tests of :mod:`x509proxy.monitoring.worker_aggregation`: several workers as one proxy."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from tests.support.snapshots import DOWN, LISTENER, UP, snapshot
from x509proxy.monitoring.counters import Counts
from x509proxy.monitoring.snapshot import (
    BackendState,
    ClientState,
    RefusalState,
    ReloadState,
    Snapshot,
    TokenState,
    WorkerState,
)
from x509proxy.monitoring.worker_aggregation import WorkerAggregate, combine


def counts(number: int) -> Counts:
    return Counts(exchanges={"http://a": {"completed": {200: number}}})


def refusal(at: float) -> RefusalState:
    return RefusalState(
        at=at, status=401, code="", detail="", method="GET", target="/", peer="192.0.2.7"
    )


def client(thumbprint: str, last: float, requests: int) -> ClientState:
    return ClientState(
        thumbprint=thumbprint,
        subject="",
        verdict="TRUSTED",
        key="",
        ends=0.0,
        last=last,
        requests=requests,
    )


def worker(pid: int, **changes: object) -> Snapshot:
    return snapshot(workers=(WorkerState(pid=pid, started=1.0),), **changes)


class LastFailure(SynchronousTestCase):
    def test_newest(self) -> None:
        """Of several workers' failures of one back end, the newest is shown."""
        old = msgspec.structs.replace(UP, reason="old", failed=1.0)
        new = msgspec.structs.replace(DOWN, url=UP.url, reason="new", failed=2.0)
        for rows in ((old, new), (new, old)):
            [found] = combine([snapshot(backends=(row,)) for row in rows]).backends
            self.assertEqual(("up", "new", 2.0), (found.state, found.reason, found.failed))


class Sums(SynchronousTestCase):
    def test_numbers(self) -> None:
        """Connections and counters are added; what they have in common is the newest's."""
        one = worker(
            2, taken=101.0, connections=3, most_connections=10, counts=counts(1), started=1.0
        )
        other = worker(1, connections=4, most_connections=10, counts=counts(2), version="old")
        both = combine([one, other])
        self.assertEqual(
            (7, 20, 3, "1", 1.0),
            (
                both.connections,
                both.most_connections,
                both.counts.total(),
                both.version,
                both.started,
            ),
        )
        self.assertEqual([1, 2], [row.pid for row in both.workers])

    def test_tokens(self) -> None:
        """Waiting requests, and failures, are added.

        Keys are the newest's; without a check there is none.
        """
        rows = [
            TokenState(level="jwt", keys=keys, pending=1, failures=2, error=error)
            for keys, error in ((1, ""), (2, "no"))
        ]
        one, other = worker(1, taken=101.0, tokens=rows[0]), worker(2, taken=100.0, tokens=rows[1])
        expected = TokenState(level="jwt", keys=1, pending=2, failures=4)
        self.assertEqual(expected, combine([one, other]).tokens)
        self.assertIsNone(combine([worker(1), worker(2)]).tokens)

    def test_back_ends(self) -> None:
        """A back end is as well as the most hopeful thinks.

        Its connections are added; a new one's row is not lost.
        """
        bad = BackendState(
            url="http://a", state="down", reason="no", busy=1, failures=5, checked=9.0
        )
        good = BackendState(url="http://a", state="slow", busy=2, failures=1, checked=8.0)
        first, second = combine(
            [snapshot(backends=(bad,)), snapshot(backends=(good, DOWN))]
        ).backends
        self.assertEqual(
            ("slow", "", 3, 6, 9.0),
            (first.state, first.reason, first.busy, first.failures, first.checked),
        )
        self.assertEqual(DOWN, second)
        due = BackendState(url="http://a", state="down", due=True)
        for both in ((bad, due), (due, bad)):
            self.assertTrue(combine([snapshot(backends=(one,)) for one in both]).backends[0].due)

    def test_all_numbers_of_a_back_end(self) -> None:
        """Every number of a back end is added up, one that is new in ``BackendState`` too."""
        names = [one.name for one in msgspec.structs.fields(BackendState) if one.type is int]
        rows = [
            msgspec.structs.replace(UP, **{name: step + at for at, name in enumerate(names)})
            for step in (100, 1000)
        ]
        [found] = combine([snapshot(backends=(row,)) for row in rows]).backends
        self.assertIn("busy", names)
        self.assertEqual(
            {name: 1100 + 2 * at for at, name in enumerate(names)},
            {name: getattr(found, name) for name in names},
        )

    def test_draining(self) -> None:
        """It drains when all do."""
        self.assertFalse(combine([snapshot(draining=True), snapshot()]).draining)
        self.assertTrue(combine([snapshot(draining=True), snapshot(draining=True)]).draining)

    def test_rows(self) -> None:
        """Refusals are merged, newest first, fifty at the most.

        A client that went to both is one row.
        """
        one = snapshot(
            refusals=tuple(refusal(at) for at in range(40)),
            clients=(client("x", 5.0, 2), client("y", 1.0, 1)),
        )
        other = snapshot(
            refusals=tuple(refusal(at + 0.5) for at in range(40)), clients=(client("x", 7.0, 3),)
        )
        both = combine([one, other])
        self.assertEqual(
            (50, 39.5, 39.0), (len(both.refusals), both.refusals[0].at, both.refusals[1].at)
        )
        self.assertEqual(
            [("x", 7.0, 5), ("y", 1.0, 1)],
            [(row.thumbprint, row.last, row.requests) for row in both.clients],
        )


class Aggregates(SynchronousTestCase):
    def setUp(self) -> None:
        reload = ReloadState(loaded=1.0, failed=2.0, error="broken")
        self.own = snapshot(
            backends=(), reload=reload, counts=Counts(reloads={"failure": 1}), version="parent"
        )
        self.now = 1000.0
        self.aggregate = WorkerAggregate(lambda: self.own, lambda: self.now)

    def test_no_report(self) -> None:
        """Before the first report there is the parent's own state, and it is not ready."""
        found = self.aggregate.snapshot()
        self.assertEqual(
            ((LISTENER,), "broken", False), (found.listeners, found.reload.error, found.ready)
        )
        self.assertEqual({"failure": 1}, found.counts.reloads)

    def test_together(self) -> None:
        """Workers' numbers are added to the parent's; reloads are the parent's business."""
        self.aggregate.add(1, worker(11, counts=counts(2)))
        self.aggregate.add(2, worker(12, counts=counts(3)))
        found = self.aggregate.snapshot()
        self.assertEqual(
            (5, (UP.url,), "broken"),
            (found.counts.total(), tuple(row.url for row in found.backends), found.reload.error),
        )
        self.assertTrue(found.ready)
        self.assertEqual({"failure": 1}, found.counts.reloads)

    def test_newest(self) -> None:
        """A report takes the place of the one before."""
        for number in (2, 3):
            self.aggregate.add(1, worker(11, counts=counts(number)))
        self.assertEqual(3, self.aggregate.snapshot().counts.total())

    def test_another_process(self) -> None:
        """When a worker has ended it is no longer among those that serve.

        Its counts stay, with any successor.
        """
        self.aggregate.add(1, worker(11, counts=counts(2), connections=7))
        self.aggregate.ended(1)
        found = self.aggregate.snapshot()
        self.assertEqual(
            ((), 0, 2, False), (found.workers, found.connections, found.counts.total(), found.ready)
        )
        self.aggregate.add(1, worker(12, counts=counts(1)))
        self.aggregate.add(1, worker(12, counts=counts(2)))
        self.assertEqual(4, self.aggregate.snapshot().counts.total())

    def test_silent_end(self) -> None:
        """One can end that has never reported."""
        self.aggregate.ended(1)
        self.assertEqual(0, self.aggregate.snapshot().counts.total())

    def test_silent(self) -> None:
        """A worker without a report for ten seconds does not serve, but its counts stay."""
        self.aggregate.add(2, worker(12, counts=counts(3), connections=7))
        self.now += 0.5
        self.aggregate.add(1, worker(11, counts=counts(2)))
        self.now += 9.5
        found = self.aggregate.snapshot()
        self.assertEqual(
            ([11], 0, 5),
            ([row.pid for row in found.workers], found.connections, found.counts.total()),
        )

    def test_clock_that_is_set(self) -> None:
        """A worker's clock, or the parent's, changes no worker's state."""
        for taken in (0.0, 1e9):
            self.aggregate.add(1, worker(11, taken=taken))
            self.assertTrue(self.aggregate.snapshot().ready)
            self.now += 10.0
            self.assertFalse(self.aggregate.snapshot().ready)

    def test_end(self) -> None:
        """Once all are to end the proxy drains, with any last reports."""
        self.aggregate.add(1, worker(11))
        self.aggregate.draining = True
        found = self.aggregate.snapshot()
        self.assertEqual(
            (True, False, [11]), (found.draining, found.ready, [row.pid for row in found.workers])
        )
        self.aggregate.ended(1)
        self.assertTrue(self.aggregate.snapshot().draining)
