"""Tests of :mod:`x509proxy.monitoring.status_page.history`: rates and durations."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.support.snapshots import snapshot
from x509proxy.monitoring.counters import BOUNDS, Counts
from x509proxy.monitoring.status_page.history import History, quantile

BINS = len(BOUNDS) + 1


def durations(*counted: tuple[int, int]) -> tuple[int, ...]:
    """Bins with these counts, by place."""
    found = [0] * BINS
    for place, count in counted:
        found[place] = count
    return tuple(found)


def counts(
    answered: int, refused: int = 0, seconds: float = 0.0, bins: tuple[int, ...] = (0,) * BINS
) -> Counts:
    return Counts(
        exchanges={"a": {"completed": {200: answered}}, "": {"rejected": {401: refused}}},
        seconds=seconds,
        durations=bins,
        handshakes={"TLSv1.3": answered},
        handshake_failures={"no_client_hello": refused},
        bytes_out=1000 * answered,
    )


class Rates(SynchronousTestCase):
    def setUp(self) -> None:
        self.history = History(3)

    def add(self, at: float, found: Counts) -> None:
        self.history.add(snapshot(taken=at, counts=found, connections=4))

    def test_rates(self) -> None:
        """Totals become rates by the time between two snapshots."""
        self.add(0.0, counts(10))
        self.assertEqual([], [*self.history.samples])
        self.add(2.0, counts(16, refused=2, seconds=0.3))
        [found] = self.history.samples
        self.assertEqual(
            (4.0, 1.0, 3.0, 1.0), (found.exchanges, found.refused, found.handshakes, found.failures)
        )
        self.assertEqual(
            (2.0, 3000.0, 4, 50.0),
            (found.at, found.bytes_out, found.connections, found.milliseconds),
        )

    def test_odd(self) -> None:
        """A total that shrinks, or a clock that stops, makes no negative rate and no error."""
        self.add(0.0, counts(10, seconds=1.0))
        self.add(2.0, counts(5))
        self.assertEqual(
            (0.0, 0.0), (self.history.samples[0].exchanges, self.history.samples[0].milliseconds)
        )
        self.add(2.0, counts(7))
        self.assertEqual(1, len(self.history.samples))

    def test_bounded(self) -> None:
        """So many samples are kept, the newest."""
        for second in range(9):
            self.add(float(second), counts(second))
        self.assertEqual([6.0, 7.0, 8.0], [sample.at for sample in self.history.samples])

    def test_quantile(self) -> None:
        """A quantile is of the last samples only."""
        self.assertIsNone(self.history.quantile(0.5))
        self.add(0.0, counts(0, bins=durations((0, 1000))))
        self.add(1.0, counts(0, bins=durations((0, 1000), (3, 10))))
        self.add(2.0, counts(0, bins=durations((0, 2000), (3, 10))))
        self.assertAlmostEqual(0.0005, self.history.quantile(0.5) or 0, places=4)
        self.add(3.0, counts(0, bins=durations((0, 2000), (3, 20))))
        self.assertAlmostEqual(0.0075, self.history.quantile(0.5, samples=1) or 0)


class Quantiles(SynchronousTestCase):
    def test_within_a_bin(self) -> None:
        """Durations are spread evenly within a bin.

        What is beyond the last bound is at that bound.
        """
        for bins, share, expected in (
            (durations((0, 10)), 0.5, BOUNDS[0] / 2),
            (durations((2, 4)), 1.0, BOUNDS[2]),
            (durations((0, 1), (1, 1)), 0.5, BOUNDS[0]),
            (durations((BINS - 1, 3)), 0.5, BOUNDS[-1]),
        ):
            found = quantile(share, bins)
            assert found is not None
            self.assertAlmostEqual(expected, found)

    def test_nothing(self) -> None:
        """Of nothing there is none."""
        self.assertIsNone(quantile(0.5, durations()))
