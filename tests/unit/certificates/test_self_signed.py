"""Tests of :mod:`x509proxy.certificates.self_signed`."""

from __future__ import annotations

import ipaddress
import json
from base64 import b64decode, urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from x509proxy.certificates.client_certificate import ClientCertificate, Verdict
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, jwk_set, make_self_signed
from x509proxy.settings import SettingsError

NOW = datetime(2026, 7, 13, 12, tzinfo=UTC)
KEYS = {
    KeyKind.EC: "EC P-256",
    KeyKind.EC_P384: "EC P-384",
    KeyKind.RSA: "RSA 2048",
    KeyKind.RSA_4096: "RSA 4096",
    KeyKind.ED25519: "Ed25519",
    KeyKind.ML_DSA_44: "ML-DSA-44",
    KeyKind.ML_DSA_65: "ML-DSA-65",
    KeyKind.ML_DSA_87: "ML-DSA-87",
}
ML_DSA: dict[str, Any] = {
    "ML-DSA-44": mldsa.MLDSA44PublicKey,
    "ML-DSA-65": mldsa.MLDSA65PublicKey,
    "ML-DSA-87": mldsa.MLDSA87PublicKey,
}
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


def make(kind: KeyKind = KeyKind.EC, name: str = "client", **more: Any) -> SelfSigned:
    return make_self_signed(kind, name, now=NOW, **more)


def only_key(certificate: x509.Certificate) -> dict[str, Any]:
    """Return the one key of the JWK set, after a walk through JSON."""
    (key,) = json.loads(json.dumps(jwk_set(certificate)))["keys"]
    found: dict[str, Any] = key
    return found


def octets(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def rebuilt(key: dict[str, Any]) -> CertificatePublicKeyTypes:
    """Return the public key, as a server reads it out of a JWK."""
    match key["kty"]:
        case "EC":
            x, y = (int.from_bytes(octets(key[name]), "big") for name in "xy")
            return ec.EllipticCurvePublicNumbers(x, y, CURVES[key["crv"]]).public_key()
        case "RSA":
            exponent, modulus = (int.from_bytes(octets(key[name]), "big") for name in "en")
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        case "AKP":
            found: CertificatePublicKeyTypes = ML_DSA[key["alg"]].from_public_bytes(
                octets(key["pub"])
            )
            return found
        case _ if key["crv"] == "Ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(octets(key["x"]))
        case _:
            return ed448.Ed448PublicKey.from_public_bytes(octets(key["x"]))


def with_key(spki: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(samples.with_spki(spki))


class Certificates(SynchronousTestCase):
    def test_every_kind_signs_itself(self) -> None:
        """Each kind of key gives a certificate that it has signed, and that is self-signed here."""
        for kind, words in KEYS.items():
            certificate = make(kind).certificate
            certificate.verify_directly_issued_by(certificate)
            client = ClientCertificate.from_x509(certificate, [samples.SELF_SIGNED])
            self.assertEqual(
                (Verdict.SELF_SIGNED, frozenset(), words),
                (client.verdict, client.flags, client.key),
            )

    def test_identity(self) -> None:
        """The certificate is of version 3, with the common name twice and a serial number."""
        first, second = make(name="Grüße, Welt").certificate, make().certificate
        self.assertIs(x509.Version.v3, first.version)
        self.assertEqual("CN=Grüße\\, Welt", first.subject.rfc4514_string())
        self.assertEqual(first.subject, first.issuer)
        self.assertNotEqual(first.serial_number, second.serial_number)

    def test_validity(self) -> None:
        """It is valid for so many days from now, and has been for five minutes already."""
        certificate = make(days=30).certificate
        self.assertEqual(NOW - timedelta(minutes=5), certificate.not_valid_before_utc)
        self.assertEqual(NOW + timedelta(days=30), certificate.not_valid_after_utc)

    def test_clock(self) -> None:
        """Without a time, the validity begins by the clock."""
        certificate = make_self_signed(KeyKind.EC, "client").certificate
        self.assertTrue(
            certificate.not_valid_before_utc < datetime.now(UTC) < certificate.not_valid_after_utc
        )

    def test_client_extensions(self) -> None:
        """A client's certificate is no authority, signs only, and is for client authentication."""
        certificate = make().certificate
        extensions = certificate.extensions
        self.assertEqual(
            ["basicConstraints", "keyUsage"],
            [found.oid._name for found in extensions if found.critical],
        )
        self.assertFalse(extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        self.assertEqual(
            (True, False, False),
            (usage.digital_signature, usage.key_cert_sign, usage.key_encipherment),
        )
        purpose = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual([ExtendedKeyUsageOID.CLIENT_AUTH], list(purpose))
        identifier = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        self.assertEqual(
            x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()), identifier
        )
        self.assertRaises(
            x509.ExtensionNotFound, extensions.get_extension_for_class, x509.SubjectAlternativeName
        )

    def test_server_extensions(self) -> None:
        """A server's certificate is for server authentication, with its DNS names and addresses."""
        extensions = make(
            server=True, names=["localhost", "127.0.0.1", "::1"]
        ).certificate.extensions
        self.assertEqual(
            [ExtendedKeyUsageOID.SERVER_AUTH],
            list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value),
        )
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(["localhost"], names.get_values_for_type(x509.DNSName))
        addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
        self.assertEqual(addresses, names.get_values_for_type(x509.IPAddress))

    def test_server_without_names(self) -> None:
        """A server without names has its common name as one, since clients look there alone."""
        extensions = make(name="proxy.example", server=True).certificate.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(["proxy.example"], names.get_values_for_type(x509.DNSName))

    def test_client_names(self) -> None:
        """A client may have names too (RFC 8705 section 2.1.2, ``tls_client_auth_san_dns``)."""
        extensions = make(names=["client.example"]).certificate.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(["client.example"], names.get_values_for_type(x509.DNSName))

    def test_pem(self) -> None:
        """Certificate and key are PEM, the key as unencrypted PKCS #8, and belong together."""
        made = make()
        key = load_pem_private_key(made.key_pem, None)
        self.assertTrue(made.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----\n"))
        self.assertEqual(x509.load_pem_x509_certificate(made.certificate_pem), made.certificate)
        self.assertEqual(made.certificate.public_key(), key.public_key())

    def test_repr(self) -> None:
        """The private key does not appear in a traceback."""
        self.assertNotIn("private_key", repr(make()))


class BadInput(SynchronousTestCase):
    def refuse(self, sentence: str, **given: Any) -> None:
        self.assertEqual(sentence, str(self.assertRaises(SettingsError, make, **given)))

    def test_common_name(self) -> None:
        """An impossible common name is rejected in one sentence, undecodable bytes too."""
        for name in ("", "x" * 65, "ü" * 33, "two\nlines", "\udcff"):
            self.refuse(
                f"common name: found {name!r}, expected 1 to 64 bytes of printable text", name=name
            )

    def test_longest_common_name(self) -> None:
        """A common name may have 64 bytes, as RFC 5280 has it."""
        self.assertEqual("CN=" + "x" * 64, make(name="x" * 64).certificate.subject.rfc4514_string())

    def test_days(self) -> None:
        """A validity of no days, or of more than a century, is refused."""
        for days in (-1, 0, 36526, 10**12):
            self.refuse(f"days: found {days}, expected 1 to 36525", days=days)

    def test_names(self) -> None:
        """A name that is neither a DNS name in ASCII nor an address is refused."""
        for name in ("", "grüße.example", "two words", "nul\0"):
            self.refuse(
                f"name: found {name!r}, expected a DNS name in ASCII or an IP address", names=[name]
            )


class JwkSet(SynchronousTestCase):
    def test_every_kind_can_be_rebuilt(self) -> None:
        """The public key that a server rebuilds from the JWK is the certificate's."""
        for kind in KeyKind:
            certificate = make(kind).certificate
            self.assertEqual(certificate.public_key(), rebuilt(only_key(certificate)), kind)

    def test_other_kinds_can_be_rebuilt(self) -> None:
        """So is that of certificates which are not made here: P-521 and Ed448."""
        for spki in (samples.spki("P-521"), samples.spki("Ed448")):
            certificate = with_key(spki)
            self.assertEqual(certificate.public_key(), rebuilt(only_key(certificate)))

    def test_members(self) -> None:
        """The key has the members of RFC 7517 and RFC 8705; its identifier is the thumbprint."""
        certificate = make().certificate
        key = only_key(certificate)
        thumbprint = ClientCertificate.from_x509(certificate, ()).thumbprint
        self.assertEqual({"kty", "crv", "x", "y", "use", "kid", "x5t#S256", "x5c"}, set(key))
        self.assertEqual(("EC", "P-256", "sig"), (key["kty"], key["crv"], key["use"]))
        self.assertEqual((thumbprint, thumbprint), (key["kid"], key["x5t#S256"]))

    def test_akp(self) -> None:
        """An ML-DSA key is an AKP key with its algorithm and public key (RFC 9964 section 3)."""
        key = only_key(make(KeyKind.ML_DSA_65).certificate)
        self.assertEqual({"kty", "alg", "pub", "use", "kid", "x5t#S256", "x5c"}, set(key))
        self.assertEqual(
            ("AKP", "ML-DSA-65", 1952), (key["kty"], key["alg"], len(octets(key["pub"])))
        )

    def test_certificate_inside(self) -> None:
        """``x5c`` holds the certificate alone, in ordinary base64 with padding."""
        certificate = make(KeyKind.RSA).certificate
        found = [b64decode(text, validate=True) for text in only_key(certificate)["x5c"]]
        self.assertEqual([certificate.public_bytes(Encoding.DER)], found)

    def test_coordinates_have_full_width(self) -> None:
        """A coordinate with leading zeros is as long as any other (RFC 7518 section 6.2.1.2)."""
        points = (
            ec.derive_private_key(number, ec.SECP256R1()).public_key() for number in range(1, 10000)
        )
        short = next(point for point in points if point.public_numbers().x < 1 << 248)
        certificate = with_key(short.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        key = only_key(certificate)
        self.assertEqual(
            (b"\0", 32, 32), (octets(key["x"])[:1], len(octets(key["x"])), len(octets(key["y"])))
        )

    def test_unknown_kind(self) -> None:
        """A key that has no JWK of a common kind is refused in one sentence."""
        for kind, name in (("secp256k1", "EC secp256k1"), ("DSA", "DSA")):
            error = self.assertRaises(SettingsError, jwk_set, with_key(samples.spki(kind)))
            expected = "EC P-256, P-384, P-521, RSA, Ed25519, Ed448 or ML-DSA"
            self.assertEqual(f"certificate: found a key of {name}, expected {expected}", str(error))
