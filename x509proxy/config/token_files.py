"""Settings of ``[tokens]`` with the contents of the files that they name."""

from __future__ import annotations

import attrs
from cryptography import x509

from x509proxy.certificates.config_files import ConfigFile, FileReader, read_file, read_line
from x509proxy.certificates.pem_files import Identity, read_authorities, read_identity
from x509proxy.forwarding.signed_tokens import parse_key_set, require_joserfc
from x509proxy.settings import SettingsError, TokenLevel, TokenSettings

__all__ = ["TokenFiles", "read_token_files"]


@attrs.frozen
class TokenFiles:
    """The settings of ``[tokens]`` and the contents of their files."""

    settings: TokenSettings
    key_set: bytes | None = attrs.field(default=None, repr=False)
    """A JWK set in JSON."""
    authorities: tuple[x509.Certificate, ...] | None = None
    """Authorities for the authorization server. ``None`` stands for those of the system."""
    client_secret: str | None = attrs.field(default=None, repr=False)
    """Secret with which the proxy authenticates to the authorization server."""
    # Private keys that were read twice are never equal, but their certificates are.
    identity: Identity | None = attrs.field(
        default=None, repr=False, eq=lambda one: one and (one.certificate, one.chain)
    )
    """Certificate and key with which it does so instead."""


def read_token_files(
    settings: TokenSettings | None, read: FileReader = read_file
) -> TokenFiles | None:
    """Read the files of ``[tokens]``; ``None`` without that table.

    :raises SettingsError: a file is missing or invalid, or a library is missing.
    """
    if settings is None:
        return None
    if settings.level is TokenLevel.JWT:
        require_joserfc(settings.level.value)
    authorities = None if settings.ca is None else read_authorities(settings.ca, "tokens.ca", read)
    return TokenFiles(
        settings,
        _key_set(settings, read),
        authorities,
        _client_secret(settings, read),
        _identity(settings, read),
    )


def _client_secret(settings: TokenSettings, read: FileReader) -> str | None:
    if settings.client_secret_file is None:
        return None
    return read_line(settings.client_secret_file, "tokens.client-secret-file", read)


def _identity(settings: TokenSettings, read: FileReader) -> Identity | None:
    if settings.certificate is not None:
        return read_identity(settings.certificate, settings.private_key, "tokens.certificate", read)
    if settings.private_key is not None:
        raise SettingsError(
            "tokens.certificate: found none, expected a PEM file, "
            "since there is a tokens.private-key"
        )
    return None


def _key_set(settings: TokenSettings, read: FileReader) -> bytes | None:
    if settings.jwks_file is None or settings.level is not TokenLevel.JWT:
        return None
    source = ConfigFile.read(settings.jwks_file, "tokens.jwks-file", read=read)
    try:
        parse_key_set(source.data)
    except ValueError as error:
        raise SettingsError(f"{source.where}: {error}") from None
    return source.data
