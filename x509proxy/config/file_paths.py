"""The files that a configuration names: those that are read, and the one that is written, which must be none of them.

Facts
-----
* The access log is opened to be appended to: were it the private key's file, its lines would stand behind the key.
* It is opened with the rights of whoever starts the proxy. A reload has others, so only ``x509proxy check``
  asks whether it can be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from x509proxy.redaction import without_secrets
from x509proxy.schema import ProxySettings
from x509proxy.settings import Settings, SettingsError

__all__ = ["FILES", "check_log_apart", "check_log_place", "named_files"]

# Every key that names a file, wherever in the document it stands.
FILES = frozenset(
    {
        "certificate",
        "private_key",
        "header_file",
        "ca",
        "crl",
        "access_log",
        "name_file",
        "value_file",
    }
)


def named_files(settings: Settings) -> Iterator[str]:
    """The files that settings name, to be read; not the one that is written."""
    yield from (path for _, path in _read(settings))


def _read(part: Settings, inside: str = "") -> Iterator[tuple[str, str]]:
    """The dotted key and the path of each file that is read."""
    for name in part.__struct_fields__:
        if name != "access_log":
            yield from _named(name, inside + name.replace("_", "-"), getattr(part, name))


def _named(name: str, key: str, value: object) -> Iterator[tuple[str, str]]:
    match value:
        case Settings():
            yield from _read(value, f"{key}.")
        case tuple():
            for place, member in enumerate(value):
                yield from _named(name, f"{key}[{place}]", member)
        case str() if name in FILES:
            yield key, value


def check_log_apart(settings: ProxySettings, config: str | None) -> None:
    """Nothing that is read is written to. ``config``: the TOML file, if there is one.

    :raises SettingsError: the access log is one of the files that are read, be it by another name.
    """
    log = settings.access_log
    if log is None or log == "-":
        return
    for key, path in (
        *_read(settings),
        *(() if config is None else (("the configuration", config),)),
    ):
        if _is_same(log, path):
            raise SettingsError(
                f"access-log: {without_secrets(log)}: found the file of {key}, expected one of its own"
            )


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 - both are text
    except (OSError, ValueError):
        # There is no log yet; and what cannot be looked at, or has NUL in its name, is not opened either.
        return False


def check_log_place(settings: ProxySettings) -> None:
    """Whether the access log could be opened, without making it.

    :raises SettingsError: its folder is missing, it is a folder itself, or nobody may write there.
    """
    path = settings.access_log
    if path is not None and path != "-" and (problem := _no_log(path)):
        raise SettingsError(
            f"access-log: {without_secrets(path)}: found {problem}, expected a file that can be written"
        )


def _no_log(path: str) -> str:
    folder = os.path.dirname(path)  # noqa: PTH120 - as the system splits it
    if os.path.isdir(path):  # noqa: PTH112 - false for what cannot be looked at
        return "a folder"
    if not os.path.isdir(folder):  # noqa: PTH112
        return f"no folder {without_secrets(folder)}"
    if os.path.exists(path):  # noqa: PTH110
        return "" if os.access(path, os.W_OK, effective_ids=True) else "no right to write it"
    return (
        ""
        if os.access(folder, os.W_OK | os.X_OK, effective_ids=True)
        else "no right to write to its folder"
    )
