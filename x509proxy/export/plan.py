"""The settings that every terminator needs, as one frozen value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import attrs

from x509proxy.config.loader import load_configuration, load_settings
from x509proxy.forwarding.presets import HeaderPlan
from x509proxy.settings import (
    Backend,
    ClientAuth,
    Format,
    ProxySettings,
    Scheme,
    SettingsError,
    TlsVersion,
    Trust,
    Validity,
)

__all__ = [
    "ERROR_JSON",
    "Exported",
    "Identity",
    "ListenAddress",
    "Plan",
    "Renderer",
    "authority",
    "comments",
    "name_limits",
    "pattern",
    "read_plan",
    "shared_limits",
    "values",
]

ERROR_JSON = '{"error":"invalid_client","error_description":"The client certificate was rejected."}'
_SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
# The headers of the best-known products. The audit of an exported configuration forges each of
# them (x509proxy.audit.corpus).
_REMOVED = (
    b"Client-Cert", b"Client-Cert-Chain", b"X-Forwarded-Client-Cert",
    b"X-Forwarded-Tls-Client-Cert", b"X-Forwarded-Tls-Client-Cert-Info",
    b"ssl-client-cert", b"ssl-client-verify", b"ssl-client-subject-dn",
    b"SSL_CLIENT_CERT", b"SSL_CLIENT_VERIFY", b"ssl_client_escaped_cert",
    b"X-SSL-Client-Verify", b"X-SSL-Client-CN", b"X-SSL-Client-DER", b"X-SSL-Cert",
    b"X-Amzn-Mtls-Clientcert", b"X-Amzn-Mtls-Clientcert-Leaf", b"X-ARR-ClientCert",
    b"X-Client-Cert", b"X-ClientCert", b"X-Original-URL", b"X-Rewrite-URL",
)  # fmt: skip
Exported = tuple[str, tuple[str, ...]]
"""A configuration, and the limits of the product."""


@attrs.frozen
class ListenAddress:
    """The address and port of a listener."""

    port: int
    host: str = ""
    """An IP address. Empty for all."""


@attrs.frozen
class Identity:
    """The files of a certificate chain and its key."""

    certificate: str
    key: str


@attrs.frozen(kw_only=True)
class Plan:
    """The settings of a terminator. ``limits`` are sentences about those that are not exported."""

    product: str
    source: str
    listeners: tuple[ListenAddress, ...]
    identities: tuple[Identity, ...]
    fields: tuple[HeaderPlan, ...] = attrs.field(repr=False)
    backends: tuple[Backend, ...]
    hosts: tuple[str, ...]
    client_auth: ClientAuth
    trust: Trust
    validity: Validity
    ca: str | None
    crl: tuple[str, ...]
    depth: int
    minimum_version: TlsVersion
    max_body: int
    max_head: int
    upstream_ca: str = _SYSTEM_CA
    limits: tuple[str, ...] = ()

    @property
    def verifies(self) -> bool:
        """Return True if only certificates of the authorities are forwarded."""
        return self.trust is Trust.CA

    @property
    def encrypts(self) -> bool:
        """Return True if the connections to back ends use TLS."""
        return self.backends[0].scheme is Scheme.HTTPS

    @property
    def tls_versions(self) -> tuple[str, ...]:
        """Return the numbers of the TLS versions."""
        return ("1.3",) if self.minimum_version is TlsVersion.TLS_1_3 else ("1.2", "1.3")

    @property
    def requires(self) -> bool:
        """Return True if each client needs a certificate."""
        return self.client_auth is ClientAuth.REQUIRED

    @property
    def removed(self) -> tuple[str, ...]:
        """Return the other headers to remove, without those that are written."""
        written = {field.name.lower() for field in self.fields}
        return tuple(name.decode("ascii") for name in _REMOVED if name.lower() not in written)


Renderer = Callable[[Plan], Exported]


def read_plan(product: str, path: str) -> Plan:
    """Return the plan of a TOML file.

    :raises SettingsError: the file is invalid, or has no listener that can be exported.
    """
    settings = load_settings(path)
    found = load_configuration(settings, config=path)
    files = [(settings.certificate, settings.private_key)]
    files += [(each.certificate, each.private_key) for each in settings.certificates]
    listeners, skipped = _listeners(each.endpoint for each in settings.all_listeners)
    if not listeners:
        raise SettingsError("listen: found no tcp endpoint, expected one for another product")
    if len({each.scheme is Scheme.HTTPS for each in found.backends}) > 1:
        raise SettingsError("backend: found some with https, expected all or none for an export")
    if len(settings.crl) > 1:
        # nginx rejects a second one. The others silently use one of them.
        raise SettingsError(f"crl: found {len(settings.crl)} files, expected one for an export")
    plan = Plan(
        product=product,
        # A line end in the name would end the comment that repeats it.
        source=ascii(Path(path).name)[1:-1],
        listeners=listeners,
        identities=tuple(Identity(str(one), str(key or one)) for one, key in files),
        fields=tuple(plan for plan in found.rules.plans if plan.chain_index == 1),
        backends=found.backends,
        hosts=settings.client.allowed_hosts,
        client_auth=settings.client_certificate,
        trust=settings.trust,
        validity=settings.validity,
        ca=settings.ca,
        crl=settings.crl,
        depth=settings.ca_depth,
        minimum_version=settings.tls.minimum_version,
        max_body=settings.client.max_body_bytes,
        max_head=settings.client.max_head_bytes,
        upstream_ca=settings.upstream.ca or _SYSTEM_CA,
        limits=(*skipped, *_unsupported(settings, found.rules.plans)),
    )
    _check_words(plan)
    return plan


_WORD = re.compile(r"[A-Za-z0-9._/:@+,=\[\]-]*")


def _check_words(plan: Plan) -> None:
    """Check that no text of the settings could end a word or a line in a product's language.

    :raises SettingsError: a text has white space or special characters.
    """
    words = [word for each in plan.identities for word in (each.certificate, each.key)]
    words += [plan.ca or "", plan.upstream_ca, *plan.crl, *plan.hosts]
    words += [word for each in plan.backends for word in (each.host, each.path)]
    words += [each.host for each in plan.listeners]
    words += [field.value.decode("ascii") for field in plan.fields]
    if not all(map(_WORD.fullmatch, words)):
        raise SettingsError(
            "export: found white space or a special character in a path or value, "
            "expected letters, digits and ._/:@+,=-"
        )


_TCP = re.compile(r"tcp6?:(?:port=)?(\d+)((?::[^:=]+=(?:\\.|[^:\\])+)*)")


def _listeners(endpoints: Iterable[str]) -> tuple[tuple[ListenAddress, ...], list[str]]:
    listeners, skipped = [], []
    for endpoint in endpoints:
        found = _TCP.fullmatch(endpoint)
        if found is None:
            kind = endpoint.partition(":")[0]
            skipped.append(f"the endpoint {kind}: is omitted, since only tcp is exported")
            continue
        host = re.search(r":interface=((?:\\.|[^:\\])+)", found[2])
        listeners.append(ListenAddress(int(found[1]), host[1].replace("\\", "") if host else ""))
    return tuple(listeners), skipped


_LEFT_OUT = {
    "rules": "rules by path are omitted: write them in the product's own language",
    "discovery": "the metadata is not rewritten",
    "health": "health checks are omitted",
    "listeners": "the listeners' own client-certificate and PROXY protocol are omitted",
}


def _unsupported(settings: ProxySettings, plans: tuple[HeaderPlan, ...]) -> Iterator[str]:
    yield from (limit for key, limit in _LEFT_OUT.items() if getattr(settings, key))
    if any(plan.chain_index > 1 for plan in plans):
        yield "headers for the other certificates of a chain are omitted"
    if any(plan.maximum for plan in plans):
        yield "the size of a header's value is not checked"
    if settings.upstream.certificate is not None:
        yield "the proxy's certificate for back ends is omitted"


def values(plan: Plan, writers: Mapping[Format, str]) -> list[tuple[str, Format, str]]:
    """Return each header's name, its format, and its value in the product's language.

    :raises SettingsError: the product cannot write a format.
    """
    found: list[tuple[str, Format, str]] = []
    for field in plan.fields:
        name = field.name.decode("ascii")
        if field.form is Format.LITERAL:
            found.append((name, field.form, field.value.decode("ascii")))
        elif field.form in writers:
            found.append((name, field.form, writers[field.form]))
        else:
            able = ", ".join(form.value for form in writers)
            expected = f"expected one that {plan.product} can write: {able}"
            raise SettingsError(f"format: found {field.form.value}, {expected}")
    return found


def pattern(name: str) -> str:
    """Return a regular expression for all spellings that a server may treat as the name."""
    return "[^A-Za-z0-9]".join(re.split(r"[^A-Za-z0-9]", name))


def shared_limits(plan: Plan) -> tuple[str, ...]:
    """Return the limits that every product has for these settings."""
    return (
        *plan.limits,
        "a forged header is removed and not counted",
        "only the best-known headers for certificates are removed, while x509proxy removes more",
        "weak keys and huge certificates are not rejected by policy",
    )


def name_limits(plan: Plan) -> Iterator[str]:
    """Yield the limit of a product that verifies one name for all back ends."""
    if plan.encrypts and len({each.host for each in plan.backends}) > 1:
        yield f"each back end needs a certificate for {plan.backends[0].host}"


def comments(plan: Plan, limits: Iterable[str]) -> str:
    """Return the comments at the beginning of the file: its origin, its secret, and the limits."""
    lines = [
        f"{plan.product}: exported from {plan.source} by x509proxy export",
        "This file contains the header's name: keep it readable by its owner only (mode 600).",
        "Audit the result: x509proxy audit --help",
        "Limits of this product:",
        *(f"- {limit}" for limit in limits),
    ]
    return "".join(f"# {line}\n" for line in lines)


def authority(backend: Backend) -> str:
    """Return the host and port of a back end, or its socket's path.

    :raises SettingsError: it has a base path, which is not exported.
    """
    if backend.base:
        raise SettingsError("backend: found a base path, expected none for an export")
    if backend.scheme is Scheme.UNIX:
        return backend.path
    host = f"[{backend.host}]" if ":" in backend.host else backend.host
    return f"{host}:{backend.port}"
