"""Authorization server metadata (RFC 8414, OpenID Connect Discovery 1.0) with mTLS aliases added.

Facts
-----
* ``mtls_endpoint_aliases`` has the endpoints that a client with a certificate uses "in preference
  to" those of the same name at the top level. For all others it uses the top level (RFC 8705
  section 5).
* The response is a 200 with ``application/json`` (RFC 8414 section 3.2, OpenID Connect Discovery
  section 4.2). No ``+json`` type is registered for it, so none is accepted.
* To its clients a gateway is the origin server (RFC 9110 section 3.7). Section 7.7 forbids
  *proxies* to transform content with ``no-transform``, which Keycloak sends with each of these
  responses (it is the default of JAX-RS).
* Without ``Accept-Encoding`` a server may use any content coding (RFC 9110 section 12.5.3), so the
  request has ``Accept-Encoding: identity``.
* Text is inserted into the document, and nothing is serialized again. So no other byte changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from x509proxy.http1.fields import Pairs

__all__ = [
    "for_whole_document",
    "is_metadata",
    "may_be_document",
    "with_aliases",
    "without_validators",
]

# The aliases that Keycloak publishes and openid-client looks for: all endpoints that a client calls
# with a certificate (RFC 8705 section 2; RFC 7009, 7662, 8628 and 9126; CIBA) or with a bound token
# (section 3: UserInfo, client registration). Pages for browsers and public keys are not among them.
_ENDPOINTS = (
    "token_endpoint",
    "revocation_endpoint",
    "introspection_endpoint",
    "pushed_authorization_request_endpoint",
    "device_authorization_endpoint",
    "backchannel_authentication_endpoint",
    "userinfo_endpoint",
    "registration_endpoint",
)
_ALIASES = "mtls_endpoint_aliases"
_BOUND = "tls_client_certificate_bound_access_tokens"

_WELL_KNOWN = rb"/\.well-known/(?:openid-configuration|oauth-authorization-server)"
_SEGMENT = rb"/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+"
_PATH = re.compile(rb"(?:%b)*%b|%b(?:%b)+" % (_SEGMENT, _WELL_KNOWN, _WELL_KNOWN, _SEGMENT))

# Request fields for another coding, for a part, or for no content if it is unchanged. The response
# to them could not be extended.
_NOT_FORWARDED = frozenset(
    {
        b"accept-encoding",
        b"range",
        b"if-range",
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"want-digest",
        b"want-content-digest",
        b"want-repr-digest",
    }
)
# Response fields that describe the original body.
_VALIDATORS = frozenset(
    {
        b"etag",
        b"last-modified",
        b"content-md5",
        b"digest",
        b"content-digest",
        b"repr-digest",
        b"accept-ranges",
    }
)


def is_metadata(target: bytes) -> bool:
    """Return True if a request target, in origin-form as sent, is that of a metadata document.

    That is the well-known path alone, after an issuer's path (OpenID Connect Discovery section 4),
    or before it (RFC 8414 section 3.1), without percent-encoding.
    """
    return _PATH.fullmatch(target.partition(b"?")[0]) is not None


def for_whole_document(pairs: Pairs) -> Pairs:
    """Return the fields of a request for the complete document without a content coding."""
    kept = [pair for pair in pairs if pair[0].lower() not in _NOT_FORWARDED]
    return [*kept, (b"Accept-Encoding", b"identity")]


def may_be_document(status: int, pairs: Pairs) -> bool:
    """Return True if a response with this head can be a document for :func:`with_aliases`."""
    fields = [(name.lower(), value) for name, value in pairs]
    types = [
        value.partition(b";")[0].strip().lower()
        for name, value in fields
        if name == b"content-type"
    ]
    coded = any(name in (b"content-encoding", b"content-range") for name, _ in fields)
    return status == 200 and types == [b"application/json"] and not coded


def without_validators(pairs: Pairs) -> Pairs:
    """Return the fields of a response without those that describe the original body."""
    return [pair for pair in pairs if pair[0].lower() not in _VALIDATORS]


def with_aliases(body: bytes, mtls: str) -> bytes | None:
    """Return the document with ``mtls_endpoint_aliases``, and all other bytes unchanged.

    ``mtls`` is the origin of the aliases, ``https://host[:port]``. Endpoints at the issuer's own
    origin get an alias with the same path and query. ``tls_client_certificate_bound_access_tokens``
    is added as ``true``. The server's own aliases and its own value of that member are kept.

    :return: ``None`` if there is nothing to add, or if the body is not a JSON object in UTF-8 with
        an ``issuer`` and without repeated names.
    """
    try:
        text = body.decode("utf-8")
        members = _read_members(text)
    except (ValueError, RecursionError):
        return None
    document = {name: value for name, (value, _) in members.items()}
    existing = document.get(_ALIASES, {})
    if not isinstance(existing, dict):
        return None
    aliases = {name: url for name, url in _aliases(document, mtls).items() if name not in existing}
    if not (existing or aliases) or (_BOUND in document and not aliases):
        return None
    separator = ", " if existing else ""
    return _with_members(text, members, aliases, separator).encode("utf-8")


def _with_members(
    text: str, members: Mapping[str, _Member], aliases: Mapping[str, str], separator: str
) -> str:
    """Return the text with the new members, and ``aliases`` after existing ones and a separator."""
    # The end of the text is changed first, so that the earlier offsets stay valid.
    added = json.dumps(aliases)
    end = [*members.values()][-1][1]
    if _BOUND not in members:
        text = _inserted(text, end, f', "{_BOUND}": true')
    if not aliases:
        return text
    if _ALIASES in members:
        closing_brace = members[_ALIASES][1] - 1
        return _inserted(text, closing_brace, f"{separator}{added[1:-1]}")
    return _inserted(text, end, f', "{_ALIASES}": {added}')


def _inserted(text: str, offset: int, piece: str) -> str:
    return text[:offset] + piece + text[offset:]


# The characters of RFC 3986, without user information and fragment, which endpoints do not have.
_URL = re.compile(
    r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?"
    r"((?:/[a-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?[a-z0-9._~!$&'()*+,;=:@%/?-]*)?)",
    re.ASCII | re.IGNORECASE,
)
_PORTS = {"http": 80, "https": 443}


def _aliases(document: Mapping[str, object], mtls: str) -> dict[str, str]:
    """Return the endpoints at the issuer's origin, moved to the origin ``mtls``."""
    issuer = _split(document.get("issuer"))
    endpoints = {name: _split(document.get(name)) for name in _ENDPOINTS}
    return {
        name: mtls + url[1]
        for name, url in endpoints.items()
        if url and issuer and url[0] == issuer[0]
    }


def _split(url: object) -> tuple[tuple[str, str, int], str] | None:
    """Return the origin of a URL (RFC 6454 section 4), and its path with the query.

    The result is ``None`` for anything but an http(s) URL without user information and fragment.
    """
    match = _URL.fullmatch(url) if isinstance(url, str) else None
    if match is None:
        return None
    scheme = match[1].lower()
    return (scheme, match[2].lower(), int(match[3] or _PORTS[scheme])), match[4]


# Strict JSON (RFC 8259): a document that two parsers could read differently is not changed.
_Member = tuple[object, int]
"""The value of a member of the document, and the offset after it."""
_OPEN = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_NEXT = re.compile(r"[ \t\n\r]*(?:(,)[ \t\n\r]*|\}[ \t\n\r]*\Z)")


def _without_repeats(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("found a repeated name, expected unique names")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"found {name}, expected JSON")


# Integers are parsed as floats: their values are not used, and Python's integers are slow, or an
# error, for some thousand digits.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_without_repeats, parse_int=float, parse_constant=_no_constant
)


def _read_members(text: str) -> dict[str, _Member]:
    """Return the members of a JSON object.

    :raises ValueError: the text is not a JSON object with unique names.
    :raises RecursionError: it has too many levels.
    """
    members: dict[str, _Member] = {}
    offset, more = _match(_OPEN, text, 0).end(), True
    while more:
        name, offset = _DECODER.raw_decode(text, offset)
        value, offset = _DECODER.raw_decode(text, _match(_COLON, text, offset).end())
        if not isinstance(name, str) or name in members:
            raise ValueError("found an invalid or repeated name, expected unique strings")
        members[name] = value, offset
        end = _match(_NEXT, text, offset)
        offset, more = end.end(), end[1] is not None
    return members


def _match(pattern: re.Pattern[str], text: str, offset: int) -> re.Match[str]:
    found = pattern.match(text, offset)
    if found is None:
        raise ValueError("found other text, expected a JSON object")
    return found
