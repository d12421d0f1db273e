"""The loader: from a TOML file and command-line options to a checked :class:`Configuration`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

import attrs
import msgspec
from cryptography import x509

from x509proxy.certificates.config_files import FileReader, RecordedFiles, Recorder, read_file
from x509proxy.certificates.pem_files import Identity, read_authorities, read_identity
from x509proxy.certificates.sni import ServerNames
from x509proxy.certificates.trust_store import read_trusted
from x509proxy.config.configuration import Configuration
from x509proxy.config.document import decode, read_document
from x509proxy.config.endpoint_strings import check_endpoints
from x509proxy.config.file_paths import check_log_apart, with_files
from x509proxy.config.token_files import read_token_files
from x509proxy.config.toml_lines import Lines
from x509proxy.config.warnings import warnings_for
from x509proxy.forwarding.header_rules import read_rules
from x509proxy.forwarding.token_claims import check_claims_header
from x509proxy.redaction import without_secrets
from x509proxy.settings import Backend, ProxySettings, SettingsError, UpstreamSettings, keys

__all__ = [
    "Configuration",
    "load_configuration",
    "load_settings",
    "override",
    "read_configuration",
    "resolve",
    "with_lines",
]

_NAME_KEYS = ("header", "header-file")

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def load_settings(path: str) -> ProxySettings:
    """Read the settings from a TOML file.

    Relative paths in it are relative to its folder. In the result all paths are absolute.

    :raises SettingsError: with a sentence for each mistake in it.
    """
    document = read_document(path)
    if document.problems or document.settings is None:
        raise SettingsError(*map(document.sentence, document.problems))
    return resolve(document.settings, Path(document.path).absolute().parent)


def resolve(settings: ProxySettings, folder: Path) -> ProxySettings:
    """Return the settings with absolute paths, relative ones being relative to ``folder``.

    A daemon changes its working folder, so relative paths would lead elsewhere later.
    """
    return with_files(settings, lambda path: str(folder / path))


def override(settings: ProxySettings, changes: Mapping[str, object]) -> ProxySettings:
    """Return the settings with command-line options in place of the keys of the same name.

    ``changes`` has field names with text, or sequences of text. ``None``, ``False`` and an empty
    sequence stand for an option that was not given. ``header`` and ``header-file`` exclude each
    other, so either option replaces both keys.

    :raises SettingsError: with a sentence for each invalid option.
    """
    given = {
        name.replace("_", "-"): value
        for name, value in changes.items()
        if value or isinstance(value, str)
    }
    decoded, problems = decode(given, as_text=True)
    if problems or decoded is None:
        raise SettingsError(*(f"--{problem}" for problem in problems))
    known = keys(ProxySettings)
    replaced = {known[name].field for name in given}
    if not given.keys().isdisjoint(_NAME_KEYS):
        replaced.update(known[name].field for name in _NAME_KEYS)
    return msgspec.structs.replace(
        settings, **{field: getattr(decoded, field) for field in replaced}
    )


def load_configuration(
    settings: ProxySettings,
    now: float | None = None,
    config: str | None = None,
    read: FileReader = read_file,
) -> Configuration:
    """Read all files that the settings name from the disk, and check them together.

    ``now`` is in seconds since the epoch, and the current time by default. ``config`` is the path
    of the TOML file that the settings come from.

    :raises SettingsError: with a sentence for each missing, invalid or contradictory setting or
        file.
    """
    recorder = Recorder(read)
    mistakes = _Mistakes()
    mistakes.of(_check_listens, settings)
    mistakes.of(check_endpoints, settings)
    mistakes.of(check_log_apart, settings, config)
    found = mistakes.of(read_configuration, settings, recorder.read)
    if mistakes.sentences or found is None:
        raise SettingsError(*mistakes.sentences)
    return attrs.evolve(
        found,
        warnings=tuple(warnings_for(found, time.time() if now is None else now)),
        files=recorder.files if settings.workers > 1 else RecordedFiles(),
    )


def with_lines(error: SettingsError, config: str) -> SettingsError:
    """Return the error with file and line in each sentence about a key of the TOML file."""
    try:
        lines = Lines(Path(config).read_text("utf-8"))
    except (OSError, ValueError):
        return error
    where = without_secrets(config)
    placed = ((lines.find(one.partition(":")[0]), one) for one in error.sentences)
    return SettingsError(*(f"{where}: line {line}: {one}" if line else one for line, one in placed))


def read_configuration(settings: ProxySettings, read: FileReader) -> Configuration:
    """Read all files that the settings name by ``read``, and access nothing else on this machine.

    A worker calls it with the files of its parent, which has checked the rest and printed warnings.

    :raises SettingsError: with a sentence for each missing, invalid or contradictory setting or
        file.
    """
    mistakes = _Mistakes()
    backends = mistakes.of(_backends, settings)
    rules = mistakes.of(read_rules, settings, read)
    identity = mistakes.of(_identity, settings, read)
    trusted = mistakes.of(read_trusted, settings, read)
    further = [
        mistakes.of(
            read_identity,
            one.certificate,
            one.private_key,
            f"certificates[{index}].certificate",
            read,
        )
        for index, one in enumerate(settings.certificates)
    ]
    authorities = mistakes.of(_upstream_authorities, settings.upstream, read)
    upstream = mistakes.of(_upstream_identity, settings.upstream, read)
    tokens = mistakes.of(read_token_files, settings.tokens, read)
    if rules:
        mistakes.of(check_claims_header, rules, settings.rules, settings.tokens)
    if mistakes.sentences or not (backends and rules and identity and trusted):
        raise SettingsError(*mistakes.sentences)
    served = tuple(one for one in further if one is not None)
    if served:
        ServerNames.of([one.certificate for one in (identity, *served)])
    return Configuration(
        settings, identity, backends, rules, trusted, served, authorities, upstream, tokens
    )


class _Mistakes:
    """The mistakes of several checks, of which each runs even if others fail."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def of(
        self, check: Callable[_Given, _Found], *args: _Given.args, **kwargs: _Given.kwargs
    ) -> _Found | None:
        """Return a check's result, or ``None`` if it found a mistake."""
        try:
            return check(*args, **kwargs)
        except SettingsError as error:
            self.sentences += [one for one in error.sentences if one not in self.sentences]
            return None


def _check_listens(settings: ProxySettings) -> None:
    if not settings.listen and not settings.listeners:
        raise _missing("listen")


def _identity(settings: ProxySettings, read: FileReader) -> Identity:
    if settings.certificate is None:
        raise _missing("certificate")
    return read_identity(settings.certificate, settings.private_key, read=read)


def _missing(name: str) -> SettingsError:
    return SettingsError(f"{name}: found none, expected {keys(ProxySettings)[name].key.expected}")


def _backends(settings: ProxySettings) -> tuple[Backend, ...]:
    if not settings.backend:
        raise _missing("backend")
    mistakes = _Mistakes()
    backends = [mistakes.of(Backend.parse, url) for url in settings.backend]
    if mistakes.sentences:
        raise SettingsError(*map(without_secrets, mistakes.sentences))
    good = tuple(backend for backend in backends if backend is not None)
    for backend in dict.fromkeys(good):
        if good.count(backend) > 1:
            raise SettingsError(f"backend: found {str(backend)!r} twice, expected it once")
    return good


def _upstream_authorities(
    upstream: UpstreamSettings, read: FileReader
) -> tuple[x509.Certificate, ...] | None:
    return None if upstream.ca is None else read_authorities(upstream.ca, "upstream.ca", read)


def _upstream_identity(upstream: UpstreamSettings, read: FileReader) -> Identity | None:
    if upstream.certificate is not None:
        return read_identity(
            upstream.certificate, upstream.private_key, "upstream.certificate", read
        )
    if upstream.private_key is not None:
        raise SettingsError(
            "upstream.certificate: found none, "
            "expected a PEM file, since there is an upstream.private-key"
        )
    return None
