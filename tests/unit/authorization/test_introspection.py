"""Tests of :mod:`x509proxy.authorization.introspection`."""

from __future__ import annotations

from base64 import b64decode
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import NOON
from tests.support.tokens import AUDIENCE, ISSUER, OTHER, OWN, AskedServer, verdict_of
from x509proxy.authorization.http_client import HttpClient
from x509proxy.authorization.introspection import Introspector
from x509proxy.authorization.token_check import TokenCheck
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.config.token_files import TokenFiles
from x509proxy.exchange import TokenVerdict
from x509proxy.forwarding.token_claims import CheckedToken
from x509proxy.http1.errors import Code, HttpError
from x509proxy.http1.messages import Framing, RequestHead
from x509proxy.settings import TokenLevel, TokenRequirement, TokenSettings

PEER = "192.0.2.1"
BOUND, WHEN_BOUND = TokenRequirement.BOUND, TokenRequirement.WHEN_BOUND
URL = "https://as.example/introspect"
SECRET = "s e:cret"
ACTIVE: dict[str, object] = {"active": True, "token_type": "Bearer"}
GOOD = {**ACTIVE, "cnf": {"x5t#S256": OWN.thumbprint}}


class IntrospectionTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.arrange()

    def arrange(self, secret: str | None = SECRET, **changes: Any) -> None:
        self.server = AskedServer()
        given: dict[str, Any] = {
            "level": TokenLevel.INTROSPECTION,
            "introspection_url": URL,
            "client_id": "api:1",
            "client_secret_file": "a",
            **changes,
        }
        settings = TokenSettings(**given)
        files = TokenFiles(settings, client_secret=secret)
        self.introspector = Introspector(files, cast(HttpClient, self.server))
        self.check = TokenCheck(settings, self.introspector)
        self.check.start()
        self.addCleanup(self.check.stop)

    def judge(
        self,
        token: bytes = b"opaque",
        certificate: ClientCertificate | None = OWN,
        requirement: TokenRequirement = BOUND,
        now: float = NOON,
    ) -> TokenVerdict | Deferred[TokenVerdict] | Code:
        pairs = [(b"Authorization", b"Bearer " + token)]
        head = RequestHead(b"GET", b"/api", "1.1", pairs, b"as.example", Framing.NONE)
        try:
            return verdict_of(self.check.check(head, certificate, requirement, now, PEER))
        except HttpError as error:
            return error.response.code

    def wait(self, *arguments: Any, **more: Any) -> Deferred[TokenVerdict]:
        found = self.judge(*arguments, **more)
        assert isinstance(found, Deferred)
        return found

    def result(self, found: Deferred[TokenVerdict]) -> TokenVerdict | Code:
        results: list[Any] = []
        found.addBoth(results.append)
        (result,) = results
        if isinstance(result, Failure):
            error: HttpError = result.value  # type: ignore[assignment]
            return error.response.code
        verdict: TokenVerdict = result
        return verdict

    def ask(self, response: object, status: int = 200, **more: Any) -> TokenVerdict | Code:
        """Return the verdict on an unknown token, after this response."""
        waiting = self.wait(**more)
        self.server.answer(response, status)
        return self.result(waiting)


class Asking(IntrospectionTestCase):
    def test_request(self) -> None:
        """The token is sent in a form, with the client's name and secret.

        RFC 7662 section 2.1, RFC 6749 section 2.3.1.
        """
        self.wait(b"a+b/c=")
        ((form, fields),) = self.server.forms
        self.assertEqual([URL], self.server.urls)
        self.assertEqual({"token": ["a+b/c="], "token_type_hint": ["access_token"]}, form)
        kind, _, credentials = fields["Authorization"].partition(" ")
        self.assertEqual(("Basic", b"api%3A1:s+e%3Acret"), (kind, b64decode(credentials)))

    def test_certificate(self) -> None:
        """A client that authenticates by certificate sends its name in the form.

        RFC 8705 section 2.
        """
        self.arrange(None, client_secret_file=None, certificate="a")
        self.wait()
        ((form, fields),) = self.server.forms
        self.assertEqual((["api:1"], {}), (form["client_id"], fields))

    def test_metadata(self) -> None:
        """The issuer's metadata names the endpoint.

        It is fetched once for all tokens; a failure is not cached.
        """
        self.arrange(introspection_url=None, issuer=ISSUER)
        first, second = self.wait(b"a"), self.wait(b"b")
        self.assertEqual(1, len(self.server.urls))
        self.server.fail()
        for one in (first, second):
            self.assertIs(Code.TOKEN_UNVERIFIABLE, self.result(one))
        first, second = self.wait(b"a"), self.wait(b"b")
        self.server.answer({"issuer": ISSUER, "introspection_endpoint": URL})
        self.assertEqual([URL, URL], self.server.urls[-2:])
        self.assertEqual(4, len(self.server.urls))
        self.wait(b"c")
        self.assertEqual(URL, self.server.urls[4])

    def test_alias(self) -> None:
        """With a certificate, the alias of the endpoint is used (RFC 8705 section 5)."""
        alias = "https://mtls.as.example/introspect"
        found = {"issuer": ISSUER, "introspection_endpoint": URL}
        with_alias = {**found, "mtls_endpoint_aliases": {"introspection_endpoint": alias}}
        for secret, metadata, expected in (
            (None, with_alias, alias),
            (None, found, URL),
            (None, {**found, "mtls_endpoint_aliases": {"token_endpoint": alias}}, URL),
            (None, {**found, "mtls_endpoint_aliases": [alias]}, URL),
            (SECRET, with_alias, URL),
        ):
            own = {} if secret else {"client_secret_file": None, "certificate": "a"}
            self.arrange(secret, introspection_url=None, issuer=ISSUER, **own)
            self.wait()
            self.server.answer(metadata)
            self.assertEqual(expected, self.server.urls[-1])

    def test_bad_alias(self) -> None:
        """An alias that is no https URL is an error like any other."""
        self.arrange(
            None, introspection_url=None, issuer=ISSUER, client_secret_file=None, certificate="a"
        )
        aliases = {"introspection_endpoint": "http://mtls.as.example/introspect"}
        metadata = {
            "issuer": ISSUER, "introspection_endpoint": URL, "mtls_endpoint_aliases": aliases
        }  # fmt: skip
        self.assertIs(Code.TOKEN_UNVERIFIABLE, self.ask(metadata))
        self.assertIn("introspection_endpoint: found http", self.introspector.status().error)

    def test_probe(self) -> None:
        """A check introspects a token that does not exist; the status has the result."""
        for status, error in ((200, ""), (401, "found status 401, expected 200")):
            self.arrange()
            probe = self.introspector.probe()
            self.server.answer({"active": False}, status)
            self.assertIsNone(self.successResultOf(probe))
            self.assertEqual(error, self.introspector.status().error)

    def test_shared(self) -> None:
        """Requests with the same token share one response.

        Each is judged by its own certificate.
        """
        own, other = self.wait(), self.wait(certificate=OTHER)
        none = self.wait(certificate=None, requirement=WHEN_BOUND)
        self.assertEqual(1, len(self.server.urls))
        self.server.answer(GOOD)
        self.assertEqual(
            [TokenVerdict.BOUND, Code.TOKEN_MISMATCH, Code.TOKEN_MISMATCH],
            [self.result(one) for one in (own, other, none)],
        )

    def test_left(self) -> None:
        """When all its clients have left, a call is cancelled."""
        first, second = self.wait(), self.wait(certificate=OTHER)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(0, self.server.cancelled)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(1, self.server.cancelled)
        self.assertEqual(0, self.check.pending)
        self.assertIs(TokenVerdict.BOUND, self.ask(GOOD))

    def test_left_is_no_failure(self) -> None:
        """A client that leaves counts as no failure of the server.

        Otherwise clients could make the server appear down.
        """
        waiting = self.wait()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        state = self.check.state()
        self.assertEqual((0, ""), (state.failures, state.error))

    def test_full(self) -> None:
        """The number of pending checks is limited."""
        self.arrange(max_pending_checks=1)
        waiting = self.wait(b"a")
        self.assertIs(Code.TOKEN_CHECKS_FULL, self.judge(b"b"))
        self.assertEqual((1, 1), (self.server.cancelled, self.check.pending))
        self.server.asked[0][1].callback(None)  # type: ignore[arg-type]
        self.failureResultOf(waiting, AttributeError)


class Claims(IntrospectionTestCase):
    def checked(self, response: object) -> CheckedToken:
        """Return the result of a token's first check, and check that the second one is the same."""
        pairs = [(b"Authorization", b"Bearer opaque")]
        head = RequestHead(b"GET", b"/api", "1.1", pairs, b"as.example", Framing.NONE)
        waiting = self.check.check(head, OWN, WHEN_BOUND, NOON, PEER)
        assert isinstance(waiting, Deferred)
        self.server.answer(response)
        found: CheckedToken = self.successResultOf(waiting)
        self.assertEqual(found, self.check.check(head, OWN, WHEN_BOUND, NOON, PEER))
        return found

    def test_response(self) -> None:
        """The claims are the bytes that the server sent."""
        for body in (
            b'{"active":true,"token_type":"Bearer","sub":"\xc3\xa9"}',
            b'{ "active": true,\r\n"token_type": "Bearer", "cnf": {"x5t#S256": "%b"} }'
            % OWN.thumbprint.encode(),
        ):
            self.arrange()
            self.assertEqual(body, self.checked(body).claims)

    def test_dpop(self) -> None:
        """Claims of a DPoP-bound token are not forwarded: the back end must verify the proof."""
        found = self.checked({**ACTIVE, "cnf": {"jkt": "a"}})
        self.assertEqual(CheckedToken(TokenVerdict.DPOP), found)


class Contents(IntrospectionTestCase):
    def test_verdicts(self) -> None:
        """An active token is judged by its ``cnf``."""
        for response, needed, allowed in (
            (GOOD, TokenVerdict.BOUND, TokenVerdict.BOUND),
            (
                {**ACTIVE, "cnf": {"x5t#S256": OTHER.thumbprint}},
                Code.TOKEN_MISMATCH,
                Code.TOKEN_MISMATCH,
            ),
            (ACTIVE, Code.TOKEN_NOT_BOUND, TokenVerdict.UNBOUND),
            ({**ACTIVE, "cnf": "x"}, Code.TOKEN_MALFORMED, Code.TOKEN_MALFORMED),
            ({"active": False}, Code.TOKEN_INVALID, Code.TOKEN_INVALID),
        ):
            self.arrange()
            self.assertIs(needed, self.ask(response))
            self.assertIs(allowed, self.judge(requirement=WHEN_BOUND))
            self.assertIs(needed, self.judge())

    def test_not_good(self) -> None:
        """A token that is inactive, expired or not an access token is 401, with any certificate."""
        changes: tuple[dict[str, object], ...] = (
            {"active": False},
            {"active": "true"},
            {"active": 1},
            {"active": None},
            {"token_type": "refresh_token"},
            {"token_type": 1},
            {"exp": NOON},
            {"exp": NOON - 1},
            {"exp": "1"},
            {"exp": True},
            {"exp": None},
            {"nbf": NOON + 1},
            {"nbf": []},
        )
        for change in changes:
            self.arrange()
            self.assertIs(Code.TOKEN_INVALID, self.ask({**GOOD, **change}), change)
            self.assertIs(Code.TOKEN_INVALID, self.judge(requirement=WHEN_BOUND), change)
        self.arrange()
        self.assertIs(Code.TOKEN_INVALID, self.ask({"cnf": {"x5t#S256": OWN.thumbprint}}))

    def test_refresh_token(self) -> None:
        """An active token without ``token_type`` and ``aud`` may be a refresh token, and is 401.

        RFC 7662 requires neither. Where an audience is configured, ``aud`` decides. Keycloak
        sends its ``typ`` in place of ``token_type``.
        """
        untyped = {name: value for name, value in GOOD.items() if name != "token_type"}
        for audience, response, verdict in (
            ((), untyped, Code.TOKEN_INVALID),
            ((), {**untyped, "aud": AUDIENCE}, Code.TOKEN_INVALID),
            ((), {**untyped, "token_type": None}, Code.TOKEN_INVALID),
            ((), {**untyped, "typ": "Refresh"}, Code.TOKEN_INVALID),
            ((), {**GOOD, "typ": "Refresh", "token_type": "Refresh"}, Code.TOKEN_INVALID),
            ((), {**untyped, "typ": "Bearer", "token_type": None}, Code.TOKEN_INVALID),
            ((), {**untyped, "typ": "Bearer"}, TokenVerdict.BOUND),
            ((AUDIENCE,), {**untyped, "aud": AUDIENCE, "typ": "JWT"}, TokenVerdict.BOUND),
            ((), {**untyped, "token_type": "access_token"}, TokenVerdict.BOUND),
            ((AUDIENCE,), untyped, Code.TOKEN_INVALID),
            ((AUDIENCE,), {**untyped, "aud": AUDIENCE}, TokenVerdict.BOUND),
            ((AUDIENCE,), {**GOOD, "aud": AUDIENCE, "token_type": "refresh"}, Code.TOKEN_INVALID),
        ):
            self.arrange(audience=audience)
            self.assertIs(verdict, self.ask(response), (audience, response))

    def test_details(self) -> None:
        """A detail for the log names what was found and expected."""
        expected: dict[str, Any] = {"issuer": ISSUER, "audience": (AUDIENCE,)}
        for change, detail in (
            ({"active": False}, "active False, expected true"),
            ({"token_type": "refresh"}, "token_type 'refresh', expected Bearer or DPoP"),
            ({"iss": "x"}, f"iss 'x', expected {ISSUER} (tokens.issuer)"),
            ({"aud": "x"}, f"aud 'x', expected {AUDIENCE} (tokens.audience)"),
            ({"exp": "1"}, "exp '1', expected a number"),
            ({"exp": 1}, f"exp 1, expected a time after {NOON:.0f} (tokens.clock-skew)"),
            (
                {"nbf": NOON + 9},
                f"nbf {NOON + 9}, expected {NOON:.0f} or before (tokens.clock-skew)",
            ),
        ):
            self.arrange(**expected)
            waiting = self.introspector.read(b"opaque", NOON)
            self.server.answer({**GOOD, "aud": AUDIENCE, **change})
            rejection = self.successResultOf(waiting).rejection
            assert rejection is not None
            self.assertEqual(f"access token: found {detail}", rejection.detail)

    def test_good(self) -> None:
        """Token types are compared without case; times within their limits change nothing."""
        for change in (
            {"token_type": "Bearer"},
            {"token_type": "DPoP"},
            {"exp": NOON + 1},
            {"nbf": NOON},
        ):
            self.arrange()
            self.assertIs(TokenVerdict.BOUND, self.ask({**GOOD, **change}), change)

    def test_skew(self) -> None:
        """Clocks may differ by the configured skew."""
        self.arrange(clock_skew=5.0)
        self.assertIs(TokenVerdict.BOUND, self.ask({**GOOD, "exp": NOON - 4, "nbf": NOON + 5}))
        self.assertIs(TokenVerdict.BOUND, self.judge(now=NOON + 0.9))
        self.assertIsInstance(self.judge(now=NOON + 1), Deferred)

    def test_issuer_and_audience(self) -> None:
        """A configured audience is required; a configured issuer must match if one is present."""
        expected: dict[str, Any] = {"issuer": ISSUER, "audience": (AUDIENCE,)}
        for change, verdict in (
            ({"iss": ISSUER, "aud": AUDIENCE}, TokenVerdict.BOUND),
            ({"aud": ["x", AUDIENCE]}, TokenVerdict.BOUND),
            ({"iss": "x", "aud": AUDIENCE}, Code.TOKEN_INVALID),
            ({"iss": None, "aud": AUDIENCE}, Code.TOKEN_INVALID),
            ({"iss": ISSUER}, Code.TOKEN_INVALID),
            ({"aud": "x"}, Code.TOKEN_INVALID),
            ({"aud": {AUDIENCE: 1}}, Code.TOKEN_INVALID),
            ({"aud": [[AUDIENCE]]}, Code.TOKEN_INVALID),
        ):
            self.arrange(**expected)
            self.assertIs(verdict, self.ask({**GOOD, **change}), change)


class Remembering(IntrospectionTestCase):
    def test_good(self) -> None:
        """A good response is cached for its time, and never longer than the token is valid."""
        self.ask(GOOD)
        self.assertIs(TokenVerdict.BOUND, self.judge(now=NOON + 59))
        self.assertIsInstance(self.judge(now=NOON + 60), Deferred)
        self.arrange()
        self.ask({**GOOD, "exp": NOON + 10})
        self.assertIs(TokenVerdict.BOUND, self.judge(now=NOON + 9))
        self.assertIsInstance(self.judge(now=NOON + 10), Deferred)

    def test_bad(self) -> None:
        """A bad response is cached for a shorter time."""
        for response in ({"active": False}, {**ACTIVE, "cnf": 1}):
            self.arrange()
            self.ask(response)
            self.assertIsInstance(self.judge(now=NOON + 4.9), Code)
            self.assertIsInstance(self.judge(now=NOON + 5), Deferred)

    def test_error_about_the_token(self) -> None:
        """A 400 about the token rejects it for ``negative-cache-time``; the server has not failed.

        oidc-provider rejects each JWT in this way.
        """
        for error in (
            {"error": "unsupported_token_type"},
            {"error": "invalid_request", "error_description": "The token is malformed"},
        ):
            self.arrange()
            self.assertIs(Code.TOKEN_INVALID, self.ask(error, 400))
            self.assertIs(Code.TOKEN_INVALID, self.judge(now=NOON + 4.9))
            self.assertIsInstance(self.judge(now=NOON + 5), Deferred)
            self.assertEqual((0, ""), (self.check.state().failures, self.check.state().error))

    def test_error_ends_failure(self) -> None:
        """A 400 about the token shows that the server responds again."""
        waiting = self.wait()
        self.server.fail()
        self.assertIs(Code.TOKEN_UNVERIFIABLE, self.result(waiting))
        self.ask({"error": "unsupported_token_type"}, 400)
        self.assertEqual("", self.check.state().error)

    def test_another_certificate(self) -> None:
        """A cached token is introspected again with another certificate, and rejected.

        WSO2 #11521.
        """
        self.ask(GOOD)
        self.assertIs(Code.TOKEN_MISMATCH, self.ask(GOOD, certificate=OTHER))
        self.assertIs(Code.TOKEN_MISMATCH, self.judge(certificate=OTHER))
        self.assertIs(TokenVerdict.BOUND, self.judge())

    def test_token_is_not_kept(self) -> None:
        """Neither the cache nor the state for the log holds the token or the secret."""
        self.ask(GOOD)
        self.wait(b"another-token").addErrback(lambda _: None)
        self.server.fail()
        told = repr(vars(self.check)) + repr(self.check._cache._values) + repr(self.check.state())
        for secret in ("opaque", "another-token", "s e:cret", "s+e%3Acret"):
            self.assertNotIn(secret, told)


class Down(IntrospectionTestCase):
    def test_unreachable(self) -> None:
        """While the server does not respond, a token is 503, and nothing is cached."""
        waiting = self.wait()
        self.server.fail()
        self.assertIs(Code.TOKEN_UNVERIFIABLE, self.result(waiting))
        self.assertIs(TokenVerdict.BOUND, self.ask(GOOD))
        self.assertEqual((1, ""), (self.check.state().failures, self.check.state().error))

    def test_remembered(self) -> None:
        """Meanwhile, cached tokens are accepted."""
        self.ask(GOOD)
        waiting = self.wait(b"b")
        self.server.fail()
        self.assertIs(Code.TOKEN_UNVERIFIABLE, self.result(waiting))
        self.assertIs(TokenVerdict.BOUND, self.judge())

    def test_lies(self) -> None:
        """An invalid response is 503: it neither accepts nor blames the token."""
        for response, status in (
            (b"<html>secret", 200),
            (b"", 200),
            (b'{"active":true', 200),
            ([GOOD], 200),
            (b'{"active":false,"active":true}', 200),
            (b"\xff", 200),
            (b"[" * 20000, 200),
            (GOOD, 302),
            (GOOD, 401),
            (GOOD, 500),
            (GOOD, 400),
            (b"<html>secret", 400),
            ({"error": "invalid_client"}, 400),
            ({"error": "invalid_request"}, 400),
            ({"error": "invalid_request", "error_description": "Malformed form"}, 400),
            ({"error": "invalid_request", "error_description": "Missing token parameter"}, 400),
            ({"error": "invalid_request", "error_description": "Token not provided"}, 400),
            ({"error": "unsupported_token_type"}, 401),
            (b'{"active":true,"a":NaN}', 200),
        ):
            self.assertIs(Code.TOKEN_UNVERIFIABLE, self.ask(response, status))
            self.assertNotIn("secret", self.check.state().error)
        self.assertEqual(19, self.check.state().failures)

    def test_warning(self) -> None:
        """The log says once why the server fails, and again when it fails for another reason."""
        with capturedLogs() as events:
            for status in (500, 500, 401, 200):
                self.ask(b"", status)
        self.assertEqual(
            [
                (LogLevel.warn, f"tokens: introspection: {sentence}")
                for sentence in (
                    "found status 500, expected 200",
                    "found status 401, expected 200",
                    "response is not strict JSON",
                )
            ],
            [(event["log_level"], formatEvent(event)) for event in events],
        )

    def test_unexpected(self) -> None:
        """An unexpected error is passed on to the relay, which responds with 502."""
        waiting = self.wait()
        self.server.fail(ZeroDivisionError())
        self.failureResultOf(waiting, ZeroDivisionError)
        self.assertEqual(0, self.check.pending)


class Made(SynchronousTestCase):
    def test_from_files(self) -> None:
        """Level ``introspection`` uses an :class:`Introspector`."""
        settings = TokenSettings(
            level=TokenLevel.INTROSPECTION,
            introspection_url=URL,
            client_id="a",
            client_secret_file="b",
        )
        check = TokenCheck.from_files(TokenFiles(settings, client_secret="c"), Clock())
        self.assertIsInstance(check._verifier, Introspector)
