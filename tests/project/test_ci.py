"""Promises of ``.ci/summary.py``: the last line of CI counts every failure once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

SCRIPT = Path(__file__).parents[2] / ".ci" / "summary.py"


def load() -> ModuleType:
    """Return the script as a module: its folder is no package."""
    spec = importlib.util.spec_from_file_location("ci_summary", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def count(session: str, passed: int, failed: int = 0) -> dict[str, Any]:
    return {"session": session, "passed": passed, "failed": failed, "skipped": 0}


def ended(name: str, result: str, *signatures: str) -> dict[str, Any]:
    """Return a session as nox reports it (nox 2026.10: ``Result.serialize``)."""
    names = list(signatures) or [name]
    return {"name": name, "signatures": names, "result": result, "duration": 1.5}


class Summary(SynchronousTestCase):
    def setUp(self) -> None:
        self.summary = load().summary

    def test_passed(self) -> None:
        """The suite counts once, as the coverage counted it, and every other session adds to it."""
        counts = [count("coverage", 9), count("tests-3.13", 8), count("interop", 4)]
        report = [ended("coverage", "success"), ended("tests", "success", "tests-3.13")]
        self.assertEqual((13, 0), self.summary(counts, report))

    def test_failed_tests(self) -> None:
        """The worst run of the suite stands, and its session is not counted again."""
        counts = [count("coverage", 9), count("tests-3.13", 7, 2), count("interop", 3, 1)]
        report = [ended("tests", "failed", "tests-3.13"), ended("interop", "failed")]
        self.assertEqual((12, 3), self.summary(counts, report))

    def test_failed_sessions(self) -> None:
        """A session that failed without a failed test is one failure."""
        report = [ended("lint", "failed"), ended("docs", "failed"), ended("types", "skipped")]
        self.assertEqual((9, 2), self.summary([count("coverage", 9)], report))
