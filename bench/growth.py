"""Curves of the cost of a request over connections, header fields and bytes of a body."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import attrs

from bench import load
from bench.load import Load
from bench.run import Run
from bench.stage import BenchError
from bench.subjects import Subject

__all__ = ["Curve", "growth"]

_CONNECTIONS = (10, 100, 1000)
_FIELDS = (0, 10, 50, 99)  # with Host a hundred: the limit of HAProxy, Apache and x509proxy
# Sizes of 1 KB to 100 MB, and counts that take some tenths of a second of CPU.
_BODIES = {10**3: 4000, 10**4: 4000, 10**5: 2000, 10**6: 200, 10**7: 24, 10**8: 4}
_SECONDS = 3


@attrs.frozen
class Curve:
    """µs of CPU for one request, by subject, at each of ``steps``; ``None`` without a figure."""

    title: str
    steps: Sequence[int]
    costs: Mapping[str, Sequence[float | None]]


def growth(run: Run) -> list[Curve]:
    """Measure four curves, each step of all subjects in turn."""
    loads: Sequence[tuple[str, Sequence[int], Callable[[int], Load]]] = (
        ("concurrent connections", _CONNECTIONS, lambda step: load.kept("token", _SECONDS, step)),
        (
            "further header fields",
            _FIELDS,
            lambda step: load.kept("same", _SECONDS, fields=step),
        ),
        ("bytes of a response", tuple(_BODIES), partial(_bodies, "download")),
        ("bytes of a request", tuple(_BODIES), partial(_bodies, "upload")),
    )
    return [_curve(run, title, steps, what) for title, steps, what in loads]


def _bodies(direction: str, size: int) -> Load:
    return load.bulk(direction, size, _BODIES[size])


def _curve(run: Run, title: str, steps: Sequence[int], what: Callable[[int], Load]) -> Curve:
    # A subject that closes each connection has no cost of a request alone.
    subjects = [one for one in run.subjects if run.keeps[one.name] and not one.buffers]
    costs: dict[str, list[float | None]] = {subject.name: [] for subject in subjects}
    for step in steps:
        for subject in subjects:
            costs[subject.name].append(_cost(run, subject, what(step)))
        figures = (f"{name} {cost[-1] or 0:.0f}" for name, cost in costs.items())
        run.report(f"{step} {title}: {', '.join(figures)}")
    return Curve(title, steps, costs)


def _cost(run: Run, subject: Subject, what: Load) -> float | None:
    try:
        return run.drive(subject, what, "growth").cost
    except BenchError as error:
        run.report(f"{subject.name}: {error}.")
        return None
