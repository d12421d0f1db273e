"""PEM of keys and of certificates that are valid around the time of the test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from x509proxy.certificates.pem_files import PrivateKey

KEY = ec.generate_private_key(ec.SECP256R1())


OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def certificate_for(
    key: PrivateKey,
    name: str = "localhost",
    days: int = 30,
    *,
    issuer: x509.Certificate | None = None,
    ca: bool = False,
) -> x509.Certificate:
    """Make a certificate that is valid from yesterday for ``days`` from now.

    It is self-signed, or signed with ``OTHER_KEY`` for ``issuer``.
    """
    now = datetime.now(UTC)
    names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(
        issuer.subject if issuer else names, names, key.public_key(), x509.random_serial_number()
    )
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(
        now + timedelta(days=days)
    )
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False
    )
    if ca:
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
    if issuer:
        return builder.sign(OTHER_KEY, hashes.SHA256())
    signs_alone = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(key, None if signs_alone else hashes.SHA256())


def pem(*things: x509.Certificate | PrivateKey) -> bytes:
    """Encode certificates and keys in the given order, as one file has them."""
    return b"".join(
        thing.public_bytes(Encoding.PEM) if isinstance(thing, x509.Certificate) else key_pem(thing)
        for thing in things
    )


def key_pem(
    key: PrivateKey | x25519.X25519PrivateKey,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    """Encode a key in PEM."""
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


ISSUER = certificate_for(OTHER_KEY, "issuer", ca=True)


LEAF = certificate_for(KEY, issuer=ISSUER)
