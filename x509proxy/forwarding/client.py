"""The client of a connection: address, certificate and TLS version, as one frozen value."""

from __future__ import annotations

import attrs

from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.settings import ClientAuth

__all__ = ["Client", "Hop"]


@attrs.frozen(cache_hash=True)
class Hop:
    """Where the request came from and went to: addresses in text, without brackets; ``scheme`` as the client saw it."""

    peer: str
    port: int = 443
    scheme: str = "https"


@attrs.frozen
class Client:
    """The client of a connection whose handshake is over. ``tls_version``: such as ``TLSv1.3``; empty without TLS.

    ``key_exchange``: the group, such as ``X25519MLKEM768``; empty without TLS or where OpenSSL does not name it.
    ``asked``: what its listener asks for, if that is not what the others do (:class:`x509proxy.settings.ListenerSettings`).
    """

    hop: Hop
    certificate: ClientCertificate | None = None
    tls_version: str = ""
    asked: ClientAuth | None = None
    key_exchange: str = ""
