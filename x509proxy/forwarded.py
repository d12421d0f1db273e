"""The client of a request, read from the header fields with which the proxy reports it.

For the application behind the proxy: :mod:`x509proxy.wsgi` and :mod:`x509proxy.asgi` are the
middleware. This module imports neither Twisted nor pyOpenSSL.

Facts
-----
* The fields are worth as much as the path to the application. So only the peers in ``proxies`` may
  send them: another peer that sends one gets an error response.
* A field is compared by its folded name: a CGI-like server reads ``X_Client_Cert`` as
  ``X-Client-Cert``. A second field of the same name is an error, whichever spelling it has.
* Any doubt raises :class:`ForwardedFieldError`. An absent certificate is ``None``, and never an
  error of its own.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from types import MappingProxyType
from typing import Any

import attrs
from cryptography import x509

from x509proxy.certificates.client_certificate import Verdict, thumbprint
from x509proxy.certificates.header_values import DECODERS, decode_certificate
from x509proxy.http1.fields import Pairs, fold
from x509proxy.settings import Format

__all__ = [
    "KEY",
    "MAX_VALUE_BYTES",
    "UNIX",
    "CertificateRequiredError",
    "ForwardedClient",
    "ForwardedFieldError",
    "ForwardedFields",
    "Peer",
    "forwarded_client",
    "require_certificate",
]

UNIX = "unix"
"""The entry of ``proxies`` for a peer on a unix socket."""
MAX_VALUE_BYTES = 24576
"""Largest value of a field in bytes: the proxy forwards at most 16 KiB of DER, in base64."""
KEY = "x509proxy.client"
"""The key of the client in the scope of ASGI, and in the environ of WSGI."""
_LOG = logging.getLogger("x509proxy.forwarded")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
_BASE64URL = re.compile(rb"[A-Za-z0-9_-]*")


class ForwardedFieldError(ValueError):
    """A field that the proxy would not send, or a peer that may not send one: a 400 response."""


class CertificateRequiredError(Exception):
    """A request without a client certificate, where one is required: a 401 response."""


def forwarded_client(request: Mapping[str, Any]) -> ForwardedClient | None:
    """Return the client of a request, or None if the proxy reports no certificate and no claims.

    ``request`` is the scope of ASGI or the environ of WSGI.

    :raises KeyError: the middleware is not installed around this application.
    """
    client: ForwardedClient | None = request[KEY]
    return client


def require_certificate(request: Mapping[str, Any]) -> ForwardedClient:
    """Return the client of a request, which has a certificate.

    ``request`` is the scope of ASGI or the environ of WSGI.

    :raises CertificateRequiredError: the client has sent no certificate.
    :raises KeyError: the middleware is not installed around this application.
    """
    client = forwarded_client(request)
    if client is None or client.certificate is None:
        raise CertificateRequiredError("The request has no client certificate")
    return client


@attrs.frozen
class Peer:
    """The sender of a request, as the application's server reports it.

    ``address``: an IP address, or ``""`` on a unix socket. ``certificate``: the DER of its TLS
    client certificate, or ``b""``.
    """

    address: str
    certificate: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen
class ForwardedClient:
    """The client of a request, as the proxy reports it."""

    certificate: x509.Certificate | None
    """The client's certificate, or None. The client has proved possession of its key."""
    thumbprint: str = ""
    """``x5t#S256`` of RFC 8705 section 3.1. Empty without a certificate."""
    verdict: Verdict | None = None
    """The result of the proxy's chain verification. None if no field for it is configured."""
    claims: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    """The claims of the access token that the proxy has verified, or None."""

    def is_bound(self, claims: Mapping[str, Any]) -> bool:
        """Return True if a token's ``cnf.x5t#S256`` names the client's certificate.

        ``claims`` are those of a token whose signature the caller has verified (RFC 8705
        section 3.1).
        """
        confirmation = claims.get("cnf")
        bound = confirmation.get("x5t#S256") if isinstance(confirmation, Mapping) else None
        if not self.thumbprint or not isinstance(bound, str):
            return False
        return hmac.compare_digest(bound.encode("utf-8"), self.thumbprint.encode("ascii"))


def _check_name(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if value and not _NAME.fullmatch(value):
        # The name may be a secret, so the sentence does not contain it.
        expected = "letters, digits, - and _"
        raise ValueError(
            f"{attribute.name}: found a name with other characters, expected {expected}"
        )


def _check_given(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not value:
        raise ValueError(f"{attribute.name}: found an empty name, expected the header's name")
    _check_name(instance, attribute, value)


def _read_format(value: str | Format) -> Format:
    known = {form.value: form for form in DECODERS}
    text = value.value if isinstance(value, Format) else value
    if text not in known:
        raise ValueError(f"format: found {text!r}, expected one of {', '.join(known)}")
    return known[text]


_Network = IPv4Network | IPv6Network


def _read_proxies(entries: Iterable[str]) -> tuple[str | _Network, ...]:
    if isinstance(entries, str):
        raise ValueError(f"proxies: found the text {entries!r}, expected a list of peers")
    return tuple(map(_read_proxy, entries))


def _read_proxy(entry: str) -> str | _Network:
    if entry == UNIX or _THUMBPRINT.fullmatch(entry):
        return entry
    try:
        return ip_network(entry)
    except ValueError:
        raise ValueError(
            f"proxies: found {entry!r}, expected {UNIX!r}, an IP address or network, or the "
            "x5t#S256 of the proxy's certificate"
        ) from None


@attrs.frozen(kw_only=True)
class ForwardedFields:
    """The fields that the proxy sends, and the peers that may send them.

    :raises ValueError: an argument is invalid. The sentence has no header name.
    """

    certificate: str = attrs.field(repr=False, validator=_check_given)
    """The name of the header with the client's certificate: ``header-file`` of the proxy."""
    format: Format = attrs.field(converter=_read_format)
    """The format of its value, such as ``"pem"``: that of the proxy's preset."""
    verdict: str = attrs.field(default="", validator=_check_name)
    """The name of a header of the format ``verdict``. Empty if the proxy sends none."""
    claims: str = attrs.field(default="", repr=False, validator=_check_name)
    """The name of a header of the format ``token-claims``. Empty if the proxy sends none."""
    proxies: tuple[str | _Network, ...] = attrs.field(
        default=(UNIX, "127.0.0.1", "::1"), converter=_read_proxies
    )
    """The peers that may send these fields.

    ``"unix"`` is any peer on a unix socket. The others are IP addresses, networks, and thumbprints
    (``x5t#S256``) of the certificate with which the proxy authenticates to the application.
    """

    _folds: Mapping[bytes, str] = attrs.field(init=False, repr=False, eq=False)

    @_folds.default
    def _default_folds(self) -> Mapping[bytes, str]:
        names = (
            ("certificate", self.certificate),
            ("verdict", self.verdict),
            ("claims", self.claims),
        )
        given = [(fold(name.encode("utf-8")), part) for part, name in names if name]
        # This runs before the validators, so that a name may still have any character.
        if len({folded for folded, _ in given}) < len(given):
            raise ValueError("certificate, verdict, claims: found a name twice, expected each once")
        return MappingProxyType(dict(given))

    def read(self, fields: Pairs, peer: Peer) -> ForwardedClient | None:
        """Return the client of a request, or None if the proxy reports none.

        ``fields`` are all fields of the request.

        :raises ForwardedFieldError: a field of the proxy comes from another peer, is doubled,
            malformed or oversized, or contradicts another one. The reason is logged.
        """
        try:
            return self._read(fields, peer)
        except ForwardedFieldError as error:
            _LOG.warning("Rejected a request: %s", error)
            raise

    def is_own(self, name: bytes) -> bool:
        """Return True for a field name that only the proxy may send, in any spelling."""
        return fold(name) in self._folds

    def _read(self, fields: Pairs, peer: Peer) -> ForwardedClient | None:
        values = self._values(fields)
        if not self._may_send(peer):
            if values:
                known = ", ".join(map(str, self.proxies))
                raise ForwardedFieldError(
                    f"proxies: found a field from {peer.address or UNIX}, expected {known}"
                )
            return None
        verdict = self._verdict(values)
        claims = _read_claims(values["claims"]) if "claims" in values else None
        if "certificate" not in values:
            return None if claims is None else ForwardedClient(None, verdict=verdict, claims=claims)
        certificate, der = _read_certificate(values["certificate"], self.format)
        return ForwardedClient(certificate, thumbprint(der), verdict, claims)

    def _values(self, fields: Pairs) -> dict[str, bytes]:
        values: dict[str, bytes] = {}
        for name, value in fields:
            part = self._folds.get(fold(name))
            if part is None:
                continue
            if part in values:
                raise ForwardedFieldError(f"{part}: found the field twice, expected it once")
            if len(value) > MAX_VALUE_BYTES:
                raise ForwardedFieldError(
                    f"{part}: found {len(value)} bytes, expected {MAX_VALUE_BYTES} or fewer"
                )
            values[part] = value
        return values

    def _may_send(self, peer: Peer) -> bool:
        return any(_is_peer(entry, peer) for entry in self.proxies)

    def _verdict(self, values: dict[str, bytes]) -> Verdict | None:
        if not self.verdict:
            return None
        # The proxy sends it with every request.
        if "verdict" not in values:
            raise ForwardedFieldError("verdict: the field is missing, expected one")
        text = values["verdict"].decode("latin-1")
        try:
            verdict = Verdict(text)
        except ValueError:
            raise ForwardedFieldError("verdict: found another value, expected a verdict") from None
        if (verdict is Verdict.NONE) is ("certificate" in values):
            raise ForwardedFieldError("verdict: found one that contradicts the certificate's field")
        return verdict


def _is_peer(entry: str | _Network, peer: Peer) -> bool:
    if entry == UNIX:
        return not peer.address
    if isinstance(entry, str):
        return bool(peer.certificate) and thumbprint(peer.certificate) == entry
    try:
        address = ip_address(peer.address)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    # A socket for IPv6 reports an IPv4 peer as ::ffff:192.0.2.1 (RFC 4291 section 2.5.5.2).
    return (mapped or address) in entry


def _read_certificate(value: bytes, form: Format) -> tuple[x509.Certificate, bytes]:
    try:
        der = decode_certificate(value, form)
        certificate = x509.load_der_x509_certificate(der)
        # len() parses all extensions, so that no later reader is the first to find a malformed one.
        len(certificate.extensions)
    except (ValueError, x509.InvalidVersion, x509.DuplicateExtension):
        raise ForwardedFieldError(
            f"certificate: found a malformed value, expected the format {form.value}"
        ) from None
    return certificate, der


def _read_claims(value: bytes) -> Mapping[str, Any]:
    try:
        if not _BASE64URL.fullmatch(value):
            raise ValueError
        claims = json.loads(urlsafe_b64decode(value + b"=" * (-len(value) % 4)))
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise ForwardedFieldError("claims: found a malformed value, expected base64url of JSON")
    return MappingProxyType(claims)
