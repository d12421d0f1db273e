"""Encoders of the client's certificate for header values, one function for each format.

Facts
-----
* No format is accepted by every server (measured). Tomcat, Connect2id, Python and Keycloak's Apache
  look-up accept PEM without white space. Node.js, the OpenSSL command and a bare Java
  ``CertificateFactory`` reject it. So the preset of the server decides.
* ``+`` is encoded as ``%2B``. Form decoders read a literal ``+`` as a space, which breaks the
  certificate (AWS ALB, Apache's ``%{escape:…}``).
* Folded values (nginx's ``$ssl_client_cert``) are obsolete (RFC 9112 section 5.2), and never
  written.
* The value of RFC 9440 section 2 is a structured-field byte sequence, ``:base64:``. The chain does
  not repeat the leaf.
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

__all__ = ["encode", "is_value"]

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"


def encode(
    certificate: ClientCertificate | None, form: Format, name: bytes, chain_index: int = 1
) -> Pairs:
    """Return the header field ``name`` with a client's certificate, as a sequence of 0 or 1 pairs.

    There is none if the format has nothing to encode. ``chain_index`` is the number of the
    certificate for formats of a single one: 1 is the client's own, 2 and on those of its chain.

    :raises ValueError: the value is not visible ASCII with spaces inside. No encoder here makes
        one, and the check ensures that none is ever sent.
    """
    value = _value(certificate, form, chain_index)
    if value is None:
        return ()
    if not is_value(value):
        raise ValueError("found an encoded certificate that is not a header value")
    return ((name, value),)


def _value(certificate: ClientCertificate | None, form: Format, chain_index: int) -> bytes | None:
    if form in _FOR_EVERY_REQUEST:
        return _FOR_EVERY_REQUEST[form](certificate)
    if certificate is None:
        return None
    if form in _FROM_CLIENT_CERTIFICATE:
        return _FROM_CLIENT_CERTIFICATE[form](certificate)
    ders = (certificate.der, *certificate.chain)
    return _FROM_DER[form](ders[chain_index - 1]) if chain_index <= len(ders) else None


_VALUE = re.compile(rb"[!-~](?:[ -~]*[!-~])?")


def is_value(value: bytes) -> bool:
    """Return True for a value that all parsers accept: visible ASCII, with spaces inside."""
    return _VALUE.fullmatch(value) is not None


def _base64_lines(der: bytes) -> list[bytes]:
    text = b64encode(der)
    return [text[start : start + 64] for start in range(0, len(text), 64)]


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


_XFCC_SPECIAL = re.compile(rb"""\\([^0-9A-Fa-f])|([";])|\\$""")


def _xfcc(certificate: ClientCertificate) -> bytes:
    # Envoy's http_conn_man/headers: Hash is the SHA-256 in hex, Cert the URL-encoded PEM, Subject
    # an RFC 2253 name. Values with a comma, semicolon or equals sign are quoted. The client chooses
    # its name, and some readers split at every ";" (Keycloak's look-up, authentik). There, a name
    # such as "x;Chain=…" could impersonate any client. So characters that RFC 4514 section 2.4
    # escapes are written as hex pairs, and the value has no quote, comma or semicolon from the
    # client.
    digest = hashlib.sha256(certificate.der).hexdigest().encode("ascii")
    subject = _XFCC_SPECIAL.sub(
        lambda found: b"\\%02X" % ord(found[1] or found[2] or b"\\"), _ascii(certificate.subject)
    )
    return b'Hash=%b;Cert="%b";Subject="%b"' % (digest, _pem_url(certificate.der), subject)


def _name(text: str) -> bytes | None:
    # A name may be empty or begin and end with spaces, while the value of a field cannot.
    return _ascii(text).strip() or None


def _ascii(text: str) -> bytes:
    r"""Return printable ASCII for a name, with ``\xx`` for other bytes of its UTF-8.

    Source: RFC 4514 section 2.4.
    """
    octets = text.encode("utf-8", "surrogateescape")
    return b"".join(
        bytes([octet]) if 0x20 <= octet <= 0x7E else b"\\%02X" % octet for octet in octets
    )


def _verdict(certificate: ClientCertificate | None) -> Verdict:
    return Verdict.NONE if certificate is None else certificate.verdict


# nginx's $ssl_client_verify, with OpenSSL's texts for the codes 18 and 20.
_VERIFY = {
    Verdict.NONE: b"NONE",
    Verdict.TRUSTED: b"SUCCESS",
    Verdict.SELF_SIGNED: b"FAILED:self-signed certificate",
    Verdict.UNTRUSTED: b"FAILED:unable to get local issuer certificate",
}
# Formats of a single certificate, the client's own or one of its chain …
_FROM_DER: dict[Format, Callable[[bytes], bytes]] = {
    Format.PEM: _pem,
    Format.PEM_SPACES: _pem_spaces,
    Format.PEM_URL: _pem_url,
    Format.BASE64_DER: b64encode,
    Format.RFC9440: _rfc9440,
}
# … formats of the client's certificate …
_FROM_CLIENT_CERTIFICATE: dict[Format, Callable[[ClientCertificate], bytes | None]] = {
    Format.RFC9440_CHAIN: _rfc9440_chain,
    Format.XFCC: _xfcc,
    Format.THUMBPRINT: lambda certificate: certificate.thumbprint.encode("ascii"),
    Format.SUBJECT: lambda certificate: _name(certificate.subject),
    Format.ISSUER: lambda certificate: _name(certificate.issuer),
    Format.SERIAL: lambda certificate: b"%X" % certificate.serial,
}
# … and formats that are sent without a certificate too. LITERAL has a value of its own.
_FOR_EVERY_REQUEST: dict[Format, Callable[[ClientCertificate | None], bytes]] = {
    Format.VERDICT: lambda certificate: _verdict(certificate).value.encode("ascii"),
    Format.VERIFY: lambda certificate: _VERIFY[_verdict(certificate)],
}
