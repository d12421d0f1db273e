"""The semantic checks of a message head: fields in, one frozen value or an error out.

The grammar (:mod:`x509proxy.http1.grammar`) checks the syntax. This module decides about framing,
host, target, expectation and the end of the connection. It rejects heads that two servers may
interpret in two ways.

Facts
-----
* ``Transfer-Encoding`` beside ``Content-Length``, or in HTTP/1.0, is faulty framing (RFC 9112
  section 6.1). The RFC permits a recovery; here it is an error. So is any coding but ``chunked``,
  and a list of lengths, even of equal ones.
* No ``Host``, or two, is an error (RFC 9112 section 3.2), and so is an authority in the target that
  differs from ``Host``. Two ``Content-Type`` or ``Authorization`` fields are an error, because
  servers differ in which one they use.
* A body on a method that gives it no meaning permits request smuggling (RFC 9110 section 9.3).
* Names outside ``[A-Za-z0-9-]`` are dropped and counted: a CGI-like server takes ``x_cert`` and
  ``x.cert`` for ``X-Cert`` (Traefik CVE-2026-39858, Caddy CVE-2026-52845, Django CVE-2015-0219).
  nginx drops them too.
"""

from __future__ import annotations

import enum
import re
import string
from typing import Final

import attrs

from x509proxy.http1.authentication import BINDING_NAMES, announces_binding, binds_connection
from x509proxy.http1.errors import Code, ErrorResponse, HttpError, bad_request
from x509proxy.http1.fields import Framing, Pairs
from x509proxy.http1.grammar import REQUEST_TEXT_OCTETS
from x509proxy.http1.request_target import (
    check_method,
    loggable,
    read_authority,
    read_target,
)
from x509proxy.redaction import without_secrets
from x509proxy.settings import ClientSettings, InvalidNames

__all__ = [
    "END",
    "METHODS_WITH_BODY",
    "NO_HEAD",
    "EndOfMessage",
    "Framing",
    "RequestHead",
    "ResponseHead",
    "body_too_large",
    "check_interim",
    "host_name",
    "invalid_response",
    "read_request_head",
    "rejected_head",
    "request_head",
    "response_head",
    "response_too_large",
]

_NAME_OCTETS = (string.ascii_letters + string.digits + "-").encode()
METHODS_WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})
"""The methods that give a body a meaning. Requests with other methods must have none."""
# RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
_WITHOUT_CONTENT = frozenset({204, 205, 304})
_SINGLE = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"expect", b"content-type", b"authorization"}
)
_PORT = re.compile(rb":[0-9]*\Z")
_MAX_LOGGED_HOST = 80
_LENGTH = re.compile(rb"[0-9]{1,18}")


# Module names: a look into an enumeration takes four times as long (Python 3.11).
_NONE: Final = Framing.NONE
_LENGTH_KNOWN: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_CLOSE: Final = Framing.CLOSE


class EndOfMessage(enum.Enum):
    """The event of a message's end."""

    END = "end"


END: Final = EndOfMessage.END


# Without slots its construction takes half as long: 1.0 us against 1.8 us.
@attrs.frozen(slots=False)
class RequestHead:
    """The head of one request.

    ``target`` is in origin-form or ``*``, unchanged. ``host`` is empty only in HTTP/1.0.
    ``length``: the length of the body, if ``body`` is ``LENGTH``. ``invalid_header_names``: the
    number of fields dropped for their names. ``keep_alive``: the client keeps the connection open
    (RFC 9112 section 9.3). ``binds_connection``: its credentials may authenticate the connection
    to the back end (:mod:`x509proxy.http1.authentication`).
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

    @property
    def words(self) -> tuple[str, str, str]:
        """Method, path and version for logs; without the query, which may hold OAuth codes."""
        return (
            self.method.decode("ascii"),
            self.target.partition(b"?")[0].decode("ascii"),
            f"HTTP/{self.version}",
        )


NO_HEAD = RequestHead(b"-", b"-", "1.1", (), b"", Framing.NONE, keep_alive=False)
"""The head of a request that could not be parsed."""


def rejected_head(line: bytes, limit: int) -> RequestHead:
    """Make a head for the log of a request whose own head is incomplete or malformed.

    ``line``: its request line, empty if that is incomplete. ``limit``: octets of a target.
    """
    return RequestHead(*loggable(line, limit), (), b"", Framing.NONE, keep_alive=False)


@attrs.frozen(slots=False)
class ResponseHead:
    """The head of one response.

    ``reason`` is printable ASCII. ``length`` is -1 without a ``Content-Length``. If ``body`` is
    ``NONE``, it is the length of the response to GET (HEAD, 304; RFC 9110 section 8.6).
    ``keep_alive``: after the response, the connection can be used again, also for another client
    (:mod:`x509proxy.http1.authentication`).
    """

    status: int
    reason: bytes
    pairs: Pairs = attrs.field(repr=False)
    body: Framing
    length: int = -1
    keep_alive: bool = True


def read_request_head(
    method: bytes, target: bytes, version: str, pairs: Pairs, settings: ClientSettings
) -> RequestHead:
    """Validate a head from another parser; ``pairs`` without white space around values.

    :raises HttpError: as :func:`request_head`.
    """
    if version not in ("1.1", "1.0"):
        raise bad_request(f"HTTP version {version}")
    for name, value in pairs:
        if not name or value.translate(None, REQUEST_TEXT_OCTETS):
            raise bad_request("malformed header field")
    return request_head(method, target, version, pairs, settings)


def request_head(
    method: bytes, target: bytes, version: str, pairs: Pairs, settings: ClientSettings
) -> RequestHead:
    """Validate a head that matches the grammar.

    :raises HttpError: 400, 405, 413, 414, 417, 421, 431 or 501; do not send it to a back end.
    """
    check_method(method)
    if len(target) > settings.max_target_bytes:
        raise HttpError(ErrorResponse(Code.TARGET_TOO_LONG, f"target of {len(target)} bytes"))
    if len(pairs) > settings.max_header_fields:
        detail = f"{len(pairs)} header fields"
        raise HttpError(ErrorResponse(Code.HEAD_TOO_LARGE, detail, "Too many header fields"))
    kept, fields = _index(pairs, settings.invalid_header_names)
    origin, host = read_target(method, target, _read_host(fields, version))
    if settings.allowed_hosts:
        _check_allowed(host, settings.allowed_hosts)
    body, length = _request_framing(method, version, fields, settings.max_body_bytes)
    keep_alive = version == "1.1"
    if b"connection" in fields:
        options = _options(fields[b"connection"])
        # RFC 9110 section 7.8: Upgrade counts only if Connection names it.
        upgrades = b"upgrade" in options and b"upgrade" in fields
        if upgrades and body is not _NONE:
            # llhttp, and so Node.js, parses what follows the head as the other protocol.
            raise bad_request("upgrade of a request with a body")
        keep_alive = _keeps_alive(version, options) and not upgrades
    return RequestHead(
        method,
        origin,
        version,
        kept,
        host,
        body,
        length,
        b"expect" in fields and _expects_continue(fields[b"expect"], version),
        len(pairs) - len(kept),
        keep_alive,
        b"authorization" in fields and binds_connection(fields[b"authorization"]),
    )


def _index(pairs: Pairs, invalid: InvalidNames) -> tuple[Pairs, dict[bytes, bytes]]:
    """Return the fields with valid names, and the values by lower-case name."""
    fields = {name.lower(): value for name, value in pairs}
    if b"".join(fields).translate(None, _NAME_OCTETS):
        if invalid is InvalidNames.REFUSE:
            raise bad_request("header name outside [A-Za-z0-9-]")
        pairs = [pair for pair in pairs if not pair[0].translate(None, _NAME_OCTETS)]
        fields = {name.lower(): value for name, value in pairs}
    if len(fields) < len(pairs):
        names = [name.lower() for name, _ in pairs]
        for name in sorted(_SINGLE.intersection(names)):
            if names.count(name) > 1:
                raise bad_request(f"two {name.decode('ascii')} fields")
        _join_connection(pairs, fields)
    return pairs, fields


def _join_connection(pairs: Pairs, fields: dict[bytes, bytes]) -> None:
    """Join several ``Connection`` fields to one list (RFC 9110 section 5.3)."""
    fields[b"connection"] = b",".join(
        [value for name, value in pairs if name.lower() == b"connection"]
    )


def _read_host(fields: dict[bytes, bytes], version: str) -> bytes:
    if b"host" not in fields:
        if version == "1.0":
            return b""
        raise bad_request("no host field")
    host = read_authority(fields[b"host"])
    if host is None:
        raise bad_request("malformed host field")
    return host


def host_name(host: bytes) -> str:
    """Return a host for comparison: in lower case, without its port and its final dot."""
    return _PORT.sub(b"", host).decode("ascii").lower().rstrip(".")


def _check_allowed(host: bytes, hosts: tuple[str, ...]) -> None:
    """Reject a misdirected request, whose host is not allowed (RFC 9110 section 15.5.20)."""
    if (name := host_name(host)) not in hosts:
        # The client chose the name. It is cut, and anything like the secret header name removed.
        shown = without_secrets(repr(name))[:_MAX_LOGGED_HOST]
        raise HttpError(
            ErrorResponse(
                Code.MISDIRECTED,
                f"host not among the allowed hosts: {shown}",
                "This name is not served here",
            )
        )


def _request_framing(
    method: bytes, version: str, fields: dict[bytes, bytes], limit: int
) -> tuple[Framing, int]:
    """Decide the framing (RFC 9112 section 6.3), without any recovery from faulty framing."""
    if b"transfer-encoding" in fields:
        is_chunked = fields[b"transfer-encoding"].lower() == b"chunked"
        if b"content-length" in fields or version == "1.0" or not is_chunked:
            raise bad_request("transfer-encoding other than chunked alone, or in HTTP/1.0")
        body, size = _CHUNKED, 0
    elif b"content-length" in fields:
        size = _read_length(fields[b"content-length"])
        if size < 0:
            raise bad_request("malformed content-length")
        body = _LENGTH_KNOWN if size else _NONE
    else:
        return _NONE, 0
    if body is not _NONE and method not in METHODS_WITH_BODY:
        raise bad_request(f"body on {method.decode('ascii')}")
    if size > limit:
        raise body_too_large(f"body of {size} bytes", limit)
    return body, size


def _read_length(value: bytes) -> int:
    """Parse up to eighteen digits, which a 64-bit integer holds; return -1 for anything else."""
    return int(value) if _LENGTH.fullmatch(value) else -1


def body_too_large(detail: str, limit: int) -> HttpError:
    """Make the error for a request's body that exceeds its limit."""
    return HttpError(ErrorResponse(Code.BODY_TOO_LARGE, detail, f"The body may have {limit} bytes"))


def _expects_continue(expect: bytes, version: str) -> bool:
    """Check the expectation: 100-continue alone, none in HTTP/1.0 (RFC 9110 section 10.1.1)."""
    if version == "1.0":
        return False
    if expect.lower() != b"100-continue":
        raise HttpError(ErrorResponse(Code.EXPECTATION_FAILED, "unknown expectation"))
    return True


def _options(value: bytes) -> list[bytes]:
    """Return the options of ``Connection``, in lower case (RFC 9110 section 7.6.1)."""
    return [option.strip(b" \t") for option in value.lower().split(b",")]


def _keeps_alive(version: str, options: list[bytes]) -> bool:
    """Return true if the connection persists after the message (RFC 9112 section 9.3)."""
    return b"close" not in options and (version == "1.1" or b"keep-alive" in options)


def response_head(
    status: int, reason: bytes, version: str, pairs: Pairs, method: bytes, max_fields: int
) -> ResponseHead:
    """Validate the head of a final response; ``method``: that of the request.

    :raises HttpError: 502; the connection must not be used again.
    """
    if len(pairs) > max_fields:
        raise response_too_large("too many header fields")
    fields = _index_response(pairs)
    body, length = _CLOSE, -1
    if b"content-length" in fields:
        body, length = _LENGTH_KNOWN, _response_length(fields[b"content-length"])
    elif b"transfer-encoding" in fields:
        if version == "1.0" or fields[b"transfer-encoding"].lower() != b"chunked":
            raise invalid_response("transfer-encoding other than chunked, or in HTTP/1.0")
        body = _CHUNKED
    if method == b"HEAD" or status in (204, 304):
        body, length = _NONE, -1 if status == 204 else length
    keep_alive = (
        _connection_stays(version, fields)
        # Some servers send a body where none is permitted. It arrives later, and would become the
        # response to another client's request.
        and method != b"HEAD"
        and status not in _WITHOUT_CONTENT
        and (BINDING_NAMES.isdisjoint(fields) or not announces_binding(pairs))
    )
    printable = b"" if reason.translate(None, REQUEST_TEXT_OCTETS) else reason
    return ResponseHead(status, printable, pairs, body, length, keep_alive)


def _index_response(pairs: Pairs) -> dict[bytes, bytes]:
    """Return the values by lower-case name; reject a response with two framings."""
    fields = {name.lower(): value for name, value in pairs}
    framings = (b"transfer-encoding" in fields) + (b"content-length" in fields)
    if len(fields) < len(pairs):
        names = [name.lower() for name, _ in pairs]
        framings = names.count(b"transfer-encoding") + names.count(b"content-length")
        _join_connection(pairs, fields)
    if framings > 1:
        raise invalid_response("ambiguous framing")
    return fields


def _connection_stays(version: str, fields: dict[bytes, bytes]) -> bool:
    if b"connection" not in fields:
        return version == "1.1"
    return _keeps_alive(version, _options(fields[b"connection"]))


def _response_length(value: bytes) -> int:
    length = _read_length(value)
    if length < 0:
        raise invalid_response("malformed content-length")
    return length


def check_interim(status: int, version: str, pairs: Pairs) -> None:
    """Check an interim response (RFC 9110 section 15.2), which is not forwarded.

    :raises HttpError: 502, it switches protocols, announces a body or ends the connection.
    """
    fields = _index_response(pairs)
    if status == 101:
        raise invalid_response("status 101")
    if b"transfer-encoding" in fields or _response_length(fields.get(b"content-length", b"0")):
        raise invalid_response("interim response with a body")
    if not _connection_stays(version, fields):
        raise invalid_response("interim response that ends the connection")


def invalid_response(detail: str) -> HttpError:
    """Make the error for a back end's response that is malformed, too large or cut short."""
    return HttpError(ErrorResponse(Code.INVALID_RESPONSE, f"back end's response: {detail}"))


def response_too_large(detail: str) -> HttpError:
    """Make the error for a head that exceeds a limit.

    A client can cause it (a long name, many cookies), so it does not change the back end's health.
    """
    return HttpError(ErrorResponse(Code.RESPONSE_TOO_LARGE, f"back end's response: {detail}"))
