"""What a request needs of its client, by path and server name: the longest matching rule, else what its listener asks for.

Facts
-----
* A path is compared as the kindest reader sees it (:mod:`x509proxy.http1.request_target`), so that ``//%74oken;x`` needs what ``/token`` needs.
* A server resolves ``/token/../login``, or serves it by what stands at ``/token``: so it needs what both need.
* No rule lets a certificate through: ``ignored`` takes it away, ``required`` refuses its absence, and both fail safe.
"""

from __future__ import annotations

from functools import lru_cache

from x509proxy.http1.errors import bad_request
from x509proxy.http1.messages import RequestHead, host_name
from x509proxy.http1.request_target import normalized_paths
from x509proxy.settings import CertificateRequirement, ClientAuth, PolicySettings, RuleSettings

__all__ = ["requirement_for"]

_ASKED = {
    ClientAuth.NONE: CertificateRequirement.IGNORED,
    ClientAuth.OPTIONAL: CertificateRequirement.OPTIONAL,
    ClientAuth.REQUIRED: CertificateRequirement.REQUIRED,
}


def requirement_for(
    head: RequestHead, settings: PolicySettings, asked: ClientAuth | None = None
) -> CertificateRequirement:
    """What this request needs. ``asked``: what its listener's handshake asks for, if that is not what all the others do.

    :raises Refused: 400, by one reading of its path it needs a certificate, and by another it must go without.
    """
    usual = _ASKED[settings.client_certificate if asked is None else asked]
    if not settings.rules:
        return usual
    name = host_name(head.host)
    needs = {_ruled(path, name, settings.rules) or usual for path in normalized_paths(head.target)}
    if CertificateRequirement.REQUIRED in needs and CertificateRequirement.IGNORED in needs:
        raise bad_request("a path that rules contradict each other about")
    # Of two, one is OPTIONAL.
    return next(iter(needs - {CertificateRequirement.OPTIONAL}), CertificateRequirement.OPTIONAL)


def _ruled(path: str, name: str, rules: tuple[RuleSettings, ...]) -> CertificateRequirement | None:
    for prefix, server_name, need in _longest_first(rules):
        if server_name in (None, name) and (path + "/").startswith(prefix):
            return need
    return None


@lru_cache(maxsize=64)
def _longest_first(
    rules: tuple[RuleSettings, ...],
) -> list[tuple[str, str | None, CertificateRequirement]]:
    by_length = sorted(
        rules, key=lambda rule: (len(rule.path), rule.server_name is not None), reverse=True
    )
    return [
        (rule.path.lower().rstrip("/") + "/", rule.server_name, rule.client_certificate)
        for rule in by_length
    ]
