"""A run: subjects are set up and prove themselves, then each measurement is made of all of them in turn, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import attrs

from bench import load, proof
from bench.measure import cpu_of, resident_kib
from bench.results import Column, Results
from bench.stage import BenchError, Files, Stage, make_files
from bench.subjects import Subject, start_back_end, start_front, start_subject

__all__ = ["FULL", "QUICK", "Plan", "Run"]

MB = 10**6
_WARM = 50  # connections, before memory is looked at: the first ones pay for what all share
_TRANSFERS = 2
_STILL = 0.3  # seconds until what was freed has been


@attrs.frozen
class Plan:
    """How much of everything. ``seconds`` of keep-alive load; ``limit``: seconds after which no new round is begun."""

    rounds: int
    fresh: int
    seconds: int
    bulk: int
    idle: int
    limit: float


FULL = Plan(rounds=3, fresh=1500, seconds=3, bulk=200 * MB, idle=1000, limit=150)
QUICK = Plan(rounds=1, fresh=300, seconds=1, bulk=50 * MB, idle=200, limit=20)


def columns(plan: Plan) -> tuple[Column, ...]:
    """What is measured in each round; memory only in the first, before it has been used for anything else."""
    size = f"{plan.bulk // MB} MB"
    return (
        Column("fresh", "fresh mTLS connection + request", "µs"),
        Column("kept", "keep-alive request", "µs"),
        Column("down", f"{size} download", "ms"),
        Column("up", f"{size} upload", "ms"),
        Column("idle", "idle connection", "KiB"),
    )


class Run:
    """``say`` is called with a line of progress now and then."""

    def __init__(self, stage: Stage, plan: Plan, say: Callable[[str], None]) -> None:
        self.stage = stage
        self.plan = plan
        self.say = say
        self.files: Files = make_files(stage.folder)
        self.subjects: list[Subject] = []
        self.fronts: dict[str, int] = {}
        self.keeps: dict[str, bool] = {}
        self.left_out: list[str] = []

    def set_up(self, names: Sequence[str], workers: int | None = None) -> None:
        """Start the back end, the subjects and the front; :raises BenchError: no subject is left, or a tool is missing."""
        for tool in ("ab", "wrk", "haproxy", "curl"):
            self.stage.find(tool)
        back_end = start_back_end(self.stage)
        for name in names:
            try:
                subject = start_subject(self.stage, name, self.files, back_end, workers)
                self.keeps[name] = proof.prove(subject, self.files)
            except BenchError as error:
                self.left_out.append(f"{name} is left out: {error}.")
                self.say(self.left_out[-1])
            else:
                self.subjects.append(subject)
        if not self.subjects:
            raise BenchError("no subject is left")
        self.fronts = start_front(self.stage, self.files, self.subjects)

    def measure(self) -> Results:
        """All rounds, or as many as there is time for."""
        results = Results(
            columns(self.plan), [subject.name for subject in self.subjects], self.subjects[0].name
        )
        results.remarks += self.left_out
        end = time.monotonic() + self.plan.limit
        self._take(results, "idle", self.idle)
        for number in range(self.plan.rounds):
            if number and time.monotonic() > end:
                results.remark(
                    f"Only {number} of {self.plan.rounds} rounds: there was no time for more."
                )
                break
            for key, measure in (
                ("fresh", self.fresh),
                ("kept", self.kept),
                ("down", self.down),
                ("up", self.up),
            ):
                self._take(results, key, measure, first=number)
        return results

    def _take(
        self, results: Results, key: str, measure: Callable[[Subject], float], first: int = 0
    ) -> None:
        # Another one begins each round: nobody always comes after the one who warms the machine up.
        start = first % len(self.subjects)
        figures = []
        for subject in self.subjects[start:] + self.subjects[:start]:
            try:
                figure = measure(subject)
            except BenchError as error:
                results.remark(f"{subject.name}, {key}: {error}.")
                results.add(key, subject.name, None)
            else:
                results.add(key, subject.name, figure)
                figures.append(f"{subject.name} {figure:.0f}")
        self.say(f"{key}: {', '.join(figures)}")

    # Each returns the figure of its column.

    def fresh(self, subject: Subject) -> float:
        """CPU for a connection with handshake and request, in µs."""
        done, cpu = cpu_of(
            [subject.pid], lambda: load.fresh(self.stage, self.files, subject.port, self.plan.fresh)
        )
        return cpu / done * 1e6

    def kept(self, subject: Subject, connections: int = 8, fields: int = 1) -> float:
        """CPU for a request on a connection that is kept, in µs."""
        front = self.fronts[subject.name]
        # The handshakes of a thousand take seconds, and are not what is looked for.
        load.keep_alive(self.stage, front, 1 + connections // 200, connections, fields)
        done, cpu = cpu_of(
            [subject.pid],
            lambda: (
                load.keep_alive(self.stage, front, self.plan.seconds, connections, fields).requests
            ),
        )
        return cpu / done * 1e6

    def down(self, subject: Subject) -> float:
        """CPU for one long answer, in ms."""
        return self._bulk(subject, load.download)

    def up(self, subject: Subject) -> float:
        """CPU for one long request, in ms."""
        return self._bulk(subject, load.upload)

    def _bulk(self, subject: Subject, transfer: Callable[[Stage, Files, int, int], None]) -> float:
        def work() -> float:
            for _ in range(_TRANSFERS):
                transfer(self.stage, self.files, subject.port, self.plan.bulk)
            return _TRANSFERS

        done, cpu = cpu_of([subject.pid], work)
        return cpu / done * 1e3

    def idle(self, subject: Subject) -> float:
        """KiB for a connection that does nothing; while they are there, others are served."""
        keeps = self.keeps[subject.name]
        with ExitStack() as stack:
            proof.hold(subject, self.files, keeps, _WARM, stack)
            time.sleep(_STILL)
            before = resident_kib(subject.pid)
            try:
                proof.hold(subject, self.files, keeps, self.plan.idle, stack)
            except OSError as error:
                raise BenchError(f"{self.plan.idle} connections cannot be held: {error}") from None
            time.sleep(_STILL)
            after = resident_kib(subject.pid)
            load.fresh(self.stage, self.files, subject.port, 20)
        return (after - before) / self.plan.idle
