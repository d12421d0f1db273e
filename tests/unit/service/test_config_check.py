"""Tests of :mod:`x509proxy.service.config_check`: the servers that a configuration names."""

from __future__ import annotations

from typing import Any, cast
from unittest.mock import patch

from twisted.internet.task import Clock

from tests.support.tokens import AskedServer, key_set
from tests.support.toml_files import TomlTestCase
from x509proxy.authorization import verifiers
from x509proxy.certificates.pem_files import new_header_name
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.service.config_check import probe
from x509proxy.settings import SettingsError

JWT = 'level = "jwt"\nissuer = "https://as.example"\naudience = ["a"]\n'
INTROSPECTION = """
level = "introspection"
introspection-url = "https://as.example/introspect"
client-id = "api"
client-secret-file = "secret.txt"
"""


class Online(TomlTestCase):
    def probe(self, tokens: str) -> Any:
        made = make_self_signed(KeyKind.EC, "localhost", server=True)
        self.write(made.certificate_pem + made.key_pem, 0o600, "server.pem")
        self.write(new_header_name(), 0o600, "header.txt")
        self.write("secret", 0o600, "secret.txt")
        self.write(key_set(), 0o600, "jwks.json")
        text = 'certificate = "server.pem"\nheader-file = "header.txt"\nbackend = "http://127.0.0.1:1"\n'
        path = self.write(text + (f"[tokens]\n{tokens}" if tokens else ""), 0o600, "proxy.toml")
        self.server = AskedServer()
        with patch.object(verifiers, "HttpClient", return_value=self.server):
            return probe(path, cast(Any, Clock()))

    def test_nothing_to_ask(self) -> None:
        """Without a server nothing is asked."""
        for tokens, sentence in (
            ("", "there is no server to ask"),
            ('level = "unverified"\n', "tokens: level unverified: good"),
            (JWT + 'jwks-file = "jwks.json"\n', "tokens: level jwt, 1 keys: good"),
        ):
            self.assertEqual(sentence, self.successResultOf(self.probe(tokens)))
            self.assertEqual([], self.server.urls)

    def test_keys(self) -> None:
        """Keys are fetched."""
        asked = self.probe(JWT + 'jwks-url = "https://as.example/jwks"\n')
        self.server.answer(key_set())
        self.assertEqual("tokens: level jwt, 1 keys: good", self.successResultOf(asked))

    def test_no_keys(self) -> None:
        """A server that has none is one sentence."""
        asked = self.probe(JWT)
        self.server.answer({"issuer": "https://evil.example"})
        error = self.failureResultOf(asked, SettingsError).value
        self.assert_sentence(
            error, "tokens: the authorization server: metadata: found another issuer"
        )

    def test_introspection(self) -> None:
        """A token that does not exist is introspected: its rejection shows the client's right."""
        asked = self.probe(INTROSPECTION)
        ((form, _),) = self.server.forms
        self.assertEqual(["x509proxy-check"], form["token"])
        self.server.answer({"active": False})
        self.assertEqual("tokens: level introspection: good", self.successResultOf(asked))

    def test_no_introspection(self) -> None:
        """A server that does not let this client ask is one sentence."""
        asked = self.probe(INTROSPECTION)
        self.server.answer({"error": "invalid_client"}, 401)
        error = self.failureResultOf(asked, SettingsError).value
        self.assert_sentence(
            error, "tokens: the authorization server: found status 401, expected 200"
        )
