"""Several processes that serve by one configuration, seen as one."""

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

_LATEST = 50
_Row = TypeVar("_Row", RefusalState, ClientState)


def combine(snapshots: Sequence[Snapshot]) -> Snapshot:
    """What several processes with one configuration are together.

    What they have in common is taken from the newest. A back end is as well as the most hopeful of them thinks.
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
    return tuple(sorted(rows, key=when, reverse=True)[:_LATEST])


def _tokens(rows: list[TokenState], newest: TokenState | None) -> TokenState | None:
    """Add what can be added. Each worker has keys of its own: those of the newest are shown."""
    if newest is None:
        return None
    pending, failures = sum(row.pending for row in rows), sum(row.failures for row in rows)
    return msgspec.structs.replace(newest, pending=pending, failures=failures)


_HOPE = ("up", "slow", "down")


def _backends(rows: list[BackendState]) -> tuple[BackendState, ...]:
    """One row for each URL, in the order in which they come first."""
    grouped = {row.url: [other for other in rows if other.url == row.url] for row in rows}
    return tuple(_backend(same) for same in grouped.values())


def _backend(same: list[BackendState]) -> BackendState:
    best = min(same, key=lambda row: (_HOPE.index(row.state), not row.due))
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


_STALE = 10.0  # seconds; a worker reports every one of them


class WorkerAggregate:
    """What the parent of several workers knows of them: the newest snapshot of each, and the counts of those that have ended.

    ``own``: the parent's own snapshot, which has what it alone knows: places, certificates, reloads. ``draining``: whether all
    have been told to end. Counts of the dead are kept, or a total would shrink, and Prometheus would take the rest for new.
    """

    def __init__(
        self, own: Callable[[], Snapshot], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.draining = False
        self._own = own
        self._now = now
        self._newest: dict[int, Snapshot] = {}
        # By our own clock, which nobody sets: one that goes wrong must not make the living dead, nor the dead alive.
        self._heard: dict[int, float] = {}
        self._retired = Counts()

    def heard(self, number: int, snapshot: Snapshot) -> None:
        """Worker ``number`` has reported."""
        self._newest[number] = snapshot
        self._heard[number] = self._now()

    def ended(self, number: int) -> None:
        """Worker ``number`` is no more. It may be one that has never reported."""
        if number in self._newest:
            self._retired += self._newest.pop(number).counts

    def snapshot(self) -> Snapshot:
        """All together. While no worker has reported for a while, no back end is known to be up."""
        own, now = self._own(), self._now()
        fresh = [one for number, one in self._newest.items() if now - self._heard[number] < _STALE]
        them = combine(fresh or [own])
        counts = sum((one.counts for one in self._newest.values()), own.counts + self._retired)
        return msgspec.structs.replace(
            them,
            taken=own.taken, started=own.started, draining=self.draining or them.draining, listeners=own.listeners,
            certificates=own.certificates, reload=own.reload, counts=counts,
        )  # fmt: skip
