"""Authorization servers as data: which headers each of them trusts, and how it wants the certificate written.

Sources of each: ``docs/servers``. A name in lower case or with ``_`` is sent as it stands here, the way its server's own manual
writes it; names of fields are compared without case, and by CGI-like servers without the difference of ``_`` and ``-``.
"""

from __future__ import annotations

import enum

import attrs

from x509proxy.settings import Format, SettingsError

__all__ = ["PRESETS", "HeaderPlan", "Naming", "Preset", "find_preset"]


class Naming(enum.Enum):
    """Who names the first of a preset's headers."""

    SECRET = "secret"  # noqa: S105 - no password
    """The administrator, and nobody else may know the name."""
    CHOSEN = "chosen"
    """The server has a customary name and takes another one: a secret one is better."""
    FIXED = "fixed"
    """The server reads this name and no other."""


@attrs.frozen
class HeaderPlan:
    """One header to send. An empty ``name`` stands for the name that the administrator chose and keeps secret.

    ``place``: which certificate, 1 the client's own, 2 and on what it sent with it; ``maximum``: bytes of the value, 0 for no
    limit but the certificate's own; ``value``: what a ``LITERAL`` says.
    """

    form: Format
    name: bytes = attrs.field(default=b"", repr=False)
    place: int = 1
    maximum: int = 0
    value: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen
class Preset:
    """One server.

    ``server_lines``: lines for its own configuration, with ``{name}`` for the first header's name.
    ``max_head_bytes``: the largest head that it accepts by default, or 0 if that is not known;
    ``head_setting``: its name for this limit; ``head_status``: its response to a larger one.
    """

    name: str
    title: str
    plans: tuple[HeaderPlan, ...]
    server_lines: tuple[str, ...] = ()
    naming: Naming = Naming.FIXED
    max_head_bytes: int = 0
    head_setting: str = ""
    head_status: int = 0

    @property
    def page(self) -> str:
        """Return the page about this server."""
        return f"docs/servers/{self.name}.rst"

    @property
    def needs_name(self) -> bool:
        """Whether the administrator has to choose the first header's name."""
        return self.naming is Naming.SECRET

    @property
    def takes_name(self) -> bool:
        """Whether the administrator may choose it."""
        return self.naming is not Naming.FIXED


def _chain(form: Format, name: str, first: int, count: int) -> tuple[HeaderPlan, ...]:
    """A header for each certificate that the client sent after its own, as many as the server reads."""
    return tuple(
        HeaderPlan(form, f"{name}{first + at}".encode("ascii"), place=2 + at) for at in range(count)
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
    # Both headers of org.apache.catalina.valves.SSLValve, which prefers the second: 9.0.70 and every 10.1 know it. So a secret
    # name has to take the place of both, or the second goes on being believed; decoding leaves a value without % as it is.
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
    # With more than one certificate in the chain Keycloak answers an error, unless certificate-chain-length says so.
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
    # Read by your own features.mTLS.getCertificate; this name and form are those of its certification code.
    Preset(
        "oidc-provider",
        "oidc-provider for Node.js",
        (HeaderPlan(Format.BASE64_DER, b"Client-Certificate"),),
        (
            "getCertificate: (ctx) => ctx.get('{name}') && new X509Certificate(Buffer.from(ctx.get('{name}'), 'base64'))",
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
            'builder.Services.AddCertificateForwarding(options => options.CertificateHeader = "{name}");',
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
    # auth0.com/docs, "Set up the Customer Edge": 4096 bytes at most, the leaf alone. The API key is one of your own headers.
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
    # A name that never passes from a client, whatever the preset, since it is in this table.
    Preset(
        "token-claims",
        "APIs that read the verified claims of a token",
        (HeaderPlan(Format.TOKEN_CLAIMS, b"X-Token-Claims", maximum=8192),),
        ('claims = json.loads(base64.urlsafe_b64decode(request.headers["{name}"] + "=="))',),
        Naming.CHOSEN,
    ),
    Preset("none", "Servers that nobody thought of: headers of your own", ()),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}


def find_preset(name: str) -> Preset:
    """The preset of that name.

    :raises SettingsError: there is none; the sentence lists those there are.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise SettingsError(
            f"preset: found {name!r}, expected one of {', '.join(PRESETS)}"
        ) from None
