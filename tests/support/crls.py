"""Certificate revocation lists."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.certificates import Pair


def make_crl(
    issuer: Pair,
    *revoked: Pair,
    days: tuple[float, float] = (-1, 7),
    now: float | None = None,
    signer: Pair | None = None,
    extension: x509.ExtensionType | None = None,
) -> x509.CertificateRevocationList:
    """Make a revocation list from and to ``days`` from ``now``, or from the clock."""
    today = datetime.now(UTC) if now is None else datetime.fromtimestamp(now, UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(today + timedelta(days[0])).next_update(
        today + timedelta(days[1])
    )
    for one in revoked:
        entry = x509.RevokedCertificateBuilder(
            one.certificate.serial_number, today - timedelta(400)
        )
        builder = builder.add_revoked_certificate(entry.build())
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    key = (signer or issuer).private_key
    return builder.sign(
        key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )


def crl_pem(*crls: x509.CertificateRevocationList) -> bytes:
    return b"".join(crl.public_bytes(Encoding.PEM) for crl in crls)


def scope(**parts: Any) -> x509.IssuingDistributionPoint:
    """Return the extension that limits a list (RFC 5280 section 5.2.5), with these parts."""
    nothing: dict[str, Any] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**(nothing | parts))
