"""Rates of the last minutes, from snapshots at regular intervals, for the page's graphs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from x509proxy.monitoring.counters import BOUNDS
from x509proxy.monitoring.snapshot import Snapshot

__all__ = ["History", "Sample", "quantile"]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Rates per second between two snapshots."""

    at: float
    """Time of the later snapshot, in seconds since the epoch."""
    exchanges: float = 0.0
    refused: float = 0.0
    """Rate of rejected requests."""
    aborted: float = 0.0
    """Rate of aborted exchanges."""
    handshakes: float = 0.0
    failures: float = 0.0
    """Rate of failed handshakes."""
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    connections: int = 0
    """Number of connections at the later snapshot."""
    milliseconds: float = 0.0
    """Mean duration of a completed exchange. 0 if there was none."""


class History:
    """The latest ``length`` samples, oldest first."""

    def __init__(self, length: int = 150) -> None:
        self.samples: deque[Sample] = deque(maxlen=length)
        self._durations: deque[tuple[int, ...]] = deque(maxlen=length)
        self._last: Snapshot | None = None

    def add(self, snapshot: Snapshot) -> None:
        """Add a sample of the time since the previous snapshot."""
        last, self._last = self._last, snapshot
        if last is not None and snapshot.taken > last.taken:
            self.samples.append(_sample(last, snapshot))
            pairs = zip(last.counts.durations, snapshot.counts.durations, strict=True)
            self._durations.append(tuple(max(0, after - before) for before, after in pairs))

    def quantile(self, share: float, samples: int = 30) -> float | None:
        """Return a quantile of the durations in the latest samples, in seconds, or ``None``."""
        latest = [*self._durations][-samples:]
        return quantile(share, [sum(column) for column in zip(*latest, strict=True)])


def quantile(share: float, bins: Sequence[int]) -> float | None:
    """Return a quantile, in seconds, from bins with the upper bounds ``counters.BOUNDS``.

    Values are assumed to be evenly distributed within a bin. ``None`` means that all bins are
    empty.
    """
    wanted, below = share * sum(bins), 0.0
    ends = (*BOUNDS, BOUNDS[-1])
    for count, begin, end in zip(bins, (0.0, *BOUNDS), ends, strict=False):
        if count and below + count >= wanted:
            return begin + (end - begin) * (wanted - below) / count
        below += count
    return None


def _sample(before: Snapshot, after: Snapshot) -> Sample:
    seconds = after.taken - before.taken
    old, new = before.counts, after.counts
    completed = new.total("completed") - old.total("completed")
    duration = max(0.0, new.seconds - old.seconds)

    def rate(one: float, other: float) -> float:
        # A worker may end before its last counts are received, and the sum then shrinks.
        return round(max(0.0, other - one) / seconds, 3)

    return Sample(
        at=after.taken,
        exchanges=rate(old.total(), new.total()),
        refused=rate(old.total("rejected"), new.total("rejected")),
        aborted=rate(old.total("aborted"), new.total("aborted")),
        handshakes=rate(_all(old.handshakes), _all(new.handshakes)),
        failures=rate(_all(old.handshake_failures), _all(new.handshake_failures)),
        bytes_in=rate(old.bytes_in, new.bytes_in),
        bytes_out=rate(old.bytes_out, new.bytes_out),
        connections=after.connections,
        milliseconds=round(duration / completed * 1000, 3) if completed > 0 else 0.0,
    )


def _all(counts: dict[str, int]) -> int:
    return sum(counts.values())
