"""What went on in the last minutes, as rates, out of snapshots that are taken at regular times: the status page's graphs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from x509proxy.monitoring.counters import BOUNDS
from x509proxy.monitoring.snapshot import Snapshot

__all__ = ["History", "Sample", "quantile"]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What went on between two snapshots, by the second; ``at``: the later one's time; ``connections``: at that time.

    ``failures``: handshakes; ``refused``, ``aborted``: exchanges that were not answered by a back end, or not whole.
    ``milliseconds``: how long an answered exchange took on the average, 0 if there was none.
    """

    at: float
    exchanges: float = 0.0
    refused: float = 0.0
    aborted: float = 0.0
    handshakes: float = 0.0
    failures: float = 0.0
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    connections: int = 0
    milliseconds: float = 0.0


class History:
    """The last ``length`` samples, oldest first."""

    def __init__(self, length: int = 150) -> None:
        self.samples: deque[Sample] = deque(maxlen=length)
        self._durations: deque[tuple[int, ...]] = deque(maxlen=length)
        self._last: Snapshot | None = None

    def add(self, snapshot: Snapshot) -> None:
        """Note what has happened since the snapshot before."""
        last, self._last = self._last, snapshot
        if last is not None and snapshot.taken > last.taken:
            self.samples.append(_sample(last, snapshot))
            pairs = zip(last.counts.durations, snapshot.counts.durations, strict=True)
            self._durations.append(tuple(max(0, after - before) for before, after in pairs))

    def quantile(self, share: float, samples: int = 30) -> float | None:
        """How many seconds so great a share of the answered exchanges took at the most, in the last so many samples."""
        latest = [*self._durations][-samples:]
        return quantile(share, [sum(column) for column in zip(*latest, strict=True)])


def quantile(share: float, bins: Sequence[int]) -> float | None:
    """Seconds, from the bins of :data:`~x509proxy.monitoring.counters.BOUNDS`, evenly spread within one; ``None`` if all are empty."""
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
    answered = new.total("completed") - old.total("completed")

    def rate(one: float, other: float) -> float:
        # A worker's end may be heard of before its last counts are.
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
        milliseconds=round(max(0.0, new.seconds - old.seconds) / answered * 1000, 3)
        if answered > 0
        else 0.0,
    )


def _all(counts: dict[str, int]) -> int:
    return sum(counts.values())
