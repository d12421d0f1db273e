"""Presets of authorization servers: the headers that each of them trusts, and their formats.

The sources are in ``docs/servers``. Names are sent in the spelling of the server's own manual, some
in lower case or with ``_``. Servers compare names without case, and CGI-like ones equate ``_`` and
``-``.
"""

from __future__ import annotations

import enum

import attrs

from x509proxy.settings import Format, SettingsError

__all__ = ["PRESETS", "HeaderPlan", "Naming", "Preset", "find_preset"]


class Naming(enum.Enum):
    """The choice of the name of a preset's first header."""

    SECRET = "secret"  # noqa: S105 - no password
    """The administrator chooses a secret name."""
    CHOSEN = "chosen"
    """The server has a usual name and accepts another one, preferably a secret one."""
    FIXED = "fixed"
    """The server accepts no other name."""


@attrs.frozen
class HeaderPlan:
    """A header for the back end."""

    form: Format
    name: bytes = attrs.field(default=b"", repr=False)
    """The header's name. An empty one stands for the administrator's secret name."""
    chain_index: int = 1
    """The number of the certificate: 1 is the client's own, 2 and on those of its chain."""
    maximum: int = 0
    """Largest size of the value in bytes. 0 stands for no limit."""
    value: bytes = attrs.field(default=b"", repr=False)
    """The value of the format ``LITERAL``."""


@attrs.frozen
class Preset:
    """An authorization server."""

    name: str
    title: str
    plans: tuple[HeaderPlan, ...]
    server_lines: tuple[str, ...] = ()
    """Lines for the server's own configuration, with ``{name}`` for the first header's name."""
    naming: Naming = Naming.FIXED
    max_head_bytes: int = 0
    """Largest request head that the server accepts by default. 0 if that is unknown."""
    head_setting: str = ""
    """The server's setting for it."""
    head_status: int = 0
    """Status of its response to a larger head. 0 if that is unknown."""

    @property
    def page(self) -> str:
        """Return the path of the documentation page about this server."""
        return f"docs/servers/{self.name}.rst"

    @property
    def needs_name(self) -> bool:
        """Return True if the administrator must choose the name of the first header."""
        return self.naming is Naming.SECRET

    @property
    def takes_name(self) -> bool:
        """Return True if the administrator can choose it."""
        return self.naming is not Naming.FIXED


def _chain(form: Format, name: str, first: int, count: int) -> tuple[HeaderPlan, ...]:
    """Return headers for the issuers that the client sent, as many as the server reads."""
    return tuple(
        HeaderPlan(form, f"{name}{first + index}".encode("ascii"), chain_index=2 + index)
        for index in range(count)
    )


_KEYCLOAK = "spi-x509cert-lookup--provider={0}"
_KEYCLOAK_NAME = "spi-x509cert-lookup--{0}--ssl-client-cert={{name}}"


def _keycloak(provider: str, *lines: str) -> tuple[str, ...]:
    return (_KEYCLOAK.format(provider), *(line.format(provider) for line in lines))


_TOMCAT_HEAD = (8192, "maxHttpRequestHeaderSize", 400)  # measured with 10.1.60
_NODE_HEAD = (16384, "--max-http-header-size", 431)  # measured with 20.20.2
_KESTREL_HEAD = (32768, "MaxRequestHeadersTotalSize", 431)  # from its documentation
_WSO2_HEAD = (8192, "maxHttpHeaderSize", 400)  # product-is issue 13917; Tomcat's status
_JETTY_HEAD = (8192, "requestHeaderSize", 431)  # from its documentation

_ALL = (
    Preset(
        "connect2id",
        "Connect2id server",
        (HeaderPlan(Format.PEM),),
        ("op.tls.clientX509CertHeader = {name}",),
        Naming.SECRET,
        *_TOMCAT_HEAD,
    ),
    # Both headers of org.apache.catalina.valves.SSLValve. It prefers the second, which 9.0.70 and
    # all of 10.1 have. So a secret name must replace both, or the second would still be trusted.
    # URL decoding does not change a value without %.
    Preset(
        "tomcat-sslvalve",
        "Tomcat with the SSLValve",
        (
            HeaderPlan(Format.PEM_SPACES, b"ssl_client_cert"),
            HeaderPlan(Format.PEM_URL, b"ssl_client_escaped_cert"),
        ),
        (
            '<Valve className="org.apache.catalina.valves.SSLValve"',
            '       sslClientCertHeader="{name}" sslClientEscapedCertHeader="{name}" />',
        ),
        Naming.CHOSEN,
        *_TOMCAT_HEAD,
    ),
    # Keycloak rejects a chain of more certificates than its certificate-chain-length, by default
    # one.
    Preset(
        "keycloak-rfc9440",
        "Keycloak, look-up rfc9440",
        (HeaderPlan(Format.RFC9440, b"Client-Cert"),),
        _keycloak("rfc9440"),
    ),
    Preset(
        "keycloak-nginx",
        "Keycloak, look-up nginx",
        (
            HeaderPlan(Format.PEM_URL, b"ssl-client-cert"),
            HeaderPlan(Format.VERIFY, b"ssl-client-verify"),
        ),
        _keycloak("nginx", _KEYCLOAK_NAME),
        Naming.CHOSEN,
    ),
    Preset(
        "keycloak-apache",
        "Keycloak, look-up apache",
        (
            HeaderPlan(Format.PEM_SPACES, b"SSL_CLIENT_CERT"),
            *_chain(Format.PEM_SPACES, "CERT_CHAIN_", 0, 1),
        ),
        _keycloak(
            "apache", _KEYCLOAK_NAME, "spi-x509cert-lookup--{0}--ssl-cert-chain-prefix=CERT_CHAIN"
        ),
        Naming.CHOSEN,
    ),
    Preset(
        "keycloak-haproxy",
        "Keycloak, look-up haproxy",
        (
            HeaderPlan(Format.BASE64_DER, b"SSL_CLIENT_CERT"),
            *_chain(Format.BASE64_DER, "CERT_CHAIN_", 0, 1),
        ),
        _keycloak(
            "haproxy", _KEYCLOAK_NAME, "spi-x509cert-lookup--{0}--ssl-cert-chain-prefix=CERT_CHAIN"
        ),
        Naming.CHOSEN,
    ),
    # The site's own features.mTLS.getCertificate reads it. Name and format are those of the code
    # with which oidc-provider was certified.
    Preset(
        "oidc-provider",
        "oidc-provider for Node.js",
        (HeaderPlan(Format.BASE64_DER, b"Client-Certificate"),),
        (
            "getCertificate: (ctx) => ctx.get('{name}') && "
            "new X509Certificate(Buffer.from(ctx.get('{name}'), 'base64'))",
        ),
        Naming.CHOSEN,
        *_NODE_HEAD,
    ),
    # RFC 9440 section 2.
    Preset(
        "rfc9440",
        "Servers that read RFC 9440",
        (
            HeaderPlan(Format.RFC9440, b"Client-Cert"),
            HeaderPlan(Format.RFC9440_CHAIN, b"Client-Cert-Chain"),
        ),
    ),
    Preset(
        "xfcc",
        "Servers that read Envoy's header",
        (HeaderPlan(Format.XFCC, b"X-Forwarded-Client-Cert"),),
    ),
    Preset(
        "aspnet",
        "ASP.NET Core, Duende IdentityServer",
        (HeaderPlan(Format.BASE64_DER, b"X-Client-Cert"),),
        (
            "builder.Services.AddCertificateForwarding("
            'options => options.CertificateHeader = "{name}");',
        ),
        Naming.CHOSEN,
        *_KESTREL_HEAD,
    ),
    Preset(
        "wso2",
        "WSO2 Identity Server",
        (HeaderPlan(Format.PEM_URL, b"x-wso2-mutual-auth-cert"),),
        ("[oauth.mutualtls]", 'client_certificate_header = "{name}"'),
        Naming.CHOSEN,
        *_WSO2_HEAD,
    ),
    Preset(
        "authlete",
        "Authlete's Java libraries",
        (
            HeaderPlan(Format.PEM_SPACES, b"X-Ssl-Cert"),
            *_chain(Format.PEM_SPACES, "X-Ssl-Cert-Chain-", 1, 4),
        ),
    ),
    Preset(
        "janssen",
        "Janssen, Gluu",
        (HeaderPlan(Format.PEM_URL, b"X-ClientCert"),),
        (),
        Naming.FIXED,
        *_JETTY_HEAD,
    ),
    # auth0.com/docs, "Set up the Customer Edge": at most 4096 bytes, the leaf alone. The API key is
    # an additional header ([[headers]], format literal).
    Preset(
        "auth0",
        "Auth0, self-managed certificates",
        (
            HeaderPlan(Format.PEM_URL, b"client-certificate", maximum=4096),
            HeaderPlan(Format.VERIFY, b"client-certificate-ca-verified"),
        ),
    ),
    Preset("authentik", "authentik", (HeaderPlan(Format.PEM_URL, b"SSL-Client-Cert"),)),
    Preset(
        "traefik",
        "Servers that read Traefik's header",
        (HeaderPlan(Format.BASE64_DER, b"X-Forwarded-Tls-Client-Cert"),),
    ),
    # Headers of cloud services and gateways, for servers that move from behind one of them.
    Preset(
        "aws-alb",
        "Servers that read the header of an AWS load balancer",
        (HeaderPlan(Format.PEM_URL, b"X-Amzn-Mtls-Clientcert-Leaf"),),
    ),
    Preset(
        "cloudfront",
        "Servers that read the header of CloudFront",
        (HeaderPlan(Format.PEM_URL, b"CloudFront-Viewer-Cert-Pem"),),
    ),
    Preset(
        "cloudflare",
        "Servers that read the header of Cloudflare",
        (HeaderPlan(Format.BASE64_DER, b"Cf-Client-Cert-Der-Base64"),),
    ),
    Preset(
        "ingress-nginx",
        "Servers behind ingress-nginx",
        (
            HeaderPlan(Format.PEM_URL, b"ssl-client-cert"),
            HeaderPlan(Format.VERIFY, b"ssl-client-verify"),
        ),
    ),
    Preset(
        "openbao",
        "OpenBao",
        (HeaderPlan(Format.RFC9440, b"Client-Cert"),),
        (
            'x_forwarded_for_client_cert_header = "{name}"',
            'x_forwarded_for_client_cert_decoders = ["RFC9440"]',
        ),
        Naming.CHOSEN,
    ),
    # A client's field of this name is always removed, with any preset, since it is in this table.
    Preset(
        "token-claims",
        "APIs that read the verified claims of a token",
        (HeaderPlan(Format.TOKEN_CLAIMS, b"X-Token-Claims", maximum=8192),),
        ('claims = json.loads(base64.urlsafe_b64decode(request.headers["{name}"] + "=="))',),
        Naming.CHOSEN,
    ),
    Preset("none", "Other servers, with [[headers]] alone", ()),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}


def find_preset(name: str) -> Preset:
    """Return the preset with that name.

    :raises SettingsError: there is none. The sentence has the names of all presets.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise SettingsError(
            f"preset: found {name!r}, expected one of {', '.join(PRESETS)}"
        ) from None
