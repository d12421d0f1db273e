"""The suite in several processes: ``suite.py [--coverage] [TRIAL'S OPTION…]``.

Most tests of real processes wait, so that two cores run four parts at a time. The output of a part
follows when it has ended. The last line is trial's summary of all parts: ``PASSED (successes=N)``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parents[1]
# Parts of about the same time. tests.unit is in one process, since individual_coverage.py reads the
# contexts of its modules. The rest of tests.system is the last part.
PARTS = (
    ("tests.unit",),
    ("tests.integration",),
    ("tests.docs", "tests.project", "tests.system.test_workers", "tests.system.test_reload"),
)
TRIAL = ("twisted.trial",)
COVERED = ("coverage", "run", "--parallel-mode", "-m", "tests.support.contexts")
SECONDS_BETWEEN_NOTES = 20.0


@attrs.define
class Part:
    """One process of trial, and the file that has its output."""

    tests: tuple[str, ...]
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def output(self) -> str:
        """The output so far."""
        return self.log.read_text(errors="replace")


def main(arguments: list[str]) -> int:
    """Run the parts; return the exit status."""
    covered = "--coverage" in arguments
    options = [each for each in arguments if each != "--coverage"]
    # Hundreds of processes import the package. Without bytecode each compiles it, in 0.1 s (0.34 s
    # instead of 0.25 s for the modules of a worker).
    subprocess.run([sys.executable, "-m", "compileall", "-q", "x509proxy"], cwd=ROOT, check=True)
    # A short folder: the path of a Unix socket has 107 bytes at most. It is open to the users
    # that some tests become.
    with tempfile.TemporaryDirectory(prefix="suite-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        running = [
            start(
                [*(COVERED if covered else TRIAL), f"--temp-directory={folder}/{place}", *options],
                tests,
                folder / f"{place}.log",
            )
            for place, tests in enumerate(parts())
        ]
        try:
            wait(running)
        finally:
            for part in running:
                part.process.terminate()
        summaries = [summary(part.output) for part in running]
    if covered:
        subprocess.run([sys.executable, "-m", "coverage", "combine", "-q"], cwd=ROOT, check=True)
    failed = any(part.process.returncode for part in running)
    print(total(summaries, failed=failed))
    return int(failed)


def parts() -> list[tuple[str, ...]]:
    """Return the parts: those above, and the rest of the tests of real processes."""
    named = {name for part in PARTS for name in part}
    system = {f"tests.system.{path.stem}" for path in (ROOT / "tests/system").glob("test_*.py")}
    return [*PARTS, tuple(sorted(system - named))]


def start(command: list[str], tests: tuple[str, ...], log: Path) -> Part:
    """Start a part."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *tests],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return Part(tests, log, process)


def wait(running: list[Part]) -> None:
    """Print each part's output at its end, and at intervals a note of the others."""
    began = noted = time.monotonic()
    left = list(running)
    while left:
        time.sleep(0.2)
        for part in [each for each in left if each.process.poll() is not None]:
            left.remove(part)
            print(part.output, flush=True)
        if left and time.monotonic() - noted > SECONDS_BETWEEN_NOTES:
            noted = time.monotonic()
            done = ", ".join(f"{part.tests[0]} {part.output.count('[OK]')}" for part in left)
            print(f"{noted - began:.0f} s: {done}", flush=True)


def summary(output: str) -> Counter[str]:
    """Return trial's counts; a run without a summary has failed."""
    found = re.findall(r"^(?:PASSED|FAILED)(?: \((.*)\))?$", output, re.MULTILINE)
    if not found:
        return Counter(errors=1)
    return Counter({key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", found[-1])})


def total(summaries: list[Counter[str]], *, failed: bool) -> str:
    """Return the summary of all parts, as trial writes it."""
    counts = sum(summaries, Counter[str]())
    text = ", ".join(f"{key}={value}" for key, value in sorted(counts.items()))
    return f"{'FAILED' if failed else 'PASSED'} ({text})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
