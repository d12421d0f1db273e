"""Export for HAProxy: names removed by pattern, values from the DER, no shared connections."""

from __future__ import annotations

from x509proxy.export.plan import (
    ERROR_JSON,
    Exported,
    Plan,
    authority,
    comments,
    pattern,
    shared_limits,
    values,
)
from x509proxy.settings import ClientAuth, Format, Scheme, SettingsError, Trust, Validity

__all__ = ["render"]

_DER = "%[ssl_c_der,base64]"
_URL = (
    "-----BEGIN%%20CERTIFICATE-----%%0A"
    "%[ssl_c_der,base64,url_enc]%%0A-----END%%20CERTIFICATE-----%%0A"
)
_WRITERS = {
    Format.PEM: f"-----BEGIN CERTIFICATE-----{_DER}-----END CERTIFICATE-----",
    Format.PEM_SPACES: f"-----BEGIN CERTIFICATE----- {_DER} -----END CERTIFICATE-----",
    Format.PEM_URL: _URL,
    Format.BASE64_DER: _DER,
    Format.RFC9440: f":{_DER}:",
    Format.XFCC: f'Hash=%[ssl_c_der,sha2(256),hex,lower];Cert=\\"{_URL}\\"',
    Format.THUMBPRINT: "%[ssl_c_der,sha2(256),ub64enc]",
    Format.SUBJECT: "%[ssl_c_s_dn(,0,rfc2253)]",
    Format.ISSUER: "%[ssl_c_i_dn(,0,rfc2253)]",
    Format.SERIAL: "%[ssl_c_serial,hex]",
    Format.VERIFY: "",
    Format.VERDICT: "",
}
# ssl_c_verify is 0 without a certificate too, so it counts only together with ssl_c_used.
_RESULTS = {
    Format.VERIFY: ("NONE", "SUCCESS", "FAILED:%[ssl_c_verify]"),
    Format.VERDICT: ("NONE", "TRUSTED", "UNTRUSTED"),
}
_LIMITS = (
    "the chain of a client is not known, only its leaf",
    "URL-encoded PEM has one long line between the armour lines",
    "chunked requests are rejected with 411, since their trailer fields would be forwarded",
    "control characters in a value reach the back end",
)


def render(plan: Plan) -> Exported:
    """Return the configuration, and the limits.

    :raises SettingsError: certificate and key are in two files.
    """
    limits = (*shared_limits(plan), *_LIMITS)
    if plan.trust is Trust.EITHER and plan.validity is Validity.IGNORE:
        limits = (*limits, "an expired certificate of an authority is rejected")
    buffer = _GLOBAL.format(buffer=2 * plan.max_head, version=plan.tls_versions[0])
    return comments(plan, limits) + buffer + _frontend(plan) + _backend(plan), limits


_GLOBAL = """
global
    tune.ssl.cachesize 0
    tune.bufsize {buffer}
    ssl-default-bind-options ssl-min-ver TLSv{version} no-tls-tickets

defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout http-request 10s
    timeout http-keep-alive 30s
"""


def _bind(plan: Plan) -> list[str]:
    if any(each.certificate != each.key for each in plan.identities):
        expected = "expected certificate and key in one file for haproxy"
        raise SettingsError(f"private-key: found a file of its own, {expected}")
    options = "ssl alpn http/1.1"
    options += "".join(f" crt {each.certificate}" for each in plan.identities)
    if plan.client_auth is not ClientAuth.NONE:
        mode = "required" if plan.verifies and plan.requires else "optional"
        # HAProxy requires a file of authorities, even if all errors are ignored.
        options += f" verify {mode} ca-file {plan.ca or plan.identities[0].certificate}"
        options += "" if plan.verifies else " ca-ignore-err all crt-ignore-err all"
        options += " no-ca-names" + "".join(f" crl-file {file}" for file in plan.crl)
    return [f"bind {listener.host or '*'}:{listener.port} {options}" for listener in plan.listeners]


def _frontend(plan: Plan) -> str:
    hosts = " ".join(plan.hosts)
    misdirected = f"unless {{ req.hdr(host),host_only,lower -m str {hosts} }}"
    too_large = f"if {{ req.hdr_val(content-length) gt {plan.max_body} }}"
    removed = (*plan.removed, "Forwarded", "X-Forwarded-For", "Upgrade")
    lines = [
        *_bind(plan),
        # The option http-restrict-req-hdr-names would delete a name of the proxy's own, too.
        "http-request del-header [^A-Za-z0-9-] -m reg",
        "http-request deny deny_status 405 if { method TRACE CONNECT }",
        "http-request return status 411 if { req.hdr(transfer-encoding) -m found }",
        f"http-request return status 413 {too_large}",
        *([f"http-request return status 421 {misdirected}"] if hosts else []),
        *_rejections(plan),
        *(f"http-request del-header {name}" for name in removed),
        "http-request set-header X-Forwarded-For %[src]",
        "http-request set-header X-Forwarded-Proto https",
    ]
    for name, form, value in values(plan, _WRITERS):
        lines.append(f"http-request del-header ^(?i){pattern(name)}$ -m reg")
        lines += _written(plan, name, form, value)
        lines.append(f"http-response set-header Vary * if {{ res.hdr(vary) -m sub -i {name} }}")
        lines.append(f"http-response del-header {name}")
    text = "".join(f"    {line}\n" for line in [*lines, "default_backend back_ends"])
    return f"\nfrontend x509proxy\n{text}"


def _written(plan: Plan, name: str, form: Format, value: str) -> list[str]:
    if form is Format.LITERAL:
        return [f'http-request set-header {name} "{value}"']
    if form not in _RESULTS:
        return [f'http-request set-header {name} "{value}" if {{ ssl_c_used }}']
    none, trusted, other = _RESULTS[form]
    if plan.ca is None:
        # The server's own chain stands for the authorities, and makes no client trusted.
        return [
            f"http-request set-header {name} {none} unless {{ ssl_c_used }}",
            f"http-request set-header {name} {other} if {{ ssl_c_used }}",
        ]
    return [
        f"http-request set-header {name} {none} unless {{ ssl_c_used }}",
        f"http-request set-header {name} {trusted} if {{ ssl_c_used }} {{ ssl_c_verify 0 }}",
        f"http-request set-header {name} {other} if {{ ssl_c_used }} !{{ ssl_c_verify 0 }}",
    ]


def _rejections(plan: Plan) -> list[str]:
    conditions = []
    if plan.validity is Validity.ENFORCE and not plan.verifies:
        # 9: not yet valid, 10: expired (openssl-verification-options(1)).
        conditions.append("{ ssl_c_used } { ssl_c_verify 9 10 }")
    if plan.crl and not plan.verifies:
        # Each holds one error of several: the last, the leaf's first, and an issuer's first.
        results = ("ssl_c_verify", "ssl_c_err", "ssl_c_ca_err")
        conditions += [f"{{ ssl_c_used }} {{ {result} 23 }}" for result in results]
    if plan.trust in {Trust.SELF_SIGNED, Trust.EITHER}:
        # 18: self-signed. A later error, such as that of a missing list, replaces it elsewhere.
        issued = " !{ ssl_c_verify 0 }" if plan.trust is Trust.EITHER else ""
        conditions.append("{ ssl_c_used } !{ ssl_c_err 18 }" + issued)
    if plan.requires and not plan.verifies:
        conditions.append("!{ ssl_c_used }")
    body = f"content-type application/json string '{ERROR_JSON}'"
    return [f"http-request return status 401 {body} if {condition}" for condition in conditions]


def _backend(plan: Plan) -> str:
    lines = ["http-reuse never", "retries 0"]
    for at, each in enumerate(plan.backends, 1):
        tls = _tls(plan, each.host) if plan.encrypts else ""
        unix = "unix@" if each.scheme is Scheme.UNIX else ""
        lines.append(f"server back_end_{at} {unix}{authority(each)}{tls}")
    return "\nbackend back_ends\n" + "".join(f"    {line}\n" for line in lines)


def _tls(plan: Plan, host: str) -> str:
    verified = f"ssl verify required ca-file {plan.upstream_ca} verifyhost {host}"
    return f" {verified} sni str({host})"
