"""A request's first line: judged before it is parsed, and what of it may be told where the request is refused.

Facts
-----
* llhttp forgives two spaces in a request line, and takes RTSP and ICE for HTTP; it gives up on a method it does not know before
  there is a word to answer.
* A target that is not fit to be served may hold anything: a password before its authority, a token behind ``#``.
"""

from __future__ import annotations

import re

from x509proxy.refusal import Refusal, Refused, malformed

__all__ = ["HOST", "check_method", "check_request_line", "read_target", "told"]

_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_NEVER = frozenset({b"TRACE", b"CONNECT"})
_LONGEST_METHOD = 32

HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
"""An authority, without a user's name before it."""

_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.[01]")
_ORIGIN = re.compile(rb"/[!-\"$-~]*")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(/[!-\"$-~]*|\?[!-\"$-~]*)?", re.IGNORECASE)
_UNTOLD = b"-"


def check_request_line(line: bytes) -> None:
    """Judge a request line before it is parsed, without its line end (RFC 9112 section 3).

    :raises Refused: 400; or 405 or 501, the method is not served.
    """
    if not _REQUEST_LINE.fullmatch(line):
        raise malformed("malformed request line")
    check_method(line.partition(b" ")[0])


def check_method(method: bytes) -> None:
    """Judge a method by itself.

    :raises Refused: 405 or 501, it is not served.
    """
    if method in _METHODS:
        return
    if method in _NEVER:
        raise Refused(Refusal(405, f"method {method.decode('ascii')}"))
    raise Refused(Refusal(501, "unknown method"))


def read_target(method: bytes, target: bytes, host: bytes, limit: int) -> tuple[bytes, bytes]:
    """The target in origin-form or ``*``, and the host (RFC 9112 sections 3.2.1, 3.2.2 and 3.2.4).

    :raises Refused: 400; or 414, it is longer than ``limit``.
    """
    if len(target) > limit:
        raise Refused(Refusal(414, f"target of {len(target)} bytes"))
    if _ORIGIN.fullmatch(target):
        return target, host
    if target == b"*" and method == b"OPTIONS":
        return target, host
    absolute = _ABSOLUTE.fullmatch(target)
    if not absolute or not HOST.fullmatch(absolute[1]):
        raise malformed("malformed request target")
    if host and absolute[1].lower() != host.lower():
        raise malformed("the target's authority is not the host field's")
    rest = absolute[2] or b""
    return rest if rest.startswith(b"/") else b"/" + rest, absolute[1]


def told(line: bytes, limit: int) -> tuple[bytes, bytes, str]:
    """Method, target and version for the record; ``-`` stands for what is not fit to be told, or longer than it may be."""
    if not _REQUEST_LINE.fullmatch(line):
        return _UNTOLD, _UNTOLD, "1.1"
    method, target, protocol = line.split(b" ")
    try:
        target, _ = read_target(method, target, b"", limit)
    except Refused:
        target = _UNTOLD
    return method if len(method) <= _LONGEST_METHOD else _UNTOLD, target, protocol.removeprefix(b"HTTP/").decode("ascii")
