"""Line numbers of the keys of a TOML file, for error sentences.

This is no parser: it assumes that the text is valid, and a key that it cannot follow has no line.
Syntax errors have the line that the TOML parser reports.

Facts
-----
* A value can have several lines: strings with three quotes, and arrays with comments in them. The
  line of its key counts.
* ``[[name]]`` begins the next member of a list. ``[name.other]`` after it belongs to the last
  member (TOML 1.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["Lines"]

_WORD = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_DOTTED = rf"{_WORD}(?:[ \t]*\.[ \t]*{_WORD})*"
_PART = re.compile(_WORD)
_HEADER = re.compile(rf"[ \t]*(\[\[?)[ \t]*({_DOTTED})[ \t]*\]")
_ASSIGNMENT = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
# The parts of a value that are needed to find its end.
_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"""' + r"|'''.*?'''"
    r'|"(?:[^"\\\n]|\\.)*"' + r"|'[^'\n]*'"
    r"|\#[^\n]*|[\[\]{},\n]",
    re.DOTALL,
)
_CONNECT2ID = re.compile(r"[ \t]*op\.tls\.")


class Lines:
    """The line numbers of the keys of a file."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._repeated: set[int] = set()
        self._scan()

    def find(self, key: str) -> int:
        """Return the line of a dotted key such as ``listeners[1].endpoint``.

        It is that of the innermost table with a line if the key has none, and 0 without either.
        """
        while key not in self._lines and key:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self._lines.get(key, 0)

    def reason_at(self, line: int) -> str:
        """Return a clearer reason for a syntax error on a line than the parser's, or ``""``."""
        if line in self._repeated:
            return "found a key or a table twice"
        text = self._text.splitlines()[line - 1 : line]
        if text and _CONNECT2ID.match(text[0]):
            return (
                "found a line of Connect2id's configuration, "
                "from which the name belongs in the header-file"
            )
        return ""

    def _scan(self) -> None:
        table, position, line = "", 0, 1
        while position < len(self._text):
            if header := _HEADER.match(self._text, position):
                table = self._table(header, line)
                end = header.end()
            elif assignment := _ASSIGNMENT.match(self._text, position):
                key = _joined(table, assignment[1])
                self._note(key, line)
                end = self._value(key, assignment.end(), line)
            else:
                end = position
            newline = self._text.find("\n", end)
            end = len(self._text) if newline < 0 else newline + 1
            line += self._text.count("\n", position, end)
            position = end

    def _table(self, header: re.Match[str], line: int) -> str:
        name = self._last("", _parts(header[2]))
        if header[1] == "[":
            self._note(name, line)
            return name
        count = self._counts[name] = self._counts.get(name, -1) + 1
        self._lines.setdefault(name, line)
        member = f"{name}[{count}]"
        self._note(member, line)
        return member

    def _last(self, prefix: str, parts: Iterator[str]) -> str:
        """Return the name of a table, with the last member of each list that contains it."""
        for part in parts:
            if prefix in self._counts:
                prefix = f"{prefix}[{self._counts[prefix]}]"
            prefix = f"{prefix}.{part}" if prefix else part
        return prefix

    def _value(self, key: str, position: int, line: int) -> int:
        """Return the end of a value, and record the lines of a list's members."""
        depth = index = 0
        first = position
        for token in _TOKEN.finditer(self._text, position):
            text = token[0]
            if text in "[{":
                depth += 1
            elif text in "]}":
                depth -= 1
            elif text == "\n" and not depth:
                return token.start()
            elif text == "," and depth == 1:
                index += 1
            elif depth == 1 and text[0] in "\"'":
                here = line + self._text.count("\n", first, token.start())
                self._lines.setdefault(f"{key}[{index}]", here)
        return len(self._text)

    def _note(self, key: str, line: int) -> None:
        if key in self._lines:
            self._repeated.add(line)
        self._lines.setdefault(key, line)


def _parts(dotted: str) -> Iterator[str]:
    return (part.strip("\"'") for part in _PART.findall(dotted))


def _joined(table: str, dotted: str) -> str:
    parts = [table] if table else []
    return ".".join([*parts, *_parts(dotted)])
