"""Redaction of secret names, PEM keys and control characters from text that will be shown.

Facts
-----
* People put the secret name in the wrong place, such as the path of the file that should hold it.
  So every text from outside passes :func:`without_secrets` before an error shows it (invariant L4).
* Names of header fields are compared without case, so a random part is counted in lower case.
"""

from __future__ import annotations

import re

__all__ = ["MIN_NAME_CHARS", "MIN_RANDOM_CHARS", "contains_secret", "is_random", "without_secrets"]

MIN_NAME_CHARS = 32
"""Smallest length of a secret name."""
MIN_RANDOM_CHARS = 16
"""Smallest number of its characters that belong to no ordinary word."""
_MIN_DISTINCT_CHARS = 8
_ARMOUR = re.compile(r"-----BEGIN .*", re.DOTALL)
_LONG_RUN = re.compile(rf"[A-Za-z0-9-]{{{MIN_NAME_CHARS},}}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_WORD = re.compile(r"[a-z]{1,15}|[A-Z][a-z]{0,14}|[A-Z]{1,15}")
# Ordinary words that contain digits, in lower case.
_TERMS = frozenset(
    {
        "x509", "x5c", "x5t", "s256", "sha1", "sha256", "sha384", "sha512", "md5", "base64",
        "pkcs7", "pkcs8", "pkcs12", "tls1", "tls12", "tls13", "ssl3", "http1", "http2", "http3",
        "oauth1", "oauth2", "oauth20", "rfc8705", "rfc9440", "es256", "rs256", "p256", "v1", "v2",
        "v3", "connect2id", "c2id", "utf8",
    }
)  # fmt: skip


def without_secrets(text: str) -> str:
    """Return the text with ``…`` in place of possible secret names and of pasted PEM blocks.

    Control characters and line separators are written as Python escapes, so that a terminal does
    not act on them and a log shows one line.
    """
    shown = _LONG_RUN.sub(lambda run: "…" if is_random(run[0]) else run[0], _ARMOUR.sub("…", text))
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), shown)


def contains_secret(text: str) -> bool:
    """Return True if a part of the text could be a secret name."""
    return any(map(is_random, _LONG_RUN.findall(text)))


def is_random(name: str) -> bool:
    """Return True if enough characters of a name belong to no ordinary word.

    This finds names that were chosen carelessly. It does not measure entropy.
    """
    segments = name.lower().split("-"), name.split("-")
    rest = "".join(
        lower
        for lower, segment in zip(*segments, strict=True)
        if lower not in _TERMS and not _WORD.fullmatch(segment)
    )
    return len(rest) >= MIN_RANDOM_CHARS and len(set(rest)) >= _MIN_DISTINCT_CHARS
