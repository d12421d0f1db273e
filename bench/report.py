"""Tables, in reStructuredText: to be read in a terminal, and to be put into the documentation as they are."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.growth import Curve, Tail
from bench.results import Results
from bench.scale import Scale

__all__ = ["grid", "growth", "latency", "machine", "scale", "table"]

_NONE = "—"


def grid(rows: Sequence[Sequence[str]]) -> str:
    """A simple table; the first row is its head, and the first column is never empty."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule, ""])


def _cell(figure: float | None, digits: int | None = None) -> str:
    if figure is None:
        return _NONE
    if digits is None:
        digits = 1 if figure < 100 else 0
    return f"{figure:.{digits}f}"


def machine(system: str, versions: Sequence[str]) -> str:
    """On what, and of what."""
    return "\n".join([f"On {system}, with", *(f"  {version}" for version in versions), ""])


def table(results: Results) -> str:
    """Figures, and in brackets the ratio to the reference; below it the spread of the rounds, and what was left out."""
    head = ["subject", *(f"{column.title}, {column.unit}" for column in results.columns)]
    rows = [
        [subject, *(_both(results, column.key, subject) for column in results.columns)]
        for subject in results.subjects
    ]
    legend = f"In brackets: {results.reference} / subject, median of the rounds' ratios; above 1 it needs less."
    return "\n".join([grid([head, *rows]), legend, *results.remarks, ""])


def _both(results: Results, column: str, subject: str) -> str:
    figure, ratio = results.figure(column, subject), results.ratio(column, subject)
    return _NONE if figure is None else f"{_cell(figure)} ({_cell(ratio, 2)})"


def latency(tail: Tail) -> str:
    """The 99th percentile of each subject, at one rate."""
    rows = [[name, f"{tail.got[name]:.0f}", f"{p99:.2f}"] for name, p99 in tail.p99.items()]
    head = ["subject", "requests a second", "p99, ms"]
    return "\n".join(
        [f"Half load: {tail.rate:.0f} requests a second were asked for.", "", grid([head, *rows])]
    )


def scale(found: Sequence[Scale]) -> str:
    """What several processes carry, each with a fifth of a core, and in brackets how many times as much as the first."""
    rows = []
    for one in found:
        fresh, kept = one.times(found[0])
        rows.append(
            [
                f"{one.workers}",
                f"{median(one.fresh):.0f} ({fresh:.2f})",
                f"{median(one.kept):.0f} ({kept:.2f})",
            ]
        )
    return grid([["workers", "fresh connections a second", "kept requests a second"], *rows])


def growth(curves: Sequence[Curve]) -> str:
    """A table for each curve: µs of CPU for a request."""
    return "\n".join(_growth(curve) for curve in curves)


def _growth(curve: Curve) -> str:
    rows = [
        [f"{step:,}", *(_cell(cost[place]) for cost in curve.costs.values())]
        for place, step in enumerate(curve.steps)
    ]
    return grid([[curve.title, *(f"{name}, µs" for name in curve.costs)], *rows])
