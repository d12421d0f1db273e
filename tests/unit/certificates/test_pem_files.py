"""Tests of :mod:`x509proxy.certificates.pem_files`."""

from __future__ import annotations

import os
from base64 import encodebytes
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)

from tests.support.certificates import oid, tlv, with_spki
from tests.support.files import OTHER_USER, FileTestCase
from tests.support.names import NAME
from tests.support.pem import ISSUER, KEY, LEAF, OTHER_KEY, certificate_for, key_pem, pem
from x509proxy.certificates.pem_files import Identity, read_authorities, read_crls, read_identity
from x509proxy.forwarding.secret_name import read_header_names
from x509proxy.redaction import without_secrets
from x509proxy.settings import SettingsError


class SourceTests(FileTestCase):
    def test_pasted_key(self) -> None:
        """A key that was pasted where its file belongs is not repeated, not in part either."""
        text = without_secrets(
            "private-key: -----BEGIN PRIVATE KEY-----\nMIGHAgEA+MBMG/ByqG\n"
            "-----END PRIVATE KEY-----: cannot be read"
        )
        self.assertEqual("private-key: …", text)

    def test_name_in_place_of_a_path(self) -> None:
        """A name in place of its file is not repeated by the error."""
        error = self.assertRaises(SettingsError, read_header_names, str(self.folder / NAME))
        self.assertNotIn(NAME, str(error))
        self.assert_sentence(
            error, f"header-file: {self.folder}/…: found a file that cannot be read"
        )


class ReadIdentityTests(FileTestCase):
    def refusal(self, certificate: str, key: str | None) -> SettingsError:
        error: SettingsError = self.assertRaises(SettingsError, read_identity, certificate, key)
        self.assertNotIn("-----", str(error))
        return error

    def test_two_files(self) -> None:
        """The certificate may be readable by all; the chain is in the file's order."""
        certificate = self.write(pem(LEAF, ISSUER, LEAF), 0o644)
        identity = read_identity(certificate, self.write(pem(KEY), name="key.pem"))
        self.assertEqual((identity.certificate, identity.chain), (LEAF, (ISSUER,)))
        self.assertEqual(identity.private_key.public_key(), KEY.public_key())

    def test_one_file(self) -> None:
        """The key may be in the same file, before or after the chain."""
        for data in (pem(LEAF, ISSUER, KEY), pem(KEY, LEAF, ISSUER)):
            identity = read_identity(self.write(data), None)
            self.assertEqual((identity.certificate, identity.chain), (LEAF, (ISSUER,)))

    def test_kinds(self) -> None:
        """Every kind of key that TLS signs with is read, in both of its PEM forms."""
        rsa_key = rsa.generate_private_key(65537, 2048)
        for key in (
            rsa_key,
            ed25519.Ed25519PrivateKey.generate(),
            ed448.Ed448PrivateKey.generate(),
        ):
            self.assertIsInstance(
                read_identity(self.write(pem(certificate_for(key), key)), None), Identity
            )
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            data = (
                b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
                + key_pem(KEY, form)
            )
            self.assertIsInstance(read_identity(self.write(pem(LEAF) + data), None), Identity)

    def test_expired(self) -> None:
        """An expired certificate is read: whether to serve it is not asked here."""
        expired = certificate_for(KEY, days=0)
        self.assertEqual(read_identity(self.write(pem(expired, KEY)), None).certificate, expired)

    def test_repr_is_silent(self) -> None:
        """The key does not show in a traceback."""
        self.assertNotIn("PrivateKey", repr(read_identity(self.write(pem(LEAF, KEY)), None)))

    def test_no_certificate(self) -> None:
        """A file without a certificate, or with a broken one, is named."""
        key = self.write(pem(KEY), name="key.pem")
        der = LEAF.public_bytes(Encoding.DER).replace(
            b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x06"
        )
        odd_version = (
            b"-----BEGIN CERTIFICATE-----\n" + encodebytes(der) + b"-----END CERTIFICATE-----\n"
        )
        for data, found in (
            (b"", "an empty file"),
            (b"\xff\0", "no certificate that can be read"),
            (pem(KEY), "a private key"),
            (odd_version, "no certificate that can be read"),
        ):
            path = self.write(data)
            self.assert_sentence(self.refusal(path, key), f"certificate: {path}: found {found}")

    def test_cut_off(self) -> None:
        """A block that is cut off at either end is an error: the chain would be short."""
        key = self.write(pem(KEY), name="key.pem")
        leaf, issuer = pem(LEAF), pem(ISSUER)
        end, begin = leaf.index(b"-----END"), leaf.index(b"\n")
        for data, found in (
            (leaf + issuer[:-30], "block 2 without its END line"),
            (leaf[:end] + issuer, "block 1 without its END line"),
            (leaf[:end] + pem(KEY), "block 1 without its END line"),
            (leaf + issuer[begin:], "block 2 without its BEGIN line"),
            (leaf + leaf[begin:] + issuer, "block 2 without its BEGIN line"),
            (
                leaf + issuer.replace(b"\nMI", b"\nMA", 1),
                "no certificate that can be read in block 2",
            ),
            (leaf.replace(b"BEGIN CERT", b"BEGIN X509 CERT"), "block 1 without its END line"),
        ):
            path = self.write(data)
            self.assertEqual(
                f"certificate: {path}: found {found}, expected one or more in PEM",
                str(self.refusal(path, key)),
            )
        old = leaf.replace(b"CERTIFICATE", b"X509 CERTIFICATE")
        self.assertEqual(LEAF, read_identity(self.write(old), key).certificate)

    def test_no_key(self) -> None:
        """Without a key in the certificate's file the error names the option."""
        path = self.write(pem(LEAF), 0o644)
        error = self.refusal(path, None)
        self.assert_sentence(
            error, f"certificate: {path}: found no private keys", "private-key to name the file"
        )

    def test_two_keys(self) -> None:
        """Two keys in a file are an error: either could be meant."""
        key = self.write(pem(KEY, OTHER_KEY), name="key.pem")
        self.assert_sentence(
            self.refusal(self.write(pem(LEAF)), key),
            f"private-key: {key}: found 2 private keys, expected one in PEM",
        )

    def test_open_key(self) -> None:
        """A key that others may read is refused, in its own file and in the certificate's."""
        key = self.write(pem(KEY), 0o640, "key.pem")
        self.assert_sentence(
            self.refusal(self.write(pem(LEAF)), key),
            f"private-key: {key}: found mode 0640, expected 0600",
        )
        both = self.write(pem(LEAF, KEY), 0o604)
        self.assert_sentence(self.refusal(both, None), f"certificate: {both}: found mode 0604")

    def test_alien_key(self) -> None:
        """A key that another user can change is refused."""
        key = self.write(pem(KEY), name="key.pem")
        owner = OTHER_USER if os.geteuid() == 0 else os.geteuid()
        self.make_alien(key)
        self.assert_sentence(
            self.refusal(self.write(pem(LEAF)), key),
            f"private-key: {key}: found a file of user {owner}",
            "root",
        )

    def test_own_key(self) -> None:
        """A key of the effective user is accepted, root or not."""
        key = self.write(pem(KEY), name="key.pem")
        self.make_alien(key)
        self.patch(os, "geteuid", lambda: Path(key).stat().st_uid)
        self.assertIsInstance(read_identity(self.write(pem(LEAF)), key), Identity)

    def test_encrypted_key(self) -> None:
        """The error about an encrypted key names the encryption."""
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            key = self.write(key_pem(KEY, form, BestAvailableEncryption(b"x")), name="key.pem")
            self.assert_sentence(
                self.refusal(self.write(pem(LEAF)), key),
                f"private-key: {key}: found an encrypted private key",
            )

    def test_broken_key(self) -> None:
        """Other bytes within the armour of a key are an error."""
        key = self.write(
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", name="key.pem"
        )
        self.assert_sentence(
            self.refusal(self.write(pem(LEAF)), key), "found a private key that cannot be read"
        )

    def test_unfit_key(self) -> None:
        """Keys that TLS cannot sign with, or that OpenSSL finds too short, are errors."""
        certificate = self.write(pem(LEAF))
        key = self.write(key_pem(x25519.X25519PrivateKey.generate()), name="key.pem")
        self.assert_sentence(
            self.refusal(certificate, key), "a private key that TLS cannot sign with"
        )
        key = self.write(pem(rsa.generate_private_key(65537, 1024)), name="key.pem")
        self.assert_sentence(
            self.refusal(certificate, key), "an RSA key of 1024 bits", "from 2048 bits"
        )
        for curve in (ec.SECP192R1(), ec.SECP224R1(), ec.SECP256K1(), ec.BrainpoolP256R1()):
            key = self.write(pem(ec.generate_private_key(curve)), name="key.pem")
            self.assert_sentence(
                self.refusal(certificate, key),
                f"an EC key on {curve.name}",
                "P-256, P-384 or P-521",
            )

    def test_rsa_pss(self) -> None:
        """A certificate for RSA-PSS alone is named, with a clearer reason than OpenSSL's."""
        key = rsa.generate_private_key(65537, 2048)
        numbers = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
        algorithm = tlv(0x30, oid("1.2.840.113549.1.1.10"))
        der = with_spki(tlv(0x30, algorithm, tlv(0x03, b"\0", numbers)))
        armoured = (
            b"-----BEGIN CERTIFICATE-----\n" + encodebytes(der) + b"-----END CERTIFICATE-----\n"
        )
        path, key_path = self.write(armoured), self.write(pem(key), name="key.pem")
        self.assert_sentence(
            self.refusal(path, key_path),
            f"certificate: {path}: found a certificate for an RSA-PSS key",
        )

    def test_swapped(self) -> None:
        """Files in each other's places are named so, each by itself."""
        path, key = self.write(pem(LEAF)), self.write(pem(KEY), name="key.pem")
        hint = "; are the files of the certificate and the key swapped?"
        self.assert_sentence(
            self.refusal(key, path),
            f"certificate: {key}: found a private key, expected a certificate in PEM{hint}",
        )
        self.assert_sentence(
            self.refusal(path, path),
            f"private-key: {path}: found a certificate, expected a private key in PEM{hint}",
        )

    def test_other_kinds(self) -> None:
        """A file of another kind is named, with the way to PEM."""
        key = self.write(pem(KEY), name="key.pem")
        der = LEAF.public_bytes(Encoding.DER)
        path = self.write(der)
        self.assert_sentence(
            self.refusal(path, key),
            f"certificate: {path}: found a certificate in DER, expected PEM, "
            "as `openssl x509 -inform der` makes it",
        )
        key = self.write(der, name="key.pem")
        self.assert_sentence(
            self.refusal(self.write(pem(LEAF)), key),
            f"private-key: {key}: found a certificate in DER, expected PEM",
        )

    def test_pasted_line(self) -> None:
        """The line for the server's configuration, pasted with the name, is recognised.

        The name is not repeated.
        """
        path = self.write(f"op.tls.clientX509CertHeader = {NAME}\n", name="header.txt")
        error = self.assertRaises(SettingsError, read_header_names, path)
        self.assert_sentence(
            error, f"header-file: {path}: found a line of the server's configuration"
        )
        self.assertNotIn(NAME, str(error))

    def test_other_key(self) -> None:
        """A key that is not the certificate's is refused."""
        path, key = self.write(pem(LEAF)), self.write(pem(OTHER_KEY), name="key.pem")
        self.assert_sentence(
            self.refusal(path, key),
            f"certificate: {path}: found a certificate with another public key",
        )

    def test_wrong_order(self) -> None:
        """A chain that begins with the issuer has another error than a wrong key."""
        error = self.refusal(self.write(pem(ISSUER, LEAF, KEY)), None)
        self.assert_sentence(
            error, "found the private key's certificate as number 2, expected it first"
        )

    def test_unreadable_public_key(self) -> None:
        """A certificate with a public key that cannot be read fits none."""
        public = b"\x06\x08*\x86H\xce=\x03\x01\x07"
        der = LEAF.public_bytes(Encoding.DER).replace(public, public[:-1] + b"\x7f")
        strange = x509.load_der_x509_certificate(der)
        error = self.refusal(self.write(pem(strange, KEY)), None)
        self.assert_sentence(error, "found a certificate with another public key")

    def test_upstream(self) -> None:
        """Errors name the key that was set, for the side towards the back end too."""
        path = self.write(pem(LEAF), 0o644)
        error = self.assertRaises(SettingsError, read_identity, path, None, "upstream.certificate")
        self.assert_sentence(
            error, f"upstream.certificate: {path}: ", "upstream.private-key to name"
        )
        error = self.assertRaises(SettingsError, read_identity, path, path, "upstream.certificate")
        self.assert_sentence(error, f"upstream.private-key: {path}: ")

    def test_further(self) -> None:
        """One certificate among others is named by its place."""
        path = self.write(pem(LEAF))
        error = self.assertRaises(
            SettingsError, read_identity, path, path, "certificates[0].certificate"
        )
        self.assert_sentence(error, f"certificates[0].private-key: {path}: ")


class ReadAuthoritiesTests(FileTestCase):
    def test_bundle(self) -> None:
        """A bundle is read in its order, and may be public."""
        self.assertEqual(read_authorities(self.write(pem(LEAF, ISSUER), 0o644)), (LEAF, ISSUER))

    def test_empty(self) -> None:
        """A bundle has one certificate at least."""
        path = self.write(b"# none\n")
        self.assert_sentence(
            self.assertRaises(SettingsError, read_authorities, path),
            f"ca: {path}: found no certificate",
        )
        error = self.assertRaises(SettingsError, read_authorities, path, "upstream.ca")
        self.assert_sentence(error, f"upstream.ca: {path}: ")


def crl_for(key: ec.EllipticCurvePrivateKey, number: int) -> x509.CertificateRevocationList:
    """Make a revocation list with a number."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder(x509.Name([]), now, now + timedelta(days=1))
    return builder.add_extension(x509.CRLNumber(number), critical=False).sign(key, hashes.SHA256())


class ReadCrlsTests(FileTestCase):
    def test_lists(self) -> None:
        """Any number of lists in PEM, with text between them, or one in DER."""
        crls = tuple(crl_for(KEY, number) for number in range(3))
        data = b"text\n".join(crl.public_bytes(Encoding.PEM) for crl in crls)
        self.assertEqual(read_crls(self.write(data, 0o644)), crls)
        self.assertEqual(read_crls(self.write(crls[0].public_bytes(Encoding.DER))), crls[:1])

    def test_none(self) -> None:
        """A file without one, or with one that is cut off, is named."""
        whole = crl_for(KEY, 1).public_bytes(Encoding.DER)
        for data in (
            b"",
            pem(LEAF),
            whole[:-1],
            b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        ):
            path = self.write(data)
            error = self.assertRaises(SettingsError, read_crls, path)
            self.assert_sentence(
                error,
                f"crl: {path}: found no revocation list that can be read, "
                "expected one or more in PEM",
            )

    def test_size(self) -> None:
        """A list may be larger than other files, and has an end too."""
        self.assertEqual(
            len(read_crls(self.write(crl_for(KEY, 1).public_bytes(Encoding.PEM).ljust(16 << 20)))),
            1,
        )
        error = self.assertRaises(SettingsError, read_crls, self.write(b"x" * ((16 << 20) + 1)))
        self.assert_sentence(error, "crl: ", "found more than 16777216 bytes")
