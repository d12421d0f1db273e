"""Tests of :mod:`x509proxy.monitoring.certificate_expiry`: each end is listed once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.identities import identity
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.certificates.trust_store import TrustStore
from x509proxy.config.loader import Configuration
from x509proxy.config.token_files import TokenFiles
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.forwarding.presets import find_preset
from x509proxy.monitoring.certificate_expiry import certificate_states
from x509proxy.settings import ProxySettings, TokenLevel, TokenSettings

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def crl(authority: SelfSigned, days: int | None) -> x509.CertificateRevocationList:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(_BEGIN)
    )
    return builder.next_update(_BEGIN + timedelta(days=days or 1)).sign(
        authority.private_key, hashes.SHA256()
    )


class Endless:
    """A list without the time of the next one."""

    next_update_utc = None


class States(SynchronousTestCase):
    def setUp(self) -> None:
        self.found = Configuration(
            ProxySettings(),
            identity("first", "a.example", "b.example"),
            (),
            HeaderRules.for_preset(find_preset("traefik")),
        )

    def test_own(self) -> None:
        """The server's certificates, with their names; one without names by its subject."""
        further = attrs.evolve(self.found, extra_identities=(identity("c.example"),))
        first, second = certificate_states(further)
        self.assertEqual(("certificate", "a.example, b.example"), (first.use, first.name))
        self.assertEqual("certificates[0].certificate", second.use)
        ends = self.found.identity.certificate.not_valid_after_utc.timestamp()
        self.assertEqual((ends, 43), (first.ends, len(first.thumbprint)))

    def test_subject(self) -> None:
        """A certificate without DNS names is named by its subject, cut and printable."""
        [state] = certificate_states(
            attrs.evolve(self.found, identity=self.named("CN=a\\0Ab" + "c" * 60 + ",O=" + "d" * 60))
        )
        self.assertTrue(state.name.startswith("CN=a?b") and state.name.endswith("..."), state.name)
        self.assertEqual(120, len(state.name))

    def named(self, subject: str) -> Identity:
        return attrs.evolve(self.found.identity, certificate=samples.certificate(subject))

    def test_unreadable(self) -> None:
        """One with an extension that cannot be read has a name all the same."""
        broken = x509.load_der_x509_certificate(samples.malformed_extension())
        [state] = certificate_states(
            attrs.evolve(self.found, identity=attrs.evolve(self.found.identity, certificate=broken))
        )
        self.assertTrue(state.name.startswith("CN="), state.name)

    def test_trusted(self) -> None:
        """Authorities and lists, each by its place; a list without an end has none."""
        authority = make_self_signed(KeyKind.EC, "authority")
        trusted = TrustStore((authority.certificate,) * 2, (crl(authority, 7), Endless()))  # type: ignore[arg-type]
        _, *states = certificate_states(attrs.evolve(self.found, trusted=trusted))
        self.assertEqual(["ca[0]", "ca[1]", "crl[0]"], [state.use for state in states])
        self.assertEqual(
            (_BEGIN.timestamp(), 7 * 86400.0), (states[2].begins, states[2].ends - states[2].begins)
        )

    def test_tokens(self) -> None:
        """The certificate that is shown to the authorization server."""
        settings = TokenSettings(level=TokenLevel.UNVERIFIED)
        for tokens, uses in (
            (TokenFiles(settings), []),
            (TokenFiles(settings, identity=identity("proxy")), ["tokens.certificate"]),
        ):
            states = certificate_states(attrs.evolve(self.found, tokens=tokens))
            self.assertEqual(uses, [state.use for state in states[1:]])

    def test_upstream(self) -> None:
        """The certificate for back ends, and their authorities."""
        shown = identity("proxy")
        found = attrs.evolve(
            self.found, upstream_authorities=(shown.certificate,), upstream_identity=shown
        )
        self.assertEqual(
            ["upstream.ca[0]", "upstream.certificate"],
            [state.use for state in certificate_states(found)[1:]],
        )
