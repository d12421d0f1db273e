"""Credentials of a systemd unit (``LoadCredential=``) as they are while the unit does not run.

A configuration names the copies in ``/run/credentials/UNIT``. They exist only while the unit runs,
and its user alone can read them. So a check reads the files that systemd copies at the start.

Facts
-----
* ``LoadCredential=NAME:PATH`` copies a file, ``SetCredential=NAME:TEXT`` holds the text itself. The
  ``…Encrypted`` forms and ``ImportCredential=`` need systemd to be read (systemd.exec(5)).
* A drop-in in ``UNIT.d`` adds to the unit; an empty assignment takes back all earlier ones. A line
  that ends with a backslash goes on in the next one (systemd.syntax(7)).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from x509proxy.config.file_paths import files_read, with_files
from x509proxy.redaction import without_secrets
from x509proxy.settings import ProxySettings

__all__ = ["as_in_unit"]

_CREDENTIALS = Path("/run/credentials")
# In the order of systemd.unit(5): the first unit file wins.
_UNITS = tuple(
    Path(folder)
    for folder in (
        "/etc/systemd/system",
        "/run/systemd/system",
        "/usr/local/lib/systemd/system",
        "/usr/lib/systemd/system",
        "/lib/systemd/system",
    )
)
_ASSIGNMENT = re.compile(
    r"[ \t]*(LoadCredential|SetCredential)(Encrypted)?[ \t]*=[ \t]*(.*?)[ \t]*"
)


def as_in_unit(
    settings: ProxySettings, unit: str | None = None
) -> tuple[ProxySettings, tuple[str, ...]]:
    """Return the settings with the originals of credentials in their places, and a sentence for each that has none.

    ``unit``: the unit's file, if it is not installed.
    """
    sentences: list[str] = []
    originals: dict[str, str] = {}
    for key, path in files_read(settings):
        if _is_missing_credential(path) and path not in originals:
            original, problem = _original(Path(path), unit)
            originals[path] = original
            sentences += [f"{key}: {without_secrets(path)}: {problem}"] if problem else []
    return with_files(settings, lambda path: originals.get(path, path)), tuple(sentences)


def _is_missing_credential(path: str) -> bool:
    return Path(path).is_relative_to(_CREDENTIALS) and not os.access(path, os.R_OK)


def _original(path: Path, unit: str | None) -> tuple[str, str]:
    """Return the file that systemd copies to ``path``, or ``path`` itself and the reason."""
    name, credential = path.relative_to(_CREDENTIALS).parts[:1], path.name
    files = [Path(unit)] if unit is not None else [*_unit_files("".join(name))]
    if not files:
        return str(
            path
        ), f"found no unit {''.join(name)}, expected an installed one, or --unit FILE"
    try:
        loaded = _credentials(files)
    except OSError as error:
        return str(path), f"found a unit that cannot be read: {error.strerror}, expected its file"
    if credential not in loaded:
        return str(
            path
        ), f"found no LoadCredential={credential}:FILE in {files[0].name}, expected one"
    source = loaded[credential]
    if not source.startswith("/"):
        expected = "LoadCredential= with a whole path; the start can read it, and this check cannot"
        return str(
            path
        ), f"found a credential that systemd decrypts or holds itself, expected {expected}"
    return source, ""


def _unit_files(name: str) -> Iterator[Path]:
    main = next((folder / name for folder in _UNITS if (folder / name).is_file()), None)
    if main is not None:
        yield main
        drop_ins = {
            path.name: path
            for folder in reversed(_UNITS)
            for path in (folder / f"{name}.d").glob("*.conf")
        }
        yield from (drop_ins[one] for one in sorted(drop_ins))


def _credentials(files: list[Path]) -> dict[str, str]:
    """Return each credential's file; ``""`` for one that cannot be read without systemd."""
    found: dict[str, str] = {}
    for file in files:
        text = re.sub(r"\\\n", " ", file.read_text("utf-8", "replace"))
        for assignment in filter(None, map(_ASSIGNMENT.fullmatch, text.splitlines())):
            name, _, source = assignment[3].partition(":")
            if not name:
                found.clear()
            elif assignment[1] == "LoadCredential" and not assignment[2]:
                found[name] = source
            else:
                found[name] = ""
    return found
