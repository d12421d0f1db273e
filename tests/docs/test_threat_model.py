"""The threat model names tests that exist, and docutils can read every page."""

from __future__ import annotations

import importlib
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "docs" / "threat-model.rst"
GRAMMAR = ROOT / "docs" / "http-grammar.rst"
PAGES = [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst"]
# Rows of facts/threats.md, by the title of their table; tables may be longer.
TABLES = {
    "Forged headers": 15,
    "Framing: smuggling, splitting, mixing": 15,
    "TLS": 15,
    "Hostile client certificates": 15,
    "Secret name, logs, process, host": 15,
}
_NAMED = re.compile(r"``tests/([\w/]+)\.py::(\w+)\.(\w+)``")
_PATH = re.compile(r"``((?:tests|interop|docs|contrib|\.ci|x509proxy)/[\w./-]+)``")


def rows(title: str) -> list[list[str]]:
    """Return the rows of the table under a title, as the texts of their cells."""
    section = re.split(
        r"\n[^\n]+\n~+\n", MODEL.read_text("utf-8").partition(f"\n{title}\n~")[2], maxsplit=1
    )[0]
    return [re.split(r"\n     - ", row) for row in section.split("\n   * - ")[2:]]


class Proofs(SynchronousTestCase):
    """Return the tests of a row."""

    def test_exist(self) -> None:
        """Every test that the two pages name exists, and is one that trial runs."""
        pages = [_NAMED.findall(page.read_text("utf-8")) for page in (MODEL, GRAMMAR)]
        self.assertGreater(len(pages[0]), 100)
        self.assertGreater(len(pages[1]), 50)
        named = [name for page in pages for name in page]
        missing = []
        for module, kind, name in named:
            try:
                found: Any = getattr(
                    importlib.import_module("tests." + module.replace("/", ".")), kind
                )
            except (ImportError, AttributeError):
                missing.append(f"{module}::{kind}")
                continue
            if not (
                name.startswith("test_")
                and callable(getattr(found, name, None))
                and hasattr(found, "run")
            ):
                missing.append(f"{module}::{kind}.{name}")
        self.assertEqual([], missing)

    def test_nothing_else_is_named(self) -> None:
        """Each text that looks like a test's name is written so that the test above reads it."""
        for page in (MODEL, GRAMMAR):
            text = page.read_text("utf-8")
            self.assertEqual(text.count(".py::"), len(_NAMED.findall(text)))

    def test_files(self) -> None:
        """Every file that the threat model names is there."""
        missing = [
            path for path in _PATH.findall(MODEL.read_text("utf-8")) if not (ROOT / path).exists()
        ]
        self.assertEqual([], missing)


class Rows(SynchronousTestCase):
    """The rows and their tests."""

    def test_tables(self) -> None:
        """Every table of threats is there, with as many rows as there are threats."""
        for title, count in TABLES.items():
            found = rows(title)
            self.assertGreaterEqual(len(found), count, title)
            for row in found:
                self.assertEqual((4, True), (len(row), all(cell.strip() for cell in row)), row)

    def test_every_row_is_proved(self) -> None:
        """Every row names a test, states that it does not apply, or names where it is covered."""
        for title in TABLES:
            for row in rows(title):
                self.assertTrue(
                    _NAMED.search(row[3])
                    or "does not apply" in row[2]
                    or "interop/test_scanners.py" in row[3],
                    row,
                )

    def test_laws(self) -> None:
        """Each of the seven invariants is the answer of some row."""
        answers = " ".join(
            row[2] for title in [*TABLES, "Resource exhaustion"] for row in rows(title)
        )
        self.assertEqual(
            [f"L{number}" for number in range(1, 8)], sorted(set(re.findall(r"\bL\d\b", answers)))
        )

    def test_not_spoken(self) -> None:
        """The page states that HTTP/2 is not supported."""
        self.assertIn("HTTP/2 is not spoken", MODEL.read_text("utf-8"))


class Readme(SynchronousTestCase):
    """The page that package indexes show; ``nox -s docs`` builds the site from all pages."""

    def test_parse(self) -> None:
        """The README and the guide are plain reStructuredText: docutils reports no warning."""
        if importlib.util.find_spec("docutils") is None:
            raise SkipTest("docutils is not here; it belongs to the extra 'test'")
        core: Any = importlib.import_module("docutils.core")
        for page in PAGES:
            complaints = io.StringIO()
            settings = {
                "report_level": 2,
                "halt_level": 5,
                "warning_stream": complaints,
                "_disable_config": True,
            }
            html: bytes = core.publish_string(
                page.read_text("utf-8"),
                source_path=str(page),
                writer="html5",
                settings_overrides=settings,
            )
            self.assertEqual("", complaints.getvalue())
            self.assertGreater(len(html), 1000)
