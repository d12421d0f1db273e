"""An API behind the proxy: bound tokens with the right certificate, with another, and with none.

The tokens are those of oidc-provider 8 and 9, of Keycloak and of Spring Authorization Server. The
programs that are needed: see :mod:`interop.oidc`, :mod:`interop.keycloak_server` and
:mod:`interop.test_spring`.
"""

from __future__ import annotations

import attrs

from interop.keycloak_server import REALM, KeycloakStage
from interop.oidc import OidcStage
from interop.protected_api import ApiStage, Clients, Issuer
from interop.recipes import recipe
from interop.spring_stage import SpringStage
from interop.stage import Proxy

_API = "https://api.example"


class OidcProvider(ApiStage, OidcStage):
    """Tokens of oidc-provider 8: JWTs and opaque ones."""

    def setUp(self) -> None:
        super().setUp()
        self.enrol(
            "api",
            token_endpoint_auth_method="client_secret_basic",
            client_secret="secret-of-the-api",
            tls_client_certificate_bound_access_tokens=False,
        )
        self.write("secret.txt", "secret-of-the-api\n")
        self.clients = Clients(self.register("owner"), self.client(common_name="thief"))
        self.issuer = Issuer(f"https://localhost:{self.ports.mtls}", _API)
        self.start_api()

    def token(self, server: Proxy) -> str:
        """Return a new token of the owner's."""
        status, answer = self.ask(server, "owner", {}, self.clients.owner)
        self.assertEqual(200, status, answer)
        found: str = answer["access_token"]
        return found

    def test_unverified(self) -> None:
        """The binding of a JWT is read; the API verifies the rest."""
        token = self.token(self.serve(api=_API))
        self.check_front(self.protect('level = "unverified"'), token, self.clients)

    def test_jwt(self) -> None:
        """A JWT is verified with the keys of the provider's metadata; forged ones are rejected."""
        token = self.token(self.serve(api=_API))
        front = self.protect(self.issuer.jwt, workers=2)
        self.check_front(front, token, self.clients)
        header, claims, signature = token.split(".")
        for forged in (f"{header}.{claims}.{signature[::-1]}", f"{header}.{claims}x.{signature}"):
            self.assertIn(self.use(front, forged, self.clients.owner)[0], (400, 401))
        log = (self.folder / "access.log").read_text()
        self.assertEqual(2, log.count("token_verdict=BOUND"))
        self.assertNotIn(claims, log)

    def test_another_audience(self) -> None:
        """A good token for another API is 401."""
        token = self.token(self.serve(api="https://other.example"))
        self.check_rejected(self.protect(self.issuer.jwt), token, self.clients.owner)

    def test_introspection(self) -> None:
        """An opaque token is introspected at the provider; an unknown one is 401."""
        token = self.token(self.serve())
        self.assertNotIn(".", token)
        secret = 'client-secret-file = "secret.txt"'
        front = self.protect(self.issuer.introspection("api", secret))
        self.check_front(front, token, self.clients)
        self.check_rejected(front, "made-up", self.clients.owner)

    def test_claims(self) -> None:
        """The API of the page about claims reads those that the provider has signed."""
        token = self.token(self.serve(api=_API))
        self.check_claims(self.protect_with_claims(self.issuer), token, self.clients)

    def test_application(self) -> None:
        """A Twisted application with the same rule does the same, and passes the claims on."""
        token = self.token(self.serve(api=_API))
        self.check_claims(self.start_application(self.issuer), token, self.clients)


class OidcProviderNine(OidcProvider):
    """The same with oidc-provider 9."""

    module = "oidc-provider-9"


class Keycloak(ApiStage, KeycloakStage):
    """Tokens of Keycloak. One test, since each start of the server takes half a minute."""

    def test_levels(self) -> None:
        """Each level accepts a token from its owner alone; introspection uses a certificate."""
        configuration = recipe("servers/keycloak", "keycloak.conf")
        look_up = recipe("servers/keycloak-rfc9440", "keycloak.conf")
        server = self.start_keycloak(configuration + look_up)
        proxy = self.proxy_for(server, "servers/keycloak-rfc9440", {})
        clients = Clients(self.issued("client"), self.issued("other"))
        token = self.assert_bound(self.token(proxy, "client", clients.owner), clients.owner)
        url = f"https://localhost:{server.public}{REALM}"
        issuer = Issuer(url, "https://api.example.com", ("at+jwt", "JWT"))
        certificate = 'certificate = "other.pem"\nprivate-key = "other.key"'
        self.start_api()
        for tokens in (
            'level = "unverified"',
            issuer.jwt,
            issuer.introspection("other", certificate),
        ):
            self.check_front(self.protect(tokens), token, clients)
        self.check_claims(self.protect_with_claims(issuer), token, clients)
        self.check_claims(self.start_application(issuer), token, clients)
        for changes in ({"audience": "https://other.example"}, {"types": ("at+jwt",)}):
            another = attrs.evolve(issuer, **changes)
            self.check_rejected(self.protect(another.jwt), token, clients.owner)


class Spring(ApiStage, SpringStage):
    """Tokens of Spring Authorization Server."""

    def test_levels(self) -> None:
        """Each level accepts a token from its owner alone; introspection uses a certificate."""
        clients = Clients(self.register("owner"), self.register("api"))
        proxy = self.serve()
        answer = self.token(proxy, "owner", clients.owner)
        self.assertEqual(200, answer.status, answer.body)
        token: str = answer.body["access_token"]
        # Its audience is the client, unless the application states another one.
        issuer = Issuer(proxy.url, "owner")
        certificate = (
            f'certificate = "{clients.thief.certificate}"\nprivate-key = "{clients.thief.key}"'
        )
        self.start_api()
        for tokens in (
            'level = "unverified"',
            issuer.jwt,
            issuer.introspection("api", certificate),
        ):
            self.check_front(self.protect(tokens), token, clients)
        self.check_claims(self.protect_with_claims(issuer), token, clients)
        self.check_claims(self.start_application(issuer), token, clients)
        another = attrs.evolve(issuer, audience="api")
        self.check_rejected(self.protect(another.jwt), token, clients.owner)
