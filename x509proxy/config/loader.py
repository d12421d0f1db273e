"""From a TOML file and the command line to frozen settings, and from those to everything that is read from files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import msgspec

from x509proxy.backend_url import Backend
from x509proxy.certificates.pem_files import ConfigFile, Identity, read_authorities, read_identity
from x509proxy.certificates.sni import ServerNames
from x509proxy.certificates.trust_store import read_trusted
from x509proxy.config.configuration import Configuration
from x509proxy.config.endpoint_strings import check_places
from x509proxy.config.file_paths import FILES, check_log_apart
from x509proxy.config.toml_errors import check_names, explain, parse_toml
from x509proxy.config.warnings import warnings_for
from x509proxy.forwarding.header_rules import read_rules
from x509proxy.redaction import holds_secret, without_secrets
from x509proxy.schema import ProxySettings
from x509proxy.settings import Settings, SettingsError, UpstreamSettings

__all__ = ["Configuration", "load_configuration", "load_settings", "override", "resolve"]

_LISTS = ("listen", "backend", "crl")
_NAMINGS = ("header", "header-file")

_Part = TypeVar("_Part", bound=Settings)


def load_settings(path: str) -> ProxySettings:
    """Read a TOML file. What it says of files is relative to the folder it lies in, and absolute afterwards.

    :raises SettingsError: it cannot be read, is no TOML, or has an unknown key or an unfit value.
    """
    source = ConfigFile.read(path, "config")
    where = without_secrets(path)
    table = parse_toml(source.data, where)
    for key in _secrets(table):
        # As secret here as in a header-file.
        attrs.evolve(source, where=f"{where}: {key}").require_private()
    return resolve(_convert(table, f"{where}: "), Path(path).absolute().parent)


def _secrets(table: Mapping[str, object]) -> Iterator[str]:
    """The keys of what nobody else may read: the header's name, and in ``[[headers]]`` what looks like one."""
    if "header" in table:
        yield "header"
    headers = table.get("headers")
    for place, header in enumerate(headers if isinstance(headers, list) else ()):
        for key in ("name", "value"):
            text = header.get(key) if isinstance(header, dict) else None
            if isinstance(text, str) and holds_secret(text):
                yield f"headers[{place}].{key}"


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
    given = {
        name.replace("_", "-"): value
        for name, value in changes.items()
        if value or isinstance(value, str)
    }
    table = msgspec.to_builtins(settings)
    if not given.keys().isdisjoint(_NAMINGS):
        table.update(dict.fromkeys(_NAMINGS))
    # Not strict: on a command line, numbers are text.
    return _convert(table | given, "--", strict=False)


def _convert(table: Mapping[str, object], prefix: str, *, strict: bool = True) -> ProxySettings:
    single = {name: [value] for name in _LISTS if isinstance(value := table.get(name), str)}
    check_names(table, prefix)
    try:
        return msgspec.convert({**table, **single}, ProxySettings, strict=strict)
    except msgspec.ValidationError as error:
        raise SettingsError(prefix + explain(str(error))) from None


def load_configuration(
    settings: ProxySettings, now: float | None = None, config: str | None = None
) -> Configuration:
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
        read_authorities(settings.upstream.ca, "upstream.ca")
        if settings.upstream.ca is not None
        else None,
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
        raise SettingsError(
            "backend: found none, expected at least one URL such as http://127.0.0.1:8080"
        )
    try:
        return tuple(Backend.parse(url) for url in settings.backend)
    except SettingsError as error:
        raise SettingsError(without_secrets(str(error))) from None


def _upstream_identity(upstream: UpstreamSettings) -> Identity | None:
    if upstream.certificate is not None:
        return read_identity(upstream.certificate, upstream.private_key, "upstream.certificate")
    if upstream.private_key is not None:
        raise SettingsError(
            "upstream.certificate: found none, expected a PEM file, since there is an upstream.private-key"
        )
    return None
