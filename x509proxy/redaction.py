"""What may be told: text in which no secret name is left, nor a key, nor what a terminal would act on.

Facts
-----
* People put the secret name in the wrong place, such as the path of the file that should hold it; so every text that
  comes from outside goes through :func:`without_secrets` before it stands in an error (invariant L4).
* Names of header fields are compared without case, so a random part is counted in lower case.
"""

from __future__ import annotations

import re

__all__ = ["RANDOM", "SHORTEST", "holds_secret", "is_random", "without_secrets"]

SHORTEST = 32
"""Characters that a secret name has at the least,"""
RANDOM = 16
"""and how many of them are no ordinary words."""
_DIFFERENT = 8
_ARMOUR = re.compile(r"-----BEGIN .*", re.DOTALL)
_LONG_RUN = re.compile(rf"[A-Za-z0-9-]{{{SHORTEST},}}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_WORD = re.compile(r"[a-z]{1,15}|[A-Z][a-z]{0,14}|[A-Z]{1,15}")
# Words that are no less ordinary for the digits in them, in lower case.
_TERMS = frozenset(
    {
        "x509", "x5c", "x5t", "s256", "sha1", "sha256", "sha384", "sha512", "md5", "base64", "pkcs7", "pkcs8", "pkcs12",
        "tls1", "tls12", "tls13", "ssl3", "http1", "http2", "http3", "oauth1", "oauth2", "oauth20", "rfc8705", "rfc9440",
        "es256", "rs256", "p256", "v1", "v2", "v3", "connect2id", "c2id", "utf8",
    }
)  # fmt: skip


def without_secrets(text: str) -> str:
    """``text`` with ``…`` for whatever in it could be a secret name, and for a key that was pasted where its file belongs.

    What a terminal would act on, or take for another line, is written as Python does.
    """
    told = _LONG_RUN.sub(lambda run: "…" if is_random(run[0]) else run[0], _ARMOUR.sub("…", text))
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), told)


def holds_secret(text: str) -> bool:
    """Whether there is something in it that could be a secret name."""
    return any(map(is_random, _LONG_RUN.findall(text)))


def is_random(name: str) -> bool:
    """Whether enough is left of a name without its ordinary words. This finds thoughtlessness; it cannot find ill luck."""
    segments = name.lower().split("-"), name.split("-")
    rest = "".join(
        lower
        for lower, segment in zip(*segments, strict=True)
        if lower not in _TERMS and not _WORD.fullmatch(segment)
    )
    return len(rest) >= RANDOM and len(set(rest)) >= _DIFFERENT
