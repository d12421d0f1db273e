"""The client's certificate as a frozen value: parsed once, at the door; past it nothing looks at X.509 again.

Facts
-----
* What a handshake proves is possession of the private key, nothing else (RFC 8705 section 2.2: a self-signed certificate has
  no chain to validate). Everything here but ``der`` and ``thumbprint`` is what the certificate *claims*.
* OpenSSL does not check the signature of a self-signed certificate, so ``SELF_SIGNED`` means "issuer and subject are the same
  and nothing else was objected to". A server that compares the whole certificate or its key is safe with that.
* OpenSSL accepts certificates that ``cryptography`` refuses (version 7, duplicate extensions, BER inside). Such a one is
  ``UNREADABLE`` and never passed on: two parsers that disagree are an attack's beginning.
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
    "ClientCertificate",
    "Flag",
    "Verdict",
    "VerifyError",
    "ignore_name_lengths",
    "unreadable",
]


def ignore_name_lengths() -> None:
    """Filter the warnings of ``cryptography`` about long names in certificates. For entry points.

    There is one for each part of a name and each length: a client could write thousands of lines to
    the log. The filter is the process's, so a library does not set it.
    """
    module = __name__.replace(".", r"\.")
    warnings.filterwarnings("ignore", "Attribute's length", UserWarning, module)


class Verdict(enum.Enum):
    """What OpenSSL said of the certificate's origin, in one word."""

    NONE = "NONE"
    SELF_SIGNED = "SELF_SIGNED"
    TRUSTED = "TRUSTED"
    UNTRUSTED = "UNTRUSTED"


class Flag(enum.Enum):
    """What else is to be said of a certificate."""

    EXPIRED = "EXPIRED"
    NOT_YET_VALID = "NOT_YET_VALID"
    WRONG_USAGE = "WRONG_USAGE"
    """Not for TLS clients, by its own usage or by that of one of its issuers."""
    WEAK = "WEAK"
    UNSUPPORTED_KEY = "UNSUPPORTED_KEY"
    """Of an unknown kind, or of one that this proxy does not accept: nothing is claimed about its strength."""
    REVOKED = "REVOKED"
    UNREADABLE = "UNREADABLE"


class VerifyError(NamedTuple):
    """One complaint of OpenSSL's: ``depth`` 0 is the client's own certificate, ``code`` an ``X509_V_ERR_*`` number."""

    depth: int
    code: int


# X509_V_ERR_*, openssl/x509_vfy.h. Times are judged by our own clock at each request, since a connection may outlive them.
_SELF_SIGNED = 18  # DEPTH_ZERO_SELF_SIGNED_CERT
_TIMES = {9, 10}  # CERT_NOT_YET_VALID, CERT_HAS_EXPIRED
_USAGE = 26  # INVALID_PURPOSE
_WEAK = {66, 67, 68}  # EE_KEY_TOO_SMALL, CA_KEY_TOO_SMALL, CA_MD_TOO_WEAK
_REVOKED = 23  # CERT_REVOKED, at any depth: what a revoked issuer has signed is worth no more
# UNABLE_TO_GET_CRL: nobody keeps a list of what is self-signed. OpenSSL before 4.0 misses it there all the same.
_NO_LIST = 3

_CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
# RFC 5280 section 4.2.1.12; others are written as numbers.
_USAGES = {
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.3": "codeSigning",
    "1.3.6.1.5.5.7.3.4": "emailProtection",
    "2.5.29.37.0": "anyExtendedKeyUsage",
}

# Types of one size and strength each, by the identifiers of RFC 8410 and RFC 9881.
_OTHER_KEYS = {
    "1.3.101.112": "Ed25519",
    "1.3.101.113": "Ed448",
    "2.16.840.1.101.3.4.3.17": "ML-DSA-44",
    "2.16.840.1.101.3.4.3.18": "ML-DSA-65",
    "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
}
_EC = "1.2.840.10045.2.1"
# RFC 9909 sections 3 and 4: pure and pre-hashed. TLS has no signature scheme for them, and cryptography no class.
_SLH_DSA = {f"2.16.840.1.101.3.4.3.{number}" for number in (*range(20, 32), *range(35, 47))}
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
# DER of the object identifiers prime-field and characteristic-two-field (ANSI X9.62).
_EXPLICIT_FIELDS = (bytes.fromhex("06072a8648ce3d0101"), bytes.fromhex("06072a8648ce3d0102"))
_RSA_BITS = range(2048, 8193)
# 1 and even exponents are no RSA: cryptography 50 rejects them, and 49 does not.
_RSA_EXPONENTS = range(3, 1 << 32, 2)
_LONGEST_NAMES = 4096  # characters of subject and issuer together; real ones have some hundred
_LARGEST_DER = 16384  # no server takes a header of 22 KB; to parse 84 KB of names costs as much as 60 handshakes


@attrs.frozen(kw_only=True, cache_hash=True)
class ClientCertificate:
    """One client's certificate.

    ``der``: the bytes, canonical DER; ``thumbprint``: ``x5t#S256`` of RFC 8705 section 3.1 (SHA-256, base64url, no padding);
    ``subject``, ``issuer``: RFC 4514 text, the client's own words; ``key``: such as ``EC P-256`` or ``RSA 2048``;
    ``not_before``, ``not_after``: seconds since the epoch; ``chain``: what the client sent of its chain of trust, DER, issuer
    after issuer, empty unless the verdict is ``TRUSTED``. ``flags`` holds no times: ask :meth:`flags_at`.
    """

    der: bytes = attrs.field(repr=False)
    thumbprint: str
    verdict: Verdict
    flags: frozenset[Flag] = frozenset()
    subject: str = ""
    issuer: str = ""
    serial: int = 0
    key: str = ""
    not_before: float = 0.0
    not_after: float = 0.0
    chain: tuple[bytes, ...] = attrs.field(default=(), repr=False)

    @classmethod
    def from_x509(
        cls, certificate: x509.Certificate, objections: Iterable[VerifyError]
    ) -> ClientCertificate:
        """As :meth:`from_der`."""
        return cls.from_der(certificate.public_bytes(Encoding.DER), objections)

    @classmethod
    def from_der(cls, der: bytes, objections: Iterable[VerifyError]) -> ClientCertificate:
        """Parse the certificate of a finished handshake, with what OpenSSL objected to. Never raises: see ``UNREADABLE``."""
        return unreadable(der) if len(der) > _LARGEST_DER else _parse(der, frozenset(objections))

    @classmethod
    def _parse(
        cls, certificate: x509.Certificate, der: bytes, objections: frozenset[VerifyError]
    ) -> ClientCertificate:
        # Read through, or a malformed extension would go unseen here and be seen by the back end.
        len(certificate.extensions)
        key, key_flag = _describe_key(certificate)
        subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
        if len(subject) + len(issuer) > _LONGEST_NAMES:
            raise ValueError("names of that length are nobody's")
        return cls(
            der=der,
            thumbprint=thumbprint(der),
            verdict=_verdict(objections, certificate.issuer == certificate.subject),
            flags=frozenset(_flags(objections, key_flag)),
            subject=subject,
            issuer=issuer,
            serial=certificate.serial_number,
            key=key,
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
        )

    def flags_at(self, now: float) -> frozenset[Flag]:
        """The flags at a time (seconds since the epoch): ``flags`` with ``EXPIRED`` or ``NOT_YET_VALID`` if they apply."""
        if self.not_before <= now <= self.not_after or Flag.UNREADABLE in self.flags:
            return self.flags
        return self.flags | {Flag.EXPIRED if now > self.not_after else Flag.NOT_YET_VALID}


# A client comes back with the same certificate, and what is said of it depends on these two alone: 80 us of a connection's 500
# (docs/performance.rst). Each takes 32 KiB at the worst, with a text of four bytes a letter, and some KiB as a rule.
@lru_cache(maxsize=1024)
def _parse(der: bytes, objections: frozenset[VerifyError]) -> ClientCertificate:
    try:
        return ClientCertificate._parse(x509.load_der_x509_certificate(der), der, objections)  # noqa: SLF001 - our own
    except Exception:
        # cryptography parses lazily and raises ValueError, TypeError, DuplicateExtension, UnsupportedAlgorithm … (L3).
        return unreadable(der)


def thumbprint(der: bytes) -> str:
    """``x5t#S256``: base64url, without padding, of the SHA-256 of the DER (RFC 8705 section 3.1, RFC 7515 section 4.1.8)."""
    return urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode("ascii")


def unreadable(der: bytes = b"") -> ClientCertificate:
    """The value for a certificate of which only its presence is known, or its bytes; it is never passed on."""
    return ClientCertificate(
        der=der,
        thumbprint=thumbprint(der),
        verdict=Verdict.UNTRUSTED,
        flags=frozenset({Flag.UNREADABLE}),
    )


def date(seconds: float) -> str:
    """A time for people, as RFC 3339 writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _flags(objections: frozenset[VerifyError], key_flag: Flag | None) -> Iterator[Flag]:
    codes = {objection.code for objection in objections}
    if key_flag:
        yield key_flag
    if _WEAK & codes:
        yield Flag.WEAK
    if _REVOKED in codes:
        yield Flag.REVOKED
    if _USAGE in codes:
        yield Flag.WRONG_USAGE


def _verdict(objections: frozenset[VerifyError], same_name: bool) -> Verdict:
    own = {objection.code for objection in objections if objection.depth == 0}
    if same_name and _SELF_SIGNED in own:
        return (
            Verdict.SELF_SIGNED
            if own <= _TIMES | _WEAK | {_SELF_SIGNED, _USAGE, _NO_LIST}
            else Verdict.UNTRUSTED
        )
    # An expired issuer or a wrong usage is no objection that a chain of trust survives; the leaf's own times are flags.
    others = {
        objection
        for objection in objections
        if objection.depth or objection.code not in _TIMES | _WEAK
    }
    return Verdict.UNTRUSTED if others else Verdict.TRUSTED


def client_usage_problem(der: bytes) -> str:
    """The reason why a readable certificate with the flag ``WRONG_USAGE`` is not for TLS clients, for an error sentence."""
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
    found = ", ".join(_USAGES.get(usage.dotted_string, usage.dotted_string) for usage in usages)
    return f"its extended key usage has {found}, expected clientAuth"


def _describe_key(certificate: x509.Certificate) -> tuple[str, Flag | None]:
    """The name of the key's type, and the flag that keeps it from being forwarded."""
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm:
        # A kind of key, or a curve, that cryptography has no class for.
        return _unsupported_key(certificate.public_key_algorithm_oid), Flag.UNSUPPORTED_KEY
    match key:
        case rsa.RSAPublicKey():
            usual = key.key_size in _RSA_BITS and key.public_numbers().e in _RSA_EXPONENTS
            return f"RSA {key.key_size}", None if usual else Flag.WEAK
        case ec.EllipticCurvePublicKey():
            return _describe_curve(key.curve.name, certificate.tbs_certificate_bytes)
        case _:
            name = _OTHER_KEYS.get(certificate.public_key_algorithm_oid.dotted_string)
            if name:
                return name, None
            return type(key).__name__.removesuffix("PublicKey").lstrip("_"), Flag.UNSUPPORTED_KEY


def _describe_curve(curve: str, signed: bytes) -> tuple[str, Flag | None]:
    name = f"EC {_CURVES.get(curve, curve)}"
    # Explicit curve parameters begin with the kind of their field (the class of OpenSSL's CVE-2022-0778: parsing alone
    # looped). Wherever these octets stand, the certificate is refused: a decoy must not hide them.
    if any(field in signed for field in _EXPLICIT_FIELDS):
        return f"{name} with explicit parameters", Flag.UNSUPPORTED_KEY
    return name, None if curve in _CURVES else Flag.UNSUPPORTED_KEY


def _unsupported_key(algorithm: x509.ObjectIdentifier) -> str:
    dotted = algorithm.dotted_string
    if dotted == _EC:
        return "EC with an unknown curve"
    return "SLH-DSA" if dotted in _SLH_DSA else f"unknown type {dotted}"
