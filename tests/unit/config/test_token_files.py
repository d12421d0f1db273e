"""Tests of :mod:`x509proxy.config.token_files`."""

from __future__ import annotations

import sys
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.tokens import AUDIENCE, ISSUER, key_set
from tests.support.toml_files import TomlTestCase
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.config.token_files import TokenFiles, read_token_files
from x509proxy.settings import SettingsError, TokenAlgorithm, TokenLevel, TokenSettings
from x509proxy.testing import ThrowAwayAuthority

JWT: dict[str, Any] = {"level": TokenLevel.JWT, "issuer": ISSUER, "audience": (AUDIENCE,)}


class Files(TomlTestCase):
    def read(self, **changes: Any) -> TokenFiles:
        found = read_token_files(TokenSettings(**{**JWT, **changes}))
        assert found is not None
        return found

    def test_none(self) -> None:
        """Without the table there is nothing to read."""
        self.assertIsNone(read_token_files(None))

    def test_key_set(self) -> None:
        """A JWK set is read and checked; for a level that needs none it is not."""
        path = self.write(key_set(), name="jwks.json")
        self.assertEqual(key_set(), self.read(jwks_file=path).key_set)
        self.assertIsNone(self.read(jwks_file=path, level=TokenLevel.UNVERIFIED).key_set)
        self.assertIsNone(self.read().key_set)

    def test_bad_key_set(self) -> None:
        """A file that is no JWK set is one sentence with its name."""
        path = str(self.folder / "jwks.json")
        for data in (b"", b'{"keys": []}', b"{}"):
            self.write(data, name="jwks.json")
            error = self.assertRaises(SettingsError, self.read, jwks_file=path)
            self.assert_sentence(error, f"tokens.jwks-file: {path}: found no ")
        error = self.assertRaises(SettingsError, self.read, jwks_file=path + "x")
        self.assert_sentence(error, f"tokens.jwks-file: {path}x: found a file that cannot be read")

    def test_authorities(self) -> None:
        """The authorities of the issuer's server are read."""
        authority = ThrowAwayAuthority()
        pem = authority.certificate.public_bytes(Encoding.PEM)
        path = self.write(pem, name="ca.pem")
        self.assertEqual((authority.certificate,), self.read(ca=path).authorities)
        self.assertIsNone(self.read().authorities)

    def test_client(self) -> None:
        """The secret, or the certificate, for the authorization server is read.

        Others may not read them.
        """
        asked: dict[str, Any] = {"level": TokenLevel.INTROSPECTION, "client_id": "api"}
        path = self.write("secret\n", 0o600, "secret.txt")
        found = self.read(**asked, client_secret_file=path)
        self.assertEqual("secret", found.client_secret)
        self.assertNotIn("secret", repr(found).replace("client_secret_file", "").replace(path, ""))
        self.write("secret\n", 0o644, "secret.txt")
        error = self.assertRaises(SettingsError, self.read, **asked, client_secret_file=path)
        self.assert_sentence(error, f"tokens.client-secret-file: {path}: ")
        made = make_self_signed(KeyKind.EC, "api")
        pem = self.write(made.certificate_pem + made.key_pem, 0o600, "api.pem")
        identity = self.read(**asked, certificate=pem).identity
        assert identity is not None
        self.assertEqual(made.certificate, identity.certificate)
        # A key that was read again is another object.
        self.assertEqual(self.read(**asked, certificate=pem), self.read(**asked, certificate=pem))
        error = self.assertRaises(SettingsError, self.read, private_key=pem)
        self.assert_sentence(error, "tokens.certificate: found none")

    def test_no_library(self) -> None:
        """Level ``jwt`` without joserfc is one sentence; level ``unverified`` needs none."""
        with patch.dict(sys.modules, {"joserfc": None}):
            error = self.assertRaises(SettingsError, self.read)
            self.read(level=TokenLevel.UNVERIFIED)
        self.assert_sentence(error, "tokens.level: found jwt without joserfc")

    def test_toml(self) -> None:
        """Every key can be written in TOML; files are relative to its folder."""
        loaded = self.load(
            f"""
            [tokens]
            level = "jwt"
            issuer = "{ISSUER}"
            audience = ["{AUDIENCE}"]
            algorithms = ["ES256", "EdDSA"]
            types = ["at+jwt", "JWT"]
            clock-skew = 5
            jwks-file = "jwks.json"
            ca = "ca.pem"
            key-lifetime = 60
            min-refresh-interval = 1
            timeout = 2
            max-response-bytes = 1000
            max-pending-checks = 2
            """
        ).tokens
        assert loaded is not None
        self.assertEqual((TokenAlgorithm.ES256, TokenAlgorithm.EDDSA), loaded.algorithms)
        self.assertEqual(str((self.folder / "jwks.json").absolute()), loaded.jwks_file)
        self.assertEqual(str((self.folder / "ca.pem").absolute()), loaded.ca)


class Settings(TomlTestCase):
    def error(self, **changes: Any) -> str:
        return str(self.assertRaises(SettingsError, TokenSettings, **{**JWT, **changes}))

    def test_needed(self) -> None:
        """Level ``jwt`` needs an issuer and an audience, and an algorithm at least."""
        self.assertIn("issuer: found none", self.error(issuer=None))
        self.assertIn("audience: found none", self.error(audience=()))
        self.assertIn("algorithms: found none", self.error(algorithms=()))
        self.assertIn("jwks-url: found both", self.error(jwks_file="a", jwks_url=ISSUER))
        TokenSettings(level=TokenLevel.UNVERIFIED)

    def test_introspection(self) -> None:
        """Level ``introspection`` needs to know where, who asks, and with what."""
        asked: dict[str, Any] = {"level": TokenLevel.INTROSPECTION, "audience": ()}
        self.assertIn("introspection-url: found neither", self.error(**asked, issuer=None))
        self.assertIn("client-id: found none", self.error(**asked))
        for given, found in (
            ({}, "neither"),
            ({"client_secret_file": "a", "certificate": "b"}, "both"),
        ):
            sentence = self.error(**asked, client_id="a", **given)
            self.assertIn(
                f"client-secret-file: found {found} client-secret-file and certificate", sentence
            )
        TokenSettings(**{**JWT, **asked, "client_id": "a", "client_secret_file": "b"})

    def test_urls(self) -> None:
        """URLs are https, or http to this host; a wrong one is not repeated."""
        for url in ("https://a", "https://a:8443/b/c", "https://[2001:db8::1]/", "http://localhost:1/a",
                    "http://127.0.0.1/", "http://[::1]:8080"):  # fmt: skip
            TokenSettings(**{**JWT, "issuer": url, "jwks_url": url + "?a=b"})
        for url in ("", "a", "ftp://a", "https://", "https://secret@a", "https://a/#secret",
                    "https://a b", "https://a\n", "https://a:0", "https://a:65536", "//a",
                    "https://ä.example"):  # fmt: skip
            for name in ("issuer", "jwks_url", "introspection_url"):
                sentence = self.error(**{name: url})
                self.assertIn(": found no URL, expected one such as https://", sentence)
                self.assertNotIn("secret", sentence)
        for url in ("http://as.example", "http://localhost.example/", "http://127.0.0.1.example"):
            self.assertIn("issuer: found http, expected https", self.error(issuer=url))
        self.assertIn("issuer: found a query", self.error(issuer="https://a/?b"))

    def test_secret_algorithms(self) -> None:
        """No algorithm with a shared secret can be configured, nor ``none``."""
        for name in ("HS256", "none"):
            sentence = self.refusal(
                f'[tokens]\nlevel = "jwt"\nissuer = "{ISSUER}"\naudience = ["a"]\n'
                f'algorithms = ["{name}"]'
            )
            self.assertIn(f"tokens.algorithms[0]: found '{name}', expected RS256, ", sentence)
