"""Reasons for the most frequent syntax errors in TOML: text without quotes, or with wrong ones.

The TOML parser has only ``Invalid value`` for them. The reasons do not quote the text, which may be
a secret.
"""

from __future__ import annotations

import re

import attrs

__all__ = ["Mistake", "bare_text"]

_QUOTES = 'expected text in straight double quotes, such as "tcp:8443"'
# What is not looked at: comments, and strings with both quotes.
_COMPLETE = re.compile(
    r'"""(?:[^\\]|\\.)*?"""|' + r"'''.*?'''" + r'|"(?:[^"\\\n]|\\.)*"' + r"|'[^'\n]*'|\#[^\n]*",
    re.DOTALL,
)
_STRAIGHT = re.compile("[\"']")
_CURLY = re.compile("[\u2018-\u201f\u00ab\u00bb\u2032\u2033]")
_KEY = re.compile(r"\s*[\w.\-]+\s*=")
_BOOLEAN = re.compile(r"yes|no|on|off|true|false", re.IGNORECASE)
_WITH_UNIT = re.compile(r"[0-9]+(?:\.[0-9]+)?\s*[A-Za-z]+")
_STRING = "\0"
# Booleans, numbers, dates, and strings that have been replaced.
_BARE = re.compile(
    r"true|false|[+-]?(?:inf|nan|[0-9][0-9A-Fa-fxob_]*(?:[.eE][0-9+_-]+)*)|[0-9]{4}-.*|\0"
)


@attrs.frozen
class Mistake:
    """A syntax error. ``line``: from 1. ``reason``: ``found X, expected Y``."""

    line: int
    reason: str


def bare_text(text: str, line: int) -> Mistake | None:
    """Return the mistake in the quotes of a TOML file that cannot be parsed, if there is one.

    ``line``: where the parser has stopped, which is behind a quote that is missing.
    """
    rest = _COMPLETE.sub(_blank, text)
    if (quote := _STRAIGHT.search(rest)) and rest.count("\n", 0, quote.start()) < line:
        here = rest.count("\n", 0, quote.start()) + 1
        return Mistake(here, f"found text without its closing quote, {_QUOTES}")
    value = _value(rest.splitlines()[line - 1])
    if _CURLY.search(value):
        return Mistake(line, f"found curly quotes, {_QUOTES}")
    for part in re.split(r"[\[\]{},]", value):
        member = part.rpartition("=")[2].strip()  # without the key in an inline table
        if member and (reason := _reason(member)):
            return Mistake(line, reason)
    return None


def _blank(found: re.Match[str]) -> str:
    """Replace a string by a character that TOML does not have, and keep the number of lines."""
    return _STRING + "\n" * found[0].count("\n") if found[0][0] != "#" else ""


def _value(line: str) -> str:
    """Return the value on a line, or the member of an array that has a line of its own."""
    if key := _KEY.match(line):
        return line[key.end() :]
    return line if line.rstrip().endswith(",") else ""


def _reason(part: str) -> str:
    if _BARE.fullmatch(part):
        return ""
    if _BOOLEAN.fullmatch(part):
        return "found a word without quotes, expected true or false"
    if _WITH_UNIT.fullmatch(part):
        return "found a number with a unit, expected one without"
    return f"found text without quotes, {_QUOTES}"
