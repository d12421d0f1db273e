"""The client's certificate as a frozen value, parsed once, when the handshake is over.

Facts
-----
* A handshake proves possession of the private key, nothing else. A self-signed certificate has no
  chain to validate (RFC 8705 section 2.2). All fields but ``der`` and ``thumbprint`` are *claims*.
* OpenSSL does not check the signature of a self-signed certificate. ``SELF_SIGNED`` means: issuer
  and subject are equal, and OpenSSL reported no other error. A server that compares the whole
  certificate or its key is safe with that.
* OpenSSL accepts certificates that ``cryptography`` rejects (version 7, duplicate extensions, BER
  inside). They are ``UNREADABLE`` and never forwarded, because an attack can use two parsers that
  disagree.
"""

from __future__ import annotations

import enum
import hashlib
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

__all__ = [
    "CURVES",
    "INVALID_PURPOSE",
    "SELF_SIGNED_LEAF",
    "UNKNOWN_ISSUER",
    "ClientCertificate",
    "Flag",
    "Verdict",
    "VerifyError",
    "client_usage_problem",
    "date",
    "ignore_name_lengths",
    "thumbprint",
    "unreadable",
]


def ignore_name_lengths() -> None:
    """Filter the warnings of ``cryptography`` about long names in certificates.

    There is one for each part of a name and each length, so a client could write thousands of lines
    to the log. The filter applies to the whole process: entry points set it, libraries do not.
    """
    module = __name__.replace(".", r"\.")
    warnings.filterwarnings("ignore", "Attribute's length", UserWarning, module)


class Verdict(enum.Enum):
    """The result of OpenSSL's chain verification."""

    NONE = "NONE"
    SELF_SIGNED = "SELF_SIGNED"
    TRUSTED = "TRUSTED"
    UNTRUSTED = "UNTRUSTED"


class Flag(enum.Enum):
    """A property of a certificate for which a policy may reject it."""

    EXPIRED = "EXPIRED"
    NOT_YET_VALID = "NOT_YET_VALID"
    WRONG_USAGE = "WRONG_USAGE"
    """Its own key usage, or that of one of its issuers, excludes TLS clients."""
    WEAK = "WEAK"
    UNSUPPORTED_KEY = "UNSUPPORTED_KEY"
    """The key's type is unknown or not accepted here. Its strength is not assessed."""
    REVOKED = "REVOKED"
    UNREADABLE = "UNREADABLE"


class VerifyError(NamedTuple):
    """One error that OpenSSL reported while it verified the chain."""

    depth: int
    """Position in the chain. 0 is the client's own certificate."""
    code: int
    """Number of an ``X509_V_ERR_*`` constant."""


SELF_SIGNED_LEAF = VerifyError(0, 18)
"""``X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT`` (openssl/x509_vfy.h)."""
UNKNOWN_ISSUER = VerifyError(0, 20)
"""``X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY``."""
INVALID_PURPOSE = 26
"""``X509_V_ERR_INVALID_PURPOSE``, at any depth: the key usage excludes TLS clients."""
# Validity times are compared with the clock at each request, since a connection may outlive the
# certificate.
_TIMES = {9, 10}  # CERT_NOT_YET_VALID, CERT_HAS_EXPIRED
_WEAK = {66, 67, 68}  # EE_KEY_TOO_SMALL, CA_KEY_TOO_SMALL, CA_MD_TOO_WEAK
_REVOKED = 23  # CERT_REVOKED, at any depth: a revoked issuer revokes everything below it
# UNABLE_TO_GET_CRL: OpenSSL before 4.0 reports it for self-signed certificates too, which no
# revocation list covers.
_NO_CRL = 3

_CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
# RFC 5280 section 4.2.1.12. Other usages are shown as dotted numbers.
_USAGE_NAMES = {
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.3": "codeSigning",
    "1.3.6.1.5.5.7.3.4": "emailProtection",
    "2.5.29.37.0": "anyExtendedKeyUsage",
}

# Key types of one size each, by the identifiers of RFC 8410 and RFC 9881.
_FIXED_SIZE_KEYS = {
    "1.3.101.112": "Ed25519",
    "1.3.101.113": "Ed448",
    "2.16.840.1.101.3.4.3.17": "ML-DSA-44",
    "2.16.840.1.101.3.4.3.18": "ML-DSA-65",
    "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
}
_EC = "1.2.840.10045.2.1"
# RFC 9909 sections 3 and 4, pure and pre-hashed. TLS has no signature scheme for them, and
# cryptography no class.
_SLH_DSA = {f"2.16.840.1.101.3.4.3.{number}" for number in (*range(20, 32), *range(35, 47))}
# TLS 1.3 has signature schemes for these curves alone (RFC 8446 section 4.2.3). The values are the
# names in JSON Web Keys (RFC 7518 section 6.2.1.1).
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
# DER of the object identifiers prime-field and characteristic-two-field (ANSI X9.62).
_EXPLICIT_FIELDS = (bytes.fromhex("06072a8648ce3d0101"), bytes.fromhex("06072a8648ce3d0102"))
_RSA_BITS = range(2048, 8193)
# RSA needs an odd exponent of 3 or more. cryptography 50 rejects others, 49 does not.
_RSA_EXPONENTS = range(3, 1 << 32, 2)
_MAX_NAME_CHARS = 4096  # subject and issuer together; real ones have a few hundred
# No server accepts a header of 22 KB, and parsing 84 KB of names costs as much as 60 handshakes.
_MAX_DER_BYTES = 16384


@attrs.frozen(kw_only=True, cache_hash=True)
class ClientCertificate:
    """A client's certificate and the result of its verification."""

    der: bytes = attrs.field(repr=False)
    """The whole certificate in canonical DER."""
    thumbprint: str
    """``x5t#S256`` of RFC 8705 section 3.1: base64url of the SHA-256 of the DER, unpadded."""
    verdict: Verdict
    flags: frozenset[Flag] = frozenset()
    """All flags that do not depend on the time. :meth:`flags_at` adds those that do."""
    subject: str = ""
    """The subject's name in RFC 4514 form, as the certificate claims it."""
    issuer: str = ""
    """The issuer's name, likewise."""
    serial: int = 0
    key: str = ""
    """The type of the public key, such as ``EC P-256`` or ``RSA 2048``."""
    not_before: float = 0.0
    """Begin of the validity in seconds since the epoch."""
    not_after: float = 0.0
    """End of the validity, likewise."""
    chain: tuple[bytes, ...] = attrs.field(default=(), repr=False)
    """The intermediate certificates that the client sent, DER, each followed by its issuer.

    Empty unless the verdict is ``TRUSTED``.
    """

    @classmethod
    def from_x509(
        cls, certificate: x509.Certificate, errors: Iterable[VerifyError]
    ) -> ClientCertificate:
        """Build the value from a parsed certificate, as :meth:`from_der` does."""
        return cls.from_der(certificate.public_bytes(Encoding.DER), errors)

    @classmethod
    def from_der(cls, der: bytes, errors: Iterable[VerifyError]) -> ClientCertificate:
        """Parse the certificate of a finished handshake; ``errors`` are those of OpenSSL.

        This never raises: a certificate that cannot be parsed has the flag ``UNREADABLE``.
        """
        return unreadable(der) if len(der) > _MAX_DER_BYTES else _parse(der, frozenset(errors))

    @classmethod
    def _parse(
        cls, certificate: x509.Certificate, der: bytes, errors: frozenset[VerifyError]
    ) -> ClientCertificate:
        # len() parses all extensions: the back end must not be the first to see a malformed one.
        len(certificate.extensions)
        key, key_flag = _describe_key(certificate)
        subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
        if len(subject) + len(issuer) > _MAX_NAME_CHARS:
            raise ValueError(f"found longer names, expected {_MAX_NAME_CHARS} characters or fewer")
        return cls(
            der=der,
            thumbprint=thumbprint(der),
            verdict=_verdict(errors, certificate.issuer == certificate.subject),
            flags=frozenset(_flags(errors, key_flag)),
            subject=subject,
            issuer=issuer,
            serial=certificate.serial_number,
            key=key,
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
        )

    def flags_at(self, now: float) -> frozenset[Flag]:
        """Return the flags at a time: ``flags``, with ``EXPIRED`` or ``NOT_YET_VALID`` if so.

        ``now`` is in seconds since the epoch.
        """
        if self.not_before <= now <= self.not_after or Flag.UNREADABLE in self.flags:
            return self.flags
        return self.flags | {Flag.EXPIRED if now > self.not_after else Flag.NOT_YET_VALID}


# Clients return with the same certificate, and the value depends on the arguments alone. A hit
# saves 80 us of the 500 us that a connection costs (docs/performance.rst). An entry has a few KiB
# as a rule, and at most 32 KiB, with names of four bytes per character.
@lru_cache(maxsize=1024)
def _parse(der: bytes, errors: frozenset[VerifyError]) -> ClientCertificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        return ClientCertificate._parse(certificate, der, errors)  # noqa: SLF001 - same module
    except Exception:
        # cryptography parses lazily and raises ValueError, TypeError, DuplicateExtension,
        # UnsupportedAlgorithm and others (L3).
        return unreadable(der)


def thumbprint(der: bytes) -> str:
    """Return ``x5t#S256``: base64url, without padding, of the SHA-256 of the DER.

    Source: RFC 8705 section 3.1, RFC 7515 section 4.1.8.
    """
    return urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode("ascii")


def unreadable(der: bytes = b"") -> ClientCertificate:
    """Return the value for a certificate that cannot be parsed, which is never forwarded.

    ``der`` is empty if OpenSSL reported no more than the certificate's presence.
    """
    return ClientCertificate(
        der=der,
        thumbprint=thumbprint(der),
        verdict=Verdict.UNTRUSTED,
        flags=frozenset({Flag.UNREADABLE}),
    )


def date(seconds: float) -> str:
    """Return a time, given in seconds since the epoch, in RFC 3339 form and UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _flags(errors: frozenset[VerifyError], key_flag: Flag | None) -> Iterator[Flag]:
    codes = {error.code for error in errors}
    if key_flag:
        yield key_flag
    if _WEAK & codes:
        yield Flag.WEAK
    if _REVOKED in codes:
        yield Flag.REVOKED
    if INVALID_PURPOSE in codes:
        yield Flag.WRONG_USAGE


def _verdict(errors: frozenset[VerifyError], same_name: bool) -> Verdict:
    own = {error.code for error in errors if error.depth == 0}
    if same_name and SELF_SIGNED_LEAF.code in own:
        tolerated = _TIMES | _WEAK | {SELF_SIGNED_LEAF.code, INVALID_PURPOSE, _NO_CRL}
        return Verdict.SELF_SIGNED if own <= tolerated else Verdict.UNTRUSTED
    # The client's own validity and strength are flags. All other errors break the chain of trust,
    # such as an expired issuer or a wrong usage.
    breaking = {error for error in errors if error.depth or error.code not in _TIMES | _WEAK}
    return Verdict.UNTRUSTED if breaking else Verdict.TRUSTED


def client_usage_problem(der: bytes) -> str:
    """Return the reason for the flag ``WRONG_USAGE``, for an error sentence.

    ``der`` is a certificate that can be parsed.
    """
    try:
        usages = (
            x509.load_der_x509_certificate(der)
            .extensions.get_extension_for_class(x509.ExtendedKeyUsage)
            .value
        )
    except x509.ExtensionNotFound:
        usages = x509.ExtendedKeyUsage([_CLIENT_AUTH])
    if _CLIENT_AUTH in usages:
        return "its key usage, or the usage of one of its issuers, does not include TLS clients"
    numbers = [usage.dotted_string for usage in usages]
    found = ", ".join(_USAGE_NAMES.get(number, number) for number in numbers)
    return f"its extended key usage has {found}, expected clientAuth"


def _describe_key(certificate: x509.Certificate) -> tuple[str, Flag | None]:
    """Return the name of the key's type, and the flag that keeps it from being forwarded."""
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm:
        # cryptography has no class for this type of key or curve.
        return _unsupported_key(certificate.public_key_algorithm_oid), Flag.UNSUPPORTED_KEY
    match key:
        case rsa.RSAPublicKey():
            usual = key.key_size in _RSA_BITS and key.public_numbers().e in _RSA_EXPONENTS
            return f"RSA {key.key_size}", None if usual else Flag.WEAK
        case ec.EllipticCurvePublicKey():
            return _describe_curve(key.curve.name, certificate.tbs_certificate_bytes)
        case _:
            name = _FIXED_SIZE_KEYS.get(certificate.public_key_algorithm_oid.dotted_string)
            if name:
                return name, None
            return type(key).__name__.removesuffix("PublicKey").lstrip("_"), Flag.UNSUPPORTED_KEY


def _describe_curve(curve: str, signed: bytes) -> tuple[str, Flag | None]:
    name = f"EC {CURVES.get(curve, curve)}"
    # Explicit curve parameters begin with the type of their field. Parsing them is a risk of its
    # own (OpenSSL's CVE-2022-0778 was an endless loop). The octets count wherever they are in the
    # certificate, so that a decoy cannot hide them.
    if any(field in signed for field in _EXPLICIT_FIELDS):
        return f"{name} with explicit parameters", Flag.UNSUPPORTED_KEY
    return name, None if curve in CURVES else Flag.UNSUPPORTED_KEY


def _unsupported_key(algorithm: x509.ObjectIdentifier) -> str:
    dotted = algorithm.dotted_string
    if dotted == _EC:
        return "EC with an unknown curve"
    return "SLH-DSA" if dotted in _SLH_DSA else f"unknown type {dotted}"
