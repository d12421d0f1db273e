"""The sum of the snapshots of several workers with one configuration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TypeVar

import msgspec

from x509proxy.monitoring.counters import Counts
from x509proxy.monitoring.snapshot import (
    BackendState,
    ClientState,
    RefusalState,
    Snapshot,
    TokenState,
)

__all__ = ["WorkerAggregate", "combine"]

_MAX_LATEST = 50
_Row = TypeVar("_Row", RefusalState, ClientState)


def combine(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Return one snapshot for several processes with one configuration.

    Common values are those of the newest snapshot. The state of a back end is the best of all.
    """
    newest = max(snapshots, key=lambda snapshot: snapshot.taken)
    return msgspec.structs.replace(
        newest,
        started=min(snapshot.started for snapshot in snapshots),
        draining=all(snapshot.draining for snapshot in snapshots),
        backends=_backends([backend for snapshot in snapshots for backend in snapshot.backends]),
        connections=sum(snapshot.connections for snapshot in snapshots),
        most_connections=sum(snapshot.most_connections for snapshot in snapshots),
        refusals=_newest(
            (row for snapshot in snapshots for row in snapshot.refusals), lambda row: row.at
        ),
        clients=_clients([row for snapshot in snapshots for row in snapshot.clients]),
        workers=tuple(
            sorted(
                (row for snapshot in snapshots for row in snapshot.workers),
                key=lambda worker: worker.pid,
            )
        ),
        tokens=_tokens([one.tokens for one in snapshots if one.tokens is not None], newest.tokens),
        counts=sum((snapshot.counts for snapshot in snapshots), Counts()),
    )


def _newest(rows: Iterable[_Row], when: Callable[[_Row], float]) -> tuple[_Row, ...]:
    return tuple(sorted(rows, key=when, reverse=True)[:_MAX_LATEST])


def _tokens(rows: list[TokenState], newest: TokenState | None) -> TokenState | None:
    """Return the newest state with the sums of all numbers, apart from the keys."""
    if newest is None:
        return None
    pending, failures = sum(row.pending for row in rows), sum(row.failures for row in rows)
    return msgspec.structs.replace(newest, pending=pending, failures=failures)


_BEST_FIRST = ("up", "slow", "down")


def _backends(rows: list[BackendState]) -> tuple[BackendState, ...]:
    """Return a row for each URL, in the order of their first rows."""
    grouped = {row.url: [other for other in rows if other.url == row.url] for row in rows}
    return tuple(_backend(same) for same in grouped.values())


def _backend(same: list[BackendState]) -> BackendState:
    best = min(same, key=lambda row: (_BEST_FIRST.index(row.state), not row.due))
    numbers = ("busy", "idle", "opening", "waiting", "connections", "queue", "failures")
    last = max(same, key=lambda row: row.failed)
    return msgspec.structs.replace(
        best,
        checked=max(row.checked for row in same),
        failed=last.failed,
        reason=last.reason if last.failed else best.reason,
        **{name: sum(getattr(row, name) for row in same) for name in numbers},
    )


def _clients(rows: list[ClientState]) -> tuple[ClientState, ...]:
    def thumbprint(row: ClientState) -> str:
        return row.thumbprint

    merged = [
        _client_of_several([*same]) for _, same in groupby(sorted(rows, key=thumbprint), thumbprint)
    ]
    return _newest(merged, lambda row: row.last)


def _client_of_several(same: list[ClientState]) -> ClientState:
    newest = max(same, key=lambda row: row.last)
    return msgspec.structs.replace(newest, requests=sum(row.requests for row in same))


_STALE = 10.0  # seconds; a worker reports every second


class WorkerAggregate:
    """The newest snapshot of each worker, and the counts of workers that have ended.

    ``own`` makes the parent's own snapshot, which alone has the listeners, certificates and
    reloads. ``draining`` is True if all workers are to end. The counts of ended workers are
    kept. If a total shrank, Prometheus would take it for a restart and count the rest again.
    """

    def __init__(
        self, own: Callable[[], Snapshot], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.draining = False
        self._own = own
        self._now = now
        self._newest: dict[int, Snapshot] = {}
        # On the parent's monotonic clock, so that a change of the time of day has no effect.
        self._reported: dict[int, float] = {}
        self._ended = Counts()

    def add(self, number: int, snapshot: Snapshot) -> None:
        """Store the snapshot of worker ``number``."""
        self._newest[number] = snapshot
        self._reported[number] = self._now()

    def ended(self, number: int) -> None:
        """Keep the counts of worker ``number``, if it has ever reported, and drop its snapshot."""
        if number in self._newest:
            self._ended += self._newest.pop(number).counts

    def snapshot(self) -> Snapshot:
        """Return the sum of all workers.

        Without a recent report it has no back ends, so that the proxy is not ready.
        """
        own, now = self._own(), self._now()
        recent = [
            one for number, one in self._newest.items() if now - self._reported[number] < _STALE
        ]
        workers = combine(recent or [own])
        counts = sum((one.counts for one in self._newest.values()), own.counts + self._ended)
        return msgspec.structs.replace(
            workers,
            taken=own.taken,
            started=own.started,
            draining=self.draining or workers.draining,
            listeners=own.listeners,
            certificates=own.certificates,
            reload=own.reload,
            counts=counts,
        )
