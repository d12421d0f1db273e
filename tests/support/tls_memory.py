"""TLS connections between two OpenSSL objects in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from tests.support.certificates import Pair, pair
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.trust_store import TrustStore
from x509proxy.settings import ClientAuth, TlsSettings
from x509proxy.transport.tls_context import (
    ServerConnections,
    make_context,
)

LARGEST = 1 << 16


def server_pair() -> Pair:
    return pair(subject="CN=localhost", usage=ExtendedKeyUsageOID.SERVER_AUTH)


def identity_of(found: Pair) -> Identity:
    return Identity(found.certificate, found.private_key)


def server_context(
    ask: ClientAuth = ClientAuth.OPTIONAL,
    authorities: Sequence[Pair] = (),
    settings: TlsSettings = TlsSettings(),
    http: bool = True,
) -> SSL.Context:
    trusted = TrustStore(tuple(authority.certificate for authority in authorities))
    return make_context(identity_of(server_pair()), ask, trusted, settings, http)


def accept(connections: ServerConnections) -> SSL.Connection:
    """Make the server's side of a connection, as Twisted does for each."""
    protocol: Any = None
    return connections.serverConnectionForTLS(protocol)


def pump(one: SSL.Connection, other: SSL.Connection) -> bool:
    """Carry the pending bytes in both directions; return whether there were any."""
    moved = False
    for source, sink in ((one, other), (other, one)):
        try:
            sink.bio_write(source.bio_read(LARGEST))
        except SSL.WantReadError:
            continue
        moved = True
    return moved
