"""Who is at the other end of a connection: address, certificate and TLS version, as one frozen value."""

from __future__ import annotations

from typing import Any

import attrs

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
    """The address at the other end, in text; ``unknown`` for a unix socket's."""
    return getattr(transport.getPeer(), "host", "unknown")


def client_of(transport: Any) -> Client:
    """The client behind a transport of Twisted's."""
    connection = connection_of(transport)
    scheme = "http" if connection is None else "https"
    hop = Hop(peer_of(transport), getattr(transport.getHost(), "port", 0), scheme)
    if connection is None:
        return Client(hop)
    return Client(hop, peer_certificate(connection), connection.get_protocol_version_name(), asked_of(connection))
