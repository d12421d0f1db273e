"""How cost grows: with connections, header fields and bodies; and how long the slowest hundredth waits at half load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from bench import load
from bench.load import Bodies, Wrk
from bench.measure import cpu_of
from bench.run import Run
from bench.stage import BenchError
from bench.subjects import Subject

__all__ = ["Curve", "Tail", "growth", "tail"]

_CONNECTIONS = (10, 100, 1000)
_FIELDS = (1, 10, 50, 100)
# 1 KB to 100 MB. So many of each that there is something to measure, and not for long.
_BODIES = (
    Bodies(10**3, 8000),
    Bodies(10**4, 6000),
    Bodies(10**5, 2000),
    Bodies(10**6, 200),
    Bodies(10**7, 24),
    Bodies(10**8, 4),
)
_SECONDS = 3


@attrs.frozen
class Curve:
    """µs of CPU for one request, by subject, at each of ``steps``; ``None`` where it could not be measured."""

    title: str
    steps: Sequence[int]
    costs: Mapping[str, Sequence[float | None]]


@attrs.frozen
class Tail:
    """``rate``: requests a second that all were asked for; ``p99``: by subject, in ms; ``got``: requests a second."""

    rate: float
    p99: Mapping[str, float]
    got: Mapping[str, float]


def _kept(run: Run) -> list[Subject]:
    """A subject that closes every connection has no cost of a request alone."""
    return [subject for subject in run.subjects if run.keeps[subject.name]]


def growth(run: Run) -> list[Curve]:
    """Four curves, each step measured of all subjects in turn."""

    def bodies(subject: Subject, number: int, up: bool) -> float:
        what = next(what for what in _BODIES if what.size == number)
        done, cpu = cpu_of(
            [subject.pid], lambda: load.bodies(run.stage, run.files, subject.port, what, up)
        )
        return cpu / done * 1e6

    sizes = [what.size for what in _BODIES]
    return [
        _curve(
            run,
            "concurrent connections",
            _CONNECTIONS,
            lambda subject, number: run.kept(subject, connections=number),
        ),
        _curve(
            run, "header fields", _FIELDS, lambda subject, number: run.kept(subject, fields=number)
        ),
        _curve(
            run,
            "bytes of an answer",
            sizes,
            lambda subject, number: bodies(subject, number, up=False),
        ),
        _curve(
            run,
            "bytes of a request",
            sizes,
            lambda subject, number: bodies(subject, number, up=True),
        ),
    ]


def _curve(
    run: Run, title: str, steps: Sequence[int], measure: Callable[[Subject, int], float]
) -> Curve:
    costs: dict[str, list[float | None]] = {subject.name: [] for subject in _kept(run)}
    for step in steps:
        for subject in _kept(run):
            try:
                cost = measure(subject, step)
            except BenchError as error:
                run.say(f"{subject.name}, {step} {title}: {error}.")
                costs[subject.name].append(None)
            else:
                costs[subject.name].append(cost)
        run.say(
            f"{step} {title}: "
            + ", ".join(f"{name} {cost[-1] or 0:.0f}" for name, cost in costs.items())
        )
    return Curve(title, steps, costs)


def tail(run: Run) -> Tail:
    """The same load for all: half of what x509proxy carries, or, where it does not take part, the slowest."""
    subjects = _kept(run)
    most = {
        subject.name: _rate(load.keep_alive(run.stage, run.fronts[subject.name], _SECONDS, 16))
        for subject in subjects
    }
    rate = most.get("x509proxy", min(most.values())) / 2
    paced = {
        subject.name: load.paced(run.stage, run.fronts[subject.name], _SECONDS, rate)
        for subject in subjects
    }
    return Tail(
        rate,
        {name: wrk.p99 or 0.0 for name, wrk in paced.items()},
        {name: _rate(wrk) for name, wrk in paced.items()},
    )


def _rate(wrk: Wrk) -> float:
    return wrk.requests / wrk.seconds
