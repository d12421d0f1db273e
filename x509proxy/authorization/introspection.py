"""Introspection: the contents of a token as the authorization server states them (RFC 7662).

Facts
-----
* A response of "active" is for the token alone: the certificate is compared here, for each request.
* A refresh token can be active too, and bound. ``token_type``, where there is one, is that of an
  access token. Without it, ``aud`` has to name this API: RFC 7662 requires neither. Keycloak has
  had no ``token_type``, but the token's own ``typ``: ``Bearer``, ``Refresh`` or ``ID``.
* While the server does not respond, nothing is known about a token: 503, and nothing remembered.
* Some servers reject a token that they cannot introspect with 400 (oidc-provider each JWT). That is
  a response about the token: clients choose it, so it must not count as the server's failure.
"""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import quote_plus, urlencode

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from x509proxy.authorization.http_client import Fetched, FetchError, HttpClient
from x509proxy.authorization.key_source import KeyStatus, Metadata, unverifiable
from x509proxy.authorization.shared_call import SharedCall
from x509proxy.authorization.token_contents import TokenContents
from x509proxy.config.token_files import TokenFiles
from x509proxy.forwarding.bound_tokens import no_match, parse_object, read_binding
from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.settings import TokenSettings

__all__ = ["Introspector"]

_NO_TOKEN = b"x509proxy-check"
# RFC 6750, RFC 9449, and what some servers state in their place.
_TOKEN_TYPES = frozenset({"bearer", "dpop", "access_token"})
_NAMES_TOKEN = re.compile(r"\btoken\b", re.IGNORECASE)
# These are about the proxy's form: "Missing token parameter", "Token not provided".
_NAMES_FORM = re.compile(r"\b(?:missing|parameters?|provided|required)\b", re.IGNORECASE)


class Introspector:
    """Level ``introspection``: the contents of a token, opaque or not, from its server."""

    _log = Logger()

    def __init__(self, files: TokenFiles, client: HttpClient) -> None:
        self._settings = files.settings
        self._client = client
        self._fields = _client_fields(files)
        self._form = {"token_type_hint": "access_token"}
        if files.client_secret is None and files.settings.client_id is not None:
            # RFC 8705 section 2: a client without a secret sends its client_id.
            self._form["client_id"] = files.settings.client_id
        self._url = files.settings.introspection_url
        self._finding: SharedCall[str] = SharedCall(self._find_url)
        self._asking: dict[bytes, SharedCall[TokenContents]] = {}
        self._status = KeyStatus()

    def start(self) -> None:
        """Do nothing: a request needs a token."""

    def stop(self) -> None:
        """Do nothing: each request has its own deadline."""

    def probe(self) -> Deferred[None]:
        """Introspect a token that does not exist: this shows that the client may introspect."""
        read = self.read(_NO_TOKEN, 0.0)
        return read.addCallbacks(lambda _: None, lambda failure: failure.trap(HttpError) and None)

    def status(self) -> KeyStatus:
        return self._status

    def read(self, token: bytes, now: float) -> Deferred[TokenContents]:
        """Request a token's contents, as in :class:`~.verifiers.Verifier`."""
        digest = sha256(token).digest()
        call = self._asking.get(digest)
        if call is None:
            call = self._asking[digest] = SharedCall(lambda: self._ask(token, digest, now))
        return call.join()

    def _ask(self, token: bytes, digest: bytes, now: float) -> Deferred[TokenContents]:
        found = self._finding.join() if self._url is None else succeed(self._url)
        form = urlencode({"token": token.decode("ascii"), **self._form}).encode("ascii")
        posted: Deferred[Fetched] = found.addCallback(self._client.post, form, self._fields)
        read = posted.addCallbacks(
            self._read, self._not_read, callbackArgs=(now,), errbackArgs=(digest,)
        )

        def forget(result: Any) -> Any:
            del self._asking[digest]
            return result

        return read.addBoth(forget)

    def _find_url(self) -> Deferred[str]:
        metadata = Metadata(self._settings, self._client)
        # RFC 8705 section 5: a client with a certificate must use the alias, if there is one.
        aliases = "mtls_endpoint_aliases" if self._settings.certificate is not None else ""
        found = metadata.fetch("introspection_endpoint", aliases)

        def use(url: str) -> str:
            self._url = url
            return url

        return found.addCallback(use)

    def _read(self, fetched: Fetched, now: float) -> TokenContents:
        if _is_about_token(fetched):
            self._status = attrs.evolve(self._status, error="")
            detail = "access token: found status 400 at introspection, expected 200"
            return _rejected(detail, self._settings, now)
        try:
            body = fetched.require_ok()
            table = parse_object(body)
        except (FetchError, HttpError) as error:
            raise self._failed(str(error)) from None
        self._status = attrs.evolve(self._status, error="")
        return _contents(table, body, self._settings, now)

    def _not_read(self, failure: Failure, digest: bytes) -> Any:
        # It was cancelled if all clients have left: that is no failure of the server.
        if isinstance(failure.value, FetchError) and self._asking[digest].is_wanted:
            raise self._failed(str(failure.value)) from None
        return failure

    def _failed(self, sentence: str) -> HttpError:
        if sentence != self._status.error:
            self._log.warn("tokens: introspection: {sentence}", sentence=sentence)
        self._status = attrs.evolve(
            self._status, failures=self._status.failures + 1, error=sentence
        )
        return unverifiable("access token: no response of the introspection endpoint")


def _client_fields(files: TokenFiles) -> dict[str, str]:
    """Make the credentials of RFC 6749 section 2.3.1."""
    secret, client_id = files.client_secret, files.settings.client_id
    if secret is None or client_id is None:
        return {}
    credentials = f"{quote_plus(client_id)}:{quote_plus(secret)}".encode("ascii")
    return {"Authorization": "Basic " + b64encode(credentials).decode("ascii")}


def _is_about_token(fetched: Fetched) -> bool:
    """Decide whether an error response is about the token, and not about the proxy's request."""
    if fetched.status != 400:
        return False
    try:
        table = parse_object(fetched.body)
    except HttpError:
        return False
    error, text = table.get("error"), table.get("error_description")
    if error != "invalid_request":
        # RFC 7009 section 2.2.1.
        return error == "unsupported_token_type"
    return isinstance(text, str) and bool(
        _NAMES_TOKEN.search(text) and not _NAMES_FORM.search(text)
    )


def _rejected(detail: str, settings: TokenSettings, now: float) -> TokenContents:
    rejection = ErrorResponse(Code.TOKEN_INVALID, detail, "The access token is not active")
    return TokenContents(None, now + settings.negative_cache_time, rejection)


def _contents(
    table: Mapping[str, Any], body: bytes, settings: TokenSettings, now: float
) -> TokenContents:
    problem = _problem(table, settings, now)
    if problem is not None:
        return _rejected(problem, settings, now)
    expires = now + settings.cache_time
    if "exp" in table:
        expires = min(expires, table["exp"] + (settings.clock_skew or 0.0))
    try:
        binding = read_binding(dict(table))
    except HttpError as error:
        return TokenContents(None, now + settings.negative_cache_time, error.response)
    return TokenContents(binding, expires, claims=body)


def _problem(table: Mapping[str, Any], settings: TokenSettings, now: float) -> str | None:
    """Find what keeps a token from being good here; ``None`` if nothing does."""
    if table.get("active") is not True:
        return no_match("active", table.get("active"), "true")
    kind = table.get("token_type", "bearer" if settings.audience else table.get("typ"))
    if not isinstance(kind, str) or kind.lower() not in _TOKEN_TYPES:
        either = "" if settings.audience else ", or an aud that tokens.audience has"
        return no_match("token_type", kind, f"Bearer or DPoP{either}")
    if settings.issuer is not None and table.get("iss", settings.issuer) != settings.issuer:
        return no_match("iss", table["iss"], settings.issuer, "issuer")
    if settings.audience and not _is_for(table.get("aud"), settings.audience):
        return no_match("aud", table.get("aud"), ", ".join(settings.audience), "audience")
    return _time_problem(table, settings.clock_skew or 0.0, now)


def _time_problem(table: Mapping[str, Any], skew: float, now: float) -> str | None:
    for name in ("exp", "nbf"):
        if name in table and not _is_time(table[name]):
            return no_match(name, table[name], "a number")
    if now >= table.get("exp", math.inf) + skew:
        return no_match("exp", table["exp"], f"a time after {now - skew:.0f}", "clock-skew")
    if now < table.get("nbf", 0.0) - skew:
        return no_match("nbf", table["nbf"], f"{now + skew:.0f} or before", "clock-skew")
    return None


def _is_for(audience: object, wanted: tuple[str, ...]) -> bool:
    members = audience if isinstance(audience, list) else [audience]
    return any(member in wanted for member in members if isinstance(member, str))


def _is_time(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]
