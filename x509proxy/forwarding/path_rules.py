"""Rules by path, server name and method: what a request needs of certificate and access token.

Facts
-----
* The back end decides what a path means. A rule has to hold for every spelling that some server
  takes for its path (:mod:`x509proxy.http1.path_readings`). Where servers disagree beyond that, the
  request is rejected.
* A rule may also open a path below one that requires a certificate. There the most lenient reading
  is the dangerous one. So only the spelling of the rule itself opens the path; any other spelling
  keeps the requirements of the paths above it.
* A server resolves ``/token/../login``, or serves it by the handler of ``/token``. So both
  requirements hold.
* Each key is decided by the rules that have it: a rule about certificates alone changes nothing
  about tokens.
* Of several requirements about a token, the strictest holds.
* A rule with methods is for browsers: they send a preflight (OPTIONS) without credentials. A server
  may take a request for one with another method, by a field or the query (Rack, ASP.NET, Symfony),
  and one with an unknown method for GET (PHP, JSP). No rule with methods opens such requests, and
  each one that requires something holds for them.
* ``ignored`` removes the certificate, and ``required`` rejects its absence. No rule weakens the
  policy for certificates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

import attrs

from x509proxy.http1.errors import Code, ErrorResponse, HttpError
from x509proxy.http1.fields import fold
from x509proxy.http1.messages import RequestHead, host_name
from x509proxy.http1.path_readings import is_ambiguous, normalized_paths, written_path
from x509proxy.settings import (
    RULE_METHODS,
    CertificateRequirement,
    ClientAuth,
    PolicySettings,
    RuleSettings,
    TokenRequirement,
)

__all__ = ["requirement_for", "token_requirement_for"]

_Requirement = TypeVar("_Requirement", CertificateRequirement, TokenRequirement)

_USUAL = {
    ClientAuth.NONE: CertificateRequirement.IGNORED,
    ClientAuth.OPTIONAL: CertificateRequirement.OPTIONAL,
    ClientAuth.REQUIRED: CertificateRequirement.REQUIRED,
}
# The octets that continue a name. Anything else ends it for some server: ``/token.json`` (Rails,
# Spring), ``/token&x`` (rewritten to a query), ``/token,x`` and ``/token:x``.
_LONGER_NAME = re.compile(r"[a-z0-9_-]")
_FOLDED_OVERRIDES = frozenset(
    map(fold, (b"x-http-method-override", b"x-http-method", b"x-method-override"))
)
_KNOWN_METHODS = frozenset(method.encode("ascii") for method in RULE_METHODS)


def requirement_for(
    head: RequestHead, settings: PolicySettings, client_auth: ClientAuth | None = None
) -> CertificateRequirement:
    """Return the requirement of a request about its client certificate.

    ``client_auth``: the setting of its listener, if that has one of its own.

    :raises HttpError: 400, servers disagree about the path, or the rules for two readings of it
        contradict each other.
    """
    usual = _USUAL[settings.client_certificate if client_auth is None else client_auth]
    if not settings.rules:
        return usual
    name = host_name(head.host)
    rules = [
        rule for rule in _certificate_rules(settings.rules) if rule.server_name in (None, name)
    ]
    if all(rule.requirement is usual for rule in rules):
        return usual
    if is_ambiguous(head.target):
        raise _ambiguous(Code.AMBIGUOUS_PATH, "path that servers read in different ways")
    found = _found(head, rules, usual)
    if CertificateRequirement.REQUIRED in found and CertificateRequirement.IGNORED in found:
        raise _ambiguous(Code.CONTRADICTORY_RULES, "path with contradictory rules")
    # If there are two, one of them is OPTIONAL.
    return next(iter(found - {CertificateRequirement.OPTIONAL}), CertificateRequirement.OPTIONAL)


def token_requirement_for(head: RequestHead, settings: PolicySettings) -> TokenRequirement:
    """Return the requirement of a request about its access token.

    :raises HttpError: 400, servers disagree about the path.
    """
    usual = TokenRequirement.IGNORED
    all_rules = _token_rules(settings.rules)
    if not all_rules:
        return usual
    name = host_name(head.host)
    rules = [rule for rule in all_rules if rule.server_name in (None, name)]
    if all(rule.requirement is usual for rule in rules):
        return usual
    if is_ambiguous(head.target):
        raise _ambiguous(Code.AMBIGUOUS_PATH, "path that servers read in different ways")
    found = _found(head, rules, usual)
    return next(requirement for requirement in TokenRequirement if requirement in found)


def _ambiguous(code: Code, detail: str) -> HttpError:
    return HttpError(ErrorResponse(code, detail, "The path can be read in more than one way"))


def _found(
    head: RequestHead, rules: Sequence[_Rule[_Requirement]], usual: _Requirement
) -> set[_Requirement]:
    """Return the requirements of all readings of a request."""
    written = written_path(head.target)
    method = _certain_method(head)
    return {
        requirement
        for path in normalized_paths(head.target)
        for requirement in _requirements(path, written, method, rules, usual)
    }


def _requirements(
    path: str,
    written: str,
    method: bytes | None,
    rules: Sequence[_Rule[_Requirement]],
    usual: _Requirement,
) -> Iterator[_Requirement]:
    """Yield the requirement of each rule that may hold, up to the one whose exact path was sent."""
    for rule in rules:
        if rule.may_hold(path, method):
            yield rule.requirement
            if rule.is_spelled_in(written, method):
                return
    yield usual


def _certain_method(head: RequestHead) -> bytes | None:
    """Return the method, or None if some server may take it for another one."""
    query = unquote_to_bytes(head.target.partition(b"?")[2])
    is_overridden = b"_method" in query.lower() or any(
        fold(name) in _FOLDED_OVERRIDES for name, _ in head.pairs
    )
    return None if is_overridden or head.method not in _KNOWN_METHODS else head.method


@attrs.frozen
class _Rule(Generic[_Requirement]):
    """A rule for the paths at and below ``path``, which is empty for all.

    ``methods`` is empty for all methods.
    """

    path: str
    server_name: str | None
    methods: frozenset[bytes]
    requirement: _Requirement
    lower: str = attrs.field(
        init=False, default=attrs.Factory(lambda self: self.path.lower(), takes_self=True)
    )

    def may_hold(self, path: str, method: bytes | None) -> bool:
        """Return true if some server could take the path, in lower case, for one of the rule's.

        ``method`` is None if it is uncertain.
        """
        return (
            path.startswith(self.lower)
            and not _LONGER_NAME.match(path, len(self.lower))
            and (not self.methods or method is None or method in self.methods)
        )

    def is_spelled_in(self, written: str, method: bytes | None) -> bool:
        """Return true if every server finds the rule's path at the beginning, and its method."""
        return f"{written}/".startswith(f"{self.path}/") and (
            not self.methods or method in self.methods
        )


@lru_cache(maxsize=64)
def _certificate_rules(rules: tuple[RuleSettings, ...]) -> list[_Rule[CertificateRequirement]]:
    return [
        _Rule(rule.path.rstrip("/"), rule.server_name, _methods(rule), rule.client_certificate)
        for rule in _longest_first(rules)
        if rule.client_certificate is not None
    ]


@lru_cache(maxsize=64)
def _token_rules(rules: tuple[RuleSettings, ...]) -> list[_Rule[TokenRequirement]]:
    return [
        _Rule(rule.path.rstrip("/"), rule.server_name, _methods(rule), rule.token)
        for rule in _longest_first(rules)
        if rule.token is not None
    ]


def _methods(rule: RuleSettings) -> frozenset[bytes]:
    """Return the methods of a rule. Servers answer HEAD by the handler of GET."""
    methods = frozenset(method.encode("ascii") for method in rule.methods)
    return methods | {b"HEAD"} if b"GET" in methods else methods


def _longest_first(rules: tuple[RuleSettings, ...]) -> list[RuleSettings]:
    return sorted(
        rules,
        key=lambda rule: (len(rule.path), rule.server_name is not None, bool(rule.methods)),
        reverse=True,
    )
