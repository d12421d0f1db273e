"""The client of a transport as a frozen value: address, certificate and TLS version."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.forwarding.client import Client, Hop
from x509proxy.settings import ClientAuth
from x509proxy.transport.ip_address import UNKNOWN, plain_address
from x509proxy.transport.tls_context import (
    client_auth_of,
    connection_of,
    key_exchange_of,
    peer_certificate,
)

__all__ = ["client_of", "peer_of"]


def peer_of(transport: Any) -> str:
    """Return the client's address (:mod:`.ip_address`), or ``unknown`` for a unix socket."""
    return plain_address(getattr(transport.getPeer(), "host", UNKNOWN))


def client_of(transport: Any) -> Client:
    """Return the client of a Twisted transport whose handshake is finished."""
    connection = connection_of(transport)
    peer, port = peer_of(transport), getattr(transport.getHost(), "port", 0)
    if connection is None:
        return Client(Hop(peer, port, "http"))
    return _over_tls(
        peer,
        port,
        peer_certificate(connection),
        connection.get_protocol_version_name(),
        key_exchange_of(connection),
        client_auth_of(connection),
    )


# Connections with equal values share an object, since other caches use it as a key.
@lru_cache(maxsize=1024)
def _over_tls(
    peer: str,
    port: int,
    certificate: ClientCertificate | None,
    tls_version: str,
    key_exchange: str,
    client_auth: ClientAuth | None,
) -> Client:
    return Client(Hop(peer, port), certificate, tls_version, client_auth, key_exchange)
