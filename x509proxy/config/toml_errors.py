"""What is wrong with a document, in the words of the person who wrote it: where, what was found, what was expected.

Facts
-----
* msgspec stops at the first problem and says ``Expected `int`, got `str` - at `$.client.max-requests-per-connection```; the place is turned into
  a dotted key here, the Python types into those of TOML. Its texts hold values of enums only, never that of ``header``.
* tomllib says ``(at line 3, column 5)`` or ``(at end of document)``.
"""

from __future__ import annotations

import codecs
import difflib
import enum
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, get_args, get_origin

import msgspec

from x509proxy.redaction import without_secrets
from x509proxy.schema import ProxySettings
from x509proxy.settings import Settings, SettingsError

__all__ = ["check_names", "explain", "parse_toml"]

_PLACE = re.compile(r" - at `\$\.?([\w.\[\]-]*)`$")
_ENUM = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_TYPE = re.compile(r"Expected `(\w+)[^`]*`, got `(\w+)`")
_TYPES = {
    "str": "a string", "int": "an integer", "float": "a number", "bool": "true or false", "array": "an array",
    "object": "a table", "date": "a date", "datetime": "a date-time", "time": "a time",
}  # fmt: skip
_MISSING = re.compile(r"Object missing required field `([\w-]+)`")
# What is expected of each key that a table must have, beside those with a choice.
_NEEDED = {
    "endpoint": "an endpoint such as tcp:8443",
    "certificate": "a PEM file with a chain",
    "mtls": "an https origin such as https://mtls.example.com:8443",
    "path": "a path such as /health",
    "listen": "unix:/path or tcp:9443:interface=127.0.0.1",
}
_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
# The beginnings of tomllib's sentences, and ours in their places.
_SYNTAX = (
    ("Cannot overwrite a value", "found a key, or a table, twice"),
    ("Duplicate inline table key", "found a key, or a table, twice"),
    ("Cannot declare", "found a key, or a table, twice"),
    (
        "Cannot mutate immutable namespace",
        "found more for a table or a list that was written out above",
    ),
)


def parse_toml(data: bytes, where: str) -> dict[str, object]:
    """The document that a file's bytes are.

    :raises SettingsError: they are none; the sentence names the line.
    """
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line, reason = data.count(b"\n", 0, error.start) + 1, "found bytes that are not UTF-8"
    except RecursionError:
        line, reason = data.count(b"\n") + 1, "found brackets within brackets, too many of them"
    except ValueError as error:
        place = _LINE.search(str(error))
        line = int(place[1]) if place and place[1] else len(data.splitlines())
        reason = without_secrets(_syntax(data, _LINE.sub("", str(error))))
    raise SettingsError(f"{where}: line {line}: {reason}, expected TOML") from None


def _syntax(data: bytes, reason: str) -> str:
    """Tomllib's words, or clearer ones."""
    if data.startswith(codecs.BOM_UTF8):
        return "found a byte order mark, which is to be taken out"
    return next((ours for beginning, ours in _SYNTAX if reason.startswith(beginning)), reason)


def check_names(
    table: Mapping[str, object], prefix: str, kind: type[Settings] = ProxySettings, inside: str = ""
) -> None:
    """What msgspec does too, but with an offer; and after this its texts have none but our own names in them.

    :raises SettingsError: there is a key that nobody knows.
    """
    known = _fields(kind)
    for name, value in table.items():
        if name not in known:
            expected = _elsewhere(name, inside) or _near(name, known, inside)
            raise SettingsError(
                f"{prefix}{without_secrets(inside + name)}: found an unknown key, expected {expected}"
            )
        below = _table_of(known[name])
        if below is not None:
            for place, member in _tables(value, known[name]):
                check_names(member, prefix, below, f"{inside}{name}{place}.")


def _elsewhere(name: str, inside: str) -> str:
    """Where a key belongs that stands in the wrong table, or in none; nothing if nowhere."""
    first = _fields(ProxySettings)
    if inside:
        outer = inside.partition(".")[0].partition("[")[0]
        return (
            f"{name} above {_brackets(outer)}, before the first table of the file"
            if name in first
            else ""
        )
    tables = [(key, table) for key, kind in first.items() if (table := _table_of(kind)) is not None]
    fitting = [f"it below {_brackets(key)}" for key, table in tables if name in _fields(table)]
    return _or(fitting) if fitting else ""


def _near(name: str, known: Mapping[str, Any], inside: str) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return inside + near[0] if near else _or([*known])


def _fields(kind: type[Settings]) -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(kind)}


def _brackets(table: str) -> str:
    """How a table of the first level is written."""
    return f"[[{table}]]" if get_origin(_fields(ProxySettings)[table]) is tuple else f"[{table}]"


def _tables(value: object, kind: Any) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The tables that stand where one, or a list of them, is expected, with their places in the list."""
    if isinstance(value, dict):
        yield "", value
    elif get_origin(kind) is tuple and isinstance(value, list):
        yield from (
            (f"[{place}]", member) for place, member in enumerate(value) if isinstance(member, dict)
        )


def _table_of(kind: Any) -> type[Settings] | None:
    """The kind of table that a key holds, be it one, none, or a list of them."""
    kinds = [kind, *get_args(kind)]
    return next(
        (part for part in kinds if isinstance(part, type) and issubclass(part, Settings)), None
    )


def explain(text: str) -> str:
    """A sentence of msgspec's in the words of the person who wrote the file: dotted key, what was found, what was expected."""
    place = _PLACE.search(text)
    key, problem = (place[1], text[: place.start()]) if place else ("", text)
    if invalid := _ENUM.fullmatch(problem):
        return f"{key}: found {without_secrets(invalid[1])}, expected {_choices(key)}"
    if missing := _MISSING.fullmatch(problem):
        dotted = f"{key}.{missing[1]}"
        return f"{dotted}: found nothing, expected {_choices(dotted) or _NEEDED[missing[1]]}"
    if kinds := _TYPE.fullmatch(problem):
        return f"{key}: found {_TYPES.get(kinds[2], kinds[2])}, expected {_choices(key) or _TYPES[kinds[1]]}{_written(key)}"
    return without_secrets(f"{key}.{problem}" if key else problem)


def _written(key: str) -> str:
    """How a table is written, for who has written another thing in its place."""
    kind = _fields(ProxySettings).get(key)
    return f", written {_brackets(key)}" if kind is not None and _table_of(kind) is not None else ""


def _choices(key: str) -> str:
    """The values that the dotted key's enum has; nothing for a key of another type. ``listen[0]`` counts as ``listen``."""
    kind: Any = ProxySettings
    for part in key.split("."):
        name, _, place = part.partition("[")
        kind = _fields(kind)[name]
        kind = _table_of(kind) or (
            get_args(kind)[0] if place or isinstance(kind, UnionType) else kind
        )
    if not isinstance(kind, enum.EnumMeta):
        return ""
    members: Iterable[enum.Enum] = kind
    return _or([str(member.value) for member in members])


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
