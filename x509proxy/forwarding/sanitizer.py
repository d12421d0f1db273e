"""The header fields that pass between a client and a back end: pairs in, pairs out.

Facts
-----
* RFC 9110 section 7.6.1: a proxy removes ``Connection`` and every field that it names. The proxy's
  own fields are added afterwards, so that ``Connection: <secret name>`` cannot remove them (it does
  in Apache httpd, CVE-2022-31813; in Traefik's ``X-Forwarded-*``, CVE-2024-45410).
* Names are compared folded: lower case, and ``-`` for all but letters and digits. CGI, WSGI and
  servlet containers fold them so. Invalid names have been dropped before
  (:mod:`x509proxy.http1.messages`); this module is right without that.
* RFC 9440 section 4: failing to remove a field "does not fail safe", since everything keeps
  working. So the fields that any product sends for a client certificate never pass
  (:mod:`x509proxy.forwarding.claim_headers`), whatever the preset.
* The hop before this proxy is the client. A field in which a hop reports an address, a URL or a
  user is a claim of the client.
* A back end may repeat the secret name (``Vary``, ``Access-Control-Allow-Headers``, an echo). It is
  removed from every response. In ``Vary`` it becomes ``*``: without it, a cache would send one
  client's response to all clients.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from functools import lru_cache

from x509proxy.forwarding.claim_headers import is_claim
from x509proxy.forwarding.client import Hop
from x509proxy.forwarding.header_rules import HeaderRules, contains_secret
from x509proxy.http1.errors import bad_request
from x509proxy.http1.fields import Pairs, fold
from x509proxy.http1.messages import RequestHead, ResponseHead

__all__ = ["forwarded", "sanitize_request", "sanitize_response"]

# RFC 9110 section 7.6.1, and other fields that concern one connection. Framing is written anew, the
# channel responds to Expect, and an upgrade (h2c smuggling) is never forwarded.
_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization",
        b"proxy-authenticate", b"te", b"trailer", b"transfer-encoding", b"content-length",
        b"upgrade", b"http2-settings", b"expect",
    }
)  # fmt: skip
# The proxy's own id goes to the client (x509proxy.http1.request_id). The others are about the
# authentication of the connection to the back end (x509proxy.http1.authentication).
_NOT_RETURNED = _HOP_BY_HOP | {
    b"x-request-id",
    b"persistent-auth",
    b"proxy-support",
    b"proxy-authentication-info",
}
# Octets of a name whose kind is kept. A slice tests for it; len() would be a call for each field.
_MAX_KEPT = 128
_NEVER_NAMED = frozenset({b"host", b"content-length", b"transfer-encoding"})


class _Kind(enum.Enum):
    """The treatment of a field, which its name decides."""

    END_TO_END = "end-to-end"
    HOST = "host"
    CONNECTION = "connection"
    HOP_BY_HOP = "hop-by-hop"
    CLAIM = "claim"
    FORGED = "forged"
    VARY = "vary"


# Module names: a look into an enumeration takes four times as long (Python 3.11).
_END_TO_END, _HOST, _CONNECTION, _HOP, _CLAIM, _FORGED, _VARY = _Kind


def sanitize_request(head: RequestHead, rules: HeaderRules) -> tuple[Pairs, int]:
    """Return the client's fields that pass, ``Host`` first, and how many forged ones were removed.

    :raises HttpError: 400, the ``Connection`` field names one that frames or routes the message.
    """
    kept = [(b"Host", head.host)]
    forged = 0
    has_connection = False
    for pair in head.pairs:
        name = pair[0]
        kind_of = _request_kind.__wrapped__ if name[_MAX_KEPT:] else _request_kind
        kind = kind_of(name, rules.folds)
        if kind is _END_TO_END:
            kept.append(pair)
        elif kind is _FORGED:
            forged += 1
        elif kind is _CONNECTION:
            has_connection = True
    if has_connection:
        named = _named_by_connection(head.pairs)
        if named & _NEVER_NAMED:
            raise bad_request("connection field names one that frames or routes the message")
        kept[1:] = [pair for pair in kept[1:] if fold(pair[0]) not in named]
    return kept, forged


# The names in use fit in; each costs a few microseconds otherwise. Longer ones than _MAX_KEPT are
# not kept, or a client could fill the cache with names of max-line-bytes (L7).
@lru_cache(maxsize=512)
def _request_kind(name: bytes, own_names: frozenset[bytes]) -> _Kind:
    """Return the kind of a client's field; ``own_names``: the proxy's header names, folded."""
    folded = fold(name)
    if folded in own_names:
        return _FORGED
    if is_claim(name):
        return _CLAIM
    if folded == b"connection":
        return _CONNECTION
    if folded in _HOP_BY_HOP:
        return _HOP
    return _HOST if folded == b"host" else _END_TO_END


def _named_by_connection(pairs: Pairs) -> set[bytes]:
    """Return the folded names that ``Connection`` lists."""
    values = [value for name, value in pairs if name.lower() == b"connection"]
    return {fold(token.strip(b" \t")) for value in values for token in value.split(b",")}


def forwarded(host: bytes, hop: Hop) -> Iterator[tuple[bytes, bytes]]:
    """Yield ``X-Forwarded-*`` and ``Forwarded`` (RFC 7239), which replace the client's own."""
    peer, scheme = hop.peer.encode("ascii", "replace"), hop.scheme.encode("ascii")
    yield b"X-Forwarded-For", peer
    yield b"X-Forwarded-Proto", scheme
    yield b"X-Forwarded-Port", b"%d" % hop.port
    # RFC 7239: an IPv6 address is bracketed and quoted (section 6), and a host with a colon is
    # quoted (section 4).
    node = b'"[%b]"' % peer if b":" in peer else peer
    if not host:
        yield b"Forwarded", b"for=%b;proto=%b" % (node, scheme)
        return
    yield b"X-Forwarded-Host", host
    yield b"Forwarded", b'for=%b;host="%b";proto=%b' % (node, host, scheme)


def sanitize_response(head: ResponseHead, rules: HeaderRules) -> tuple[bytes, Pairs]:
    """Return the reason phrase and the fields that go to the client, without framing.

    Neither contains the secret name.
    """
    kept = []
    has_connection = False
    for pair in head.pairs:
        name = pair[0]
        kind_of = _response_kind.__wrapped__ if name[_MAX_KEPT:] else _response_kind
        kind = kind_of(name)
        if kind is _END_TO_END:
            kept.append(pair)
        elif kind is _VARY:
            kept.append(_vary_for_client(pair, rules))
        elif kind is _CONNECTION:
            has_connection = True
    if has_connection:
        named = _named_by_connection(head.pairs)
        kept = [pair for pair in kept if fold(pair[0]) not in named]
    # One search over everything first: nearly always there is nothing to remove.
    text = b" ".join([head.reason, *[part for pair in kept for part in pair]])
    if not contains_secret(text, rules):
        return head.reason, kept
    reason = b"" if contains_secret(head.reason, rules) else head.reason
    return reason, list(_without_secrets(kept, rules))


@lru_cache(maxsize=512)
def _response_kind(name: bytes) -> _Kind:
    folded = fold(name)
    if folded == b"connection":
        return _CONNECTION
    if folded in _NOT_RETURNED:
        return _HOP
    return _VARY if folded == b"vary" else _END_TO_END


def _vary_for_client(pair: tuple[bytes, bytes], rules: HeaderRules) -> tuple[bytes, bytes]:
    """Return ``Vary`` with ``*`` for the headers that the proxy adds.

    No client's request has them, so a cache cannot compare them (RFC 9110 section 12.5.5).
    """
    name, value = pair
    members = [
        b"*" if fold(part) in rules.folds or contains_secret(part, rules) else part
        for part in map(bytes.strip, value.split(b","))
    ]
    if b"*" not in members and not contains_secret(value, rules):
        return pair
    rest = b", ".join(dict.fromkeys(members))
    return name, b"*" if contains_secret(rest, rules) else rest


def _without_secrets(pairs: Pairs, rules: HeaderRules) -> Iterable[tuple[bytes, bytes]]:
    for name, value in pairs:
        if not contains_secret(name + b" " + value, rules):
            yield name, value
        elif not contains_secret(name, rules):
            # A list (Access-Control-Allow-Headers …) loses that member; an empty one is removed.
            rest = b", ".join(
                part.strip() for part in value.split(b",") if not contains_secret(part, rules)
            )
            if rest and not contains_secret(name + b" " + rest, rules):
                yield name, rest
