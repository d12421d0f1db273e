"""Recipes of the pages under ``docs``, taken from there.

A block that is meant to be run stands behind a comment that names it::

    .. recipe: x509proxy.toml

    .. code-block:: toml

        preset = "connect2id"
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

__all__ = ["DOCS", "filled", "recipe"]

DOCS = Path(__file__).parent.parent / "docs"
_BLOCK = re.compile(
    r"^\.\. recipe: (?P<name>[^\n]+)\n\n\.\. code-block:: [^\n]+\n\n"
    r"(?P<text>(?:(?:    [^\n]*)?\n)+)",
    re.MULTILINE,
)


def recipe(page: str, name: str) -> str:
    """Return the block ``name`` of ``docs/PAGE.rst``, without its indentation.

    :raises LookupError: there is none, or more than one.
    """
    found = [
        match["text"]
        for match in _BLOCK.finditer((DOCS / f"{page}.rst").read_text())
        if match["name"] == name
    ]
    if len(found) != 1:
        raise LookupError(f"docs/{page}.rst: found {len(found)} recipes {name!r}, expected 1")
    return textwrap.dedent(found[0]).strip("\n") + "\n"


def filled(text: str, places: Mapping[str, str]) -> str:
    """Return a recipe with this machine's ports, folders and names in place of the page's.

    :raises LookupError: one of the ``places`` is not in the text, so that a changed page is
        noticed.
    """
    for old, new in places.items():
        if old not in text:
            raise LookupError(f"{old!r} is not in the recipe")
        text = text.replace(old, new)
    return text
