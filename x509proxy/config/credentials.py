"""Credentials of a systemd unit: the copies in ``/run/credentials/UNIT``, and their originals.

A configuration may name these copies (``LoadCredential=``). They exist only while the unit runs,
and its user alone can read them. So a check reads the originals, which systemd copies at the start.

Facts
-----
* ``LoadCredential=NAME:PATH`` copies a file, ``SetCredential=NAME:TEXT`` holds the text itself. The
  ``…Encrypted`` forms and ``ImportCredential=`` need systemd to be read (systemd.exec(5)).
* An empty assignment takes back all earlier ones.
* The copies are made at the start, and never again. From systemd 260 on, a reload replaces them
  with ``RefreshOnReload=credentials``; each copy is another file then (systemd.service(5)).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from x509proxy.config.accounts import as_root
from x509proxy.config.file_paths import Stamp, files_read, stamp, with_files
from x509proxy.config.systemd_units import joined_lines, unit_files
from x509proxy.redaction import without_secrets
from x509proxy.settings import ProxySettings, SettingsError

__all__ = ["CredentialCopies", "as_in_unit", "original_files", "outdated_copies"]

_CREDENTIALS = Path("/run/credentials")
_ASSIGNMENT = re.compile(
    r"[ \t]*(LoadCredential|SetCredential)(Encrypted)?[ \t]*=[ \t]*(.*?)[ \t]*"
)


def as_in_unit(
    settings: ProxySettings, unit: str | None = None
) -> tuple[ProxySettings, tuple[str, ...]]:
    """Return the settings with originals in place of copies, and a sentence for each without one.

    Inside the unit, the copies stay: they are what the start reads there. ``unit``: the unit's
    file, if it is not installed.
    """
    sentences: list[str] = []
    originals: dict[str, str] = {}
    for key, path in files_read(settings):
        if path in originals or not _is_credential(path) or _is_inside(path):
            continue
        original, problem = _original(path, unit)
        originals[path] = original or path
        if problem and not os.access(path, os.R_OK):
            sentences.append(f"{key}: {without_secrets(path)}: {problem}")
    return with_files(settings, lambda path: originals.get(path, path)), tuple(sentences)


def outdated_copies(settings: ProxySettings, unit: str | None = None) -> Iterator[str]:
    """Yield a sentence for each copy of a running unit that differs from its original."""
    for key, path in files_read(settings):
        original, _ = _original(path, unit) if _is_credential(path) else ("", "")
        copy = _content(path) if original else None
        if copy is not None and _content(original) not in {None, copy}:
            yield (
                f"{key}: restart needed: the service runs with a copy of "
                f"{without_secrets(original)} that systemd made before its last change"
            )


def original_files(settings: ProxySettings) -> Iterator[str]:
    """Yield the files that systemd copies for these settings, as far as the unit names them."""
    for _, path in files_read(settings):
        original, _ = _original(path) if _is_credential(path) else ("", "")
        if original:
            yield original


@attrs.frozen
class _Copy:
    """A copy and its original at one moment; ``None``: a file that cannot be looked at."""

    key: str
    path: str
    copy: Stamp | None
    original: Stamp | None

    @property
    def is_outdated(self) -> bool:
        """Return whether the original was written after the copy, by their times."""
        return bool(self.copy and self.original and self.original[3] > self.copy[3])


@attrs.frozen
class CredentialCopies:
    """The copies that a configuration was read from, and the state of their originals."""

    _copies: tuple[_Copy, ...] = ()

    @classmethod
    def of(cls, settings: ProxySettings) -> CredentialCopies:
        """Look at the files of these settings that are credentials."""
        paths = [(key, path) for key, path in files_read(settings) if _is_credential(path)]
        return cls(
            tuple(_Copy(key, path, stamp(path), _stamp_of_original(path)) for key, path in paths)
        )

    def since(self, before: CredentialCopies) -> tuple[CredentialCopies, str]:
        """Compare with the copies that were read before.

        Return the copies to compare with next, and a sentence about those that may be outdated.

        :raises SettingsError: the original of a copy has changed, and the copy has not.
        """
        old = {one.path: one for one in before._copies}
        merged: list[_Copy] = []
        changed: list[str] = []
        doubtful: list[str] = []
        for now in self._copies:
            then = old.get(now.path, attrs.evolve(now, original=None))
            if then.copy != now.copy:
                # systemd has replaced it.
                merged.append(now)
                continue
            merged.append(then)
            if then.original is None or now.original is None:
                doubtful.append(now.key)
            elif then.original != now.original:
                changed.append(now.key)
            elif then.is_outdated:
                doubtful.append(now.key)
        if changed:
            raise SettingsError(
                f"{_joined(changed)}: found a change that needs a restart, since systemd copies "
                "credentials at the start only; nothing of what is new is used"
            )
        sentence = (
            f"{_joined(doubtful)}: restart needed if changed, since systemd copies credentials "
            "at the start only"
        )
        return CredentialCopies(tuple(merged)), sentence if doubtful else ""


def _joined(keys: list[str]) -> str:
    return " and ".join(dict.fromkeys(keys))


def _stamp_of_original(path: str) -> Stamp | None:
    original, _ = _original(path)
    return stamp(original) if original else None


def _folders() -> Iterator[Path]:
    """Yield the folders above those of units: the system's, and this process's own."""
    yield _CREDENTIALS
    if _own_folder():
        yield Path(_own_folder()).parent


def _own_folder() -> str:
    return os.environ.get("CREDENTIALS_DIRECTORY", "")


def _is_credential(path: str) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in _folders())


def _is_inside(path: str) -> bool:
    return bool(_own_folder()) and Path(path).is_relative_to(_own_folder())


def _content(path: str) -> bytes | None:
    try:
        return as_root(Path(path).read_bytes)
    except OSError:
        return None


def _original(path: str, unit: str | None = None) -> tuple[str, str]:
    """Return the file that systemd copies to ``path``, or ``""`` and the reason."""
    folder = next(folder for folder in _folders() if Path(path).is_relative_to(folder))
    name = "".join(Path(path).relative_to(folder).parts[:1])
    files = [Path(unit)] if unit is not None else [*unit_files(name)]
    if not files:
        return "", f"found no unit {name}, expected an installed one, or --unit FILE"
    try:
        loaded = _credentials(files)
    except OSError as error:
        return "", f"found a unit that cannot be read: {error.strerror}, expected its file"
    credential = Path(path).name
    if credential not in loaded:
        return "", f"found no LoadCredential={credential}:FILE in {files[0].name}, expected one"
    source = loaded[credential]
    if not source.startswith("/"):
        return "", (
            "found a credential that systemd decrypts or holds itself, expected LoadCredential= "
            "with a whole path; the start can read it, and this check cannot"
        )
    return source, ""


def _credentials(files: list[Path]) -> dict[str, str]:
    """Return each credential's file; ``""`` for one that cannot be read without systemd."""
    found: dict[str, str] = {}
    for file in files:
        for assignment in filter(None, map(_ASSIGNMENT.fullmatch, joined_lines(file))):
            name, _, source = assignment[3].partition(":")
            if not name:
                found.clear()
            elif assignment[1] == "LoadCredential" and not assignment[2]:
                found[name] = source
            else:
                found[name] = ""
    return found
