"""Throw-away client certificates, made on demand, in the files of one folder."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from x509proxy.audit.probe import NotApplicable

__all__ = ["AUTHORITY", "RECIPES", "Credentials", "Store"]

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@attrs.frozen
class Credentials:
    """A client's certificate and key, in PEM files."""

    certificate: Path
    key: Path
    der: bytes = attrs.field(repr=False)
    chain: tuple[bytes, ...] = attrs.field(default=(), repr=False)
    """The certificates that the client sends after its own, in DER."""

    @property
    def x509(self) -> x509.Certificate:
        """Return the parsed certificate."""
        return x509.load_der_x509_certificate(self.der)

    @property
    def private_key(self) -> _Key:
        """Return the loaded private key."""
        found = load_pem_private_key(self.key.read_bytes(), None)
        assert isinstance(found, ec.EllipticCurvePrivateKey)
        return found

    @property
    def is_issued(self) -> bool:
        """Return True if the terminator may trust it: it is not self-signed."""
        return self.x509.issuer != self.x509.subject

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the certificate in hex."""
        return hashlib.sha256(self.der).hexdigest()


@attrs.frozen
class _Made:
    certificate: x509.Certificate
    key: _Key


def _ec() -> _Key:
    return ec.generate_private_key(ec.SECP256R1())


def _rsa(bits: int) -> Callable[[], _Key]:
    return lambda: rsa.generate_private_key(65537, bits)


def _mldsa(name: str) -> Callable[[], _Key]:
    def make() -> _Key:
        try:
            mldsa = import_module("cryptography.hazmat.primitives.asymmetric.mldsa")
        except ImportError:
            raise NotApplicable("found no ML-DSA in this version of cryptography") from None
        made: _Key = getattr(mldsa, name).generate()
        return made

    return make


_DAY = timedelta(days=1)
_CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)


@attrs.frozen
class Recipe:
    """The parameters of a certificate."""

    common_name: str = "x509proxy audit"
    key: Callable[[], _Key] = _ec
    days: tuple[int, int] = (-1, 30)
    """Begin and end of the validity, in days from now."""
    usage: tuple[x509.ObjectIdentifier, ...] = _CLIENT
    names: int = 0
    """Number of DNS names in the subjectAltName."""
    pss: bool = False
    """Sign with RSA-PSS."""
    issuer: str = ""
    """Name of the issuer's recipe. A certificate without one is self-signed."""
    sends: tuple[str, ...] = ()
    """Names of the certificates that the client sends after its own."""
    critical: bool = False
    """Add an unknown critical extension."""
    authority: bool = False


AUTHORITY = "authority"
RECIPES: dict[str, Recipe] = {
    "client": Recipe("x509proxy audit client"),
    "other": Recipe("x509proxy audit other client"),
    "victim": Recipe("x509proxy audit victim"),
    "rsa": Recipe(key=_rsa(2048)),
    "rsa-4096": Recipe(key=_rsa(4096)),
    "rsa-1024": Recipe(key=_rsa(1024)),
    "rsa-pss": Recipe(key=_rsa(2048), pss=True),
    "p384": Recipe(key=lambda: ec.generate_private_key(ec.SECP384R1())),
    "ed25519": Recipe(key=ed25519.Ed25519PrivateKey.generate),
    "ml-dsa-44": Recipe(key=_mldsa("MLDSA44PrivateKey")),
    "expired": Recipe(days=(-20, -10)),
    "not-yet-valid": Recipe(days=(10, 20)),
    "server-usage": Recipe(usage=(ExtendedKeyUsageOID.SERVER_AUTH,)),
    "critical-extension": Recipe(critical=True),
    "many-names": Recipe(names=230),
    "huge": Recipe(names=800),
    "nul-name": Recipe("admin\0.example"),
    "line-name": Recipe("a\r\nX-Audit-Injected: 1\r\n\r\n"),
    "quote-name": Recipe('a";Hash=0;Cert="forged",By=b'),
    "pem-name": Recipe("-----END CERTIFICATE----------BEGIN CERTIFICATE-----"),
    "unicode-name": Recipe("Zürich \u2028 \u202e 株"),
    "no-name": Recipe(""),
    AUTHORITY: Recipe("x509proxy audit authority", usage=(), authority=True),
    "issued": Recipe("issued", issuer=AUTHORITY, sends=(AUTHORITY,)),
    "with-victim": Recipe("attacker with another's certificate", sends=("victim",)),
    "issued-with-victim": Recipe("issued attacker", issuer=AUTHORITY, sends=("victim", AUTHORITY)),
}
# Of these the probes expect that a self-signed certificate arrives.
_ALWAYS_SELF_SIGNED = frozenset(
    {AUTHORITY, "p384", "rsa", "rsa-4096", "rsa-pss", "ed25519", "ml-dsa-44"}
)


class Store:
    """The certificates of one audit, by the names of :data:`RECIPES`.

    ``issuer`` is the recipe of the authority that the terminator trusts, or ``""``. A terminator
    that verifies certificates would reject all others, and pass each probe that needs one.
    """

    def __init__(self, folder: Path, issuer: str = "") -> None:
        self.folder = folder
        self._issuer = issuer
        self._made: dict[str, _Made] = {}
        self._files: dict[str, Credentials] = {}

    def get(self, name: str) -> Credentials:
        """Return the certificate with that name, which is made at the first call.

        :raises NotApplicable: this machine cannot make it.
        """
        if name not in self._files:
            self._files[name] = self._write(name, self._make(name))
        return self._files[name]

    def stolen(self) -> Credentials:
        """Return the victim's certificate with a key that is not its own."""
        victim, key = self.get("victim"), self.folder / "stolen.key"
        genuine, wrong = self._made["victim"].key, _ec()
        # OpenSSL compares only the public keys when it loads a private key. This one has the
        # victim's public key beside another private key, so its signatures are invalid.
        der = wrong.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        mixed = der.replace(_point(wrong), _point(genuine))
        key.write_bytes(_armour(mixed))
        return attrs.evolve(victim, key=key)

    def _make(self, name: str) -> _Made:
        if name not in self._made:
            recipe = RECIPES[name]
            by = recipe.issuer or ("" if name in _ALWAYS_SELF_SIGNED else self._issuer)
            issuer = self._make(by) if by else None
            self._made[name] = _sign(recipe, recipe.key(), issuer)
        return self._made[name]

    def _write(self, name: str, made: _Made) -> Credentials:
        sent = [self._make(other).certificate for other in RECIPES[name].sends]
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain = [made.certificate, *sent]
        certificate.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain))
        key.write_bytes(_pem_key(made.key))
        der, *others = (one.public_bytes(Encoding.DER) for one in chain)
        return Credentials(certificate, key, der, tuple(others))


def _pem_key(key: _Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _point(key: _Key) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _armour(der: bytes) -> bytes:
    text = base64.encodebytes(der)
    return b"-----BEGIN PRIVATE KEY-----\n" + text + b"-----END PRIVATE KEY-----\n"


def _sign(recipe: Recipe, key: _Key, issuer: _Made | None) -> _Made:
    name = _name(recipe.common_name)
    start, end = recipe.days
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=issuer.certificate.subject if issuer else name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now + start * _DAY,
        not_valid_after=now + end * _DAY,
    )
    for extension, critical in _extensions(recipe):
        builder = builder.add_extension(extension, critical)
    signer = issuer.key if issuer else key
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32) if recipe.pss else None
    return _Made(builder.sign(signer, _hash_for(signer), rsa_padding=pss), key)


def _hash_for(key: _Key) -> hashes.SHA256 | None:
    # Ed25519 and ML-DSA hash by themselves (RFC 8410 section 3, RFC 9881 section 3).
    needs = isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return hashes.SHA256() if needs else None


def _name(common_name: str) -> x509.Name:
    if not common_name:
        return x509.Name([])
    # Without validation, because some probes need names that RFC 5280 does not allow.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name, _validate=False)])


def _extensions(recipe: Recipe) -> list[tuple[x509.ExtensionType, bool]]:
    made: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=recipe.authority, path_length=None), True)
    ]
    if recipe.usage:
        made.append((x509.ExtendedKeyUsage(recipe.usage), False))
    if recipe.names or not recipe.common_name:
        names = [x509.DNSName(f"n{at:04}.audit.example") for at in range(recipe.names or 1)]
        made.append((x509.SubjectAlternativeName(names), not recipe.common_name))
    if recipe.critical:
        unknown = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
        made.append((x509.UnrecognizedExtension(unknown, b"\x05\x00"), True))
    return made
