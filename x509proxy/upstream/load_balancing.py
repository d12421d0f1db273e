"""Which back end is asked, and which one next if no connection can be had to it: least connections, among those that are well."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import count

from x509proxy.monitoring.backend_status import BackendState
from x509proxy.upstream.pool import ConnectionWaiter, Pool

__all__ = ["candidates"]

# Among equals the one that was chosen longest ago.
_turns = count(1)


def candidates(pools: Sequence[Pool], asker: ConnectionWaiter) -> Iterator[Pool]:
    """The pools to ask for a connection for ``asker``, one after the other, each chosen when it is asked for.

    One whose retry-delay is over comes first, for one request. Then those that are up, by how much they have to do, in a slow
    start for their share of it; then those that are held back. Those that are down are asked if none is up, the one that has been
    down longest first: the health state alone never causes a request to be rejected.
    """
    return _choices(pools, asker) if len(pools) > 1 else iter(pools)


def _choices(pools: Sequence[Pool], asker: ConnectionWaiter) -> Iterator[Pool]:
    left = [*pools]
    while pool := _best(left, pools, asker):
        left.remove(pool)
        pool.turn = next(_turns)
        yield pool


def _best(left: Sequence[Pool], pools: Sequence[Pool], asker: ConnectionWaiter) -> Pool | None:
    for pool in left:
        if not pool.record.spotless:
            return _best_of_unequal(left, pools, asker)
    return _least(left, _burden, asker) if left else None


def _least(
    left: Collection[Pool], burden: Callable[[Pool], tuple[float, int]], asker: ConnectionWaiter
) -> Pool:
    """The one with the least to do, of those that have a connection for ``asker``, or of all if none has."""
    least = min(left, key=burden)
    if least.has_room(asker):
        return least
    return min((pool for pool in left if pool.has_room(asker)), key=burden, default=least)


def _burden(pool: Pool) -> tuple[float, int]:
    return pool.load, pool.turn


def _best_of_unequal(
    left: Sequence[Pool], pools: Sequence[Pool], asker: ConnectionWaiter
) -> Pool | None:
    for pool in left:
        if pool.record.due():
            pool.record.tried()
            return pool
    shares = {pool: share for pool in left if (share := pool.record.share())}
    if shares:
        return _least(shares, lambda pool: (pool.load / shares[pool], pool.turn), asker)
    held_back = [pool for pool in left if not _is_down(pool)]
    if held_back:
        return _least(held_back, _burden, asker)
    if not all(map(_is_down, pools)):
        return None
    return min(left, key=lambda pool: pool.record.health.since, default=None)


def _is_down(pool: Pool) -> bool:
    return pool.record.health.state is BackendState.DOWN
