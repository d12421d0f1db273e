"""Tests of :mod:`x509proxy.forwarding.certificate_policy`."""

from __future__ import annotations

import json

import attrs
import msgspec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from x509proxy.certificates.client_certificate import (
    ClientCertificate,
    Flag,
    Verdict,
    VerifyError,
    unreadable,
)
from x509proxy.forwarding.certificate_policy import admit
from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.settings import (
    CertificateRequirement,
    ClientAuth,
    KeyType,
    PolicySettings,
    ProxySettings,
    Trust,
    Usage,
    Validity,
)

NEEDS = {
    ClientAuth.NONE: CertificateRequirement.IGNORED,
    ClientAuth.OPTIONAL: CertificateRequirement.OPTIONAL,
    ClientAuth.REQUIRED: CertificateRequirement.REQUIRED,
}


def with_verdict(verdict: Verdict, *flags: Flag) -> ClientCertificate:
    return attrs.evolve(samples.client(), verdict=verdict, flags=frozenset(flags))


class PolicyTestCase(SynchronousTestCase):
    def expect_passed(
        self,
        certificate: ClientCertificate | None,
        settings: PolicySettings,
        now: float = samples.NOON,
    ) -> None:
        self.assertIs(
            certificate, admit(certificate, NEEDS[settings.client_certificate], settings, now)
        )

    def expect_refused(
        self,
        certificate: ClientCertificate | None,
        settings: PolicySettings,
        now: float = samples.NOON,
    ) -> ErrorResponse:
        refusal: ErrorResponse = self.assertRaises(
            HttpError, admit, certificate, NEEDS[settings.client_certificate], settings, now
        ).response
        self.assertEqual("invalid_client", json.loads(refusal.body)["error"])
        return refusal


class Presence(PolicyTestCase):
    def test_optional(self) -> None:
        """Where certificates are optional, a request without one is forwarded without one."""
        self.expect_passed(None, PolicySettings())

    def test_required(self) -> None:
        """Where they are required, a request without one gets 401 with a clear description."""
        self.assertEqual(
            ErrorResponse(
                Code.NO_CERTIFICATE, "no client certificate", "A client certificate is required"
            ),
            self.expect_refused(None, PolicySettings(client_certificate=ClientAuth.REQUIRED)),
        )
        self.expect_passed(samples.client(), PolicySettings(client_certificate=ClientAuth.REQUIRED))

    def test_none(self) -> None:
        """Where none is requested, a certificate that is sent nevertheless is not forwarded."""
        self.assertIs(
            None,
            admit(samples.client(), CertificateRequirement.IGNORED, PolicySettings(), samples.NOON),
        )
        self.assertIs(
            None, admit(None, CertificateRequirement.IGNORED, PolicySettings(), samples.NOON)
        )

    def test_ignored_is_not_judged(self) -> None:
        """Where certificates are ignored, an expired or unreadable one is no reason to reject."""
        for certificate, now in (
            (samples.client(), samples.NOT_AFTER + 1),
            (unreadable(b"odd"), samples.NOON),
        ):
            self.assertIs(
                None, admit(certificate, CertificateRequirement.IGNORED, PolicySettings(), now)
            )


class Origin(PolicyTestCase):
    def test_table(self) -> None:
        """Each value of ``--trust`` accepts its own verdicts.

        It rejects the others with the expected kind of certificate.
        """
        certified = {Verdict.SELF_SIGNED, Verdict.TRUSTED, Verdict.UNTRUSTED}
        for trust, verdicts, wanted in (
            (Trust.ANY, certified, ""),
            (Trust.SELF_SIGNED, {Verdict.SELF_SIGNED}, "must be self-signed"),
            (
                Trust.CA,
                {Verdict.TRUSTED},
                "must be issued by a certificate authority that this server trusts",
            ),
            (
                Trust.EITHER,
                {Verdict.SELF_SIGNED, Verdict.TRUSTED},
                "must be self-signed, or issued by",
            ),
        ):
            for verdict in verdicts:
                self.expect_passed(with_verdict(verdict), PolicySettings(trust=trust))
            for verdict in certified - verdicts:
                refusal = self.expect_refused(with_verdict(verdict), PolicySettings(trust=trust))
                self.assertEqual(
                    (401, f"verdict {verdict.value}"), (refusal.status, refusal.detail)
                )
                self.assertIn(wanted, refusal.description)

    def test_a_certificate_without_a_verdict(self) -> None:
        """A certificate without a verdict is never forwarded, not even where any is accepted."""
        for trust in Trust:
            with self.assertRaises((HttpError, LookupError)):
                admit(
                    with_verdict(Verdict.NONE),
                    CertificateRequirement.OPTIONAL,
                    PolicySettings(trust=trust),
                    samples.NOON,
                )


class Always(PolicyTestCase):
    def test_unreadable(self) -> None:
        """A certificate that cannot be parsed is rejected."""
        self.assertEqual(
            ErrorResponse(
                Code.UNREADABLE_CERTIFICATE,
                "unreadable certificate",
                "The client certificate cannot be read",
            ),
            self.expect_refused(unreadable(b"odd"), PolicySettings()),
        )

    def test_weak(self) -> None:
        """A weak one is rejected, and its key named."""
        self.assertEqual(
            ErrorResponse(
                Code.WEAK_KEY,
                "weak certificate: EC P-256",
                "The client certificate is too weak (EC P-256)",
            ),
            self.expect_refused(with_verdict(Verdict.TRUSTED, Flag.WEAK), PolicySettings()),
        )

    def test_unsupported_key(self) -> None:
        """A key of an unknown type is reported as unknown, with its identifier, and not as weak.

        The supported types are named.
        """
        slh_dsa, unknown = "2.16.840.1.101.3.4.3.20", "1.3.6.1.4.1.99999.2"
        for algorithm, name in ((slh_dsa, "SLH-DSA"), (unknown, f"unknown type {unknown}")):
            der = samples.with_spki(samples.unknown_spki(algorithm))
            found = ClientCertificate.from_der(der, [samples.SELF_SIGNED])
            refusal = self.expect_refused(found, PolicySettings(key_types=(KeyType.ML_DSA_65,)))
            self.assertEqual(Code.UNSUPPORTED_KEY, refusal.code)
            self.assertEqual(
                f"The key of the client certificate is not supported: found {name}, "
                "expected one of ml-dsa-65",
                refusal.description,
            )
            self.assertNotIn("weak", refusal.description + refusal.detail)

    def test_revoked(self) -> None:
        """A revoked one is rejected, and so is one with a revoked issuer."""
        text = "The client certificate, or that of one of its issuers, has been revoked"
        refusal = self.expect_refused(
            with_verdict(Verdict.UNTRUSTED, Flag.REVOKED), PolicySettings()
        )
        self.assertEqual(ErrorResponse(Code.REVOKED, "revoked certificate", text), refusal)

    def test_size(self) -> None:
        """One above the limit is rejected with 400 and both sizes; one at the limit is not."""
        certificate = samples.client()
        size = len(certificate.der)
        self.expect_passed(certificate, PolicySettings(max_certificate_bytes=size))
        text = f"The client certificate is too large: {size} bytes, {size - 1} allowed"
        self.assertEqual(
            ErrorResponse(
                Code.CERTIFICATE_TOO_LARGE, f"certificate of {size} bytes", text, "invalid_client"
            ),
            self.expect_refused(certificate, PolicySettings(max_certificate_bytes=size - 1)),
        )

    @given(
        st.builds(
            PolicySettings,
            client_certificate=st.sampled_from([ClientAuth.OPTIONAL, ClientAuth.REQUIRED]),
            trust=st.sampled_from(Trust),
            validity=st.sampled_from(Validity),
            usage=st.sampled_from(Usage),
            max_certificate_bytes=st.integers(1, 10000),
        ),
        st.sampled_from([Flag.WEAK, Flag.UNSUPPORTED_KEY, Flag.REVOKED, Flag.UNREADABLE]),
        st.sampled_from(Verdict),
        st.floats(0, 4e9),
    )
    def test_no_setting_lets_them_pass(
        self, settings: PolicySettings, flag: Flag, verdict: Verdict, now: float
    ) -> None:
        """No setting, time or verdict forwards a weak, unsupported, revoked or unreadable one."""
        self.expect_refused(with_verdict(verdict, flag), settings, now)


class Keys(PolicyTestCase):
    def with_key(self, key: str) -> ClientCertificate:
        return attrs.evolve(samples.client(), key=key)

    def test_types(self) -> None:
        """Each type of key is accepted if it is configured, and otherwise rejected by name."""
        keys = {
            KeyType.RSA: "RSA 2048",
            KeyType.EC: "EC P-256",
            KeyType.ED25519: "Ed25519",
            KeyType.ED448: "Ed448",
            KeyType.ML_DSA_44: "ML-DSA-44",
            KeyType.ML_DSA_65: "ML-DSA-65",
            KeyType.ML_DSA_87: "ML-DSA-87",
        }
        for key_type, key in keys.items():
            self.expect_passed(self.with_key(key), PolicySettings())
            self.expect_passed(self.with_key(key), PolicySettings(key_types=(key_type,)))
            others = tuple(other for other in KeyType if other is not key_type)
            refusal = self.expect_refused(self.with_key(key), PolicySettings(key_types=others))
            self.assertEqual((401, f"key not allowed: {key}"), (refusal.status, refusal.detail))
            self.assertIn(
                f"of type {' or '.join(other.value for other in others)}, not {key}",
                refusal.description,
            )

    def test_rsa_bits(self) -> None:
        """An RSA key with too few bits is rejected with both numbers; other types are not."""
        settings = PolicySettings(minimum_rsa_bits=3072)
        self.expect_passed(self.with_key("RSA 3072"), settings)
        self.expect_passed(self.with_key("EC P-256"), settings)
        text = "The client certificate must have an RSA key of 3072 bits or more, not RSA 3071"
        self.assertEqual(
            ErrorResponse(Code.KEY_TYPE_NOT_ALLOWED, "key not allowed: RSA 3071", text),
            self.expect_refused(self.with_key("RSA 3071"), settings),
        )

    def test_only_more(self) -> None:
        """Weak keys stay rejected (invariant L5).

        No setting permits less than 2048 bits, or an empty list of types.
        """
        for bits in (1, 1024, 2047, 8193):
            self.assertIn(
                "expected 2048 to 8192",
                str(self.assertRaises(ValueError, PolicySettings, minimum_rsa_bits=bits)),
            )
        self.assertIn(
            "key-types: found none",
            str(self.assertRaises(ValueError, PolicySettings, key_types=())),
        )
        self.expect_refused(
            with_verdict(Verdict.TRUSTED, Flag.WEAK), PolicySettings(key_types=(KeyType.EC,))
        )

    def test_settings(self) -> None:
        """The policy has the values of the file."""
        said = "minimum-rsa-bits = 3072\nkey-types = ['ec', 'rsa']\n"
        settings = msgspec.toml.decode(said, type=ProxySettings).policy
        self.assertEqual(
            (3072, (KeyType.EC, KeyType.RSA)), (settings.minimum_rsa_bits, settings.key_types)
        )
        with self.assertRaises(msgspec.ValidationError):
            msgspec.toml.decode("key-types = ['dsa']", type=ProxySettings)
        with self.assertRaises(msgspec.ValidationError):
            msgspec.toml.decode("minimum-rsa-bits = 1024", type=ProxySettings)


class WrongUsage(PolicyTestCase):
    """Public authorities stopped issuing certificates for clients in 2026.

    Their certificates are for servers alone.
    """

    def untrusted(self, found: samples.Pair, *objections: VerifyError) -> ClientCertificate:
        return ClientCertificate.from_der(found.der, [VerifyError(0, 26), *objections])

    def expect_usage(self, problem: str, found: samples.Pair, *objections: VerifyError) -> None:
        for trust in (Trust.CA, Trust.EITHER):
            refusal = self.expect_refused(
                self.untrusted(found, *objections), PolicySettings(trust=trust)
            )
            text = f"The client certificate is not meant for TLS clients: {problem}"
            self.assertEqual((Code.WRONG_USAGE, text), (refusal.code, refusal.description))

    def test_named(self) -> None:
        """Where an authority is needed, a server's certificate is rejected with its usage."""
        authority = samples.pair(subject="CN=authority", ca=True)
        usages = (
            (ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth"),
            (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, "anyExtendedKeyUsage"),
            (ExtendedKeyUsageOID.OCSP_SIGNING, "1.3.6.1.5.5.7.3.9"),
        )
        for usage, name in usages:
            self.expect_usage(
                f"its extended key usage has {name}, expected clientAuth",
                samples.pair(issuer=authority, usage=usage),
            )

    def test_of_an_issuer(self) -> None:
        """If the certificate's extended key usage permits clients, another reason is named.

        It is its key usage, or an issuer.
        """
        authority = samples.pair(subject="CN=authority", ca=True)
        problem = "its key usage, or the usage of one of its issuers, does not include TLS clients"
        self.expect_usage(problem, samples.pair(issuer=authority))
        self.expect_usage(problem, samples.pair(subject="CN=other", issuer=authority, ca=True))

    def test_elsewhere(self) -> None:
        """The usage does not matter for self-signed certificates, or without an authority."""
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        issued = self.untrusted(samples.pair(issuer=samples.pair(ca=True), usage=usage))
        self.expect_passed(issued, PolicySettings())
        refusal = self.expect_refused(issued, PolicySettings(trust=Trust.SELF_SIGNED))
        self.assertEqual("The client certificate must be self-signed", refusal.description)
        own = self.untrusted(samples.pair(usage=usage), samples.SELF_SIGNED)
        self.expect_passed(own, PolicySettings(trust=Trust.EITHER))
        self.assertEqual(
            Code.UNTRUSTED, self.expect_refused(own, PolicySettings(trust=Trust.CA)).code
        )


class Times(PolicyTestCase):
    def test_expired(self) -> None:
        """An expired certificate is rejected, with the time of its end."""
        self.assertEqual(
            ErrorResponse(
                Code.EXPIRED,
                "expired certificate",
                "The client certificate expired at 2027-01-01T00:00:00Z",
            ),
            self.expect_refused(samples.client(), PolicySettings(), samples.NOT_AFTER + 1),
        )

    def test_not_yet_valid(self) -> None:
        """One that is not yet valid is rejected, with the time of its beginning."""
        text = "The client certificate is not valid before 2026-01-01T00:00:00Z"
        self.assertEqual(
            ErrorResponse(Code.NOT_YET_VALID, "certificate not yet valid", text),
            self.expect_refused(samples.client(), PolicySettings(), samples.NOT_BEFORE - 1),
        )

    def test_left_to_the_back_end(self) -> None:
        """With ``validity = "ignore"`` both are forwarded."""
        settings = PolicySettings(validity=Validity.IGNORE)
        self.expect_passed(samples.client(), settings, samples.NOT_AFTER + 1)
        self.expect_passed(samples.client(), settings, samples.NOT_BEFORE - 1)

    def test_wrong_usage_is_passed_on(self) -> None:
        """A self-signed certificate with another usage is forwarded: no RFC forbids it."""
        self.expect_passed(with_verdict(Verdict.SELF_SIGNED, Flag.WRONG_USAGE), PolicySettings())
