"""Who is at the other end of a connection: address, certificate and TLS version, as one frozen value."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.forwarding.client import Client, Hop
from x509proxy.settings import ClientAuth
from x509proxy.transport.ip_address import plain_address
from x509proxy.transport.tls_context import (
    asked_of,
    connection_of,
    key_exchange_of,
    peer_certificate,
)

__all__ = ["client_of", "peer_of"]


def peer_of(transport: Any) -> str:
    """The address at the other end, in its plain form (:mod:`x509proxy.transport.ip_address`); ``unknown`` for a unix socket's."""
    return plain_address(getattr(transport.getPeer(), "host", "unknown"))


def client_of(transport: Any) -> Client:
    """The client behind a transport of Twisted's."""
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
        asked_of(connection),
    )


# One object for all connections of a client: what has been found out for one of them holds for the others.
@lru_cache(maxsize=1024)
def _over_tls(
    peer: str,
    port: int,
    certificate: ClientCertificate | None,
    tls_version: str,
    key_exchange: str,
    asked: ClientAuth | None,
) -> Client:
    return Client(Hop(peer, port), certificate, tls_version, asked, key_exchange)
