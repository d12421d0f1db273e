"""Configuration warnings, printed at each start, and advice, printed by ``x509proxy check``."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from typing import Any

import attrs
from cryptography import x509

from x509proxy.certificates.chain_checks import authority_problems, server_problems, subject_of
from x509proxy.certificates.client_certificate import date, unreadable
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.trust_store import crl_warnings
from x509proxy.config.configuration import Configuration
from x509proxy.forwarding.header_rules import contains_secret, header_fields
from x509proxy.forwarding.presets import HeaderPlan, find_preset
from x509proxy.redaction import without_secrets
from x509proxy.settings import (
    RULE_METHODS,
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
    Unit,
    Usage,
    keys,
)

__all__ = ["advice_for", "validity_errors", "warnings_for"]

_EXPIRES_SOON = 14 * 24 * 3600.0  # seconds
_HOUR = 3600  # seconds
_DEFAULTS = ProxySettings()


def warnings_for(found: Configuration, now: float) -> Iterator[str]:
    """Yield the warnings of a start. ``now`` is in seconds since the epoch."""
    settings = found.settings
    yield from _settings_warnings(settings)
    yield from _long_times(settings)
    yield from _unreachable_rules(settings)
    yield from _token_warnings(settings)
    for backend in found.backends:
        if backend.scheme is Scheme.HTTP and not _is_this_host(backend):
            yield (
                f"backend: {backend} is neither https nor this host; "
                "anyone on that network can read or forge the header"
            )
    for listener in settings.all_listeners:
        if any(network.endswith("/0") for network in listener.trusted_proxies):
            yield (
                f"listeners.trusted-proxies: {listener.description} trusts every address; "
                "anyone who can reach it can claim any client address"
            )
    yield from _certificate_warnings(found, now)
    yield from _authority_warnings(found, now)
    yield from crl_warnings(found.trusted, now)


def _settings_warnings(settings: ProxySettings) -> Iterator[str]:
    trusts_authorities = settings.trust in (Trust.CA, Trust.EITHER)
    if settings.header is not None:
        yield (
            "header: the process list shows a name from the command line, and the TOML file shows "
            "it to its readers; header-file keeps it secret"
        )
    if settings.ca is not None and not settings.crl and not trusts_authorities:
        yield (
            f"ca: has no effect while trust is {settings.trust.value}; "
            "ca or either forward the certificates that it has issued"
        )
    if settings.usage is Usage.IGNORE and settings.ca is None:
        yield "usage: ignore has no effect without ca; self-signed certificates need no usage"
    elif settings.usage is Usage.IGNORE:
        yield (
            "usage: ignore accepts certificates that an authority in ca has issued for servers; "
            "each of those servers can authenticate as a client"
        )


def _long_times(table: Settings, prefix: str = "") -> Iterator[str]:
    """Yield times above an hour that may be milliseconds: of keys with a shorter default."""
    for name, field in keys(type(table)).items():
        value = getattr(table, field.field)
        match value:
            case Settings():
                yield from _long_times(value, f"{prefix}{name}.")
            case (Settings(), *_):
                for index, member in enumerate(value):
                    yield from _long_times(member, f"{prefix}{name}[{index}].")
            case int() | float() if field.key.unit is Unit.SECONDS:
                default = field.default
                if isinstance(default, int | float) and default < _HOUR < value:
                    yield (
                        f"{prefix}{name}: found {value:.10g} seconds, expected an hour or less; "
                        f"{value:.10g} milliseconds are {value / 1000:.10g}"
                    )


def _certificate_warnings(found: Configuration, now: float) -> Iterator[str]:
    for key, identity in _servers(found):
        yield from (f"{key}: {problem}" for problem in server_problems(identity))
    for key, identity in _identities(found):
        yield from _validity_warnings(f"{key}:", identity.certificate, now)


def validity_errors(found: Configuration, now: float) -> Iterator[str]:
    """Yield the warnings that mean failed handshakes: a certificate of the proxy is not valid."""
    for key, identity in _identities(found):
        yield from _validity_problems(f"{key}:", identity.certificate, now)


def _authority_warnings(found: Configuration, now: float) -> Iterator[str]:
    """Yield problems of authorities, unless the settings give these no effect."""
    if found.settings.crl or found.settings.trust in (Trust.CA, Trust.EITHER):
        yield from (f"ca: {problem}" for problem in authority_problems(found.trusted.authorities))
        for authority in found.trusted.authorities:
            yield from _validity_warnings(f"ca: {subject_of(authority)}", authority, now)


def _unreachable_rules(settings: ProxySettings) -> Iterator[str]:
    """Yield rules that reject every request, because no listener requests a certificate."""
    default = settings.client_certificate
    modes = {one.client_certificate or default for one in settings.all_listeners}
    if modes != {ClientAuth.NONE}:
        return
    for index, rule in enumerate(settings.rules):
        path = without_secrets(rule.path)
        end = f"and no listener requests a certificate, so every request gets 401 at {path}"
        if rule.client_certificate is CertificateRequirement.REQUIRED:
            yield f"rules[{index}].client-certificate: required, {end}"
        if rule.token is TokenRequirement.BOUND:
            yield f"rules[{index}].token: bound, {end}"


def _token_warnings(settings: ProxySettings) -> Iterator[str]:
    if settings.tokens is None:
        return
    if settings.tokens.level is TokenLevel.UNVERIFIED:
        yield (
            "tokens.level: unverified reads cnf without checking the signature; "
            "this is safe only while the back end verifies the token"
        )
    if all(rule.token in {None, TokenRequirement.IGNORED} for rule in settings.rules):
        yield "tokens: has no effect, since no rule has token"


def advice_for(found: Configuration) -> Iterator[str]:
    """Yield advice for a person who checks a configuration. All of it may be intended."""
    yield from _secret_elsewhere(found)
    yield from _public_names(found)
    yield from _kept_connections(found)
    yield from _uncovered_methods(found.settings)
    yield from _larger_than_the_server(found)
    if found.settings.tokens is not None:
        yield from _accepted_tokens(found.settings.tokens)
    if found.settings.admin is not None and found.settings.admin.allow_remote:
        yield (
            "admin.allow-remote: anyone who can reach the admin listener can read it; "
            "restrict access by a firewall or a network policy"
        )
    if found.settings.access_log is None:
        yield "access-log: none, so there is no record of rejected requests and the reasons"


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


def _secret_elsewhere(found: Configuration) -> Iterator[str]:
    """Yield other settings that contain the secret name.

    Names, paths and addresses appear in logs and process lists, so they cannot hold a secret.
    """
    for key, text in _texts(found.settings):
        if key not in ("header", "name", "value") and contains_secret(
            text.encode("utf-8"), found.rules
        ):
            yield f"{key}: contains the secret header name, but {key} is not kept secret"


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
    """Yield remote back ends that trust a header whose name is public (RFC 9440 section 4)."""
    if not found.rules.secrets and found.upstream_identity is None:
        for backend in found.backends:
            if not _is_this_host(backend):
                yield (
                    f"backend: {backend} trusts a header whose name is public; anyone else who can "
                    "reach it can impersonate any client, unless it requires this proxy's "
                    "upstream.certificate"
                )


def _kept_connections(found: Configuration) -> Iterator[str]:
    """Yield advice about a public name and back ends that may leave a body unread (CL.0)."""
    if not found.rules.secrets and found.settings.upstream.keep_alive:
        yield (
            "upstream.keep-alive: true, and the header's name is public; if a back end leaves the "
            "body of a POST unread, a client can forge the header of the next request in it"
        )


def _uncovered_methods(settings: ProxySettings) -> Iterator[str]:
    """Yield advice about rules that require something for some methods, and not for others."""
    for index, rule in enumerate(settings.rules):
        missing = {*RULE_METHODS} - {"HEAD", "OPTIONS", *rule.methods} if rule.methods else {}
        requires = rule.client_certificate is CertificateRequirement.REQUIRED or rule.token in (
            TokenRequirement.BOUND,
            TokenRequirement.WHEN_BOUND,
        )
        if requires and missing:
            yield (
                f"rules[{index}].methods: does not hold for {', '.join(sorted(missing))}, and "
                "some servers take the method from a form (_method); a rule for all methods is "
                'safer, with one for ["OPTIONS"] that opens preflights'
            )


# DER bytes of a self-signed certificate: 3982, 5511 and 7469 from `x509proxy client-certificate
# --key ml-dsa-…`.
_ML_DSA_BYTES = {KeyType.ML_DSA_44: 4000, KeyType.ML_DSA_65: 5500, KeyType.ML_DSA_87: 7500}
_OTHER_FIELDS_BYTES = 512  # request line and fields of a token request without a certificate


def _larger_than_the_server(found: Configuration) -> Iterator[str]:
    """Yield heads that the proxy accepts and the server rejects, where a setting asks for them.

    The defaults fit the largest server, so with them there is nothing for most people to do.
    """
    settings, preset = found.settings, find_preset(found.settings.preset)
    limit = preset.max_head_bytes
    header = _header_bytes(found.rules.plans, settings.max_certificate_bytes)
    claims = sum(p.maximum for p in found.rules.plans if p.form is Format.TOKEN_CLAIMS)
    largest = settings.client.max_head_bytes + header + claims
    default = settings.client.max_head_bytes == _DEFAULTS.client.max_head_bytes
    if 0 < limit < largest and not default:
        yield (
            f"client.max-head-bytes: found heads of up to {largest} bytes with the certificate, "
            f"expected {limit}: {preset.title} rejects more with {preset.head_status}, unless "
            f"{preset.head_setting} is {largest} or more there ({preset.page})"
        )
    too_large = [
        key_type.value
        for key_type, size in _ML_DSA_BYTES.items()
        if settings.key_types != _DEFAULTS.key_types
        and key_type in settings.key_types
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
    """Return True if a certificate of that size is within the limits of each header and the head.

    A limit of 0 is no limit.
    """
    sizes = [(plan.maximum, _header_bytes((plan,), certificate_bytes)) for plan in plans]
    if any(0 < maximum < size for maximum, size in sizes):
        return False
    return not limit or _header_bytes(plans, certificate_bytes) + _OTHER_FIELDS_BYTES <= limit


def _header_bytes(plans: tuple[HeaderPlan, ...], certificate_bytes: int) -> int:
    """Return the size of all header fields for a certificate of that size, without a chain."""
    # Hash output has the distribution of a key's octets, of which some take three times the space
    # in URL-encoded form.
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
        (f"certificates[{index}].certificate", identity)
        for index, identity in enumerate(found.extra_identities)
    )


def _identities(found: Configuration) -> Iterator[tuple[str, Identity]]:
    yield from _servers(found)
    if found.upstream_identity is not None:
        yield "upstream.certificate", found.upstream_identity
    if found.tokens is not None and found.tokens.identity is not None:
        yield "tokens.certificate", found.tokens.identity


def _is_this_host(backend: Backend) -> bool:
    if backend.scheme is Scheme.UNIX:
        return True
    try:
        return ipaddress.ip_address(backend.host).is_loopback
    except ValueError:
        return backend.host == "localhost"


def _validity_warnings(key: str, certificate: x509.Certificate, now: float) -> Iterator[str]:
    problems = [*_validity_problems(key, certificate, now)]
    yield from problems
    end = certificate.not_valid_after_utc.timestamp()
    if not problems and now > end - _EXPIRES_SOON:
        yield f"{key} expires soon, at {date(end)}"


def _validity_problems(key: str, certificate: x509.Certificate, now: float) -> Iterator[str]:
    begin = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    if now < begin:
        yield f"{key} is not valid before {date(begin)}"
    elif now > end:
        yield f"{key} expired at {date(end)}"
