"""What a process and all its children have used, as Linux tells it (proc(5)): CPU time, and resident memory.

Facts
-----
* The second field of ``/proc/PID/stat`` is the program's name in brackets, and may itself hold spaces and brackets: what follows
  is counted from the last bracket.
* Fields 14 to 17 are user and system time, the process's own and that of the children it has waited for, in ticks of
  1/100 s. So a measurement takes a second of CPU or so, to be good to 1 %.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import attrs

__all__ = [
    "Stat",
    "cpu_of",
    "cpu_seconds",
    "descendants",
    "parse_resident",
    "parse_stat",
    "read_stats",
    "resident_kib",
]

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLED = 0.1  # seconds without any work: connections are closed after the last answer


@attrs.frozen
class Stat:
    """Of one process: its parent, and its ticks, those of its children that have ended included."""

    parent: int
    ticks: int


def parse_stat(text: str) -> Stat:
    """Read a line of ``/proc/PID/stat``."""
    fields = text.rpartition(")")[2].split()
    return Stat(parent=int(fields[1]), ticks=sum(int(field) for field in fields[11:15]))


def parse_resident(text: str) -> int:
    """KiB that are resident, out of ``/proc/PID/status``; 0 for a process that is ending."""
    return next(
        (int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")), 0
    )


def descendants(root: int, stats: Mapping[int, Stat]) -> set[int]:
    """``root`` and everything below it."""
    found = {root}
    while more := {pid for pid, stat in stats.items() if stat.parent in found} - found:
        found |= more
    return found


def read_stats() -> dict[int, Stat]:
    """Of every process there is."""
    stats = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                stats[int(folder.name)] = parse_stat(
                    (folder / "stat").read_text("utf-8", "replace")
                )
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
    return stats


def cpu_seconds(root: int) -> float:
    """User and system time of a process and its children, so far."""
    stats = read_stats()
    return sum(stats[pid].ticks for pid in descendants(root, stats) & stats.keys()) / _TICKS


def resident_kib(root: int) -> int:
    """Resident memory of a process and its children. What they share counts for each, which differences do not show."""
    return sum(map(_resident, descendants(root, read_stats())))


def _resident(pid: int) -> int:
    try:
        return parse_resident((_PROC / str(pid) / "status").read_text("utf-8"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def cpu_of(
    roots: Iterable[int], work: Callable[[], float], patience: float = 2.0
) -> tuple[float, float]:
    """Do ``work``, and say what it returned and how many seconds of CPU it has cost these processes, its aftermath included."""
    pids = tuple(roots)

    def used() -> float:
        return sum(map(cpu_seconds, pids))

    before = used()
    done = work()
    end = time.monotonic() + patience
    after, latest = -1.0, used()
    while latest > after and time.monotonic() < end:
        time.sleep(_SETTLED)
        after, latest = latest, used()
    return done, latest - before
