"""Tests of :mod:`x509proxy.certificates.file_kinds`."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs7,
    pkcs12,
)
from twisted.trial.unittest import SynchronousTestCase

from tests.support.pem import KEY, LEAF, pem
from x509proxy.certificates.file_kinds import kind_of_file


def key_as(encoding: Encoding, form: PrivateFormat, password: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return KEY.private_bytes(encoding, form, encryption)


class Kinds(SynchronousTestCase):
    def test_kinds(self) -> None:
        """Each kind of file in place of PEM is named, with a conversion to PEM if there is one."""
        der = LEAF.public_bytes(Encoding.DER)
        public = KEY.public_key()
        for data, kind, way in (
            (b" \n", "an empty file", ""),
            (der, "a certificate in DER", "PEM, as `openssl x509 -inform der`"),
            (
                key_as(Encoding.DER, PrivateFormat.PKCS8),
                "a private key in DER",
                "PEM, as `openssl pkey",
            ),
            (
                key_as(Encoding.DER, PrivateFormat.PKCS8, b"x"),
                "a private key in DER",
                "PEM, as `openssl pkey",
            ),
            (
                pkcs12.serialize_key_and_certificates(b"a", KEY, LEAF, None, NoEncryption()),
                "a PKCS#12 file",
                "PEM, as `openssl pkcs12 -noenc`",
            ),
            (
                pkcs12.serialize_key_and_certificates(
                    b"a", KEY, LEAF, None, BestAvailableEncryption(b"x")
                ),
                "a PKCS#12 file",
                "PEM, as `openssl pkcs12 -noenc`",
            ),
            (
                pkcs7.serialize_certificates([LEAF], Encoding.PEM),
                "a PKCS#7 bundle",
                "PEM, as `openssl pkcs7",
            ),
            (b"\xfe\xed\xfe\xed\0\0\0\2", "a Java keystore", "PEM; `keytool"),
            (pem(LEAF), "a certificate", ""),
            (pem(KEY), "a private key", ""),
            (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", "a private key", ""),
            (key_as(Encoding.PEM, PrivateFormat.OpenSSH), "a key in OpenSSH's own format", ""),
            (
                public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
                "a public key",
                "",
            ),
            (b"-----BEGIN CERTIFICATE REQUEST-----", "a certificate signing request", ""),
            (b"-----BEGIN X509 CRL-----", "a revocation list", ""),
            (b"-----BEGIN TRUSTED CERTIFICATE-----", "a certificate in OpenSSL's own format", ""),
            (b"-----BEGIN SOMETHING-----", "", ""),
            (b"\xff\0", "", ""),
            (der[:-1], "", ""),
        ):
            found, said = kind_of_file(data)
            self.assertEqual((kind, way), (found, said[: len(way)]), data[:40])
            self.assertEqual(bool(way), bool(said), kind)
