"""What is allowed and yet worth a sentence: at each start, and, what an auditor would ask besides, from ``x509proxy check``."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from typing import Any

import attrs
from cryptography import x509

from x509proxy.certificates.chain_checks import authority_problems, named, server_problems
from x509proxy.certificates.client_certificate import date, unreadable
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.trust_store import crl_warnings
from x509proxy.config.configuration import Configuration
from x509proxy.forwarding.header_rules import contains_secret, header_fields
from x509proxy.forwarding.presets import HeaderPlan, find_preset
from x509proxy.redaction import without_secrets
from x509proxy.settings import (
    Backend,
    CertificateRequirement,
    ClientAuth,
    Format,
    KeyType,
    ProxySettings,
    Scheme,
    Settings,
    TokenLevel,
    TokenRequirement,
    TokenSettings,
    Trust,
    Usage,
)

__all__ = ["advice_for", "validity_errors", "warnings_for"]

_SOON = 14 * 24 * 3600.0


def warnings_for(found: Configuration, now: float) -> Iterator[str]:
    """For each start. ``now``: seconds since the epoch."""
    settings = found.settings
    if settings.header is not None:
        yield (
            "header: on a command line other users see the name in the process list, and in the TOML whoever is shown it; "
            "header-file keeps it secret"
        )
    if (
        settings.ca is not None
        and not settings.crl
        and settings.trust not in (Trust.CA, Trust.EITHER)
    ):
        yield f"ca: decides nothing while trust is {settings.trust.value}; ca or either pass on what it has issued"
    yield from _usage_warnings(settings)
    yield from _hopeless_rules(settings)
    yield from _token_warnings(settings)
    for backend in found.backends:
        if backend.scheme is Scheme.HTTP and not _is_here(backend):
            yield f"backend: {backend} is neither https nor this host; anyone on that network can read or forge the header"
    for place in settings.places:
        if any(network.endswith("/0") for network in place.trusted_proxies):
            yield f"listeners.trusted-proxies: {place.description} believes everybody; whoever can reach it can name any address"
    yield from _certificate_warnings(found, now)
    yield from _authority_warnings(found, now)
    yield from crl_warnings(found.trusted, now)


def _usage_warnings(settings: ProxySettings) -> Iterator[str]:
    if settings.usage is Usage.IGNORE:
        if settings.ca is None:
            yield "usage: ignore decides nothing without ca; self-signed certificates need no usage"
        else:
            yield (
                "usage: ignore accepts certificates that an authority in ca has issued for servers; "
                "each of those servers can authenticate as a client"
            )


def _certificate_warnings(found: Configuration, now: float) -> Iterator[str]:
    for key, identity in _servers(found):
        yield from (f"{key}: {problem}" for problem in server_problems(identity))
    for key, identity in _identities(found):
        yield from _validity_warnings(f"{key}:", identity.certificate, now)


def validity_errors(found: Configuration, now: float) -> Iterator[str]:
    """Yield those of the warnings that mean that handshakes fail: a certificate of the proxy's own is not valid now."""
    for key, identity in _identities(found):
        yield from _out_of_date(f"{key}:", identity.certificate, now)


def _authority_warnings(found: Configuration, now: float) -> Iterator[str]:
    """Where authorities decide something."""
    if found.settings.crl or found.settings.trust in (Trust.CA, Trust.EITHER):
        yield from (f"ca: {problem}" for problem in authority_problems(found.trusted.authorities))
        for authority in found.trusted.authorities:
            yield from _validity_warnings(f"ca: {named(authority)}", authority, now)


def _hopeless_rules(settings: ProxySettings) -> Iterator[str]:
    asked = {place.client_certificate or settings.client_certificate for place in settings.places}
    if asked == {ClientAuth.NONE}:
        for place, rule in enumerate(settings.rules):
            if rule.client_certificate is CertificateRequirement.REQUIRED:
                yield (
                    f"rules[{place}].client-certificate: required, and no listener asks for a certificate, so everybody is "
                    f"answered 401 at {without_secrets(rule.path)}"
                )
            if rule.token is TokenRequirement.BOUND:
                yield (
                    f"rules[{place}].token: bound, and no listener asks for a certificate, so every request gets 401 at "
                    f"{without_secrets(rule.path)}"
                )


def _token_warnings(settings: ProxySettings) -> Iterator[str]:
    if settings.tokens is None:
        return
    if settings.tokens.level is TokenLevel.UNVERIFIED:
        yield (
            "tokens.level: unverified reads cnf without checking the signature: an additional door, "
            "safe only because the back end still verifies the token"
        )
    if all(rule.token in {None, TokenRequirement.IGNORED} for rule in settings.rules):
        yield "tokens: decides nothing, since no rule has token"


def advice_for(found: Configuration) -> Iterator[str]:
    """For whoever checks a configuration: what is worth a thought, and may well be meant."""
    yield from _used_elsewhere(found)
    yield from _public_names(found)
    yield from _larger_than_the_server(found)
    if found.settings.tokens is not None:
        yield from _accepted_tokens(found.settings.tokens)
    if found.settings.admin is not None and found.settings.admin.allow_remote:
        yield "admin.allow-remote: whoever can reach the admin listener can read it; let a firewall or a network policy say who that is"
    if found.settings.access_log is None:
        yield "access-log: none, so nobody will know who was refused, and why"


def _accepted_tokens(tokens: TokenSettings) -> Iterator[str]:
    if tokens.level is TokenLevel.INTROSPECTION and not tokens.audience:
        yield (
            "tokens.audience: none, so each active token of the server is accepted, "
            "also one that was issued for another API"
        )
    kinds = {kind.lower().removeprefix("application/") for kind in tokens.types}
    if tokens.level is TokenLevel.JWT and "jwt" in kinds:
        yield (
            "tokens.types: ID tokens may have the typ JWT too, so no ID token may have "
            "a value of tokens.audience"
        )


def _used_elsewhere(found: Configuration) -> Iterator[str]:
    """A secret that also stands in a name, a path or an address is none: these are logged, and shown in lists of processes."""
    for key, text in _texts(found.settings):
        if key not in ("header", "name", "value") and contains_secret(
            text.encode("utf-8"), found.rules
        ):
            yield f"{key}: the secret header name stands there too, and what stands there is no secret"


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    match value:
        case str():
            yield key, value
        case tuple():
            for member in value:
                yield from _texts(member, key)
        case Settings():
            for name in value.__struct_fields__:
                yield from _texts(getattr(value, name), name.replace("_", "-"))


def _public_names(found: Configuration) -> Iterator[str]:
    """RFC 9440 section 4: a header that everybody knows has to be kept from whoever reaches the back end on another way."""
    if not found.rules.secrets and found.upstream_identity is None:
        for backend in found.backends:
            if not _is_here(backend):
                yield (
                    f"backend: {backend} is sent a header whose name everybody knows; whoever else can reach it can be anybody, "
                    "unless it demands upstream.certificate of this proxy"
                )


# DER bytes of a self-signed certificate: 3982, 5511 and 7469 from `x509proxy client-certificate --key ml-dsa-…`.
_ML_DSA_BYTES = {KeyType.ML_DSA_44: 4000, KeyType.ML_DSA_65: 5500, KeyType.ML_DSA_87: 7500}
_OTHER_FIELDS_BYTES = 512  # request line and fields of a token request without a certificate


def _larger_than_the_server(found: Configuration) -> Iterator[str]:
    settings, preset = found.settings, find_preset(found.settings.preset)
    limit = preset.max_head_bytes
    header = _header_bytes(found.rules.plans, settings.max_certificate_bytes)
    claims = sum(p.maximum for p in found.rules.plans if p.form is Format.TOKEN_CLAIMS)
    largest = settings.client.max_head_bytes + header + claims
    if 0 < limit < largest:
        yield (
            f"client.max-head-bytes: found heads of up to {largest} bytes with the certificate, "
            f"expected {limit}: {preset.title} rejects more with {preset.head_status}, unless "
            f"{preset.head_setting} is {largest} or more there ({preset.page})"
        )
    too_large = [
        key_type.value
        for key_type, size in _ML_DSA_BYTES.items()
        if key_type in settings.key_types
        and size <= settings.max_certificate_bytes
        and not _fits(found.rules.plans, size, limit)
    ]
    if too_large:
        limits = f"{limit} bytes unless {preset.head_setting} is raised there" if limit else "less"
        yield (
            f"key-types: certificates of {', '.join(too_large)} need a larger head than "
            f"{preset.title} accepts, {limits} ({preset.page}); "
            "a header with the thumbprint alone fits (docs/post-quantum.rst)"
        )


def _fits(plans: tuple[HeaderPlan, ...], certificate_bytes: int, limit: int) -> bool:
    """Check a certificate of that size against the limits of each header and of the head, where there are any."""
    if any(
        plan.maximum and _header_bytes((plan,), certificate_bytes) > plan.maximum for plan in plans
    ):
        return False
    return not limit or _header_bytes(plans, certificate_bytes) + _OTHER_FIELDS_BYTES <= limit


def _header_bytes(plans: tuple[HeaderPlan, ...], certificate_bytes: int) -> int:
    """The bytes of all the header fields for a certificate of that size, without a chain."""
    # Hash output, since some of a certificate's octets take three times the space in the URL-encoded form.
    der = hashlib.shake_128(b"").digest(certificate_bytes)
    pairs = (
        pair
        for plan in plans
        for pair in header_fields(unreadable(der), attrs.evolve(plan, maximum=0))
    )
    return sum(len(name) + len(value) + len(": \r\n") for name, value in pairs)


def _servers(found: Configuration) -> Iterator[tuple[str, Identity]]:
    yield "certificate", found.identity
    yield from (
        (f"certificates[{place}].certificate", identity)
        for place, identity in enumerate(found.further)
    )


def _identities(found: Configuration) -> Iterator[tuple[str, Identity]]:
    yield from _servers(found)
    if found.upstream_identity is not None:
        yield "upstream.certificate", found.upstream_identity
    if found.tokens is not None and found.tokens.identity is not None:
        yield "tokens.certificate", found.tokens.identity


def _is_here(backend: Backend) -> bool:
    if backend.scheme is Scheme.UNIX:
        return True
    try:
        return ipaddress.ip_address(backend.host).is_loopback
    except ValueError:
        return backend.host == "localhost"


def _validity_warnings(key: str, certificate: x509.Certificate, now: float) -> Iterator[str]:
    problems = [*_out_of_date(key, certificate, now)]
    yield from problems
    end = certificate.not_valid_after_utc.timestamp()
    if not problems and now > end - _SOON:
        yield f"{key} expires soon, at {date(end)}"


def _out_of_date(key: str, certificate: x509.Certificate, now: float) -> Iterator[str]:
    begin, end = (
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )
    if now < begin:
        yield f"{key} is not valid before {date(begin)}"
    elif now > end:
        yield f"{key} expired at {date(end)}"
