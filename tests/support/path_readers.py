"""Servers as functions from a request target to the path that they route.

Each is written from its own documentation or source, without any code of the product. ``None``: the
server rejects the target. A reader that ignores case returns lower case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

__all__ = ["READERS", "Reader"]

Reader = Callable[[str], str | None]


def _path(target: str) -> str:
    return target.partition("?")[0].partition("#")[0]


def _decoded(target: str) -> bytes:
    return unquote_to_bytes(_path(target))


def _resolved(path: str) -> str:
    """Resolve names as in RFC 3986 section 5.2.4."""
    way: list[str] = []
    names = path.split("/")[1:]
    for name in names:
        if name == "..":
            del way[-1:]
        elif name != ".":
            way.append(name)
    if names[-1:] in (["."], [".."]):
        way.append("")
    return "/" + "/".join(way)


def rfc3986(target: str) -> str | None:
    """Return the path unchanged."""
    return _path(target)


def plain_decoder(target: str) -> str | None:
    """Decode once, as Go's ``net/http`` does without its ServeMux."""
    return _decoded(target).decode("utf-8", "replace")


def node_url(target: str) -> str | None:
    """Return ``new URL(req.url, "http://host").pathname``, decoded (WHATWG URL)."""
    text = re.sub(r"[\t\r\n]", "", target).partition("#")[0]
    path, _, _ = text.partition("?")
    path = path.replace("\\", "/")
    if path.startswith("//"):
        # Any number of slashes, then the authority.
        path = "/" + path.lstrip("/").partition("/")[2]
    names = [
        re.sub("%2e", ".", name, flags=re.IGNORECASE)
        if re.fullmatch(r"(?:\.|%2e){1,2}", name, re.IGNORECASE)
        else name
        for name in path.split("/")
    ]
    return unquote_to_bytes(_resolved("/".join(names))).decode("utf-8", "replace")


def java_uri(target: str) -> str | None:
    """Parse by ``URI.create(target).getPath()``.

    ``//x`` is an authority; illegal characters throw.
    """
    if re.search(r'[\\"<>^`{|} ]|%(?![0-9A-Fa-f]{2})', target):
        return None
    path = _path(target)
    if path.startswith("//"):
        _, slash, rest = path[2:].partition("/")
        path = slash + rest
    return unquote_to_bytes(path).decode("utf-8", "replace") or "/"


def tomcat(target: str) -> str | None:
    """Remove path parameters, decode once, resolve ``//`` and dot segments; reject ``%2f``."""
    path = "/".join(name.partition(";")[0] for name in _path(target).split("/"))
    decoded = unquote_to_bytes(path)
    if re.search(r"%(?:2f|5c|00)|%(?![0-9A-Fa-f]{2})", path, re.IGNORECASE):
        return None
    return _resolved(re.sub("/+", "/", decoded.decode("utf-8", "replace")))


def spring(target: str) -> str | None:
    """Match suffix patterns and an optional trailing slash (Spring MVC before 6), behind Tomcat."""
    path = tomcat(target)
    if path is None:
        return None
    head, _, last = path.rstrip("/").rpartition("/")
    return f"{head}/{last.partition('.')[0] or last}"


def nginx(target: str) -> str | None:
    """Route by ``$uri``: decoded once, then slashes merged and dot segments resolved."""
    decoded = _decoded(target).decode("latin-1")
    return None if "\0" in decoded else _resolved(re.sub("/+", "/", decoded))


def nginx_twice(target: str) -> str | None:
    """Parse the decoded path once more, as behind ``proxy_pass http://app$uri``."""
    uri = nginx(target)
    return None if uri is None else plain_decoder(uri)


def iis(target: str) -> str | None:
    """Route without case, after ``%u`` escapes, backslashes, streams, final dots and blanks."""
    path = re.sub(
        r"%u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), _path(target), flags=re.IGNORECASE
    )
    text = unquote_to_bytes(path).decode("utf-8", "replace").replace("\\", "/").lower()
    names = [re.sub(r"::?\$.*", "", name, flags=re.DOTALL) for name in text.split("/")]
    names = [name if name in (".", "..") else name.rstrip(". ") for name in names]
    return _resolved(re.sub("/+", "/", "/".join(names)))


def iis_twice(target: str) -> str | None:
    """Decode twice, behind another decoder."""
    once = _decoded(target).decode("utf-8", "replace")
    return iis(once) if once.startswith("/") else None


def aspnet_cookieless(target: str) -> str | None:
    """Remove ``(S(session))`` with the slash behind it, as ASP.NET does (CVE-2023-36899)."""
    return re.sub(r"\((?:[A-Za-z]\([^()/]*\))+\)/?", "", iis(target) or "/", flags=re.IGNORECASE)


def bottle(target: str) -> str | None:
    """Route by WSGI's PATH_INFO, without the octets that are not UTF-8."""
    return "/" + _decoded(target).decode("utf-8", "ignore").lstrip("/")


def ascii_dropper(target: str) -> str | None:
    """Drop characters by ``path.encode("ascii", "ignore")``, as slug and log sanitisers do."""
    return _decoded(target).decode("utf-8", "ignore").encode("ascii", "ignore").decode()


def slugify(target: str) -> str | None:
    """Apply Django's ``slugify``: NFKD, then other characters than ASCII are dropped."""
    text = unicodedata.normalize("NFKD", _decoded(target).decode("utf-8", "ignore"))
    return text.encode("ascii", "ignore").decode().lower()


def django_ignorecase(target: str) -> str | None:
    """Match with ``(?i)``: in ``re``, U+212A equals ``k``, U+017F ``s``, and U+0131 ``i``."""
    path = _decoded(target).decode("utf-8", "replace")
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(
        next((one for one in letters if re.fullmatch(one, character, re.IGNORECASE)), character)
        for character in path
    )


def fastify(target: str) -> str | None:
    """Apply find-my-way with ``caseSensitive: false``: decoded, then ``toLowerCase``."""
    try:
        return _decoded(target).decode("utf-8").lower()
    except UnicodeDecodeError:
        return None


def java_ignorecase(target: str) -> str | None:
    """Compare by ``equalsIgnoreCase``: each character to upper case, then to lower case."""
    path = _decoded(target).decode("utf-8", "replace")
    return "".join(one.upper().lower() if len(one.upper()) == 1 else one.lower() for one in path)


def nfkc(target: str) -> str | None:
    """Apply NFKC and case folding, as in PRECIS and in identifiers (RFC 8264)."""
    return unicodedata.normalize("NFKC", _decoded(target).decode("utf-8", "replace")).casefold()


def database_collation(target: str) -> str | None:
    """Look up in a database without case and accents (``utf8mb4_general_ci``)."""
    text = unicodedata.normalize("NFKD", _decoded(target).decode("utf-8", "replace"))
    kept = (one for one in text if not unicodedata.combining(one))
    return "".join(kept).upper().lower()


def ignorables_dropped(target: str) -> str | None:
    """Apply NFKC_Casefold: format characters and variation selectors are removed (UTS #46)."""
    text = _decoded(target).decode("utf-8", "replace")
    kept = (one for one in text if unicodedata.category(one) not in ("Cf", "Cc", "Mn"))
    return unicodedata.normalize("NFKC", "".join(kept)).casefold()


def windows_best_fit(target: str) -> str | None:
    """Use the ANSI interfaces of Windows (CVE-2024-4577)."""
    best = {
        "\u00ad": "-",
        "\u2215": "/",
        "\u2216": "\\",
        "\uff0f": "/",
        "\u0142": "l",
        "\u0167": "t",
        "\u212a": "K",
    }
    text = _decoded(target).decode("utf-8", "replace")
    text = "".join(best.get(one, unicodedata.normalize("NFKD", one)[:1]) for one in text)
    return _resolved(re.sub("/+", "/", text.replace("\\", "/").lower()))


def rails(target: str) -> str | None:
    """Route ``/token(.:format)``; slashes are squeezed, and a final one is removed (Journey)."""
    path = re.sub("/+", "/", _decoded(target).decode("utf-8", "replace")).rstrip("/")
    return re.sub(r"\.[^/.?]+\Z", "", path) or "/"


def symfony(target: str) -> str | None:
    """Route by the front controller ``/index.php``, with the rest as PATH_INFO."""
    path = _decoded(target).decode("utf-8", "replace")
    return re.sub(r"\A/(?:index|app|app_dev)\.php(?=/|\Z)", "", path) or "/"


def query_rewrite(target: str) -> str | None:
    """Apply ``RewriteRule ^(.*)$ index.php?$1``: an ampersand ends the path.

    CodeIgniter and Drupal have this rule.
    """
    return _decoded(target).decode("utf-8", "replace").partition("&")[0]


def nul_terminated(target: str) -> str | None:
    """End the path at NUL, as a handler in C does; a line end counts as white space."""
    return _decoded(target).decode("latin-1").partition("\0")[0].strip()


def lenient_utf8(target: str) -> str | None:
    """Decode overlong sequences (IIS 5, old Java and PHP)."""
    data = re.sub(
        rb"[\xc0\xc1]([\x80-\xbf])",
        lambda found: bytes([((found[0][0] & 0x1F) << 6 | found[1][0] & 0x3F) & 0xFF]),
        _decoded(target),
    )
    return data.decode("utf-8", "ignore")


READERS: tuple[Reader, ...] = (
    rfc3986, plain_decoder, node_url, java_uri, tomcat, spring, nginx, nginx_twice, iis,
    iis_twice, aspnet_cookieless, bottle, ascii_dropper, slugify, django_ignorecase, fastify,
    java_ignorecase, nfkc, database_collation, ignorables_dropped,
    windows_best_fit, rails, symfony, query_rewrite, nul_terminated, lenient_utf8,
)  # fmt: skip
