"""From the client's certificate to header pairs: one function per wire format, one table.

Facts
-----
* No format is read by every server (measured): a PEM without white space is read by Tomcat, Connect2id, Python and Keycloak's
  Apache look-up, and refused by Node.js, the OpenSSL command and a bare Java ``CertificateFactory``. So the server's preset
  chooses.
* ``+`` is written ``%2B`` in the URL-encoded form: form decoders read a literal ``+`` as a space, and the certificate breaks
  (AWS ALB, Apache's ``%{escape:…}``).
* Folded values (nginx's ``$ssl_client_cert``) are obsolete (RFC 9112 section 5.2) and are never written.
* RFC 9440 section 2: a structured-field byte sequence, ``:base64:``; the chain does not repeat the leaf.
"""

from __future__ import annotations

import enum
import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from urllib.parse import quote

from x509proxy.certificate import ClientCertificate

__all__ = ["Format", "Pairs", "encode"]

Pairs = Sequence[tuple[bytes, bytes]]
"""Header fields: (name, value) in order, repeats kept."""

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"


class Format(enum.Enum):
    """How a certificate is written into a header value."""

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
    """``Client-Cert-Chain`` of RFC 9440; no pair at all when the client sent the leaf alone."""
    XFCC = "xfcc"
    """``X-Forwarded-Client-Cert`` of Envoy."""


def encode(certificate: ClientCertificate, form: Format, name: bytes) -> Pairs:
    """The pairs that carry ``certificate`` to a server that reads ``form`` in the field ``name``: one, or none (a chain of none).

    :raises ValueError: the value is not visible ASCII with spaces inside (it cannot be otherwise, but nothing else is ever sent).
    """
    value = _TABLE[form](certificate)
    if value is None:
        return ()
    if not _VALUE.fullmatch(value):
        raise ValueError("the encoded certificate is no header value")
    return ((name, value),)


_VALUE = re.compile(rb"[!-~](?:[ -~]*[!-~])?")


def _base64_lines(der: bytes) -> list[bytes]:
    text = b64encode(der)
    return [text[at : at + 64] for at in range(0, len(text), 64)]


def _pem(certificate: ClientCertificate) -> bytes:
    return _BEGIN + b64encode(certificate.der) + _END


def _pem_spaces(certificate: ClientCertificate) -> bytes:
    return b" ".join([_BEGIN, *_base64_lines(certificate.der), _END])


def _pem_url(certificate: ClientCertificate) -> bytes:
    lines = b"\n".join([_BEGIN, *_base64_lines(certificate.der), _END, b""])
    return quote(lines, safe="").encode("ascii")


def _base64_der(certificate: ClientCertificate) -> bytes:
    return b64encode(certificate.der)


def _rfc9440(certificate: ClientCertificate) -> bytes:
    return b":" + b64encode(certificate.der) + b":"


def _rfc9440_chain(certificate: ClientCertificate) -> bytes | None:
    return b", ".join(b":" + b64encode(der) + b":" for der in certificate.chain) or None


def _xfcc(certificate: ClientCertificate) -> bytes:
    # Envoy's http_conn_man/headers: Hash is the SHA-256 in hex, Cert the URL-encoded PEM, Subject an RFC 2253 name; values
    # with a comma, semicolon or equals sign are quoted, and a quote inside is escaped.
    digest = hashlib.sha256(certificate.der).hexdigest().encode("ascii")
    subject = _ascii(certificate.subject).replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'Hash=%b;Cert="%b";Subject="%b"' % (digest, _pem_url(certificate), subject)


def _ascii(text: str) -> bytes:
    r"""Printable ASCII for a name of the client's choosing; everything else as ``\xx`` of its UTF-8 (RFC 4514 section 2.4)."""
    octets = text.encode("utf-8", "surrogateescape")
    return b"".join(bytes([octet]) if 0x20 <= octet <= 0x7E else b"\\%02X" % octet for octet in octets)


_TABLE: dict[Format, Callable[[ClientCertificate], bytes | None]] = {
    Format.PEM: _pem,
    Format.PEM_SPACES: _pem_spaces,
    Format.PEM_URL: _pem_url,
    Format.BASE64_DER: _base64_der,
    Format.RFC9440: _rfc9440,
    Format.RFC9440_CHAIN: _rfc9440_chain,
    Format.XFCC: _xfcc,
}
