"""Strict parsers of the certificate formats, independent of the proxy's own encoders.

:mod:`x509proxy.forwarding.certificate_formats` encodes these formats, and an error there must not
be repeated here. Only the names of the formats are shared.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from urllib.parse import quote, unquote_to_bytes

from cryptography import x509

from x509proxy.settings import Format

__all__ = ["CERTIFICATES", "RESULTS", "encode", "folds", "read"]

CERTIFICATES = frozenset(
    {
        Format.PEM,
        Format.PEM_SPACES,
        Format.PEM_URL,
        Format.BASE64_DER,
        Format.RFC9440,
        Format.XFCC,
        Format.THUMBPRINT,
    }
)
"""The formats that identify one certificate."""
RESULTS = frozenset({Format.VERDICT, Format.VERIFY})
"""The formats that report the result of the verification."""

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_BODY = r"[A-Za-z0-9+/]+={0,2}"


def folds(name: bytes) -> bytes:
    """Return a field name as CGI, WSGI and servlet containers compare it."""
    return re.sub(rb"[^a-z0-9]", b"-", name.lower())


# Reading.


def read(form: Format, value: bytes) -> str | None:
    """Return the SHA-256 of the certificate in a value, in hex, or ``None`` if it is invalid."""
    reader = _READERS[form]
    try:
        return reader(value.decode("ascii"))
    except (UnicodeDecodeError, ValueError):
        return None


def _digest(body: str) -> str:
    # Invalid base64 raises binascii.Error, which is a ValueError.
    return hashlib.sha256(base64.b64decode(body, validate=True)).hexdigest()


def _pem(value: str) -> str | None:
    found = re.fullmatch(f"{_BEGIN}({_BODY}){_END}", value)
    return _digest(found[1]) if found else None


def _pem_spaces(value: str) -> str | None:
    # The servers that read Apache's format accept any white space (SSLValve, Keycloak).
    found = re.fullmatch(f"{_BEGIN} ?([A-Za-z0-9+/= ]+?) ?{_END} ?", value)
    return _digest(found[1].replace(" ", "")) if found else None


def _pem_url(value: str) -> str | None:
    # Most servers use a form decoder, which converts a literal "+" to a space.
    text = unquote_to_bytes(value.replace("+", " ")).decode("ascii")
    found = re.fullmatch(f"{_BEGIN}\n((?:[A-Za-z0-9+/=]+\n)+){_END}\n?", text)
    return _digest(found[1].replace("\n", "")) if found else None


def _base64(value: str) -> str | None:
    return _digest(value) if re.fullmatch(_BODY, value) else None


def _rfc9440(value: str) -> str | None:
    found = re.fullmatch(f":({_BODY}):", value)
    return _digest(found[1]) if found else None


def _xfcc(value: str) -> str | None:
    found = re.fullmatch(r'(?:[^",]|"(?:[^"\\]|\\.)*")*', value)  # one element, no comma outside
    elements = re.findall(r'(?:^|;)(Hash|Cert)=(?:"([^"]*)"|([^;]*))', value)
    keys = [key for key, _, _ in elements]
    if not found or len(set(keys)) < len(keys) or not elements:
        return None
    read_by = {"Hash": str.lower, "Cert": _pem_url}
    digests = {read_by[key](quoted or plain) for key, quoted, plain in elements}
    return digests.pop() if len(digests) == 1 else None


def _thumbprint(value: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}", value):
        return None
    return base64.urlsafe_b64decode(value + "=").hex()


_READERS: dict[Format, Callable[[str], str | None]] = {
    Format.PEM: _pem,
    Format.PEM_SPACES: _pem_spaces,
    Format.PEM_URL: _pem_url,
    Format.BASE64_DER: _base64,
    Format.RFC9440: _rfc9440,
    Format.XFCC: _xfcc,
    Format.THUMBPRINT: _thumbprint,
}


# Writing, only for forged values.


def encode(form: Format, der: bytes) -> bytes:
    """Return a forged value with the victim's certificate, as a server would parse it."""
    writer = _WRITERS.get(form)
    return writer(der).encode("ascii") if writer else b"x509proxy-audit-forged"


def _lines(der: bytes) -> list[str]:
    text = binascii.b2a_base64(der, newline=False).decode("ascii")
    return [text[at : at + 64] for at in range(0, len(text), 64)]


def _quoted(der: bytes) -> str:
    return quote("\n".join([_BEGIN, *_lines(der), _END, ""]), safe="")


def _subject(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).subject.rfc4514_string()


def _hash(der: bytes) -> bytes:
    return hashlib.sha256(der).digest()


_WRITERS: dict[Format, Callable[[bytes], str]] = {
    Format.PEM: lambda der: f"{_BEGIN}{''.join(_lines(der))}{_END}",
    Format.PEM_SPACES: lambda der: " ".join([_BEGIN, *_lines(der), _END]),
    Format.PEM_URL: _quoted,
    Format.BASE64_DER: lambda der: "".join(_lines(der)),
    Format.RFC9440: lambda der: f":{''.join(_lines(der))}:",
    Format.RFC9440_CHAIN: lambda der: f":{''.join(_lines(der))}:",
    Format.XFCC: lambda der: f'Hash={_hash(der).hex()};Cert="{_quoted(der)}"',
    Format.THUMBPRINT: lambda der: base64.urlsafe_b64encode(_hash(der)).rstrip(b"=").decode(),
    Format.SUBJECT: _subject,
    Format.ISSUER: _subject,
    Format.SERIAL: lambda der: f"{x509.load_der_x509_certificate(der).serial_number:X}",
    Format.VERDICT: lambda _: "TRUSTED",
    Format.VERIFY: lambda _: "SUCCESS",
}
