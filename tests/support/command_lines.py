"""The command lines that the demonstration prints."""

from __future__ import annotations


def lines_of(text: str) -> list[str]:
    """Return the command lines among the printed lines."""
    return [line.strip() for line in text.splitlines() if line.startswith("  curl ")]
