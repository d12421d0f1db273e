"""The checks of a request's method and target, and the form of the target for the back end.

Facts
-----
* A path with ``..`` has no most lenient reading. ``a%2fb/..`` is ``a`` for one server, nothing for
  another, and three names for a third. So the rest of a path with ``..`` must be plain.
* Some decoders of UTF-8 read ``..`` in overlong sequences and full-width dots, or after they have
  dropped malformed bytes.
* An escape takes up to 370 times as long to read as a plain octet: 8 KB of U+FDFA, which has 18
  characters in NFKC, took 10 ms. So a path has at most 256 escapes.
* RFC 3986 section 5.2.4 drops a ``..`` above the root. After the base path of a back end, it leaves
  that path instead, past every rule. So it is rejected, with or without a base path.
"""

from __future__ import annotations

import re
import unicodedata

from x509proxy.http1.errors import Code, ErrorResponse, HttpError, bad_request
from x509proxy.http1.grammar import REQUEST
from x509proxy.http1.path_readings import lenient_names

__all__ = ["check_method", "loggable", "read_authority", "read_target"]

_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_NEVER = frozenset({b"TRACE", b"CONNECT"})
_MAX_LOGGED_METHOD = 32
_NOT_LOGGED = b"-"

_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_ORIGIN = re.compile(rb"/[!-\"$-~]*")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(/[!-\"$-~]*|\?[!-\"$-~]*)?", re.IGNORECASE)

_MAX_ESCAPES = 256

# A proxy behind this one may decode once, the server again, and its application a third time. No
# server is known to decode more often.
_DECODINGS = 3
_ESCAPE = re.compile(rb"%(?:u00)?([0-9a-f]{2})", re.IGNORECASE)
_WIDE = re.compile(rb"%u([0-9a-f]{4})", re.IGNORECASE)
# ASCII in more bytes than one: IIS 4 and 5 with any second byte (MS00-078), Tomcat 6 and old JVMs
# (CVE-2008-2938).
_OVERLONG = re.compile(
    rb"(?:[\xc0\xc1]|(?:\xe0|\xf0\x80|\xf8\x80\x80|\xfc\x80\x80\x80)[\x80\x81])[\x00-\xbf]"
)
# Windows best fit, beyond what NFKC maps (full-width forms, leader dots).
_SLASHES = str.maketrans("\u2044\u2215\u2216\u29f8\u29f9", "//\\/\\")
# Excluded from paths with "..": Windows interprets three and more dots in various ways.
_NOT_PLAIN = re.compile(rb"[%;:\\]|/\.{3,}(?:/|\Z)")


def check_method(method: bytes) -> None:
    """Check that the proxy serves a method (RFC 9110 section 9.1: names are case-sensitive).

    :raises HttpError: 405 or 501.
    """
    if method in _METHODS:
        return
    if method in _NEVER:
        raise HttpError(ErrorResponse(Code.METHOD_NOT_ALLOWED, f"method {method.decode('ascii')}"))
    raise HttpError(ErrorResponse(Code.NOT_IMPLEMENTED, "unknown method"))


def loggable(line: bytes, limit: int) -> tuple[bytes, bytes, str]:
    """Return method, target and version of a request line for logs.

    ``-`` replaces a part that is malformed or too long. An invalid target may hold a password
    before its authority, or a token after ``#``.
    """
    match = REQUEST.line.fullmatch(line)
    if match is None:
        return _NOT_LOGGED, _NOT_LOGGED, "1.1"
    method, target, version = match.groups()
    try:
        target = _NOT_LOGGED if len(target) > limit else read_target(method, target, b"")[0]
    except HttpError:
        target = _NOT_LOGGED
    if len(method) > _MAX_LOGGED_METHOD:
        method = _NOT_LOGGED
    return method, target, f"1.{version.decode('ascii')}"


def read_authority(text: bytes) -> bytes | None:
    """Return a host name, or an address in URL form, with its port; ``None`` if it is malformed.

    ``host:`` is equivalent to ``host`` (RFC 3986 section 6.2.3), but some servers reject it.
    """
    if _HOST.fullmatch(text) is None:
        return None
    return text[:-1] if text.endswith(b":") else text


def read_target(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """Return the target in origin-form or ``*``, and the host.

    See RFC 9112 sections 3.2.1, 3.2.2 and 3.2.4.

    :raises HttpError: 400.
    """
    if _ORIGIN.fullmatch(target) and b".." not in target and b"%" not in target:
        # Nearly all targets. The general case below gives the same result.
        return target, host
    origin, host = _in_origin_form(method, target, host)
    path = origin.partition(b"?")[0]
    if path.count(b"%") > _MAX_ESCAPES:
        raise bad_request("too many escapes in the path")
    if _strays(path):
        raise bad_request("path above the root, or ambiguous")
    return origin, host


def _in_origin_form(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    if _ORIGIN.fullmatch(target):
        return target, host
    if target == b"*" and method == b"OPTIONS":
        return target, host
    absolute = _ABSOLUTE.fullmatch(target)
    authority = read_authority(absolute[1]) if absolute else None
    if absolute is None or authority is None:
        raise bad_request("malformed request target")
    rest = absolute[2] or b""
    if host and authority.lower() != host.lower():
        raise bad_request("authority of the target differs from host")
    if not rest and method == b"OPTIONS":
        return b"*", authority
    return rest if rest.startswith(b"/") else b"/" + rest, authority


def _strays(path: bytes) -> bool:
    """Return true if ``..`` leads above the root, or to different paths on different servers."""
    # Without either of them no server reads a ``..``. Nearly all targets end here.
    if b".." not in path and b"%" not in path:
        return False
    if ".." not in _names(path) and (b"%" not in path or ".." not in _names(_in_ascii(path))):
        return False
    if _NOT_PLAIN.search(path):
        return True
    names: list[bytes] = []
    for name in path[1:].split(b"/"):
        if name == b"..":
            # Some servers count an empty name, others ignore it.
            if not names or not names.pop():
                return True
        elif name != b".":
            names.append(name)
    return False


def _names(path: bytes) -> list[str]:
    """Return the names in a path as the most lenient server reads them, ``..`` among them."""
    return lenient_names(_decoded(path).decode("latin-1"))


def _in_ascii(path: bytes) -> bytes:
    """Return the ASCII that the most lenient decoder of UTF-8 makes of a path."""
    wide = _WIDE.sub(lambda escape: chr(int(escape[1], 16)).encode("utf-8", "replace"), path)
    octets = _OVERLONG.sub(_shortened, _decoded(wide))
    # Decoded again, since a percent sign may be overlong. Bottle drops what is not UTF-8.
    text = unicodedata.normalize("NFKC", _decoded(octets).decode("utf-8", "ignore"))
    return text.translate(_SLASHES).encode("ascii", "replace")


def _shortened(overlong: re.Match[bytes]) -> bytes:
    """Return the one byte that an overlong sequence stands for: the last seven of its bits."""
    return bytes([(overlong[0][-2] & 1) << 6 | overlong[0][-1] & 0x3F])


def _decoded(path: bytes) -> bytes:
    for _ in range(_DECODINGS):
        path = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode("ascii")), path)
    return path
