"""Decoders of the header values that carry a certificate, one for each format.

The reader declares the format. A value of another format is an error. So are a second value in the
same field and any foreign character. Two readers could otherwise find two certificates in one
value. The encoders are in :mod:`x509proxy.forwarding.certificate_formats`.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from x509proxy.settings import Format

__all__ = ["DECODERS", "decode_certificate"]

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/]+={0,2})-----END CERTIFICATE-----")
_PEM_SPACES = re.compile(
    rb"-----BEGIN CERTIFICATE----- ((?:[A-Za-z0-9+/]+ )*[A-Za-z0-9+/]+={0,2}) "
    rb"-----END CERTIFICATE-----"
)
_PEM_LINES = re.compile(
    rb"-----BEGIN CERTIFICATE-----\n((?:[A-Za-z0-9+/]+\n)*[A-Za-z0-9+/]+={0,2})\n"
    rb"-----END CERTIFICATE-----\n?"
)
_BASE64 = re.compile(rb"([A-Za-z0-9+/]+={0,2})")
_RFC9440 = re.compile(rb":([A-Za-z0-9+/]+={0,2}):")
# Envoy's elements are key=value, separated by semicolons, with values quoted where needed. A quoted
# value may contain the text Cert=", since a client chooses its subject. Cert stands once. A comma
# outside quotes begins the element of another proxy, and is an error.
_XFCC = re.compile(
    rb"""(?:(?!cert=)[a-z]+=%(value)b;)*
         cert=(?:"([^"\\]*)"|([^;,"]*))
         (?:;(?!cert=)[a-z]+=%(value)b)*"""
    % {b"value": rb"""(?:"(?:[^"\\]|\\.)*"|[^;,"]*)"""},
    re.IGNORECASE | re.VERBOSE,
)


def decode_certificate(value: bytes, form: Format) -> bytes:
    """Return the DER of the one certificate in a header value.

    :raises ValueError: the value does not have the format. The sentence does not contain it.
    """
    text = DECODERS[form](value)
    if text is None:
        raise ValueError(f"found another value, expected the format {form.value}")
    return b64decode(text, validate=True)


def _whole(pattern: re.Pattern[bytes]) -> Callable[[bytes], bytes | None]:
    def decode(value: bytes) -> bytes | None:
        match = pattern.fullmatch(value)
        return match and match[1]

    return decode


def _pem_spaces(value: bytes) -> bytes | None:
    match = _PEM_SPACES.fullmatch(value)
    return match and match[1].replace(b" ", b"")


def _pem_url(value: bytes) -> bytes | None:
    # unquote_to_bytes leaves a literal plus as it is. AWS ALB and Apache's escape function write
    # one.
    match = _PEM_LINES.fullmatch(unquote_to_bytes(value)) if b"\n" not in value else None
    return match and match[1].replace(b"\n", b"")


def _xfcc(value: bytes) -> bytes | None:
    match = _XFCC.fullmatch(value)
    return match and _pem_url(match[1] or match[2] or b"")


DECODERS: dict[Format, Callable[[bytes], bytes | None]] = {
    Format.PEM: _whole(_PEM),
    Format.PEM_SPACES: _pem_spaces,
    Format.PEM_URL: _pem_url,
    Format.BASE64_DER: _whole(_BASE64),
    Format.RFC9440: _whole(_RFC9440),
    Format.XFCC: _xfcc,
}
"""The formats of a whole certificate. Each decoder returns base64 text, or None."""
