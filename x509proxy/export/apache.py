"""Export for Apache httpd: values edited into their format, and name twins rejected by pattern."""

from __future__ import annotations

from x509proxy.export.plan import (
    Exported,
    ListenAddress,
    Plan,
    authority,
    comments,
    pattern,
    shared_limits,
    values,
)
from x509proxy.settings import ClientAuth, Format, Scheme, Trust, Validity

__all__ = ["render"]

_PEM = "%{SSL_CLIENT_CERT}s"
_NO_SPACE = ('edit* {name} "[ ]" ""',)
_BARE = ('edit* {name} "-----[A-Z ]+-----" ""', *_NO_SPACE)
_BEGIN, _END = "-----BEGIN%%20CERTIFICATE-----%%0A", "%%0A-----END%%20CERTIFICATE-----%%0A"
# mod_headers replaces each line end of the PEM by a space. These edits follow.
_EDITS: dict[Format, tuple[str, ...]] = {
    Format.PEM: (
        *_NO_SPACE,
        'edit {name} "^-----BEGINCERTIFICATE-----" "-----BEGIN CERTIFICATE-----"',
        'edit {name} "-----ENDCERTIFICATE-----$" "-----END CERTIFICATE-----"',
    ),
    Format.BASE64_DER: _BARE,
    Format.RFC9440: (*_BARE, 'edit {name} "^(.+)$" ":$1:"'),
    Format.PEM_URL: (
        *_BARE,
        'edit* {name} "\\+" "%%2B"',
        'edit* {name} "/" "%%2F"',
        'edit* {name} "=" "%%3D"',
        f'edit {{name}} "^(.+)$" "{_BEGIN}$1{_END}"',
    ),
}
_VARIABLES = {
    Format.SUBJECT: "SSL_CLIENT_S_DN",
    Format.ISSUER: "SSL_CLIENT_I_DN",
    Format.SERIAL: "SSL_CLIENT_M_SERIAL",
}
_WRITERS = {
    **dict.fromkeys((*_EDITS, Format.PEM_SPACES), _PEM),
    **{form: f"%{{{variable}}}s" for form, variable in _VARIABLES.items()},
    Format.VERIFY: "%{SSL_CLIENT_VERIFY}s",
}
_LIMITS = (
    "an expired, not yet valid or misused certificate is rejected with a TLS alert",
    "other spellings of the header's name are rejected with 403, which reveals a right guess",
    "URL-encoded PEM has one long line between the armour lines",
    "control characters in a value reach the back end",
    "needs the modules ssl, headers, proxy, proxy_http and setenvif",
)


def render(plan: Plan) -> Exported:
    """Return a virtual host for all listeners, and the limits."""
    limits = [*shared_limits(plan), *_LIMITS]
    if plan.validity is Validity.IGNORE:
        limits.append("validity is enforced, also where a setting ignores it")
    if plan.trust in {Trust.SELF_SIGNED, Trust.EITHER}:
        limits.append("self-signed and unknown certificates are treated alike")
    if plan.hosts:
        limits.append("other hosts get the rules of the first virtual host, not 421")
    listens = "".join(f"Listen {_address(listener, '')}\n" for listener in plan.listeners)
    addresses = " ".join(_address(listener, "*:") for listener in plan.listeners)
    lines = [*_tls(plan), *_fields(plan), *_proxy(plan)]
    inner = "".join(f"    {line}\n" for line in lines)
    server = "HttpProtocolOptions Strict\nTraceEnable off\nSSLSessionCache none\n"
    text = f"{listens}{server}\n<VirtualHost {addresses}>\n{inner}</VirtualHost>\n"
    return f"{comments(plan, limits)}\n{text}", tuple(limits)


def _address(listener: ListenAddress, everywhere: str) -> str:
    host = f"[{listener.host}]" if ":" in listener.host else listener.host
    return f"{host}:{listener.port}" if host else f"{everywhere}{listener.port}"


def _tls(plan: Plan) -> list[str]:
    first, *others = plan.hosts or ("localhost",)
    lines = [
        f"ServerName {first}",
        *(f"ServerAlias {name}" for name in others),
        "Protocols http/1.1",
        "SSLEngine on",
        f"SSLProtocol -all {' '.join(f'+TLSv{version}' for version in plan.tls_versions)}",
        "SSLSessionTickets off",
    ]
    for each in plan.identities:
        lines += [f"SSLCertificateFile {each.certificate}", f"SSLCertificateKeyFile {each.key}"]
    return [*lines, *_client(plan)]


def _client(plan: Plan) -> list[str]:
    if plan.client_auth is ClientAuth.NONE:
        return ["SSLVerifyClient none"]
    mode = "optional_no_ca"
    if plan.verifies:
        mode = "require" if plan.requires else "optional"
    lines = [f"SSLVerifyClient {mode}", f"SSLVerifyDepth {plan.depth}"]
    lines.append("SSLOptions +ExportCertData")
    if plan.ca is not None:
        lines.append(f"SSLCACertificateFile {plan.ca}")
    if plan.crl:
        lines.append("SSLCARevocationCheck chain")
    return [*lines, *(f"SSLCARevocationFile {file}" for file in plan.crl)]


def _requires(plan: Plan) -> bool:
    # optional_no_ca has no counterpart that requires a certificate.
    return plan.requires and not plan.verifies


def _fields(plan: Plan) -> list[str]:
    lines = [
        f"LimitRequestBody {plan.max_body}",
        f"LimitRequestFieldSize {plan.max_head}",
        "# A client's Connection field could remove the header after it was set (CVE-2022-31813).",
        "RequestHeader unset Connection early",
        *(f"RequestHeader unset {name}" for name in (*plan.removed, "Forwarded")),
        "RequestHeader unset X-Forwarded-For",
        'RequestHeader set X-Forwarded-Proto "https"',
    ]
    for name, form, value in values(plan, _WRITERS):
        # The name itself is removed in silence, before the twins are looked for.
        lines.append(f"RequestHeader unset {name} early")
        lines.append(f'SetEnvIfNoCase "^{pattern(name)}$" "." x509proxy_forged')
        lines += _written(name, form, value)
        lines += [f"Header always unset {name}", f"Header unset {name}"]
        lines.append(f'Header edit Vary "(?i)^.*{pattern(name)}.*$" "*"')
    return [
        *lines,
        '<Location "/">',
        "    <RequireAll>",
        "        Require all granted",
        "        Require not env x509proxy_forged",
        *(['        Require expr "-n %{SSL_CLIENT_CERT}"'] if _requires(plan) else []),
        "    </RequireAll>",
        "</Location>",
    ]


def _written(name: str, form: Format, value: str) -> list[str]:
    line = f'RequestHeader set {name} "{value}"'
    if form in {Format.LITERAL, Format.VERIFY}:
        return [line]
    variable = _VARIABLES.get(form, "SSL_CLIENT_CERT")
    edits = (f"RequestHeader {edit.format(name=name)}" for edit in _EDITS.get(form, ()))
    return [f'{line} "expr=-n %{{{variable}}}"', *edits]


def _proxy(plan: Plan) -> list[str]:
    lines = ["ProxyPreserveHost On", "ProxyVia Off"]
    if plan.encrypts:
        lines += ["SSLProxyEngine on", "SSLProxyVerify require", "SSLProxyCheckPeerName on"]
        lines.append(f"SSLProxyCACertificateFile {plan.upstream_ca}")
    urls = [_url(each.scheme, authority(each)) for each in plan.backends]
    if len(urls) == 1:
        return [*lines, f'ProxyPass "/" "{urls[0]}/" disablereuse=On']
    members = [f"    BalancerMember {url} disablereuse=On" for url in urls]
    lines += ['<Proxy "balancer://x509proxy">', *members, "</Proxy>"]
    return [*lines, 'ProxyPass "/" "balancer://x509proxy/"']


def _url(scheme: Scheme, place: str) -> str:
    unix = scheme is Scheme.UNIX
    return f"unix:{place}|http://localhost" if unix else f"{scheme.value}://{place}"
