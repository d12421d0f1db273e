"""Readings of a request's path: every path that a lenient server could take it for.

Facts
-----
* The back end decides what a target means. Servers decode escapes, drop ``;parameters``, merge
  ``//``, and ignore case. Windows drops dots and blanks at the end of a name, and the stream after
  it (``/token::$DATA``).
* Unicode adds more: NFKC and case folding map U+212A to ``k`` (Django ``(?i)``, Fastify). Other
  servers ignore accents, or drop every character that is not ASCII (Bottle).
* Some targets have no lenient reading that covers all others. ``new URL(target, base)`` of Node.js
  and ``java.net.URI`` take ``//x/token`` for the path ``/token`` of a host ``x``. nginx with
  ``proxy_pass http://app$uri`` decodes ``/token%3f`` to a path with a query. Those targets are
  :func:`is_ambiguous`, and rules cannot be applied to them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from urllib.parse import unquote_to_bytes

__all__ = ["is_ambiguous", "lenient_names", "normalized_paths", "written_path"]

# Paths that all servers read alike, except for the case of letters.
_PLAIN = re.compile(rb"/|(?:/[A-Za-z0-9_~-]+)+")
# A raw backslash, or a percent sign that begins no escape of RFC 3986 (``%u0074`` is one for IIS).
_NOT_URI = re.compile(rb"\\|%(?![0-9A-Fa-f]{2})")
# ``?`` and ``#`` end a path for a server that decodes before it parses. ``%`` is decoded again by
# the next server.
_DECODED_DELIMITERS = re.compile(r"[?#%\\]")
# Characters that some legacy character set maps to a delimiter (Windows best fit; code pages 932
# and 949).
_MAPPED_TO_DELIMITERS = re.compile("[\u00a5\u20a9\u2044\u2215\u2216\u29f5\u29f8\u29f9]")
# Hangul fillers are letters by category, but invisible: "default ignorable" (UAX #44).
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")
# Control, format (soft hyphen, zero width), private and unassigned characters, line and paragraph
# separators: some servers drop them, others map them to a hyphen (CVE-2024-4577) or end the path.
_UNREADABLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
_SEPARATORS = "/\\?#%;:.&"
# When it is resolved, an empty segment after it comes first, and begins an authority.
_DOT_SEGMENT = re.compile(r"/\.{1,2}/")
# ASP.NET removes ``/(S(session))`` and joins the rest (CVE-2023-36899).
_COOKIELESS = re.compile(r"/\([A-Za-z]\(")

_AFTER_NAME = re.compile(r"(?:;|\0|::?\$)[^/]*")
_BLANKS = "".join(map(chr, (*range(0x21), 0x7F)))
# A script to which a web server passes the rest of the path (PATH_INFO, CGI).
_SCRIPT = re.compile(r".+\.(?:php\d?|phtml|f?cgi|pl|py|wsgi|as[hmp]x|svc|jspx?|exe|dll)")
# Letters without a decomposition that ASCII folding and Windows best fit map to ASCII.
_LETTERS = str.maketrans(
    {
        "\u00c6": "ae", "\u00e6": "ae", "\u00d0": "d", "\u00f0": "d", "\u00d8": "o", "\u00f8": "o",
        "\u00de": "th", "\u00fe": "th", "\u0110": "d", "\u0111": "d", "\u0126": "h", "\u0127": "h",
        "\u0138": "k", "\u0141": "l", "\u0142": "l", "\u014a": "n", "\u014b": "n", "\u0152": "oe",
        "\u0153": "oe", "\u0166": "t", "\u0167": "t", "\u0180": "b", "\u0189": "d", "\u0191": "f",
        "\u0192": "f", "\u0197": "i", "\u019a": "l", "\u01ab": "t", "\u01ae": "t", "\u01b6": "z",
        "\u01e4": "g", "\u01e5": "g", "\u0261": "g", "\u2010": "-", "\u2011": "-", "\u2012": "-",
        "\u2013": "-", "\u2014": "-", "\u2015": "-", "\u2212": "-",
    }
)  # fmt: skip


def is_ambiguous(target: bytes) -> bool:
    """Return true if servers disagree about the path of a target beyond every lenient reading.

    The target is in origin-form.
    """
    path = target.partition(b"?")[0]
    if _PLAIN.fullmatch(path):
        return False
    if _NOT_URI.search(path):
        return True
    try:
        text = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        # Servers drop or replace these octets, or decode another character set. Some decode
        # overlong sequences.
        return True
    return bool(
        _DECODED_DELIMITERS.search(text)
        or text.startswith("//")
        or ("//" in text and _DOT_SEGMENT.search(text))
        or _COOKIELESS.search(text)
        or any(ord(character) < 0x20 or character == "\x7f" for character in text)
        or (not text.isascii() and _is_deceptive(text))
    )


def _is_deceptive(text: str) -> bool:
    """Return true if a character beyond ASCII vanishes or becomes a delimiter for some server."""
    if _MAPPED_TO_DELIMITERS.search(text):
        return True
    if any(unicodedata.category(one) in _UNREADABLE or one in _FILLERS for one in text):
        return True
    compatible = unicodedata.normalize("NFKC", text)
    return any(compatible.count(separator) != text.count(separator) for separator in _SEPARATORS)


def written_path(target: bytes) -> str:
    """Return the path as the client sent it; ``/*`` for ``*``."""
    path = target.partition(b"?")[0].decode("latin-1")
    return path if path.startswith("/") else f"/{path}"


def normalized_paths(target: bytes) -> tuple[str, ...]:
    """Return each path, in lower case, that a lenient server could read in an unambiguous target.

    The first one has its dot segments resolved, and is the only one for nearly all requests. For
    ``*`` it is ``/*``.
    """
    path = target.partition(b"?")[0]
    if _PLAIN.fullmatch(path):
        return (path.decode("ascii").lower(),)
    text = unquote_to_bytes(path).decode("utf-8", "replace")
    return tuple(
        dict.fromkeys(
            "/" + "/".join(names)
            for spelling in _spellings(text)
            for names in _routes(lenient_names(spelling))
        )
    )


def _spellings(text: str) -> Iterable[str]:
    """Return the forms in which servers compare the text.

    These are: folded, reduced to base letters, and without or with replaced non-ASCII characters.
    """
    if text.isascii():
        return (text,)
    folded = _folded(text)
    return (
        folded,
        _folded("".join(unicodedata.normalize("NFKD", one)[0] for one in text)),
        *(one.encode("ascii", "ignore").decode("ascii") for one in (folded, text)),
        text.encode("ascii", "replace").decode("ascii"),
    )


def _folded(text: str) -> str:
    """Return the text without accents, compatibility forms and case."""
    # Upper case first: U+0131, the dotless i, equals ``i`` only in that (Java's equalsIgnoreCase).
    plain = "".join(
        " " if unicodedata.category(one) == "Zs" else one
        for one in unicodedata.normalize("NFKD", text)
        if unicodedata.category(one) not in ("Mn", "Me")
    )
    return plain.translate(_LETTERS).upper().casefold()


def _routes(names: list[str]) -> Iterator[list[str]]:
    """Yield the names with dot segments resolved and unresolved, and without the script.

    A script receives the rest of the path.
    """
    resolved: list[str] = []
    for name in names:
        if name == "..":
            del resolved[-1:]
        else:
            resolved.append(name)
    yield resolved
    yield names
    # RFC 3875 section 4.1.5: the script is the first one that exists. The usual pattern for nginx
    # finds the last one.
    scripts = [offset for offset, name in enumerate(resolved) if _SCRIPT.fullmatch(name)]
    for offset in {*scripts[:1], *scripts[-1:]}:
        yield resolved[offset + 1 :]
        yield resolved[:offset] + resolved[offset + 1 :]


def lenient_names(text: str) -> list[str]:
    """Return the names in a decoded path for the most lenient server, ``..`` among them."""
    text = _AFTER_NAME.sub("", text.replace("\\", "/"))
    # Empty names are removed first: 8 KiB of slashes have as many of them.
    written = filter(None, text.lower().split("/"))
    return [name for name in map(_lenient_name, written) if name]


def _lenient_name(written: str) -> str:
    name = written.strip(_BLANKS)
    return name.rstrip(_BLANKS + ".") or (".." if name.count(".") > 1 else "")
