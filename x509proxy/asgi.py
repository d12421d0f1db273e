"""ASGI middleware that puts the client of the proxy into the scope.

For FastAPI, Starlette, Django and any other ASGI application behind the proxy::

    app = ClientCertificateMiddleware(app, fields)

The application finds the client by :func:`x509proxy.forwarded.forwarded_client`, and in the ``tls``
extension of ASGI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from ssl import PEM_cert_to_DER_cert
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from x509proxy.forwarded import KEY, ForwardedClient, ForwardedFieldError, ForwardedFields, Peer

__all__ = ["ClientCertificateMiddleware"]

_BODY = b"The request has a malformed header field.\n"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class ClientCertificateMiddleware:
    """An ASGI application around another one.

    It reads the proxy's fields, and removes them from the headers of the scope, so that error pages
    and logs of the application do not show a secret name. A malformed field is a 400 response.
    """

    def __init__(self, app: Application, fields: ForwardedFields) -> None:
        self._app = app
        self._fields = fields

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the server, as ASGI defines it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        try:
            client = self._fields.read(scope["headers"], _peer(scope))
        except ForwardedFieldError:
            await _reject(scope, send)
            return
        others = [pair for pair in scope["headers"] if not self._fields.is_own(pair[0])]
        extensions = {**(scope.get("extensions") or {}), "tls": _tls(client)}
        new = {**scope, "headers": others, "extensions": extensions, KEY: client}
        await self._app(new, receive, send)


def _peer(scope: Scope) -> Peer:
    # On a unix socket the client is None, or has an empty name.
    client = scope.get("client")
    address = client[0] if client else ""
    chain = ((scope.get("extensions") or {}).get("tls") or {}).get("client_cert_chain")
    return Peer(address or "", PEM_cert_to_DER_cert(next(iter(chain))) if chain else b"")


def _tls(client: ForwardedClient | None) -> dict[str, Any]:
    """Return the ``tls`` extension for the client's connection to the proxy.

    It replaces one of the connection from the proxy. Version, cipher suite and the proxy's own
    certificate are not known here.
    """
    certificate = client.certificate if client else None
    return {
        "server_cert": None,
        "client_cert_chain": [certificate.public_bytes(Encoding.PEM).decode("ascii")]
        if certificate
        else [],
        "client_cert_name": certificate.subject.rfc4514_string() if certificate else None,
        "client_cert_error": None,
        "tls_version": None,
        "cipher_suite": None,
    }


async def _reject(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        # Before the handshake is accepted, the server answers 403 to this event.
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(_BODY))]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY})
