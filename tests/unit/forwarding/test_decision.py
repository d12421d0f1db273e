"""Tests of :mod:`x509proxy.forwarding.decision`."""

from __future__ import annotations

import tracemalloc
from base64 import b64encode

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.memory import HEADER, RULES
from x509proxy.certificates.client_certificate import Verdict
from x509proxy.forwarding.client import Client, Hop
from x509proxy.forwarding.decision import decide
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.forwarding.presets import find_preset
from x509proxy.http1.messages import Framing, RequestHead
from x509proxy.settings import (
    CertificateRequirement,
    ClientAuth,
    PolicySettings,
    RuleSettings,
    Trust,
    Validity,
)

ENFORCED = PolicySettings()
ONE = samples.client()
OTHER = attrs.evolve(ONE, der=ONE.der[:-1] + b"\0", verdict=Verdict.TRUSTED)

CLIENTS = [
    Client(Hop(peer, port), certificate, "TLSv1.3", asked)
    for peer, port in (("192.0.2.1", 443), ("192.0.2.2", 443), ("192.0.2.1", 8443))
    for certificate in (ONE, OTHER, None)
    for asked in (None, ClientAuth.NONE, ClientAuth.REQUIRED)
]
ALL_RULES = [
    RULES,
    HeaderRules.for_preset(find_preset("connect2id"), HEADER[::-1]),
    HeaderRules.for_preset(find_preset("traefik")),
]
POLICIES = [
    ENFORCED,
    PolicySettings(validity=Validity.IGNORE),
    PolicySettings(trust=Trust.CA),
    PolicySettings(
        rules=(RuleSettings(path="/b", client_certificate=CertificateRequirement.IGNORED),)
    ),
]


def head(target: bytes = b"/") -> RequestHead:
    return RequestHead(
        b"GET", target, "1.1", [(b"Host", b"as.example"), (b"A", b"b")], b"as.example", Framing.NONE
    )


def told(
    found: RequestHead, client: Client = CLIENTS[0], rules: HeaderRules = RULES,
    policy: PolicySettings = ENFORCED,
    now: float = samples.NOON,
) -> bytes:  # fmt: skip
    """Return the fields, or the detail of the error response."""
    decision = decide(found, client, rules, policy, now)
    return decision.fields if decision.error is None else decision.error.detail.encode()


class Fields(SynchronousTestCase):
    def test_times(self) -> None:
        """A certificate that expires is rejected from then on where validity is enforced."""
        found, late = head(), ONE.not_after + 1
        first = told(found)
        self.assertIn(HEADER, first)
        self.assertEqual(b"expired certificate", told(found, now=late))
        self.assertEqual(first, told(found))
        kind = PolicySettings(validity=Validity.IGNORE)
        self.assertEqual(told(found, policy=kind), told(found, policy=kind, now=late))

    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([b"/", b"/b"]), st.sampled_from(CLIENTS),
                st.sampled_from(ALL_RULES), st.sampled_from(POLICIES),
                st.sampled_from([samples.NOON, ONE.not_after + 1, ONE.not_before - 1]),
            ),
            max_size=40,
        )
    )  # fmt: skip
    def test_nobody_elses(
        self, asked: list[tuple[bytes, Client, HeaderRules, PolicySettings, float]]
    ) -> None:
        """The fields depend on this request alone, whatever came before with the same head."""
        heads = {target: head(target) for target in (b"/", b"/b")}
        for target, client, rules, policy, now in asked:
            alone = told(head(target), client, rules, policy, now)
            self.assertEqual(alone, told(heads[target], client, rules, policy, now))


class Kept(SynchronousTestCase):
    """Written fields that are kept for the next request of their client."""

    def grown(self, der_bytes: int, host_bytes: int, chain_bytes: int = 0) -> int:
        """Return the octets that stay after the requests of 300 clients, no two alike."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(300):
            chain = (bytes(chain_bytes),) if chain_bytes else ()
            other = attrs.evolve(ONE, der=bytes(der_bytes), thumbprint=str(number), chain=chain)
            host = b"%d." % number + b"x" * host_bytes
            asked = attrs.evolve(head(), host=host)
            decision = decide(asked, Client(Hop("192.0.2.1"), other), RULES, ENFORCED, samples.NOON)
            self.assertIs(None, decision.error)
            self.assertTrue(host in decision.fields and b64encode(other.der) in decision.fields)
        return tracemalloc.get_traced_memory()[0]

    def test_large(self) -> None:
        """Those of large certificates and long hosts are not: their octets are bounded too (L7)."""
        self.assertLess(self.grown(5000, 8000), 2**20)
        self.assertLess(self.grown(1500, 8000, chain_bytes=20000), 2**20)

    def test_usual(self) -> None:
        """Those of usual ones are, and take no more than that."""
        self.assertLess(self.grown(1500, 20), 6 * 2**20)
