"""The words between which a configuration chooses; those of TOML are the values."""

from __future__ import annotations

import enum

__all__ = [
    "CertificateRequirement",
    "ClientAuth",
    "Format",
    "InvalidNames",
    "KeyType",
    "LogFormat",
    "ProxyProtocol",
    "RequestIds",
    "TlsVersion",
    "Trust",
    "Usage",
    "Validity",
]


class ClientAuth(enum.Enum):
    """What the handshake asks for, and what a request needs."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


class ProxyProtocol(enum.Enum):
    """Whether each connection begins with a header of a balancer's that names the client (:mod:`x509proxy.transport.proxy_protocol`)."""

    NONE = "none"
    REQUIRED = "required"


class CertificateRequirement(enum.Enum):
    """What a request needs of its client, by path and server name (:mod:`x509proxy.forwarding.path_rules`)."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    IGNORED = "ignored"
    """Whatever certificate was shown, the request goes on without it: a browser's pages."""


class Format(enum.Enum):
    """What stands in a header's value (:mod:`x509proxy.forwarding.certificate_formats`)."""

    PEM = "pem"
    """PEM without any white space between the armour lines: Connect2id."""
    PEM_SPACES = "pem-spaces"
    """PEM with a space for each new line: what Apache httpd sends."""
    PEM_URL = "pem-url"
    """URL-encoded PEM: nginx's ``$ssl_client_escaped_cert``, byte for byte."""
    BASE64_DER = "base64-der"
    """Base64 of the DER: HAProxy, Traefik, ASP.NET Core."""
    RFC9440 = "rfc9440"
    """``Client-Cert`` of RFC 9440."""
    RFC9440_CHAIN = "rfc9440-chain"
    """``Client-Cert-Chain`` of RFC 9440; no field at all when the client sent the leaf alone."""
    XFCC = "xfcc"
    """``X-Forwarded-Client-Cert`` of Envoy."""
    THUMBPRINT = "thumbprint"
    """``x5t#S256``: base64url of the SHA-256 of the DER (RFC 8705 section 3.1)."""
    SUBJECT = "subject"
    """The subject's name as RFC 4514 writes it, ASCII: the client's own words unless an authority vouches for them."""
    ISSUER = "issuer"
    """The issuer's name, likewise."""
    SERIAL = "serial"
    """The serial number in upper-case hexadecimal, as nginx's ``$ssl_client_serial``."""
    VERDICT = "verdict"
    """``NONE``, ``SELF_SIGNED``, ``TRUSTED`` or ``UNTRUSTED``; sent with every request."""
    VERIFY = "verify"
    """The same as nginx says it: ``NONE``, ``SUCCESS`` or ``FAILED:reason``; sent with every request."""
    LITERAL = "literal"
    """The text of ``value``, or the one line of ``value-file``; sent with every request."""


class Trust(enum.Enum):
    """Whose certificates are passed on to the back end."""

    ANY = "any"
    SELF_SIGNED = "self-signed"
    CA = "ca"
    EITHER = "either"


class Validity(enum.Enum):
    """Whether a certificate outside its validity period is refused by the proxy, or left to the back end."""

    ENFORCE = "enforce"
    IGNORE = "ignore"


class Usage(enum.Enum):
    """Whether an authority's certificate must be for TLS clients (extended key usage, RFC 5280 section 4.2.1.12)."""

    ENFORCE = "enforce"
    IGNORE = "ignore"
    """Certificates that an authority has issued for servers identify clients too: each of those servers can act as a client."""


class KeyType(enum.Enum):
    """A kind of key that client certificates may have."""

    RSA = "rsa"
    EC = "ec"
    ED25519 = "ed25519"
    ED448 = "ed448"
    ML_DSA_44 = "ml-dsa-44"
    """FIPS 204, RFC 9881: signatures that withstand quantum computers, in certificates of 4 KB."""
    ML_DSA_65 = "ml-dsa-65"
    """5.5 KB."""
    ML_DSA_87 = "ml-dsa-87"
    """7.5 KB."""


class InvalidNames(enum.Enum):
    """What happens to a request's header names outside ``[A-Za-z0-9-]``: dropped as nginx does, or answered 400."""

    DROP = "drop"
    REFUSE = "refuse"


class RequestIds(enum.Enum):
    """Whose name a request goes by in the logs (:mod:`x509proxy.http1.request_id`)."""

    GENERATE = "generate"
    """One that the proxy makes."""
    TRUST = "trust"
    """The one that came with the request, if it is well formed: for those behind a hop of their own that gives ids."""


class LogFormat(enum.Enum):
    """How the access log is written (:mod:`x509proxy.monitoring.access_log_format`)."""

    TEXT = "text"
    JSON = "json"


class TlsVersion(enum.Enum):
    """The lowest TLS version that is spoken."""

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"
