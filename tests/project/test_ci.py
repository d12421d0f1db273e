"""Promises of the scripts of CI: every test runs in one part, and every failure counts once."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    """Return a script as a module: its folder is no package."""
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def count(session: str, passed: int, failed: int = 0) -> dict[str, Any]:
    return {
        "session": session,
        "passed": passed,
        "failed": failed,
        "skipped": 0,
        "output": "",
    }


def ended(name: str, result: str, *signatures: str) -> dict[str, Any]:
    """Return a session as nox reports it (nox 2026.10: ``Result.serialize``)."""
    names = list(signatures) or [name]
    return {"name": name, "signatures": names, "result": result, "duration": 1.5}


class Summary(SynchronousTestCase):
    def setUp(self) -> None:
        self.summary = load("summary").summary

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

    def test_failures_shown(self) -> None:
        """Each failed test stands in the output, before the counts."""
        path = Path(self.mktemp())
        output = f"{'=' * 79}\n[FAIL]\ninterop.sample\n{'-' * 79}\nRan 4 tests\n"
        path.write_text(json.dumps(count("interop", 3, 1) | {"output": output}))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            self.assertEqual(1, load("summary").main([str(path), "1"]))
        lines = printed.getvalue().splitlines()
        self.assertEqual(["interop: [FAIL]", "interop.sample"], lines[:2])
        self.assertEqual("3 passed, 1 failed", lines[-1])

    def test_failures(self) -> None:
        """Failures and errors are kept from trial's own output, and skipped tests are not."""
        source = (
            "from twisted.trial.unittest import SynchronousTestCase\n"
            "class Sample(SynchronousTestCase):\n"
            "    def test_fails(self): self.assertEqual(1, 2)\n"
            "    def test_raises(self): raise ValueError('sample')\n"
            "    def test_skipped(self): pass\n"
            "    test_skipped.skip = 'sample'\n"
        )
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "sample.py").write_text(source)
        command = [sys.executable, "-m", "twisted.trial", "--temp-directory=t", "sample"]
        environment = os.environ | {"PYTHONPATH": "."}
        run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
        found = load("summary").failures(run.stdout.decode())
        self.assertEqual(2, len(found))
        self.assertIn("1 != 2", found[0])
        self.assertIn("sample.Sample.test_raises", found[1])


class Suite(SynchronousTestCase):
    def setUp(self) -> None:
        self.suite = load("suite")

    def test_parts(self) -> None:
        """Each test module is in one part, and only in one."""
        names = [name for part in self.suite.parts() for name in part]
        for path in (ROOT / "tests").rglob("test_*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            held = [name for name in names if module == name or module.startswith(f"{name}.")]
            self.assertEqual(1, len(held), module)

    def test_unit_tests_together(self) -> None:
        """The unit tests are in one process: their contexts are one file of coverage."""
        self.assertEqual(1, sum("tests.unit" in part for part in self.suite.parts()))

    def test_summary(self) -> None:
        """The counts are those of trial's last line; without one the part has failed."""
        output = "PASSED (successes=1)\nRan 3 tests\n\nFAILED (failures=1, successes=2)\n"
        self.assertEqual(Counter(failures=1, successes=2), self.suite.summary(output))
        self.assertEqual(Counter(errors=1), self.suite.summary("Traceback"))

    def test_total(self) -> None:
        """The last line is trial's summary of all parts."""
        parts = [Counter(successes=2, skips=1), Counter(successes=3)]
        self.assertEqual("PASSED (skips=1, successes=5)", self.suite.total(parts, failed=False))
        parts.append(Counter(errors=1))
        expected = "FAILED (errors=1, skips=1, successes=5)"
        self.assertEqual(expected, self.suite.total(parts, failed=True))


class Examples(SynchronousTestCase):
    def draws_alike(self, **environment: str) -> str:
        """Return "True" if Hypothesis draws the same examples each time."""
        program = "import tests; from hypothesis import settings; print(settings().derandomize)"
        names = ("CI", "X509PROXY_EXHAUSTIVE")
        kept = {name: value for name, value in os.environ.items() if name not in names}
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=kept | environment,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()

    def test_repeatable(self) -> None:
        """A run of CI draws the same examples each time; its fuzzing and other runs do not."""
        self.assertEqual("False", self.draws_alike())
        self.assertEqual("True", self.draws_alike(CI="true"))
        self.assertEqual("False", self.draws_alike(CI="true", X509PROXY_EXHAUSTIVE="1"))


class IndividualCoverage(SynchronousTestCase):
    def setUp(self) -> None:
        self.script = load("individual_coverage")

    def test_names(self) -> None:
        """A module's own tests are those of the file that mirrors it."""
        found = self.script.test_module("http1/body.py")
        self.assertEqual("tests.unit.http1.test_body", found)
        self.assertIn("http1/body.py", self.script.measured())

    def test_pending(self) -> None:
        """The modules that are not complete yet are measured, and stand once."""
        pending = self.script.PENDING.read_text().split()
        self.assertEqual(sorted(set(pending)), pending)
        self.assertEqual(set(), set(pending) - set(self.script.measured()))
