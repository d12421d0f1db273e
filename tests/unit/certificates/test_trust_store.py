"""Tests of :mod:`x509proxy.certificates.trust_store`."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support import certificates as samples
from tests.support.certificates import pair
from tests.support.crls import crl_pem, make_crl, scope
from tests.support.files import FileTestCase
from tests.support.names import NAME
from x509proxy.certificates.trust_store import EMPTY, TrustStore, crl_warnings, read_trusted
from x509proxy.settings import ProxySettings, SettingsError, Trust

DAY = 24 * 3600.0
NOW = 1783944000.0  # 2026-07-13T12:00:00Z


CA, OTHER = pair(subject="CN=authority", ca=True), pair("RSA 2048", "CN=other", ca=True)


class TrustedTests(FileTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.ca = self.write(
            b"".join(one.certificate.public_bytes(Encoding.PEM) for one in (CA, OTHER)),
            name="ca.pem",
        )
        self.only = self.write(CA.certificate.public_bytes(Encoding.PEM), name="only.pem")

    def read(self, *crls: str, **more: object) -> TrustStore:
        return read_trusted(ProxySettings(**{"trust": Trust.CA, "ca": self.ca, "crl": crls} | more))  # type: ignore[arg-type]

    def refusal(self, data: bytes, **more: object) -> str:
        path = self.write(data, name="list.pem")
        error: SettingsError = self.assertRaises(SettingsError, self.read, path, **more)
        self.assert_sentence(error)
        return str(error).replace(path, "FILE")


class Reading(TrustedTests):
    def test_nothing(self) -> None:
        """Without authorities no client is trusted, and nothing is read."""
        self.assertEqual(EMPTY, read_trusted(ProxySettings()))

    def test_authorities(self) -> None:
        """The bundle in the file's order, with the depth that is set."""
        self.assertEqual(
            TrustStore((CA.certificate, OTHER.certificate), (), 2), self.read(ca_depth=2)
        )

    def test_lists(self) -> None:
        """Lists come from any number of files, with one or more in each, in PEM or DER."""
        first, second, third = make_crl(CA), make_crl(OTHER), make_crl(CA, pair())
        one = self.write(
            b"text before\n" + crl_pem(first, second) + b"text behind\n", name="one.pem"
        )
        two = self.write(third.public_bytes(Encoding.DER), name="two.der")
        self.assertEqual((first, second, third), self.read(one, two).crls)

    def test_list_without_authorities(self) -> None:
        """A list without the authority that signed it is an error."""
        sentence = "ca: found none, expected a PEM file with authorities, since there is a crl"
        self.assertEqual(sentence, self.refusal(b"", ca=None, trust=Trust.ANY))
        for trust in (Trust.CA, Trust.EITHER):
            sentence = (
                "ca: found none, expected a PEM file with authorities, "
                f"since trust is {trust.value}"
            )
            self.assertEqual(sentence, self.refusal(b"", ca=None, trust=trust))

    def test_repr(self) -> None:
        """A traceback is not the place for a list of thousands."""
        self.assertNotIn("Revocation", repr(TrustStore((), (make_crl(CA),))))


class Refusals(TrustedTests):
    def test_unreadable(self) -> None:
        """A file without a list, or with a broken one, is an error that names it."""
        expected = "expected one or more in PEM, or one in DER"
        none, cut = (
            f"no revocation list that can be read, {expected}",
            f"block 1 without its END line, {expected}",
        )
        second = f"no revocation list that can be read in block 2, {expected}"
        broken = crl_pem(make_crl(OTHER)).replace(b"\nMI", b"\nMA", 1)
        der = make_crl(CA).public_bytes(Encoding.DER)
        good = crl_pem(make_crl(CA))
        for data, found in (
            (b"", none), (b"nothing", none), (good[:-9], cut), (good + broken, second),
            (der[:-1], none), (der + b"x", none),
            (good[:-30] + good, cut),
        ):  # fmt: skip
            self.assertEqual(f"crl: FILE: found {found}", self.refusal(data))

    def test_missing(self) -> None:
        """A file that is not there is named."""
        error = self.assertRaises(SettingsError, self.read, "none.pem")
        self.assertIn("crl: none.pem: found a file that cannot be read: No such file", str(error))

    def test_size(self) -> None:
        """A file of 16 MiB is read, a larger one is not."""
        good = crl_pem(make_crl(CA))
        self.assertEqual(1, len(self.read(self.write(good.ljust(16 << 20))).crls))
        self.assertIn(
            "crl: FILE: found more than 16777216 bytes", self.refusal(good.ljust((16 << 20) + 1))
        )

    def test_issuer(self) -> None:
        """A list of an authority that is not in the bundle is an error, at any place.

        Its name is shown, unless it is ours.
        """
        stranger = make_crl(pair(subject="CN=stranger", ca=True))
        sentence = "crl: FILE: found a list of 'CN=stranger', expected one of an authority in ca"
        self.assertEqual(sentence, self.refusal(crl_pem(make_crl(CA), stranger)))
        self.assertNotIn(NAME, self.refusal(crl_pem(make_crl(pair(subject=f"CN={NAME}", ca=True)))))
        self.refusal(crl_pem(make_crl(pair(subject="CN=two\nlines", ca=True))))

    def test_signature(self) -> None:
        """A list that another key has signed, of the same kind or not, is an error."""
        sentence = (
            "crl: FILE: found a list with an invalid signature, "
            "expected that of its authority in ca"
        )
        for signer in (pair(subject="CN=x", ca=True), OTHER, pair("Ed25519", "CN=x", ca=True)):
            self.assertEqual(sentence, self.refusal(crl_pem(make_crl(CA, signer=signer))))

    def test_authority_that_cannot_sign(self) -> None:
        """A certificate in the bundle whose key cannot sign at all has signed nothing."""
        builder = x509.CertificateBuilder(
            CA.certificate.subject, CA.certificate.subject, serial_number=7
        )
        builder = builder.public_key(x25519.X25519PrivateKey.generate().public_key())
        times = CA.certificate.not_valid_before_utc, CA.certificate.not_valid_after_utc
        odd = (
            builder.not_valid_before(times[0])
            .not_valid_after(times[1])
            .sign(CA.private_key, hashes.SHA256())
        )
        bundle = self.write(odd.public_bytes(Encoding.PEM), name="odd.pem")
        self.assertIn("an invalid signature", self.refusal(crl_pem(make_crl(CA)), ca=bundle))

    def test_authorities_of_one_name(self) -> None:
        """Of several authorities with one name, as while a key is changed, any may have signed."""
        twin = pair("EC P-384", "CN=authority", ca=True)
        pems = [one.certificate.public_bytes(Encoding.PEM) for one in (CA, twin)]
        crl = self.write(crl_pem(make_crl(CA), make_crl(twin)))
        for order in (1, -1):
            self.assertEqual(
                2,
                len(self.read(crl, ca=self.write(b"".join(pems[::order]), name="twins.pem")).crls),
            )

    def test_delta(self) -> None:
        """A delta list would be passed over in silence."""
        delta = make_crl(CA, extension=x509.DeltaCRLIndicator(1))
        self.assertEqual(
            "crl: FILE: found a delta list, expected a complete one", self.refusal(crl_pem(delta))
        )

    def test_partial(self) -> None:
        """So would a list that OpenSSL does not use (RFC 5280 section 5.2.5)."""
        for kind, extension in (
            ("an indirect list", scope(indirect_crl=True)),
            (
                "a list for some reasons only",
                scope(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})),
            ),
            ("a list for attribute certificates", scope(only_contains_attribute_certs=True)),
        ):
            found = self.refusal(crl_pem(make_crl(CA, extension=extension)))
            self.assertEqual(f"crl: FILE: found {kind}, expected a complete one", found)

    def usage(self, sign_lists: bool) -> bytes:
        """Make the authority's certificate with a key usage."""
        old = CA.certificate
        times = old.not_valid_before_utc, old.not_valid_after_utc
        builder = x509.CertificateBuilder(
            old.issuer, old.subject, old.public_key(), old.serial_number, *times
        )
        usage = x509.KeyUsage(False, False, False, False, False, True, sign_lists, False, False)
        return (
            builder.add_extension(usage, True)
            .sign(CA.private_key, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )

    def test_key_usage(self) -> None:
        """An authority whose key usage forbids lists is found at the start."""
        crl = crl_pem(make_crl(CA))
        sentence = (
            "crl: FILE: found a list of an authority whose key usage excludes it, "
            "expected cRLSign (RFC 5280 section 4.2.1.3)"
        )
        self.assertEqual(
            sentence, self.refusal(crl, ca=self.write(self.usage(False), name="no.pem"))
        )
        self.assertEqual(
            1, len(self.read(self.write(crl), ca=self.write(self.usage(True), name="yes.pem")).crls)
        )

    def test_unreadable_extension(self) -> None:
        """A list with an extension that cannot be read is an error."""
        odd = make_crl(
            CA, extension=x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.27"), b"odd")
        )
        self.assertIn("with an extension that cannot be read", self.refusal(crl_pem(odd)))


class Depth(TrustedTests):
    def test_bounds(self) -> None:
        """A chain may have 1 to 10 certificates between a client's and an authority's."""
        for depth in (1, 10):
            self.assertEqual(depth, self.read(ca_depth=depth).depth)
        for depth in (11, 100):
            error = self.assertRaises(SettingsError, ProxySettings, ca_depth=depth)
            self.assertEqual(f"ca-depth: found {depth}, expected 1 to 10", str(error))
        self.assertRaises(SettingsError, ProxySettings, ca_depth=0)
        self.assertEqual((4, 4), (EMPTY.depth, ProxySettings().ca_depth))


class Warnings(TrustedTests):
    def expect(
        self, crls: Sequence[x509.CertificateRevocationList], *texts: str, now: float = NOW
    ) -> None:
        trusted = TrustStore((CA.certificate, OTHER.certificate), tuple(crls))
        end = "; no certificate of that authority is trusted"
        self.assertEqual(
            [f"crl: the list of {text}{end}" for text in texts], list(crl_warnings(trusted, now))
        )

    def test_none(self) -> None:
        """Without lists there is nothing to warn of, nor with valid ones of every authority."""
        self.expect([])
        self.expect([make_crl(CA, now=NOW), make_crl(OTHER, now=NOW)])

    def test_missing(self) -> None:
        """An authority without a list, once there is one of another, shuts out its clients."""
        self.expect([make_crl(OTHER, now=NOW)], "'CN=authority' is missing")

    def test_times(self) -> None:
        """So does a list that has expired, or is not yet valid; both ends are included."""
        crls = [make_crl(CA, now=NOW, days=(-2, 1)), make_crl(OTHER, now=NOW)]
        self.expect(crls, now=NOW + DAY)
        self.expect(crls, "'CN=authority' expired at 2026-07-14T12:00:00Z", now=NOW + DAY + 1)
        self.expect([*crls[1:], make_crl(CA, now=NOW, days=(0, 1))], now=NOW)
        self.expect(
            [*crls[1:], make_crl(CA, now=NOW, days=(0, 1))],
            "'CN=authority' is not valid before 2026-07-13T12:00:00Z",
            now=NOW - 1,
        )

    def test_replaced(self) -> None:
        """An old list beside its successor is no matter, in any order."""
        crls = [make_crl(CA, now=NOW, days=(-9, -2)), make_crl(CA, now=NOW)]
        for order in (1, -1):
            self.expect([*crls[::order], make_crl(OTHER, now=NOW)])

    def test_without_an_end(self) -> None:
        """A list without a next update does not expire (RFC 5280 section 5.1.2.5 forbids it)."""
        der = samples.with_part(make_crl(CA, now=NOW).public_bytes(Encoding.DER), 4, b"")
        self.expect(
            [x509.load_der_x509_crl(der), make_crl(OTHER, now=NOW, days=(0, 9999))],
            now=NOW + 9999 * DAY,
        )

    def test_limited(self) -> None:
        """A list that covers a part of the certificates is read, with a warning."""
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
        place = [x509.UniformResourceIdentifier("http://ca.example/1.crl")]
        for extension, text in (
            (
                scope(only_contains_ca_certs=True),
                "is for certificates of authorities; no client of that authority is trusted",
            ),
            (
                scope(full_name=place),
                "has a distribution point; certificates that do not name it are not trusted",
            ),
            (
                unknown,
                "has the critical extension 1.2.3.4; no certificate of that authority is trusted",
            ),
            (scope(only_contains_user_certs=True), ""),
        ):
            crl = make_crl(CA, now=NOW, extension=extension)
            trusted = self.read(self.write(crl_pem(crl)), ca=self.only)
            expected = [f"crl: the list of 'CN=authority' {text}"] if text else []
            self.assertEqual(expected, list(crl_warnings(trusted, NOW)))

    def test_secret(self) -> None:
        """An authority whose name looks like the secret one is not named."""
        odd = TrustStore((pair(subject=f"CN={NAME}", ca=True).certificate,), (make_crl(CA),))
        self.assertNotIn(NAME, "".join(crl_warnings(odd, NOW)))
