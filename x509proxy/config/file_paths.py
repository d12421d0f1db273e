"""The files that a configuration names: those that are read, and the one that is written, which must be none of them.

Facts
-----
* The access log is opened to be appended to: were it the private key's file, its lines would stand behind the key.
* It is opened with the rights of whoever starts the proxy. A reload has others, so only ``x509proxy check``
  asks whether it can be.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from x509proxy.config.endpoint_strings import socket_paths
from x509proxy.redaction import without_secrets
from x509proxy.settings import File, ProxySettings, Settings, SettingsError, keys

__all__ = [
    "Stamp",
    "check_log_apart",
    "check_log_place",
    "files_read",
    "log_problem",
    "named_files",
    "stamp",
    "with_files",
]


def named_files(settings: Settings) -> Iterator[str]:
    """Yield the files that settings name and that are read; not the one that is written."""
    yield from (path for _, path in files_read(settings))


def files_read(settings: Settings, inside: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the path of each file that is read."""
    for name, field in keys(type(settings)).items():
        yield from _files(
            field.key.file is File.READ, inside + name, getattr(settings, field.field)
        )


def _files(is_file: bool, key: str, value: object) -> Iterator[tuple[str, str]]:
    match value:
        case Settings():
            yield from files_read(value, f"{key}.")
        case tuple():
            for index, member in enumerate(value):
                yield from _files(is_file, f"{key}[{index}]", member)
        case str() if is_file:
            yield key, value


_Part = TypeVar("_Part", bound=Settings)


def with_files(settings: _Part, change: Callable[[str], str]) -> _Part:
    """Return the settings with every file's name changed."""
    return msgspec.structs.replace(
        settings,
        **{
            field.field: _changed(field.key.file, getattr(settings, field.field), change)
            for field in keys(type(settings)).values()
        },
    )


def _changed(file: File, value: Any, change: Callable[[str], str]) -> Any:
    match value:
        case Settings():
            return with_files(value, change)
        case tuple():
            return tuple(_changed(file, member, change) for member in value)
        case str() if file is File.READ or (file is File.WRITTEN and value != "-"):
            return change(value)
    return value


Stamp = tuple[int, int, int, int]
"""Device, inode, size and time of a file: equal stamps, equal content."""


def stamp(path: str) -> Stamp | None:
    """Return the stamp of the file that a name leads to, or ``None`` if it cannot be looked at."""
    try:
        status = os.stat(path)  # noqa: PTH116 - one call, many times
    except (OSError, ValueError):
        # ValueError: NUL in the name.
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def check_log_apart(settings: ProxySettings, config: str | None) -> None:
    """Check that no file that is read, and no socket, is written to as the log. ``config``: the TOML file, if there is one.

    :raises SettingsError: the access log is one of these, under any name.
    """
    log = settings.access_log
    if log is None or log == "-":
        return
    others = [*files_read(settings), *socket_paths(settings)]
    if config is not None:
        others.append(("the configuration", config))
    for key, path in others:
        if _is_same(log, path):
            raise SettingsError(
                f"access-log: {without_secrets(log)}: found the file of {key}, expected one of its own"
            )


def _is_same(one: str, other: str) -> bool:
    if os.path.abspath(one) == os.path.abspath(other):  # noqa: PTH100 - without looking at links
        return True
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 - both are text
    except (OSError, ValueError):
        # There is no log yet; and what cannot be looked at, or has NUL in its name, is not opened either.
        return False


def check_log_place(settings: ProxySettings) -> None:
    """Check that the access log could be opened, without creating it.

    :raises SettingsError: it is no file, its folder is missing, or it cannot be written.
    """
    path = settings.access_log
    if path is not None and path != "-":
        problem = log_problem(path) or _no_right(path)
        if problem:
            raise SettingsError(
                f"access-log: {without_secrets(path)}: found {problem}, expected a file that can be written"
            )


# The kinds of files that lines cannot be appended to. /dev/null is a device and can be.
_NO_LOGS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a disk",
}


def log_problem(path: str) -> str:
    """Return the reason why a path cannot be that of a log, or ``""``: the same at the start and in a check.

    A pipe without a reader cannot be opened, and one whose reader stops loses lines; standard output is ``-``.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - text
    except ValueError:
        return "NUL in its name"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a loop of links"
        # A link without a file becomes that file.
        target = os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114
        folder = os.path.dirname(target) or "."  # noqa: PTH120 - as the system splits it
        return "" if os.path.isdir(folder) else f"no folder {without_secrets(folder)}"  # noqa: PTH112
    return _NO_LOGS.get(stat.S_IFMT(mode), "")


def _no_right(path: str) -> str:
    path = os.path.realpath(path)
    if os.path.exists(path):  # noqa: PTH110
        return "" if os.access(path, os.W_OK, effective_ids=True) else "no right to write it"
    folder = os.path.dirname(path)  # noqa: PTH120
    return (
        ""
        if os.access(folder, os.W_OK | os.X_OK, effective_ids=True)
        else "no right to write to its folder"
    )
