"""The client of a connection: address, certificate and TLS version, as one frozen value."""

from __future__ import annotations

import attrs

from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.settings import ClientAuth

__all__ = ["Client", "Hop"]


@attrs.frozen(cache_hash=True)
class Hop:
    """The hop between the client and the proxy, as forwarded fields describe it."""

    peer: str
    """The client's address, without brackets."""
    port: int = 443
    """The port of the listener."""
    scheme: str = "https"
    """The scheme of the URL that the client used."""


@attrs.frozen
class Client:
    """The client of a connection with a finished handshake."""

    hop: Hop
    certificate: ClientCertificate | None = None
    tls_version: str = ""
    """The TLS version, such as ``TLSv1.3``. Empty without TLS."""
    client_auth: ClientAuth | None = None
    """The ``client-certificate`` of its listener. ``None`` stands for the general setting."""
    key_exchange: str = ""
    """The key exchange group, such as ``X25519MLKEM768``. Empty without TLS, or if unknown."""
