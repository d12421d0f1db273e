"""Signed access tokens: key sets, signatures, and the claims about audience and times (RFC 9068).

Facts
-----
* The algorithm is chosen from the settings, the key by ``kid`` from the issuer's set. Both have to
  fit. A public key is never the secret of an HMAC (CVE-2015-9235, CVE-2022-23540). Keys in a
  token's header (``jwk``, ``jku``, ``x5u``, ``x5c``) are never used (CVE-2018-0114).
* Of a JWK, the members of the public key alone are used. A set that has private keys is read as
  well, and so is one with keys of unknown types (RFC 7517 section 5).
* ``typ`` keeps ID tokens out (RFC 9068 section 4): their ``aud`` is a client, but may be chosen.
* joserfc 1.8.0: RS256 64 us, ES256 154 us, EdDSA 187 us for each verification.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from x509proxy.forwarding.bound_tokens import Jws, no_match, rejected
from x509proxy.http1.errors import Code, HttpError
from x509proxy.settings import SettingsError, TokenAlgorithm, TokenSettings

__all__ = [
    "SigningKey",
    "SigningKeys",
    "check_claims",
    "check_signature",
    "parse_key_set",
    "read_algorithm",
    "require_joserfc",
]

_MAX_KEYS = 64
_MAX_KID_CHARS = 256
_RSA_BITS = range(2048, 8193)
_MAX_RSA_EXPONENT = 1 << 32
_MAX_PART = 1 << 14
_PUBLIC = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_RSA = {("RSA", "")}
_EDDSA = {("OKP", "Ed25519"), ("OKP", "Ed448")}
# RFC 7518 section 3.1, RFC 8037 section 3.1, RFC 9864.
_FITTING: dict[TokenAlgorithm, set[tuple[str, str]]] = {
    **{one: _RSA for one in TokenAlgorithm if one.value[:2] in {"RS", "PS"}},
    TokenAlgorithm.ES256: {("EC", "P-256")},
    TokenAlgorithm.ES384: {("EC", "P-384")},
    TokenAlgorithm.ES512: {("EC", "P-521")},
    TokenAlgorithm.EDDSA: _EDDSA,
    TokenAlgorithm.ED25519: {("OKP", "Ed25519")},
    TokenAlgorithm.ED448: {("OKP", "Ed448")},
}


def require_joserfc(level: str) -> None:
    """Check that the library is there.

    :raises SettingsError: it is not.
    """
    try:
        import joserfc  # noqa: F401
    except ImportError:
        raise SettingsError(
            f"tokens.level: found {level} without joserfc, expected it: pip install joserfc"
        ) from None


@attrs.frozen
class SigningKey:
    """One public key of an issuer. ``algorithm``: the only one that it is for, if named."""

    kid: str | None
    kind: tuple[str, str]
    algorithm: str | None
    key: Any = attrs.field(repr=False, eq=False)

    def fits(self, algorithm: TokenAlgorithm) -> bool:
        """Decide whether this key can have made a signature of this algorithm."""
        return self.algorithm in {None, algorithm.value} and self.kind in _FITTING[algorithm]


@attrs.frozen
class SigningKeys:
    """The public keys of an issuer."""

    keys: tuple[SigningKey, ...]

    def find(self, kid: str | None, algorithm: TokenAlgorithm) -> SigningKey | None:
        """Return the key by its id; or, for a token without one, the only key that fits."""
        fitting = [key for key in self.keys if key.fits(algorithm)]
        if kid is None:
            return fitting[0] if len(fitting) == 1 else None
        return next((key for key in fitting if key.kid == kid), None)


def parse_key_set(data: bytes) -> SigningKeys:
    """Read the usable keys of a JWK set.

    :raises ValueError: it is none, or has no usable key, or too many.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("found no JSON, expected a JWK set") from None
    members = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(members, list):
        raise ValueError("found no list of keys, expected a JWK set")
    if len(members) > _MAX_KEYS:
        raise ValueError(f"found {len(members)} keys, expected {_MAX_KEYS} or less")
    keys = tuple(key for key in map(_signing_key, members) if key is not None)
    if not keys:
        raise ValueError(
            "found no usable key, expected one that signs, of 2048 bits or more if RSA"
        )
    return SigningKeys(keys)


def _signing_key(member: object) -> SigningKey | None:
    if not isinstance(member, dict) or not _may_sign(member):
        return None
    kind = member.get("kty")
    names = _PUBLIC.get(kind) if isinstance(kind, str) else None
    if names is None:
        return None
    public = {name: member.get(name) for name in ("kty", *names)}
    if not all(isinstance(value, str) for value in public.values()):
        return None
    return _imported(public, member)


def _may_sign(member: Mapping[str, Any]) -> bool:
    operations = member.get("key_ops", ["verify"])
    texts = [member.get(name) for name in ("use", "kid", "alg")]
    return (
        all(text is None or isinstance(text, str) for text in texts)
        and member.get("use") in {None, "sig"}
        and isinstance(operations, list)
        and "verify" in operations
    )


def _imported(public: dict[str, Any], member: Mapping[str, Any]) -> SigningKey | None:
    from joserfc.jwk import import_key

    try:
        key = import_key(public)
        numbers = key.public_key
    except Exception:
        # Of any kind: it is the library's, about JSON of any content. Such a key is not used (L3).
        return None
    if isinstance(numbers, RSAPublicKey) and not (
        numbers.key_size in _RSA_BITS and numbers.public_numbers().e <= _MAX_RSA_EXPONENT
    ):
        return None
    kind = public["kty"], public.get("crv", "")
    return SigningKey(member.get("kid"), kind, member.get("alg"), key)


# One token.


def read_algorithm(jws: Jws, settings: TokenSettings) -> tuple[TokenAlgorithm, str | None]:
    """Return the algorithm and the key's id of a token's header.

    :raises HttpError: 401, the algorithm is not allowed, or the type is another.
    """
    algorithm = next((one for one in settings.algorithms if one.value == jws.header["alg"]), None)
    if algorithm is None:
        expected = ", ".join(one.value for one in settings.algorithms)
        raise _invalid(
            no_match("alg", jws.header["alg"], expected, "algorithms"),
            "is signed by an algorithm that is not allowed",
        )
    kind = jws.header.get("typ")
    if kind is not None and not _is_allowed_type(kind, settings.types):
        raise _invalid(
            no_match("typ", kind, ", ".join(settings.types), "types"),
            "has a typ that is not allowed",
        )
    kid = jws.header.get("kid")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= _MAX_KID_CHARS):
        expected = f"a string of {_MAX_KID_CHARS} characters or less"
        raise _invalid(no_match("kid", kid, expected), "has a malformed kid")
    return algorithm, kid


def _is_allowed_type(kind: object, types: Iterable[str]) -> bool:
    """Compare media types (RFC 7515 section 4.1.9): without case, and without ``application/``."""
    if not isinstance(kind, str):
        return False
    return kind.lower().removeprefix("application/") in [one.lower() for one in types]


def check_signature(token: bytes, key: SigningKey, algorithm: TokenAlgorithm) -> None:
    """Verify a token's signature.

    :raises HttpError: 401, it is another key's, or of another algorithm.
    """
    from joserfc import jws
    from joserfc.errors import JoseError

    try:
        jws.deserialize_compact(token, key.key, registry=_registry(algorithm))
    except (JoseError, ValueError, TypeError):
        detail = (
            f"access token: found a bad signature, expected one of {algorithm.value} by its key"
        )
        raise _invalid(detail, "has a signature that cannot be verified") from None


@cache
def _registry(algorithm: TokenAlgorithm) -> Any:
    """Make joserfc's rules for one algorithm; a header may have members of the issuer's own."""
    from joserfc.jws import JWSRegistry

    # EdDSA has another name since RFC 9864, and joserfc warns of each token with the old one.
    warnings.filterwarnings("ignore", "EdDSA is deprecated")
    registry = JWSRegistry(algorithms=[algorithm.value], strict_check_header=False)
    # ``max-token-bytes`` bounds the whole. joserfc 1.8.0 rejects a header of more than 512 octets,
    # such as one with the issuer's certificates, and signatures of RSA keys above 6144 bits.
    registry.max_header_length = registry.max_payload_length = _MAX_PART
    registry.max_signature_length = _MAX_PART
    return registry


def check_claims(claims: Mapping[str, Any], settings: TokenSettings, now: float) -> float:
    """Check issuer, audience and times; return when the token ends, clock skew included.

    :raises HttpError: 401, it is not for this API, or not for this time.
    """
    if claims.get("iss") != settings.issuer:
        raise _invalid(
            no_match("iss", claims.get("iss"), f"{settings.issuer}", "issuer"),
            "is of another issuer",
        )
    audience = claims.get("aud")
    members = audience if isinstance(audience, list) else [audience]
    is_audience = all(isinstance(member, str) for member in members)
    if not (is_audience and set(members) & set(settings.audience)):
        raise _invalid(
            no_match("aud", audience, ", ".join(settings.audience), "audience"),
            "is for another audience" if is_audience else "has no audience, or a malformed one",
        )
    skew = settings.clock_skew or 0.0
    expires, not_before = _time(claims, "exp"), _time(claims, "nbf")
    if expires is None:
        raise _invalid(no_match("exp", None, "one"), "has no exp")
    if now >= expires + skew:
        raise _expired("exp", claims, f"a time after {now - skew:.0f}", "has expired")
    if not_before is not None and now < not_before - skew:
        raise _expired("nbf", claims, f"{now + skew:.0f} or before", "is not valid yet")
    return expires + skew


def _expired(name: str, claims: Mapping[str, Any], expected: str, description: str) -> HttpError:
    detail = no_match(name, claims[name], expected, "clock-skew")
    return rejected(Code.TOKEN_EXPIRED, detail, f"The access token {description}")


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise _invalid(no_match(name, value, "a number"), f"has a malformed {name}")


def _invalid(detail: str, description: str) -> HttpError:
    return rejected(Code.TOKEN_INVALID, detail, f"The access token {description}")
