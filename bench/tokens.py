"""Cost of the check of access tokens by itself, and the files for a load with a bound token.

A check is measured as CPU time of this process, around calls of the check alone: the head is parsed
and the certificate is known. ``known``: a token that the same client has sent before, as nearly all
requests have. ``new``: a token that is read for the first time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred, succeed

from bench.stage import BenchError, Files
from x509proxy.authorization.http_client import Fetched, HttpClient
from x509proxy.authorization.introspection import Introspector
from x509proxy.authorization.token_check import TokenCheck
from x509proxy.config.token_files import TokenFiles
from x509proxy.http1.fields import Framing
from x509proxy.http1.messages import RequestHead
from x509proxy.settings import TokenLevel, TokenRequirement, TokenSettings

__all__ = ["PATH", "CheckCost", "check_costs", "write_token"]

PATH = "/accounts"
"""The path of the requests of the load ``api``."""
_LATE = 1 << 33  # seconds since the epoch: no token expires during a run
_BATCHES = 9
_KNOWN, _NEW = 5000, 200  # calls in a batch
_ALGORITHMS = ("ES256", "RS256")


@attrs.frozen
class CheckCost:
    """µs of CPU for one check, in each batch. ``goal``: the highest cost that is intended."""

    title: str
    batches: Sequence[float]
    goal: float | None = None

    @property
    def cost(self) -> float:
        """The median of the batches."""
        return median(self.batches)


def check_costs(batches: int = _BATCHES) -> list[CheckCost]:
    """Measure each kind of check; :raises BenchError: joserfc is not installed."""
    samples = _samples()
    unverified = samples.check(TokenLevel.UNVERIFIED)
    jwt = samples.check(TokenLevel.JWT)
    introspection = samples.check(TokenLevel.INTROSPECTION)
    found = [
        CheckCost("unverified, known token", _known(unverified, samples, batches), 5.0),
        CheckCost("jwt, known token", _known(jwt, samples, batches), 10.0),
        CheckCost("introspection, known token", _known(introspection, samples, batches)),
        CheckCost("unverified, new token", _new(unverified, samples, "ES256", batches)),
    ]
    return found + [
        CheckCost(f"jwt, new token, {name}", _new(jwt, samples, name, batches))
        for name in _ALGORITHMS
    ]


@attrs.frozen
class _Samples:
    """Tokens of an issuer, for one client. ``support``: :mod:`tests.support.tokens`."""

    support: Any

    def tokens(self, algorithm: str, count: int = _NEW) -> list[RequestHead]:
        """Make requests with different tokens of some 700 bytes."""
        signer = self.support.key(algorithm, algorithm)
        return [
            _head(self.support.signed(self._claims(number), signer, algorithm, kid=algorithm))
            for number in range(count)
        ]

    def _claims(self, number: int) -> dict[str, Any]:
        more = {"jti": f"{number:032x}", "scope": "accounts payments " * 12, "client_id": "a" * 32}
        claims: dict[str, Any] = self.support.claims(exp=_LATE, **more)
        return claims

    def check(self, level: TokenLevel) -> TokenCheck:
        """Make a check with the issuer's keys."""
        more: dict[str, Any] = {"issuer": self.support.ISSUER, "audience": (self.support.AUDIENCE,)}
        if level is TokenLevel.INTROSPECTION:
            more |= {"client_id": "api", "certificate": "a", "introspection_url": "https://a/b"}
        files = TokenFiles(TokenSettings(level=level, **more), self._key_set())
        if level is not TokenLevel.INTROSPECTION:
            return TokenCheck.from_files(files, None)
        server = cast("HttpClient", _Server(self.support))
        return TokenCheck(files.settings, Introspector(files, server))

    def _key_set(self) -> bytes:
        keys = [self.support.key(name, name) for name in _ALGORITHMS]
        found: bytes = self.support.key_set(*self.support.public(*keys))
        return found


class _Server:
    """An authorization server without a network: every token is active, and bound to the client."""

    def __init__(self, support: Any) -> None:
        self._body = json.dumps({"active": True, **support.claims(exp=_LATE)}).encode()

    def post(self, *_: object) -> Deferred[Fetched]:
        """Stand in for the client's method."""
        return succeed(Fetched(200, self._body))


def _samples() -> _Samples:
    try:
        return _Samples(import_module("tests.support.tokens"))
    except ImportError as error:
        raise BenchError(f"{error.name} is not installed: pip install '.[test]'") from None


def _head(token: bytes) -> RequestHead:
    pairs = [
        (b"Host", b"localhost"), (b"User-Agent", b"bench"), (b"Accept", b"application/json"),
        (b"Accept-Encoding", b"gzip"), (b"Authorization", b"Bearer " + token),
        (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        (b"x-fapi-interaction-id", b"c770aef3-6784-41f7-8e0e-ff5f97bddb3a"),
    ]  # fmt: skip
    return RequestHead(b"GET", b"/accounts/1?page=2", "1.1", pairs, b"localhost", Framing.NONE)


def _known(check: TokenCheck, samples: _Samples, batches: int) -> list[float]:
    heads = samples.tokens("ES256", 1) * _KNOWN
    # The first batch reads the token.
    return [_cost(check, samples, heads) for _ in range(batches + 1)][1:]


def _new(check: TokenCheck, samples: _Samples, algorithm: str, batches: int) -> list[float]:
    heads = samples.tokens(algorithm)

    def batch() -> float:
        check.forget()
        return _cost(check, samples, heads)

    return [batch() for _ in range(batches)]


def _cost(check: TokenCheck, samples: _Samples, heads: Sequence[RequestHead]) -> float:
    judge, certificate = check.check, samples.support.OWN
    now, need = time.time(), TokenRequirement.BOUND
    before = time.process_time_ns()
    for head in heads:
        judge(head, certificate, need, now, "192.0.2.1")
    return (time.process_time_ns() - before) / 1e3 / len(heads)


# For the load through the proxy.


def write_token(folder: Path, files: Files) -> tuple[Path, str]:
    """Write a token that is bound to the client's certificate.

    :returns: its file, and the part of x509proxy's configuration that verifies it.
    :raises BenchError: joserfc is not installed.
    """
    support = _samples().support
    thumbprint = support.raw(sha256(files.client_der).digest()).decode("ascii")
    claims = support.claims(exp=_LATE, cnf={"x5t#S256": thumbprint}, scope="accounts " * 24)
    token = folder / "token.txt"
    token.touch(0o600)
    token.write_bytes(support.signed(claims))
    (folder / "jwks.json").write_bytes(support.key_set())
    toml = f"""
[[rules]]
path = "{PATH}"
token = "bound"
[tokens]
level = "jwt"
issuer = "{support.ISSUER}"
audience = ["{support.AUDIENCE}"]
jwks-file = "{folder}/jwks.json"
"""
    return token, toml
