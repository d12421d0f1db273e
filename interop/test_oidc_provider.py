"""oidc-provider behind the proxy, openid-client in front of it: two certified implementations.

What has to be installed: :mod:`interop.oidc`. Everything runs with oidc-provider 8, which Node.js
18 can run, and with version 9.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from interop.oidc import OidcStage, base64_der, page
from interop.stage import ClientFiles, Proxy
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.forwarding.presets import PRESETS
from x509proxy.testing import ThrowAwayAuthority

_HEADER = "Client-Certificate"
# What is written on the page for the secret name, and what to write for none.
_CUSTOMARY = {'header-file = "header.txt"': ""}
# The preset's header as a client might spell it, and what other proxies call theirs.
_TWINS = (
    _HEADER, _HEADER.lower(), _HEADER.upper(), "Client_Certificate", "client.certificate",
    "Client-Cert",
    "X-Client-Certificate", "X-Forwarded-Client-Cert", "SSL-Client-Cert",
)  # fmt: skip


class SelfSignedClients(OidcStage):
    """``self_signed_tls_client_auth``, RFC 8705 section 2.2."""

    def test_tokens(self) -> None:
        """Check that EC and RSA clients get tokens, each bound to the client's own certificate."""
        clients = {
            kind.value: self.register(kind.value, kind) for kind in (KeyKind.EC, KeyKind.RSA)
        }
        self.serve()
        for name, files in clients.items():
            self.check_bound(self.play("credentials", name, files), files)

    def test_strangers(self) -> None:
        """A client with another's certificate, a new one of the same name, or none, is rejected."""
        self.register("victim")
        other = self.register("other")
        proxy = self.serve()
        for files in (other, self.client(common_name="victim")):
            self.assertEqual(
                {"status": 401, "error": "invalid_client"},
                self.play("credentials", "victim", files).get("refused"),
            )
        self.assertEqual(2, self.said.count("unregistered client certificate provided"))
        self.check_refused(*self.ask(proxy, "victim", {}))
        self.assertIn("client certificate was not provided", self.said)

    def test_forged_secret(self) -> None:
        """The secret name is of no use to a client, in any spelling.

        Past the proxy, it does.
        """
        victim = self.register("victim")
        proxy = self.serve()
        name = proxy.header_name
        self._forge(proxy, name, victim, (*_TWINS, name, name.lower(), name.replace("-", "_")))

    def test_forged_customary(self) -> None:
        """The same with a public name: the proxy protects it, and there is no way past it."""
        victim = self.register("victim")
        proxy = self.serve(self.toml("x509proxy.toml", _CUSTOMARY), secret=False)
        self._forge(proxy, _HEADER, victim, _TWINS)
        self.check_bound(self.play("credentials", "victim", victim), victim)

    def _forge(
        self, proxy: Proxy, name: str, victim: ClientFiles, spellings: tuple[str, ...]
    ) -> None:
        value = base64_der(victim)
        thief = self.client(common_name="thief")
        for files in (None, thief):
            for spelling in spellings:
                for fields in (
                    {spelling: value},
                    {spelling: value, "Connection": f"close, {name}"},
                ):
                    self.check_refused(*self.ask(proxy, "victim", fields, files))
        # So it is not for a fault in the forgery that it fails.
        status, answer = self.ask(None, "victim", {name: value})
        self.assertEqual((200, "Bearer"), (status, answer["token_type"]))

    def test_page(self) -> None:
        """The page's own lines work: a token with the certificate, none with a forged header."""
        self.register("my-client")
        proxy = self.serve(self.toml("x509proxy.toml", _CUSTOMARY), secret=False)
        place = {"https://as.example.com:8443": proxy.url}
        self.assertIn("access_token", json.loads(self.run_program("sh", "-c", page("ask", place))))
        self.assertEqual(
            "invalid_client",
            json.loads(self.run_program("sh", "-c", page("forge", place)))["error"],
        )

    def test_preset(self) -> None:
        """The line that ``x509proxy presets oidc-provider`` prints for the provider works."""
        client = self.register("client")
        (line,) = (
            line
            for line in PRESETS["oidc-provider"].server_lines
            if line.startswith("getCertificate: ")
        )
        mtls = page(
            "mtls.mjs", {"\n  getCertificate,\n": f"\n{line.replace('{name}', _HEADER)},\n"}
        )
        proxy = self.serve(self.toml("x509proxy.toml", _CUSTOMARY), secret=False, mtls=mtls)
        self.check_bound(self.play("credentials", "client", client), client)
        self.check_refused(*self.ask(proxy, "client", {}))


class CertifiedClients(OidcStage):
    """``tls_client_auth``, RFC 8705 section 2.1."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = _Authority()
        self.write("ca.pem", self.authority.pem)
        self.enrol("client", **_PKI, tls_client_auth_subject_dn="CN=client")
        self.enrol("named", **_PKI, tls_client_auth_san_dns="client.example")

    def test_tokens(self) -> None:
        """An issued certificate of the registered subject, or DNS name, gets a bound token."""
        client = self.client_files(self.authority.client("client"), "client")
        named = self.client_files(self.authority.named("whoever", "client.example"), "named")
        self.serve(self.toml("pki.toml"))
        self.check_bound(self.play("credentials", "client", client), client)
        self.check_bound(self.play("credentials", "named", named), named)

    def test_other_names(self) -> None:
        """A certificate that was issued to another client is rejected, for its name."""
        other = self.client_files(self.authority.named("other", "other.example"), "other")
        proxy = self.serve(self.toml("pki.toml"))
        for name in ("client", "named"):
            self.check_refused(*self.ask(proxy, name, {}, other))
        self.assertEqual(
            2, self.said.count("certificate subject value does not match the registered one")
        )

    def test_strangers(self) -> None:
        """With ``trust = "ca"`` the proxy itself rejects other and self-signed certificates."""
        proxy = self.serve(self.toml("pki.toml"))
        for stranger in self._strangers():
            self.check_refused(
                *self.ask(proxy, "client", {"X-Client-Cert-Verdict": "TRUSTED"}, stranger)
            )
        self.assertNotIn("client certificate was", self.said)

    def test_verdict(self) -> None:
        """Where the proxy passes all on, its verdict alone makes the provider refuse them.

        The client cannot send another.
        """
        proxy = self.serve(self.toml("pki.toml", {'trust = "ca"': 'trust = "any"'}))
        for stranger in self._strangers():
            self.check_refused(*self.ask(proxy, "client", _FORGED_WORDS, stranger))
        self.assertEqual(2, self.said.count("client certificate was not verified"))

    def test_no_verdict(self) -> None:
        """Where the configuration lacks these headers, a client's own do not replace them."""
        proxy = self.serve()
        for stranger in self._strangers():
            self.check_refused(*self.ask(proxy, "client", _FORGED_WORDS, stranger))
        self.assertEqual(2, self.said.count("client certificate was not verified"))
        # Past the proxy they do.
        value = base64_der(stranger)
        status, _ = self.ask(None, "client", {proxy.header_name: value, **_FORGED_WORDS})
        self.assertEqual(200, status)

    def _strangers(self) -> Iterator[ClientFiles]:
        yield self.client_files(_Authority().client("client"), "foreign")
        yield self.client_files(make_self_signed(KeyKind.EC, "client"), "self-signed")


_PKI = {"token_endpoint_auth_method": "tls_client_auth"}
_FORGED_WORDS = {"X-Client-Cert-Verdict": "TRUSTED", "X-Client-Cert-Subject": "CN=client"}


class _Authority(ThrowAwayAuthority):
    """One that issues certificates with a DNS name too.

    All of them have the same name, as an impostor would.
    """

    @property
    def pem(self) -> bytes:
        return SelfSigned(self.certificate, self._own.private_key).certificate_pem

    def named(self, common_name: str, dns_name: str) -> SelfSigned:
        return self._reissue(make_self_signed(KeyKind.EC, common_name, names=[dns_name]))


class TwoListeners(OidcStage):
    """Discovery, with the layout of RFC 8705 section 5: browsers get no certificate request."""

    def test_metadata(self) -> None:
        """The provider takes its address from the proxy alone, and lists both methods."""
        self.register("client")
        proxy = self.serve()
        metadata = self.play("discover", "client")["metadata"]
        self.assertEqual(f"{proxy.url}/token", metadata["token_endpoint"])
        self.assertTrue(metadata["tls_client_certificate_bound_access_tokens"])
        methods = {"tls_client_auth", "self_signed_tls_client_auth"}
        self.assertLessEqual(methods, set(metadata["token_endpoint_auth_methods_supported"]))
        self.assertNotIn("mtls_endpoint_aliases", metadata)
        forged = (
            "X-Forwarded-Host: evil.example",
            "X-Forwarded-Proto: http",
            "Forwarded: host=evil.example;proto=http",
        )
        fields = [word for field in forged for word in ("-H", field)]
        place = f"{proxy.url}/.well-known/openid-configuration"
        answer = self.run_program("curl", "-sS", "--cacert", str(proxy.authority), *fields, place)
        self.assertEqual(f"{proxy.url}/token", json.loads(answer)["token_endpoint"])

    def test_aliases_of_the_proxy(self) -> None:
        """``[discovery]`` leads openid-client to the listener that requests certificates."""
        discovery = page(
            "discovery.toml",
            {"https://mtls.example.com:8443": f"https://localhost:{self.ports.mtls}"},
        )
        self._follow_aliases(self._listeners() + discovery)

    def test_aliases_of_the_provider(self) -> None:
        """oidc-provider's own aliases pass through the proxy untouched, and lead there too."""
        text = page(
            "discovery.json",
            {"https://mtls.example.com:8443": f"https://localhost:{self.ports.mtls}"},
        )
        self._follow_aliases(self._listeners(), json.loads(text))

    def _listeners(self) -> str:
        place = {"tcp:443": f"tcp:{self.ports.plain}:interface=127.0.0.1"}
        return f"{self.toml('x509proxy.toml')}\n{page('listeners.toml', place)}\n"

    def _follow_aliases(self, toml: str, discovery: Mapping[str, object] | None = None) -> None:
        client = self.register("client")
        self.serve(toml, self.ports.plain, discovery)
        seen = self.play("credentials", "client", client, self.ports.plain, aliases=True)
        self.check_bound(seen, client)
        issuer, mtls = (f"https://localhost:{port}" for port in (self.ports.plain, self.ports.mtls))
        self.assertEqual(
            [
                f"{issuer}/.well-known/openid-configuration",
                f"{mtls}/token",
                f"{mtls}/token/introspection",
            ],
            seen["asked"],
        )
        # Without them the client uses the listener without certificate requests.
        stayed = self.play("credentials", "client", client, self.ports.plain)
        self.assertEqual({"status": 401, "error": "invalid_client"}, stayed.get("refused"))
        self.assertIn("client certificate was not provided", self.said)

    def test_sign_in(self) -> None:
        """A browser without a certificate signs in.

        The token is the client's, and worth nothing with another's certificate.
        """
        places = ["https://client.example/back"]
        client = self.register(
            "client",
            redirect_uris=places,
            grant_types=["authorization_code"],
            response_types=["code"],
        )
        thief = self.register("thief")
        discovery = page(
            "discovery.toml",
            {"https://mtls.example.com:8443": f"https://localhost:{self.ports.mtls}"},
        )
        self.serve(self._listeners() + discovery, self.ports.plain)
        seen = self.play("login", "client", client, self.ports.plain, aliases=True, thief=thief)
        self.check_bound(seen, client)
        self.assertEqual("somebody", seen["userinfo"]["sub"])
        self.assertEqual({"status": 401, "error": "invalid_token"}, seen["stolen"])


class SelfSignedClientsNine(SelfSignedClients):
    """The same with oidc-provider 9."""

    module = "oidc-provider-9"


class CertifiedClientsNine(CertifiedClients):
    """The same with oidc-provider 9."""

    module = "oidc-provider-9"


class TwoListenersNine(TwoListeners):
    """The same with oidc-provider 9."""

    module = "oidc-provider-9"
