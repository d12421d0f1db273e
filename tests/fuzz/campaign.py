"""One campaign: inputs in turn, until enough have failed or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain, repeat

import attrs

from tests.fuzz.mutator import Mutator, read_seeds
from tests.fuzz.play import play_answers, play_requests

__all__ = ["PLAYS", "Finding", "Report", "run"]

PLAYS: dict[str, Callable[[bytes], list[str]]] = {
    "requests": play_requests,
    "answers": play_answers,
}
"""The two directions."""


@attrs.frozen
class Finding:
    """An input, and its faults."""

    data: bytes
    faults: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.data!r}\n" + "\n".join(f"    {fault}" for fault in self.faults)


@attrs.frozen
class Report:
    """The number of inputs, the seconds they took, and the findings."""

    executions: int
    seconds: float
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        rate = self.executions / self.seconds if self.seconds else 0.0
        figures = (
            f"{self.executions} executions in {self.seconds:.1f} s, {rate:.0f} per second, "
            f"{len(self.findings)} findings"
        )
        return "\n".join([figures, *map(str, self.findings)])


def judge(direction: str, data: bytes) -> tuple[str, ...]:
    """Return the faults of an input; an exception is one too."""
    try:
        return tuple(PLAYS[direction](data))
    except Exception as error:
        # Any exception comes from these bytes, and the report needs them.
        return (f"{type(error).__name__}: {error}",)


def run(
    direction: str, seconds: float, seed: int, *, most: int = 1, executions: int = 1 << 62
) -> Report:
    """Play all seeds, then mutations of them, until the time is over or ``most`` have failed."""
    seeds = read_seeds(direction)
    mutator = Mutator(seeds, seed)
    findings: list[Finding] = []
    start = time.monotonic()
    done = 0
    for data in chain(seeds, (mutator.next() for _ in repeat(None))):
        done += 1
        if faults := judge(direction, data):
            findings.append(Finding(data, faults))
        if len(findings) >= most or done >= executions or time.monotonic() - start >= seconds:
            break
    return Report(done, time.monotonic() - start, tuple(findings))
