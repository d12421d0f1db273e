"""Which back end is asked, and which one next if no connection can be had to it: least connections, among those that are well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from x509proxy.monitoring.backend_status import BackendState
from x509proxy.upstream.pool import Pool

__all__ = ["candidates"]

# Among equals the one that was chosen longest ago.
_turns = count(1)


def candidates(pools: Sequence[Pool]) -> Iterator[Pool]:
    """The pools to ask, one after the other, each chosen when it is asked for.

    One whose retry-delay is over comes first, for one request. Then those that are up, by how much they have to do, in a slow
    start for their share of it; then those that are held back. Those that are down are asked if none is up, the one that has been
    down longest first: the health state alone never causes a request to be rejected.
    """
    return _choices(pools) if len(pools) > 1 else iter(pools)


def _choices(pools: Sequence[Pool]) -> Iterator[Pool]:
    left = [*pools]
    while pool := _best(left, pools):
        left.remove(pool)
        pool.turn = next(_turns)
        yield pool


def _best(left: Sequence[Pool], pools: Sequence[Pool]) -> Pool | None:
    for pool in left:
        if not pool.record.spotless:
            return _best_of_unequal(left, pools)
    return min(left, key=_burden) if left else None


def _burden(pool: Pool) -> tuple[float, int]:
    return pool.load, pool.turn


def _best_of_unequal(left: Sequence[Pool], pools: Sequence[Pool]) -> Pool | None:
    for pool in left:
        if pool.record.due():
            pool.record.tried()
            return pool
    shares = {pool: share for pool in left if (share := pool.record.share())}
    if shares:
        return min(shares, key=lambda pool: (pool.load / shares[pool], pool.turn))
    held_back = [pool for pool in left if not _is_down(pool)]
    if held_back:
        return min(held_back, key=_burden)
    if not all(map(_is_down, pools)):
        return None
    return min(left, key=lambda pool: pool.record.health.since, default=None)


def _is_down(pool: Pool) -> bool:
    return pool.record.health.state is BackendState.DOWN
