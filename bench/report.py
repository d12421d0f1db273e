"""Tables in reStructuredText, to read in a terminal and to copy into the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from bench.growth import Curve
from bench.results import Ratio, Results
from bench.scale import Scale
from bench.tokens import CheckCost

__all__ = ["checks", "grid", "growth", "machine", "pairs", "profile", "scale", "table"]

_NONE = "—"


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Write a simple table; the first row is its head, and the first column is never empty."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule, ""])


def _cell(figure: float | None) -> str:
    if figure is None:
        return _NONE
    digits = 2 if figure < 10 else 1 if figure < 100 else 0
    return f"{figure:.{digits}f}"


def machine(system: str, versions: Sequence[str]) -> str:
    """Name the machine and the programs."""
    return "\n".join([f"On {system}, with", *(f"  {version}" for version in versions), ""])


def table(results: Results) -> str:
    """Write a row for each load, with each subject's figure and its ratio in brackets."""
    rows = [
        [
            f"{column.title}, {column.unit}",
            *(_both(results, column.key, subject) for subject in results.subjects),
        ]
        for column in results.columns
    ]
    legend = (
        f"In brackets: subject / {results.reference}, median of the rounds' ratios (lowest to "
        "highest, or the 95 % interval from nine rounds on); below 1 the subject needs less."
    )
    return "\n".join([grid([["load", *results.subjects], *rows]), legend, *results.remarks, ""])


def _both(results: Results, column: str, subject: str) -> str:
    figure = _cell(results.figure(column, subject))
    ratio = results.ratio(column, subject)
    if ratio is None or subject == results.reference:
        return figure
    return f"{figure} ({_ratio(ratio)})"


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.value:.2f}: {ratio.low:.2f}-{ratio.high:.2f}"


def pairs(results: Results, subject: str, before: Sequence[str]) -> str:
    """Compare a subject with other versions of it: a row for each load."""
    rows = []
    for column in results.columns:
        ratios = [results.ratio(column.key, subject, other) for other in before]
        rows.append([column.title, *(_ratio(ratio) if ratio else _NONE for ratio in ratios)])
    return grid([["load", *(f"{subject} / {other}" for other in before)], *rows])


def profile(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Write the CPU of each subject by subsystem, in µs for one request."""
    subsystems = sorted(
        {name for parts in shares.values() for name in parts},
        key=lambda name: -max(parts.get(name, 0.0) for parts in shares.values()),
    )
    rows = [
        [name, *(_cell(parts.get(name, 0.0)) for parts in shares.values())] for name in subsystems
    ]
    return grid([["subsystem, µs", *shares], *rows])


def scale(found: Sequence[Scale]) -> str:
    """Write the rates of several processes, and in brackets the ratio to the first."""
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


def checks(costs: Sequence[CheckCost]) -> str:
    """Write the µs of each check of an access token, with the lowest and the highest batch."""
    rows = [
        [
            one.title,
            f"{_cell(one.cost)} ({_cell(min(one.batches))}-{_cell(max(one.batches))})",
            _NONE if one.goal is None else f"{one.goal:.0f}",
        ]
        for one in costs
    ]
    return grid([["check of a token, µs", "cost", "goal"], *rows])


def growth(curves: Sequence[Curve]) -> str:
    """Write a table for each curve: µs of CPU for a request."""
    return "\n".join(_growth(curve) for curve in curves)


def _growth(curve: Curve) -> str:
    rows = [
        [f"{step:,}", *(_cell(cost[place]) for cost in curve.costs.values())]
        for place, step in enumerate(curve.steps)
    ]
    return grid([[curve.title, *(f"{name}, µs" for name in curve.costs)], *rows])
