"""Certificates with parts exchanged, and the cost of a handshake with them."""

from __future__ import annotations

import contextlib
import functools
import time
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
)
from OpenSSL import SSL

from tests.support import certificates as samples
from tests.support import tls_memory
from tests.support.certificates import (
    SPKI,
    oid,
    tlv,
    with_part,
)
from tests.support.tls_memory import accept, pump
from x509proxy.transport.tls_context import ServerConnections, peer_certificate

ISSUER, TIMES, ALGORITHM = 3, 4, 2


def elements(der: bytes) -> list[bytes]:
    """Return the signed part, the algorithm and the signature of a certificate."""
    return samples._elements(samples._content(der))


def parts_of(der: bytes) -> list[bytes]:
    """Return the elements of the signed part."""
    return samples._elements(samples._content(elements(der)[0]))


def with_signature(der: bytes, signature: bytes, algorithm: str | None = None) -> bytes:
    """Return the certificate with another signature, by another algorithm if one is given."""
    signed, signed_with, _ = elements(der)
    if algorithm is not None:
        signed_with = tlv(0x30, oid(algorithm), b"\x05\x00")
        parts = parts_of(der)
        parts[ALGORITHM] = signed_with
        signed = tlv(0x30, *parts)
    return tlv(0x30, signed, signed_with, tlv(0x03, b"\0", signature))


def certificate(
    subject: str, issuer: str, public_key: bytes = b"", *extensions: x509.ExtensionType
) -> bytes:
    """Return a certificate of the samples' key, or of another one."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string(subject))
        .issuer_name(x509.Name.from_rfc4514_string(issuer))
        .public_key(samples._key("P-256").public_key())
        .serial_number(7)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
    )
    for value in extensions or (x509.BasicConstraints(ca=False, path_length=None),):
        builder = builder.add_extension(value, critical=True)
    der = builder.sign(samples._key("P-256"), hashes.SHA256()).public_bytes(Encoding.DER)
    return with_part(der, SPKI, public_key) if public_key else der


@functools.cache
def costly_chain(links: int = 70) -> tuple[bytes, ...]:
    """Return a leaf and issuers whose RSA keys make each signature slow to verify; 92 KB."""
    sha256_with_rsa = "1.2.840.113549.1.1.11"
    public_key, may_issue = (
        samples.rsa_spki(3072, (1 << 3070) + 1),
        x509.BasicConstraints(ca=True, path_length=None),
    )
    chain = [certificate("CN=leaf", "CN=0")]
    chain += [
        certificate(f"CN={link}", f"CN={link + 1}", public_key, may_issue) for link in range(links)
    ]
    return tuple(with_signature(der, b"\x01" * 384, sha256_with_rsa) for der in chain)


def handshake_cost(
    shown: tuple[bytes, ...], times_over: int = 3, server_context: SSL.Context | None = None
) -> float:
    """Return the lowest CPU seconds of a server's handshake with this chain, parsing included."""
    each = server_context or tls_memory.server_context()
    return min(_one_handshake(shown, each) for _ in range(times_over))


def _one_handshake(shown: tuple[bytes, ...], server_context: SSL.Context) -> float:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.use_certificate(x509.load_der_x509_certificate(shown[0]))
    context.use_privatekey(samples._key("P-256"))
    for der in shown[1:]:
        context.add_extra_chain_cert(x509.load_der_x509_certificate(der))
    server, client = (
        accept(ServerConnections(server_context)),
        SSL.Connection(context, None),
    )
    server.set_accept_state()
    client.set_connect_state()
    cost = 0.0
    for _ in range(4):
        _step(client)
        pump(client, server)
        began = time.process_time()
        _step(server)
        cost += time.process_time() - began
        pump(server, client)
    began = time.process_time()
    found = peer_certificate(server)
    assert found is not None
    return cost + time.process_time() - began


def _step(connection: SSL.Connection) -> None:
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
