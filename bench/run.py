"""One run: subjects start and pass the checks, then each round sends each load to all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from operator import attrgetter
from pathlib import Path
from statistics import median

import attrs

from bench import load, proof
from bench.load import Generator, Load, Measured
from bench.measure import resident_kib, slope
from bench.results import Column, Results
from bench.stage import BenchError, Files, Stage, make_files
from bench.subjects import (
    Subject,
    start_back_end,
    start_checkout,
    start_protected,
    start_subject,
)

__all__ = ["FULL", "LOADS", "QUICK", "Plan", "Run"]

MB = 10**6
_WARM = 100  # connections before memory is measured: the first ones include what all share
_STEPS = 8
_TRANSFERS = 2
_STILL = 0.3  # seconds until freed memory has been returned
_PACED = 1000  # requests per second
_SHARE = 1 / 3  # of a core, at which latency is measured
_OWN = "x509proxy"

LOADS = (
    "idle",
    "token",
    "api",
    "bound",
    "fresh-token",
    "paced",
    "latency",
    "same",
    "fresh-get",
    "down",
    "up",
)
"""The loads, in the order of the table."""


@attrs.frozen
class Plan:
    """Amounts of work.

    ``seconds``: of each load on kept connections; ``tail``: of one at a fixed rate.
    """

    rounds: int
    fresh: int
    seconds: float
    tail: float
    bulk: int
    idle: int
    rates: Sequence[int] = ()
    """Requests per second at which latency is measured, besides a third of a core."""


FULL = Plan(rounds=3, fresh=1500, seconds=3, tail=6, bulk=200 * MB, idle=900)
QUICK = Plan(rounds=1, fresh=300, seconds=1, tail=1, bulk=50 * MB, idle=200)


def _micro(key: str, title: str) -> Column:
    return Column(key, title, "µs")


_COSTS: Mapping[str, Column] = {
    "token": _micro("token", "token: POST, Basic, 300 bytes"),
    "api": _micro("api", "API: Bearer, traceparent, unique path"),
    "fresh-token": _micro("fresh-token", "fresh mTLS connection + token, 2 ms think time"),
    "same": _micro("same", "identical GETs"),
    "fresh-get": _micro("fresh-get", "fresh mTLS connection + identical GET"),
}

_Found = Mapping[Column, float]


class Run:
    """Subjects, files and figures of one run. ``report`` receives lines of progress."""

    def __init__(self, stage: Stage, plan: Plan, report: Callable[[str], None]) -> None:
        self.stage = stage
        self.plan = plan
        self.report = report
        self.files: Files = make_files(stage.folder)
        self.subjects: list[Subject] = []
        self.keeps: dict[str, bool] = {}
        self.left_out: list[str] = []
        self._rates: Sequence[int] = ()
        self._protected: tuple[Subject, Path] | None = None
        self._beside: dict[str, list[Measured]] = {}
        self._ciphers: dict[str, str] = {}
        self._failed: dict[tuple[str, str], dict[str, None]] = {}  # loads in their order

    def set_up(
        self, names: Sequence[str], checkouts: Sequence[str] = (), workers: int | None = None
    ) -> None:
        """Start the back end and the subjects.

        :raises BenchError: no subject is left, or there is no generator.
        :param checkouts: folders with other versions of x509proxy.
        """
        back_end, pid = start_back_end(self.stage)
        self._back_end = back_end
        self.generator = Generator(self.stage, self.files, pid)
        for name in names:
            # It starts before x509proxy itself: the ratio of the two is the purpose of such a run.
            for path in checkouts if name == _OWN else ():
                self._start(
                    path, partial(start_checkout, self.stage, path, self.files, back_end, workers)
                )
            self._start(
                name, partial(start_subject, self.stage, name, self.files, back_end, workers)
            )
        if not self.subjects:
            raise BenchError("no subject is left")

    def _start(self, name: str, start: Callable[[], Subject]) -> None:
        try:
            subject = start()
            self.keeps[subject.name] = proof.prove(subject, self.files)
        except BenchError as error:
            self.left_out.append(f"{name} is left out: {error}.")
            self.report(self.left_out[-1])
        else:
            self.subjects.append(subject)

    def measure(self, loads: Sequence[str] = LOADS) -> Results:
        """Measure all rounds. Idle memory is measured once, before anything has been served."""
        results = Results([subject.name for subject in self.subjects], self.subjects[0].name)
        results.remarks += self.left_out
        measures = self._measures()
        for number in range(self.plan.rounds):
            for name in loads:
                if name != "idle" or number == 0:
                    self._take(results, number, name, measures[name])
        for (subject, reason), names in self._failed.items():
            results.remark(f"{subject}, {', '.join(names)}: {reason}.")
        if self._rates:
            results.remark(f"At {self._rates[-1]:,}/s {self._own().name} takes a third of a core.")
        results.remarks += self._surroundings()
        return results

    def _measures(self) -> Mapping[str, Callable[[Subject], _Found]]:
        return {
            **{name: partial(self._cost, name) for name in _COSTS},
            "bound": self._bound,
            "paced": self._paced,
            "latency": self._latency,
            "down": partial(self._bulk, "down"),
            "up": partial(self._bulk, "up"),
            "idle": self._idle,
        }

    def _take(
        self, results: Results, number: int, name: str, measure: Callable[[Subject], _Found]
    ) -> None:
        # Another subject begins each round, so that none always follows the same one.
        start = number % len(self.subjects)
        for subject in self.subjects[start:] + self.subjects[:start]:
            try:
                found = measure(subject)
            except BenchError as error:
                self._failed.setdefault((subject.name, str(error)), {})[name] = None
                self.report(f"{number + 1}, {subject.name}: no {name}: {error}.")
                continue
            for column, figure in found.items():
                results.add(column, subject.name, number, figure)
            figures = ", ".join(f"{column.key} {figure:.4g}" for column, figure in found.items())
            self.report(f"{number + 1}, {subject.name}: {figures}")

    def _surroundings(self) -> Sequence[str]:
        """Record the cost of an exchange beside the subject, and the negotiated TLS parameters."""
        if not self._beside:
            return []
        generator, back_end = attrgetter("generator_cpu"), attrgetter("back_end_cpu")
        costs = [
            f"{name} {_median_cost(found, generator):.0f} + {_median_cost(found, back_end):.0f} µs"
            for name, found in self._beside.items()
        ]
        ciphers = sorted({f"{name} {cipher}" for name, cipher in self._ciphers.items()})
        if len(set(self._ciphers.values())) == 1:
            ciphers = [f"all {cipher}" for cipher in set(self._ciphers.values())]
        others = [one.others * 100 for found in self._beside.values() for one in found]
        return [
            f"Other processes had {median(others):.0f} % of the machine's CPU "
            f"(median; at most {max(others):.0f} %).",
            f"CPU of generator + back end for one exchange: {', '.join(costs)}.",
            f"Cipher suites: {', '.join(ciphers)}.",
        ]

    def drive(self, subject: Subject, what: Load, name: str) -> Measured:
        """Send one load to a subject.

        :raises BenchError: a request failed, or the subject cannot keep a connection.
        """
        if not (what.fresh or self.keeps[subject.name]):
            raise BenchError("it closes each connection after a response")
        measured = self.generator.drive(subject.port, subject.pid, what)
        self._beside.setdefault(name, []).append(measured)
        self._ciphers[subject.name] = measured.cipher
        return measured

    def load(self, name: str) -> Load:
        """Return the load of one of the columns with a cost."""
        return {
            "token": load.kept("token", self.plan.seconds),
            "api": load.kept("api", self.plan.seconds),
            "fresh-token": load.fresh("token", self.plan.fresh, "/slow/token"),
            "same": load.kept("same", self.plan.seconds),
            "fresh-get": load.fresh("same", self.plan.fresh),
        }[name]

    def _cost(self, name: str, subject: Subject) -> _Found:
        return {_COSTS[name]: self.drive(subject, self.load(name), name).cost}

    def _bound(self, subject: Subject) -> _Found:
        """Measure ``api`` with one token, verified and compared with the certificate each time."""
        if subject.name != _OWN:
            raise BenchError("it compares no token with the certificate")
        if self._protected is None:
            self._protected = start_protected(self.stage, self.files, self._back_end)
            self.keeps[self._protected[0].name] = True
        protected, token = self._protected
        what = load.kept("api", self.plan.seconds, bearer=str(token))
        cost = self.drive(protected, what, "bound").cost
        return {_micro("bound", "API: bound token, checked (jwt), unique path"): cost}

    def _paced(self, subject: Subject) -> _Found:
        return self._at_rate(subject, _PACED, with_cost=True)

    def _latency(self, subject: Subject) -> _Found:
        if not self._rates:
            # Where x509proxy takes a third of a core: the same rate for all subjects and rounds.
            cost = self.drive(
                self._own(), load.paced("token", self.plan.tail, _PACED), f"{_PACED}/s"
            ).cost
            self._rates = (*self.plan.rates, max(1, round(_SHARE / cost * 1e4)) * 100)
        found: dict[Column, float] = {}
        for rate in self._rates:
            found |= self._at_rate(subject, rate)
        return found

    def _own(self) -> Subject:
        return next((one for one in self.subjects if one.name == _OWN), self.subjects[-1])

    def _at_rate(self, subject: Subject, rate: int, *, with_cost: bool = False) -> _Found:
        measured = self.drive(subject, load.paced("token", self.plan.tail, rate), f"{rate}/s")
        found = {
            Column(f"p50@{rate}", f"token at {rate:,}/s, median latency", "ms"): measured.p50,
            Column(f"p99@{rate}", f"token at {rate:,}/s, p99", "ms"): measured.p99,
            Column(f"p999@{rate}", f"token at {rate:,}/s, p999", "ms"): measured.p999,
        }
        cost = {_micro("paced", f"token paced at {rate:,}/s"): measured.cost}
        return cost | found if with_cost else found

    def _bulk(self, direction: str, subject: Subject) -> _Found:
        if subject.buffers:
            raise BenchError("it holds a body in memory as a whole")
        size = self.plan.bulk
        what = load.bulk(f"{direction}load", size, _TRANSFERS)
        cost = self.drive(subject, what, direction).cost / 1000
        return {Column(direction, f"{size // MB} MB {direction}load", "ms"): cost}

    def _idle(self, subject: Subject) -> _Found:
        """Measure the KiB of an idle connection, and check that others are served meanwhile."""
        keeps = self.keeps[subject.name]
        points = []
        with ExitStack() as stack:
            proof.hold(subject, self.files, keeps, _WARM, stack)
            for step in range(_STEPS + 1):
                time.sleep(_STILL)
                points.append((step * self.plan.idle / _STEPS, float(resident_kib(subject.pid))))
                try:
                    proof.hold(subject, self.files, keeps, self.plan.idle // _STEPS, stack)
                except OSError as error:
                    raise BenchError(
                        f"{self.plan.idle} connections cannot be held: {error}"
                    ) from None
            self.drive(subject, load.fresh("token", 20), "beside idle connections")
        return {
            Column("idle", f"idle connection, slope up to {self.plan.idle}", "KiB"): slope(points)
        }


def _median_cost(found: Sequence[Measured], kind: Callable[[Measured], float]) -> float:
    return median(kind(one) / one.requests * 1e6 for one in found)
