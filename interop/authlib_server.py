"""An authorization server of Authlib and Flask, for clients with self-signed certificates.

``self_signed_tls_client_auth`` (RFC 8705 section 2.2), tokens bound to the certificate (section 3),
introspection (section 3.2), all from ``Client-Cert`` of RFC 9440, which a proxy writes. Authlib 1.9
has no RFC 8705 of its own: this module adds a method of client authentication and the claims
of introspection. :mod:`interop.test_authlib` starts it under gunicorn.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientCredentialsGrant, ClientMixin, TokenMixin
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from flask import Flask, Response, request

__all__ = ["create_app", "presented_certificate", "thumbprint"]

_METHOD = "self_signed_tls_client_auth"
_SECONDS = 3600


def presented_certificate(header: str | None) -> bytes | None:
    """Return the certificate in DER; none if the header is missing or malformed.

    The header holds base64 alone, so nothing else has to be parsed.
    """
    match = re.fullmatch(r":([A-Za-z0-9+/=]+):", header or "")
    return base64.b64decode(match[1]) if match else None


def thumbprint(der: bytes) -> str:
    """Return ``x5t#S256`` of a certificate (RFC 8705 section 3.1)."""
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode("ascii")


@attrs.define(eq=False)
class Client(ClientMixin):  # type: ignore[misc]
    """A registered client, with its certificates (``x5c`` in its JWK set).

    RFC 8705 section 2.2.2.
    """

    client_id: str
    certificates: list[bytes]

    @classmethod
    def registered(cls, client_id: str, jwks: Mapping[str, Any]) -> Client:
        return cls(client_id, [base64.b64decode(key["x5c"][0]) for key in jwks["keys"]])

    # Authlib's calls.

    def get_client_id(self) -> str:
        return self.client_id

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == _METHOD

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "client_credentials"

    def get_allowed_scope(self, scope: str) -> str:
        return scope or ""


@attrs.define(eq=False)
class Token(TokenMixin):  # type: ignore[misc]
    """An access token, with the thumbprint of the certificate that it is bound to."""

    client_id: str
    bound_to: str
    issued_at: float

    def is_expired(self) -> bool:
        return time.time() > self.issued_at + _SECONDS

    def is_revoked(self) -> bool:
        return False


class _Grant(ClientCredentialsGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = (_METHOD,)


class _Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    CLIENT_AUTH_METHODS = (_METHOD,)
    tokens: Mapping[str, Token]

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        return self.tokens.get(token_string)

    def check_permission(self, token: Token, client: Client, request: object) -> bool:
        return token.client_id == client.client_id

    def introspect_token(self, token: Token) -> dict[str, object]:
        return {"active": True, "client_id": token.client_id, "cnf": {"x5t#S256": token.bound_to}}


def _authenticate(query_client: Any, oauth_request: Any) -> Client | None:
    """Return the client of the ``client_id``, if the handshake's certificate is one of its own."""
    client: Client | None = query_client(oauth_request.payload.client_id)
    der = presented_certificate(request.headers.get("Client-Cert"))
    return client if client and der and der in client.certificates else None


def create_app(path: str) -> Flask:
    """Make the application. ``path``: a JSON file of each client's JWK set by ``client_id``."""
    registered = json.loads(Path(path).read_text())
    clients = {
        client_id: Client.registered(client_id, jwks) for client_id, jwks in registered.items()
    }
    tokens: dict[str, Token] = {}

    def save_token(token: Mapping[str, Any], oauth_request: Any) -> None:
        der = presented_certificate(request.headers.get("Client-Cert"))
        assert der is not None
        tokens[token["access_token"]] = Token(
            oauth_request.client.client_id, thumbprint(der), time.time()
        )

    app = Flask(__name__)
    server = AuthorizationServer(app, clients.get, save_token)
    server.register_client_auth_method(_METHOD, _authenticate)
    server.register_grant(_Grant)
    server.register_endpoint(type("Introspection", (_Introspection,), {"tokens": tokens}))

    def token() -> Response:
        answer: Response = server.create_token_response()
        return answer

    def introspect() -> Response:
        answer: Response = server.create_endpoint_response("introspection")
        return answer

    app.add_url_rule("/token", view_func=token, methods=["POST"])
    app.add_url_rule("/introspect", view_func=introspect, methods=["POST"])
    return app
