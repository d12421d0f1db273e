"""Tests of :mod:`x509proxy.authorization.token_check`."""

from __future__ import annotations

from typing import Any, cast
from unittest.mock import patch

from joserfc import jwk
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import NOON
from tests.support.tokens import (
    AUDIENCE,
    ISSUER,
    OTHER,
    OWN,
    AskedServer,
    bound,
    claims,
    key,
    key_set,
    public,
    signed,
    unsigned,
    verdict_of,
)
from x509proxy.authorization import verifiers
from x509proxy.authorization.http_client import HttpClient
from x509proxy.authorization.key_source import ServerKeys
from x509proxy.authorization.token_check import TokenCheck, _Known
from x509proxy.authorization.token_contents import TokenContents
from x509proxy.authorization.verifiers import JwtVerifier
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.config.token_files import TokenFiles
from x509proxy.exchange import TokenVerdict
from x509proxy.forwarding.bound_tokens import Scheme, parse_jws
from x509proxy.forwarding.signed_tokens import check_signature
from x509proxy.forwarding.token_claims import CheckedToken
from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.http1.messages import Framing, RequestHead
from x509proxy.monitoring.snapshot import TokenState
from x509proxy.settings import TokenLevel, TokenRequirement, TokenSettings

PEER = "192.0.2.1"
BOUND, WHEN_BOUND = TokenRequirement.BOUND, TokenRequirement.WHEN_BOUND


def head(*credentials: bytes) -> RequestHead:
    pairs = [(b"Authorization", value) for value in credentials]
    return RequestHead(b"GET", b"/api", "1.1", pairs, b"as.example", Framing.NONE)


class Sizes(SynchronousTestCase):
    def test_size(self) -> None:
        """The size of what is kept counts the claims, and the detail of a rejection (L7)."""
        rejection = ErrorResponse(Code.TOKEN_INVALID, "four")
        for contents, size in (
            (TokenContents(None, NOON), 0),
            (TokenContents(None, NOON, claims=b"{}"), 2),
            (TokenContents(None, NOON, rejection), 4),
        ):
            self.assertEqual(size, _Known(contents, Scheme.BEARER, NOON).size)

    def test_thumbprint(self) -> None:
        """No thumbprint of another length is kept: it would not count."""
        settings = TokenSettings(level=TokenLevel.UNVERIFIED)
        check = TokenCheck.from_files(TokenFiles(settings), Clock())
        request = head(b"Bearer " + bound("a" * 5000))
        with self.assertRaises(HttpError):
            check.check(request, OWN, BOUND, NOON, PEER)
        (known,) = check._rejected._values.values()
        assert known.contents.binding is not None
        self.assertEqual("", known.contents.binding.thumbprint)


class Unverified(SynchronousTestCase):
    """Level ``unverified``: the binding is parsed, and nothing is verified."""

    def setUp(self) -> None:
        settings = TokenSettings(level=TokenLevel.UNVERIFIED, max_token_bytes=1000)
        self.check = TokenCheck.from_files(TokenFiles(settings), Clock())
        self.check.start()
        self.addCleanup(self.check.stop)

    def judge(
        self,
        *credentials: bytes,
        certificate: ClientCertificate | None = OWN,
        requirement: TokenRequirement = BOUND,
        now: float = NOON,
    ) -> TokenVerdict | Deferred[TokenVerdict] | Code:
        """Return the verdict, or the code of the rejection."""
        try:
            return verdict_of(
                self.check.check(head(*credentials), certificate, requirement, now, PEER)
            )
        except HttpError as error:
            return error.response.code

    def test_verdicts(self) -> None:
        """Each kind of request gets its verdict, with and without a required binding."""
        for credentials, needed, allowed in (
            ((), Code.TOKEN_MISSING, TokenVerdict.ABSENT),
            ((b"Basic eA==",), Code.TOKEN_MISSING, TokenVerdict.ABSENT),
            ((b"Bearer " + bound(),), TokenVerdict.BOUND, TokenVerdict.BOUND),
            ((b"bearer " + bound(),), TokenVerdict.BOUND, TokenVerdict.BOUND),
            ((b"Bearer " + bound(OTHER.thumbprint),), Code.TOKEN_MISMATCH, Code.TOKEN_MISMATCH),
            ((b"Bearer opaque",), Code.TOKEN_INVALID, TokenVerdict.UNBOUND),
            ((b"Bearer " + unsigned({}),), Code.TOKEN_NOT_BOUND, TokenVerdict.UNBOUND),
            ((b"Bearer " + unsigned({"cnf": 1}),), Code.TOKEN_MALFORMED, Code.TOKEN_MALFORMED),
            ((b"Bearer",), Code.TOKEN_MALFORMED, Code.TOKEN_MALFORMED),
            ((b"Bearer " + b"a" * 1001,), Code.TOKEN_TOO_LARGE, Code.TOKEN_TOO_LARGE),
            ((b"DPoP " + unsigned({"cnf": {"jkt": "a"}}),), TokenVerdict.DPOP, TokenVerdict.DPOP),
        ):
            for _ in range(2):
                self.assertIs(needed, self.judge(*credentials), credentials)
                self.assertIs(
                    allowed, self.judge(*credentials, requirement=WHEN_BOUND), credentials
                )

    def test_replay(self) -> None:
        """An accepted and cached token is rejected with any other certificate (WSO2 #11521)."""
        token = b"Bearer " + bound()
        for _ in range(2):
            self.assertIs(TokenVerdict.BOUND, self.judge(token))
            for certificate in (OTHER, None):
                for requirement in (BOUND, WHEN_BOUND):
                    found = self.judge(token, certificate=certificate, requirement=requirement)
                    self.assertIs(Code.TOKEN_MISMATCH, found)

    def test_poisoning(self) -> None:
        """A stranger who sends a token first does not lock its owner out."""
        token = b"Bearer " + bound()
        self.assertIs(Code.TOKEN_MISMATCH, self.judge(token, certificate=OTHER))
        self.assertIs(TokenVerdict.BOUND, self.judge(token))

    def test_rejected_tokens(self) -> None:
        """Rejected tokens are cached, and do not evict accepted ones."""
        good = b"Bearer " + bound()
        with patch.object(verifiers, "parse_jws", wraps=parse_jws) as parse:
            self.assertIs(TokenVerdict.BOUND, self.judge(good))
            for number in range(9000):
                self.assertIs(Code.TOKEN_INVALID, self.judge(b"Bearer opaque-%d" % number))
            self.assertEqual(9001, parse.call_count)
            self.judge(good)
            self.judge(b"Bearer opaque-8999")
            self.assertEqual(9001, parse.call_count)
            self.judge(b"Bearer opaque-0")
            self.assertEqual(9002, parse.call_count)
            self.check.forget()
            self.judge(b"Bearer opaque-8999")
            self.assertEqual(9003, parse.call_count)

    def test_requirement(self) -> None:
        """A token accepted without a binding is rejected where a binding is required."""
        token = b"Bearer " + unsigned({})
        self.assertIs(TokenVerdict.UNBOUND, self.judge(token, requirement=WHEN_BOUND))
        self.assertIs(Code.TOKEN_NOT_BOUND, self.judge(token))

    def test_once(self) -> None:
        """The same token with the same certificate is parsed once, until its entry expires."""
        with patch.object(verifiers, "parse_jws", wraps=parse_jws) as parse:
            for now in (NOON, NOON + 1, NOON + 299):
                self.judge(b"Bearer " + bound(), now=now)
            self.assertEqual(1, parse.call_count)
            self.judge(b"Bearer " + bound(), now=NOON + 301)
            self.assertEqual(2, parse.call_count)
            self.check.forget()
            self.judge(b"Bearer " + bound(), now=NOON + 301)
            self.assertEqual(3, parse.call_count)

    def test_claims(self) -> None:
        """Unverified claims are not forwarded."""
        found = self.check.check(head(b"Bearer " + bound()), OWN, BOUND, NOON, PEER)
        self.assertEqual(CheckedToken(TokenVerdict.BOUND, b""), found)

    def test_status(self) -> None:
        """The status has no keys."""
        self.assertEqual(TokenState(level="unverified"), self.check.state())


class Signed(SynchronousTestCase):
    """Level ``jwt``: the signature is verified."""

    def setUp(self) -> None:
        self.arrange()

    def arrange(self, **changes: Any) -> None:
        self.server = AskedServer()
        self.clock = Clock()
        settings = TokenSettings(
            level=TokenLevel.JWT,
            issuer=ISSUER,
            audience=(AUDIENCE,),
            jwks_url="https://as.example/jwks",
            **changes,
        )
        keys = ServerKeys(settings, cast(HttpClient, self.server), self.clock)
        self.check = TokenCheck(settings, JwtVerifier(settings, keys))

    def judge(
        self,
        token: bytes,
        certificate: ClientCertificate | None = OWN,
        requirement: TokenRequirement = BOUND,
        now: float = NOON,
        peer: str = PEER,
    ) -> TokenVerdict | Deferred[TokenVerdict] | Code:
        try:
            found = self.check.check(head(b"Bearer " + token), certificate, requirement, now, peer)
            return verdict_of(found)
        except HttpError as error:
            return error.response.code

    def wait(
        self, token: bytes, certificate: ClientCertificate = OWN, peer: str = PEER
    ) -> Deferred[TokenVerdict]:
        found = self.judge(token, certificate, peer=peer)
        assert isinstance(found, Deferred)
        return found

    def code(self, found: Deferred[TokenVerdict]) -> Code:
        error: HttpError = self.failureResultOf(found, HttpError).value
        return error.response.code

    def fetch(self) -> None:
        self.check.start()
        self.server.answer(key_set())

    def test_waiting(self) -> None:
        """Each request that waits for the keys is judged by its own certificate."""
        own, other = self.wait(signed()), self.wait(signed(), OTHER)
        self.assertEqual(2, self.check.state().pending)
        self.server.answer(key_set())
        self.assertIs(TokenVerdict.BOUND, self.successResultOf(own))
        self.assertIs(Code.TOKEN_MISMATCH, self.code(other))
        self.assertEqual(0, self.check.pending)
        self.assertIs(TokenVerdict.BOUND, self.judge(signed()))

    def test_probe(self) -> None:
        """A check without a request returns the resulting state."""
        probe = self.check.probe()
        self.server.answer(key_set())
        self.assertEqual(1, self.successResultOf(probe).keys)

    def test_adopted(self) -> None:
        """After a reload the keys of the former check are used; another level has none."""
        self.fetch()
        before = self.check
        self.arrange()
        self.server.trusts_as = lambda _: True  # type: ignore[attr-defined]
        self.check.adopt(before)
        self.assertEqual(1, self.check.state().keys)
        settings = TokenSettings(level=TokenLevel.UNVERIFIED)
        unverified = TokenCheck.from_files(TokenFiles(settings), Clock())
        unverified.adopt(before)
        self.assertEqual(0, unverified.state().keys)

    def test_rejected_by_the_verifier(self) -> None:
        """Contents that make a token invalid reject it with every certificate, and with none."""
        response = ErrorResponse(Code.TOKEN_EXPIRED, "expired")
        contents = TokenContents(None, NOON + 60, response)
        self.patch(JwtVerifier, "read", lambda *_: contents)
        for certificate in (OWN, OTHER, None):
            found = self.judge(b"a.b.c", certificate, WHEN_BOUND)
            self.assertIs(Code.TOKEN_EXPIRED, found)

    def test_waiting_in_vain(self) -> None:
        """After the wait for keys, an invalid signature is rejected; without keys it is 503."""
        bad = self.wait(signed()[:-8] + b"AAAAAAAA")
        self.server.answer(key_set())
        self.assertIs(Code.TOKEN_INVALID, self.code(bad))
        self.arrange()
        waiting = self.wait(signed())
        self.server.fail()
        self.assertIs(Code.TOKEN_UNVERIFIABLE, self.code(waiting))
        self.assertEqual(0, self.check.pending)

    def test_no_certificate(self) -> None:
        """A bearer token without a certificate is 401 where a binding is required, unread.

        Other requests are read: a DPoP token is bound to another key.
        """
        for token in (signed(), b"opaque", signed(claims(cnf=None))):
            self.assertIs(Code.TOKEN_MISMATCH, self.judge(token, None))
        self.assertEqual([], self.server.urls)
        self.judge(signed(), None, WHEN_BOUND)
        self.assertEqual(1, len(self.server.urls))
        found = self.check.check(head(b"DPoP " + signed()), None, BOUND, NOON, PEER)
        self.assertIsInstance(found, Deferred)

    def test_left(self) -> None:
        """A cancelled request makes room."""
        waiting = self.wait(signed())
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(0, self.check.pending)

    def test_full(self) -> None:
        """The number of waiting requests is limited: the next one is 503, the others go on."""
        self.arrange(max_pending_checks=2)
        waiting = [self.wait(signed()) for _ in range(2)]
        self.assertIs(Code.TOKEN_CHECKS_FULL, self.judge(signed()))
        self.assertEqual(2, self.check.state().pending)
        self.server.answer(key_set())
        for one in waiting:
            self.assertIs(TokenVerdict.BOUND, self.successResultOf(one))

    def test_address(self) -> None:
        """One address has a share of the waiting requests: its next one is 503, others go on.

        A share that has ended is free again. An IPv6 network of a subscriber counts as one.
        """
        self.arrange(max_pending_checks_per_address=2)
        for peers in ((PEER, PEER), ("2001:db8::1", "2001:db8::2")):
            first, _ = [self.wait(signed(), peer=peer) for peer in peers]
            self.assertIs(Code.TOKEN_ADDRESS_FULL, self.judge(signed(), peer=peers[0]))
            first.cancel()
            self.failureResultOf(first, CancelledError)
            self.wait(signed(), peer=peers[0])
        self.assertEqual(4, self.check.pending)
        self.wait(signed(), peer="192.0.2.2")
        self.server.answer(key_set())
        self.assertEqual((0, {}), (self.check.pending, dict(self.check._pending_of)))

    def test_no_address(self) -> None:
        """Clients on a unix socket have no address, and so no share."""
        self.arrange(max_pending_checks_per_address=1)
        for _ in range(3):
            self.wait(signed(), peer="unknown")
        self.assertEqual(3, self.check.pending)

    def test_verdicts(self) -> None:
        """Each hostile token gets its code, on the first check and on the second."""
        self.fetch()
        stranger = jwk.generate_key("EC", "P-256", {"kid": "one"})
        for token, code in (
            (signed(signer=stranger), Code.TOKEN_INVALID),
            (bound(), Code.TOKEN_INVALID),
            (signed(claims(iss="https://evil.example")), Code.TOKEN_INVALID),
            (signed(claims(aud="x")), Code.TOKEN_INVALID),
            (signed(claims(exp=NOON)), Code.TOKEN_EXPIRED),
            (signed(claims(cnf=None)), Code.TOKEN_NOT_BOUND),
            (signed(claims(cnf={"x5t#S256": OTHER.thumbprint})), Code.TOKEN_MISMATCH),
            (signed(claims(cnf=1)), Code.TOKEN_MALFORMED),
            (signed(kid="unknown"), Code.TOKEN_INVALID),
            (signed(typ="JWT"), Code.TOKEN_INVALID),
            (b"opaque", Code.TOKEN_INVALID),
        ):
            for _ in range(2):
                self.assertIs(code, self.judge(token), token)

    def test_when_bound(self) -> None:
        """Without a required binding, a token is verified too: opaque and foreign ones are 401."""
        self.fetch()
        self.assertIs(TokenVerdict.UNBOUND, self.judge(signed(claims(cnf=None)), None, WHEN_BOUND))
        for token in (b"opaque", unsigned({})):
            self.assertIs(Code.TOKEN_INVALID, self.judge(token, None, WHEN_BOUND))

    def test_remembered_no_longer_than_good(self) -> None:
        """A cached token expires to the second."""
        self.fetch()
        self.assertIs(TokenVerdict.BOUND, self.judge(signed()))
        self.assertIs(TokenVerdict.BOUND, self.judge(signed(), now=NOON + 59.9))
        self.assertIs(Code.TOKEN_EXPIRED, self.judge(signed(), now=NOON + 60))

    def test_verified_once(self) -> None:
        """A signature is verified once per token and certificate, and again after five minutes."""
        self.fetch()
        token = signed(claims(exp=NOON + 10000))
        with patch.object(verifiers, "check_signature", wraps=check_signature) as check:
            for certificate in (OWN, OWN, OTHER, OTHER, OWN):
                self.judge(token, certificate)
            self.assertEqual(2, check.call_count)
            self.judge(token, now=NOON + 301)
            self.assertEqual(3, check.call_count)

    def test_withdrawn_key(self) -> None:
        """A token with a withdrawn key is rejected once its verdict has left the cache."""
        self.fetch()
        token = signed(claims(exp=NOON + 10000))
        self.assertIs(TokenVerdict.BOUND, self.judge(token))
        self.clock.advance(3600)
        waiting = self.wait(signed(kid="x"))
        self.server.answer(key_set(*public(key("ES256", "two"))))
        self.assertIs(Code.TOKEN_INVALID, self.code(waiting))
        self.assertIs(Code.TOKEN_INVALID, self.judge(token, now=NOON + 301))

    def test_from_file(self) -> None:
        """Keys in a file need no server."""
        settings = TokenSettings(level=TokenLevel.JWT, issuer=ISSUER, audience=(AUDIENCE,))
        self.check = TokenCheck.from_files(TokenFiles(settings, key_set()), Clock())
        self.check.start()
        self.assertIs(TokenVerdict.BOUND, self.judge(signed()))
        self.assertEqual(TokenState(level="jwt", issuer=ISSUER, keys=1), self.check.state())
        self.check.stop()

    def test_from_server(self) -> None:
        """Without a file the keys are fetched."""
        settings = TokenSettings(level=TokenLevel.JWT, issuer=ISSUER, audience=(AUDIENCE,))
        check = TokenCheck.from_files(TokenFiles(settings), MemoryReactorClock())
        self.assertEqual(0, check.state().keys)
