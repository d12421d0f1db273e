"""The summary of a CI run: ``summary.py COUNTS STATUS REPORT…``.

It is made from trial's counts and nox's reports. The failed tests come first, each with its
traceback: a log of CI may be cut at its beginning.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

_FAILURE = re.compile(
    r"^={70,}\n(\[(?:FAIL|ERROR|SUCCESS!\?!)\].*?)(?=^={70,}$|^-{70,}$)", re.MULTILINE | re.DOTALL
)


def failures(output: str) -> list[str]:
    """Return trial's reports of failed tests, each with its traceback and its tests' names."""
    return _FAILURE.findall(output)


def summary(counts: list[dict[str, Any]], report: list[dict[str, Any]]) -> tuple[int, int]:
    """Return the numbers of passed and failed tests.

    The suite counts once: the whole run, which is that of the coverage, and the most failures of
    any run. A session that failed without a failed test counts as one failure.
    """
    suite = [one for one in counts if one["session"].startswith(("coverage", "tests", "oldest"))]
    others = [one for one in counts if one not in suite]
    passed = sum(one["passed"] for one in suite if one["session"].startswith("coverage"))
    passed += sum(one["passed"] for one in others)
    failed = max((one["failed"] for one in suite), default=0)
    failed += sum(one["failed"] for one in others)
    seen = {one["session"] for one in counts if one["failed"]}
    bad = [one for one in report if one["result"] == "failed" and not seen & names(one)]
    return passed, failed + len(bad)


def names(session: dict[str, Any]) -> set[str]:
    """Return every name of a session in nox's report."""
    return {session["name"], *session["signatures"]}


def main(arguments: list[str]) -> int:
    """Print a line for each session, and the counts; return the exit status."""
    lines = Path(arguments[0]).read_text().splitlines() if Path(arguments[0]).exists() else []
    counts = [json.loads(line) for line in lines]
    reports = [json.loads(Path(name).read_text())["sessions"] for name in arguments[2:]]
    report = [one for sessions in reports for one in sessions]
    for one in counts:
        for failure in failures(one["output"]):
            print(f"{one['session']}: {failure}")
    for one in report:
        print(f"{one['result']:>8} {max(names(one), key=len)} ({one['duration']:.0f} s)")
    for one in counts:
        print("{session}: {passed} passed, {failed} failed, {skipped} skipped".format(**one))
    passed, failed = summary(counts, report)
    if arguments[1] != "0" and not failed:
        failed = 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
