"""From a TOML file and the command line to frozen settings, and from those to everything that is read from files.

Facts
-----
* msgspec stops at the first problem and says ``Expected `int`, got `str` - at `$.client.requests```; the place is turned into
  a dotted key here, the Python types into those of TOML. Its texts hold values of enums only, never that of ``header``.
* tomllib says ``(at line 3, column 5)`` or ``(at end of document)``.
"""

from __future__ import annotations

import difflib
import enum
import re
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import attrs
import msgspec

from x509proxy.advice import warnings_for
from x509proxy.document import ProxySettings
from x509proxy.files import FILES, check_log_apart
from x509proxy.loaded import Configuration
from x509proxy.material import Identity, Source, read_authorities, read_identity, without_secrets
from x509proxy.origin import Backend
from x509proxy.places import check_places
from x509proxy.rules import read_rules
from x509proxy.settings import Settings, SettingsError, UpstreamSettings
from x509proxy.sni import ServerNames
from x509proxy.trusted import read_trusted

__all__ = ["Configuration", "load_configuration", "load_settings", "override", "resolve"]

_LISTS = ("listen", "backend", "crl")
_NAMINGS = ("header", "header-file")

_Part = TypeVar("_Part", bound=Settings)

_PLACE = re.compile(r" - at `\$\.?([\w.\[\]-]*)`$")
_ENUM = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_TYPE = re.compile(r"Expected `(\w+)[^`]*`, got `(\w+)`")
_TYPES = {
    "str": "a string", "int": "an integer", "float": "a number", "bool": "true or false", "array": "an array",
    "object": "a table", "date": "a date", "datetime": "a date-time", "time": "a time",
}  # fmt: skip
_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def load_settings(path: str) -> ProxySettings:
    """Read a TOML file. What it says of files is relative to the folder it lies in, and absolute afterwards.

    :raises SettingsError: it cannot be read, is no TOML, or has an unknown key or an unfit value.
    """
    source = Source.read(path, "config")
    where = without_secrets(path)
    table = _parse(source.data, where)
    if "header" in table:
        # The name is as secret here as it is in a header-file.
        attrs.evolve(source, where=f"{where}: header").require_private()
    return resolve(_convert(table, f"{where}: "), Path(path).absolute().parent)


def _parse(data: bytes, where: str) -> dict[str, object]:
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line, reason = data.count(b"\n", 0, error.start) + 1, "found bytes that are not UTF-8"
    except (ValueError, RecursionError) as error:
        place = _LINE.search(str(error))
        line = int(place[1]) if place and place[1] else len(data.splitlines())
        reason = without_secrets(_LINE.sub("", str(error)))
    raise SettingsError(f"{where}: line {line}: {reason}, expected TOML") from None


def resolve(settings: ProxySettings, folder: Path) -> ProxySettings:
    """The settings with every file's name absolute, relative ones from ``folder``: a daemon goes elsewhere."""
    resolved = _resolved(settings, folder)
    if settings.access_log == "-":
        resolved = msgspec.structs.replace(resolved, access_log="-")
    return resolved


def _resolved(part: _Part, folder: Path) -> _Part:
    changes = {name: _joined(name, getattr(part, name), folder) for name in part.__struct_fields__}
    return msgspec.structs.replace(part, **changes)


def _joined(name: str, value: Any, folder: Path) -> Any:
    match value:
        case Settings():
            return _resolved(value, folder)
        case tuple():
            return tuple(_joined(name, member, folder) for member in value)
        case str() if name in FILES:
            return str(folder / value)
    return value


def override(settings: ProxySettings, changes: Mapping[str, object]) -> ProxySettings:
    """The settings with what the command line says, by field name; values are text, or sequences of it.

    What a command line cannot say (``None``, ``False``, an empty sequence) stands for an option that was not given. The two
    ways to give the header's name exclude each other, so that either replaces both.

    :raises SettingsError: a value is unfit; the sentence names the option.
    """
    given = {name.replace("_", "-"): value for name, value in changes.items() if value or isinstance(value, str)}
    table = msgspec.to_builtins(settings)
    if not given.keys().isdisjoint(_NAMINGS):
        table.update(dict.fromkeys(_NAMINGS))
    # Not strict: on a command line, numbers are text.
    return _convert(table | given, "--", strict=False)


def _convert(table: Mapping[str, object], prefix: str, *, strict: bool = True) -> ProxySettings:
    single = {name: [value] for name in _LISTS if isinstance(value := table.get(name), str)}
    _check_names(table, ProxySettings, prefix)
    try:
        return msgspec.convert({**table, **single}, ProxySettings, strict=strict)
    except msgspec.ValidationError as error:
        raise SettingsError(prefix + _explain(str(error))) from None


def _check_names(table: Mapping[str, object], kind: type[Settings], prefix: str, inside: str = "") -> None:
    """What msgspec does too, but with an offer; and after this its texts have none but our own names in them."""
    known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in table.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            expected = inside + near[0] if near else _or([*known])
            raise SettingsError(f"{prefix}{without_secrets(inside + name)}: found an unknown key, expected {expected}")
        below = _table_of(known[name])
        if below is not None:
            for place, member in _tables(value, known[name]):
                _check_names(member, below, prefix, f"{inside}{name}{place}.")


def _tables(value: object, kind: Any) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The tables that stand where one, or a list of them, is expected, with their places in the list."""
    if isinstance(value, dict):
        yield "", value
    elif get_origin(kind) is tuple and isinstance(value, list):
        yield from ((f"[{place}]", member) for place, member in enumerate(value) if isinstance(member, dict))


def _table_of(kind: Any) -> type[Settings] | None:
    """The kind of table that a key holds, be it one, none, or a list of them."""
    kinds = [kind, *get_args(kind)]
    return next((part for part in kinds if isinstance(part, type) and issubclass(part, Settings)), None)


def _explain(text: str) -> str:
    """A sentence of msgspec's in the words of the person who wrote the file: dotted key, what was found, what was expected."""
    place = _PLACE.search(text)
    key, problem = (place[1], text[: place.start()]) if place else ("", text)
    if invalid := _ENUM.fullmatch(problem):
        return f"{key}: found {without_secrets(invalid[1])}, expected {_choices(key)}"
    if kinds := _TYPE.fullmatch(problem):
        return f"{key}: found {_TYPES.get(kinds[2], kinds[2])}, expected {_choices(key) or _TYPES[kinds[1]]}"
    return f"{key}.{problem}" if key else problem


def _choices(key: str) -> str:
    """The values that the dotted key's enum has; nothing for a key of another type. ``listen[0]`` counts as ``listen``."""
    kind: Any = ProxySettings
    for part in key.split("."):
        name, _, place = part.partition("[")
        kind = next(field.type for field in msgspec.structs.fields(kind) if field.encode_name == name)
        kind = _table_of(kind) or (get_args(kind)[0] if place or isinstance(kind, UnionType) else kind)
    if not isinstance(kind, enum.EnumMeta):
        return ""
    members: Iterable[enum.Enum] = kind
    return _or([str(member.value) for member in members])


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def load_configuration(settings: ProxySettings, now: float | None = None, config: str | None = None) -> Configuration:
    """Read every file that the settings name, and check that all of it fits together.

    ``now``: seconds since the epoch; ``config``: the file that the settings come from.

    :raises SettingsError: the first thing that is missing, unfit or contradictory.
    """
    if not settings.listen and not settings.listeners:
        raise SettingsError("listen: found none, expected at least one endpoint such as tcp:8443")
    if settings.certificate is None:
        raise SettingsError("certificate: found none, expected a PEM file with the server's chain")
    check_places(settings)
    check_log_apart(settings, config)
    backends = _backends(settings)
    rules = read_rules(settings)
    found = Configuration(
        settings,
        read_identity(settings.certificate, settings.private_key),
        backends,
        rules,
        read_trusted(settings),
        _further(settings),
        read_authorities(settings.upstream.ca, "upstream.ca") if settings.upstream.ca is not None else None,
        _upstream_identity(settings.upstream),
    )
    return _checked(found, time.time() if now is None else now)


def _checked(found: Configuration, now: float) -> Configuration:
    """With what there is to warn of, if its parts fit together."""
    if found.further:
        ServerNames.of([identity.certificate for identity in (found.identity, *found.further)])
    return attrs.evolve(found, warnings=tuple(warnings_for(found, now)))


def _further(settings: ProxySettings) -> tuple[Identity, ...]:
    return tuple(
        read_identity(one.certificate, one.private_key, f"certificates[{place}].certificate")
        for place, one in enumerate(settings.certificates)
    )


def _backends(settings: ProxySettings) -> tuple[Backend, ...]:
    if not settings.backend:
        raise SettingsError("backend: found none, expected at least one URL such as http://127.0.0.1:8080")
    try:
        return tuple(Backend.parse(url) for url in settings.backend)
    except SettingsError as error:
        raise SettingsError(without_secrets(str(error))) from None


def _upstream_identity(upstream: UpstreamSettings) -> Identity | None:
    if upstream.certificate is not None:
        return read_identity(upstream.certificate, upstream.private_key, "upstream.certificate")
    if upstream.private_key is not None:
        raise SettingsError("upstream.certificate: found none, expected a PEM file, since there is an upstream.private-key")
    return None
