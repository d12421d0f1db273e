"""The head of a message, validated: what the parser let through and we do not, pairs in, one frozen value out.

Facts
-----
llhttp refuses bare LF, folded lines, NUL and most control characters, ``Content-Length`` beside ``Transfer-Encoding``, repeated
or odd lengths. It lets through, and this module refuses:

* HTTP versions 0.9 and 2.0; ``Transfer-Encoding`` in HTTP/1.0 (RFC 9112 section 6.1 calls it faulty framing), and any coding
  but ``chunked``;
* bytes above 0x7E in values, ``#`` in a target, no or two ``Host`` (RFC 9112 section 3.2), an authority that is not the
  ``Host``; two ``Content-Type`` or ``Authorization``, of which each server would read another one;
* bodies on methods that give them no meaning (RFC 9110 section 9.3: a means of request smuggling);
* in answers: control characters in the reason phrase, odd status numbers, lengths with a sign.

Names outside ``[A-Za-z0-9-]`` are dropped and counted: a CGI-like server reads ``x_cert`` and ``x.cert`` as ``X-Cert``
(Traefik CVE-2026-39858, Caddy CVE-2026-52845, Django CVE-2015-0219); nginx drops them too.
"""

from __future__ import annotations

import enum
import re
import string
from typing import Any

import attrs

from x509proxy.http1.authentication import announces_binding, binds_connection
from x509proxy.http1.errors import Code, ErrorResponse, HttpError, bad_request
from x509proxy.http1.fields import Pairs
from x509proxy.http1.request_line import check_method, loggable
from x509proxy.http1.request_target import is_authority, read_target, without_empty_port
from x509proxy.redaction import without_secrets
from x509proxy.settings import ClientSettings, InvalidNames

__all__ = [
    "METHODS_WITH_BODY",
    "NO_HEAD",
    "Framing",
    "RequestHead",
    "ResponseHead",
    "host_name",
    "read_request_head",
    "read_response_head",
    "refused_head",
]

_NAME_OCTETS = (string.ascii_letters + string.digits + "-").encode()
_TOKEN_OCTETS = _NAME_OCTETS + b"!#$%&'*+.^_`|~"
_VALUE_OCTETS = b"\t" + bytes(range(0x20, 0x7F))
_ANSWER_OCTETS = _VALUE_OCTETS + bytes(range(0x80, 0x100))

METHODS_WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})
"""The methods that give a body a meaning; a request of any other kind may have none."""
# RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
_WITHOUT_CONTENT = frozenset({204, 205, 304})
_SINGLE = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"expect", b"content-type", b"authorization"}
)

_PORT = re.compile(rb":[0-9]*\Z")
_LONGEST_TOLD = 80
_LENGTH = re.compile(rb"[0-9]{1,18}")


class Framing(enum.Enum):
    """How the end of a body is known."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


@attrs.frozen
class RequestHead:
    """One request's head. ``target`` is in origin-form or ``*``, byte for byte as sent; ``host`` is empty only in HTTP/1.0.

    ``length``: the body's length if ``body`` is ``LENGTH``; ``invalid_header_names``: how many fields were dropped for their names;
    ``keep_alive``: whether the client lets the connection live on (RFC 9112 section 9.3).
    ``binds_connection``: whether its credentials may authenticate the connection to the back end
    (:mod:`x509proxy.http1.authentication`). ``memo`` and ``loggable``: what has been
    found out about it last, for :mod:`x509proxy.forwarding.sanitizer` and :mod:`x509proxy.forwarding.forwarded_fields`; ``words``: method, path without query,
    which may hold OAuth codes, and version, as text for the record.
    """

    method: bytes
    target: bytes
    version: str
    pairs: Pairs = attrs.field(repr=False)
    host: bytes
    body: Framing
    length: int = 0
    expects_continue: bool = False
    invalid_header_names: int = 0
    keep_alive: bool = True
    binds_connection: bool = False
    memo: list[tuple[Any, Pairs, int]] = attrs.field(factory=list, init=False, eq=False, repr=False)
    told: list[Any] = attrs.field(factory=list, init=False, eq=False, repr=False)
    words: tuple[str, str, str] = attrs.field(
        init=False,
        eq=False,
        repr=False,
        default=attrs.Factory(lambda self: _words(self), takes_self=True),  # noqa: PLW0108 - it stands below
    )


def _words(head: RequestHead) -> tuple[str, str, str]:
    return (
        head.method.decode("ascii"),
        head.target.partition(b"?")[0].decode("ascii"),
        f"HTTP/{head.version}",
    )


NO_HEAD = RequestHead(b"-", b"-", "1.1", (), b"", Framing.NONE, keep_alive=False)
"""What stands in for the head of what could not be read."""


def refused_head(line: bytes, limit: int) -> RequestHead:
    """What stands in for the head of what is refused before there is one, by its request line, for the record.

    ``line``: empty if it has not come whole; ``limit``: bytes of a target.
    """
    return RequestHead(*loggable(line, limit), (), b"", Framing.NONE, keep_alive=False)


@attrs.frozen
class ResponseHead:
    """One answer's head; ``reason`` is printable ASCII; ``length`` is -1 where no ``Content-Length`` was given.

    With ``body`` ``NONE`` a ``length`` is that of the body that a GET would have had (HEAD, 304; RFC 9110 section 8.6).
    ``keep_alive``: whether the back end lets the connection live on, and it may be another client's
    (:mod:`x509proxy.http1.authentication`); ``memo`` as in :class:`RequestHead`.
    """

    status: int
    reason: bytes
    pairs: Pairs = attrs.field(repr=False)
    body: Framing
    length: int = -1
    keep_alive: bool = True
    memo: list[tuple[Any, bytes, Any]] = attrs.field(factory=list, init=False, eq=False, repr=False)


def read_request_head(
    method: bytes,
    target: bytes,
    version: str,
    pairs: Pairs,
    settings: ClientSettings,
    keep_alive: bool = True,
) -> RequestHead:
    """Validate a parsed head; ``pairs`` without white space around the values.

    :raises Refused: with 400, 405, 413, 414, 417, 421, 431 or 501; nothing of the request may reach the back end.
    """
    check_method(method)
    if version not in ("1.1", "1.0"):
        raise bad_request(f"HTTP version {version}")
    if len(pairs) > settings.max_header_fields:
        raise HttpError(
            ErrorResponse(
                Code.HEAD_TOO_LARGE, f"{len(pairs)} header fields", "Too many header fields"
            )
        )
    kept, single = _read_fields(pairs, settings.invalid_header_names)
    host = _read_host(single.get(b"host"), version)
    origin, host = read_target(method, target, host, settings.max_target_bytes)
    _check_served(host, settings.allowed_hosts)
    body, length = _read_framing(method, version, single, settings.max_body_bytes)
    expects_continue = _expects_continue(single, version)
    return RequestHead(
        method,
        origin,
        version,
        kept,
        host,
        body,
        length,
        expects_continue,
        len(pairs) - len(kept),
        keep_alive,
        binds_connection(single.get(b"authorization")),
    )


def _read_fields(
    pairs: Pairs, invalid_header_names: InvalidNames
) -> tuple[list[tuple[bytes, bytes]], dict[bytes, bytes]]:
    """The fields that go on, and those that may stand only once, by lower-case name."""
    kept: list[tuple[bytes, bytes]] = []
    single: dict[bytes, bytes] = {}
    for pair in pairs:
        name, value = pair
        if name.translate(None, _NAME_OCTETS) or not name:
            if invalid_header_names is InvalidNames.REFUSE or not name:
                raise bad_request("header name outside [A-Za-z0-9-]")
            continue
        if value.translate(None, _VALUE_OCTETS):
            raise bad_request("header value with control characters or bytes above 0x7E")
        lower = name.lower()
        if lower in _SINGLE:
            if lower in single:
                raise bad_request(f"two {lower.decode('ascii')} fields")
            single[lower] = value
        kept.append(pair)
    return kept, single


def _read_host(host: bytes | None, version: str) -> bytes:
    if host is None:
        if version == "1.0":
            return b""
        raise bad_request("no host field")
    if not is_authority(host):
        raise bad_request("malformed host field")
    return without_empty_port(host)


def host_name(host: bytes) -> str:
    """A host as names are compared: in lower case, without its port, and without the dot that only makes it absolute."""
    return _PORT.sub(b"", host).decode("ascii").lower().rstrip(".")


def _check_served(host: bytes, hosts: tuple[str, ...]) -> None:
    """RFC 9110 section 15.5.20: a request for a name that is not served here was misdirected."""
    if hosts and (name := host_name(host)) not in hosts:
        # The client's word: of few characters, cut short, and nothing that could be the secret header's.
        asked = without_secrets(repr(name))[:_LONGEST_TOLD]
        raise HttpError(
            ErrorResponse(
                Code.MISDIRECTED,
                f"a host that is not served: {asked}",
                "This name is not served here",
            )
        )


def _read_framing(
    method: bytes, version: str, single: dict[bytes, bytes], limit: int
) -> tuple[Framing, int]:
    """RFC 9112 section 6.3, without the parts that recover from what should not be."""
    coding, length = single.get(b"transfer-encoding"), single.get(b"content-length")
    if coding is not None:
        if length is not None or version == "1.0" or coding.lower() != b"chunked":
            raise bad_request("transfer-encoding other than chunked alone, or in HTTP/1.0")
        body, size = Framing.CHUNKED, 0
    else:
        if length is not None and not _LENGTH.fullmatch(length):
            raise bad_request("malformed content-length")
        size = int(length or b"0")
        body = Framing.LENGTH if size else Framing.NONE
    if body is not Framing.NONE and method not in METHODS_WITH_BODY:
        raise bad_request(f"body on {method.decode('ascii')}")
    if size > limit:
        raise HttpError(
            ErrorResponse(
                Code.BODY_TOO_LARGE, f"body of {size} bytes", f"The body may have {limit} bytes"
            )
        )
    return body, size


def _expects_continue(single: dict[bytes, bytes], version: str) -> bool:
    """RFC 9110 section 10.1.1: 100-continue is the only expectation there is, and HTTP/1.0 has none."""
    expect = single.get(b"expect")
    if expect is None or version == "1.0":
        return False
    if expect.lower() != b"100-continue":
        raise HttpError(ErrorResponse(Code.EXPECTATION_FAILED, "unknown expectation"))
    return True


def read_response_head(
    status: int,
    reason: bytes,
    version: str,
    pairs: Pairs,
    method: bytes,
    fields: int,
    keep_alive: bool = True,
) -> ResponseHead:
    """Validate a back end's parsed head; ``method`` is the request's, ``fields`` the most fields there may be.

    :raises Refused: with 502; the connection it came on must not be used again.
    """
    if version not in ("1.1", "1.0"):
        raise _bad_answer(f"HTTP version {version}")
    if not 200 <= status <= 599:
        raise _bad_answer(f"status {status}")
    if len(pairs) > fields:
        raise _bad_answer(f"{len(pairs)} header fields")
    for name, value in pairs:
        if not name or name.translate(None, _TOKEN_OCTETS) or value.translate(None, _ANSWER_OCTETS):
            raise _bad_answer("malformed header field")
    printable = b"" if reason.translate(None, _VALUE_OCTETS) else reason
    return ResponseHead(
        status,
        printable,
        pairs,
        *_answer_framing(status, version, pairs, method),
        keep_alive and _ends_for_sure(status, method) and not announces_binding(pairs),
    )


def _ends_for_sure(status: int, method: bytes) -> bool:
    """Decide whether a response ends where it says; some servers send a body that may not be.

    It comes a little later, and would be the response to another client's request.
    """
    return method != b"HEAD" and status not in _WITHOUT_CONTENT


def _bad_answer(reason: str) -> HttpError:
    return HttpError(ErrorResponse(Code.INVALID_RESPONSE, f"back end's answer: {reason}"))


_FRAMING_SIZES = (len(b"transfer-encoding"), len(b"content-length"))


def _answer_framing(status: int, version: str, pairs: Pairs, method: bytes) -> tuple[Framing, int]:
    framing = [(name.lower(), value) for name, value in pairs if len(name) in _FRAMING_SIZES]
    codings = [value for name, value in framing if name == b"transfer-encoding"]
    lengths = [value for name, value in framing if name == b"content-length"]
    if len(codings) + len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        raise _bad_answer("framing that can be read in two ways")
    if codings and (version == "1.0" or codings[0].lower() != b"chunked"):
        raise _bad_answer("transfer-encoding other than chunked, or in HTTP/1.0")
    length = int(lengths[0]) if lengths else -1
    if method == b"HEAD" or status in (204, 304):
        return Framing.NONE, -1 if status == 204 else length
    if codings:
        return Framing.CHUNKED, length
    return (Framing.LENGTH if lengths else Framing.CLOSE), length
