"""Tests of :mod:`x509proxy.forwarding.sanitizer`.

Every request has one genuine certificate header or none, whatever the client sends (invariant L1).
"""

from __future__ import annotations

import gc
import re
import tracemalloc
import weakref

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.cgi_names import as_others_read
from x509proxy.certificates import client_certificate as certificate
from x509proxy.forwarding import decision
from x509proxy.forwarding import sanitizer as headers
from x509proxy.forwarding.claim_headers import (
    CERTIFICATE_CLAIMS,
    HOP_CLAIMS,
    WRITTEN_BY_THE_PROXY,
)
from x509proxy.forwarding.client import Hop
from x509proxy.forwarding.header_rules import HeaderRules, identity, redact
from x509proxy.forwarding.presets import PRESETS, HeaderPlan
from x509proxy.forwarding.sanitizer import forwarded, sanitize_request, sanitize_response
from x509proxy.http1.errors import ErrorResponse, HttpError
from x509proxy.http1.fields import Pairs, fold
from x509proxy.http1.messages import Framing, RequestHead, ResponseHead, read_request_head
from x509proxy.settings import ClientSettings

NAME = b"Sec-Client-X509-Cert-0aB1cD2eF3"
RULES = HeaderRules.for_preset(PRESETS["connect2id"], NAME)
# No part of this name is on the list of removed names: only the rule for the name protects it.
OTHER = HeaderRules.for_preset(PRESETS["connect2id"], b"Quiet-Harbour-99")
GENUINE = identity(samples.client(), RULES)
HOP = Hop("192.0.2.7", 8443)
HOST = (b"Host", b"as.example")
PEM = b"-----BEGIN CERTIFICATE-----EVIL-----END CERTIFICATE-----"

# Names that a request may have after its validation (plain names), and others in addition.
FOLDED = st.sampled_from(
    [NAME, b"Quiet-Harbour-99", b"Client-Cert", b"Connection", b"X-Forwarded-For", b"Cookie"]
)
SPOILT = st.builds(
    lambda name, upper, mark: (
        name.swapcase().replace(b"-", mark) if upper else name.replace(b"-", mark)
    ),
    FOLDED,
    st.booleans(),
    st.sampled_from([b"-", b"_", b".", b"~", b"--", b"\xff"]),
)
VALUES = (
    st.sampled_from(
        [PEM, b"", b"close", NAME, NAME.lower() + b", close", b"Cookie, " + NAME.upper()]
    )
    | st.binary()
)
PAIRS = st.lists(st.tuples(SPOILT | st.binary(min_size=1), VALUES), max_size=12)


def head(*pairs: tuple[bytes, bytes], host: bytes = b"as.example") -> RequestHead:
    return RequestHead(b"GET", b"/", "1.1", list(pairs), host, Framing.NONE)


def forward(
    *pairs: tuple[bytes, bytes], rules: HeaderRules = RULES, genuine: Pairs = GENUINE
) -> tuple[Pairs, int]:
    return forward_head(head(HOST, *pairs), rules, genuine)


def forward_head(
    found: RequestHead, rules: HeaderRules = RULES, genuine: Pairs = GENUINE
) -> tuple[Pairs, int]:
    cleaned, forged = sanitize_request(found, rules)
    return [*cleaned, *forwarded(found.host, HOP), *genuine], forged


def passed(*pairs: tuple[bytes, bytes], rules: HeaderRules = RULES) -> tuple[Pairs, int]:
    """Return the client's fields that are kept, without ``Host``, and the number of forged ones."""
    cleaned, forged = sanitize_request(head(*pairs), rules)
    assert cleaned[0] == HOST
    return cleaned[1:], forged


def answered(
    pairs: Pairs, rules: HeaderRules = RULES, reason: bytes = b"OK"
) -> tuple[bytes, Pairs]:
    """Return the reason phrase and the fields that reach the client."""
    return sanitize_response(ResponseHead(200, reason, pairs, Framing.NONE), rules)


def forward_response(pairs: Pairs, rules: HeaderRules) -> Pairs:
    return answered(pairs, rules)[1]


OURS_ALWAYS = forward(genuine=())[0]


class Repeated(SynchronousTestCase):
    """A head that occurs again is sanitized once."""

    def test_other_rules(self) -> None:
        """Other rules sanitize it anew, and the first ones again: results are not mixed."""
        request = head(HOST, (NAME, PEM), (b"Quiet-Harbour-99", PEM))
        for _ in range(2):
            for rules, passes in ((RULES, True), (OTHER, False)):
                pairs, forged = forward_head(request, rules, ())
                self.assertEqual((1, passes), (forged, b"Quiet-Harbour-99" in dict(pairs)))

    def test_forgotten(self) -> None:
        """Nothing outlives the head: a password or a token in it is not kept."""
        request = head(HOST, (b"Authorization", b"Basic c2VjcmV0"))
        forward_head(request)
        gone = weakref.ref(request)
        del request
        gc.collect()
        self.assertIs(None, gone())


class Hoards(SynchronousTestCase):
    def test_caches(self) -> None:
        """The size of each cache is limited (invariant L7)."""
        for cache in (
            headers._request_kind,
            headers._response_kind,
            decision._hop_fields,
            decision._certificate_fields,
            certificate._parse,
        ):
            self.assertLessEqual(cache.cache_info().maxsize or 10**9, 1024)

    def test_shown(self) -> None:
        """A traceback that shows a head shows none of its fields (invariant L4)."""
        response = ResponseHead(200, b"OK", ((b"Set-Cookie", b"hush"),), Framing.NONE)
        self.assertNotIn("hush", repr(response) + repr(head((b"Authorization", b"hush"))))

    def test_rubbish(self) -> None:
        """Names and hosts of 8 KiB, no two alike, do not accumulate (invariant L7)."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(2000):
            rubbish = b"X%d-" % number + b"x" * 8000
            forward_head(head((rubbish, b""), host=rubbish))
            answered([(rubbish, b"")])
        self.assertLess(tracemalloc.get_traced_memory()[0], 2**20)


class Rules(SynchronousTestCase):
    def test_chosen_name(self) -> None:
        """A preset with an open name gets the configured one, which is a secret."""
        self.assertEqual([NAME], [plan.name for plan in RULES.plans])
        self.assertEqual(frozenset({fold(NAME)}), RULES.folds)
        self.assertEqual((fold(NAME).removeprefix(b"sec-client-x509-cert-"),), RULES.secrets)

    def test_fixed_names(self) -> None:
        """A preset with names of its own has no secret."""
        rules = HeaderRules.for_preset(PRESETS["rfc9440"])
        self.assertEqual(
            (frozenset({b"client-cert", b"client-cert-chain"}), ()), (rules.folds, rules.secrets)
        )

    def test_repr(self) -> None:
        """The secret name is not in the text that a traceback shows (invariant L4)."""
        self.assertEqual("HeaderRules()", repr(RULES))


class Identity(SynchronousTestCase):
    def test_none(self) -> None:
        """Without a certificate there is no pair, not even an empty one."""
        self.assertEqual((), identity(None, RULES))

    def test_one(self) -> None:
        """A certificate is one pair under the chosen name."""
        ((name, value),) = GENUINE
        self.assertEqual(NAME, name)
        self.assertTrue(value.startswith(b"-----BEGIN CERTIFICATE-----MII"))

    def test_two(self) -> None:
        """A preset with two headers has both, in its order."""
        rules = HeaderRules.for_preset(PRESETS["rfc9440"])
        certificate = attrs.evolve(samples.client(), chain=(b"one",))
        self.assertEqual(
            [b"Client-Cert", b"Client-Cert-Chain"],
            [name for name, _ in identity(certificate, rules)],
        )

    def test_each_its_own(self) -> None:
        """Two clients with the same names and dates get each its own certificate, at any time."""
        one = samples.client()
        other = attrs.evolve(one, der=one.der + b"\0", thumbprint="other")
        for _ in range(2):
            self.assertNotEqual(identity(one, RULES), identity(other, RULES))


class LogLines(SynchronousTestCase):
    def test_names(self) -> None:
        """A log line loses the secret part of the name in every spelling, and nothing else."""
        part = NAME.decode().removeprefix("Sec-Client-X509-Cert-")
        line = f"target=/{NAME.decode()}/{part.upper()}{part.lower()} peer=x"
        self.assertEqual("target=/Sec-Client-X509-Cert-.../...... peer=x", redact(line, RULES))
        self.assertEqual("target=/ peer=x", redact("target=/ peer=x", RULES))


class Spoofs(SynchronousTestCase):
    """Every known forged spelling that reaches this module, with a certificate and without one."""

    def expect_gone(
        self, *pairs: tuple[bytes, bytes], forged: int, rules: HeaderRules = RULES
    ) -> None:
        genuine = identity(samples.client(), rules)
        self.assertEqual(
            ([*OURS_ALWAYS, *genuine], forged), forward(*pairs, rules=rules, genuine=genuine)
        )
        self.assertEqual((OURS_ALWAYS, forged), forward(*pairs, rules=rules, genuine=()))

    def test_same_name(self) -> None:
        """The name itself is removed."""
        self.expect_gone((NAME, PEM), forged=1)
        self.expect_gone((b"Quiet-Harbour-99", PEM), forged=1, rules=OTHER)

    def test_repeated(self) -> None:
        """The name is removed any number of times, at any position."""
        self.expect_gone((NAME, PEM), (NAME, b""), (NAME, PEM), forged=3)

    def test_case(self) -> None:
        """The name is removed in other case."""
        self.expect_gone((NAME.lower(), PEM), (NAME.upper(), PEM), (NAME.swapcase(), PEM), forged=3)
        self.expect_gone((b"qUIET-hARBOUR-99", PEM), forged=1, rules=OTHER)

    def test_twins(self) -> None:
        """Names that CGI, WSGI, FastCGI or a servlet container folds into it are removed.

        This holds even if the check of the head had accepted them.
        """
        for mark in b"_.!#$%&'*+^`|~ :\x00\x80\xff":
            twin = b"Quiet" + bytes([mark]) + b"Harbour-99"
            self.expect_gone((twin, PEM), (twin.upper(), PEM), forged=2, rules=OTHER)

    def test_nominated(self) -> None:
        """If ``Connection`` names it, the forged one is removed and counted; the genuine stays."""
        for value in (NAME, b"close, " + NAME.lower(), b"\t" + NAME + b" ,keep-alive"):
            self.expect_gone((b"Connection", value), forged=0)
            self.expect_gone((b"Connection", value), (NAME, PEM), forged=1)

    def test_nominated_under_a_twin(self) -> None:
        """Another spelling in ``Connection`` does not remove the proxy's field either."""
        self.expect_gone(
            (b"Connection", NAME.replace(b"-", b"_")), (NAME.replace(b"-", b"_"), PEM), forged=1
        )

    def test_siblings(self) -> None:
        """A field that any product sends for a certificate, or for a hop, is always removed.

        This holds in every spelling, and for every preset.
        """
        for name in (*CERTIFICATE_CLAIMS, *HOP_CLAIMS):
            self.expect_gone(
                (name, PEM), (name.swapcase(), PEM), (name.replace(b"-", b"_"), PEM), forged=0
            )
            self.expect_gone((re.sub(rb"[^A-Za-z0-9]", b"", name), PEM), forged=0)

    def test_corpus(self) -> None:
        """The corpus has no name twice, and those that the proxy writes are separate."""
        names = [name.lower() for name in (*CERTIFICATE_CLAIMS, *HOP_CLAIMS, *WRITTEN_BY_THE_PROXY)]
        self.assertEqual(len(names), len(set(names)))
        self.assertLessEqual(
            {fold(name) for name in WRITTEN_BY_THE_PROXY} - {b"x-request-id"},
            {fold(name) for name, _ in OURS_ALWAYS},
        )

    def test_relatives(self) -> None:
        """A field that is not listed, but means the same as a listed one, is removed too."""
        for name in (
            b"CloudFront-Viewer-Cert-Anything", b"X-Peer-Certificate-Chain",
            b"X-My-Peer-Certificate", b"XUserCertificate",
            b"X-Acme-ClientDN", b"Acme-Client-DN", b"X-Acme-Client-CN", b"X-Client-Verified-By",
            b"Acme-Client-IP",
            b"X-Acme-Connecting-IP", b"X-Acme-Real-IP", b"x.client.cert",
            b"Sec-Client-X509-Cert-another", b"X-SSL-Anything",
            b"SSL-Anything", b"X-Acme-SSL-Client-Anything", b"X-Acme-mTLS", b"XTLS-Anything",
            b"X-Acme-TLS-Client-CN",
            b"X-Acme-Cert-Issuer", b"XCertSerial", b"X-Acme-Certificate-Fingerprint",
            b"X-Acme-SPIFFE", b"Acme-Remote-User",
            b"X-Acme-Forwarded-For", b"Forwarded-Acme", b"X-Amzn-Mtls-Anything",
            b"X-Azure-Anything", b"Proxy-Anything",
            b"X-Envoy-Anything", b"X-Original-Anything", b"X-Rewrite-Anything", b"X-X5T-S256",
            b"X-Acme-X509",
        ):  # fmt: skip
            self.expect_gone((name, PEM), (name.swapcase(), PEM), forged=0)

    def test_siblings_that_are_ours(self) -> None:
        """Where a preset sends one of these itself, a client's own counts as forged."""
        rules = HeaderRules.for_preset(PRESETS["rfc9440"])
        self.expect_gone((b"client_cert", PEM), (b"CLIENT-CERT-CHAIN", PEM), forged=2, rules=rules)
        rules = HeaderRules.for_preset(PRESETS["xfcc"])
        self.expect_gone((b"x-forwarded-client-cert", PEM), forged=1, rules=rules)

    def test_through_the_head(self) -> None:
        """Spellings that the check of the head drops or accepts are all removed."""
        twins = [(NAME.replace(b"-", bytes([mark])), PEM) for mark in b"_.!#$%&'*+^`|~"]
        found = read_request_head(
            b"GET", b"/", "1.1", [HOST, *twins, (NAME.lower(), PEM)], ClientSettings()
        )
        self.assertEqual(len(twins), found.invalid_header_names)
        self.assertEqual(([*OURS_ALWAYS, *GENUINE], 1), forward_head(found))

    def test_harmless(self) -> None:
        """Names that only look similar are forwarded: only claims are removed."""
        pairs = [
            (b"Quiet-Harbour-98", b"1"),
            (b"Cookie", b"a"),
            (b"Client", b"b"),
            (b"Cookie", b"c"),
            (b"X-Sslx", b""),
        ]
        self.assertEqual([HOST, *pairs, *OURS_ALWAYS[1:], *GENUINE], forward(*pairs)[0])

    def test_needed(self) -> None:
        """Fields of OAuth, OpenID Connect, browsers and applications are forwarded."""
        names = (
            b"Authorization", b"DPoP", b"OAuth-Client-Attestation", b"OAuth-Client-Attestation-PoP",
            b"Signature",
            b"Signature-Input", b"Content-Digest", b"X-FAPI-Interaction-Id", b"X-FAPI-Auth-Date",
            b"X-JWS-Signature",
            b"Cookie", b"Origin", b"Referer", b"Client-Id", b"Client-Secret", b"X-Client-Id",
            b"X-Client-Version",
            b"X-Client-Data", b"X-Platform-Tls", b"X-Client-Info", b"X-Client-Serial",
            b"X-Client-Fingerprint",
            b"Sec-CH-UA", b"Sec-Fetch-Site", b"X-Api-Key", b"X-Auth-Token", b"X-CSRF-Token",
            b"X-Requested-With",
            b"TPP-Signature-Certificate", b"PSU-IP-Address", b"PSU-User-Agent",
            b"X-FAPI-Customer-IP-Address", b"Digest",
            b"X-IBM-Client-Id", b"X-Client-Name", b"X-Client-IPad", b"X-Client-DNS", b"X-Clients",
            b"X-Arrival-Time",
            b"X-Team-TLS", b"X-Html-S", b"X-Concert-Share", b"Concert-Chain", b"X-Consumer-ID",
            b"X-Correlation-ID", b"Via",
            b"CDN-Loop", b"X-Cloud-Trace-Context", b"X-B3-TraceId", b"X-Amz-Date",
            b"X-Amz-Security-Token", b"X-Ms-Version",
            b"X-Ms-Client-Request-Id", b"X-Goog-Api-Key", b"X-Goog-User-Project",
            b"Idempotency-Key", b"X-Remote-Control",
            b"X-Hostname", b"X-Schema", b"X-User-Agent", b"X-Origin", b"X-Subject", b"X-Verified",
            b"X-Azur", b"Certainty",
            b"traceparent", b"CF-Ray", b"X-User-Id", b"X-Certain", b"Accept", b"TLS-Version",
        )  # fmt: skip
        pairs = [(name, b"x") for name in names]
        self.assertEqual([HOST, *pairs, *OURS_ALWAYS[1:], *GENUINE], forward(*pairs)[0])

    @given(
        PAIRS,
        st.sampled_from([RULES, OTHER, HeaderRules.for_preset(PRESETS["rfc9440"])]),
        st.booleans(),
    )
    def test_genuine_once_or_none(self, pairs: Pairs, rules: HeaderRules, certified: bool) -> None:
        """Every output has the genuine pair once, and no other that folds to it.

        Without a certificate it has none.
        """
        genuine = identity(samples.client() if certified else None, rules)
        try:
            out, _ = forward_head(head(*pairs), rules, genuine)
        except HttpError as error:
            self.assertEqual(400, error.response.status)
            return
        self.assertEqual(list(genuine), [pair for pair in out if fold(pair[0]) in rules.folds])

    @given(PAIRS)
    def test_nothing_of_the_connection(self, pairs: Pairs) -> None:
        """No output has framing or a hop-by-hop field of the client; each has one ``Host``."""
        try:
            out, _ = forward(*pairs)
        except HttpError:
            return
        names = [name.lower() for name, _ in out]
        self.assertEqual(1, names.count(b"host"))
        for name in (
            b"connection",
            b"transfer-encoding",
            b"content-length",
            b"te",
            b"trailer",
            b"upgrade",
            b"expect",
        ):
            self.assertNotIn(name, names)


class HopByHop(SynchronousTestCase):
    def test_list(self) -> None:
        """Fields of one connection, framing, upgrades and expectations are removed.

        See RFC 9110 section 7.6.1.
        """
        for name in (
            b"Connection", b"Keep-Alive", b"Proxy-Connection", b"Proxy-Authorization", b"TE",
            b"Trailer", b"Transfer-Encoding",
            b"Content-Length", b"Upgrade", b"HTTP2-Settings", b"Expect",
        ):  # fmt: skip
            self.assertEqual(([], 0), passed((name, b"x"), (name.swapcase(), b"x")), name)

    def test_named(self) -> None:
        """So are those in ``Connection``: in any case, several fields, between empty members."""
        pairs = [
            (b"Connection", b"close,, x-a"),
            (b"X-A", b"1"),
            (b"connection", b"\tX-B "),
            (b"x-b", b"2"),
            (b"X-C", b"3"),
        ]
        self.assertEqual(([(b"X-C", b"3")], 0), passed(*pairs))

    def test_named_framing(self) -> None:
        """``Connection`` that names a framing or routing field is 400 (Akamai CVE-2026-26365)."""
        for value in (b"Host", b"close, content-length", b"TRANSFER-ENCODING"):
            refusal: ErrorResponse = self.assertRaises(
                HttpError, passed, (b"Connection", value)
            ).response
            self.assertEqual(400, refusal.status)

    def test_twins(self) -> None:
        """Other spellings of the framing fields are removed: CGI-like servers would use them."""
        pairs = [(b"Transfer_Encoding", b"chunked"), (b"content.length", b"5")]
        self.assertEqual(([], 0), passed(*pairs))


class Claims(SynchronousTestCase):
    def test_hops(self) -> None:
        """A client's claims about hops are removed.

        These are ``Forwarded``, ``X-Forwarded-*``, and every "real" or "original" field.
        """
        for name in (
            b"Forwarded",
            b"X-Forwarded-For",
            b"x_forwarded_proto",
            b"X-Real-IP",
            b"True-Client-IP",
            b"X-Original-URL",
            b"Proxy",
        ):
            self.assertEqual(([], 0), passed((name, b"127.0.0.1")), name)

    def test_count(self) -> None:
        """Only fields with a name of the proxy's count as forged."""
        self.assertEqual(([], 2), passed((NAME, b""), (b"X-SSL-Cert", b""), (NAME.lower(), b"")))


class Forwarded(SynchronousTestCase):
    def test_literal(self) -> None:
        """The back end receives client address, scheme, port and host, in two forms."""
        self.assertEqual(
            [
                (b"X-Forwarded-For", b"192.0.2.7"),
                (b"X-Forwarded-Proto", b"https"),
                (b"X-Forwarded-Port", b"8443"),
                (b"X-Forwarded-Host", b"as.example"),
                (b"Forwarded", b'for=192.0.2.7;host="as.example";proto=https'),
            ],
            list(forwarded(b"as.example", HOP)),
        )

    def test_ipv6(self) -> None:
        """An IPv6 address is bracketed and quoted in ``Forwarded`` alone (RFC 7239 section 6)."""
        pairs = dict(forwarded(b"as.example", Hop("2001:db8::7")))
        self.assertEqual(b"2001:db8::7", pairs[b"X-Forwarded-For"])
        self.assertEqual(b'for="[2001:db8::7]";host="as.example";proto=https', pairs[b"Forwarded"])

    def test_no_host(self) -> None:
        """A client of HTTP/1.0 without a host has none forwarded."""
        pairs = dict(forwarded(b"", Hop("192.0.2.7", 80, "http")))
        self.assertNotIn(b"X-Forwarded-Host", pairs)
        self.assertEqual(b"for=192.0.2.7;proto=http", pairs[b"Forwarded"])


class Answers(SynchronousTestCase):
    def test_hop_by_hop(self) -> None:
        """Fields of the back end's connection, and those its ``Connection`` names, are removed."""
        pairs = [
            (b"Connection", b"x-a"),
            (b"X-A", b""),
            (b"Keep-Alive", b""),
            (b"Content-Length", b"5"),
            (b"X-B", b""),
        ]
        for rules in (RULES, HeaderRules.for_preset(PRESETS["rfc9440"])):
            self.assertEqual([(b"X-B", b"")], forward_response(pairs, rules))

    def test_repeats(self) -> None:
        """Repeated fields stay repeated, in order."""
        pairs = [(b"Set-Cookie", b"a=1, 2"), (b"X", b""), (b"Set-Cookie", b"b")]
        self.assertEqual(pairs, forward_response(pairs, RULES))

    def test_echo(self) -> None:
        """A field under the secret name, in any spelling, does not reach the client."""
        for name in (NAME, NAME.lower(), NAME.replace(b"-", b"_"), b"X-Echo-" + NAME):
            self.assertEqual([], forward_response([(name, b"x")], RULES))

    def test_lists(self) -> None:
        """A list loses the member with the name; a list of nothing else is removed."""
        for value, rest in (
            (b"Accept, " + NAME.lower() + b", Origin", [(b"X-List", b"Accept, Origin")]),
            (NAME.replace(b"-", b"_"), []),
            (b"Accept", [(b"X-List", b"Accept")]),
        ):
            self.assertEqual(rest, forward_response([(b"X-List", value)], RULES))

    def test_vary(self) -> None:
        """The certificate header in ``Vary`` becomes ``*``.

        Requests of clients do not have that header, so a cache cannot compare it.
        """
        known = HeaderRules.for_preset(PRESETS["rfc9440"])
        for value, rules, told in (
            (b"Accept, " + NAME.lower(), RULES, b"Accept, *"),
            (NAME.replace(b"-", b"_"), RULES, b"*"),
            (b"Client-Cert", known, b"*"),
            (b"Accept,client-cert-chain , Client_Cert,Origin", known, b"Accept, *, Origin"),
        ):  # fmt: skip
            self.assertEqual([(b"vary", told)], forward_response([(b"vary", value)], rules), value)
        for value, rules in ((b"Accept, Origin", RULES), (b"Client-Certain", known), (b"*", known)):
            self.assertEqual([(b"Vary", value)], forward_response([(b"Vary", value)], rules), value)

    def test_pieces(self) -> None:
        """The random part is the secret, also in two pieces, or in a name and its value."""
        half, other = NAME[-10:-5], NAME[-5:]
        for mark in (b", ", b".", b"/", b" ", b"_-"):
            self.assertEqual([], forward_response([(b"X-List", half + mark + other)], RULES), mark)
            self.assertEqual(
                [(b"Vary", b"*")], forward_response([(b"Vary", half + mark + other)], RULES), mark
            )
        self.assertEqual([], forward_response([(b"X-" + half, other)], RULES))
        self.assertEqual(
            [], forward_response([(b"X-" + half, other + b", " + half + other)], RULES)
        )

    def test_named_in_another_spelling(self) -> None:
        """Names in ``Connection`` are compared folded, in both directions."""
        self.assertEqual(
            [], forward_response([(b"Connection", b"x_internal"), (b"X-Internal", b"1")], RULES)
        )
        with self.assertRaises(HttpError):
            forward((b"Connection", b"content_length"))

    def test_without_a_secret(self) -> None:
        """Known names are not removed from responses."""
        pairs = [(b"Access-Control-Allow-Headers", b"Client-Cert")]
        self.assertEqual(pairs, forward_response(pairs, HeaderRules.for_preset(PRESETS["rfc9440"])))

    def test_reason(self) -> None:
        """A reason phrase with the name is dropped, any other kept."""
        for reason, told in ((b"No " + NAME.lower() + b" here", b""), (b"OK", b"OK")):
            self.assertEqual((told, []), answered([], reason=reason))

    @given(PAIRS)
    def test_never_told(self, pairs: Pairs) -> None:
        """No response reveals the secret name in a name or value, in any spelling."""
        for name, value in forward_response(pairs, RULES):
            self.assertNotIn(fold(NAME), fold(name))
            self.assertNotIn(fold(NAME), fold(value))


class Written(SynchronousTestCase):
    def test_genuine_reads_back(self) -> None:
        """Three parsers read a forwarded request as it was written.

        The certificate is last before the framing.
        """
        pairs, _ = forward((b"Cookie", b"a=b"), (NAME, PEM))
        found = as_others_read(pairs)
        self.assertEqual([*pairs, (b"Content-Length", b"0")], found)
        self.assertEqual(list(GENUINE), found[-2:-1])


class Plans(SynchronousTestCase):
    def test_every_preset_passes_its_own_rules(self) -> None:
        """For every preset, its headers count as forged when a client sends them."""
        for preset in PRESETS.values():
            rules = HeaderRules.for_preset(preset, NAME)
            for plan in rules.plans:
                self.assertIsInstance(plan, HeaderPlan)
                self.assertEqual(([], 1), passed((plan.name, PEM), rules=rules))


class Responses(SynchronousTestCase):
    def test_both(self) -> None:
        """The reason phrase and the fields of a response are sanitized together."""
        pairs = [(b"Server", b"x"), (NAME, b"echo"), (b"Connection", b"close")]
        head = ResponseHead(200, b"No " + NAME, pairs, Framing.NONE)
        self.assertEqual((b"", [(b"Server", b"x")]), sanitize_response(head, RULES))
