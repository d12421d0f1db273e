"""Certificates for the tests, made by ``cryptography`` or with replaced parts of the DER."""

from __future__ import annotations

import functools
from base64 import encodebytes
from datetime import UTC, datetime

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import (
    dsa,
    ec,
    ed448,
    ed25519,
    mldsa,
    padding,
    rsa,
    x25519,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from x509proxy.certificates.client_certificate import ClientCertificate, VerifyError

__all__ = [
    "EXPIRED",
    "EXTENSIONS",
    "KINDS",
    "ML_DSA_KINDS",
    "NOON",
    "NOT_AFTER",
    "NOT_BEFORE",
    "NOT_YET_VALID",
    "SELF_SIGNED",
    "SERIAL",
    "SPKI",
    "SUBJECT",
    "VERSION",
    "Pair",
    "certificate",
    "client",
    "compressed_spki",
    "duplicate_extension",
    "explicit_spki",
    "issued",
    "malformed_extension",
    "oid",
    "pair",
    "rsa_spki",
    "spki",
    "tlv",
    "unknown_spki",
    "with_extension",
    "with_part",
    "with_spki",
]

NOT_BEFORE = 1767225600.0  # 2026-01-01T00:00:00Z
NOT_AFTER = 1798761600.0  # 2027-01-01T00:00:00Z
NOON = 1783944000.0  # 2026-07-13T12:00:00Z, between the two

# OpenSSL's results: X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, …_NOT_YET_VALID, …_HAS_EXPIRED.
SELF_SIGNED = VerifyError(0, 18)
NOT_YET_VALID = VerifyError(0, 9)
EXPIRED = VerifyError(0, 10)

_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
    "secp256k1": ec.SECP256K1,
}


@functools.cache
def _key(curve: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(_CURVES[curve]())


def certificate(subject: str = "CN=client", issuer: str = "", serial: int = 5) -> x509.Certificate:
    """Make a certificate signed with its own EC P-256 key.

    Without ``issuer`` it is self-signed for OpenSSL.
    """
    return _certificate(subject, issuer or subject, serial)


@functools.cache
def _certificate(subject: str, issuer: str, serial: int) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string(subject))
        .issuer_name(x509.Name.from_rfc4514_string(issuer))
        .public_key(_key("P-256").public_key())
        .serial_number(serial)
        .not_valid_before(datetime.fromtimestamp(NOT_BEFORE, UTC))
        .not_valid_after(datetime.fromtimestamp(NOT_AFTER, UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(_key("P-256"), hashes.SHA256())
    )


def issued(subject: str = "CN=client") -> x509.Certificate:
    """Make a certificate with another issuer."""
    return certificate(subject, "CN=authority")


def client(
    subject: str = "CN=client", *objections: VerifyError, chain: tuple[bytes, ...] = ()
) -> ClientCertificate:
    """Return the value of a client: self-signed, unless OpenSSL reports another error."""
    return attrs.evolve(
        ClientCertificate.from_x509(certificate(subject), objections or (SELF_SIGNED,)), chain=chain
    )


# Distinguished encoding by hand: only the functions to replace a part of a certificate.


def tlv(tag: int, *parts: bytes) -> bytes:
    """Encode one element: tag, length, content."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def _content(element: bytes) -> bytes:
    return element[2 + (element[1] & 0x7F if element[1] & 0x80 else 0) :]


def _elements(content: bytes) -> list[bytes]:
    elements = []
    while content:
        size, head = content[1], 2
        if size & 0x80:
            head += size & 0x7F
            size = int.from_bytes(content[2:head], "big")
        elements.append(content[: head + size])
        content = content[head + size :]
    return elements


def oid(dotted: str) -> bytes:
    """Encode an object identifier."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray([first * 40 + second])
    for arc in rest:
        octets = [arc & 0x7F]
        while arc := arc >> 7:
            octets.insert(0, arc & 0x7F | 0x80)
        content += bytes(octets)
    return tlv(0x06, bytes(content))


def _integer(number: int) -> bytes:
    return tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


VERSION, SERIAL, SUBJECT, SPKI, EXTENSIONS = 0, 1, 5, 6, 7


def with_part(der: bytes, place: int, part: bytes) -> bytes:
    """Return the certificate with one element of its ``TBSCertificate`` replaced.

    The signature does not match any more, and is not verified.
    """
    signed, *signature = _elements(_content(der))
    parts = _elements(_content(signed))
    parts[place] = part
    return tlv(0x30, tlv(0x30, *parts), *signature)


def _der(subject: str = "CN=client") -> bytes:
    return certificate(subject).public_bytes(Encoding.DER)


def _with_extensions(der: bytes, *extensions: bytes) -> bytes:
    return with_part(der, EXTENSIONS, tlv(0xA3, tlv(0x30, *extensions)))


def with_extension(der: bytes, dotted: str, value: bytes) -> bytes:
    """Return a certificate with that one extension."""
    return _with_extensions(der, tlv(0x30, oid(dotted), tlv(0x04, value)))


def duplicate_extension() -> bytes:
    """Make a certificate with an extension twice: OpenSSL accepts it, ``cryptography`` does not."""
    parts = _elements(_content(_elements(_content(_der()))[0]))
    extensions = _elements(_content(_content(parts[EXTENSIONS])))
    return _with_extensions(_der(), *extensions, *extensions)


def malformed_extension() -> bytes:
    """Make a BasicConstraints extension whose length points past its end."""
    return with_extension(_der(), "2.5.29.19", b"\x30\x05")


def with_spki(public_key: bytes) -> bytes:
    """Return a certificate for another key, given as DER of SubjectPublicKeyInfo."""
    return with_part(_der(), SPKI, public_key)


def unknown_spki(algorithm: str) -> bytes:
    """Return a key of an algorithm that ``cryptography`` has no class for."""
    return tlv(0x30, tlv(0x30, oid(algorithm)), tlv(0x03, b"\0key"))


@functools.cache
def spki(kind: str) -> bytes:
    """Return a real key's SubjectPublicKeyInfo.

    ``name``: a curve, ``Ed25519``, ``Ed448``, ``X25519``, ``DSA`` or ``RSA``.
    """
    key: (
        rsa.RSAPublicKey
        | dsa.DSAPublicKey
        | ec.EllipticCurvePublicKey
        | ed25519.Ed25519PublicKey
        | ed448.Ed448PublicKey
    )
    match kind:
        case "RSA":
            key = rsa.generate_private_key(65537, 2048).public_key()
        case "DSA":
            key = dsa.generate_private_key(1024).public_key()
        case "Ed25519":
            key = ed25519.Ed25519PrivateKey.generate().public_key()
        case "Ed448":
            key = ed448.Ed448PrivateKey.generate().public_key()
        case "X25519":
            return (
                x25519.X25519PrivateKey.generate()
                .public_key()
                .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            )
        case curve:
            key = _key(curve).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def rsa_spki(bits: int, exponent: int = 65537) -> bytes:
    """Return an RSA key of any size at no cost: its modulus is no product of two primes."""
    algorithm = tlv(0x30, oid("1.2.840.113549.1.1.1"), b"\x05\x00")
    return tlv(
        0x30,
        algorithm,
        tlv(0x03, b"\0", tlv(0x30, _integer(1 << bits - 1 | 0x10001), _integer(exponent))),
    )


def _p256_point() -> tuple[bytes, bytes]:
    numbers = _key("P-256").public_key().public_numbers()
    return numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")


def compressed_spki() -> bytes:
    """Return the P-256 key with its point compressed (RFC 5480 section 2.2: optional)."""
    x, y = _p256_point()
    algorithm = tlv(0x30, oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7"))
    return tlv(0x30, algorithm, tlv(0x03, b"\0", bytes([2 | y[-1] & 1]), x))


def explicit_spki() -> bytes:
    """Return the P-256 key with the curve as numbers (SEC 2 section 2.4.2).

    ``openssl -param_enc explicit`` writes them.
    """
    p = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    g_x = 0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296
    g_y = 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5
    field = tlv(0x30, oid("1.2.840.10045.1.1"), _integer(p))
    curve = tlv(0x30, tlv(0x04, (p - 3).to_bytes(32, "big")), tlv(0x04, b.to_bytes(32, "big")))
    base = tlv(0x04, b"\x04", g_x.to_bytes(32, "big"), g_y.to_bytes(32, "big"))
    parameters = tlv(0x30, _integer(1), field, curve, base, _integer(order), _integer(1))
    return tlv(
        0x30, tlv(0x30, oid("1.2.840.10045.2.1"), parameters), tlv(0x03, b"\0\x04", *_p256_point())
    )


# Certificates with their keys, for real handshakes: valid from 2020 to 2100 by default.

KINDS = ("EC P-256", "EC P-384", "RSA 2048", "RSA 4096", "RSA-PSS", "Ed25519")
"""The kinds of clients' keys."""

ML_DSA_KINDS = ("ML-DSA-44", "ML-DSA-65", "ML-DSA-87")
"""The kinds that only TLS 1.3 has."""

_MlDsaKey = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
_Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | _MlDsaKey
_ML_DSA: dict[str, type[_MlDsaKey]] = {
    "ML-DSA-44": mldsa.MLDSA44PrivateKey,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey,
}


@attrs.frozen(eq=False)
class Pair:
    """A certificate, in DER since not every library parses each, and its key in PKCS #8."""

    der: bytes
    key_der: bytes = attrs.field(repr=False)
    private_key: _Key = attrs.field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate as an object of ``cryptography``."""
        return x509.load_der_x509_certificate(self.der)

    @property
    def pem(self) -> bytes:
        """Certificate and key in one file."""
        return _armour("CERTIFICATE", self.der) + _armour("PRIVATE KEY", self.key_der)


def _armour(label: str, der: bytes) -> bytes:
    text = encodebytes(der).decode("ascii")
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode("ascii")


@functools.cache
def pair(
    kind: str = "EC P-256",
    subject: str = "CN=client",
    issuer: Pair | None = None,
    years: tuple[int, int] = (2020, 2100),
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    ca: bool = False,
    usages: tuple[x509.ObjectIdentifier, ...] = (),
) -> Pair:
    """Make a pair, self-signed or signed by ``issuer``.

    ``kind``: one of ``KINDS`` or ``ML_DSA_KINDS``, or RSA of another size.

    ``usages``: the extended key usages of a CA, which has none otherwise.
    """
    key = _make_key(kind)
    signer = issuer or Pair(b"", b"", key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name := x509.Name.from_rfc4514_string(subject))
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(years[0], 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(years[1], 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca or usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages or [usage]), critical=False)
    hashes_itself = isinstance(signer.private_key, ed25519.Ed25519PrivateKey | _MlDsaKey)
    digest = None if hashes_itself else hashes.SHA256()
    pss = (
        padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
        if kind == "RSA-PSS"
        else None
    )
    made = builder.sign(signer.private_key, digest, rsa_padding=pss).public_bytes(Encoding.DER)
    if pss is not None:
        return _pss_only(made, key, pss)
    return Pair(made, key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), key)


def _make_key(kind: str) -> _Key:
    match kind.split():
        case ["EC", curve]:
            return ec.generate_private_key(_CURVES[curve]())
        case ["RSA", bits]:
            return rsa.generate_private_key(65537, int(bits))
        case ["RSA-PSS"]:
            return rsa.generate_private_key(65537, 2048)
        case [name] if name in _ML_DSA:
            return _ML_DSA[name].generate()
    return ed25519.Ed25519PrivateKey.generate()


def _pss_only(der: bytes, key: _Key, pss: padding.PSS) -> Pair:
    """Return the pair with a key for RSASSA-PSS alone (RFC 4055 section 1.2).

    ``cryptography`` does not make one.
    """
    assert isinstance(key, rsa.RSAPrivateKey)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    private = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    algorithm = tlv(0x30, oid("1.2.840.113549.1.1.10"))
    der = with_part(der, SPKI, tlv(0x30, algorithm, tlv(0x03, b"\0", public)))
    signed, signed_with, _ = _elements(_content(der))
    signature = tlv(0x03, b"\0", key.sign(signed, pss, hashes.SHA256()))
    return Pair(
        tlv(0x30, signed, signed_with, signature),
        tlv(0x30, _integer(0), algorithm, tlv(0x04, private)),
        key,
    )
