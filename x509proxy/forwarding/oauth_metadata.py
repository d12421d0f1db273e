"""An authorization server's metadata (RFC 8414, OpenID Connect Discovery 1.0), and what clients with certificates need in it.

Facts
-----
* RFC 8705 section 5: ``mtls_endpoint_aliases`` holds the endpoints that a client with a certificate uses "in preference to" those
  of the same name at the top level; for one that is not in it, the client goes to the top level's.
* RFC 8414 section 3.2 and OpenID Connect Discovery section 4.2: the answer is a 200 with ``application/json``. There is no
  registered ``+json`` type for this document, so none is taken for it.
* RFC 9110 section 3.7: a gateway is the origin server to its clients. Section 7.7 forbids *proxies* to transform what says
  ``no-transform``; Keycloak says so with every answer of this kind (it is the default of JAX-RS).
* RFC 9110 section 12.5.3: without ``Accept-Encoding`` any content coding is welcome, so ``identity`` is asked for by name.
* The document is not written anew: text is put between its bytes, so that nothing that stands in it can change.
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

# What Keycloak publishes as aliases, and openid-client looks for: all that a client calls itself, with a certificate to
# authenticate (RFC 8705 section 2; RFC 7009, 7662, 8628 and 9126; CIBA) or with a token that is bound to one (section 3:
# UserInfo, client registration). Not the pages for browsers, nor keys that anybody may read.
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

# Of another coding, of a part, or of no answer at all if the client has it already: none of these can be added to.
_NOT_ASKED_FOR = frozenset(
    {
        b"accept-encoding", b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since",
        b"want-digest", b"want-content-digest", b"want-repr-digest",
    }
)  # fmt: skip
# What was said of the body as it came.
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
    """Whether a request's target (origin-form, as sent) is a metadata document's, in a plain spelling.

    The well-known path alone, behind an issuer's path (OpenID Connect Discovery section 4) or before it (RFC 8414 section 3.1).
    """
    return _PATH.fullmatch(target.partition(b"?")[0]) is not None


def for_whole_document(pairs: Pairs) -> Pairs:
    """A request's fields, so that what is answered is the document, whole and uncoded."""
    kept = [pair for pair in pairs if pair[0].lower() not in _NOT_ASKED_FOR]
    return [*kept, (b"Accept-Encoding", b"identity")]


def may_be_document(status: int, pairs: Pairs) -> bool:
    """Whether an answer with this head can be a metadata document that :func:`with_aliases` reads."""
    fields = [(name.lower(), value) for name, value in pairs]
    types = [
        value.partition(b";")[0].strip().lower()
        for name, value in fields
        if name == b"content-type"
    ]
    coded = any(name in (b"content-encoding", b"content-range") for name, _ in fields)
    return status == 200 and types == [b"application/json"] and not coded


def without_validators(pairs: Pairs) -> Pairs:
    """An answer's fields without those that fit the body only as it was."""
    return [pair for pair in pairs if pair[0].lower() not in _VALIDATORS]


def with_aliases(body: bytes, mtls: str) -> bytes | None:
    """The document with ``mtls_endpoint_aliases`` at the origin ``mtls`` (``https://host[:port]``); all else byte for byte.

    Only endpoints of the issuer's own origin have an alias there, with the same path and query. An alias that the server tells
    itself stands, and so does what it says of ``tls_client_certificate_bound_access_tokens``, which is ``true`` otherwise.

    :return: ``None`` if there is nothing to add, or the body is not one JSON object in UTF-8, without repeated names, that
        has an ``issuer``.
    """
    try:
        text = body.decode("utf-8")
        members = _read_members(text)
    except (ValueError, RecursionError):
        return None
    document = {name: value for name, (value, _) in members.items()}
    told = document.get(_ALIASES, {})
    if not isinstance(told, dict):
        return None
    aliases = {name: url for name, url in _aliases(document, mtls).items() if name not in told}
    if not (told or aliases) or (_BOUND in document and not aliases):
        return None
    return _inserted(text, members, aliases, bool(told)).encode("utf-8")


def _inserted(
    text: str, members: Mapping[str, _Member], aliases: Mapping[str, str], told: bool
) -> str:
    """The text with ``aliases`` in it, behind those that are ``told``; what stands further back is written first."""
    added = json.dumps(aliases)
    if _BOUND not in members:
        text = _put(text, [*members.values()][-1][1], f', "{_BOUND}": true')
    if not aliases:
        return text
    if _ALIASES in members:
        # Before its closing brace.
        return _put(text, members[_ALIASES][1] - 1, f"{', ' if told else ''}{added[1:-1]}")
    return _put(text, [*members.values()][-1][1], f', "{_ALIASES}": {added}')


def _put(text: str, place: int, piece: str) -> str:
    return text[:place] + piece + text[place:]


# The characters of RFC 3986 without user information and fragment: no endpoint of a server that means well has them.
_URL = re.compile(
    r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?"
    r"((?:/[a-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?[a-z0-9._~!$&'()*+,;=:@%/?-]*)?)",
    re.ASCII | re.IGNORECASE,
)
_PORTS = {"http": 80, "https": 443}


def _aliases(document: Mapping[str, object], mtls: str) -> dict[str, str]:
    """Those of the endpoints that have the issuer's origin, at the origin ``mtls``."""
    issuer = _split(document.get("issuer"))
    endpoints = {name: _split(document.get(name)) for name in _ENDPOINTS}
    return {
        name: mtls + url[1]
        for name, url in endpoints.items()
        if url and issuer and url[0] == issuer[0]
    }


def _split(url: object) -> tuple[tuple[str, str, int], str] | None:
    """An URL's origin (RFC 6454 section 4), and its path and query; ``None`` if it is not of the usual form."""
    match = _URL.fullmatch(url) if isinstance(url, str) else None
    if match is None:
        return None
    scheme = match[1].lower()
    return (scheme, match[2].lower(), int(match[3] or _PORTS[scheme])), match[4]


# JSON, strictly (RFC 8259): what two readers could read in two ways is not touched. Of a member of the document: its value,
# and the place behind it.
_Member = tuple[object, int]
_OPEN = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_NEXT = re.compile(r"[ \t\n\r]*(?:(,)[ \t\n\r]*|\}[ \t\n\r]*\Z)")


def _without_repeats(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


# A float for an integer: no number is looked at, and Python's integers are slow, or refused, from some thousand digits on.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_without_repeats, parse_int=float, parse_constant=_no_constant
)


def _read_members(text: str) -> dict[str, _Member]:
    """The members of the object that the text is.

    :raises ValueError: it is none; :raises RecursionError: it is too deep.
    """
    members: dict[str, _Member] = {}
    place, more = _match(_OPEN, text, 0).end(), True
    while more:
        name, place = _DECODER.raw_decode(text, place)
        value, place = _DECODER.raw_decode(text, _match(_COLON, text, place).end())
        if not isinstance(name, str) or name in members:
            raise ValueError("a name that is none, or stands twice")
        members[name] = value, place
        mark = _match(_NEXT, text, place)
        place, more = mark.end(), mark[1] is not None
    return members


def _match(pattern: re.Pattern[str], text: str, place: int) -> re.Match[str]:
    found = pattern.match(text, place)
    if found is None:
        raise ValueError("no JSON object")
    return found
