"""Promises of the site's sources: every page is listed, and what contributors read exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SECTIONS = ["Start", "How-to", "Operate", "Reference", "Explain", "Project"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.rst").read_text("utf-8")
_TREE = re.compile(r"^\.\. toctree::\n((?: +:.*\n)*)\n((?: +\S.*\n)+)", re.MULTILINE)


def listed(page: Path) -> list[Path]:
    """Return the pages in the tables of contents of one page."""
    found: list[Path] = []
    for options, entries in _TREE.findall(page.read_text("utf-8")):
        for entry in entries.split("\n"):
            name = re.sub(r".*<(.*)>", r"\1", entry.strip())
            if "*" in name:
                assert ":glob:" in options
                found += sorted(page.parent.glob(f"{name}.rst"))
            elif name:
                found.append(page.parent / f"{name}.rst")
    return found


def renderer() -> ModuleType:
    """Return ``docs/diagrams/render.py``, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("render", DOCS / "diagrams" / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Contents(SynchronousTestCase):
    def test_sections(self) -> None:
        """The contents have the six sections, in their order."""
        index = (DOCS / "index.rst").read_text("utf-8")
        self.assertEqual(SECTIONS, re.findall(r"^   :caption: (.+)$", index, re.MULTILINE))

    def test_every_page(self) -> None:
        """Every page of ``docs`` is in a table of contents: add a new one to ``docs/index.rst``."""
        reached = {DOCS / "index.rst"}
        waiting = list(reached)
        while waiting:
            new = set(listed(waiting.pop())) - reached
            reached |= new
            waiting += new
        self.assertEqual(set(DOCS.rglob("*.rst")), reached)

    def test_readme(self) -> None:
        """Each page and file of the project that the README names exists."""
        readme = (ROOT / "README.rst").read_text("utf-8")
        named = re.findall(r"``((?:docs|contrib)/[\w./-]+|[A-Z]+\.(?:rst|md))``", readme)
        self.assertIn("CONTRIBUTING.rst", named)
        self.assertIn("SECURITY.md", named)
        self.assertEqual([], [name for name in named if not (ROOT / name).exists()])


class Diagrams(SynchronousTestCase):
    def test_current(self) -> None:
        """Each picture is what its source renders to: run ``python docs/diagrams/render.py``."""
        module = renderer()
        expected = dict(module.pictures())
        found = {path.name: path.read_text("utf-8") for path in module.HERE.glob("*.svg")}
        self.assertEqual(sorted(expected), sorted(found))
        for name, text in expected.items():
            self.assertTrue(text == found[name], name)

    def test_packages(self) -> None:
        """The page on the architecture has a row for every package of the contract."""
        module = renderer()
        boxes = module.packages(module.CONTRACT.read_text("utf-8"))["boxes"]
        page = (DOCS / "architecture.rst").read_text("utf-8")
        table = page.partition("   * - package\n")[2].partition("\n\n")[0]
        self.assertEqual(set(boxes), set(re.findall(r"``(\w+)``", table)) - {"twistd"})

    def test_apart(self) -> None:
        """An arrow between boxes that do not face each other is an error, not a crooked line."""
        boxes = {"a": {"at": [0, 0], "text": ["a"]}, "b": {"at": [2, 2], "text": ["b"]}}
        arrows = [{"from": "a", "to": "b"}]
        diagram = {"title": "", "description": "", "unit": [50, 50]}
        with self.assertRaises(ValueError):
            renderer().render({**diagram, "boxes": boxes, "arrows": arrows})


class Guide(SynchronousTestCase):
    def test_changes(self) -> None:
        """The table has each kind of change."""
        table = CONTRIBUTING.partition("   * - change\n")[2].partition("\n\n")[0]
        self.assertEqual(11, table.count("   * - "))

    def test_files(self) -> None:
        """Each file that the guide names exists."""
        named = re.findall(
            r"``((?:x509proxy|docs|tests|interop|bench|contrib|\.ci|changelog\.d)(?:/[\w./-]+)?)``",
            CONTRIBUTING,
        )
        self.assertGreater(len(named), 40)
        self.assertEqual([], [name for name in named if not (ROOT / name).exists()])

    def test_names(self) -> None:
        """Each class and table that the guide names beside a module is in it."""
        named = re.findall(r"``(x509proxy/[\w/]+\.py)``\s+\(``(\w+)``", CONTRIBUTING)
        self.assertGreater(len(named), 5)
        for module, name in named:
            self.assertRegex(
                (ROOT / module).read_text("utf-8"), rf"(?m)^(?:class )?{name}\b", module
            )

    def test_sessions(self) -> None:
        """Each session that the guide names is in ``noxfile.py``, and the other way round."""
        sessions = re.findall(
            r"@nox\.session\([^)]*\)\ndef (\w+)", (ROOT / "noxfile.py").read_text("utf-8")
        )
        self.assertGreater(len(sessions), 10)
        checks = CONTRIBUTING.partition("\nChecks\n")[2].partition("\nTests\n")[0]
        for session in sessions:
            self.assertRegex(checks, rf"``(?:nox -s )?{session}(?:-3\.11)?\b", session)
        for session in re.findall(r"nox -s ([a-z]+)", CONTRIBUTING):
            self.assertIn(session, sessions)
