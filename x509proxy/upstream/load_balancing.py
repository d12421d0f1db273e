"""Load balancing: least connections among the healthy back ends, then the next candidates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import count

from x509proxy.monitoring.backend_status import HealthState
from x509proxy.upstream.pool import ConnectionWaiter, Pool

__all__ = ["candidates"]

# Among equals, the pool whose last turn is oldest comes first.
_turn_numbers = count(1)


def candidates(pools: Sequence[Pool], waiter: ConnectionWaiter) -> Iterator[Pool]:
    """Yield the pools to try for ``waiter``, each chosen at the time when it is needed.

    A pool whose retry delay is over comes first, for one request. Pools that are up follow, by
    load; in a slow start, by load divided by share. Then come those that are held back. If all are
    down, they are tried too, the longest down first: the health state alone never causes a request
    to be rejected.
    """
    return _choices(pools, waiter) if len(pools) > 1 else iter(pools)


def _choices(pools: Sequence[Pool], waiter: ConnectionWaiter) -> Iterator[Pool]:
    left = [*pools]
    while pool := _best(left, pools, waiter):
        left.remove(pool)
        pool.turn = next(_turn_numbers)
        yield pool


def _best(left: Sequence[Pool], pools: Sequence[Pool], waiter: ConnectionWaiter) -> Pool | None:
    for pool in left:
        if not pool.record.spotless:
            return _best_by_health(left, pools, waiter)
    return _least_loaded(left, _load_of, waiter) if left else None


def _least_loaded(
    left: Collection[Pool], load_of: Callable[[Pool], tuple[float, int]], waiter: ConnectionWaiter
) -> Pool:
    """Return the least loaded pool that has a connection for ``waiter``, or of all if none has."""
    least = min(left, key=load_of)
    if least.has_room(waiter):
        return least
    return min((pool for pool in left if pool.has_room(waiter)), key=load_of, default=least)


def _load_of(pool: Pool) -> tuple[float, int]:
    return pool.load, pool.turn


def _best_by_health(
    left: Sequence[Pool], pools: Sequence[Pool], waiter: ConnectionWaiter
) -> Pool | None:
    for pool in left:
        if pool.record.due():
            pool.record.tried()
            return pool
    shares = {pool: share for pool in left if (share := pool.record.share())}
    if shares:
        return _least_loaded(shares, lambda pool: (pool.load / shares[pool], pool.turn), waiter)
    held_back = [pool for pool in left if not _is_down(pool)]
    if held_back:
        return _least_loaded(held_back, _load_of, waiter)
    if not all(map(_is_down, pools)):
        return None
    return min(left, key=lambda pool: pool.record.health.since, default=None)


def _is_down(pool: Pool) -> bool:
    return pool.record.health.state is HealthState.DOWN
