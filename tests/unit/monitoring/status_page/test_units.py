"""Tests of :mod:`x509proxy.monitoring.status_page.units`: readable numbers and times."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.monitoring.status_page.units import (
    ago,
    count,
    number,
    rate,
    seconds,
    size,
    span,
    time_of_day,
    until,
)

_DAY = 86400.0


class Figures(SynchronousTestCase):
    def test_numbers(self) -> None:
        """Three digits that matter, and thousands apart."""
        found = [
            number(value) for value in (0, 0.004, 0.254, 0.949, 3.14, 9.94, 9.95, 99.9, 1250.4)
        ]
        self.assertEqual(["0", "0.00", "0.25", "0.95", "3.1", "9.9", "10", "100", "1,250"], found)
        self.assertEqual(("1,234,567", ("2.5", "/s")), (count(1234567), rate(2.5)))

    def test_sizes(self) -> None:
        """Powers of a thousand, without a fourth digit."""
        found = [
            " ".join(size(value)) for value in (0, 999, 999.6, 1500, 999_600, 2.5e9, 3e12, 5e15)
        ]
        self.assertEqual(
            ["0 B", "999 B", "1.0 kB", "1.5 kB", "1.0 MB", "2.5 GB", "3.0 TB", "5,000 TB"], found
        )

    def test_seconds(self) -> None:
        """Milliseconds below a second; a stroke for what is not known."""
        self.assertEqual(
            [("4.2", "ms"), ("999", "ms"), ("1.0", "s"), ("–", "")],
            [seconds(one) for one in (0.0042, 0.999, 1.0, None)],
        )

    def test_spans(self) -> None:
        """The largest unit and the next."""
        found = [
            span(value)
            for value in (
                -1,
                0.5,
                59.9,
                60,
                3599,
                3600,
                47.5 * 3600,
                2 * _DAY,
                2.5 * _DAY,
                364.5 * _DAY,
                2000 * _DAY,
            )
        ]
        expected = [
            "0 s",
            "0 s",
            "59 s",
            "1 min",
            "59 min",
            "1 h 0 min",
            "47 h 30 min",
            "2 d",
            "2 d 12 h",
            "364 d",
            "2,000 d",
        ]
        self.assertEqual(expected, found)

    def test_times(self) -> None:
        """Past, present and future; never is a stroke."""
        self.assertEqual(["–", "now", "5 s ago"], [ago(then, 100.0) for then in (0.0, 99.5, 95.0)])
        self.assertEqual(
            ["in 1 min", "2 d ago"], [until(then, 2 * _DAY) for then in (2 * _DAY + 61, 0.0)]
        )
        self.assertEqual("12:00:00", time_of_day(12 * 3600.0))
