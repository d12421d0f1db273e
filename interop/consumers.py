"""Readers of a client's certificate, as the documents or sources of their servers describe them.

Each function receives the fields as they arrived and returns the certificate that its server would
read. It returns nothing for a client without one, and raises :class:`Unreadable` where the server
would respond with an error. A reader that is lenient is as lenient here: that is the point of the
tests. Read from the sources named; none of their lines is copied.

Facts
-----
* Servlet containers and ASP.NET compare names without case; WSGI and CGI servers take ``_`` for
  ``-`` as well.
* Java's ``URLDecoder`` is a form decoder: it reads ``+`` as a space. ``Base64.getDecoder()`` takes
  no white space, ``getMimeDecoder()`` skips all other characters.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote, unquote_plus

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

__all__ = ["CONSUMERS", "Consumer", "Fields", "Read", "Unreadable", "aspnet"]

Fields = Sequence[tuple[str, str]]
"""A request's fields as they arrived: (name, value) in order, with repeats and spelling."""


@attrs.frozen
class Read:
    """The reading of a server: the certificate in DER, those after it, and the verdict."""

    der: bytes
    chain: tuple[bytes, ...] = ()
    verdict: str = ""


class Unreadable(Exception):
    """An error in the server's response, or one that it logs and ignores."""


Consumer = Callable[[Fields], Read | None]

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


# What their libraries do.


def _all(fields: Fields, name: str) -> list[str]:
    return [value for other, value in fields if other.lower() == name.lower()]


def _first(fields: Fields, name: str) -> str:
    """Return the first field of that name, empty if there is none (``getFirst``)."""
    return next(iter(_all(fields, name)), "")


def _wsgi(fields: Fields, name: str) -> str:
    """Read ``environ["HTTP_…"]``: ``_`` is ``-``, repeats are joined with commas (PEP 3333).

    RFC 3875 section 4.1.18 has the same rule.
    """
    key = name.upper().replace("-", "_")
    return ",".join(value for other, value in fields if other.upper().replace("-", "_") == key)


def _strict(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unreadable(str(error)) from None


def _spaced(text: str) -> bytes:
    """Decode as .NET, Bouncy Castle and Keycloak do, which skip white space."""
    return _strict(re.sub(r"[ \t\r\n]", "", text))


def _certificate(der: bytes) -> bytes:
    """Read exactly one certificate, as ``CertificateFactory`` and ``X509Certificate2`` do."""
    try:
        found = x509.load_der_x509_certificate(der).public_bytes(Encoding.DER)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    if found != der:
        raise Unreadable("more than a certificate")
    return found


# Keycloak: github.com/keycloak/keycloak, services/src/main/java/org/keycloak/services/x509/.


def _keycloak(
    fields: Fields, name: str, decode: Callable[[str], bytes], prefix: str = "", length: int = 1
) -> Read | None:
    # AbstractClientCertificateFromHttpHeadersLookup@110a6242: the first field, double quotes around
    # it trimmed; then PREFIX_0 and on, certificate-chain-length (1) of them, and those that are
    # missing or unreadable are skipped.
    text = _first(fields, name)
    text = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    if not text.strip():
        return None
    rest = [_first(fields, f"{prefix}_{at}") for at in range(length)] if prefix else []
    return Read(
        _certificate(decode(text)), tuple(_certificate(decode(more)) for more in rest if more)
    )


def _keycloak_pem(text: str) -> bytes:
    # PemUtilsProvider@1f03e358: expressions that are greedy within a line, new lines taken out, a
    # Base64 that skips white space.
    text = re.sub("-----BEGIN (.*)-----", "", text)
    text = re.sub("-----END (.*)----", "", text)
    return _spaced(text)


def _without_armour(text: str) -> str:
    # Apache@049a7fa6 and Nginx@cb99360f do this before, which is why a PEM in one line is read at
    # all.
    return text.replace(_BEGIN, "").replace(_END, "").strip() if text.startswith(_BEGIN) else text


def keycloak_nginx(fields: Fields) -> Read | None:
    """Read as ``nginx``, which rebuilds the chain from Keycloak's trust store.

    NginxProxySslClientCertificateLookup@cb99360f.
    """
    return _keycloak(
        fields, "ssl-client-cert", lambda text: _keycloak_pem(_without_armour(unquote_plus(text)))
    )


def keycloak_nginx_trusted(fields: Fields) -> Read | None:
    """Read as ``nginx`` with ``trust-proxy-verification=true``.

    NginxProxyTrustedClientCertificateLookup@0312c39b.
    """
    read = _keycloak(fields, "ssl-client-cert", lambda text: _keycloak_pem(unquote_plus(text)))
    word = _first(fields, "ssl-client-verify")
    return attrs.evolve(read, verdict=word) if read and word == "SUCCESS" else None


def keycloak_apache(fields: Fields) -> Read | None:
    """Read as ``apache`` with the names of Keycloak's guide.

    ApacheProxySslClientCertificateLookup@049a7fa6.
    """
    return _keycloak(
        fields, "SSL_CLIENT_CERT", lambda text: _keycloak_pem(_without_armour(text)), "CERT_CHAIN"
    )


def keycloak_haproxy(fields: Fields) -> Read | None:
    """Read as ``haproxy`` with the names of Keycloak's guide.

    HaProxySslClientCertificateLookup@110a6242.
    """
    return _keycloak(fields, "SSL_CLIENT_CERT", _keycloak_pem, "CERT_CHAIN")


def keycloak_rfc9440(fields: Fields, length: int = 1) -> Read | None:
    """Read as ``rfc9440``: two ``Client-Cert``, or a longer chain, are errors.

    Rfc9440ClientCertificateLookup@56769e3e.
    """
    found = _all(fields, "Client-Cert")
    if not found:
        return None
    items = [
        item for value in _all(fields, "Client-Cert-Chain") for item in re.split(r",\s*", value)
    ]
    if len(found) > 1 or len(items) > length:
        raise Unreadable("too many")
    return Read(_mime_item(found[0]), tuple(map(_mime_item, items)))


def _mime_item(text: str) -> bytes:
    if len(text) < 2 or text[0] != ":" or text[-1] != ":":
        raise Unreadable("no byte sequence")
    return _certificate(base64.b64decode(text[1:-1]))


def keycloak_envoy(fields: Fields) -> Read | None:
    """Read as ``envoy``: cut at every ``;``, quoted or not.

    EnvoyProxySslClientCertificateLookup, pull request 33159.
    """
    ders: list[bytes] = []
    for token in _first(fields, "x-forwarded-client-cert").split(";"):
        key, _, value = token.partition("=")
        if key.strip() in ("Chain", "Cert"):
            ders = [
                _certificate(_keycloak_pem(pem))
                for pem in _bundle(unquote_plus(_unquoted(value.strip())))
            ]
            if key.strip() == "Chain":
                break
    return Read(ders[0], tuple(ders[1:])) if ders else None


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def _bundle(text: str) -> list[str]:
    # PemUtils.decodeCertificates
    return [block.strip() + _END for block in text.split(_END) if block.strip()]


# Others.


def envoy_grammar(fields: Fields) -> Read | None:
    """Read XFCC by its grammar.

    github.com/envoyproxy/envoy@00790513, docs/root/configuration/http/http_conn_man/headers.rst.
    """
    value = ",".join(_all(fields, "X-Forwarded-Client-Cert"))
    if not value:
        return None
    pairs = re.findall(r'(?:^|;)(\w+)=("(?:\\.|[^"\\])*"|[^,;=]*)(?=[;,]|$)', value)
    if ";".join(f"{key}={text}" for key, text in pairs) != value:
        raise Unreadable("no single element of pairs")
    known = {key.lower(): _unquoted(text) for key, text in pairs}
    return Read(_certificate(_keycloak_pem(unquote(known["cert"]))), verdict=known["hash"])


def rfc9440(fields: Fields) -> Read | None:
    """Read RFC 9440 sections 2.2 and 2.3.

    Byte sequences and lists are those of RFC 8941 sections 3.1 and 4.2.7.
    """
    found, chain = _all(fields, "Client-Cert"), ",".join(_all(fields, "Client-Cert-Chain"))
    if not found:
        return None
    items = re.split(r"[ \t]*,[ \t]*", chain) if chain else []
    ders = [_certificate(_byte_sequence(item)) for item in (",".join(found), *items)]
    return Read(ders[0], tuple(ders[1:]))


def _byte_sequence(text: str) -> bytes:
    match = re.fullmatch(r":([A-Za-z0-9+/=]*):", text)
    if match is None:
        raise Unreadable("no byte sequence")
    return _strict(match[1])


def aspnet(fields: Fields, name: str = "X-Client-Cert") -> Read | None:
    """Read as ASP.NET Core does: github.com/dotnet/aspnetcore.

    CertificateForwardingOptions@136a666a, …Feature@0bb20cc3.

    Repeated fields are one text with commas, which ``Convert.FromBase64String`` refuses; white
    space it skips.
    """
    text = ",".join(_all(fields, name))
    return Read(_certificate(_spaced(text))) if text else None


def wso2(fields: Fields) -> Read | None:
    """Read as WSO2 Identity Server does.

    github.com/wso2-extensions/identity-oauth-clientauth-mutualtls@2e3edcd5.

    Its MutualTLSClientAuthenticator: base64 as it is, or once more after form decoding.
    """
    text = _first(fields, "x-wso2-mutual-auth-cert")
    if not text.strip():
        return None
    try:
        der = _strict(_wso2_body(text))
    except Unreadable:
        der = _strict(_wso2_body(unquote_plus(text)))
    return Read(_certificate(der))


def _wso2_body(text: str) -> str:
    return re.sub(r"\s", "", text.strip().replace(_BEGIN, "").replace(_END, ""))


def authlete(fields: Fields) -> Read | None:
    """Read as Authlete's java-jaxrs does.

    github.com/authlete/authlete-java-jaxrs, HeaderClientCertificateExtractor@06e54117.

    It hands the texts on to Authlete's API, which is read no further here than PEM with white
    space.
    """
    names = ["X-Ssl-Cert", *(f"X-Ssl-Cert-Chain-{at}" for at in range(1, 5))]
    texts = [
        text for text in (_first(fields, name) for name in names) if text not in ("", "(null)")
    ]
    ders = [_certificate(_spaced(_without_armour(text))) for text in texts]
    return Read(ders[0], tuple(ders[1:])) if ders else None


def janssen(fields: Fields) -> Read | None:
    """Read as Janssen does: github.com/JanssenProject/jans.

    CertUtils@015159eb and docs …/oauth-features/mtls.md@03f532c7.

    Three headers in this order; PEM as it is, or once more after form decoding.
    """
    if _first(fields, "X-Forwarded-Client-Cert"):
        return envoy_grammar(fields)
    text = _first(fields, "X-Forwarded-Tls-Client-Cert") or _first(fields, "X-ClientCert")
    if not text.strip():
        return None
    try:
        return Read(_certificate(_spaced(text.replace(_BEGIN, "").replace(_END, ""))))
    except Unreadable:
        return Read(_certificate(_spaced(unquote_plus(text).replace(_BEGIN, "").replace(_END, ""))))


def auth0(fields: Fields) -> Read | None:
    """Read as Auth0 does.

    github.com/auth0/docs-v2@59df3cbe, …/configure-mtls/set-up-the-customer-edge.mdx.

    Only its page is known.
    """
    text, word = (
        _first(fields, "client-certificate"),
        _first(fields, "client-certificate-ca-verified"),
    )
    if not text:
        return None
    if len(text) > 4096 or not re.fullmatch("SUCCESS|FAILED(:.*)?", word):
        raise Unreadable("not as the page describes it")
    return Read(_pem(unquote(text)), verdict=word.partition(":")[0])


def authentik(fields: Fields) -> Read | None:
    """Read as authentik does, a WSGI application.

    github.com/goauthentik/authentik@05c7c293, authentik/enterprise/stages/mtls/stage.py.
    """
    text = _wsgi(fields, "SSL-Client-Cert")
    return Read(_pem(unquote_plus(text))) if text else None


def _pem(text: str) -> bytes:
    try:
        return x509.load_pem_x509_certificate(text.encode("utf-8")).public_bytes(Encoding.DER)
    except ValueError as error:
        raise Unreadable(str(error)) from None


def traefik(fields: Fields) -> Read | None:
    """Read Traefik's own header.

    github.com/traefik/traefik@088ebd14, pkg/middlewares/passtlsclientcert/pass_tls_client_cert.go.
    """
    text = _first(fields, "X-Forwarded-Tls-Client-Cert")
    ders = [_certificate(_strict(item)) for item in text.split(",") if item]
    return Read(ders[0], tuple(ders[1:])) if ders else None


def aws_alb(fields: Fields) -> Read | None:
    """Read an AWS load balancer's header: docs.aws.amazon.com, *Mutual authentication*."""
    text = _first(fields, "X-Amzn-Mtls-Clientcert-Leaf")
    return Read(_pem(unquote(text))) if text else None


def cloudfront(fields: Fields) -> Read | None:
    """Read CloudFront's header: docs.aws.amazon.com, *Viewer mTLS headers*."""
    text = _first(fields, "CloudFront-Viewer-Cert-Pem")
    return Read(_pem(unquote(text))) if text else None


def cloudflare(fields: Fields) -> Read | None:
    """Read Cloudflare's header: developers.cloudflare.com, *Forward a client certificate*."""
    text = _first(fields, "Cf-Client-Cert-Der-Base64")
    return Read(_certificate(_strict(text))) if text else None


def ingress_nginx(fields: Fields) -> Read | None:
    """Read ingress-nginx' headers: github.com/kubernetes/ingress-nginx, authtls.go."""
    text = _first(fields, "ssl-client-cert")
    if not text or _first(fields, "ssl-client-verify") != "SUCCESS":
        return None
    return Read(_pem(unquote(text)))


def openbao(fields: Fields) -> Read | None:
    """Read as OpenBao does: openbao.org, *Shared listener parameters*, ``RFC9440``."""
    text = _first(fields, "Client-Cert")
    if not text:
        return None
    if not re.fullmatch(":[^:]+:", text):
        raise Unreadable("no byte sequence")
    return Read(_certificate(_strict(text.strip(":"))))


CONSUMERS: Mapping[str, tuple[Consumer, ...]] = {
    "keycloak-rfc9440": (keycloak_rfc9440,),
    "keycloak-nginx": (keycloak_nginx, keycloak_nginx_trusted),
    "keycloak-apache": (keycloak_apache,),
    "keycloak-haproxy": (keycloak_haproxy,),
    "rfc9440": (rfc9440,),
    "xfcc": (envoy_grammar, keycloak_envoy),
    "aspnet": (aspnet,),
    "wso2": (wso2,),
    "authlete": (authlete,),
    "janssen": (janssen,),
    "auth0": (auth0,),
    "authentik": (authentik,),
    "traefik": (traefik,),
    "aws-alb": (aws_alb,),
    "cloudfront": (cloudfront,),
    "cloudflare": (cloudflare,),
    "ingress-nginx": (ingress_nginx,),
    "openbao": (openbao,),
}
"""The readers of the headers of each preset that cannot be proved with its server itself."""
