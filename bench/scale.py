"""The rates of several processes beside one, each with a fifth of a core.

The load generator has enough CPU then.

Facts
-----
* A cgroup's quota stops its processes for the rest of each period once they have used their share.
  It is ``cpu.max`` in version 2, ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` in version 1
  (cgroups(7)), and needs root.
* A throttled process uses all of its share, under any other load of the machine. So rates can be
  compared, and not only CPU time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import attrs

from bench import load
from bench.load import Generator
from bench.measure import descendants, read_parents
from bench.stage import BenchError, Stage, make_files
from bench.subjects import start_back_end, start_subject

__all__ = ["Scale", "Shares", "scale"]

_CGROUPS = Path("/sys/fs/cgroup")
_PERIOD, _QUOTA = 10_000, 2_000  # µs: short, so that no request waits long for the next share
_FRESH = 500  # connections, for each process
_KEPT = 64
_SECONDS = 3
_ROUNDS = 3


@attrs.frozen
class Scale:
    """Rates of ``workers`` processes: fresh connections and kept requests a second, by round."""

    workers: int
    fresh: Sequence[float]
    kept: Sequence[float]

    def times(self, one: Scale) -> tuple[float, float]:
        """Return the medians of the rounds' ratios to another: fresh connections, kept requests."""
        pairs = (zip(self.fresh, one.fresh, strict=True), zip(self.kept, one.kept, strict=True))
        fresh, kept = (median([own / other for own, other in rounds]) for rounds in pairs)
        return fresh, kept


class Shares:
    """A context manager for shares of a core. Its processes must end before it does."""

    def __init__(self, cgroups: Path = _CGROUPS) -> None:
        self._is_v2 = (cgroups / "cgroup.controllers").exists()
        self._parent = cgroups if self._is_v2 else cgroups / "cpu"
        self._exits = ExitStack()

    def __enter__(self) -> Shares:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def give(self, pid: int) -> None:
        """Limit a process to a fifth of a core.

        :raises BenchError: this user may not, or there are no cgroups.
        """
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


def scale(report: Callable[[str], None], counts: Sequence[int] = (1, 2)) -> list[Scale]:
    """Measure x509proxy with these numbers of ``--workers``.

    :raises BenchError: it is impossible here.
    """
    rates: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    for _ in range(_ROUNDS):
        for count in counts:
            fresh, kept = _rates(count)
            rates[count].append((fresh, kept))
            report(
                f"{count} workers: {fresh:.0f} fresh connections, {kept:.0f} kept requests a second"
            )
    return [
        Scale(count, [fresh for fresh, _ in found], [kept for _, kept in found])
        for count, found in rates.items()
    ]


def _rates(count: int) -> tuple[float, float]:
    """Measure fresh connections and kept requests per second."""
    with Shares() as shares, Stage() as stage:
        files = make_files(stage.folder)
        back_end, pid = start_back_end(stage)
        subject = start_subject(stage, "x509proxy", files, back_end, count)
        generator = Generator(stage, files, pid)
        fresh, kept = load.fresh("token", _FRESH * count), load.kept("token", _SECONDS, _KEPT)
        # All processes start and serve both loads before they are limited.
        for what in (fresh, kept):
            generator.drive(subject.port, subject.pid, what)
        # The processes that serve; without workers it is the first one itself.
        for one in descendants(subject.pid, read_parents()) - {subject.pid} or {subject.pid}:
            shares.give(one)
        measured = (generator.drive(subject.port, subject.pid, what) for what in (fresh, kept))
        first, second = (one.requests / one.seconds for one in measured)
        return first, second
