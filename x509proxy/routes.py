"""What a request needs of its client, by path and server name: the longest matching rule, else what its listener asks for.

Facts
-----
* The back end decides what a target means, and may read it more kindly than it is written: percent-encoding, ``//``, ``/./``,
  ``;parameters`` (Tomcat takes them out of every segment), a backslash, other case (IIS). A path is compared as the kindest
  reader sees it, so that ``//%74oken;x`` needs what ``/token`` needs.
* No rule lets a certificate through: ``ignored`` takes it away, ``required`` refuses its absence, and both fail safe.
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote_to_bytes

from x509proxy.head import RequestHead, host_name
from x509proxy.settings import ClientAuth, Need, PolicySettings, RuleSettings

__all__ = ["kindest_path", "need_of"]

_ASKED = {ClientAuth.NONE: Need.IGNORED, ClientAuth.OPTIONAL: Need.OPTIONAL, ClientAuth.REQUIRED: Need.REQUIRED}


def need_of(head: RequestHead, settings: PolicySettings, asked: ClientAuth | None = None) -> Need:
    """What this request needs. ``asked``: what its listener's handshake asks for, if that is not what all the others do."""
    if settings.rules:
        path, name = kindest_path(head.target), host_name(head.host)
        for prefix, server_name, need in _longest_first(settings.rules):
            if server_name in (None, name) and (path + "/").startswith(prefix):
                return need
    return _ASKED[settings.client_certificate if asked is None else asked]


@lru_cache(maxsize=64)
def _longest_first(rules: tuple[RuleSettings, ...]) -> list[tuple[str, str | None, Need]]:
    by_length = sorted(rules, key=lambda rule: (len(rule.path), rule.server_name is not None), reverse=True)
    return [(rule.path.lower().rstrip("/") + "/", rule.server_name, rule.client_certificate) for rule in by_length]


def kindest_path(target: bytes) -> str:
    """The path of a target in origin-form, decoded, without parameters and detours, in lower case; ``/*`` for ``*``."""
    path = unquote_to_bytes(target.partition(b"?")[0]).decode("latin-1").replace("\\", "/").lower()
    segments: list[str] = []
    for written in path.split("/"):
        segment = written.partition(";")[0]
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)
