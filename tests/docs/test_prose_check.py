"""Promises of the prose check ``.ci/prose.py``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

PATH = Path(__file__).parents[2] / ".ci" / "prose.py"
TABLE = """\
A sentence before.

=======  ==============
field    meaning
=======  ==============
one      nobody reads
         the second line
two      short
=======  ==============

A sentence behind.
"""


def prose() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("prose", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Python(SynchronousTestCase):
    def test_docstrings(self) -> None:
        """Docstrings of modules, classes, functions and attributes are checked."""
        source = '"""One."""\nA = 1\n"""Two."""\nclass B:\n "Three."\n c = 1\n "Four."\n'
        self.assertEqual(
            [(1, "One.", True), (3, "Two.", True), (5, "Three.", True), (7, "Four.", True)],
            sorted(prose().python_prose(source)),
        )


class Paragraphs(SynchronousTestCase):
    def setUp(self) -> None:
        self.check = prose()

    def test_simple_tables(self) -> None:
        """Each cell of a simple table is a paragraph of its own, and the text around it stays."""
        self.assertEqual(
            [
                (4, "field"), (4, "meaning"), (6, "one"), (6, "nobody reads the second line"),
                (8, "two"), (8, "short"), (1, "A sentence before."), (11, "A sentence behind."),
            ],
            list(self.check.paragraphs(TABLE)),
        )  # fmt: skip

    def test_words(self) -> None:
        """A word is found in a cell, at the line of its row."""
        found = [
            (at, text)
            for line, paragraph in self.check.paragraphs(TABLE)
            for at, text in self.check.faults(line, paragraph, opening=False)
        ]
        self.assertEqual([(6, "found 'nobody', expected a plain term")], found)

    def test_long_sentence(self) -> None:
        """A long sentence is found, and a table with as many words is not."""
        words = "word " * 40
        table = TABLE.replace("short", "short " * 4)
        self.assertEqual(1, len(list(self.check.faults(1, words, opening=False))))
        self.assertEqual(
            [],
            [
                text
                for line, paragraph in self.check.paragraphs(table)
                for _, text in self.check.faults(line, paragraph, opening=False)
                if "sentence" in text
            ],
        )
