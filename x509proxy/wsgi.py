"""WSGI middleware that puts the client of the proxy into the environ.

For Flask, Django and any other WSGI application behind the proxy::

    app.wsgi_app = ClientCertificateMiddleware(app.wsgi_app, fields)

The application finds the client by :func:`x509proxy.forwarded.forwarded_client`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ssl import PEM_cert_to_DER_cert
from typing import Any

from x509proxy.forwarded import KEY, ForwardedFieldError, ForwardedFields, Peer

__all__ = ["ClientCertificateMiddleware"]

_PREFIX = "HTTP_"
_BODY = b"The request has a malformed header field.\n"
# waitress reports a peer on a unix socket as "localhost", gunicorn as "".
_UNIX_ADDRESSES = frozenset({"", "localhost"})

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class ClientCertificateMiddleware:
    """A WSGI application around another one.

    It reads the proxy's fields, and removes them from the environ, so that error pages and logs of
    the application do not show a secret name. A malformed field is a 400 response.
    """

    def __init__(self, app: Application, fields: ForwardedFields) -> None:
        self._app = app
        self._fields = fields

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Serve one request, as PEP 3333 defines it."""
        pairs = [*_pairs(environ)]
        try:
            client = self._fields.read([(name, value) for _, name, value in pairs], _peer(environ))
        except ForwardedFieldError:
            headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(_BODY)))]
            start_response("400 Bad Request", headers)
            return [_BODY]
        own = {key for key, name, _ in pairs if self._fields.is_own(name)}
        others = {key: value for key, value in environ.items() if key not in own}
        return self._app({**others, KEY: client}, start_response)


def _pairs(environ: Mapping[str, Any]) -> Iterator[tuple[str, bytes, bytes]]:
    # PEP 3333: each character of a native string is one octet.
    for key, value in environ.items():
        if key.startswith(_PREFIX):
            yield key, key[len(_PREFIX) :].encode("latin-1"), value.encode("latin-1")


def _peer(environ: Mapping[str, Any]) -> Peer:
    address = environ.get("REMOTE_ADDR") or ""
    return Peer("" if address in _UNIX_ADDRESSES else address, _peer_certificate(environ))


def _peer_certificate(environ: Mapping[str, Any]) -> bytes:
    # Apache's mod_ssl reports it in SSL_CLIENT_CERT (SSLOptions +ExportCertData). gunicorn
    # passes the socket.
    if pem := environ.get("SSL_CLIENT_CERT"):
        return PEM_cert_to_DER_cert(pem)
    ask = getattr(environ.get("gunicorn.socket"), "getpeercert", None)
    return (ask(binary_form=True) or b"") if ask else b""
