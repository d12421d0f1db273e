"""From the client's certificate to header pairs: one function per wire format, and their tables.

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

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable
from urllib.parse import quote

from x509proxy.certificates.client_certificate import ClientCertificate, Verdict
from x509proxy.http1.fields import Pairs
from x509proxy.settings import Format

__all__ = ["Pairs", "encode", "is_value"]

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"


def encode(
    certificate: ClientCertificate | None, form: Format, name: bytes, place: int = 1
) -> Pairs:
    """The pairs that say ``form`` of a client's certificate in the field ``name``: one, or none where there is nothing to say.

    ``place``: which certificate, 1 the client's own, 2 and on what it sent with it; for formats of one certificate only.

    :raises ValueError: the value is not visible ASCII with spaces inside (it cannot be otherwise, but nothing else is ever sent).
    """
    value = _value(certificate, form, place)
    if value is None:
        return ()
    if not is_value(value):
        raise ValueError("the encoded certificate is no header value")
    return ((name, value),)


def _value(certificate: ClientCertificate | None, form: Format, place: int) -> bytes | None:
    if form in _SAID:
        return _SAID[form](certificate)
    if certificate is None:
        return None
    if form in _WHOLE:
        return _WHOLE[form](certificate)
    ders = (certificate.der, *certificate.chain)
    return _SINGLE[form](ders[place - 1]) if place <= len(ders) else None


_VALUE = re.compile(rb"[!-~](?:[ -~]*[!-~])?")


def is_value(value: bytes) -> bool:
    """Whether this is what a field may hold without any doubt: visible ASCII, with spaces inside."""
    return _VALUE.fullmatch(value) is not None


def _base64_lines(der: bytes) -> list[bytes]:
    text = b64encode(der)
    return [text[at : at + 64] for at in range(0, len(text), 64)]


def _pem(der: bytes) -> bytes:
    return _BEGIN + b64encode(der) + _END


def _pem_spaces(der: bytes) -> bytes:
    return b" ".join([_BEGIN, *_base64_lines(der), _END])


def _pem_url(der: bytes) -> bytes:
    lines = b"\n".join([_BEGIN, *_base64_lines(der), _END, b""])
    return quote(lines, safe="").encode("ascii")


def _rfc9440(der: bytes) -> bytes:
    return b":" + b64encode(der) + b":"


def _rfc9440_chain(certificate: ClientCertificate) -> bytes | None:
    return b", ".join(map(_rfc9440, certificate.chain)) or None


_TROUBLE = re.compile(rb"""\\([^0-9A-Fa-f])|([";])|\\$""")


def _xfcc(certificate: ClientCertificate) -> bytes:
    # Envoy's http_conn_man/headers: Hash is the SHA-256 in hex, Cert the URL-encoded PEM, Subject an RFC 2253 name; values
    # with a comma, semicolon or equals sign are quoted. A name is of the client's choosing, and readers split at every ";"
    # (Keycloak's look-up, authentik): a name of "x;Chain=…" made its owner anybody. So what RFC 4514 section 2.4 escapes is
    # written in its hex pairs, and no quote, comma or semicolon of a client's own stands in the value.
    digest = hashlib.sha256(certificate.der).hexdigest().encode("ascii")
    subject = _TROUBLE.sub(
        lambda found: b"\\%02X" % ord(found[1] or found[2] or b"\\"), _ascii(certificate.subject)
    )
    return b'Hash=%b;Cert="%b";Subject="%b"' % (digest, _pem_url(certificate.der), subject)


def _name(text: str) -> bytes | None:
    # A name may be empty, or begin and end with spaces, which a field's value cannot.
    return _ascii(text).strip() or None


def _ascii(text: str) -> bytes:
    r"""Printable ASCII for a name of the client's choosing; everything else as ``\xx`` of its UTF-8 (RFC 4514 section 2.4)."""
    octets = text.encode("utf-8", "surrogateescape")
    return b"".join(
        bytes([octet]) if 0x20 <= octet <= 0x7E else b"\\%02X" % octet for octet in octets
    )


def _verdict(certificate: ClientCertificate | None) -> Verdict:
    return Verdict.NONE if certificate is None else certificate.verdict


# nginx's $ssl_client_verify, with OpenSSL's words for the codes 18 and 20.
_VERIFY = {
    Verdict.NONE: b"NONE",
    Verdict.TRUSTED: b"SUCCESS",
    Verdict.SELF_SIGNED: b"FAILED:self-signed certificate",
    Verdict.UNTRUSTED: b"FAILED:unable to get local issuer certificate",
}
# What is said of one certificate …
_SINGLE: dict[Format, Callable[[bytes], bytes]] = {
    Format.PEM: _pem,
    Format.PEM_SPACES: _pem_spaces,
    Format.PEM_URL: _pem_url,
    Format.BASE64_DER: b64encode,
    Format.RFC9440: _rfc9440,
}
# … of the client's own and what came with it …
_WHOLE: dict[Format, Callable[[ClientCertificate], bytes | None]] = {
    Format.RFC9440_CHAIN: _rfc9440_chain,
    Format.XFCC: _xfcc,
    Format.THUMBPRINT: lambda certificate: certificate.thumbprint.encode("ascii"),
    Format.SUBJECT: lambda certificate: _name(certificate.subject),
    Format.ISSUER: lambda certificate: _name(certificate.issuer),
    Format.SERIAL: lambda certificate: b"%X" % certificate.serial,
}
# … and with or without one. A literal's value is no business of a certificate's.
_SAID: dict[Format, Callable[[ClientCertificate | None], bytes]] = {
    Format.VERDICT: lambda certificate: _verdict(certificate).value.encode("ascii"),
    Format.VERIFY: lambda certificate: _VERIFY[_verdict(certificate)],
}
