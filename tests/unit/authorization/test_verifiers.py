"""Tests of :mod:`x509proxy.authorization.verifiers`."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import NOON
from tests.support.tokens import (
    AUDIENCE,
    ISSUER,
    OWN,
    AskedServer,
    bound,
    claims,
    key_set,
    signed,
    unsigned,
)
from x509proxy.authorization.http_client import HttpClient
from x509proxy.authorization.introspection import Introspector
from x509proxy.authorization.key_source import FileKeys, KeyStatus, ServerKeys
from x509proxy.authorization.token_contents import TokenContents
from x509proxy.authorization.verifiers import JwtVerifier, UnverifiedReader, make_verifier
from x509proxy.config.token_files import TokenFiles
from x509proxy.forwarding.bound_tokens import Binding, read_binding
from x509proxy.http1.errors import Code, HttpError
from x509proxy.settings import TokenLevel, TokenSettings

SETTINGS = TokenSettings(
    level=TokenLevel.JWT,
    issuer=ISSUER,
    audience=(AUDIENCE,),
    jwks_url="https://as.example/jwks",
)


def binding() -> Binding | None:
    """Return the binding of the sample tokens."""
    return read_binding(claims())


class Unverified(SynchronousTestCase):
    def setUp(self) -> None:
        self.verifier = UnverifiedReader()
        self.verifier.start()
        self.addCleanup(self.verifier.stop)

    def test_binding(self) -> None:
        """The binding of a JWT is valid for five minutes; an opaque token has none."""
        found = self.verifier.read(bound(), NOON)
        self.assertEqual(TokenContents(binding(), NOON + 300.0), found)
        opaque = self.verifier.read(b"opaque", NOON)
        self.assertEqual(TokenContents(None, NOON + 300.0), opaque)

    def test_no_server(self) -> None:
        """No keys are fetched."""
        self.assertIsNone(self.successResultOf(self.verifier.probe()))
        self.assertEqual(KeyStatus(), self.verifier.status())


class Jwt(SynchronousTestCase):
    def setUp(self) -> None:
        self.verifier = JwtVerifier(SETTINGS, FileKeys(key_set()))

    def code(self, token: bytes) -> Code:
        error: HttpError = self.assertRaises(HttpError, self.verifier.read, token, NOON)
        return error.response.code

    def test_good(self) -> None:
        """The binding of a signed token is valid until it expires, or for five minutes."""
        for expires, expected in ((NOON + 60, NOON + 60), (NOON + 10_000, NOON + 300.0)):
            found = self.verifier.read(signed(claims(exp=expires)), NOON)
            assert isinstance(found, TokenContents)
            self.assertEqual((binding(), expected), (found.binding, found.expires))
            self.assertIsNone(found.rejection)

    def test_bad(self) -> None:
        """A token without a signature, with another key or for another API is rejected."""
        for token in (b"opaque", unsigned(claims()), signed(kid="x"), signed(claims(aud="x"))):
            self.assertIs(Code.TOKEN_INVALID, self.code(token))

    def test_fetched_keys(self) -> None:
        """While the keys are fetched the token waits; a key that the issuer lacks rejects it."""
        server = AskedServer()
        keys = ServerKeys(SETTINGS, cast(HttpClient, server), Clock())
        verifier = JwtVerifier(SETTINGS, keys)
        verifier.start()
        waiting = verifier.read(signed(), NOON)
        unknown = verifier.read(signed(kid="x"), NOON)
        assert isinstance(waiting, Deferred)
        assert isinstance(unknown, Deferred)
        probe = verifier.probe()
        server.answer(key_set())
        found: TokenContents = self.successResultOf(waiting)
        self.assertEqual(binding(), found.binding)
        error: HttpError = self.failureResultOf(unknown, HttpError).value
        self.assertIs(Code.TOKEN_INVALID, error.response.code)
        self.successResultOf(probe)
        self.assertEqual((1, 0), (verifier.status().count, verifier.status().failures))
        verifier.stop()


class Choice(SynchronousTestCase):
    def test_levels(self) -> None:
        """Each level has its verifier; keys in a file need no server."""
        reactor = MemoryReactorClock()
        unverified = TokenSettings(level=TokenLevel.UNVERIFIED)
        introspection = TokenSettings(
            level=TokenLevel.INTROSPECTION,
            issuer=ISSUER,
            introspection_url="https://as.example/introspect",
            client_id="api",
            client_secret_file="secret.txt",
        )
        for files, expected in (
            (TokenFiles(unverified), UnverifiedReader),
            (TokenFiles(SETTINGS), JwtVerifier),
            (TokenFiles(SETTINGS, key_set()), JwtVerifier),
            (TokenFiles(introspection), Introspector),
        ):
            self.assertIs(expected, type(make_verifier(files, reactor)))
        offline = make_verifier(TokenFiles(SETTINGS, key_set()), None)
        found = offline.read(signed(), NOON)
        assert isinstance(found, TokenContents)
        self.assertEqual(Binding(OWN.thumbprint), found.binding)


class Adopting(SynchronousTestCase):
    def verifier(self) -> tuple[JwtVerifier, AskedServer]:
        """Return a verifier whose keys come from a server."""
        server = AskedServer()
        server.trusts_as = lambda _: True  # type: ignore[attr-defined]
        return JwtVerifier(
            SETTINGS, ServerKeys(SETTINGS, cast(HttpClient, server), Clock())
        ), server

    def test_keys(self) -> None:
        """A verifier adopts the keys that another one fetched; those of a file stay."""
        before, server = self.verifier()
        before.start()
        server.answer(key_set())
        after, _ = self.verifier()
        after.adopt(before)
        self.assertEqual(1, after.status().count)
        from_file = JwtVerifier(SETTINGS, FileKeys(key_set()))
        from_file.adopt(before)
        empty, _ = self.verifier()
        empty.adopt(from_file)
        self.assertEqual(0, empty.status().count)
