"""Tests of :mod:`x509proxy.certificates.client_certificate`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings
from base64 import urlsafe_b64decode

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from x509proxy.certificates import client_certificate
from x509proxy.certificates.client_certificate import (
    ClientCertificate,
    Flag,
    Verdict,
    VerifyError,
    client_usage_problem,
    date,
    ignore_name_lengths,
    thumbprint,
    unreadable,
)


def read(der: bytes, *objections: VerifyError) -> ClientCertificate:
    return ClientCertificate.from_x509(
        x509.load_der_x509_certificate(der), objections or (samples.SELF_SIGNED,)
    )


class Fields(SynchronousTestCase):
    def test_fields(self) -> None:
        """Each field is the certificate's, with times in seconds and names as in RFC 4514."""
        sample = samples.certificate("CN=client,O=Example", "CN=authority", serial=77)
        found = ClientCertificate.from_x509(sample, ())
        self.assertEqual("CN=client,O=Example", found.subject)
        self.assertEqual("CN=authority", found.issuer)
        self.assertEqual(77, found.serial)
        self.assertEqual("EC P-256", found.key)
        self.assertEqual(1767225600.0, found.not_before)
        self.assertEqual(1798761600.0, found.not_after)
        self.assertEqual((), found.chain)
        self.assertEqual(sample.public_bytes(Encoding.DER), found.der)

    def test_large(self) -> None:
        """A certificate that no server accepts is not parsed: it would cost many handshakes."""
        name = ",".join(f"OU={'x' * 60}" for _ in range(250))
        sample = samples.certificate(f"CN=client,{name}", "CN=authority").public_bytes(Encoding.DER)
        self.assertGreater(len(sample), 16384)
        self.assertEqual({Flag.UNREADABLE}, ClientCertificate.from_der(sample, ()).flags)

    def test_repr_holds_no_certificate(self) -> None:
        """The text in a log or a traceback has no certificate and no chain (invariant L4)."""
        text = repr(samples.client(chain=(b"chain-bytes",)))
        self.assertNotIn("der=", text)
        self.assertNotIn("chain", text)
        self.assertIn("thumbprint", text)

    def test_frozen(self) -> None:
        """Nothing after the handshake can turn one client into another."""
        found = samples.client()
        with self.assertRaises(AttributeError):
            found.thumbprint = ""  # type: ignore[misc]


class Thumbprint(SynchronousTestCase):
    def test_literal(self) -> None:
        """``x5t#S256`` of no bytes is base64url, unpadded, of the SHA-256 of nothing."""
        self.assertEqual("47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU", thumbprint(b""))

    @given(st.binary())
    def test_decodes_to_the_digest(self, der: bytes) -> None:
        """The thumbprint of any bytes is 43 characters that decode to their SHA-256."""
        found = thumbprint(der)
        self.assertEqual(43, len(found))
        self.assertEqual(hashlib.sha256(der).digest(), urlsafe_b64decode(found + "="))

    def test_of_the_certificate(self) -> None:
        """The value's thumbprint is that of its DER, as ``cryptography`` computes it."""
        found = samples.client()
        digest = hashlib.sha256(samples.certificate().public_bytes(Encoding.DER)).digest()
        self.assertEqual(digest, urlsafe_b64decode(found.thumbprint + "="))


class Verdicts(SynchronousTestCase):
    def expect(
        self, verdict: Verdict, certificate: x509.Certificate, *objections: tuple[int, int]
    ) -> None:
        found = ClientCertificate.from_x509(
            certificate, [VerifyError(*objection) for objection in objections]
        )
        self.assertEqual(verdict, found.verdict, objections)

    def test_self_signed(self) -> None:
        """Issuer and subject the same and nothing else objected to: self-signed."""
        self.expect(Verdict.SELF_SIGNED, samples.certificate(), (0, 18))

    def test_self_signed_with_flags(self) -> None:
        """Time, usage and weakness are flags and leave a self-signed certificate self-signed."""
        self.expect(Verdict.SELF_SIGNED, samples.certificate(), (0, 18), (0, 10), (0, 26), (0, 66))

    def test_self_signed_without_a_list(self) -> None:
        """A missing revocation list (3) is expected where no authority issued it."""
        self.expect(Verdict.SELF_SIGNED, samples.certificate(), (0, 18), (0, 3))

    def test_issued_without_a_list(self) -> None:
        """A missing (3), early (11) or expired (12) list leaves nothing to trust, at any depth."""
        for code in (3, 11, 12):
            for depth in (0, 1):
                self.expect(Verdict.UNTRUSTED, samples.issued(), (depth, code))

    def test_revoked(self) -> None:
        """A revoked certificate, or one with a revoked issuer, is untrusted."""
        self.expect(Verdict.UNTRUSTED, samples.issued(), (0, 23))
        self.expect(Verdict.UNTRUSTED, samples.issued(), (1, 23))
        self.expect(Verdict.UNTRUSTED, samples.certificate(), (0, 18), (0, 23))

    def test_self_signed_and_something_else(self) -> None:
        """A self-signed certificate with another objection of OpenSSL's (34) is untrusted."""
        self.expect(Verdict.UNTRUSTED, samples.certificate(), (0, 18), (0, 34))

    def test_other_issuer_is_never_self_signed(self) -> None:
        """OpenSSL's objection alone is not enough: another issuer's name is not self-signed."""
        self.expect(Verdict.UNTRUSTED, samples.issued(), (0, 18))

    def test_self_issued_without_that_objection(self) -> None:
        """The names are not enough either: with an unknown issuer (20) it is untrusted."""
        self.expect(Verdict.UNTRUSTED, samples.certificate(), (0, 20), (0, 21))

    def test_trusted(self) -> None:
        """No objection at all: issued by an authority that the administrator named."""
        self.expect(Verdict.TRUSTED, samples.issued())

    def test_trusted_out_of_its_time(self) -> None:
        """The client's own times are flags, not a matter of trust."""
        self.expect(Verdict.TRUSTED, samples.issued(), (0, 10))
        self.expect(Verdict.TRUSTED, samples.issued(), (0, 9))

    def test_unknown_issuer(self) -> None:
        """An issuer that is not known (20, 21) is not trusted."""
        self.expect(Verdict.UNTRUSTED, samples.issued(), (0, 20), (0, 21))

    def test_expired_issuer(self) -> None:
        """A chain does not survive that one of its issuers has expired."""
        self.expect(Verdict.UNTRUSTED, samples.issued(), (1, 10))

    def test_forged_chain(self) -> None:
        """A bad signature in the chain (7), or an unknown root (19), is not trusted."""
        self.expect(Verdict.UNTRUSTED, samples.issued(), (0, 7))
        self.expect(Verdict.UNTRUSTED, samples.issued(), (1, 19))

    def test_wrong_usage_in_a_chain(self) -> None:
        """A certificate that its authority did not issue for clients is not trusted."""
        self.expect(Verdict.UNTRUSTED, samples.issued(), (0, 26))


class Flags(SynchronousTestCase):
    def test_none(self) -> None:
        """A certificate in order has no flags."""
        self.assertEqual(frozenset(), samples.client().flags)

    def test_weak_by_openssl(self) -> None:
        """OpenSSL's objections to keys and digests (66, 67, 68) hold at any depth."""
        for objection in (VerifyError(0, 66), VerifyError(1, 67), VerifyError(0, 68)):
            self.assertEqual(
                frozenset({Flag.WEAK}), samples.client("CN=client", objection).flags, objection
            )

    def test_wrong_usage(self) -> None:
        """A certificate that is not for clients has a flag."""
        self.assertEqual(
            frozenset({Flag.WRONG_USAGE}), samples.client("CN=client", VerifyError(0, 26)).flags
        )

    def test_revoked(self) -> None:
        """A revoked certificate has a flag, and so has one whose issuer is revoked."""
        for depth in (0, 1, 4):
            self.assertEqual(
                frozenset({Flag.REVOKED}), samples.client("CN=client", VerifyError(depth, 23)).flags
            )

    def test_times(self) -> None:
        """The times are judged at each request, since a connection may outlive its certificate."""
        found = samples.client()
        for now, flags in (
            (1767225599.9, {Flag.NOT_YET_VALID}),
            (1767225600.0, set()),
            (1798761600.0, set()),
            (1798761600.1, {Flag.EXPIRED}),
        ):
            self.assertEqual(flags, found.flags_at(now), now)

    def test_times_join_other_flags(self) -> None:
        """An expired certificate keeps its other flags."""
        found = samples.client("CN=client", VerifyError(0, 66))
        self.assertEqual({Flag.WEAK, Flag.EXPIRED}, found.flags_at(samples.NOT_AFTER + 1))

    def test_openssl_times_are_not_stored(self) -> None:
        """OpenSSL's view of the time in the handshake is no flag: it may be over."""
        self.assertEqual(
            frozenset(),
            samples.client("CN=client", samples.SELF_SIGNED, samples.NOT_YET_VALID).flags,
        )


class Keys(SynchronousTestCase):
    def expect(self, name: str, public_key: bytes, *flags: Flag) -> None:
        found = read(samples.with_spki(public_key))
        self.assertEqual((name, frozenset(flags)), (found.key, found.flags))

    def test_elliptic_curves(self) -> None:
        """The three curves of NIST are passed on, by the names that JOSE gives them."""
        for curve in ("P-256", "P-384", "P-521"):
            self.expect(f"EC {curve}", samples.spki(curve))

    def test_other_curve(self) -> None:
        """A curve outside that list is not supported, whatever its size.

        Its strength is not assessed.
        """
        self.expect("EC secp256k1", samples.spki("secp256k1"), Flag.UNSUPPORTED_KEY)

    def test_unknown_curve(self) -> None:
        """A curve that the library does not know is named as unknown."""
        algorithm = samples.tlv(0x30, samples.oid("1.2.840.10045.2.1"), samples.oid("1.2.3.4.5"))
        spki = samples.tlv(0x30, algorithm, samples.tlv(0x03, b"\0\x04", bytes(64)))
        self.expect("EC with an unknown curve", spki, Flag.UNSUPPORTED_KEY)

    def test_explicit_curve(self) -> None:
        """A curve as numbers is rejected, even with those of P-256 (OpenSSL CVE-2022-0778)."""
        self.expect(
            "EC P-256 with explicit parameters", samples.explicit_spki(), Flag.UNSUPPORTED_KEY
        )

    def test_explicit_curve_with_a_decoy(self) -> None:
        """A copy of the key with a named curve does not hide a curve as numbers."""
        decoy = samples.with_extension(
            samples.with_spki(samples.explicit_spki()), "1.3.6.1.4.1.99999.1", samples.spki("P-256")
        )
        self.assertEqual(frozenset({Flag.UNSUPPORTED_KEY}), read(decoy).flags)

    def test_compressed_point(self) -> None:
        """A compressed point on a named curve is as good as any."""
        self.expect("EC P-256", samples.compressed_spki())

    def test_rsa(self) -> None:
        """RSA from 2048 to 8192 bits is passed on."""
        self.expect("RSA 2048", samples.spki("RSA"))
        for bits in (2048, 3072, 4096, 8192):
            self.expect(f"RSA {bits}", samples.rsa_spki(bits))

    def test_rsa_size(self) -> None:
        """Shorter RSA keys can be broken and longer ones cost too much: both are weak."""
        for bits in (1024, 2047, 8193, 16384):
            self.expect(f"RSA {bits}", samples.rsa_spki(bits), Flag.WEAK)

    def test_rsa_exponent(self) -> None:
        """An RSA exponent above 2^32 is a way to make each handshake dear: weak."""
        self.expect("RSA 2048", samples.rsa_spki(2048, 3))
        self.expect("RSA 2048", samples.rsa_spki(2048, (1 << 32) - 1))
        self.expect("RSA 2048", samples.rsa_spki(2048, (1 << 32) + 1), Flag.WEAK)
        self.expect("RSA 2048", samples.rsa_spki(2048, (1 << 2040) + 1), Flag.WEAK)

    def test_edwards_curves(self) -> None:
        """Ed25519 and Ed448 are passed on."""
        self.expect("Ed25519", samples.spki("Ed25519"))
        self.expect("Ed448", samples.spki("Ed448"))

    def test_other_kinds(self) -> None:
        """Any other known kind of key is not supported: DSA, and keys that cannot sign at all."""
        self.expect("DSA", samples.spki("DSA"), Flag.UNSUPPORTED_KEY)
        self.expect("X25519", samples.spki("X25519"), Flag.UNSUPPORTED_KEY)

    def test_ml_dsa(self) -> None:
        """The three parameter sets of ML-DSA are passed on, by the names of FIPS 204."""
        for kind in samples.ML_DSA_KINDS:
            found = ClientCertificate.from_der(samples.pair(kind).der, [samples.SELF_SIGNED])
            self.assertEqual(
                (kind, frozenset(), Verdict.SELF_SIGNED), (found.key, found.flags, found.verdict)
            )

    def test_slh_dsa(self) -> None:
        """SLH-DSA, pure and pre-hashed (RFC 9909), is named, and not supported."""
        for number in (20, 31, 35, 46):
            spki = samples.unknown_spki(f"2.16.840.1.101.3.4.3.{number}")
            self.expect("SLH-DSA", spki, Flag.UNSUPPORTED_KEY)

    def test_unknown_kind(self) -> None:
        """A key of an unknown algorithm is called unknown, with its identifier.

        The certificate is read all the same.
        """
        spki = samples.unknown_spki("1.3.6.1.4.1.99999.2")
        self.expect("unknown type 1.3.6.1.4.1.99999.2", spki, Flag.UNSUPPORTED_KEY)
        self.assertEqual("CN=client", read(samples.with_spki(spki)).subject)


class Unreadable(SynchronousTestCase):
    def expect_unreadable(self, der: bytes) -> None:
        self.assertEqual(unreadable(der), read(der))

    def test_value(self) -> None:
        """Of a certificate that cannot be read there is its thumbprint, one flag, and no trust."""
        found = unreadable(b"odd")
        self.assertEqual((b"odd", thumbprint(b"odd")), (found.der, found.thumbprint))
        self.assertEqual(
            (Verdict.UNTRUSTED, frozenset({Flag.UNREADABLE})), (found.verdict, found.flags)
        )

    def test_no_time_applies(self) -> None:
        """No time is known of it, so it is neither expired nor early."""
        self.assertEqual(frozenset({Flag.UNREADABLE}), unreadable().flags_at(samples.NOON))

    def test_duplicate_extension(self) -> None:
        """The same extension twice, which OpenSSL accepts, makes a certificate unreadable."""
        self.expect_unreadable(samples.duplicate_extension())

    def test_malformed_extension(self) -> None:
        """An unreadable extension makes a certificate unreadable, though it is not used."""
        self.expect_unreadable(samples.malformed_extension())

    def test_subject_in_bad_utf8(self) -> None:
        """A name in a wrong encoding makes a certificate unreadable."""
        name = samples.tlv(0x30, samples.oid("2.5.4.3"), samples.tlv(0x0C, b"\xff"))
        subject = samples.tlv(0x30, samples.tlv(0x31, name))
        self.expect_unreadable(samples.with_part(samples.client().der, samples.SUBJECT, subject))

    def test_endless_names(self) -> None:
        """Names that are not text make it unreadable: they would take twelve times the memory."""
        within, beyond = (samples.tlv(0x0C, b"\0" * count) for count in (1360, 1370))
        for text, readable in ((within, True), (beyond, False)):
            name = samples.tlv(
                0x30, samples.tlv(0x31, samples.tlv(0x30, samples.oid("2.5.4.3"), text))
            )
            der = samples.with_part(samples.client().der, samples.SUBJECT, name)
            self.assertEqual(readable, Flag.UNREADABLE not in read(der).flags)

    def test_rsa_exponents_that_do_not_encrypt(self) -> None:
        """An RSA exponent of one, or an even one, is never passed on: any client can sign with it.

        The certificate is unreadable with ``cryptography`` 50, and weak with 49.
        """
        for exponent in (1, 2, 65536):
            found = read(samples.with_spki(samples.rsa_spki(2048, exponent)))
            self.assertTrue(found.flags & {Flag.UNREADABLE, Flag.WEAK}, exponent)

    def test_version(self) -> None:
        """A version 7, which OpenSSL accepts, fails before there is a value."""
        der = samples.with_part(samples.client().der, samples.VERSION, bytes.fromhex("a003020106"))
        self.assertRaises(x509.InvalidVersion, x509.load_der_x509_certificate, der)

    @given(st.data())
    def test_never_raises(self, data: st.DataObject) -> None:
        """With any byte changed, a certificate that ``cryptography`` loads becomes a value."""
        der = bytearray(samples.client().der)
        der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
        try:
            sample = x509.load_der_x509_certificate(bytes(der))
        except (ValueError, x509.InvalidVersion):
            return
        self.assertEqual(bytes(der), ClientCertificate.from_x509(sample, ()).der)


class Odd(SynchronousTestCase):
    def test_no_warning(self) -> None:
        """A client's odd names are not written into the log of a process that has set the filter.

        ``cryptography`` warns of each length of a name's part. A library does not set a filter.
        """
        name = samples.tlv(0x30, samples.oid("2.5.4.6"), samples.tlv(0x0C, b"a country"))
        der = samples.with_part(
            samples.client().der, samples.SUBJECT, samples.tlv(0x30, samples.tlv(0x31, name))
        )
        module = "import x509proxy.certificates.client_certificate as module"
        parse = f"print(module.ClientCertificate.from_der({der!r}, ()).subject)"

        def run(line: str) -> tuple[str, bool]:
            done = subprocess.run(
                [sys.executable, "-W", "always", "-c", f"{module}; {line}; {parse}"],
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout, "UserWarning" in done.stderr

        self.assertEqual(("C=a country\n", False), run("module.ignore_name_lengths()"))
        self.assertEqual(("C=a country\n", True), run("pass"))

    def test_odd_and_harmless(self) -> None:
        """A long serial number, an empty subject and line ends in a name are accepted."""
        der = samples.client().der
        name = samples.tlv(0x30, samples.oid("2.5.4.3"), samples.tlv(0x0C, b"a\0\r\nb"))
        for place, part in (
            (samples.SERIAL, samples.tlv(0x02, b"\x01" * 40)),
            (samples.SUBJECT, samples.tlv(0x30)),
            (samples.SUBJECT, samples.tlv(0x30, samples.tlv(0x31, name))),
        ):
            self.assertEqual(frozenset(), read(samples.with_part(der, place, part)).flags)


class Date(SynchronousTestCase):
    def test_date(self) -> None:
        """A time for people is RFC 3339's, in UTC, to the second."""
        self.assertEqual("2026-07-13T12:00:00Z", date(samples.NOON))
        self.assertEqual("9999-12-31T23:59:59Z", date(253402300799.0))


class NameLengths(SynchronousTestCase):
    def test_filter(self) -> None:
        """The filter covers the warnings of this module's names, and no other warning."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ignore_name_lengths()
            for text, module in (
                ("Attribute's length must be >= 1", client_certificate.__name__),
                ("Attribute's length must be >= 1", "another"),
                ("another", client_certificate.__name__),
            ):
                warnings.warn_explicit(text, UserWarning, "file.py", 1, module)
        self.assertEqual(2, len(caught))


class Usage(SynchronousTestCase):
    def problem(self, usage: x509.ObjectIdentifier | None = None) -> str:
        sample = samples.pair(usage=usage).certificate if usage else samples.certificate()
        return client_usage_problem(sample.public_bytes(Encoding.DER))

    def test_extended(self) -> None:
        """The sentence names the usages, and the expected one."""
        found = self.problem(ExtendedKeyUsageOID.SERVER_AUTH)
        self.assertEqual("its extended key usage has serverAuth, expected clientAuth", found)
        other = self.problem(x509.ObjectIdentifier("1.2.3"))
        self.assertEqual("its extended key usage has 1.2.3, expected clientAuth", other)

    def test_key_usage(self) -> None:
        """A certificate for clients is rejected for its key usage, or for one of its issuers."""
        expected = "its key usage, or the usage of one of its issuers, does not include TLS clients"
        self.assertEqual(expected, self.problem())
        self.assertEqual(expected, self.problem(ExtendedKeyUsageOID.CLIENT_AUTH))
