"""Keycloak behind the proxy: ``tls_client_auth`` and bound tokens through each of its look-ups.

:mod:`interop.keycloak_server` names the version and how it is installed. Each test starts the
server once, with the configuration of ``docs/servers``, since a look-up is an option of its build.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from urllib.parse import quote

from interop.arrivals import der, spellings
from interop.keycloak_server import Keycloak, KeycloakStage
from interop.oidc import x5t
from interop.recipes import recipe
from interop.stage import ClientFiles, Proxy
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.testing import ThrowAwayAuthority

_PAGE = "servers/keycloak"


def _base64(client: ClientFiles) -> str:
    return b64encode(der(client.made)).decode("ascii")


def _pem(client: ClientFiles) -> str:
    return client.made.certificate_pem.decode("ascii")


class LookUps(KeycloakStage):
    def test_nginx(self) -> None:
        """URL-encoded PEM, and the verdict of the proxy, which Keycloak requires."""
        self.exercise("keycloak-nginx", "ssl-client-cert", lambda of: quote(_pem(of), safe=""))

    def test_apache(self) -> None:
        """PEM with a space for each line end."""
        value = lambda of: _pem(of).strip().replace("\n", " ")  # noqa: E731
        self.exercise("keycloak-apache", "SSL_CLIENT_CERT", value)

    def test_haproxy(self) -> None:
        """The DER in base64."""
        self.exercise("keycloak-haproxy", "SSL_CLIENT_CERT", _base64)

    def test_rfc9440(self) -> None:
        """A byte sequence of RFC 9440."""
        self.exercise("keycloak-rfc9440", "Client-Cert", lambda of: f":{_base64(of)}:")

    def test_traefik(self) -> None:
        """The header of Traefik, with the preset ``traefik``."""
        self.exercise("traefik", "X-Forwarded-Tls-Client-Cert", _base64)

    def test_envoy(self) -> None:
        """The header of Envoy, with the preset ``xfcc``."""
        value = lambda of: f'Cert="{quote(_pem(of), safe="")}"'  # noqa: E731
        self.exercise("xfcc", "X-Forwarded-Client-Cert", value)

    def exercise(self, preset: str, header: str, value: Callable[[ClientFiles], str]) -> None:
        """Start both servers as on the pages, and check each promise of the page."""
        server = self.start_keycloak(self.configuration(preset))
        proxy = self.proxy_for(server, f"servers/{preset}", {})
        self.mine, self.other = self.issued("client"), self.issued("other")
        self.check_tokens(proxy)
        self.check_refusals(proxy)
        self.check_forged(server, proxy, header, value)
        self.check_strangers(server, preset)

    def configuration(self, preset: str) -> str:
        """Return ``keycloak.conf``: what is common to all look-ups, and the look-up."""
        if preset in ("traefik", "xfcc"):
            return recipe(_PAGE, "keycloak.conf") + recipe(_PAGE, f"{preset}.conf")
        return recipe(_PAGE, "keycloak.conf") + recipe(f"servers/{preset}", "keycloak.conf")

    def check_tokens(self, proxy: Proxy) -> None:
        """Check that a token names the certificate, and is worth nothing with another one."""
        token = self.assert_bound(self.token(proxy, "client", self.mine), self.mine)
        report = self.introspect(proxy, token, "other", self.other)
        self.assertEqual(200, report.status, report.body)
        self.assertTrue(report.body["active"])
        self.assertEqual({"x5t#S256": x5t(self.mine)}, report.body["cnf"])
        self.assertEqual(200, self.userinfo(proxy, token, self.mine).status)
        for thief in (self.other, None):
            stolen = self.userinfo(proxy, token, thief)
            self.assertEqual(401, stolen.status)
            self.assertIn('error="invalid_token"', stolen.challenge)

    def check_refusals(self, proxy: Proxy) -> None:
        """Check that another client's certificate, and none, are rejected."""
        for files in (self.other, None):
            self.assert_refused(self.token(proxy, "client", files))
        self.assert_bound(self.token(proxy, "other", self.other), self.other)

    def check_forged(
        self, server: Keycloak, proxy: Proxy, header: str, value: Callable[[ClientFiles], str]
    ) -> None:
        """Check that the header has no effect through the proxy, and has past it."""
        forged = value(self.mine)
        genuine = {header: forged, "ssl-client-verify": "SUCCESS"}
        self.assert_bound(self.token_past_the_proxy(server, "client", genuine), self.mine)
        for name in spellings(header):
            for more in ({}, {"Connection": f"close, {header}"}):
                fields = {name: forged, "ssl-client-verify": "SUCCESS", **more}
                for files in (self.other, None):
                    self.assert_refused(self.token(proxy, "client", files, fields), name)
        self.wait_for_log(proxy, "forged header")

    def check_strangers(self, server: Keycloak, preset: str) -> None:
        """Check that the proxy rejects a subject alone; and Keycloak, if it verifies."""
        strangers = [
            self.client_files(ThrowAwayAuthority("Bank CA").client("client"), "foreign"),
            self.client_files(make_self_signed(KeyKind.EC, "client"), "self-signed"),
        ]
        proxy = self.proxy_for(server, f"servers/{preset}", {'trust = "ca"': 'trust = "ca" '})
        for files in strangers:
            self.assertEqual(401, self.token(proxy, "unpinned", files).status)
        toml = {'trust = "ca"': 'trust = "any"', 'ca = "ca.pem"': ""}
        proxy = self.proxy_for(server, f"servers/{preset}", toml)
        for files in strangers:
            self.assert_refused(self.token(proxy, "client", files))
            answer = self.token(proxy, "unpinned", files)
            if preset == "keycloak-nginx":
                # The look-up reads the verdict of the proxy.
                self.assert_refused(answer)
            else:
                self.assert_bound(answer, files)
