"""The header with a token's claims, from a client's octets to a back end's, in memory."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import certificate
from tests.support.memory import HEADER, OK, Proxy, RequestTransport
from tests.support.tokens import AUDIENCE, ISSUER, OWN, claims, key_set, part, raw, request, signed
from x509proxy.authorization.token_check import TokenCheck
from x509proxy.certificates.pem_files import Identity
from x509proxy.config.configuration import Configuration
from x509proxy.config.token_files import TokenFiles
from x509proxy.downstream.factory import ProxyFactory
from x509proxy.exchange import TokenVerdict
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.forwarding.presets import HeaderPlan, find_preset
from x509proxy.forwarding.token_claims import CheckedToken
from x509proxy.http1.errors import Code
from x509proxy.http1.fields import fold
from x509proxy.resource import X509ProxyResource
from x509proxy.settings import (
    ClientSettings,
    Format,
    PolicySettings,
    ProxySettings,
    RuleSettings,
    TokenLevel,
    TokenRequirement,
    TokenSettings,
    Validity,
)
from x509proxy.testing import client_identity

NAME = b"X-Api-Claims"
FORGED = b"eyJzdWIiOiJldmUifQ"
LATE = 1 << 33
SPELLINGS = (
    b"X-Api-Claims", b"x-api-claims", b"X-API-CLAIMS", b"X_Api_Claims", b"X-Api_Claims",
    b"x.api.claims", b"X~Api~Claims", b"X-Api-Claims ", b"X-Api-Claims\xad",
)  # fmt: skip


def forever(**changes: object) -> bytes:
    """Make a token that does not expire."""
    return b"Bearer " + signed(claims(exp=LATE, **changes))


OWN_TOKEN, UNBOUND_TOKEN = forever(), forever(cnf=None)


def fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """Split a head into its fields."""
    lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]


class ClaimsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.arrange()

    def arrange(
        self,
        need: TokenRequirement = TokenRequirement.BOUND,
        maximum: int = 8192,
        tokens: Any = None,
        **others: Any,
    ) -> None:
        found = TokenSettings(
            level=TokenLevel.JWT, issuer=ISSUER, audience=(AUDIENCE,), jwks_file="a"
        )
        plans = (
            HeaderPlan(Format.PEM, HEADER),
            HeaderPlan(Format.TOKEN_CLAIMS, NAME, maximum=maximum),
        )
        rules = (RuleSettings(path="/api", token=need),)
        self.proxy = Proxy(
            policy=PolicySettings(rules=rules, validity=Validity.IGNORE),
            tokens=tokens or TokenCheck.from_files(TokenFiles(found, key_set()), Clock()),
            rules=HeaderRules(plans),
            **others,
        )

    def send(self, *arguments: Any) -> RequestTransport:
        """Send a request with the owner's certificate."""
        return self.proxy.tls_client(certificate(), request(*arguments))

    def arrived(self) -> bytes:
        """Return the request that has reached the back end, if one has."""
        return self.proxy.back_end.wire.sent() if self.proxy.back_end.attempts else b""

    def values(self, head: bytes) -> list[bytes]:
        """Return the values of the header, in every spelling that a back end may read as it."""
        return [value for name, value in fields(head) if fold(name).strip(b"-") == fold(NAME)]

    def claims(self, head: bytes) -> dict[str, Any]:
        """Read the claims as a back end does."""
        (value,) = self.values(head)
        found: dict[str, Any] = json.loads(urlsafe_b64decode(value + b"=="))
        return found


class PassedOn(ClaimsTestCase):
    def test_bound(self) -> None:
        """The back end reads the claims that the issuer has signed, each time."""
        for _ in range(2):
            self.send(forever(sub="alice"))
            found = self.claims(self.arrived())
            self.assertEqual(claims(exp=LATE, sub="alice"), found)
            self.proxy.back_end.wire.deliver(OK)

    def test_cached_by_certificate(self) -> None:
        """A token that is remembered gives its claims to its owner alone."""
        self.send(forever())
        self.assertEqual(1, len(self.values(self.arrived())))
        self.proxy.back_end.wire.deliver(OK)
        client = self.proxy.tls_client(certificate("CN=other"), request(forever()))
        self.assertEqual((b"401", b""), (client.sent()[9:12], self.arrived()))

    def test_when_bound(self) -> None:
        """An unbound token's claims are verified too; a request without a token has none."""
        self.arrange(TokenRequirement.WHEN_BOUND)
        self.proxy.client(request(forever(cnf=None)))
        self.assertEqual("client", self.claims(self.arrived())["sub"])
        self.proxy.back_end.wire.deliver(OK)
        for absent in (None, b"Basic eA=="):
            self.proxy.client(request(absent))
            self.assertEqual([], self.values(self.arrived()))
            self.proxy.back_end.wire.deliver(OK)

    def test_bound_to_nothing(self) -> None:
        """A token without a binding, where one is needed, reaches no back end."""
        self.assertEqual(b"401", self.send(forever(cnf=None)).sent()[9:12])
        self.assertEqual(b"", self.arrived())

    def test_dpop(self) -> None:
        """The claims of a DPoP key's token are not sent: only the back end verifies the proof."""
        token = signed(claims(exp=LATE, cnf={"jkt": "a"}))
        for need, scheme in (
            (TokenRequirement.BOUND, b"DPoP "),
            (TokenRequirement.WHEN_BOUND, b"DPoP "),
            (TokenRequirement.WHEN_BOUND, b"Bearer "),
        ):
            self.arrange(need)
            self.send(scheme + token)
            head = self.arrived()
            self.assertIn(b"\r\nAuthorization: " + scheme + token, head)
            self.assertEqual([], self.values(head))

    def test_both_bindings(self) -> None:
        """With both bindings the certificate is the proof."""
        both = {"jkt": "a", "x5t#S256": OWN.thumbprint}
        self.send(b"DPoP " + signed(claims(exp=LATE, cnf=both)))
        self.assertEqual(both, self.claims(self.arrived())["cnf"])

    def test_odd_claims(self) -> None:
        """Control characters, line ends and all of Unicode arrive in one field, as signed."""
        odd = "a\r\nX-Api-Claims: b\0\x7f\u2028\U0001f600é\ud800"
        self.send(forever(sub=odd, **{"\r\nHost": "evil.example"}))
        head = self.arrived()
        found = self.claims(head)
        self.assertEqual((odd, "evil.example"), (found["sub"], found["\r\nHost"]))
        self.assertEqual(
            [b"as.example"], [value for name, value in fields(head) if name == b"Host"]
        )

    def test_duplicated_claims(self) -> None:
        """Claims with a name twice are 400: the back end could read another one."""
        token = b".".join((part({"alg": "ES256"}), raw(b'{"sub":"a","sub":"b"}'), b"c2ln"))
        self.assertEqual(b"400", self.send(b"Bearer " + token).sent()[9:12])
        self.assertEqual(b"", self.arrived())

    def test_too_large(self) -> None:
        """Claims larger than the header takes are 400 and reach no back end; smaller ones do."""
        self.arrange(maximum=400)
        client = self.send(forever(more="x" * 400))
        sent = client.sent()
        self.assertEqual(b"400", sent[9:12])
        self.assertIn(b'Bearer error="invalid_request"', sent)
        self.assertEqual(b"", self.arrived())
        (exchange,) = self.proxy.exchanges
        self.assertEqual(
            (Code.TOKEN_CLAIMS_TOO_LARGE, TokenVerdict.REJECTED), (exchange.code, exchange.token)
        )
        self.send(forever())
        self.assertEqual(1, len(self.values(self.arrived())))


class _Slow:
    """A check that the test ends."""

    def __init__(self) -> None:
        self.asked: Deferred[CheckedToken] = Deferred()

    def check(self, *_: object) -> Deferred[CheckedToken]:
        return self.asked


class Later(ClaimsTestCase):
    """A check that takes its time."""

    def setUp(self) -> None:
        self.slow = _Slow()
        self.arrange(tokens=self.slow, maximum=400)

    def test_accepted(self) -> None:
        """The claims are written when they are there."""
        self.send()
        self.assertEqual(b"", self.arrived())
        self.slow.asked.callback(CheckedToken(TokenVerdict.BOUND, b'{"sub":"alice"}'))
        self.assertEqual({"sub": "alice"}, self.claims(self.arrived()))

    def test_too_large(self) -> None:
        """Claims that are too large are 400 then too."""
        client = self.send()
        self.slow.asked.callback(CheckedToken(TokenVerdict.BOUND, b"{}" * 200))
        self.assertEqual((b"400", b""), (client.sent()[9:12], self.arrived()))
        self.assertIs(TokenVerdict.REJECTED, self.proxy.exchanges[0].token)


class Forged(ClaimsTestCase):
    """A client that writes the header itself."""

    def test_spellings(self) -> None:
        """Each spelling is removed: with a token, without one, and where no rule has a token."""
        token = forever()
        for name in SPELLINGS:
            for arguments in ((token, b"/api"), (None, b"/other"), (token, b"/"), (None, b"/api")):
                self.arrange(TokenRequirement.WHEN_BOUND)
                client = self.send(*arguments, name + b": " + FORGED)
                head = self.arrived()
                self.assertNotIn(FORGED, head, name)
                if head:
                    expected = int(arguments == (token, b"/api"))
                    self.assertEqual(expected, len(self.values(head)), name)
                else:
                    # A name that no request can have.
                    self.assertEqual(b"400", client.sent()[9:12], name)

    def test_named_by_connection(self) -> None:
        """``Connection`` does not remove the proxy's own field."""
        self.send(forever(), b"/api", b"Connection: close, X-Api-Claims", NAME + b": " + FORGED)
        self.assertEqual("client", self.claims(self.arrived())["sub"])

    def test_trailer(self) -> None:
        """Nothing that comes after a body is a field."""
        body = b"0\r\n" + NAME + b": " + FORGED + b"\r\n\r\n"
        sent = (
            request(None, b"/other", b"Transfer-Encoding: chunked").replace(b"GET", b"POST") + body
        )
        self.proxy.client(sent)
        self.assertNotIn(FORGED, self.arrived())

    def test_silent(self) -> None:
        """A forgery is counted, and answered as any request is (L4)."""
        self.send(None, b"/other", NAME + b": " + FORGED)
        self.proxy.back_end.wire.deliver(OK)
        self.assertEqual(1, self.proxy.exchanges[0].forged)

    def test_response(self) -> None:
        """``Vary`` with the header's name reveals nothing: no client's request has it."""
        client = self.send(None, b"/other")
        self.proxy.back_end.wire.deliver(OK.replace(b"\r\n\r\n", b"\r\nVary: x-api-claims\r\n\r\n"))
        self.assertIn(b"Vary: *\r\n", client.sent())

    @settings(max_examples=150)
    @given(
        st.lists(
            st.tuples(st.sampled_from(SPELLINGS), st.sampled_from([FORGED, b"", b"e30"])),
            max_size=6,
        ),
        st.sampled_from([None, OWN_TOKEN, UNBOUND_TOKEN, b"Bearer x", b"Basic eA=="]),
        st.sampled_from([b"/api", b"/api/x", b"/other", b"/"]),
        st.sampled_from([TokenRequirement.BOUND, TokenRequirement.WHEN_BOUND]),
    )
    def test_once_or_not_at_all(
        self,
        forged: list[tuple[bytes, bytes]],
        authorization: bytes | None,
        target: bytes,
        need: TokenRequirement,
    ) -> None:
        """For any request, a back end reads the verified claims once, or none (L1)."""
        self.arrange(need)
        self.send(authorization, target, *(name + b": " + value for name, value in forged))
        head = self.arrived()
        if self.values(head):
            self.assertTrue(target.startswith(b"/api") and authorization is not None)
            self.assertEqual(
                (ISSUER, "client"), (self.claims(head)["iss"], self.claims(head)["sub"])
            )
        elif head:
            good = authorization in {OWN_TOKEN, UNBOUND_TOKEN}
            self.assertFalse(target.startswith(b"/api") and good)


class Removed(ClaimsTestCase):
    """A reload that takes the header out of the configuration, or brings it back."""

    def configuration(self, preset: str) -> Configuration:
        need = RuleSettings(path="/api", token=TokenRequirement.BOUND)
        found = TokenSettings(
            level=TokenLevel.JWT, issuer=ISSUER, audience=(AUDIENCE,), jwks_file="a"
        )
        settings = ProxySettings(
            preset=preset, rules=(need,), validity=Validity.IGNORE, tokens=found
        )
        made = client_identity()
        return Configuration(
            settings,
            Identity(made.certificate, made.private_key),
            (self.proxy.pools[0].backend,),
            HeaderRules.for_preset(find_preset(preset)),
            tokens=TokenFiles(found, key_set()),
        )

    def test_reload(self) -> None:
        """The claims stop with the reload, and a client's own do not take their place."""
        resource = X509ProxyResource.from_configuration(
            self.configuration("token-claims"), MemoryReactorClock()
        )
        resource._pools = tuple(self.proxy.pools)
        self.proxy.factory = ProxyFactory(resource, self.proxy.deadlines, ClientSettings())
        sent = request(OWN_TOKEN, b"/api", b"X-Token-Claims: " + FORGED)
        client = self.proxy.tls_client(certificate())
        for preset, count in (("token-claims", 1), ("rfc9440", 0), ("token-claims", 1)):
            resource.use(self.configuration(preset))
            client.deliver(sent)
            head = self.arrived()
            self.assertNotIn(FORGED, head)
            self.assertEqual(count, head.count(b"X-Token-Claims: "), preset)
            self.proxy.back_end.wire.deliver(OK)
