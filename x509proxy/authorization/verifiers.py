"""Verifiers: the ways to read an access token, one for each level."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed

from x509proxy.authorization.http_client import HttpClient
from x509proxy.authorization.introspection import Introspector
from x509proxy.authorization.key_source import FileKeys, KeySource, KeyStatus, ServerKeys
from x509proxy.authorization.token_contents import TokenContents
from x509proxy.config.token_files import TokenFiles
from x509proxy.forwarding.bound_tokens import Jws, no_match, parse_jws, read_binding, rejected
from x509proxy.forwarding.signed_tokens import (
    SigningKey,
    check_claims,
    check_signature,
    read_algorithm,
)
from x509proxy.http1.errors import Code
from x509proxy.settings import TokenAlgorithm, TokenLevel, TokenSettings

__all__ = ["JwtVerifier", "UnverifiedReader", "Verifier", "make_verifier"]


class Verifier(Protocol):
    """A way to read tokens."""

    def read(self, token: bytes, now: float) -> TokenContents | Deferred[TokenContents]:
        """Read a token; ``now``: seconds since the epoch.

        :raises HttpError: it is not accepted, with any certificate.
        """

    def start(self) -> None:
        """Fetch what will be needed."""

    def stop(self) -> None:
        """Fetch no more."""

    def probe(self) -> Deferred[None]:
        """Send the authorization server one request; the status has its result."""

    def status(self) -> KeyStatus: ...


# Seconds for which the contents of a token are cached. They never change, but a key that its issuer
# has withdrawn must stop working.
_REMEMBERED = 300.0


class UnverifiedReader:
    """Level ``unverified``: the binding of a JWT, without a look at its signature."""

    def read(self, token: bytes, now: float) -> TokenContents:
        parsed = parse_jws(token)
        binding = None if parsed is None else read_binding(parsed.claims)
        return TokenContents(binding, now + _REMEMBERED)

    def start(self) -> None:
        """There is nothing to fetch."""

    def stop(self) -> None:
        """There is nothing to end."""

    def probe(self) -> Deferred[None]:
        return succeed(None)

    def status(self) -> KeyStatus:
        return KeyStatus()


class JwtVerifier:
    """Level ``jwt``: the contents of a JWT that its issuer has signed for this API."""

    def __init__(self, settings: TokenSettings, keys: KeySource) -> None:
        self._settings = settings
        self._keys = keys

    def start(self) -> None:
        self._keys.start()

    def stop(self) -> None:
        self._keys.stop()

    def probe(self) -> Deferred[None]:
        return self._keys.probe()

    def status(self) -> KeyStatus:
        return self._keys.status()

    def adopt(self, other: JwtVerifier) -> None:
        """Use the other's keys, if they come from the same server."""
        if isinstance(self._keys, ServerKeys) and isinstance(other._keys, ServerKeys):
            self._keys.adopt(other._keys)

    def read(self, token: bytes, now: float) -> TokenContents | Deferred[TokenContents]:
        parsed = parse_jws(token)
        if parsed is None:
            text = "The access token is no signed JWT"
            detail = "access token: found no signed JWT, expected one (tokens.level)"
            raise rejected(Code.TOKEN_INVALID, detail, text)
        algorithm, kid = read_algorithm(parsed, self._settings)
        # Before the signature: a token that is not for this API costs no key and no verification.
        expires = check_claims(parsed.claims, self._settings, now)
        found = self._keys.find(kid, algorithm, now)
        if isinstance(found, Deferred):
            return found.addCallback(
                lambda key: _verified(token, parsed, key, algorithm, expires, now)
            )
        return _verified(token, parsed, found, algorithm, expires, now)


def _verified(
    token: bytes,
    parsed: Jws,
    key: SigningKey | None,
    algorithm: TokenAlgorithm,
    expires: float,
    now: float,
) -> TokenContents:
    if key is None:
        text = "The access token is signed by a key that its issuer does not have"
        expected = f"that of a key of the issuer for {algorithm.value}"
        detail = no_match("kid", parsed.header.get("kid"), expected)
        raise rejected(Code.TOKEN_INVALID, detail, text)
    check_signature(token, key, algorithm)
    binding = read_binding(parsed.claims)
    return TokenContents(binding, min(expires, now + _REMEMBERED), claims=parsed.claims_json)


def make_verifier(files: TokenFiles, reactor: Any) -> Verifier:
    """Make the verifier of a level."""
    settings = files.settings
    if settings.level is TokenLevel.UNVERIFIED:
        return UnverifiedReader()
    if files.key_set is not None:
        return JwtVerifier(settings, FileKeys(files.key_set))
    client = HttpClient(reactor, files)
    if settings.level is TokenLevel.INTROSPECTION:
        return Introspector(files, client)
    return JwtVerifier(settings, ServerKeys(settings, client, reactor))
