"""A configuration with the contents of its files, as one frozen value."""

from __future__ import annotations

import attrs
from cryptography import x509

from x509proxy.certificates.config_files import RecordedFiles
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.trust_store import EMPTY, TrustStore
from x509proxy.config.token_files import TokenFiles
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.settings import Backend, ProxySettings

__all__ = ["Configuration"]


@attrs.frozen
class Configuration:
    """The complete input of a proxy, read and checked."""

    settings: ProxySettings
    identity: Identity
    """Certificate and key of the server, for clients that name no other one (SNI)."""
    backends: tuple[Backend, ...]
    rules: HeaderRules
    trusted: TrustStore = EMPTY
    extra_identities: tuple[Identity, ...] = ()
    """Certificates and keys for the names that they contain (SNI)."""
    upstream_authorities: tuple[x509.Certificate, ...] | None = None
    """Authorities for back ends' certificates. ``None`` stands for those of the system."""
    upstream_identity: Identity | None = None
    """Certificate and key with which the proxy authenticates to back ends."""
    tokens: TokenFiles | None = None
    warnings: tuple[str, ...] = ()
    files: RecordedFiles = attrs.field(factory=RecordedFiles, repr=False, eq=False)
    """The files that the rest was read from. Empty unless there are workers, which need them."""
