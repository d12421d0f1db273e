"""Export for Envoy: a static configuration with the certificate as URL-encoded PEM."""

from __future__ import annotations

import json
from collections.abc import Iterator

from x509proxy.export.plan import Exported, Plan, comments, name_limits, shared_limits, values
from x509proxy.settings import Backend, ClientAuth, Format, Scheme, Trust

__all__ = ["render"]

_WRITERS = {
    Format.PEM_URL: "%DOWNSTREAM_PEER_CERT%",
    Format.XFCC: "",
    Format.SUBJECT: "%DOWNSTREAM_PEER_SUBJECT%",
    Format.ISSUER: "%DOWNSTREAM_PEER_ISSUER%",
    Format.SERIAL: "%DOWNSTREAM_PEER_SERIAL%",
}
_LIMITS = (
    "this configuration has not been run by its authors: check it with envoy --mode validate",
    "a client with an Ed25519 key is rejected by BoringSSL",
    "an expired certificate is forwarded: the back end must check it",
    "the verification result is not known",
)
_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_HTTP = "filters.network.http_connection_manager.v3.HttpConnectionManager"
_TLS = "transport_sockets.tls.v3"
_XFCC = "x-forwarded-client-cert"
Tree = dict[str, object]


def render(plan: Plan) -> Exported:
    """Return the configuration, and the limits."""
    limits = (*shared_limits(plan), *_LIMITS, *_trust_limits(plan), *name_limits(plan))
    listeners = [_listener(plan, at) for at in range(len(plan.listeners))]
    document = {"static_resources": {"listeners": listeners, "clusters": [_cluster(plan)]}}
    # A JSON document is a YAML document, and YAML has comments.
    return comments(plan, limits) + json.dumps(document, indent=2) + "\n", limits


def _trust_limits(plan: Plan) -> Iterator[str]:
    if plan.trust in {Trust.SELF_SIGNED, Trust.EITHER}:
        yield "any certificate is forwarded, self-signed or issued"
    if plan.crl and not plan.verifies:
        yield "revocation lists are not read"


def _typed(kind: str, **fields: object) -> Tree:
    return {"@type": f"{_EXTENSIONS}.{kind}", **fields}


def _socket(kind: str, typed: Tree) -> Tree:
    return {"name": kind, "typed_config": typed}


def _address(host: str, port: int) -> Tree:
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(plan: Plan, at: int) -> Tree:
    listener = plan.listeners[at]
    chain = {
        "transport_socket": _socket("envoy.transport_sockets.tls", _tls(plan)),
        "filters": [_socket("envoy.filters.network.http_connection_manager", _manager(plan))],
    }
    return {
        "name": f"x509proxy_{at}",
        "address": _address(listener.host or "::", listener.port),
        "filter_chains": [chain],
    }


def _tls(plan: Plan) -> Tree:
    certificates = [
        {
            "certificate_chain": {"filename": each.certificate},
            "private_key": {"filename": each.key},
        }
        for each in plan.identities
    ]
    version = f"TLSv{plan.tls_versions[0].replace('.', '_')}"
    common: Tree = {
        "alpn_protocols": ["http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": version},
        "tls_certificates": certificates,
    }
    if plan.client_auth is not ClientAuth.NONE:
        common["validation_context"] = _validation(plan)
    return _typed(
        f"{_TLS}.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=plan.requires,
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )


def _validation(plan: Plan) -> Tree:
    if not plan.verifies:
        return {"trust_chain_verification": "ACCEPT_UNTRUSTED"}
    context: Tree = {"trusted_ca": {"filename": plan.ca}}
    if plan.crl:
        context["crl"] = {"filename": plan.crl[0]}
    return context


def _manager(plan: Plan) -> Tree:
    found = values(plan, _WRITERS)
    has_xfcc = any(form is Format.XFCC for _, form, _ in found)
    forward: Tree = {"forward_client_cert_details": "SANITIZE_SET" if has_xfcc else "SANITIZE"}
    if has_xfcc:
        forward["set_current_client_cert_details"] = {"cert": True, "subject": True}
    return _typed(
        _HTTP,
        stat_prefix="x509proxy",
        **forward,
        use_remote_address=True,
        request_headers_timeout="10s",
        max_request_headers_kb=max(1, plan.max_head // 1024),
        common_http_protocol_options={
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 100,
        },
        http_filters=[
            _socket("envoy.filters.http.router", _typed("filters.http.router.v3.Router"))
        ],
        route_config={"virtual_hosts": [_virtual_host(plan, found)]},
    )


def _virtual_host(plan: Plan, found: list[tuple[str, Format, str]]) -> Tree:
    names = [name for name, _, _ in found]
    added = [
        {
            "header": {"key": name, "value": value},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            "keep_empty_value": False,
        }
        for name, form, value in found
        if form is not Format.XFCC
    ]
    removed = [name for name in (*plan.removed, *names) if name.lower() != _XFCC]
    return {
        "name": "all",
        "domains": [*plan.hosts, *(f"{host}:*" for host in plan.hosts)] or ["*"],
        "request_headers_to_remove": removed,
        "request_headers_to_add": added,
        "response_headers_to_remove": names,
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "back_ends"}}],
    }


def _endpoint(backend: Backend) -> Tree:
    if backend.scheme is Scheme.UNIX:
        return {"endpoint": {"address": {"pipe": {"path": backend.path}}}}
    return {"endpoint": {"address": _address(backend.host, backend.port)}}


def _cluster(plan: Plan) -> Tree:
    endpoints = [{"lb_endpoints": [_endpoint(each) for each in plan.backends]}]
    cluster: Tree = {
        "name": "back_ends",
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "back_ends", "endpoints": endpoints},
    }
    if plan.encrypts:
        host = plan.backends[0].host
        names = [{"san_type": "DNS", "matcher": {"exact": host}}]
        trusted = {"filename": plan.upstream_ca}
        common = {
            "validation_context": {"trusted_ca": trusted, "match_typed_subject_alt_names": names}
        }
        context = _typed(f"{_TLS}.UpstreamTlsContext", sni=host, common_tls_context=common)
        cluster["transport_socket"] = _socket("envoy.transport_sockets.tls", context)
    return cluster
