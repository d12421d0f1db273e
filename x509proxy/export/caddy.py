"""Export for Caddy: a Caddyfile with separate routes for clients with and without a certificate."""

from __future__ import annotations

from x509proxy.export.plan import (
    Exported,
    Plan,
    authority,
    comments,
    shared_limits,
    values,
)
from x509proxy.settings import ClientAuth, Format, Scheme, SettingsError, Trust

__all__ = ["render"]

_DER = "{http.request.tls.client.certificate_der_base64}"
_WRITERS = {
    Format.PEM: f"-----BEGIN CERTIFICATE-----{_DER}-----END CERTIFICATE-----",
    Format.PEM_SPACES: f"-----BEGIN CERTIFICATE----- {_DER} -----END CERTIFICATE-----",
    Format.BASE64_DER: _DER,
    Format.RFC9440: f":{_DER}:",
    Format.SUBJECT: "{http.request.tls.client.subject}",
    Format.ISSUER: "{http.request.tls.client.issuer}",
    Format.SERIAL: "{http.request.tls.client.serial}",
}
_LIMITS = (
    "needs version 2.11.4 or newer, which drops names with underscores",
    "names with dots or other marks in place of hyphens reach the back end",
    "sessions are resumed: only the JSON configuration can disable it",
    "an expired certificate is forwarded: the back end must check it",
    "the verification result is not known",
    "a trailer field that the client announces reaches the back end, under any name",
    "control characters in a value reach the back end",
    "a Vary field of the back end that names the header reaches the client",
)
_GLOBAL = """
{{
    admin off
    auto_https off
    servers {{
        protocols h1
        max_header_size {head}
        timeouts {{
            read_header 10s
        }}
    }}
}}
"""


def render(plan: Plan) -> Exported:
    """Return the Caddyfile, and the limits.

    :raises SettingsError: there is more than one certificate.
    """
    limits = [*shared_limits(plan), *_LIMITS]
    if plan.trust in {Trust.SELF_SIGNED, Trust.EITHER}:
        limits.append("any certificate is forwarded, self-signed or issued")
    if plan.crl:
        limits.append("revocation lists are not read")
    names = plan.hosts or ("",)
    sites = ", ".join(
        f"https://{name}:{listener.port}" for name in names for listener in plan.listeners
    )
    inner = "".join(f"    {line}\n" for line in [*_binds(plan), *_tls(plan), *_routes(plan)])
    head = comments(plan, limits) + _GLOBAL.format(head=plan.max_head)
    return f"{head}\n{sites} {{\n{inner}}}\n", tuple(limits)


def _binds(plan: Plan) -> list[str]:
    hosts = sorted({listener.host for listener in plan.listeners if listener.host})
    return [f"bind {' '.join(hosts)}"] if hosts else []


def _tls(plan: Plan) -> list[str]:
    first, *others = plan.identities
    if others:
        raise SettingsError("certificates: found more than one, expected one for caddy")
    return [
        f"tls {first.certificate} {first.key} {{",
        # The lowest and the highest.
        f"    protocols tls{plan.tls_versions[0]} tls1.3",
        *(f"    {line}" for line in _client(plan)),
        "}",
    ]


def _client(plan: Plan) -> list[str]:
    if plan.client_auth is ClientAuth.NONE:
        return []
    if plan.verifies:
        mode = "require_and_verify" if plan.requires else "verify_if_given"
        return ["client_auth {", f"    mode {mode}", f"    trust_pool file {plan.ca}", "}"]
    mode = "require" if plan.requires else "request"
    return ["client_auth {", f"    mode {mode}", "}"]


def _routes(plan: Plan) -> list[str]:
    found = values(plan, _WRITERS)
    removed = [*plan.removed, *(name for name, _, _ in found)]
    always = [_set(name, value) for name, form, value in found if form is Format.LITERAL]
    own = [_set(name, value) for name, form, value in found if form is not Format.LITERAL]
    hidden = [f"header_down -{name}" for name, _, _ in found]
    return [
        "request_body {",
        f"    max_size {plan.max_body}",
        "}",
        "@methods method TRACE CONNECT",
        "respond @methods 405",
        *(f"request_header -{name}" for name in removed),
        "# Not by its fingerprint: without a certificate it is the hash of nothing (2.11.9).",
        f"@certificate vars_regexp {_DER} ^.+$",
        "handle @certificate {",
        *_proxy(plan, [*always, *own, *hidden]),
        "}",
        "handle {",
        *_proxy(plan, [*always, *hidden]),
        "}",
    ]


def _set(name: str, value: str) -> str:
    return f'header_up {name} "{value}"'


def _proxy(plan: Plan, lines: list[str]) -> list[str]:
    upstreams = " ".join(_upstream(each.scheme, authority(each)) for each in plan.backends)
    return [
        f"    reverse_proxy {upstreams} {{",
        *(f"        {line}" for line in lines),
        "        transport http {",
        "            keepalive off",
        *([f"            tls_trust_pool file {plan.upstream_ca}"] if plan.encrypts else []),
        "        }",
        "    }",
    ]


def _upstream(scheme: Scheme, place: str) -> str:
    return f"unix/{place}" if scheme is Scheme.UNIX else f"{scheme.value}://{place}"
