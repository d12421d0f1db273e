"""Key source: an issuer's public keys, from a file or from its server.

Facts
-----
* A key that is known is used at once: old keys are fetched again beside that. Nothing is fetched
  without requests, so a set can be of any age. One that is older than twice ``key-lifetime`` is
  fetched before it is used, since its keys may have been withdrawn.
* A server that is down stops no request whose key is known: the last good set is kept. After a
  fetch that failed, requests do not wait for the next one.
* A reload keeps the keys of the same place: its server may be down at that moment. They are old
  from then on.
* A key that is not known is fetched, but not more often than ``min-refresh-interval`` allows.
  Otherwise each made-up ``kid`` of a client would cause a request.
* Metadata is RFC 8414's, or that of OpenID Connect Discovery where the server has no other. Its
  ``issuer`` has to be the configured one (RFC 8414 section 3.3).
"""

from __future__ import annotations

import json
import time
from typing import Any, Protocol
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from x509proxy.authorization.http_client import Fetched, FetchError, HttpClient
from x509proxy.forwarding.bound_tokens import rejected
from x509proxy.forwarding.signed_tokens import SigningKey, SigningKeys, parse_key_set
from x509proxy.http1.errors import Code, HttpError
from x509proxy.settings import TokenAlgorithm, TokenSettings, url_problem

__all__ = ["FileKeys", "KeySource", "KeyStatus", "Metadata", "ServerKeys", "unverifiable"]


@attrs.frozen
class KeyStatus:
    """The keys at one moment.

    ``fetched``: seconds since the epoch, 0 for never; ``error``: of the last fetch.
    """

    count: int = 0
    fetched: float = 0.0
    failures: int = 0
    error: str = ""


class KeySource(Protocol):
    """A place that has an issuer's keys."""

    def find(
        self, kid: str | None, algorithm: TokenAlgorithm, now: float
    ) -> SigningKey | Deferred[SigningKey | None] | None:
        """Return a key, or ``None`` if the issuer has none; ``now``: seconds since the epoch.

        :raises HttpError: 503, there is no way to know.
        """

    def start(self) -> None:
        """Fetch what will be needed."""

    def stop(self) -> None:
        """Fetch no more."""

    def probe(self) -> Deferred[None]:
        """Fetch once, and wait for it; the status has the result."""

    def status(self) -> KeyStatus: ...


class FileKeys:
    """The keys of a file."""

    def __init__(self, data: bytes) -> None:
        self._keys = parse_key_set(data)

    def find(self, kid: str | None, algorithm: TokenAlgorithm, now: float) -> SigningKey | None:
        return self._keys.find(kid, algorithm)

    def start(self) -> None:
        """There is nothing to fetch."""

    def stop(self) -> None:
        """There is nothing to end."""

    def probe(self) -> Deferred[None]:
        return succeed(None)

    def status(self) -> KeyStatus:
        return KeyStatus(len(self._keys.keys))


def unverifiable(detail: str) -> HttpError:
    """Make the error for a token that cannot be judged now."""
    return rejected(
        Code.TOKEN_UNVERIFIABLE, detail, "The access token cannot be verified at the moment"
    )


class Metadata:
    """An issuer's metadata: where its endpoints are."""

    def __init__(self, settings: TokenSettings, client: HttpClient) -> None:
        assert settings.issuer is not None
        self._issuer = settings.issuer
        self._client = client

    def fetch(self, member: str, preferred: str = "") -> Deferred[str]:
        """Return the URL in a member, or that of the same name in the member ``preferred``.

        :raises FetchError: there is none that can be used.
        """
        first, second = _metadata_urls(self._issuer)
        found = self._client.get(first)

        def tried(fetched: Fetched) -> Fetched | Deferred[Fetched]:
            # A server without RFC 8414 may answer anything here: a login page, 401, 403, 405.
            return self._client.get(second) if 300 <= fetched.status < 500 else fetched

        tried_both: Deferred[Fetched] = found.addCallback(tried)
        return tried_both.addCallback(self._read, member, preferred)

    def _read(self, fetched: Fetched, member: str, preferred: str) -> str:
        try:
            table = json.loads(fetched.require_ok())
        except (ValueError, RecursionError):
            raise FetchError("metadata: found no JSON") from None
        if not isinstance(table, dict) or table.get("issuer") != self._issuer:
            raise FetchError("metadata: found another issuer, expected the configured one")
        others = table.get(preferred)
        url = {**table, **others}.get(member) if isinstance(others, dict) else table.get(member)
        if not isinstance(url, str):
            raise FetchError(f"metadata: found no {member}")
        if problem := url_problem(url):
            raise FetchError(f"metadata: {member}: {problem}")
        return url


def _metadata_urls(issuer: str) -> tuple[str, str]:
    """Return the URL of RFC 8414 section 3.1, and that of OpenID Connect Discovery section 4."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    )


class ServerKeys:
    """The keys of the issuer's server, fetched when they are needed."""

    _log = Logger()

    def __init__(self, settings: TokenSettings, client: HttpClient, clock: Any) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._keys: SigningKeys | None = None
        self._status = KeyStatus()
        self._good_until = 0.0
        self._usable_until = 0.0
        self._next_try = 0.0
        self._fetching: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []

    def status(self) -> KeyStatus:
        return self._status

    def start(self) -> None:
        if self._keys is None:
            self._fetch()

    def stop(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()

    def adopt(self, other: ServerKeys) -> None:
        """Use the keys that were fetched from the same place, until they are fetched again."""
        mine, others = self._settings, other._settings
        is_same_place = (mine.issuer, mine.jwks_url) == (others.issuer, others.jwks_url)
        if is_same_place and self._client.trusts_as(other._client):
            self._keys, self._status = other._keys, other._status
            self._usable_until = min(other._usable_until, self._longest_use())

    def probe(self) -> Deferred[None]:
        waited: Deferred[None] = Deferred()
        self._waiting.append(waited)
        self._fetch()
        return waited

    def find(
        self, kid: str | None, algorithm: TokenAlgorithm, now: float
    ) -> SigningKey | Deferred[SigningKey | None] | None:
        found = self._known(kid, algorithm)
        now_here = self._clock.seconds()
        if found is None or now_here >= self._good_until:
            self._fetch()
        if found is not None and now_here < self._usable_until:
            return found
        if self._fetching is None:
            return self._fetched(kid, algorithm)
        waited: Deferred[None] = Deferred(self._forget)
        self._waiting.append(waited)
        return waited.addCallback(lambda _: self._fetched(kid, algorithm))

    def _forget(self, waited: Deferred[None]) -> None:
        if waited in self._waiting:
            self._waiting.remove(waited)

    def _known(self, kid: str | None, algorithm: TokenAlgorithm) -> SigningKey | None:
        return None if self._keys is None else self._keys.find(kid, algorithm)

    def _fetched(self, kid: str | None, algorithm: TokenAlgorithm) -> SigningKey | None:
        """Return a key after a fetch, of the old set if that failed.

        A key that does not exist differs from one that was not fetched.
        """
        found = self._known(kid, algorithm)
        if found is None and (self._status.error or self._keys is None):
            raise unverifiable("access token: no keys of the issuer")
        return found

    def _longest_use(self) -> float:
        now: float = self._clock.seconds()
        return now + 2 * self._settings.key_lifetime

    def _fetch(self) -> None:
        """Begin to fetch, unless that is under way, or was tried a moment ago."""
        now = self._clock.seconds()
        if self._fetching is not None or now < self._next_try:
            return
        self._next_try = now + self._settings.min_refresh_interval
        url = self._settings.jwks_url
        fetching = self._find_key_set() if url is None else self._client.get(url)
        self._fetching = used = fetching.addCallback(self._use)
        used.addErrback(self._failed).addBoth(lambda _: self._ended())

    def _find_key_set(self) -> Deferred[Fetched]:
        found = Metadata(self._settings, self._client).fetch("jwks_uri")
        return found.addCallback(self._client.get)

    def _use(self, fetched: Fetched) -> None:
        keys = parse_key_set(fetched.require_ok())
        lifetime = self._settings.key_lifetime
        if fetched.max_age is not None:
            lifetime = min(lifetime, max(fetched.max_age, self._settings.min_refresh_interval))
        self._good_until = self._clock.seconds() + lifetime
        self._usable_until = self._longest_use()
        self._keys = keys
        self._status = attrs.evolve(
            self._status, count=len(keys.keys), fetched=time.time(), error=""
        )

    def _failed(self, failure: Failure) -> None:
        # Until the next fetch has ended: it has three requests at the most.
        settings = self._settings
        pause = settings.min_refresh_interval + 3 * settings.timeout
        self._usable_until = max(self._usable_until, self._clock.seconds() + pause)
        error = failure.value
        known = isinstance(error, FetchError | ValueError)
        sentence = str(error) if known else f"found an error of the kind {type(error).__name__}"
        if sentence != self._status.error:
            self._log.warn("tokens: the issuer's keys: {sentence}", sentence=sentence)
        self._status = attrs.evolve(
            self._status, failures=self._status.failures + 1, error=sentence
        )

    def _ended(self) -> None:
        self._fetching = None
        waiting, self._waiting = self._waiting, []
        for waited in waiting:
            # The end of one request can be that of another, on the same connection.
            if not waited.called:
                waited.callback(None)
