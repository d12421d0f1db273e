"""Certificate-bound access tokens (RFC 8705 section 3): found, parsed and compared.

Facts
-----
* A token is taken from ``Authorization`` alone. RFC 6750 has two more places: a query's
  ``access_token`` is rejected where tokens are checked, and a form's is never read.
* The signature covers the bytes of header and claims, so a thief cannot change these. What a thief
  can change is all around them: white space, padding, case, further segments. A reader that skips
  what it does not like could see no token, or no binding, where the back end sees one. So
  everything that looks like a JWT has to be one, byte for byte, or is rejected.
* Some back ends take a JWT from under any scheme, or from the field without one. A thief cannot
  change the header of a JWT, so its beginning is recognized there. An opaque token is not.
* JSON with a name twice is read differently by different parsers (RFC 8259 section 4).
* ``x5t#S256`` is compared as text with this connection's own: base64url of 32 octets without
  padding has one spelling (RFC 7515 section 2). Hexadecimal, as in WSO2 docs #11801, never fits.
* A token that is bound to a DPoP key needs the scheme ``DPoP`` (RFC 9449 section 7.1). A server
  that knows DPoP not would take it for a bearer token.
"""

from __future__ import annotations

import enum
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

import attrs

from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.exchange import TokenVerdict
from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.http1.fields import fold
from x509proxy.http1.messages import RequestHead
from x509proxy.redaction import without_secrets
from x509proxy.settings import TokenRequirement

__all__ = [
    "UNBOUND",
    "Binding",
    "Jws",
    "PresentedToken",
    "Scheme",
    "authorization_of",
    "check_binding",
    "check_certificate",
    "check_missing",
    "name_scheme",
    "no_match",
    "parse_jws",
    "parse_object",
    "read_binding",
    "read_credentials",
    "rejected",
]

_Object = dict[str, Any]

_MAX_DEPTH = 12
_MAX_INTEGER_DIGITS = 30
_CREDENTIALS = re.compile(rb"(bearer|dpop) +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
# The word by itself, wherever it stands; in base64 it has no such neighbours but by chance.
_NAMES_BEARER = re.compile(rb"(?:\A|[\s,;:\"'])(?:bearer|dpop)(?:\Z|[\s,;:=\"'])", re.IGNORECASE)
_WORD_END = re.compile(rb"[^A-Za-z0-9_+/.-]+")
# Not "{" alone: "eyes.example.com" begins with it.
_JSON_HEADER = re.compile(rb"[ \t\r\n\xef\xbb\xbf]*\{[ \t\r\n]*\"")
_BEGINS_DPOP = re.compile(rb"dpop(?:\Z|[^A-Za-z0-9])", re.IGNORECASE)
_MAX_SHOWN = 64
_PARAMETER_END = re.compile(rb"[&;]")
_BASE64URL = re.compile(rb"[A-Za-z0-9_-]+")
_LENIENT = bytes.maketrans(b"+/", b"-_")
_NOT_BASE64 = re.sub(rb"[A-Za-z0-9+/_-]", b"", bytes(range(256)))
_NO_CERTIFICATE = "access token: found no client certificate, expected that of x5t#S256"
_THUMBPRINT_CHARS = 43
_JWS_SEGMENTS, _JWE_SEGMENTS = 3, 5


class Scheme(enum.Enum):
    """The scheme of the ``Authorization`` field that a token came in."""

    BEARER = "bearer"
    DPOP = "dpop"


# An attribute of an enumeration takes four times as long as a module's name (Python 3.11).
_BEARER, _DPOP = Scheme
_BOUND = TokenRequirement.BOUND


@attrs.frozen
class PresentedToken:
    """An access token as a request has it."""

    token: bytes = attrs.field(repr=False)
    scheme: Scheme = _BEARER


@attrs.frozen
class Jws:
    """A JWS in compact serialization (RFC 7515 section 7.1), parsed and not verified.

    ``claims_json``: the octets that ``claims`` were parsed from.
    """

    header: _Object = attrs.field(repr=False)
    claims: _Object = attrs.field(repr=False)
    claims_json: bytes = attrs.field(repr=False)


@attrs.frozen
class Binding:
    """The key that a token is bound to. ``thumbprint``: ``x5t#S256``, or ``None`` without one.

    A ``thumbprint`` of ``""`` stands for a value that no certificate has.
    """

    thumbprint: str | None = None
    is_dpop: bool = False


UNBOUND = Binding()
"""The binding of a token that has none."""


def rejected(code: Code, detail: str, description: str) -> HttpError:
    """Make the error for a token; the caller raises it.

    Neither text may hold the token. ``detail`` may have one of its claims, from :func:`no_match`.
    """
    return HttpError(ErrorResponse(code, detail, description))


def no_match(name: str, found: object, expected: str, setting: str = "") -> str:
    """Return the sentence about a member of a token, for ``detail`` alone; ``None``: it is absent.

    The client has chosen the value. So it is one short line of ASCII, without secrets (L4).
    """
    text = ascii(found)
    shown = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
    value = f"no {name}" if found is None else f"{name} {shown}"
    where = f" (tokens.{setting})" if setting else ""
    return without_secrets(f"access token: found {value}, expected {expected}{where}")


def name_scheme(response: ErrorResponse, head: RequestHead) -> ErrorResponse:
    """Return the response to a request, with the scheme of its token (RFC 9449 section 7.1)."""
    for name, value in head.pairs:
        if name.lower() == b"authorization" and _BEGINS_DPOP.match(value):
            return attrs.evolve(response, scheme="DPoP")
    return response


def _malformed(detail: str) -> HttpError:
    return rejected(Code.TOKEN_MALFORMED, detail, "The access token is malformed")


# From the head.


def authorization_of(head: RequestHead) -> bytes | None:
    """Take the value of ``Authorization`` from a request's head; ``None`` without one.

    :raises HttpError: 400, there is a token in the query.
    """
    if b"?" in head.target and _has_token(head.target.partition(b"?")[2]):
        description = "An access token in the query is not accepted; send it in Authorization"
        raise rejected(Code.TOKEN_MALFORMED, "access_token in the query", description)
    for name, value in head.pairs:
        # The parser has rejected a second one.
        if len(name) == 13 and name.lower() == b"authorization":
            return value
    return None


def read_credentials(value: bytes, max_bytes: int) -> PresentedToken | None:
    """Take the access token from the value of ``Authorization``; ``None`` if it has none.

    :raises HttpError: 400, it is malformed, too large, not the only one, or a JWT without a scheme
        for it.
    """
    found = _CREDENTIALS.fullmatch(value)
    if found is None:
        if _NAMES_BEARER.search(value):
            raise _malformed("malformed credentials in authorization")
        if _has_jwt(value):
            text = "An access token in Authorization needs the scheme Bearer or DPoP"
            raise rejected(Code.TOKEN_MALFORMED, "JWT under another scheme in authorization", text)
        return None
    scheme, token = found.groups()
    if len(token) > max_bytes:
        text = f"The access token is too large: {len(token)} bytes, {max_bytes} allowed"
        raise rejected(Code.TOKEN_TOO_LARGE, f"access token of {len(token)} bytes", text)
    return PresentedToken(token, _BEARER if len(scheme) == 6 else _DPOP)


def _has_jwt(value: bytes) -> bool:
    """Look for a JWT in other credentials. An equals sign is padding, or before a value."""
    if value.count(b".") < _JWS_SEGMENTS - 1:
        return False
    words = {word for text in (value, value.replace(b"=", b"")) for word in _WORD_END.split(text)}
    return any(map(_is_jwt, words))


def _is_jwt(word: bytes) -> bool:
    """Decide whether a word of other credentials is a JWS or JWE, with or without more segments."""
    start, *others = word.split(b".", _JWS_SEGMENTS)
    return len(others) >= _JWS_SEGMENTS - 1 and bool(_JSON_HEADER.match(_decode_start(start)))


def _has_token(query: bytes) -> bool:
    """Look for the parameter under each name of it: PHP reads ``.`` as ``_``."""
    if b"%" not in query and b"token" not in query.lower():
        return False
    names = [part.partition(b"=")[0] for part in _PARAMETER_END.split(query)]
    return any(fold(unquote_to_bytes(name)).strip(b"-") == b"access-token" for name in names)


# From the token.


def parse_jws(token: bytes) -> Jws | None:
    """Parse a JWS strictly; ``None`` for what is none: an opaque token, or an encrypted one (JWE).

    :raises HttpError: 400, it is malformed; or 401, it has no signature, or needs an extension.
    """
    segments = token.split(b".", _JWE_SEGMENTS)
    if not _begins_object(segments[0]):
        return None
    header = _parse_object(segments[0], "header")
    if len(segments) == _JWE_SEGMENTS and "enc" in header:
        return None
    if len(segments) != _JWS_SEGMENTS:
        raise _malformed(f"access token of {len(segments)} segments")
    _check_header(header)
    claims_json = _decode(segments[1], "claims")
    claims = parse_object(claims_json, "access token's claims")
    _decode(segments[2], "signature")
    return Jws(header, claims, claims_json)


def _begins_object(segment: bytes) -> bool:
    """Decide whether any reader, the most lenient one included, could see JSON in it."""
    return _decode_start(segment).lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"{")


def _decode_start(segment: bytes) -> bytes:
    """Decode the beginning of a segment as leniently as any reader does."""
    start = segment.translate(_LENIENT, _NOT_BASE64)[:64]
    if len(start) % 4 == 1:
        start = start[:-1]
    return urlsafe_b64decode(start + b"=" * (-len(start) % 4))


def _check_header(header: _Object) -> None:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise _malformed("access token without alg")
    if algorithm.lower() == "none":
        raise rejected(
            Code.TOKEN_INVALID, "access token with alg none", "The access token has no signature"
        )
    # RFC 7515 section 4.1.11: an extension that is not understood makes the token invalid.
    if "crit" in header:
        raise rejected(
            Code.TOKEN_INVALID,
            "access token with crit",
            "The access token has a critical header parameter that is not supported",
        )


def _decode(segment: bytes, part: str) -> bytes:
    """Decode base64url in its only spelling: no padding, other octets or stray bits."""
    if not _BASE64URL.fullmatch(segment) or len(segment) % 4 == 1:
        raise _malformed(f"access token's {part} is no base64url")
    decoded = urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    if urlsafe_b64encode(decoded).rstrip(b"=") != segment:
        raise _malformed(f"access token's {part} is not canonical base64url")
    return decoded


def _parse_object(segment: bytes, part: str) -> _Object:
    return parse_object(_decode(segment, part), f"access token's {part}")


def parse_object(data: bytes, part: str = "response") -> _Object:
    """Parse a JSON object strictly: UTF-8, each name once, not too deep. ``part``: for the log.

    :raises HttpError: 400, it is none.
    """
    try:
        text = data.decode("utf-8")
        found = _DECODER.decode(text)
    except (ValueError, RecursionError):
        raise _malformed(f"{part} is not strict JSON") from None
    if not isinstance(found, dict):
        raise _malformed(f"{part} is no JSON object")
    # Counting takes 0.2 us and walking 6 us; claims are flat (python -m bench --tokens).
    if text.count("{") + text.count("[") > _MAX_DEPTH and _depth(found) > _MAX_DEPTH:
        raise _malformed(f"{part} is nested too deeply")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> _Object:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _integer(text: str) -> int:
    if len(text) > _MAX_INTEGER_DIGITS:
        raise ValueError("a number of too many digits")
    return int(text)


# Made once: json.loads makes one for each call with hooks, which takes 4 us.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_integer
)


def _depth(value: object) -> int:
    """Count the levels of objects and arrays, as far as it matters."""
    level: list[object] = [value]
    depth = 0
    while level and depth <= _MAX_DEPTH:
        containers = [member for member in level if isinstance(member, dict | list)]
        depth += bool(containers)
        level = [
            inner
            for one in containers
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return depth


# The comparison.


def read_binding(claims: _Object) -> Binding:
    """Read ``cnf`` (RFC 7800): the certificate or the DPoP key that a token is bound to.

    :raises HttpError: 400, it is no object.
    """
    if "cnf" not in claims:
        return UNBOUND
    confirmation = claims["cnf"]
    if not isinstance(confirmation, dict):
        raise _malformed("access token's cnf is no object")
    thumbprint = None
    if "x5t#S256" in confirmation:
        found = confirmation["x5t#S256"]
        # The length bounds what a cache keeps of each token (L7).
        is_thumbprint = isinstance(found, str) and len(found) == _THUMBPRINT_CHARS
        thumbprint = found if is_thumbprint else ""
    return Binding(thumbprint, "jkt" in confirmation)


def check_missing(requirement: TokenRequirement) -> TokenVerdict:
    """Judge a request without an access token.

    :raises HttpError: 401, it needs one.
    """
    if requirement is _BOUND:
        raise rejected(
            Code.TOKEN_MISSING, "no access token", "An access token in Authorization is required"
        )
    return TokenVerdict.ABSENT


def check_certificate(
    scheme: Scheme, certificate: ClientCertificate | None, requirement: TokenRequirement
) -> None:
    """Judge a request by what it has beside its token, before that is read.

    :raises HttpError: 401, no token can be bound to the certificate that is missing.
    """
    if requirement is _BOUND and scheme is _BEARER and certificate is None:
        text = "The access token must be bound to a client certificate, and none was sent"
        raise rejected(Code.TOKEN_MISMATCH, _NO_CERTIFICATE, text)


def check_binding(
    binding: Binding | None,
    scheme: Scheme,
    certificate: ClientCertificate | None,
    requirement: TokenRequirement,
) -> TokenVerdict:
    """Compare a token's binding with this connection's certificate. ``None``: it cannot be read.

    :raises HttpError: 401, it is bound to another certificate, or not bound and must be.
    """
    if binding is None:
        if requirement is _BOUND:
            text = "The access token is no signed JWT, so its certificate binding cannot be checked"
            detail = "access token: found no signed JWT, expected one, or another tokens.level"
            raise rejected(Code.TOKEN_INVALID, detail, text)
        return TokenVerdict.UNBOUND
    if binding.thumbprint is not None:
        return _check_thumbprint(binding.thumbprint, certificate)
    if binding.is_dpop and scheme is _DPOP:
        return TokenVerdict.DPOP
    if requirement is _BOUND:
        raise _not_bound(binding)
    return TokenVerdict.DPOP if binding.is_dpop else TokenVerdict.UNBOUND


def _not_bound(binding: Binding) -> HttpError:
    if not binding.is_dpop:
        text = "The access token is not bound to a client certificate"
        return rejected(Code.TOKEN_NOT_BOUND, no_match("x5t#S256", None, "one in cnf"), text)
    detail = no_match("scheme", "Bearer", "DPoP, since cnf has jkt alone")
    text = "The access token is bound to a DPoP key and needs the scheme DPoP"
    return HttpError(ErrorResponse(Code.TOKEN_NOT_BOUND, detail, text, scheme="DPoP"))


def _check_thumbprint(thumbprint: str, certificate: ClientCertificate | None) -> TokenVerdict:
    if certificate is None:
        text = "The access token is bound to a client certificate, and none was sent"
        raise rejected(Code.TOKEN_MISMATCH, _NO_CERTIFICATE, text)
    if thumbprint != certificate.thumbprint:
        text = "The access token is bound to another client certificate"
        # Not the token's own value: it is as random as a secret name.
        detail = f"access token: found another x5t#S256, expected {certificate.thumbprint}"
        raise rejected(Code.TOKEN_MISMATCH, detail, text)
    return TokenVerdict.BOUND
