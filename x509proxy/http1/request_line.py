"""A request's first line: judged before it is parsed, and what of it may be told where the request is refused.

Facts
-----
* llhttp forgives two spaces in a request line, and takes RTSP and ICE for HTTP; it gives up on a method it does not know before
  there is a word to answer.
* A target that is not fit to be served may hold anything: a password before its authority, a token behind ``#``.
"""

from __future__ import annotations

import re

from x509proxy.http1.errors import Code, ErrorResponse, HttpError, bad_request
from x509proxy.http1.request_target import read_target

__all__ = ["check_method", "check_request_line", "loggable"]

_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_NEVER = frozenset({b"TRACE", b"CONNECT"})
_LONGEST_METHOD = 32

_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.[01]")
_UNTOLD = b"-"


def check_request_line(line: bytes) -> None:
    """Judge a request line before it is parsed, without its line end (RFC 9112 section 3).

    :raises Refused: 400; or 405 or 501, the method is not served.
    """
    if not _REQUEST_LINE.fullmatch(line):
        raise bad_request("malformed request line")
    check_method(line.partition(b" ")[0])


def check_method(method: bytes) -> None:
    """Judge a method by itself.

    :raises Refused: 405 or 501, it is not served.
    """
    if method in _METHODS:
        return
    if method in _NEVER:
        raise HttpError(ErrorResponse(Code.METHOD_NOT_ALLOWED, f"method {method.decode('ascii')}"))
    raise HttpError(ErrorResponse(Code.NOT_IMPLEMENTED, "unknown method"))


def loggable(line: bytes, limit: int) -> tuple[bytes, bytes, str]:
    """Method, target and version for the record; ``-`` stands for what is not fit to be told, or longer than it may be."""
    if not _REQUEST_LINE.fullmatch(line):
        return _UNTOLD, _UNTOLD, "1.1"
    method, target, protocol = line.split(b" ")
    try:
        target, _ = read_target(method, target, b"", limit)
    except HttpError:
        target = _UNTOLD
    return (
        method if len(method) <= _LONGEST_METHOD else _UNTOLD,
        target,
        protocol.removeprefix(b"HTTP/").decode("ascii"),
    )
