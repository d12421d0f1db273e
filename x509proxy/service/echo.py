"""The demonstration back end: it answers with what it received, as JSON for people, and reads every certificate format we write.

For trials only: it shows the secret header's name to whoever asks, and believes whoever speaks to it. What it says of a
certificate is what a server behind the proxy may conclude, and a client that reaches it past the proxy may say anything.

Twisted's server writes header names its own way (``X-Cert-AbC`` becomes ``X-Cert-Abc``) and puts repeats together.
"""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from collections.abc import Collection, Iterable, Iterator
from urllib.parse import unquote_to_bytes

from cryptography import x509
from twisted.internet.interfaces import IReactorTime
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site

from x509proxy.certificates.client_certificate import ClientCertificate, VerifyError, date
from x509proxy.http1.fields import Pairs
from x509proxy.settings import Format

__all__ = ["EchoResource", "decode", "describe", "echo_site"]

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{64,}={0,2}")
_MEMBER = re.compile(rb":([A-Za-z0-9+/]{64,}={0,2}):(, *:.*)?")
# Envoy's elements are key=value, separated by semicolons, values quoted where needed; a quoted value may hold anything, above
# all the text Cert=" (a client chooses its subject).
_XFCC = re.compile(
    rb'(?:[A-Za-z]+=(?:"(?:[^"\\]|\\.)*"|[^;,"]*);)*?Cert=(?:"([^"\\]*)"|([^;,"]*))(?:[;,].*)?',
    re.IGNORECASE,
)
_SELF_SIGNED = VerifyError(0, 18)
_NOT_A_LEAF = Format.RFC9440_CHAIN.value


def decode(value: bytes) -> tuple[str, x509.Certificate] | None:
    """The certificate in a header value and the word for its format (:class:`~x509proxy.forwarding.certificate_formats.Format`), or ``None``.

    Of a chain (RFC 9440 section 2.2) it is the first; a chain of one cannot be told from ``rfc9440``.
    """
    for recognize in (_pem, _pem_url, _rfc9440, _xfcc, _base64_der):
        found = recognize(value)
        if found is not None:
            return _load(*found)
    return None


def _load(form: Format, text: bytes) -> tuple[str, x509.Certificate] | None:
    try:
        return form.value, x509.load_der_x509_certificate(b64decode(text, validate=True))
    except (ValueError, x509.InvalidVersion):
        return None


_Found = tuple[Format, bytes] | None
"""A format, and the base64 text of the certificate in it."""


def _pem(value: bytes) -> _Found:
    armoured = _PEM.fullmatch(value)
    if not armoured:
        return None
    lines = armoured[1].split()
    return (Format.PEM if lines == [armoured[1]] else Format.PEM_SPACES), b"".join(lines)


def _pem_url(value: bytes) -> _Found:
    # A literal plus stays one: AWS ALB and Apache's escape write it so.
    found = _pem(unquote_to_bytes(value)) if value.startswith(b"-----BEGIN%20") else None
    return found and (Format.PEM_URL, found[1])


def _rfc9440(value: bytes) -> _Found:
    member = _MEMBER.fullmatch(value)
    return member and ((Format.RFC9440_CHAIN if member[2] else Format.RFC9440), member[1])


def _xfcc(value: bytes) -> _Found:
    element = _XFCC.fullmatch(value)
    found = _pem_url(element[1] or element[2] or b"") if element else None
    return found and (Format.XFCC, found[1])


def _base64_der(value: bytes) -> _Found:
    return (Format.BASE64_DER, value) if _BASE64.fullmatch(value) else None


def describe(name: str, form: str, certificate: x509.Certificate) -> dict[str, object]:
    """One certificate in words, ready for ``json.dumps``; ``name`` is the header it came in, ``form`` its format's word."""
    # The verdict of a proxy without authorities: it depends on whether issuer and subject are the same.
    client = ClientCertificate.from_x509(certificate, [_SELF_SIGNED])
    return {
        "header": name,
        "format": form,
        "subject": client.subject,
        "issuer": client.issuer,
        "serial": f"{client.serial:x}",
        "not_before": date(client.not_before),
        "not_after": date(client.not_after),
        "key": client.key,
        "verdict": client.verdict.value,
        "x5t#S256": client.thumbprint,
        "flags": sorted(flag.value for flag in client.flags),
    }


class EchoResource(Resource):
    """Answers every request with what arrived. ``names``: the header fields to search for certificates; none means all."""

    isLeaf = True

    def __init__(self, names: Collection[bytes] = ()) -> None:
        super().__init__()
        self._names = frozenset(name.lower() for name in names)

    def render(self, request: Request) -> bytes:
        """Any method is answered 200; to HEAD with the length alone."""
        body = json.dumps(self._report(request), indent=2).encode("ascii") + b"\n"
        fields = request.responseHeaders
        fields.setRawHeaders(b"Content-Type", [b"application/json"])
        fields.setRawHeaders(b"Cache-Control", [b"no-store"])
        fields.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        # Given a body for HEAD, Twisted leaves it out, but complains in the log.
        return b"" if request.method == b"HEAD" else body

    def _report(self, request: Request) -> dict[str, object]:
        pairs = [
            (name, value)
            for name, values in request.requestHeaders.getAllRawHeaders()
            for value in values
        ]
        certificates = list(self._certificates(pairs))
        return {
            "message": _message(certificates),
            "method": _text(request.method),
            "target": _text(request.uri),
            "headers": [[_text(name), _text(value)] for name, value in pairs],
            "body_length": request.content.seek(0, io.SEEK_END) if request.content else 0,
            "certificates": certificates,
        }

    def _certificates(self, pairs: Pairs) -> Iterator[dict[str, object]]:
        for name, value in pairs:
            found = decode(value) if not self._names or name.lower() in self._names else None
            if found:
                yield describe(_text(name), *found)


def _message(certificates: Iterable[dict[str, object]]) -> str:
    leaf = next((found for found in certificates if found["format"] != _NOT_A_LEAF), None)
    if leaf is None:
        return "No client certificate arrived."
    # An empty subject is allowed (RFC 5280 section 4.1.2.6); the thumbprint names any certificate.
    whose = leaf["subject"] or f"the certificate with x5t#S256 {leaf['x5t#S256']}"
    return f"The client proved possession of the key of {whose}."


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")


def echo_site(names: Collection[bytes] = (), reactor: IReactorTime | None = None) -> Site:
    """The factory of a server with an :class:`EchoResource`. Without a ``reactor`` Twisted takes, or installs, the global one."""
    return Site(EchoResource(names), reactor=reactor)
