"""Tests of :mod:`x509proxy.certificates.chain_checks`: unusable certificates are named."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mldsa
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.names import NAME
from tests.support.pem import ISSUER, KEY, LEAF, OTHER_KEY, certificate_for
from x509proxy.certificates.chain_checks import authority_problems, server_problems, subject_of
from x509proxy.certificates.pem_files import Identity

INTERMEDIATE = certificate_for(KEY, "intermediate", issuer=ISSUER, ca=True)
STRANGER = certificate_for(KEY, "issuer", ca=True)


def plain(version_3: bytes | None = None) -> x509.Certificate:
    """Self-signed, without an extension, or with one that cannot be read."""
    builder = x509.CertificateBuilder(ISSUER.subject, ISSUER.subject, OTHER_KEY.public_key(), 1)
    builder = builder.not_valid_before(ISSUER.not_valid_before_utc).not_valid_after(
        ISSUER.not_valid_after_utc
    )
    for kind in (x509.SubjectAlternativeName.oid, x509.BasicConstraints.oid) if version_3 else ():
        builder = builder.add_extension(
            x509.UnrecognizedExtension(kind, version_3 or b""), critical=False
        )
    return builder.sign(OTHER_KEY, hashes.SHA256())


# GeneralNames with an ediPartyName, which ``cryptography`` has no type for.
EDI_PARTY = bytes.fromhex("300a820161a505a1030c0161")


class Server(SynchronousTestCase):
    def problems(self, certificate: x509.Certificate, *chain: x509.Certificate) -> list[str]:
        return [*server_problems(Identity(certificate, KEY, chain))]

    def test_good(self) -> None:
        """A name, and a chain in which each has issued the one before it, or none."""
        self.assertEqual([], self.problems(LEAF))
        self.assertEqual([], self.problems(LEAF, ISSUER))

    def test_no_name(self) -> None:
        """Clients look for the host's name in the subjectAltName alone."""
        for certificate in (plain(), plain(b"odd"), plain(EDI_PARTY)):
            (sentence,) = self.problems(certificate)
            self.assertTrue(sentence.startswith("has no subjectAltName"), sentence)

    def test_ml_dsa(self) -> None:
        """Few clients can verify an ML-DSA key's handshake."""
        key = mldsa.MLDSA44PrivateKey.generate()
        (sentence,) = server_problems(Identity(LEAF, key))
        self.assertTrue(sentence.startswith("has an ML-DSA key"), sentence)

    def test_foreign_chain(self) -> None:
        """A chain that is not the certificate's, by name, by signature or by order."""
        for chain, number in (
            ((INTERMEDIATE,), 2),
            ((STRANGER,), 2),
            ((ISSUER, INTERMEDIATE), 3),
            ((LEAF,), 2),
        ):
            (sentence,) = self.problems(LEAF, *chain)
            self.assertTrue(
                sentence.startswith(
                    f"the certificate number {number} in the file did not issue the one before it"
                ),
                sentence,
            )


class Authorities(SynchronousTestCase):
    def problems(self, *authorities: x509.Certificate) -> list[str]:
        return [*authority_problems(authorities)]

    def test_good(self) -> None:
        """A root, alone or with those below it."""
        self.assertEqual([], self.problems(ISSUER))
        self.assertEqual([], self.problems(INTERMEDIATE, ISSUER))

    def test_leaf(self) -> None:
        """A certificate that is no authority's makes no client trusted."""
        for certificate, name in (
            (LEAF, "localhost"),
            (plain(), "issuer"),
            (plain(b"odd"), "issuer"),
        ):
            (sentence,) = self.problems(certificate)
            self.assertTrue(
                sentence.startswith(
                    f"'CN={name}' is not a CA certificate (basicConstraints CA:FALSE)"
                ),
                sentence,
            )

    def test_no_root(self) -> None:
        """OpenSSL follows a chain up to its root."""
        (sentence,) = self.problems(INTERMEDIATE)
        self.assertEqual(
            "'CN=intermediate' is not a root, and its issuer 'CN=issuer' is missing, "
            "so no client is trusted because of it",
            sentence,
        )

    def test_crossed(self) -> None:
        """A root that another one has signed too needs that other one no more."""
        crossed = certificate_for(
            OTHER_KEY, "issuer", issuer=certificate_for(KEY, "older", ca=True), ca=True
        )
        self.assertEqual([], self.problems(ISSUER, crossed))

    def test_unreadable(self) -> None:
        """One whose names cannot be read is reported like any other, and ends nothing."""
        name = samples.tlv(0x30, samples.oid("2.5.4.3"), samples.tlv(0x0C, b"\xff"))
        der = samples.with_part(
            samples.client().der, samples.SUBJECT, samples.tlv(0x30, samples.tlv(0x31, name))
        )
        odd = x509.load_der_x509_certificate(der)
        (sentence,) = self.problems(odd, ISSUER)
        self.assertTrue(
            sentence.startswith("'a name that cannot be read' is not a CA certificate"),
            sentence,
        )
        self.assertEqual("'a name that cannot be read'", subject_of(odd))

    def test_silent(self) -> None:
        """Something like a secret in a subject is not shown."""
        (sentence,) = self.problems(certificate_for(KEY, NAME))
        self.assertNotIn(NAME, sentence)
