"""The layout of the tests: one file per module, and no test that imports another."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "x509proxy"
UNIT = ROOT / "tests" / "unit"
# Modules without a test file of their own, and the reason.
EXCEPTIONS = {
    "downstream/base_request.py": "both requests are one: test_request.py, test_site_request.py",
    "downstream/request_queue.py": "a part of the channel: test_channel.py",
}


def modules() -> set[str]:
    """Return the modules of the package that have functions, by their paths in it."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py" and has_functions(path)
    }


def has_functions(path: Path) -> bool:
    """Return whether there is code to test, and not only values and their fields."""
    code = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    return any(isinstance(node, code) for node in ast.walk(ast.parse(path.read_text("utf-8"))))


def tested() -> set[str]:
    """Return the modules that the unit tests' names promise to test."""
    return {
        (path.relative_to(UNIT).parent / path.name.removeprefix("test_")).as_posix()
        for path in UNIT.rglob("test_*.py")
    }


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of each import, if the file names a test at all."""
    text = path.read_text("utf-8")
    for node in ast.walk(ast.parse(text)) if "test_" in text else ():
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


class Mirror(SynchronousTestCase):
    def test_each_module(self) -> None:
        """Each module has ``tests/unit/<package>/test_<module>.py``, or a reason why not."""
        self.assertEqual(set(), modules() - tested() - set(EXCEPTIONS))

    def test_each_test(self) -> None:
        """Each unit test file has its module."""
        known = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
        self.assertEqual(set(), tested() - known)

    def test_exceptions(self) -> None:
        """Each exception is needed: its module exists, has code, and has no test file."""
        self.assertEqual(set(), set(EXCEPTIONS) - (modules() - tested()))


class Imports(SynchronousTestCase):
    def test_not_from_tests(self) -> None:
        """No test module imports another: shared code is in ``tests/support``."""
        found = [
            f"{path.relative_to(ROOT)}:{line}: {name}"
            for folder in ("tests", "interop", "bench")
            for path in sorted((ROOT / folder).rglob("*.py"))
            for line, name in imported(path)
            if is_test(name)
        ]
        self.assertEqual([], found)


def is_test(name: str) -> bool:
    """Return whether a dotted name is in a test module, or is one."""
    parts = name.split(".")
    return parts[0] in ("tests", "interop") and any(part.startswith("test_") for part in parts)
