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
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

__all__ = ["ClientCertificate", "Flag", "Verdict", "VerifyError", "unreadable"]

# Of each length of a name's part that it has not seen: a client could write thousands of lines into our log.
warnings.filterwarnings("ignore", "Attribute's length", UserWarning, __name__.replace(".", r"\."))


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
    WEAK = "WEAK"
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

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
# DER of the object identifiers prime-field and characteristic-two-field (ANSI X9.62).
_EXPLICIT_FIELDS = (bytes.fromhex("06072a8648ce3d0101"), bytes.fromhex("06072a8648ce3d0102"))
_RSA_BITS = range(2048, 8193)
_LARGEST_EXPONENT = 1 << 32
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
        key, strong = _describe_key(certificate)
        codes = {objection.code for objection in objections}
        flags = {flag for flag, found in _flags(codes, strong) if found}
        subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
        if len(subject) + len(issuer) > _LONGEST_NAMES:
            raise ValueError("names of that length are nobody's")
        return cls(
            der=der,
            thumbprint=thumbprint(der),
            verdict=_verdict(objections, certificate.issuer == certificate.subject),
            flags=frozenset(flags),
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


def _flags(codes: set[int], strong: bool) -> Iterable[tuple[Flag, bool]]:
    yield Flag.WEAK, bool(_WEAK & codes) or not strong
    yield Flag.WRONG_USAGE, _USAGE in codes
    yield Flag.REVOKED, _REVOKED in codes


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


def _describe_key(certificate: x509.Certificate) -> tuple[str, bool]:
    """A name for people, and whether the key is of a kind and size that is passed on."""
    match certificate.public_key():
        case rsa.RSAPublicKey() as key:
            return (
                f"RSA {key.key_size}",
                key.key_size in _RSA_BITS and key.public_numbers().e <= _LARGEST_EXPONENT,
            )
        case ec.EllipticCurvePublicKey() as key:
            # Explicit curve parameters begin with the kind of their field (the class of OpenSSL's CVE-2022-0778: parsing alone
            # looped). Wherever these octets stand, the certificate is refused: a decoy must not hide them.
            named = not any(
                field in certificate.tbs_certificate_bytes for field in _EXPLICIT_FIELDS
            )
            return (
                f"EC {_CURVES.get(key.curve.name, key.curve.name)}",
                named and key.curve.name in _CURVES,
            )
        case ed25519.Ed25519PublicKey():
            return "Ed25519", True
        case ed448.Ed448PublicKey():
            return "Ed448", True
        case other:
            return type(other).__name__.lstrip("_"), False
