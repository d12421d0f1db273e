"""Stage of the tests with access tokens: an API, and proxies that protect it.

The API is ``x509proxy echo``: it returns the header fields that it has received. The proxies are
the one in front of it and a Twisted application with
:class:`~x509proxy.resource.X509ProxyResource`.
"""

from __future__ import annotations

import json
import sys
from base64 import urlsafe_b64decode
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import attrs

from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Proxy, Stage
from tests.support.ports import free_port

__all__ = ["ApiStage", "Clients", "Issuer"]

_PAGE = "servers/token-claims"
_APPLICATION = """
from twisted.internet import endpoints, reactor
from twisted.web.server import Site

from x509proxy.resource import X509ProxyResource
from x509proxy.settings import PolicySettings, RuleSettings
from x509proxy.settings import TokenLevel, TokenRequirement, TokenSettings

resource = X509ProxyResource(
    "127.0.0.1", {api}, preset="token-claims",
    policy=PolicySettings(rules=(RuleSettings(path="/api", token=TokenRequirement.BOUND),)),
    tokens=TokenSettings(
        level=TokenLevel.JWT, issuer="{issuer}", audience=("{audience}",), types={types},
        ca="server.pem",
    ),
)
place = r"tcp\\:{port}\\:interface=127.0.0.1"
description = f"x509:{{place}}:certificate=server.pem:privateKey=server.key"
endpoints.serverFromString(reactor, description).listen(Site(resource))
reactor.run()
"""
_FRONT = """
listen = "tcp:{port}:interface=127.0.0.1"
certificate = "server.pem"
private-key = "server.key"
header-file = "header.txt"
backend = "http://127.0.0.1:{api}"
access-log = "access.log"
workers = {workers}
[[rules]]
path = "/api"
token = "bound"
[tokens]
{tokens}
"""


@attrs.frozen
class Issuer:
    """An authorization server.

    ``url``: its ``iss``; ``audience``, ``types``: the ``aud`` and ``typ`` of its access tokens.
    """

    url: str
    audience: str
    types: tuple[str, ...] = ("at+jwt",)

    @property
    def jwt(self) -> str:
        """Return the settings of level ``jwt``; the keys come from the server's metadata."""
        return (
            f'level = "jwt"\nissuer = "{self.url}"\naudience = ["{self.audience}"]\n'
            f'types = {json.dumps(self.types)}\nca = "server.pem"\n'
        )

    def introspection(self, client: str, credentials: str) -> str:
        """Return the settings of level ``introspection``, for a client with these credentials."""
        return (
            f'level = "introspection"\nissuer = "{self.url}"\nca = "server.pem"\n'
            f'client-id = "{client}"\n{credentials}\n'
        )


@attrs.frozen
class Clients:
    """The client that a token was issued to, and another one with a valid certificate."""

    owner: ClientFiles
    thief: ClientFiles


class ApiStage(Stage):
    """An API behind a proxy with a rule about tokens."""

    def start_api(self) -> None:
        """Start the API; it listens for the rest of the test."""
        self.api_port = free_port()
        listen = f"tcp:{self.api_port}:interface=127.0.0.1"
        script = str(Path(sys.executable).parent / "x509proxy")
        process = self.start("api", [script, "echo", "--listen", listen])
        self.wait_for(self.api_port, process, "api")

    def protect(self, tokens: str, workers: int = 1) -> Proxy:
        """Start a proxy in front of the API, with the settings of ``[tokens]``."""
        port = free_port()
        toml = _FRONT.format(port=port, api=self.api_port, workers=workers, tokens=tokens)
        return self.start_proxy(toml, port, f"front-{port}")

    def protect_with_claims(self, issuer: Issuer) -> Proxy:
        """Start the proxy of the page about claims in front of the API."""
        port = free_port()
        here = {
            "tcp:8443": f"tcp:{port}:interface=127.0.0.1",
            "127.0.0.1:8080": f"127.0.0.1:{self.api_port}",
            "https://as.example.com": issuer.url,
            "https://api.example.com": issuer.audience,
            "[tokens]": f'[tokens]\nca = "server.pem"\ntypes = {json.dumps(issuer.types)}',
        }
        toml = filled(recipe(_PAGE, "x509proxy.toml"), here)
        return self.start_proxy(toml, port, f"claims-{port}")

    def start_application(self, issuer: Issuer) -> Proxy:
        """Start a Twisted application with the rule, under a stock ``Site``."""
        port = free_port()
        text = _APPLICATION.format(
            api=self.api_port,
            issuer=issuer.url,
            audience=issuer.audience,
            types=issuer.types,
            port=port,
        )
        self.write("application.py", text)
        process = self.start("application", [sys.executable, "application.py"])
        self.wait_for(port, process, "application")
        log = self.folder / "application.log"
        return Proxy(port, self.folder / "server.pem", "", log, process)

    def use(
        self,
        front: Proxy,
        token: str | None,
        files: ClientFiles | None,
        path: str = "/api/accounts",
    ) -> tuple[int, Any]:
        """Request the API; return the status and the JSON of the response."""
        context = self.context(front, files)
        connection = HTTPSConnection("localhost", front.port, timeout=30, context=context)
        fields = {"X-Token-Claims": "eyJzdWIiOiJldmUifQ"}
        fields |= {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            connection.request("GET", path, headers=fields)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def check_front(self, front: Proxy, token: str, clients: Clients) -> None:
        """Assert that the token is accepted from its owner, and from no other client."""
        for _ in range(2):
            self.assertEqual(200, self.use(front, token, clients.owner)[0])
            for files in (clients.thief, None):
                self.check_rejected(front, token, files)
        self.check_rejected(front, None, clients.owner)

    def check_rejected(self, front: Proxy, token: str | None, files: ClientFiles | None) -> None:
        """Assert the response of RFC 6750."""
        status, body = self.use(front, token, files)
        self.assertEqual((401, "invalid_token"), (status, body["error"]))

    def check_claims(self, front: Proxy, token: str, clients: Clients) -> None:
        """Assert that the API reads the claims of the token, and no others."""
        self.check_front(front, token, clients)
        claims = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))
        self.assertEqual([claims], self.claims_at_api(front, token, clients.owner))
        for files in (clients.thief, None):
            self.assertEqual([], self.claims_at_api(front, None, files, "/public"))

    def claims_at_api(
        self,
        front: Proxy,
        token: str | None,
        files: ClientFiles | None,
        path: str = "/api/accounts",
    ) -> list[Any]:
        """Read the claims as the page's API does, from each field with them."""
        status, body = self.use(front, token, files, path)
        self.assertEqual(200, status)
        read: dict[str, Any] = {}
        code = "import base64, json\n" + recipe(_PAGE, "claims.py")
        exec(code, read)  # noqa: S102 - the page's own code
        values = [value for name, value in body["headers"] if name.lower() == "x-token-claims"]
        return [read["claims_of"]({"X-Token-Claims": value}) for value in values]
