"""Tests of :mod:`x509proxy.authorization.key_source`."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import NOON
from tests.support.tokens import AUDIENCE, ISSUER, AskedServer, key, key_set, public
from x509proxy.authorization.http_client import HttpClient
from x509proxy.authorization.key_source import FileKeys, ServerKeys
from x509proxy.forwarding.signed_tokens import SigningKey
from x509proxy.http1.errors import Code, HttpError
from x509proxy.settings import TokenAlgorithm, TokenLevel, TokenSettings

ES256 = TokenAlgorithm.ES256
JWKS = "https://as.example/jwks"
TWO = key_set(*public(key(), key("ES256", "two")))


class File(SynchronousTestCase):
    def test_keys(self) -> None:
        """The keys of a file are available at once, without a fetch."""
        keys = FileKeys(key_set())
        keys.start()
        self.assertIsNotNone(keys.find("one", ES256, NOON))
        self.assertIsNone(keys.find("two", ES256, NOON))
        self.assertIsNone(self.successResultOf(keys.probe()))
        self.assertEqual(1, keys.status().count)
        keys.stop()


class ServerTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.arrange(jwks_url=JWKS)

    def arrange(self, **changes: Any) -> None:
        self.clock = Clock()
        self.server = AskedServer()
        settings = TokenSettings(
            level=TokenLevel.JWT,
            issuer=changes.pop("issuer", ISSUER),
            audience=(AUDIENCE,),
            **changes,
        )
        self.keys = ServerKeys(settings, cast(HttpClient, self.server), self.clock)

    def find(self, kid: str | None = "one") -> SigningKey | Deferred[SigningKey | None] | None:
        return self.keys.find(kid, ES256, NOON)

    def wait(self, kid: str = "one") -> Deferred[SigningKey | None]:
        found = self.find(kid)
        assert isinstance(found, Deferred)
        return found

    def expect_unverifiable(self, found: Deferred[Any] | None = None) -> None:
        if found is not None:
            error: HttpError = self.failureResultOf(found, HttpError).value
            self.assertIs(Code.TOKEN_UNVERIFIABLE, error.response.code)
            return
        raised: HttpError = self.assertRaises(HttpError, self.find, "unknown")
        self.assertIs(Code.TOKEN_UNVERIFIABLE, raised.response.code)


class Fetching(ServerTestCase):
    def test_first(self) -> None:
        """The first token waits for the keys; later ones wait for the same fetch."""
        first, second = self.wait(), self.wait()
        self.assertEqual([JWKS], self.server.urls)
        self.server.answer(key_set())
        for found in (first, second):
            one = self.successResultOf(found)
            assert one is not None
            self.assertEqual("one", one.kid)
        self.assertIsInstance(self.find(), SigningKey)
        self.assertEqual([JWKS], self.server.urls)

    def test_start(self) -> None:
        """Keys are fetched once at the start, before the first token."""
        self.keys.start()
        self.keys.start()
        self.server.answer(key_set())
        self.keys.start()
        self.assertIsInstance(self.find(), SigningKey)
        self.assertEqual([JWKS], self.server.urls)
        status = self.keys.status()
        self.assertEqual((1, 0, ""), (status.count, status.failures, status.error))
        self.assertGreater(status.fetched, NOON)

    def test_cancelled(self) -> None:
        """A cancelled request is removed; the others get their keys."""
        first, second = self.wait(), self.wait()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.server.answer(key_set())
        self.assertIsNotNone(self.successResultOf(second))

    def test_probe(self) -> None:
        """A check fetches the keys once, and ends with the fetch, even a failed one."""
        probe = self.keys.probe()
        self.assertNoResult(probe)
        self.server.answer(key_set())
        self.assertIsNone(self.successResultOf(probe))
        self.assertEqual((1, ""), (self.keys.status().count, self.keys.status().error))
        self.arrange()
        failing = self.keys.probe()
        self.server.fail()
        self.assertIsNone(self.successResultOf(failing))
        self.assertIn("found no response in time", self.keys.status().error)

    def test_cancelled_by_another(self) -> None:
        """The same holds if the end of one request cancels the next one."""
        first, second = self.wait(), self.wait()
        first.addCallback(lambda _: second.cancel())
        self.server.answer(key_set())
        self.failureResultOf(second, CancelledError)

    def test_stop(self) -> None:
        """A stop cancels a fetch in progress, and does nothing without one."""
        self.keys.stop()
        waiting = self.wait()
        self.keys.stop()
        self.expect_unverifiable(waiting)


class Refreshing(ServerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.arrange(jwks_url=JWKS, key_lifetime=100.0, min_refresh_interval=10.0)
        self.wait()
        self.server.answer(key_set())

    def test_rotation(self) -> None:
        """An unknown key is fetched: a token signed with a new key is verified."""
        self.clock.advance(10)
        waiting = self.wait("two")
        self.server.answer(TWO)
        one = self.successResultOf(waiting)
        assert one is not None
        self.assertEqual("two", one.kid)

    def test_made_up(self) -> None:
        """However many key ids a client invents, the keys are fetched once per interval."""
        for second in range(30):
            for index in range(20):
                found = self.find(f"{second}-{index}")
                if isinstance(found, Deferred):
                    self.server.answer(key_set())
                    found = self.successResultOf(found)
                self.assertIsNone(found)
            self.clock.advance(1)
        self.assertEqual(3, len(self.server.urls))

    def test_old(self) -> None:
        """Old keys are used while they are fetched again."""
        self.clock.advance(99)
        self.find()
        self.assertEqual(1, len(self.server.urls))
        self.clock.advance(1)
        for _ in range(3):
            self.assertIsInstance(self.find(), SigningKey)
        self.assertEqual(2, len(self.server.urls))
        self.server.answer(key_set(*public(key("ES256", "two"))))
        self.assertIsInstance(self.find("two"), SigningKey)
        # The old key has been withdrawn.
        self.assertIsNone(self.find("one"))

    def test_too_old(self) -> None:
        """Keys older than twice ``key-lifetime`` are fetched before they are used.

        A key that was withdrawn in a pause without requests is not used after it.
        """
        self.clock.advance(199)
        self.assertIsInstance(self.find(), SigningKey)
        self.server.answer(key_set())
        self.clock.advance(200)
        waiting = self.wait()
        self.server.answer(key_set(*public(key("ES256", "two"))))
        self.assertIsNone(self.successResultOf(waiting))
        self.assertIsInstance(self.find("two"), SigningKey)

    def test_too_old_by_max_age(self) -> None:
        """A shorter ``max-age`` leaves that limit as it is: it is about the next fetch."""
        self.clock.advance(100)
        self.find()
        self.server.answer(key_set(), max_age=10.0)
        self.clock.advance(199)
        self.assertIsInstance(self.find(), SigningKey)

    def test_max_age(self) -> None:
        """``max-age`` makes the next fetch earlier, within the configured interval.

        It is never immediate, and never later than configured.
        """
        for max_age, lifetime in ((50.0, 50), (0.0, 10), (1000.0, 100)):
            self.clock.advance(100)
            self.find()
            self.server.answer(key_set(), max_age=max_age)
            count = len(self.server.urls)
            self.clock.advance(lifetime - 1)
            self.find()
            self.assertEqual(count, len(self.server.urls), max_age)
            self.clock.advance(1)
            self.find()
            self.assertEqual(count + 1, len(self.server.urls), max_age)
            self.server.answer(key_set())


class Down(ServerTestCase):
    """A server that is down, or sends invalid responses."""

    def setUp(self) -> None:
        self.arrange(jwks_url=JWKS, key_lifetime=100.0, min_refresh_interval=10.0)

    def test_never_up(self) -> None:
        """Without any keys a token is 503; the next fetch happens after the interval."""
        waiting = self.wait()
        self.server.fail()
        self.expect_unverifiable(waiting)
        self.expect_unverifiable()
        self.assertEqual(1, len(self.server.urls))
        self.clock.advance(10)
        waiting = self.wait()
        self.server.answer(key_set())
        self.assertIsNotNone(self.successResultOf(waiting))

    def test_goes_down(self) -> None:
        """The last good set stays in use; an unknown key is 503, since it may be a new one."""
        self.wait()
        self.server.answer(key_set())
        for seconds in (100, 20, 20, 20, 20):
            self.clock.advance(seconds)
            self.assertIsInstance(self.find(), SigningKey)
            self.server.fail()
            self.assertIsInstance(self.find(), SigningKey)
            self.expect_unverifiable()
        status = self.keys.status()
        self.assertEqual(
            (1, 5, "found no response in time"), (status.count, status.failures, status.error)
        )

    def test_too_old(self) -> None:
        """Where the server does not respond, keys of any age stay in use.

        One request waits for that. Those that follow do not, until the next fetch has ended.
        """
        self.wait()
        self.server.answer(key_set())
        self.clock.advance(1000)
        waiting = self.wait()
        self.server.fail()
        self.assertIsInstance(self.successResultOf(waiting), SigningKey)
        self.assertEqual("found no response in time", self.keys.status().error)
        # The interval, and three requests of timeout each.
        for seconds in (0, 10, 14.9):
            self.clock.advance(seconds)
            self.assertIsInstance(self.find(), SigningKey)
        self.server.fail()
        self.clock.advance(25)
        waiting = self.wait()
        self.server.answer(key_set(*public(key("ES256", "two"))))
        self.assertIsNone(self.successResultOf(waiting))

    def test_lies(self) -> None:
        """A response without keys replaces nothing.

        The status has the reason, without any text of the response.
        """
        self.wait()
        self.server.answer(key_set())
        for status, body, reason in (
            (200, b"<html>secret", "found no JSON, expected a JWK set"),
            (200, {"keys": []}, "found no usable key"),
            (200, {"keys": [{"kty": "oct", "k": "secret"}]}, "found no usable key"),
            (302, key_set(*public(key("ES256", "evil"))), "found status 302, expected 200"),
            (500, TWO, "found status 500, expected 200"),
        ):
            self.clock.advance(100 if not self.keys.status().error else 20)
            self.find()
            self.server.answer(body, status)
            self.assertIsInstance(self.find(), SigningKey)
            self.assertIn(reason, self.keys.status().error)
            self.assertNotIn("secret", self.keys.status().error)
        self.assertEqual(1, self.keys.status().count)

    def test_unexpected(self) -> None:
        """An unexpected error is reported by its class, without its text."""
        waiting = self.wait()
        self.server.fail(ZeroDivisionError("secret"))
        self.expect_unverifiable(waiting)
        self.assertEqual("found an error of the kind ZeroDivisionError", self.keys.status().error)

    def test_up_again(self) -> None:
        """A good response clears the error."""
        self.wait().addErrback(lambda _: None)
        self.server.fail()
        self.clock.advance(10)
        self.wait()
        self.server.answer(key_set())
        self.assertEqual("", self.keys.status().error)


class Metadata(ServerTestCase):
    METADATA = "https://as.example/.well-known/oauth-authorization-server"

    def setUp(self) -> None:
        self.arrange()
        self.waiting = self.wait()

    def expect_failure(self, reason: str) -> None:
        self.expect_unverifiable(self.waiting)
        self.assertIn(reason, self.keys.status().error)

    def test_rfc_8414(self) -> None:
        """The metadata of RFC 8414 names the URL of the keys."""
        self.assertEqual([self.METADATA], self.server.urls)
        self.server.answer({"issuer": ISSUER, "jwks_uri": JWKS})
        self.assertEqual([self.METADATA, JWKS], self.server.urls)
        self.server.answer(key_set())
        self.assertIsNotNone(self.successResultOf(self.waiting))

    def test_discovery(self) -> None:
        """Without it, the metadata of OpenID Connect Discovery does, whatever 3xx or 4xx it is."""
        for status in (300, 302, 307, 401, 403, 404, 405, 499):
            self.setUp()
            self.server.answer(b"", status)
            self.assertEqual(
                "https://as.example/.well-known/openid-configuration", self.server.urls[-1]
            )
            self.server.answer({"issuer": ISSUER, "jwks_uri": JWKS})
            self.assertEqual(JWKS, self.server.urls[-1])

    def test_server_error(self) -> None:
        """A server that fails is not asked for other metadata at once."""
        for status in (204, 500, 503):
            self.setUp()
            self.server.answer(b"", status)
            self.assertEqual([self.METADATA], self.server.urls)
            self.expect_failure(f"found status {status}, expected 200")

    def test_path(self) -> None:
        """An issuer's path is placed as each of the two specifications requires."""
        for issuer in ("https://as.example:8443/realms/a", "https://as.example:8443/realms/a/"):
            self.arrange(issuer=issuer)
            self.wait().addErrback(lambda _: None)
            self.server.answer(b"", 404)
            self.assertEqual(
                [
                    "https://as.example:8443/.well-known/oauth-authorization-server/realms/a",
                    "https://as.example:8443/realms/a/.well-known/openid-configuration",
                ],
                self.server.urls,
            )

    def test_another_issuer(self) -> None:
        """Metadata of another issuer is rejected (RFC 8414 section 3.3)."""
        self.server.answer({"issuer": ISSUER + "/", "jwks_uri": JWKS})
        self.expect_failure("metadata: found another issuer")

    def test_lies(self) -> None:
        """Metadata without a URL of keys, or with one that is not https, is rejected."""
        for body, reason in (
            (b"<html>", "metadata: found no JSON"),
            (b"[" * 20000, "metadata: found no JSON"),
            ([], "metadata: found another issuer"),
            ({"issuer": ISSUER}, "metadata: found no jwks_uri"),
            ({"issuer": ISSUER, "jwks_uri": ["a"]}, "metadata: found no jwks_uri"),
            ({"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"}, "jwks_uri: found no URL"),
            ({"issuer": ISSUER, "jwks_uri": "http://as.example/jwks"}, "jwks_uri: found http"),
        ):
            self.setUp()
            self.server.answer(body)
            self.expect_failure(reason)
        self.setUp()
        self.server.answer(b"", 404)
        self.server.answer(b"", 404)
        self.expect_failure("found status 404, expected 200")


class Adopting(ServerTestCase):
    is_same_trust = True

    def fetched(self, **changes: Any) -> ServerKeys:
        """Return the keys that a former configuration fetched."""
        self.arrange(jwks_url=JWKS, **changes)
        self.server.trusts_as = lambda _: self.is_same_trust  # type: ignore[attr-defined]
        self.keys.start()
        self.server.answer(key_set())
        return self.keys

    def adopt(self, before: ServerKeys, url: str = JWKS, **changes: Any) -> int:
        """Return the number of keys after a new configuration has adopted the former's."""
        self.arrange(jwks_url=url, **changes)
        self.server.trusts_as = lambda _: self.is_same_trust  # type: ignore[attr-defined]
        self.keys.adopt(before)
        return self.keys.status().count

    def test_same_server(self) -> None:
        """Keys from the same URL with the same trust stay in use until the next fetch."""
        self.assertEqual(1, self.adopt(self.fetched()))

    def test_age(self) -> None:
        """They are not used longer than by the former configuration, or by the new one."""
        for old, new in ((7200, 10), (10, 7200)):
            before = self.fetched(key_lifetime=old)
            self.adopt(before, key_lifetime=new)
            self.clock.advance(19)
            self.assertIsInstance(self.find(), SigningKey)
            self.clock.advance(1)
            self.assertIsInstance(self.find(), Deferred)

    def test_other_server(self) -> None:
        """Keys from another URL, or from a server no longer trusted, are not adopted."""
        self.assertEqual(0, self.adopt(self.fetched(), "https://other.example/jwks"))
        before = self.fetched()
        self.is_same_trust = False
        self.assertEqual(0, self.adopt(before))
