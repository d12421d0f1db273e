"""CPU time and resident memory of a process and its children, as Linux counts them.

Facts
-----
* clock_getcpuclockid(3): each process has a clock of its CPU time, user and system, of all its
  threads, in nanoseconds. Python lacks this function, but the number of the clock is part of the
  kernel's interface (posix-timers_types.h). ``/proc/PID/stat`` counts the same time in units of
  10 ms: a fifth of the time of nginx for a second of paced requests.
* The clock of a parent does not include children that have ended. No subject ends a process while
  it is measured.
* The second field of ``/proc/PID/stat`` is the program's name in brackets. The name can contain
  spaces and brackets: the following fields are counted from the last bracket.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import linear_regression

__all__ = [
    "Meter",
    "busy_share",
    "busy_ticks",
    "cpu_seconds",
    "descendants",
    "parse_busy",
    "parse_parent",
    "parse_resident",
    "read_parents",
    "resident_kib",
    "slope",
]

_PROC = Path("/proc")
_TICKS, _CORES = os.sysconf("SC_CLK_TCK"), os.cpu_count() or 1
_SCHED_CLOCK = 2  # CPUCLOCK_SCHED
_SETTLED = 0.1  # seconds: connections are closed after the last response


def parse_parent(text: str) -> int:
    """Read the number of the parent from a line of ``/proc/PID/stat``."""
    return int(text.rpartition(")")[2].split()[1])


def parse_resident(text: str) -> int:
    """Read the resident KiB from ``/proc/PID/status``; 0 for a process that is ending."""
    return next(
        (int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")), 0
    )


def descendants(root: int, parents: Mapping[int, int]) -> set[int]:
    """Collect ``root`` and all its descendants, from the parent of each process."""
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def read_parents() -> dict[int, int]:
    """Read the parent of each process of the machine."""
    parents = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = parse_parent(
                    (folder / "stat").read_text("utf-8", "replace")
                )
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
    return parents


def cpu_seconds(pids: Iterable[int]) -> float:
    """Add up the CPU time of some processes, without their children."""
    return sum(time.clock_gettime_ns(~pid << 3 | _SCHED_CLOCK) for pid in pids) / 1e9


def resident_kib(root: int) -> int:
    """Add up the resident memory of a process and its children, shared memory for each of them."""
    return sum(map(_resident, descendants(root, read_parents())))


def _resident(pid: int) -> int:
    try:
        return parse_resident((_PROC / str(pid) / "status").read_text("utf-8"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def parse_busy(text: str) -> int:
    """Add up the ticks of the first line of ``/proc/stat`` in which a core was busy or stolen."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, text.split()[1:9])
    return user + nice + system + irq + softirq + steal


def busy_share(before: int, seconds: float, own: float) -> float:
    """Return the share of the machine that other processes used, beside ``own`` seconds of CPU."""
    return max(0.0, (busy_ticks() - before) / _TICKS - own) / (seconds * _CORES)


def busy_ticks() -> int:
    """Read the ticks of work of all cores so far."""
    return parse_busy((_PROC / "stat").read_text("ascii").splitlines()[0])


class Meter:
    """The CPU time of a process and its children from now on."""

    def __init__(self, root: int) -> None:
        self._pids = tuple(descendants(root, read_parents()))
        self._before = cpu_seconds(self._pids)

    def seconds(self) -> float:
        """Return the CPU time since the start, including the work after the last response."""
        time.sleep(_SETTLED)
        return cpu_seconds(self._pids) - self._before


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Fit a line through the points, and return its slope."""
    return linear_regression(*zip(*points, strict=True)).slope
