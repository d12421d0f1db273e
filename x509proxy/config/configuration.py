"""A configuration with everything that its files hold, as one frozen value."""

from __future__ import annotations

import attrs
from cryptography import x509

from x509proxy.certificates.config_files import RecordedFiles
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.trust_store import EMPTY, TrustStore
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.settings import Backend, ProxySettings

__all__ = ["Configuration"]


@attrs.frozen
class Configuration:
    """Everything that a proxy needs, read and checked. ``upstream_authorities``: ``None`` stands for the system's own.

    ``further``: who the server is to clients that ask for other names than those of ``identity``.
    ``files``: the files that all of it was made from, kept only where there are workers to send them to.
    """

    settings: ProxySettings
    identity: Identity
    backends: tuple[Backend, ...]
    rules: HeaderRules
    trusted: TrustStore = EMPTY
    further: tuple[Identity, ...] = ()
    upstream_authorities: tuple[x509.Certificate, ...] | None = None
    upstream_identity: Identity | None = None
    warnings: tuple[str, ...] = ()
    files: RecordedFiles = attrs.field(factory=RecordedFiles, repr=False, eq=False)
