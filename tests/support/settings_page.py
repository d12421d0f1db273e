"""The reference page of all settings, from the facts at the keys.

``python -m tests.support.settings_page > docs/settings.rst`` writes it.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from typing import get_args, get_origin

import msgspec

from x509proxy.settings import (
    Change,
    File,
    KeyField,
    ProxySettings,
    Settings,
    Unit,
    keys,
    table_of,
)

__all__ = ["settings_page"]

_HEAD = """\
All settings
============

Every key of the configuration file. The page is made from the code
(``python -m tests.support.settings_page``), and a test compares the two. A change of a
key that needs a *restart* is rejected by a reload; other changes are used by it. Names
of files are relative to the folder of the configuration file.
:doc:`configuration` explains the tables.
"""


def settings_page() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *_table("First level", ProxySettings), *_tables()])


def _tables() -> Iterator[str]:
    for name, field in keys(ProxySettings).items():
        kind = table_of(field.type)
        if kind is not None:
            is_list = get_origin(field.type) is tuple
            yield from _table(f"``[[{name}]]``" if is_list else f"``[{name}]``", kind)


def _table(title: str, kind: type[Settings]) -> Iterator[str]:
    yield from (title, "-" * len(title), "")
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: 24 16 60", "")
    yield from ("   * - key", "     - default", "     - meaning")
    for name, field in keys(kind).items():
        if table_of(field.type) is None:
            yield from (f"   * - ``{name}``", f"     - {_default(field)}")
            yield from _wrapped(f"{field.key.doc} {_more(field)}".strip())
    yield ""


def _default(field: KeyField) -> str:
    if field.required:
        return "(required)"
    value = msgspec.to_builtins(field.default)
    if value is None or value == ():
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(f"``{one}``" for one in value)
    if isinstance(value, bool):
        return f"``{str(value).lower()}``"
    unit = {Unit.NONE: "", Unit.SECONDS: " s", Unit.BYTES: " bytes"}.get(
        field.key.unit, f" {field.key.unit.value}"
    )
    number = f"{value:g}" if isinstance(value, float) else str(value)
    return f"``{number}``{unit}"


def _more(field: KeyField) -> str:
    return " ".join(filter(None, (_words(field), _bounds(field), _file(field), _restart(field))))


def _words(field: KeyField) -> str:
    kinds = [field.type, *get_args(field.type)]
    for kind in kinds:
        if isinstance(kind, enum.EnumMeta):
            words: list[enum.Enum] = [*kind]
            return "Values: " + ", ".join(f"``{word.value}``" for word in words) + "."
    return ""


def _bounds(field: KeyField) -> str:
    least, most = field.key.least, field.key.most
    if least is not None and most is not None:
        return f"{least} to {most}."
    return f"At most {most}." if most is not None else ""


def _file(field: KeyField) -> str:
    return {File.NO: "", File.READ: "A file.", File.WRITTEN: "A file."}[field.key.file]


def _restart(field: KeyField) -> str:
    return "A change needs a restart." if field.key.change is Change.RESTART else ""


def _wrapped(text: str) -> Iterator[str]:
    line = "     -"
    for word in text.split(" "):
        if len(line) + 1 + len(word) > 88:
            yield line
            line = "      "
        line += f" {word}"
    yield line


if __name__ == "__main__":
    sys.stdout.write(settings_page())
