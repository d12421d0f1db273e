"""A configuration with everything that its files hold, as one frozen value."""

from __future__ import annotations

import attrs
from cryptography import x509

from x509proxy.document import ProxySettings
from x509proxy.material import Identity
from x509proxy.origin import Backend
from x509proxy.rules import HeaderRules
from x509proxy.trusted import NOBODY, Trusted

__all__ = ["Configuration"]


@attrs.frozen
class Configuration:
    """Everything that a proxy needs, read and checked. ``upstream_authorities``: ``None`` stands for the system's own.

    ``further``: who the server is to clients that ask for other names than those of ``identity``.
    """

    settings: ProxySettings
    identity: Identity
    backends: tuple[Backend, ...]
    rules: HeaderRules
    trusted: Trusted = NOBODY
    further: tuple[Identity, ...] = ()
    upstream_authorities: tuple[x509.Certificate, ...] | None = None
    upstream_identity: Identity | None = None
    warnings: tuple[str, ...] = ()
