"""Export for nginx: a server block with a single location, and no session resumption."""

from __future__ import annotations

import attrs

from x509proxy.export.plan import (
    ERROR_JSON,
    Exported,
    ListenAddress,
    Plan,
    authority,
    comments,
    name_limits,
    shared_limits,
    values,
)
from x509proxy.forwarding.presets import HeaderPlan
from x509proxy.settings import ClientAuth, Format, Scheme, Trust

__all__ = ["render"]

_WRITERS = {
    Format.PEM_URL: "$ssl_client_escaped_cert",
    Format.XFCC: "$x509proxy_xfcc",
    Format.SUBJECT: "$ssl_client_s_dn",
    Format.ISSUER: "$ssl_client_i_dn",
    Format.SERIAL: "$ssl_client_serial",
    Format.VERIFY: "$ssl_client_verify",
    Format.VERDICT: "$x509proxy_verdict",
}
_LIMITS = (
    "an expired, not yet valid or misused certificate is rejected, even a self-signed one",
    "control characters in a value reach the back end",
    "a Vary field of the back end that names the header reaches the client",
)
_PEM_LIMIT = "the format pem is written as pem-url, which Connect2id reads since 8.1"
_MAPS = """
map $ssl_client_escaped_cert $x509proxy_xfcc {
    ""      "";
    default 'Cert="$ssl_client_escaped_cert"';
}
map $ssl_client_verify $x509proxy_verdict {
    NONE    NONE;
    SUCCESS TRUSTED;
    default UNTRUSTED;
}
"""


def render(plan: Plan) -> Exported:
    """Return the configuration for the ``http`` context, and the limits."""
    limits = [*shared_limits(plan), *_LIMITS, *name_limits(plan)]
    if any(field.form is Format.PEM for field in plan.fields):
        # nginx has no variable with PEM without line breaks.
        limits.append(_PEM_LIMIT)
        plan = attrs.evolve(plan, fields=tuple(map(_escaped, plan.fields)))
    if plan.trust in {Trust.SELF_SIGNED, Trust.EITHER}:
        limits.append("self-signed and unknown certificates are treated alike")
    text = comments(plan, limits) + _MAPS + _upstream(plan) + _server(plan) + _other_hosts(plan)
    return text, tuple(limits)


def _escaped(field: HeaderPlan) -> HeaderPlan:
    return attrs.evolve(field, form=Format.PEM_URL) if field.form is Format.PEM else field


def _upstream(plan: Plan) -> str:
    lines = []
    for each in plan.backends:
        unix = "unix:" if each.scheme is Scheme.UNIX else ""
        lines.append(f"    server {unix}{authority(each)};\n")
    # Without keepalive, each connection serves a single client.
    return f"\nupstream x509proxy_back_end {{\n{''.join(lines)}}}\n"


def _listen(listener: ListenAddress, default: str) -> str:
    host = f"[{listener.host}]" if ":" in listener.host else listener.host
    return f"listen {host + ':' if host else ''}{listener.port} ssl{default};"


def _server(plan: Plan) -> str:
    default = "" if plan.hosts else " default_server"
    scheme = "https" if plan.encrypts else "http"
    location = [
        "# The only location: one with a proxy_set_header of its own inherits none of these.",
        "location / {",
        f"    proxy_pass {scheme}://x509proxy_back_end;",
        "    proxy_http_version 1.1;",
        "    proxy_headers_hash_max_size 2048;",
        "    proxy_headers_hash_bucket_size 512;",
        *(f"    {line}" for line in _headers(plan)),
        "}",
    ]
    lines = [
        *(_listen(listener, default) for listener in plan.listeners),
        f"server_name {' '.join(plan.hosts) or '_'};",
        *_tls(plan),
        *_client(plan),
        f"client_max_body_size {plan.max_body};",
        f"large_client_header_buffers 4 {plan.max_head};",
        "client_header_timeout 10s;",
        *_required(plan),
        "keepalive_requests 1000;",
        "underscores_in_headers off;",
        "ignore_invalid_headers on;",
        "error_page 495 496 =401 @certificate;",
        "location @certificate {",
        "    default_type application/json;",
        f"    return 401 '{ERROR_JSON}';",
        "}",
        *location,
    ]
    return "\nserver {\n" + "".join(f"    {line}\n" for line in lines) + "}\n"


def _tls(plan: Plan) -> list[str]:
    lines = []
    for each in plan.identities:
        lines += [f"ssl_certificate {each.certificate};", f"ssl_certificate_key {each.key};"]
    return [
        *lines,
        f"ssl_protocols {' '.join(f'TLSv{version}' for version in plan.tls_versions)};",
        "# Every connection proves possession of the key again (CVE-2025-23419).",
        "ssl_session_cache off;",
        "ssl_session_tickets off;",
    ]


def _client(plan: Plan) -> list[str]:
    if plan.client_auth is ClientAuth.NONE:
        return ["ssl_verify_client off;"]
    mode = "optional_no_ca"
    if plan.verifies:
        mode = "on" if plan.requires else "optional"
    lines = [f"ssl_verify_client {mode};", f"ssl_verify_depth {plan.depth};"]
    if plan.ca is not None:
        lines.append(f"ssl_client_certificate {plan.ca};")
    return [*lines, *(f"ssl_crl {file};" for file in plan.crl)]


def _required(plan: Plan) -> list[str]:
    if plan.requires and not plan.verifies:
        return [f"if ($ssl_client_verify = NONE) {{ return 401 '{ERROR_JSON}'; }}"]
    return []


def _headers(plan: Plan) -> list[str]:
    lines = [
        "proxy_set_header Host $host;",
        'proxy_set_header Connection "";',
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header X-Forwarded-Proto $scheme;",
        'proxy_set_header Forwarded "";',
        *(f'proxy_set_header {name} "";' for name in plan.removed),
    ]
    if plan.encrypts:
        lines += [
            "proxy_ssl_verify on;",
            "proxy_ssl_verify_depth 4;",
            f"proxy_ssl_trusted_certificate {plan.upstream_ca};",
            "proxy_ssl_server_name on;",
            f"proxy_ssl_name {plan.backends[0].host};",
        ]
    for name, form, value in values(plan, _WRITERS):
        quoted = f'"{value}"' if form is Format.LITERAL else value
        lines += [f"proxy_set_header {name} {quoted};", f"proxy_hide_header {name};"]
    return lines


def _other_hosts(plan: Plan) -> str:
    if not plan.hosts:
        return ""
    first = plan.identities[0]
    lines = [
        *(_listen(listener, " default_server") for listener in plan.listeners),
        "server_name _;",
        f"ssl_certificate {first.certificate};",
        f"ssl_certificate_key {first.key};",
        "ssl_session_cache off;",
        "ssl_session_tickets off;",
        "# The handshake of a client without a known server name ends here.",
        *_client(plan),
        "return 421;",
    ]
    return "\nserver {\n" + "".join(f"    {line}\n" for line in lines) + "}\n"
