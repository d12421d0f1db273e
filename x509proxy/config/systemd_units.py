"""Unit files of systemd: the service that runs a configuration, its user and its folders.

Facts
-----
* The first file of a name wins, in the order of :data:`UNITS` (systemd.unit(5)). A drop-in in
  ``UNIT.d`` adds to it. The last ``User=`` counts, and each ``RuntimeDirectory=``; an empty one
  takes back those before it. A line that ends with a backslash goes on in the next one.
* systemd makes ``RuntimeDirectory=`` below ``/run`` at the start and removes it at the end. So the
  folder is missing before the first start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = ["UNITS", "Service", "joined_lines", "service_of", "unit_files"]

UNITS = tuple(
    Path(folder)
    for folder in (
        "/etc/systemd/system",
        "/run/systemd/system",
        "/usr/local/lib/systemd/system",
        "/usr/lib/systemd/system",
        "/lib/systemd/system",
    )
)
"""The folders of installed units."""
_ASSIGNMENT = re.compile(r"[ \t]*(ExecStart|RuntimeDirectory|User)[ \t]*=[ \t]*(.*?)[ \t]*")


@attrs.frozen
class Service:
    """A service that runs a configuration. ``user`` is empty for root."""

    name: str
    user: str = ""
    runtime_folders: tuple[str, ...] = ()


def unit_files(name: str) -> Iterator[Path]:
    """Yield the file of an installed unit, and its drop-ins in their order."""
    main = next((folder / name for folder in UNITS if (folder / name).is_file()), None)
    if main is not None:
        yield main
        drop_ins = {
            path.name: path
            for folder in reversed(UNITS)
            for path in (folder / f"{name}.d").glob("*.conf")
        }
        yield from (drop_ins[one] for one in sorted(drop_ins))


def joined_lines(file: Path) -> list[str]:
    """Return the lines of a unit file; a line that goes on in the next one is one line.

    :raises OSError: it cannot be read.
    """
    return re.sub(r"\\\n", " ", file.read_text("utf-8", "replace")).splitlines()


def service_of(config: str, unit: str | None = None) -> Service | None:
    """Return the service whose command names the configuration, if there is one.

    ``unit`` is the file of its unit, if that is not installed.
    """
    if unit is not None:
        return _service(Path(unit).name, [Path(unit)])
    path = os.path.abspath(config)  # noqa: PTH100 - without links, as it is written in the unit
    names = {file.name for folder in UNITS for file in folder.glob("x509proxy*.service")}
    for name in sorted(names):
        files = [*unit_files(name)]
        if any(path in re.split(r"[ \t=]", one) for one in _values(files, "ExecStart")):
            return _service(name, files)
    return None


def _service(name: str, files: list[Path]) -> Service:
    users = _values(files, "User")
    folders = " ".join(_values(files, "RuntimeDirectory")).split()
    return Service(
        name,
        users[-1] if users else "",
        tuple(f"/run/{folder.partition(':')[0]}" for folder in folders),
    )


def _values(files: list[Path], key: str) -> list[str]:
    """Return the values of a key that count; files that cannot be read have none."""
    values: list[str] = []
    for file in files:
        try:
            lines = joined_lines(file)
        except OSError:
            continue
        for assignment in filter(None, map(_ASSIGNMENT.fullmatch, lines)):
            if assignment[1] == key:
                values = [*values, assignment[2]] if assignment[2] else []
    return values
