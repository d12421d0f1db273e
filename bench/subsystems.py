"""CPU of a subject by subsystem: kernel, OpenSSL, Python, libc. It is sampled by ``perf``.

perf(1) samples the CPU clock of a process and all its threads, and names the shared object of each
sample. The OpenSSL of ``cryptography`` is part of its one extension module, ``_rust.abi3.so``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping

from bench.load import Load
from bench.measure import descendants, read_parents
from bench.run import Run
from bench.stage import BenchError, Stage
from bench.subjects import Subject

__all__ = ["parse_shares", "profile"]

_LINE = re.compile(r"^ *([\d.]+)% +(\S+)", re.MULTILINE)
# The first that matches.
_SUBSYSTEMS = (
    ("kernel", r"^\[(?:kernel|k\]|vdso|unknown|guest)"),
    ("OpenSSL", r"^(?:libssl|libcrypto|_rust\.abi3)"),
    ("Python", r"^(?:python|libpython)|\.cpython-"),
    ("libc", r"^(?:libc[.-]|ld-|libpthread|libm[.-])"),
)
_OWN = "its own code"  # nginx, HAProxy, and the modules of Apache
_WARM = 0.5  # seconds: the load has begun


def parse_shares(text: str) -> dict[str, float]:
    """Read the share of each subsystem from ``perf report --sort dso --stdio``."""
    shares: dict[str, float] = {}
    for percent, shared_object in _LINE.findall(text):
        name = next(
            (name for name, pattern in _SUBSYSTEMS if re.search(pattern, shared_object)),
            _OWN,
        )
        shares[name] = shares.get(name, 0.0) + float(percent) / 100
    if not shares:
        raise BenchError("perf has no samples")
    return shares


def profile(run: Run, what: Load) -> Mapping[str, Mapping[str, float]]:
    """Measure the µs of each subsystem for one request.

    :raises BenchError: perf is not installed, or may not sample.
    """
    run.stage.find("perf")
    found: dict[str, Mapping[str, float]] = {}
    for subject in run.subjects:
        if what.fresh or run.keeps[subject.name]:
            found[subject.name] = _one(run, subject, what)
    return found


def _one(run: Run, subject: Subject, what: Load) -> Mapping[str, float]:
    recorder = _Recorder(run.stage, subject.pid, 2.0)
    recorder.start()
    cost = run.drive(subject, what, "profile").cost
    recorder.join()
    shares = parse_shares(recorder.report())
    return {name: share * cost for name, share in shares.items()}


class _Recorder(threading.Thread):
    """Thread that runs perf while the load is sent."""

    def __init__(self, stage: Stage, pid: int, seconds: float) -> None:
        super().__init__()
        self._stage = stage
        self._seconds = seconds
        self._pids = ",".join(map(str, sorted(descendants(pid, read_parents()))))
        self._data = str(stage.folder / f"perf-{pid}.data")
        self._error: BenchError | None = None

    def run(self) -> None:
        words = ["record", "-q", "-e", "cpu-clock", "-F", "997", "-p", self._pids, "-o", self._data]
        program = self._stage.find("perf")
        sleep = ["--", "sleep", f"{_WARM + self._seconds}"]
        try:
            self._stage.run([program, *words, *sleep])
        except BenchError as error:
            self._error = error

    def report(self) -> str:
        if self._error:
            raise self._error
        words = ["report", "-i", self._data, "--sort", "dso", "--stdio", "-q"]
        return self._stage.run([self._stage.find("perf"), *words])
