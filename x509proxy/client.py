"""Who is at the other end of a connection: address, certificate and TLS version, as one frozen value."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import attrs

from x509proxy.address import plain_address
from x509proxy.certificate import ClientCertificate
from x509proxy.headers import Hop
from x509proxy.settings import ClientAuth
from x509proxy.tls import asked_of, connection_of, peer_certificate

__all__ = ["Client", "client_of", "peer_of"]


@attrs.frozen
class Client:
    """The client of a connection whose handshake is over. ``tls_version``: such as ``TLSv1.3``; empty without TLS.

    ``asked``: what its listener asks for, if that is not what the others do (:class:`x509proxy.document.ListenerSettings`).
    """

    hop: Hop
    certificate: ClientCertificate | None = None
    tls_version: str = ""
    asked: ClientAuth | None = None


def peer_of(transport: Any) -> str:
    """The address at the other end, in its plain form (:mod:`x509proxy.address`); ``unknown`` for a unix socket's."""
    return plain_address(getattr(transport.getPeer(), "host", "unknown"))


def client_of(transport: Any) -> Client:
    """The client behind a transport of Twisted's."""
    connection = connection_of(transport)
    peer, port = peer_of(transport), getattr(transport.getHost(), "port", 0)
    if connection is None:
        return Client(Hop(peer, port, "http"))
    return _over_tls(peer, port, peer_certificate(connection), connection.get_protocol_version_name(), asked_of(connection))


# One object for all connections of a client: what has been found out for one of them holds for the others.
@lru_cache(maxsize=1024)
def _over_tls(peer: str, port: int, certificate: ClientCertificate | None, tls_version: str, asked: ClientAuth | None) -> Client:
    return Client(Hop(peer, port), certificate, tls_version, asked)
