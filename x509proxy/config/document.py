"""The decoder from a TOML document to settings, which reports all mistakes at once.

It compares the parsed document with the types of the settings (``msgspec.inspect``), key by key.
Each mistake becomes a :class:`Problem`: the dotted key, the value found, and the value expected. A
key with a mistake is left out, so that the rest can be checked too.
"""

from __future__ import annotations

import codecs
import datetime
import difflib
import enum
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_origin

import attrs
import tomli
from msgspec import inspect

from x509proxy.certificates.config_files import ConfigFile
from x509proxy.config.toml_lines import Lines
from x509proxy.config.toml_quotes import bare_text
from x509proxy.redaction import contains_secret, without_secrets
from x509proxy.settings import (
    KeyField,
    ProxySettings,
    Settings,
    SettingsError,
    Unit,
    keys,
    table_of,
)

__all__ = ["Document", "DocumentError", "Problem", "decode", "read_document"]


@attrs.frozen
class Problem:
    """A mistake in a document."""

    key: str
    """The dotted key, as in the document."""
    text: str
    """``found X, expected Y``"""

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


class DocumentError(SettingsError):
    """A mistake for which a file cannot be used at all, with its line."""

    def __init__(self, where: str, line: int, reason: str) -> None:
        super().__init__(f"{where}: line {line}: {reason}")
        self.line = line
        self.reason = reason


@attrs.frozen
class Document:
    """A configuration file."""

    path: str
    settings: ProxySettings | None
    """The settings without the keys in ``problems``. ``None`` if the rest contradicts itself."""
    problems: tuple[Problem, ...] = ()
    lines: Lines = attrs.field(factory=lambda: Lines(""))

    def sentence(self, problem: Problem) -> str:
        """Return a problem with the file and the line."""
        line = self.lines.find(problem.key)
        where = f" line {line}:" if line else ""
        return f"{without_secrets(self.path)}:{where} {problem}"


def read_document(path: str) -> Document:
    """Read a TOML file.

    :raises SettingsError: the file cannot be read, is not TOML, or contains a secret while other
        users can read it.
    """
    source = ConfigFile.read(path, "config")
    where = without_secrets(path)
    text = _text(source.data, where)
    lines = Lines(text)
    table = _parse(text, where, lines)
    for key in _secrets(table):
        # The name is as secret here as in a header-file.
        try:
            attrs.evolve(source, where=key).require_private()
        except SettingsError as error:
            raise DocumentError(where, lines.find(key), str(error)) from None
    settings, problems = decode(table)
    return Document(path, settings, problems, lines)


# From bytes to tables.


def _text(data: bytes, where: str) -> str:
    if data.startswith(codecs.BOM_UTF8):
        raise _no_toml(where, 1, "found a byte order mark at the beginning")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _no_toml(where, line, "found bytes that are not UTF-8") from None


def _parse(text: str, where: str, lines: Lines) -> dict[str, object]:
    try:
        return tomli.loads(text)
    except RecursionError:
        line, reason = text.count("\n") + 1, "found too many nested brackets"
    except tomli.TOMLDecodeError as error:
        line = min(error.lineno, len(text.splitlines()))
        reason = lines.reason_at(line)
        if not reason and (mistake := bare_text(text, line)):
            raise DocumentError(where, mistake.line, mistake.reason) from None
        reason = reason or without_secrets(error.msg)
    except ValueError:
        # Python's own limit on the digits of an integer.
        line, reason = text.count("\n") + 1, "found a number with too many digits"
    raise _no_toml(where, line, reason)


def _no_toml(where: str, line: int, reason: str) -> DocumentError:
    return DocumentError(where, line, f"{reason}, expected TOML")


def _secrets(table: Mapping[str, object]) -> Iterator[str]:
    """Yield the keys that contain a secret: ``header``, and possible names in ``[[headers]]``."""
    if "header" in table:
        yield "header"
    headers = table.get("headers")
    for index, header in enumerate(headers if isinstance(headers, list) else ()):
        for key in ("name", "value"):
            text = header.get(key) if isinstance(header, dict) else None
            if isinstance(text, str) and contains_secret(text):
                yield f"headers[{index}].{key}"


# From tables to settings.


class _Missing(enum.Enum):
    """The absence of a value that can be used."""

    BAD = "bad"


_BAD = _Missing.BAD


def decode(
    table: Mapping[str, object], *, as_text: bool = False
) -> tuple[ProxySettings | None, tuple[Problem, ...]]:
    """Return the settings of a document, and its mistakes.

    The settings are ``None`` if the keys without a mistake contradict each other. ``as_text``
    accepts numbers as text, as a command line has them.
    """
    decoder = _Decoder(as_text)
    settings = decoder.table(table, ProxySettings, "")
    return settings if isinstance(settings, ProxySettings) else None, tuple(decoder.problems)


class _Decoder:
    """The state of decoding one document, with its mistakes so far."""

    def __init__(self, as_text: bool) -> None:
        self.problems: list[Problem] = []
        self._as_text = as_text
        self._decoders: dict[type[inspect.Type], Callable[[object, Any, str], object]] = {
            inspect.StrType: self._string,
            inspect.IntType: self._integer,
            inspect.FloatType: self._number,
            inspect.BoolType: self._boolean,
            inspect.EnumType: self._word,
            inspect.VarTupleType: self._list,
            inspect.UnionType: self._optional,
            inspect.StructType: lambda value, kind, key: self.table(value, kind.cls, key),
        }

    def table(self, value: object, kind: type[Settings], path: str) -> Settings | _Missing:
        """Decode one table."""
        if not isinstance(value, Mapping):
            return self._wrong(path, value, f"a table{_written(path)}")
        known = keys(kind)
        prefix = f"{path}." if path else ""
        before = len(self.problems)
        fields = {
            known[name].field: self._field(member, known[name], kind, prefix + name)
            for name, member in value.items()
            if self._is_known(name, known, path)
        }
        for name, field in known.items():
            if field.required and name not in value:
                self._add(prefix + name, f"found nothing, expected {_needed(field, kind)}")
        return self._build(kind, fields, prefix, before)

    def _build(
        self, kind: type[Settings], fields: dict[str, object], prefix: str, before: int
    ) -> Settings | _Missing:
        good = {name: value for name, value in fields.items() if value is not _BAD}
        if any(field.required and field.field not in good for field in keys(kind).values()):
            return _BAD
        try:
            return kind(**good)
        except SettingsError as error:
            found = [Problem(*_split(sentence, prefix)) for sentence in error.sentences]
            # A key with a mistake, of its own or of a key in its table, was replaced by its
            # default, and a contradiction to that default is no mistake of the document.
            reported = [problem.key for problem in self.problems[before:]]
            self.problems += [
                problem
                for problem in found
                if not any(_within(key, problem.key) for key in reported)
            ]
            return _BAD

    def _is_known(self, name: str, known: Mapping[str, KeyField], path: str) -> bool:
        if name in known:
            return True
        prefix = f"{path}." if path else ""
        key = without_secrets(prefix + name)
        expected = _elsewhere(name, path) or _near(name, known, prefix)
        self._add(key, f"found an unknown key, expected {expected}")
        return False

    def _field(self, value: object, field: KeyField, kind: type[Settings], key: str) -> object:
        found = self._value(value, _type(kind, field.name), key, field)
        problem = "" if found is _BAD else field.key.problem_with(found)
        if not problem:
            return found
        self._add(key, problem)
        return _BAD

    def _value(
        self, value: object, kind: inspect.Type, key: str, field: KeyField | None = None
    ) -> object:
        before = len(self.problems)
        found = self._decoders[type(kind)](value, kind, key)
        if found is _BAD and isinstance(value, str) and len(self.problems) == before + 1:
            hint = _quoted_number(value, field)
            if hint:
                last = self.problems[-1]
                self.problems[-1] = Problem(last.key, hint)
        return found

    # One decoder for each type.

    def _string(self, value: object, _: inspect.Type, key: str) -> object:
        return value if isinstance(value, str) else self._wrong(key, value, "a string")

    def _integer(self, value: object, _: inspect.Type, key: str) -> object:
        if self._as_text and isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,19}", value):
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            return self._wrong(key, value, "an integer")
        return value

    def _number(self, value: object, _: inspect.Type, key: str) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self._wrong(key, value, "a number")
        try:
            return float(value)
        except OverflowError:
            return math.inf

    def _boolean(self, value: object, _: inspect.Type, key: str) -> object:
        return value if isinstance(value, bool) else self._wrong(key, value, "true or false")

    def _word(self, value: object, kind: inspect.EnumType, key: str) -> object:
        members: dict[str, enum.Enum] = {str(member.value): member for member in kind.cls}
        if isinstance(value, str) and value in members:
            return members[value]
        expected = _or([*members])
        if not isinstance(value, str):
            return self._wrong(key, value, expected)
        return self._add(key, f"found {without_secrets(repr(value))}, expected {expected}")

    def _list(self, value: object, kind: inspect.VarTupleType, key: str) -> object:
        single = isinstance(kind.item_type, inspect.StrType) and isinstance(value, str)
        members = [value] if single else value
        if not isinstance(members, list | tuple):
            is_text = isinstance(kind.item_type, inspect.StrType)
            expected = _strings(key) if is_text else f"an array{_written(key)}"
            return self._wrong(key, value, expected)
        found = [
            self._value(member, kind.item_type, f"{key}[{index}]")
            for index, member in enumerate(members)
        ]
        return _BAD if _BAD in found else tuple(found)

    def _optional(self, value: object, kind: inspect.UnionType, key: str) -> object:
        [some] = [part for part in kind.types if not isinstance(part, inspect.NoneType)]
        return self._decoders[type(some)](value, some, key)

    def _wrong(self, key: str, value: object, expected: str) -> _Missing:
        return self._add(key, f"found {_kind_of(value)}, expected {expected}")

    def _add(self, key: str, text: str) -> _Missing:
        self.problems.append(Problem(key, text))
        return _BAD


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (str, "a string"),
    (int, "an integer"),
    (float, "a number"),
    (list, "an array"),
    (dict, "a table"),
    (datetime.datetime, "a date-time"),
    (datetime.date, "a date"),
    (datetime.time, "a time"),
)
_QUOTED = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]{0,5})\s*")
_FACTORS = {"ms": 0.001, "m": 60, "min": 60, "h": 3600, "d": 86400}
_BYTE_FACTORS = {"k": 1024, "kb": 1000, "kib": 1024, "m": 1 << 20, "mb": 1000000, "mib": 1 << 20}


def _kind_of(value: object) -> str:
    return next((name for kind, name in _KINDS if isinstance(value, kind)), type(value).__name__)


def _quoted_number(text: str, field: KeyField | None) -> str:
    """Return the mistake of a number that is written as text, such as ``"30s"``, or ``""``."""
    found = _QUOTED.fullmatch(text)
    if found is None or field is None or field.key.unit is Unit.NONE:
        return ""
    is_bytes = field.key.unit is Unit.BYTES
    factors = _BYTE_FACTORS if is_bytes else _FACTORS
    number = float(found[1]) * factors.get(found[2].lower(), 1)
    units = {Unit.SECONDS: "a number of seconds", Unit.BYTES: "a number of bytes"}
    expected = units.get(field.key.unit, "a number")
    return f"found {text!r}, expected {expected} without quotes and unit, such as {number:.10g}"


def _type(kind: type[Settings], name: str) -> inspect.Type:
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    return next(field.type for field in described.fields if field.encode_name == name)


def _split(sentence: str, prefix: str) -> tuple[str, str]:
    """Split a :class:`SettingsError`'s sentence into the key, with a prefix, and the rest."""
    key, _, text = sentence.partition(": ")
    return prefix + key, text


def _needed(field: KeyField, kind: type[Settings]) -> str:
    described = _type(kind, field.name)
    if isinstance(described, inspect.EnumType):
        return _or([str(member.value) for member in described.cls])
    return field.key.expected


def _elsewhere(name: str, path: str) -> str:
    """Return the right table for a key that is in the wrong table or in none, or ``""``."""
    first = keys(ProxySettings)
    if path:
        outer = path.partition(".")[0].partition("[")[0]
        return (
            f"{name} above {_brackets(outer)}, before the first table of the file"
            if name in first
            else ""
        )
    tables = [(key, table) for key, field in first.items() if (table := table_of(field.type))]
    fitting = [f"it below {_brackets(key)}" for key, table in tables if name in keys(table)]
    return _or(fitting) if fitting else ""


def _near(name: str, known: Mapping[str, Any], prefix: str) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return prefix + near[0] if near else _or([*known])


def _brackets(table: str) -> str:
    """Return the TOML header of a top-level table."""
    is_list = get_origin(keys(ProxySettings)[table].type) is tuple
    return f"[[{table}]]" if is_list else f"[{table}]"


def _within(inner: str, key: str) -> bool:
    """Return True for a key itself, and for one inside its table or list."""
    return inner == key or inner.startswith((f"{key}.", f"{key}["))


def _strings(key: str) -> str:
    """Return the type of a list of strings, with the example that a top-level key has."""
    field = keys(ProxySettings).get(key)
    example = f": {field.key.expected}" if field is not None and field.key.expected else ""
    return f"a string or an array of strings{example}"


def _written(key: str) -> str:
    """Return a hint with the TOML header of a table, for an error about its type, or ``""``."""
    field = keys(ProxySettings).get(key)
    return f", written {_brackets(key)}" if field is not None and table_of(field.type) else ""


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
