"""How much more several processes carry than one: each may use a fifth of a core, so the load generator is never short of it.

Facts
-----
* A cgroup's quota stops its processes for the rest of each period once they have used their share of it: ``cpu.max`` in version
  2, ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` in version 1 (cgroups(7)). It takes root.
* A throttled process has as much to do as it can, whatever the machine does beside: rates can be compared, not only CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import attrs

from bench import load
from bench.measure import descendants, read_stats
from bench.stage import BenchError, Stage, make_files
from bench.subjects import start_back_end, start_front, start_subject

__all__ = ["Scale", "Shares", "scale"]

_CGROUPS = Path("/sys/fs/cgroup")
_PERIOD, _QUOTA = 10_000, 2_000  # µs: short, so that no request waits long for the next share
_FRESH = 500  # connections, for each process
_KEPT = 64
_SECONDS = 3
_ROUNDS = 3


@attrs.frozen
class Scale:
    """What ``workers`` processes carried: fresh connections and kept requests a second, of each round."""

    workers: int
    fresh: Sequence[float]
    kept: Sequence[float]

    def times(self, one: Scale) -> tuple[float, float]:
        """How many times as much as another, for fresh connections and for kept requests: the median of the rounds' ratios."""
        pairs = (zip(self.fresh, one.fresh, strict=True), zip(self.kept, one.kept, strict=True))
        fresh, kept = (median([own / other for own, other in rounds]) for rounds in pairs)
        return fresh, kept


class Shares:
    """A context manager: whoever is given a share has it until the end. Its processes must have ended by then."""

    def __init__(self, cgroups: Path = _CGROUPS) -> None:
        self._is_v2 = (cgroups / "cgroup.controllers").exists()
        self._parent = cgroups if self._is_v2 else cgroups / "cpu"
        self._exits = ExitStack()

    def __enter__(self) -> Shares:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def give(self, pid: int) -> None:
        """A fifth of a core for the process, and no more; :raises BenchError: it is not ours to give."""
        folder = self._parent / f"x509proxy-bench-{pid}"
        try:
            folder.mkdir()
            self._exits.callback(folder.rmdir)
            for name, text in self._limits():
                (folder / name).write_text(text)
            (folder / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise BenchError(
                f"--scale: no share of a core can be given, which takes root and cgroups: {error}"
            ) from None

    def _limits(self) -> Sequence[tuple[str, str]]:
        if self._is_v2:
            return [("cpu.max", f"{_QUOTA} {_PERIOD}")]
        return [("cpu.cfs_period_us", str(_PERIOD)), ("cpu.cfs_quota_us", str(_QUOTA))]


def scale(say: Callable[[str], None], counts: Sequence[int] = (1, 2)) -> list[Scale]:
    """x509proxy with so many ``--workers``, in turn, round after round; :raises BenchError: it cannot be done here."""
    rates: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    for _ in range(_ROUNDS):
        for count in counts:
            rates[count].append(_rates(count))
            say(
                f"{count} workers: {rates[count][-1][0]:.0f} fresh connections, {rates[count][-1][1]:.0f} kept requests a second"
            )
    return [
        Scale(count, [fresh for fresh, _ in found], [kept for _, kept in found])
        for count, found in rates.items()
    ]


def _rates(count: int) -> tuple[float, float]:
    """Fresh connections and kept requests a second."""
    with Shares() as shares, Stage() as stage:
        files = make_files(stage.folder)
        subject = start_subject(stage, "x509proxy", files, start_back_end(stage), count)
        front = start_front(stage, files, [subject])[subject.name]
        # All of them have started, and seen what comes, before they are held back.
        load.fresh(stage, files, subject.port, _FRESH)
        load.keep_alive(stage, front, _SECONDS, _KEPT)
        # Those who serve: alone, the first process does so itself.
        for pid in descendants(subject.pid, read_stats()) - {subject.pid} or {subject.pid}:
            shares.give(pid)
        began = time.monotonic()
        fresh = load.fresh(stage, files, subject.port, _FRESH * count) / (time.monotonic() - began)
        kept = load.keep_alive(stage, front, _SECONDS, _KEPT)
        return fresh, kept.requests / kept.seconds
