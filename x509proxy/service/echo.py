"""The demonstration back end: a report of each request as JSON, with the certificates in it.

For trials only: it trusts each sender. Its report about a certificate is what a server behind the
proxy may conclude; a client that reaches it past the proxy may claim anything.

The report is sent to the client, so it covers the secret header name, unless it is to be shown
(:attr:`Secrets.SHOWN`). Covered are the names of two kinds of fields, with their values:

* a name that could be a secret, as ``x509proxy secret`` makes it;
* any name that no preset has, if the value holds a certificate.

The proxy removes a forged field, so a back end cannot see that there was one. A client that tries
it announces the value of the forged field in ``X-Echo-Forged``; the report then states whether a
field with that value arrived.
"""

from __future__ import annotations

import enum
import io
import json
from base64 import b64decode
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from cryptography import x509
from twisted.internet.interfaces import IReactorTime
from twisted.web.http import HTTPChannel, combinedLogFormatter, datetimeToLogString
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from x509proxy.certificates.client_certificate import SELF_SIGNED_LEAF, ClientCertificate, date
from x509proxy.certificates.header_values import DECODERS
from x509proxy.forwarding.presets import PRESETS
from x509proxy.http1.fields import Pairs, fold
from x509proxy.redaction import contains_secret
from x509proxy.settings import Format

__all__ = ["EchoRequest", "EchoResource", "EchoSite", "Secrets", "decode", "describe", "echo_site"]

_MIN_BASE64 = 64
"""Fewer characters of base64 are an ordinary word, and no certificate."""
_NOT_A_LEAF = Format.RFC9440_CHAIN.value
_PUBLIC = frozenset(fold(plan.name) for preset in PRESETS.values() for plan in preset.plans)
_FORGED = b"x-echo-forged"
_COVERED = "(secret header name)"


class Secrets(enum.Enum):
    """The treatment of the secret header name in reports."""

    COVERED = "covered"
    SHOWN = "shown"


def decode(value: bytes) -> tuple[str, x509.Certificate] | None:
    """Return the word for the format of a header value and the certificate in it, or ``None``.

    Of a chain (RFC 9440 section 2.2) it is the first; a chain of one looks like ``rfc9440``.
    """
    first, more, _ = value.partition(b", ") if value.startswith(b":") else (value, b"", b"")
    for form, decoder in DECODERS.items():
        text = decoder(first)
        if text is not None and len(text) >= _MIN_BASE64:
            return _load(Format.RFC9440_CHAIN if more else form, text)
    return None


def _load(form: Format, text: bytes) -> tuple[str, x509.Certificate] | None:
    try:
        return form.value, x509.load_der_x509_certificate(b64decode(text, validate=True))
    except (ValueError, x509.InvalidVersion):
        return None


def describe(name: str, form: str, certificate: x509.Certificate) -> dict[str, object]:
    """Return the parts of a certificate, ready for ``json.dumps``.

    ``name``: the header it came in; ``form``: the word for its format.
    """
    # The verdict of a proxy without authorities: are issuer and subject the same?
    client = ClientCertificate.from_x509(certificate, [SELF_SIGNED_LEAF])
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


class EchoRequest(Request):
    """A request that keeps its fields as they arrived: Twisted's own table rewrites the names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields: list[tuple[bytes, bytes]] = []


class _EchoChannel(HTTPChannel):
    def headerReceived(self, line: bytes) -> bool:
        accepted: bool = super().headerReceived(line)
        if accepted:
            name, _, value = line.partition(b":")
            self.requests[-1].fields.append((name, value.strip(b" \t")))
        return accepted


class EchoSite(Site):
    """The server of an :class:`EchoResource`, for HTTP/1.1."""

    protocol = _EchoChannel  # type: ignore[assignment]  # Twisted's own negotiates HTTP/2 too
    requestFactory = EchoRequest


class EchoResource(Resource):
    """A report of each request.

    ``names``: the header fields to search for certificates; none stands for all.
    """

    isLeaf = True

    def __init__(self, names: Collection[bytes] = (), secrets: Secrets = Secrets.COVERED) -> None:
        super().__init__()
        self._names = frozenset(name.lower() for name in names)
        self._secrets = secrets

    def render(self, request: EchoRequest) -> bytes:
        """Respond 200 to any method; to HEAD with the length alone."""
        body = json.dumps(self._report(request), indent=2).encode("ascii") + b"\n"
        fields = request.responseHeaders
        fields.setRawHeaders(b"Content-Type", [b"application/json"])
        fields.setRawHeaders(b"Cache-Control", [b"no-store"])
        fields.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        # Given a body for HEAD, Twisted leaves it out, but complains in the log.
        return b"" if request.method == b"HEAD" else body

    def _report(self, request: EchoRequest) -> dict[str, object]:
        certificates = list(self._certificates(request.fields))
        return {
            "message": " ".join(filter(None, [_forged(request.fields), _message(certificates)])),
            "method": _text(request.method),
            "target": _text(request.uri),
            "headers": [[*self._shown(name, value)] for name, value in request.fields],
            "body_length": request.content.seek(0, io.SEEK_END) if request.content else 0,
            "certificates": certificates,
        }

    def _certificates(self, pairs: Pairs) -> Iterator[dict[str, object]]:
        for name, value in pairs:
            found = decode(value) if not self._names or name.lower() in self._names else None
            if found:
                yield describe(self._shown(name, value)[0], *found)

    def _shown(self, name: bytes, value: bytes) -> tuple[str, str]:
        if self._secrets is Secrets.SHOWN or not _is_secret(name, value):
            return _text(name), _text(value)
        return _COVERED, f"({len(value)} bytes)"


def _is_secret(name: bytes, value: bytes) -> bool:
    folded = fold(name)
    # Folded, since a terminator may write a secret name with underscores.
    return folded not in _PUBLIC and (
        contains_secret(name.decode("latin-1"))
        or contains_secret(folded.decode("latin-1"))
        or decode(value) is not None
    )


def _forged(pairs: Pairs) -> str:
    """Return the fate of the forged field that the client announces, or ``""``."""
    announced = {value for name, value in pairs if name.lower() == _FORGED}
    arrived = {value for name, value in pairs if name.lower() != _FORGED}
    if not announced:
        return ""
    return "The forged field arrived." if announced & arrived else "The forged field was removed."


def _message(certificates: Iterable[dict[str, object]]) -> str:
    leaf = next((found for found in certificates if found["format"] != _NOT_A_LEAF), None)
    if leaf is None:
        return "No client certificate arrived."
    # An empty subject is allowed (RFC 5280 section 4.1.2.6); the thumbprint names any certificate.
    whose = leaf["subject"] or f"the certificate with x5t#S256 {leaf['x5t#S256']}"
    return f"The client proved possession of the key of {whose}."


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")


def echo_site(
    names: Collection[bytes] = (),
    reactor: IReactorTime | None = None,
    secrets: Secrets = Secrets.COVERED,
) -> EchoSite:
    """Make the factory of a server with an :class:`EchoResource`.

    Without a ``reactor`` Twisted takes, or installs, the global one.
    """
    return EchoSite(EchoResource(names, secrets), reactor=reactor, logFormatter=_log_line)


def _log_line(_: str, request: EchoRequest) -> str:
    """Return a line for the log, with the time of day: the site's own is from the reactor.

    The clock of a reactor may be monotonic (:mod:`x509proxy.transport.monotonic`), with years
    near 1970.
    """
    line: str = combinedLogFormatter(datetimeToLogString(), request)
    return line
