"""What a request asks for: its target in the form that goes on, and the paths that a back end may read in it.

Facts
-----
* The back end decides what a target means, and may read it more kindly than it is written: percent-encoding, twice over or with
  ``%u`` (IIS), ``//``, ``/./``, ``;parameters`` (Tomcat takes them out of every segment), a backslash, other case, dots and
  blanks at a name's end and the streams behind it (``/token.``, ``/token::$DATA``: Windows), a NUL that ends it.
* A path is compared as the kindest reader sees it, so that ``//%74oken;x`` needs what ``/token`` needs.
* Where there is a ``..``, no reading is the kindest: one reader takes ``a%2fb/..`` for ``a``, another for nothing, a third for
  three names. So a detour has to be plain, and what is left is whether it is resolved at all: both are read.
* Some decoders of UTF-8 read ``..`` in overlong sequences and full-width dots, or once they have
  dropped malformed bytes.
* RFC 3986 section 5.2.4 drops a ``..`` that would climb above the root. Behind a back end's base path it climbs out of that
  instead, past every rule; so it is refused, with a base path and without one, since no honest client sends it.
"""

from __future__ import annotations

import re
import unicodedata

from x509proxy.http1.errors import Code, ErrorResponse, HttpError, bad_request

__all__ = ["is_authority", "normalized_paths", "read_target", "without_empty_port"]

_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_ORIGIN = re.compile(rb"/[!-\"$-~]*")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(/[!-\"$-~]*|\?[!-\"$-~]*)?", re.IGNORECASE)

# A proxy behind us may decode once, the server once more, and its application again; nobody is known who does it more often.
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
_BEHIND_A_NAME = re.compile(r"(?:;|\0|::?\$)[^/]*")
_BLANKS = "".join(map(chr, (*range(0x21), 0x7F)))
# What has no part in a path with a detour: of three dots and more, Windows makes one thing or another.
_NOT_PLAIN = re.compile(rb"[%;:\\]|/\.{3,}(?:/|\Z)")


def is_authority(text: bytes) -> bool:
    """Whether it is a name, or an address as a URL has it, with a port, an empty one, or none."""
    return _HOST.fullmatch(text) is not None


def without_empty_port(authority: bytes) -> bytes:
    """``host:`` means what ``host`` means (RFC 3986 section 6.2.3), and not every server that is told of it can read it."""
    return authority.removesuffix(b":")


def read_target(method: bytes, target: bytes, host: bytes, limit: int) -> tuple[bytes, bytes]:
    """The target in origin-form or ``*``, and the host (RFC 9112 sections 3.2.1, 3.2.2 and 3.2.4).

    :raises Refused: with 400 or 414.
    """
    if len(target) > limit:
        raise HttpError(ErrorResponse(Code.TARGET_TOO_LONG, f"target of {len(target)} bytes"))
    origin, host = _in_origin_form(method, target, host)
    if _strays(origin):
        raise bad_request("a path that leaves the root, or can be read in several ways")
    return origin, host


def _in_origin_form(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    if _ORIGIN.fullmatch(target):
        return target, host
    if target == b"*" and method == b"OPTIONS":
        return target, host
    absolute = _ABSOLUTE.fullmatch(target)
    if not absolute or not is_authority(absolute[1]):
        raise bad_request("malformed request target")
    authority, rest = without_empty_port(absolute[1]), absolute[2] or b""
    if host and authority.lower() != host.lower():
        raise bad_request("the target's authority is not the host field's")
    if not rest and method == b"OPTIONS":
        return b"*", authority
    return rest if rest.startswith(b"/") else b"/" + rest, authority


def _strays(target: bytes) -> bool:
    """Whether there is a detour in it that leads above the root, or elsewhere for one reader than for another."""
    path = target.partition(b"?")[0]
    if ".." not in _names(path) and (b"%" not in path or ".." not in _names(_in_ascii(path))):
        return False
    if _NOT_PLAIN.search(path):
        return True
    way: list[bytes] = []
    for name in path[1:].split(b"/"):
        if name == b"..":
            # An empty name is one to go back over, or none at all.
            if not way or not way.pop():
                return True
        elif name != b".":
            way.append(name)
    return False


def _names(path: bytes) -> list[str]:
    """The names in a path as the kindest reader sees them, ``..`` among them."""
    text = _BEHIND_A_NAME.sub("", _decoded(path).decode("latin-1").replace("\\", "/"))
    # The empty ones first, since 8 KiB of slashes are as many of them.
    written = filter(None, text.lower().split("/"))
    return [name for name in map(_kindest_name, written) if name]


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


def _kindest_name(written: str) -> str:
    name = written.strip(_BLANKS)
    return name.rstrip(_BLANKS + ".") or (".." if name.count(".") > 1 else "")


def normalized_paths(target: bytes) -> tuple[str, str]:
    """The path of a target in origin-form, as the kindest reader sees it: with its detours resolved, and with none resolved.

    ``/*`` for ``*``.
    """
    names = _names(target.partition(b"?")[0])
    way: list[str] = []
    for name in names:
        if name == "..":
            del way[-1:]
        else:
            way.append(name)
    return "/" + "/".join(way), "/" + "/".join(names)
