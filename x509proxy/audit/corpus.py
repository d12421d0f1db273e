"""Names of headers with a certificate or a path, for the probes."""

from __future__ import annotations

from x509proxy.forwarding.claim_headers import CERTIFICATE_CLAIMS

__all__ = ["KNOWN_CLAIMS", "SIBLINGS"]

Sibling = tuple[str, str, tuple[bytes, ...]]
"""The id of a probe, its origin, and the names of the fields."""

SIBLINGS: tuple[Sibling, ...] = (
    ("sibling-rfc9440", "RFC 9440 section 4", (b"Client-Cert", b"Client-Cert-Chain")),
    ("sibling-xfcc", "envoyproxy/envoy#6038", (b"X-Forwarded-Client-Cert",)),
    (
        "sibling-traefik",
        "CVE-2026-39858 (Traefik)",
        (b"X-Forwarded-Tls-Client-Cert", b"X-Forwarded-Tls-Client-Cert-Info"),
    ),
    (
        "sibling-nginx",
        "Traefik pull request 13260",
        (b"ssl-client-cert", b"ssl-client-verify", b"ssl-client-subject-dn"),
    ),
    (
        "sibling-apache",
        "apache/tomcat SSLValve",
        (b"SSL_CLIENT_CERT", b"SSL_CLIENT_VERIFY", b"ssl_client_escaped_cert"),
    ),
    (
        "sibling-haproxy",
        "CVE-2026-46579 (OpenShift router)",
        (b"X-SSL-Client-Verify", b"X-SSL-Client-CN", b"X-SSL-Client-DER", b"X-SSL-Cert"),
    ),
    (
        "sibling-cloud",
        "AWS ALB and Azure App Service manuals",
        (b"X-Amzn-Mtls-Clientcert", b"X-Amzn-Mtls-Clientcert-Leaf", b"X-ARR-ClientCert"),
    ),
    ("sibling-aspnet", "ASP.NET Core", (b"X-Client-Cert", b"X-ClientCert")),
    ("sibling-rewrite", "Symfony CVE-2018-14773", (b"X-Original-URL", b"X-Rewrite-URL")),
)
KNOWN_CLAIMS: tuple[bytes, ...] = CERTIFICATE_CLAIMS
"""All product-specific headers that the proxy removes and its tests forge."""
