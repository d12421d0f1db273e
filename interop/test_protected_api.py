"""An API behind the proxy: bound tokens of oidc-provider, with the right, another and no key.

The programs that are needed: see :mod:`interop.oidc`.
"""

from __future__ import annotations

import http.client
import json
import sys
from pathlib import Path
from typing import Any

from interop.oidc import OidcStage
from interop.stage import ClientFiles, Proxy
from tests.support.ports import free_port

_API = "https://api.example"
_APPLICATION = """
from twisted.internet import endpoints, reactor
from twisted.web.server import Site

from x509proxy.resource import X509ProxyResource
from x509proxy.settings import PolicySettings, RuleSettings
from x509proxy.settings import TokenLevel, TokenRequirement, TokenSettings

resource = X509ProxyResource(
    "127.0.0.1", {api}, header=open("header.txt").read().strip(),
    policy=PolicySettings(rules=(RuleSettings(path="/api", token=TokenRequirement.BOUND),)),
    tokens=TokenSettings(
        level=TokenLevel.JWT, issuer="{issuer}", audience=("{audience}",), ca="server.pem"
    ),
)
description = r"x509:tcp\\:{port}\\:interface=127.0.0.1:certificate=server.pem:privateKey=server.key"
endpoints.serverFromString(reactor, description).listen(Site(resource))
reactor.run()
"""


class ProtectedApi(OidcStage):
    def setUp(self) -> None:
        super().setUp()
        self.enrol(
            "api", token_endpoint_auth_method="client_secret_basic",
            client_secret="secret-of-the-api",
            tls_client_certificate_bound_access_tokens=False,
        )  # fmt: skip
        self.write("secret.txt", "secret-of-the-api\n")
        self.owner = self.register("owner")
        self.thief = self.client(common_name="thief")
        self.api, self.port = free_port(), free_port()
        script = str(Path(sys.executable).parent / "x509proxy")
        listen = f"tcp:{self.api}:interface=127.0.0.1"
        self.wait_for(self.api, self.start("api", [script, "echo", "--listen", listen]), "api")

    @property
    def issuer(self) -> str:
        return f"https://localhost:{self.ports.mtls}"

    def protect(self, tokens: str, workers: int = 1) -> Proxy:
        """Start a proxy in front of the API."""
        toml = f"""
            listen = "tcp:{self.port}:interface=127.0.0.1"
            certificate = "server.pem"
            private-key = "server.key"
            header-file = "header.txt"
            backend = "http://127.0.0.1:{self.api}"
            access-log = "access.log"
            workers = {workers}
            [[rules]]
            path = "/api"
            token = "bound"
            [tokens]
            {tokens}
            """
        return self.start_proxy(toml, self.port, "front")

    def token(self, server: Proxy) -> str:
        """Return a new token of the owner's."""
        status, answer = self.ask(server, "owner", {}, self.owner)
        self.assertEqual(200, status, answer)
        found: str = answer["access_token"]
        return found

    def use(self, front: Proxy, token: str | None, files: ClientFiles | None) -> tuple[int, Any]:
        """Ask the API; return the status, and the error of a rejection."""
        context = self.context(front, files)
        connection = http.client.HTTPSConnection(
            "localhost", front.port, timeout=30, context=context
        )
        fields = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            connection.request("GET", "/api/accounts", headers=fields)
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, json.loads(body).get("error") if answer.status != 200 else None
        finally:
            connection.close()

    def check_front(self, front: Proxy, token: str) -> None:
        for _ in range(2):
            self.assertEqual((200, None), self.use(front, token, self.owner))
            for files in (self.thief, None):
                self.assertEqual((401, "invalid_token"), self.use(front, token, files))
        self.assertEqual((401, "invalid_token"), self.use(front, None, self.owner))

    def test_unverified(self) -> None:
        """The binding of a JWT is read; the API verifies the rest."""
        token = self.token(self.serve(api=_API))
        self.check_front(self.protect('level = "unverified"'), token)

    def test_jwt(self) -> None:
        """A JWT is verified with the keys of the provider's metadata, fetched over TLS.

        Other APIs' tokens are not.
        """
        token = self.token(self.serve(api=_API))
        tokens = f'level = "jwt"\nissuer = "{self.issuer}"\nca = "server.pem"\n'
        front = self.protect(tokens + f'audience = ["{_API}"]', workers=2)
        self.check_front(front, token)
        header, claims, signature = token.split(".")
        for forged in (f"{header}.{claims}.{signature[::-1]}", f"{header}.{claims}x.{signature}"):
            status, _ = self.use(front, forged, self.owner)
            self.assertIn(status, (400, 401))
        log = (self.folder / "access.log").read_text()
        self.assertEqual(2, log.count("token_verdict=BOUND"))
        self.assertNotIn(claims, log)

    def test_another_audience(self) -> None:
        """A good token for another API is 401."""
        token = self.token(self.serve(api="https://other.example"))
        tokens = f'level = "jwt"\nissuer = "{self.issuer}"\nca = "server.pem"\n'
        front = self.protect(tokens + f'audience = ["{_API}"]')
        self.assertEqual((401, "invalid_token"), self.use(front, token, self.owner))

    def test_introspection(self) -> None:
        """An opaque token is introspected at the provider; one that it does not know is 401."""
        token = self.token(self.serve())
        self.assertNotIn(".", token)
        tokens = f'level = "introspection"\nissuer = "{self.issuer}"\nca = "server.pem"\nclient-id = "api"\n'
        front = self.protect(tokens + 'client-secret-file = "secret.txt"')
        self.check_front(front, token)
        self.assertEqual((401, "invalid_token"), self.use(front, "made-up", self.owner))

    def test_application(self) -> None:
        """A Twisted application with the same rule does the same, under a stock ``Site``."""
        token = self.token(self.serve(api=_API))
        text = _APPLICATION.format(api=self.api, issuer=self.issuer, audience=_API, port=self.port)
        self.write("application.py", text)
        process = self.start("application", [sys.executable, "application.py"])
        self.wait_for(self.port, process, "application")
        secret = (self.folder / "header.txt").read_text().split()[0]
        log = self.folder / "application.log"
        self.check_front(Proxy(self.port, self.folder / "server.pem", secret, log, process), token)


class ProtectedApiNine(ProtectedApi):
    """The same with oidc-provider 9."""

    module = "oidc-provider-9"
