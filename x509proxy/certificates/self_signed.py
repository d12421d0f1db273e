"""Keys and self-signed certificates, and the JWK set by which a client registers its certificate.

Facts
-----
* With ``self_signed_tls_client_auth`` a client registers its certificates as a JWK set, each in
  ``x5c``. The server compares the certificate, or its key, with the one of the handshake (RFC 8705
  section 2.2.2). No authority is needed: the certificate has ``CA:FALSE`` and no ``keyCertSign``.
* An EC coordinate has the curve's full width, with leading zeros (RFC 7518 section 6.2.1.2).
  Written as a plain number it is too short for one key of 128, and the server rejects that client.
* ``x5c`` is base64 with padding (RFC 7517 section 4.7). All other members here are base64url
  without padding.
"""

from __future__ import annotations

import enum
import ipaddress
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from x509proxy.certificates.client_certificate import CURVES, ClientCertificate, thumbprint
from x509proxy.settings import SettingsError

__all__ = ["KeyKind", "PrivateKey", "SelfSigned", "jwk_set", "make_self_signed"]

PrivateKey = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
"""The private keys that :func:`make_self_signed` makes."""


class KeyKind(enum.Enum):
    """The type and size of a new key."""

    EC = "ec"
    """NIST P-256: small, fast, and supported by every server."""
    EC_P384 = "ec-p384"
    RSA = "rsa"
    """2048 bits."""
    RSA_4096 = "rsa-4096"
    ED25519 = "ed25519"
    """Not supported by browsers and by Java before 15."""
    ML_DSA_44 = "ml-dsa-44"
    """Post-quantum; supported from OpenSSL 3.5 and Go 1.27 (``docs/post-quantum.rst``)."""
    ML_DSA_65 = "ml-dsa-65"
    ML_DSA_87 = "ml-dsa-87"


@attrs.frozen
class SelfSigned:
    """A self-signed certificate and its private key."""

    certificate: x509.Certificate
    private_key: PrivateKey = attrs.field(repr=False)

    @property
    def certificate_pem(self) -> bytes:
        """Return the certificate in PEM, with line breaks."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """Return the private key in PEM: PKCS #8, **not encrypted**."""
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


# Clocks differ, and a certificate made on one machine is used on another in the same minute.
_CLOCK_SKEW = timedelta(minutes=5)
_DAYS = range(1, 36526)
_NAME_OCTETS = range(1, 65)  # RFC 5280 appendix A.1, ub-common-name

_MAKERS: dict[KeyKind, Callable[[], PrivateKey]] = {
    KeyKind.EC: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyKind.EC_P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyKind.RSA: lambda: rsa.generate_private_key(65537, 2048),
    KeyKind.RSA_4096: lambda: rsa.generate_private_key(65537, 4096),
    KeyKind.ED25519: ed25519.Ed25519PrivateKey.generate,
    KeyKind.ML_DSA_44: mldsa.MLDSA44PrivateKey.generate,
    KeyKind.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
    KeyKind.ML_DSA_87: mldsa.MLDSA87PrivateKey.generate,
}
# Ed25519 and ML-DSA hash by themselves (RFC 8410 section 3, RFC 9881 section 3).
_HASHES: dict[KeyKind, hashes.SHA256 | hashes.SHA384 | None] = {
    KeyKind.EC_P384: hashes.SHA384(),
    **dict.fromkeys((KeyKind.ED25519, KeyKind.ML_DSA_44, KeyKind.ML_DSA_65, KeyKind.ML_DSA_87)),
}


def make_self_signed(
    kind: KeyKind,
    common_name: str,
    days: int = 365,
    names: Sequence[str] = (),
    server: bool = False,
    now: datetime | None = None,
) -> SelfSigned:
    """Make a new key and a self-signed X.509 certificate (version 3) for it.

    It is valid for ``days`` from ``now``, or from the current time. ``names`` are the DNS names and
    IP addresses of the SubjectAlternativeName. A ``server`` without ``names`` has its common name
    there, since clients look nowhere else (RFC 9525 section 2).

    :raises SettingsError: a certificate cannot hold a name, or ``days`` is not within 1 to 36525.
    """
    if days not in _DAYS:
        raise SettingsError(f"days: found {days}, expected {_DAYS.start} to {_DAYS.stop - 1}")
    subject = _subject(common_name)
    alternatives = [_general_name(name) for name in names or ((common_name,) if server else ())]
    key = _MAKERS[kind]()
    start = now or datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=start - _CLOCK_SKEW,
        not_valid_after=start + timedelta(days=days),
    )
    for extension, critical in _extensions(key, alternatives, server):
        builder = builder.add_extension(extension, critical)
    return SelfSigned(builder.sign(key, _HASHES.get(kind, hashes.SHA256())), key)


def _subject(common_name: str) -> x509.Name:
    # Lone surrogates, which stand for invalid UTF-8 on the command line, are unprintable too.
    if not common_name.isprintable() or len(common_name.encode()) not in _NAME_OCTETS:
        raise SettingsError(
            f"common name: found {common_name!r}, expected 1 to 64 bytes of printable text"
        )
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not name.isascii() or not name.isprintable() or not name or " " in name:
        raise SettingsError(f"name: found {name!r}, expected a DNS name in ASCII or an IP address")
    return x509.DNSName(name)


def _extensions(
    key: PrivateKey, alternatives: Sequence[x509.GeneralName], server: bool
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """Yield the extensions, each with its criticality (RFC 5280 section 4.2.1)."""
    yield x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
    yield x509.BasicConstraints(ca=False, path_length=None), True
    yield (
        x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
            encipher_only=False, decipher_only=False,
        ),
        True,
    )  # fmt: skip
    yield (
        x509.ExtendedKeyUsage(
            [ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH]
        ),
        False,
    )
    if alternatives:
        yield x509.SubjectAlternativeName(alternatives), False


def jwk_set(certificate: x509.Certificate) -> dict[str, object]:
    """Return the JWK set (RFC 7517 section 5) that registers a client with this certificate.

    It has one public key, and ``json.dumps`` accepts it.

    :raises SettingsError: RFC 7518, RFC 8037 and RFC 9964 define no JWK for this type of key.
    """
    der = certificate.public_bytes(Encoding.DER)
    key: dict[str, object] = {
        **_jwk_of(certificate),
        "use": "sig",
        "kid": thumbprint(der),
        "x5t#S256": thumbprint(der),
        "x5c": [b64encode(der).decode("ascii")],
    }
    return {"keys": [key]}


def _jwk_of(certificate: x509.Certificate) -> dict[str, str]:
    """Return the members of the public key.

    Source: RFC 7518 sections 6.2 (EC) and 6.3 (RSA), RFC 8037 section 2 (OKP), RFC 9964 section 3
    (AKP).
    """
    match certificate.public_key():
        case ec.EllipticCurvePublicKey(curve=curve) as key if curve.name in CURVES:
            point, width = key.public_numbers(), (key.key_size + 7) // 8
            return {
                "kty": "EC",
                "crv": CURVES[curve.name],
                "x": _number(point.x, width),
                "y": _number(point.y, width),
            }
        case rsa.RSAPublicKey() as key:
            numbers = key.public_numbers()
            return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
        case ed25519.Ed25519PublicKey() as key:
            return {"kty": "OKP", "crv": "Ed25519", "x": _base64url(key.public_bytes_raw())}
        case ed448.Ed448PublicKey() as key:
            return {"kty": "OKP", "crv": "Ed448", "x": _base64url(key.public_bytes_raw())}
        case (
            mldsa.MLDSA44PublicKey() | mldsa.MLDSA65PublicKey() | mldsa.MLDSA87PublicKey()
        ) as key:
            # RFC 9964 section 3: "alg" is required, since "kty" does not name the parameter set.
            algorithm = ClientCertificate.from_x509(certificate, ()).key
            return {"kty": "AKP", "alg": algorithm, "pub": _base64url(key.public_bytes_raw())}
        case _:
            found = ClientCertificate.from_x509(certificate, ()).key
            raise SettingsError(
                f"certificate: found a key of {found}, "
                "expected EC P-256, P-384, P-521, RSA, Ed25519, Ed448 or ML-DSA"
            )


def _number(value: int, width: int = 0) -> str:
    """Encode a number as base64url, big-endian (RFC 7518 section 2).

    It takes ``width`` bytes, or as few as possible if that is 0.
    """
    return _base64url(value.to_bytes(width or (value.bit_length() + 7) // 8, "big"))


def _base64url(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
