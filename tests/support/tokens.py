"""Access tokens for the tests: well-formed ones from claims, and parts for hostile ones."""

from __future__ import annotations

import functools
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from joserfc import jwk, jws
from twisted.internet.defer import Deferred

from tests.support import certificates as samples
from tests.support.certificates import NOON
from x509proxy.authorization.http_client import Fetched, FetchError
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.exchange import TokenVerdict
from x509proxy.forwarding.token_claims import CheckedToken

__all__ = [
    "AUDIENCE",
    "ISSUER",
    "OTHER",
    "OWN",
    "SIGNATURE",
    "AskedServer",
    "bound",
    "claims",
    "key",
    "key_set",
    "part",
    "public",
    "raw",
    "request",
    "signed",
    "unsigned",
    "verdict_of",
]

OWN: ClientCertificate = samples.client("CN=client")
"""The certificate of the client that a token was issued to."""
OTHER: ClientCertificate = samples.client("CN=other")
"""The certificate of another client."""
SIGNATURE = b"c2lnbmF0dXJl"


def raw(data: bytes) -> bytes:
    """Encode one segment of a token."""
    return urlsafe_b64encode(data).rstrip(b"=")


def part(value: object) -> bytes:
    """Encode one segment of a token from its JSON value."""
    return raw(json.dumps(value).encode())


def unsigned(claims: object, header: object = None) -> bytes:
    """Make a token with a signature that no key verifies."""
    return b".".join((part(header or {"alg": "ES256", "typ": "at+jwt"}), part(claims), SIGNATURE))


def bound(thumbprint: object = OWN.thumbprint, **claims: object) -> bytes:
    """Make an unsigned token that is bound to a certificate."""
    return unsigned({"sub": "client", "cnf": {"x5t#S256": thumbprint}, **claims})


def request(authorization: bytes | None = None, target: bytes = b"/api", *fields: bytes) -> bytes:
    """Make a request with these credentials."""
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: as.example"]
    lines += [] if authorization is None else [b"Authorization: " + authorization]
    return b"\r\n".join((*lines, *fields, b"", b""))


def verdict_of(
    found: CheckedToken | Deferred[CheckedToken],
) -> TokenVerdict | Deferred[TokenVerdict]:
    """Return the verdict of a check, immediate or deferred."""
    if isinstance(found, CheckedToken):
        return found.verdict
    return found.addCallback(lambda checked: checked.verdict)


ISSUER, AUDIENCE = "https://as.example", "https://api.example"
_KINDS: dict[str, tuple[Any, Any]] = {
    "RS256": ("RSA", 2048), "PS256": ("RSA", 2048), "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521"), "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"), "Ed448": ("OKP", "Ed448"),
}  # fmt: skip


def key(algorithm: str = "ES256", kid: str = "one") -> Any:
    """Return the issuer's key for an algorithm, the same one in each call."""
    return _key(algorithm, kid)


@functools.cache
def _key(algorithm: str, kid: str) -> Any:
    kind, size = _KINDS[algorithm]
    return jwk.generate_key(kind, size, {"kid": kid})


def public(*keys: Any, **members: object) -> list[dict[str, Any]]:
    """Return the public keys of a set, each with these members."""
    return [{**one.as_dict(private=False), **members} for one in keys]


def key_set(*members: object) -> bytes:
    """Return a JWK set; without members it has the key for ES256."""
    return json.dumps({"keys": [*members] or public(key())}).encode()


def claims(**changes: object) -> dict[str, Any]:
    """Return the claims of a good token that is bound to OWN; ``None`` removes one."""
    good = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "client", "exp": NOON + 60,
        "cnf": {"x5t#S256": OWN.thumbprint},
    }  # fmt: skip
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(
    content: dict[str, Any] | None = None,
    signer: Any = None,
    algorithm: str = "ES256",
    **header: object,
) -> bytes:
    """Make a token that the issuer has signed."""
    used = {"alg": algorithm, "typ": "at+jwt", "kid": "one", **header}
    used = {name: value for name, value in used.items() if value is not None}
    found = content if content is not None else claims()
    rules = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    text = jws.serialize_compact(used, json.dumps(found), signer or key(algorithm), registry=rules)
    return text.encode()


class AskedServer:
    """An authorization server that the test controls: it records requests and sends responses."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Deferred[Fetched]]] = []
        self.forms: list[tuple[dict[str, list[str]], dict[str, str]]] = []
        self.cancelled = 0

    def get(self, url: str) -> Deferred[Fetched]:
        """Stand in for :meth:`x509proxy.authorization.http_client.HttpClient.get`."""
        answer: Deferred[Fetched] = Deferred(self._cancel)
        self.asked.append((url, answer))
        return answer

    def post(self, url: str, form: bytes, fields: Mapping[str, str]) -> Deferred[Fetched]:
        """Stand in for :meth:`x509proxy.authorization.http_client.HttpClient.post`."""
        self.forms.append((parse_qs(form.decode(), strict_parsing=True), dict(fields)))
        return self.get(url)

    @property
    def urls(self) -> list[str]:
        """The URLs of all requests."""
        return [url for url, _ in self.asked]

    def _cancel(self, answer: Deferred[Fetched]) -> None:
        self.cancelled += 1
        answer.errback(FetchError("found no response in time"))

    def answer(self, body: object, status: int = 200, max_age: float | None = None) -> None:
        """Respond to the last request; ``body``: octets, or a value to encode as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.asked[-1][1].callback(Fetched(status, data, max_age))

    def fail(self, error: Exception | None = None) -> None:
        """Let the last request fail."""
        self.asked[-1][1].errback(error or FetchError("found no response in time"))
