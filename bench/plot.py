"""The plot: ratios as bars, growth as lines. Without matplotlib, a sentence replaces it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.growth import Curve
from bench.results import Results

__all__ = ["draw"]

_FEW = 1000  # steps that differ by more than that need a logarithmic axis


def draw(path: Path, results: Results, curves: Sequence[Curve]) -> str:
    """Write an SVG; return a sentence about it, or the reason why there is none."""
    try:
        figures: Any = importlib.import_module("matplotlib.figure")
        matplotlib: Any = importlib.import_module("matplotlib")
    except ImportError:
        return "No plot: matplotlib is not installed (pip install '.[bench]')."
    panels = 1 + len(curves)
    rows = (panels + 1) // 2
    figure = figures.Figure(figsize=(13, 4.5 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).flatten()
    _bars(axes[0], results)
    for axis, curve in zip(axes[1:], curves, strict=False):
        _lines(axis, curve, results.subjects)
    for axis in axes[panels:]:
        axis.remove()
    # Text stays text, and the same figures give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
    return f"Plot: {path}"


def _bars(axis: Any, results: Results) -> None:
    width = 0.8 / len(results.subjects)
    for place, subject in enumerate(results.subjects):
        found = (results.ratio(column.key, subject) for column in results.columns)
        ratios = [one.value if one else 0.0 for one in found]
        axis.bar(
            [number + place * width for number in range(len(ratios))], ratios, width, label=subject
        )
    axis.axhline(1.0, color="grey", linewidth=0.8)
    axis.set_xticks([number + 0.4 - width / 2 for number in range(len(results.columns))])
    axis.set_xticklabels([column.key for column in results.columns], fontsize=8, rotation=45)
    axis.set_ylabel(f"subject / {results.reference}: less is better")
    axis.legend(
        fontsize=8, ncols=len(results.subjects), loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )


def _lines(axis: Any, curve: Curve, subjects: Sequence[str]) -> None:
    for name, costs in curve.costs.items():
        known = [
            (step, cost) for step, cost in zip(curve.steps, costs, strict=True) if cost is not None
        ]
        # The colour that the subject has among the bars.
        colour = f"C{list(subjects).index(name)}"
        axis.plot(
            [step for step, _ in known], [cost for _, cost in known], marker="o", color=colour
        )
    axis.set(xlabel=curve.title, ylabel="µs of CPU for a request")
    if curve.steps[-1] > _FEW * curve.steps[0]:
        axis.set(xscale="log", yscale="log")
    else:
        axis.set_ylim(bottom=0)
