"""Changes to the configuration of products, for probes that share them."""

from __future__ import annotations

from x509proxy.audit.probe import Remedies, remedies

__all__ = [
    "ABSENCE",
    "CERTIFICATES",
    "CONNECTION",
    "CRYPTOGRAPHY",
    "FORMAT",
    "FRAMING",
    "HOSTS",
    "HTTP2",
    "LIMITS",
    "NAMES",
    "POST_QUANTUM",
    "REACH",
    "RESPONSES",
    "RESUMPTION",
    "REUSE",
    "SIBLINGS",
    "SYNTAX",
    "TARGETS",
    "TWINS",
    "VALIDITY",
]

NAMES: Remedies = remedies(
    nginx="proxy_set_header NAME $ssl_client_escaped_cert; in every location that sets a header",
    haproxy="http-request del-header NAME, before an unconditional or conditional set-header",
    apache="RequestHeader unset NAME early, and RequestHeader set NAME with expr=",
    caddy="reverse_proxy { header_up -NAME }, before header_up NAME",
    envoy="request_headers_to_remove: [NAME], or forward_client_cert_details: SANITIZE_SET",
    traefik="a headers middleware with customRequestHeaders NAME: '' before passTLSClientCert",
)
TWINS: Remedies = remedies(
    nginx="underscores_in_headers off; ignore_invalid_headers on; (the defaults)",
    haproxy="option http-restrict-req-hdr-names delete, and del-header NAME -m reg for twins",
    apache="RequestHeader unset for each spelling, or HttpProtocolOptions Strict and mod_security",
    caddy="version 2.11.4 or newer, or request_header -NAME* for the twin",
    envoy="headers_with_underscores_action: REJECT_REQUEST",
    traefik="underscoreHeadersStrategy: drop on the entry point",
)
ABSENCE: Remedies = remedies(
    nginx="proxy_set_header NAME $ssl_client_escaped_cert; (an empty value sends no header)",
    haproxy="set-header NAME only if { ssl_c_used }, after an unconditional del-header",
    apache='RequestHeader set NAME "%{SSL_CLIENT_CERT}s" "expr=-n %{SSL_CLIENT_CERT}"',
    caddy="two reverse_proxy directives, by the matcher {tls_client_subject} being empty",
    envoy="forward_client_cert_details: SANITIZE_SET",
)
CONNECTION: Remedies = remedies(
    apache="RequestHeader unset Connection early: it can remove NAME (CVE-2022-31813)",
    traefik="version 2.11.9 or 3.1.3, or newer (CVE-2024-45410)",
    caddy="nothing to set: header_up is applied after the hop-by-hop fields are removed",
)
SYNTAX: Remedies = remedies(
    nginx="version 1.23 or newer; ignore_invalid_headers on;",
    haproxy="remove option accept-invalid-http-request",
    apache="HttpProtocolOptions Strict",
    envoy="http_parser: balsa, and no allow_custom_methods",
)
SIBLINGS: Remedies = remedies(
    nginx='proxy_set_header OTHER ""; for each that the back end reads',
    haproxy="http-request del-header OTHER",
    apache="RequestHeader unset OTHER",
    caddy="header_up -OTHER",
    envoy="request_headers_to_remove: [OTHER]",
    traefik="customRequestHeaders OTHER: ''",
)
TARGETS: Remedies = remedies(
    nginx="repeat proxy_set_header NAME here: a location with one of its own inherits none",
    haproxy="no if or unless on the del-header rule",
    apache="set RequestHeader in the virtual host, not in a Location",
    caddy="put header_up into each reverse_proxy, or a snippet that all import",
)
FRAMING: Remedies = remedies(
    nginx="a current version; proxy_http_version 1.1;",
    haproxy="a current version, without option accept-invalid-http-request",
    apache="HttpProtocolOptions Strict, and a current version",
    envoy="a current version, with the default http_protocol_options",
    traefik="a current version",
)
HOSTS: Remedies = remedies(
    nginx="a default_server that returns 421, and the same rules in each server block",
    haproxy="http-request deny unless { ssl_fc_sni,lower -m str NAME }, and strict-sni",
    apache="SSLStrictSNIVHostCheck on",
    caddy="strict_sni_host on",
    envoy="one filter chain for each name, with the same header rules",
    traefik="the same TLS options for each Host (CVE-2022-46153)",
)
RESUMPTION: Remedies = remedies(
    nginx="ssl_session_cache off; ssl_session_tickets off;",
    haproxy="no-tls-tickets on bind, and tune.ssl.cachesize 0",
    apache="SSLSessionTickets off, SSLSessionCache none",
    caddy="tls { session_tickets off } is in the JSON configuration: session_tickets.disabled",
    envoy="disable_stateless_session_resumption: true, disable_stateful_session_resumption: true",
    traefik="disableSessionTickets: true in the TLS options",
)
CRYPTOGRAPHY: Remedies = remedies(
    nginx="ssl_protocols TLSv1.2 TLSv1.3;",
    haproxy="ssl-default-bind-options ssl-min-ver TLSv1.2",
    apache="SSLProtocol -all +TLSv1.2 +TLSv1.3",
    caddy="protocols tls1.2 (the default)",
    envoy="tls_minimum_protocol_version: TLSv1_2",
    traefik="minVersion: VersionTLS12",
)
CERTIFICATES: Remedies = remedies(
    nginx="ssl_verify_client optional_no_ca;",
    haproxy="verify optional ca-file ANY crt-ignore-err all ca-ignore-err all",
    apache="SSLVerifyClient optional_no_ca",
    caddy="client_auth { mode request }",
    envoy="trust_chain_verification: ACCEPT_UNTRUSTED",
    traefik="clientAuthType: RequestClientCert",
)
POST_QUANTUM: Remedies = remedies(
    nginx="a build with OpenSSL 3.5 or newer",
    haproxy="a build with OpenSSL 3.5 or AWS-LC",
    apache="a build with OpenSSL 3.5 or newer",
    caddy="a build with Go 1.27 or newer",
)
VALIDITY: Remedies = remedies(
    nginx="not possible: optional_no_ca does not forgive these; error_page 495 can explain it",
    haproxy="crt-ignore-err all on bind",
    apache="not possible: optional_no_ca does not forgive these",
    caddy="client_auth { mode request }",
)
FORMAT: Remedies = remedies(
    nginx="$ssl_client_escaped_cert, never $ssl_client_cert or $ssl_client_raw_cert",
    haproxy="%[ssl_c_der,base64] with the markers that the format has",
    apache='the escape function leaves "+": read it with a server that decodes URLs, not forms',
    caddy="{tls_client_certificate_der_base64} with the markers that the format has",
)
HTTP2: Remedies = remedies(
    nginx="a current version, or no http2",
    haproxy="a current version, or alpn http/1.1",
    apache="a current version, or Protocols http/1.1",
    caddy="a current version, or protocols h1",
    envoy="a current version, with override_stream_error_on_invalid_http_message off",
)
REACH: Remedies = remedies(
    nginx="back end on 127.0.0.1, a unix socket or behind a firewall; port 80 only redirects",
    haproxy="http-request redirect scheme https on port 80; a firewall for the back end",
    apache="Redirect permanent / https://…/ in the virtual host of port 80",
    caddy="no http:// site with reverse_proxy",
)
REUSE: Remedies = remedies(
    nginx="no keepalive in the upstream block for such back ends",
    haproxy="http-reuse never",
    apache="ProxyPass … disablereuse=On",
    caddy="transport http { keepalive off }",
    envoy="max_requests_per_connection: 1 for the cluster",
)
RESPONSES: Remedies = remedies(
    nginx="proxy_hide_header NAME;",
    haproxy="http-response del-header NAME",
    apache="Header always unset NAME",
    caddy="header_down -NAME",
    envoy="response_headers_to_remove: [NAME]",
)
LIMITS: Remedies = remedies(
    nginx="large_client_header_buffers, client_header_timeout, keepalive_requests",
    haproxy="timeout http-request, tune.http.maxhdr, tune.h2.fe.glitches-threshold",
    apache="LimitRequestFields, RequestReadTimeout (mod_reqtimeout)",
    caddy="servers { timeouts { read_header }, max_header_size }",
    envoy="request_headers_timeout, max_headers_count",
)
