"""The findings of ``x509proxy check``: errors, warnings and notes, without starting the proxy."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed

from x509proxy.authorization.token_check import TokenCheck
from x509proxy.certificates.config_files import FileContents, FileReader, read_file
from x509proxy.config.accounts import as_root
from x509proxy.config.credentials import as_in_unit, outdated_copies
from x509proxy.config.document import Document, DocumentError, read_document
from x509proxy.config.endpoint_strings import endpoint_warnings
from x509proxy.config.file_paths import check_log_place, named_files
from x509proxy.config.loader import Configuration, load_configuration, load_settings, resolve
from x509proxy.config.systemd_units import service_of
from x509proxy.config.warnings import advice_for, validity_errors
from x509proxy.monitoring.snapshot import TokenState
from x509proxy.redaction import without_secrets
from x509proxy.service.listening import check_kinds
from x509proxy.settings import ProxySettings, SettingsError

__all__ = ["Finding", "Severity", "probe", "review"]


class Severity(enum.Enum):
    """The weight of a finding."""

    ERROR = "error"
    """The start fails, or clients do."""
    WARNING = "warning"
    """The proxy starts, and reports it each time."""
    NOTE = "note"
    """A question for the person who reviews the configuration."""


@attrs.frozen
class Finding:
    """One sentence about a configuration. ``line``: of the key in the file, or 0."""

    severity: Severity
    message: str
    line: int = 0

    @property
    def key(self) -> str:
        """Return the key that the sentence begins with."""
        return self.message.partition(":")[0]

    def text(self, path: str) -> str:
        """Return the finding with file and line."""
        where = f"line {self.line}: " if self.line else ""
        return f"{without_secrets(path)}: {where}{self.message}"


def review(path: str, unit: str | None = None, now: float | None = None) -> tuple[Finding, ...]:
    """Return all findings. ``unit``: the file of the systemd unit that runs the configuration."""
    try:
        document = read_document(path)
    except DocumentError as error:
        return (Finding(Severity.ERROR, error.reason, error.line),)
    except SettingsError as error:
        # The finding has the file's name already.
        reason = str(error).replace(f" {without_secrets(path)}:", "", 1)
        return (Finding(Severity.ERROR, reason),)
    moment = time.time() if now is None else now
    found = [Finding(Severity.ERROR, str(problem)) for problem in document.problems]
    if document.settings is not None:
        found += _review_settings(document, document.settings, unit, moment)
    placed = [attrs.evolve(one, line=document.lines.find(one.key)) for one in found]
    return tuple(sorted(placed, key=lambda one: (_ORDER.index(one.severity), one.line)))


_ORDER = [*Severity]


def _review_settings(
    document: Document, settings: ProxySettings, unit: str | None, now: float
) -> Iterator[Finding]:
    copies = resolve(settings, Path(document.path).absolute().parent)
    whole, missing = as_in_unit(copies, unit)
    originals = {*named_files(whole)} - {*named_files(copies)}
    configuration, sentences = _load(whole, document.path, now, _reader(originals))
    # A key without a value of its own is no second mistake; nor is a credential already reported.
    reported = {problem.key for problem in document.problems}
    reported |= {sentence.partition(":")[0] for sentence in missing}
    fresh = [one for one in sentences if one.partition(":")[0] not in reported]
    yield from _findings(Severity.ERROR, (*missing, *fresh))
    if configuration is not None:
        service = service_of(document.path, unit)
        made = () if service is None else service.runtime_folders
        yield from _findings(Severity.WARNING, endpoint_warnings(whole, made))
    if configuration is not None:
        expired = [*validity_errors(configuration, now)]
        warnings = [one for one in configuration.warnings if one not in expired]
        yield from _findings(Severity.ERROR, expired)
        yield from _findings(Severity.WARNING, warnings)
        if not (document.problems or missing or fresh or expired):
            yield from _findings(Severity.NOTE, advice_for(configuration))
            yield from _findings(Severity.NOTE, outdated_copies(settings, unit))


def _findings(severity: Severity, sentences: Iterable[str]) -> Iterator[Finding]:
    yield from (Finding(severity, sentence) for sentence in sentences)


def _reader(originals: Collection[str]) -> FileReader:
    """Return a reader that reads the originals of credentials as systemd does."""

    def read(path: str, max_bytes: int) -> FileContents:
        return (
            as_root(read_file, path, max_bytes) if path in originals else read_file(path, max_bytes)
        )

    return read


def _load(
    settings: ProxySettings, path: str, now: float, read: FileReader
) -> tuple[Configuration | None, list[str]]:
    """Do what the start does, without its effects; return the configuration and all errors."""
    sentences: list[str] = []

    def attempt(check: Callable[[], object]) -> None:
        try:
            check()
        except SettingsError as error:
            sentences.extend(one for one in error.sentences if one not in sentences)

    loaded: list[Configuration] = []
    attempt(lambda: loaded.append(load_configuration(settings, now, path, read)))
    attempt(lambda: check_log_place(settings))
    attempt(lambda: check_kinds(settings))
    for configuration in loaded:
        attempt(lambda: _make_contexts(configuration))  # noqa: B023 - called at once
    return (loaded[0] if loaded else None), sentences


def _make_contexts(configuration: Configuration) -> None:
    """Build every TLS context: OpenSSL rejects what looks right in a file."""
    from x509proxy.service.server import contexts_for
    from x509proxy.upstream.endpoints import check_identity

    contexts_for(configuration)
    if configuration.upstream_identity is not None:
        check_identity(configuration.upstream_identity)


def probe(path: str, reactor: Any) -> Deferred[str]:
    """Send requests to the servers of a good configuration; return the result as a sentence.

    The Deferred fails with SettingsError: one does not respond as it must.
    """
    tokens = load_configuration(load_settings(path), config=path).tokens
    if tokens is None:
        return succeed("there is no server to send a request to")
    return TokenCheck.from_files(tokens, reactor).probe().addCallback(_found)


def _found(state: TokenState) -> str:
    if state.error:
        raise SettingsError(
            f"tokens: the authorization server: {state.error}; expected a response that can be used"
        )
    keys = f", {state.keys} keys" if state.level == "jwt" else ""
    return f"tokens: level {state.level}{keys}: good"
