"""Tests of :mod:`x509proxy.config.loader`."""

from __future__ import annotations

import random
import shutil
import string
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.exhaustive import examples
from tests.support.files import FileTestCase
from tests.support.names import NAME
from tests.support.pem import ISSUER, KEY, LEAF, OTHER_KEY, certificate_for, pem
from tests.support.toml_files import TomlTestCase
from x509proxy.certificates.config_files import RecordedFiles
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.certificates.trust_store import TrustStore
from x509proxy.config.loader import (
    Configuration,
    load_configuration,
    load_settings,
    override,
    read_configuration,
    with_lines,
)
from x509proxy.http1.fields import fold
from x509proxy.settings import (
    Backend,
    CertificateRequirement,
    ClientAuth,
    ClientSettings,
    Format,
    HeaderSettings,
    InvalidNames,
    ProxySettings,
    RuleSettings,
    Scheme,
    SettingsError,
    TlsVersion,
    TokenLevel,
    TokenRequirement,
    TokenSettings,
    Trust,
    UpstreamSettings,
)

DAY = 24 * 3600.0


class LoadSettingsTests(TomlTestCase):
    def test_empty(self) -> None:
        """An empty file means the defaults."""
        self.assertEqual(self.load(""), ProxySettings())

    def test_values(self) -> None:
        """Keys are written with hyphens, the fine settings in tables."""
        loaded = self.load(
            """
            preset = "xfcc"
            client-certificate = "required"
            [tls]
            minimum-version = "1.3"
            [client]
            head-timeout = 3
            invalid-header-names = "refuse"
            """
        )
        self.assertEqual((loaded.preset, loaded.client_certificate), ("xfcc", ClientAuth.REQUIRED))
        self.assertEqual(loaded.tls.minimum_version, TlsVersion.TLS_1_3)
        self.assertEqual(
            (loaded.client.head_timeout, loaded.client.invalid_header_names),
            (3.0, InvalidNames.REFUSE),
        )

    def test_one_or_many(self) -> None:
        """A single back end or endpoint needs no brackets."""
        loaded = self.load('backend = "http://a"\nlisten = ["tcp:1", "tcp:2"]')
        self.assertEqual((loaded.backend, loaded.listen), (("http://a",), ("tcp:1", "tcp:2")))

    def test_relative_paths(self) -> None:
        """Files are looked for beside the TOML file, and their paths are absolute afterwards."""
        loaded = self.load(
            """
            certificate = "server.pem"
            private-key = "../key.pem"
            header-file = "/run/name"
            ca = "ca/all.pem"
            access-log = "log"
            upstream.ca = "u.pem"
            upstream.certificate = "/u/c.pem"
            upstream.private-key = "u.key"
            """
        )
        folder = self.folder.absolute()
        found = (
            loaded.certificate,
            loaded.private_key,
            loaded.header_file,
            loaded.ca,
            loaded.access_log,
        )
        self.assertEqual(
            found,
            (
                f"{folder}/server.pem",
                f"{folder}/../key.pem",
                "/run/name",
                f"{folder}/ca/all.pem",
                f"{folder}/log",
            ),
        )
        upstream = (loaded.upstream.ca, loaded.upstream.certificate, loaded.upstream.private_key)
        self.assertEqual(upstream, (f"{folder}/u.pem", "/u/c.pem", f"{folder}/u.key"))

    def test_relative_paths_in_lists(self) -> None:
        """Files in lists and in tables of lists are looked for there too.

        One list needs no brackets.
        """
        tables = (
            '[[certificates]]\ncertificate = "a.pem"\n[[certificates]]\ncertificate = "/b.pem"\n'
            'private-key = "b.key"'
        )
        loaded, folder = self.load(f'crl = ["a.crl", "/b.crl"]\n{tables}'), self.folder.absolute()
        self.assertEqual(loaded.crl, (f"{folder}/a.crl", "/b.crl"))
        found = [(one.certificate, one.private_key) for one in loaded.certificates]
        self.assertEqual(found, [(f"{folder}/a.pem", None), ("/b.pem", f"{folder}/b.key")])
        self.assertEqual(self.load('crl = "a.crl"').crl, (f"{folder}/a.crl",))

    def test_depth(self) -> None:
        """The depth of a chain has bounds."""
        self.assertEqual(self.load("ca-depth = 10").ca_depth, 10)
        self.assertEqual(
            self.mistake("ca-depth = 11"), "FILE: ca-depth: found 11, expected 1 to 10"
        )
        self.assertEqual(
            self.mistake("ca-depth = 0"), "FILE: ca-depth: found 0, expected a number above zero"
        )
        self.assertEqual(
            self.mistake("workers = 257"), "FILE: workers: found 257, expected 1 to 256"
        )
        self.assertEqual(
            self.mistake('key-types = ["ec", "ec"]'),
            "FILE: key-types: found one twice, expected each once",
        )

    def test_standard_output(self) -> None:
        """A hyphen is no file for the access log."""
        self.assertEqual(self.load('access-log = "-"').access_log, "-")

    def test_missing(self) -> None:
        """A missing file is named."""
        error = self.assertRaises(SettingsError, load_settings, "none.toml")
        self.assertIn("config: none.toml: found a file that cannot be read: No such", str(error))

    def test_syntax(self) -> None:
        """A syntax error of TOML has file and line."""
        self.assertEqual(
            self.refusal("demo = true\nlisten tcp"),
            "FILE: line 2: Expected '=' after a key in a key/value pair, expected TOML",
        )
        self.assertEqual(
            self.refusal("demo = true\nca = \n\n"), "FILE: line 2: Invalid value, expected TOML"
        )
        self.assertIn("FILE: line 3: Invalid value", self.refusal("\n\nca = "))

    def test_hardly_text(self) -> None:
        """Each content of a file gives a sentence."""
        self.assertEqual(
            self.refusal(b"demo = true\n# \xff"),
            "FILE: line 2: found bytes that are not UTF-8, expected TOML",
        )
        self.assertIn("FILE: line 1: ", self.refusal("a = " + "[" * 5000))
        self.assertIn("FILE: line 1: ", self.refusal("a = " + "1" * 5000))

    def test_unknown_key(self) -> None:
        """An unknown key is named with its table, and the nearest known one is offered."""
        self.assertEqual(
            self.mistake("lisen = 1"), "FILE: lisen: found an unknown key, expected listen"
        )
        self.assertEqual(
            self.mistake("[client]\nhead_timout = 1"),
            "FILE: client.head_timout: found an unknown key, expected client.head-timeout",
        )
        self.assertIn(
            "FILE: tls.zzz: found an unknown key, expected minimum-version",
            self.mistake("[tls]\nzzz = 1"),
        )
        self.assertIn(
            "found an unknown key, expected client-certificate, trust, ",
            self.mistake("'a` - at `$.b' = {c = 1}"),
        )

    def test_wrong_type(self) -> None:
        """A value of another type is named by its dotted key, in the words of TOML."""
        strings = "expected a string or an array of strings: at least one endpoint such as tcp:8443"
        for text, sentence in (
            (
                "client.max-requests-per-connection = 'x'",
                "client.max-requests-per-connection: found a string, expected an integer",
            ),
            (
                "client.head-timeout = true",
                "client.head-timeout: found true or false, expected a number",
            ),
            ("listen = [1]", "listen[0]: found an integer, expected a string"),
            ("listen = 1", f"listen: found an integer, {strings}"),
            ("crl = 1", "crl: found an integer, expected a string or an array of strings"),
            ("client = 1", "client: found an integer, expected a table, written [client]"),
            ("[[client]]\nx = 1", "client: found an array, expected a table, written [client]"),
            ("[rules]\npath = '/a'", "rules: found a table, expected an array, written [[rules]]"),
            (
                "[[admin]]\nlisten = 'unix:/a'",
                "admin: found an array, expected a table, written [admin]",
            ),
            ("listen = {}", f"listen: found a table, {strings}"),
            ("demo = 'yes'", "demo: found a string, expected true or false"),
            ("ca = 2026-01-01", "ca: found a date, expected a string"),
            ("header = 1", "header: found an integer, expected a string"),
            ("listen = [[]]", "listen[0]: found an array, expected a string"),
            ("listen.x = 1", f"listen: found a table, {strings}"),
        ):
            self.assertEqual(self.mistake(text), f"FILE: {sentence}")

    def test_wrong_word(self) -> None:
        """Where there is a choice, the choices are listed, whatever was found."""
        for text, sentence in (
            ("trust = 'x'", "trust: found 'x', expected any, self-signed, ca or either"),
            ("trust = ['x']", "trust: found an array, expected any, self-signed, ca or either"),
            (
                "tls.minimum-version = 1.2",
                "tls.minimum-version: found a number, expected 1.2 or 1.3",
            ),
            (
                "client.invalid-header-names = '` - at `$.x`'",
                "client.invalid-header-names: found '` - at `$.x`', expected drop or refuse",
            ),
        ):
            self.assertEqual(self.mistake(text), f"FILE: {sentence}")

    def test_wrong_number(self) -> None:
        """A number that would switch off a limit is named by its dotted key."""
        for text, sentence in (
            (
                "client.max-requests-per-connection = 0",
                "client.max-requests-per-connection: found 0, expected a number above zero",
            ),
            (
                "client.head-timeout = inf",
                "client.head-timeout: found inf, expected a number above zero",
            ),
            (
                "max-certificate-bytes = -1",
                "max-certificate-bytes: found -1, expected a number above zero",
            ),
        ):
            self.assertEqual(self.mistake(text), f"FILE: {sentence}")

    def test_header_is_private(self) -> None:
        """A file with the name in it is as secret as a header-file."""
        self.assertEqual(self.load(f"header = '{NAME}'", 0o600).header, NAME)
        self.assertIn(
            "FILE: header: found mode 0644, expected 0600",
            self.mistake(f"header = '{NAME}'", 0o644),
        )

    def test_told_name_is_private(self) -> None:
        """So is one with something like a secret in its own headers, as a name or as a value."""
        for key, more in (("name", ""), ("value", 'name = "X-Key"\n')):
            text = f"[[headers]]\nformat = 'literal'\n{more}{key} = '{NAME}'"
            self.assertEqual(1, len(self.load(text, 0o600).headers))
            found = (
                f"FILE: headers[0].{key}: found mode 0644, expected 0600: "
                "no access for group and others"
            )
            self.assertEqual(found, self.mistake(text, 0o644))
        self.load(
            "[[headers]]\nformat = 'literal'\nname = 'X-Client-Certificate-Verification-Result'\n"
            "value = 'x509proxy'",
            0o644,
        )
        self.assertIn("headers[0]: found an integer", self.mistake("headers = [1]", 0o644))
        self.assertIn("headers: found an integer", self.mistake("headers = 1", 0o644))
        self.assertIn(
            "headers[0].name: found an integer",
            self.mistake("[[headers]]\nname = 1\nformat = 'pem'", 0o644),
        )

    @settings(deadline=None, max_examples=examples(20, 100))
    @given(st.integers())
    def test_name_is_never_told(self, seed: int) -> None:
        """Wherever the name is put by mistake, the error does not repeat it."""
        name = "Sec-Client-X509-Cert-" + "".join(
            random.Random(seed).choices(string.ascii_letters + string.digits, k=32)
        )
        for text in (
            f"{name} = 1",
            f"client.{name} = 1",
            f"trust = '{name}'",
            f"tls.minimum-version = '{name}'",
            f"header = ['{name}']",
            f"header = {name}",
            f"[header.{name}]\n[header.{name}]",
            f"header = {{{name} = 1, {name} = 2}}",
            f"header = '{name}",
        ):
            self.assertNotIn(name, self.refusal(text))
        error = self.assertRaises(SettingsError, load_settings, f"/nowhere/{name}")
        self.assertNotIn(name, str(error))


class Lines(FileTestCase):
    def placed(self, path: str, *sentences: str) -> list[str]:
        return [*with_lines(SettingsError(*sentences), path).sentences]

    def test_known(self) -> None:
        """A sentence about a key of the file begins with the file and the key's line."""
        path = self.write('preset = "xfcc"\n[tls]\nciphers = ""\n', name="proxy.toml")
        self.assertEqual(
            [f"{path}: line 3: tls.ciphers: found", "workers: found", "one of two"],
            self.placed(path, "tls.ciphers: found", "workers: found", "one of two"),
        )

    def test_unreadable(self) -> None:
        """A file that is gone or is not UTF-8 leaves the sentences as they are."""
        for path in ("/nowhere/proxy.toml", self.write(b"\xff", name="proxy.toml")):
            self.assertEqual(["preset: found"], self.placed(path, "preset: found"))


class OverrideTests(FileTestCase):
    def refusal(self, **changes: object) -> str:
        return str(self.assertRaises(SettingsError, override, ProxySettings(), changes))

    def test_command_line_wins(self) -> None:
        """Given values replace, the others stay."""
        before = ProxySettings(
            backend=("http://a",),
            trust=Trust.CA,
            client=ClientSettings(max_requests_per_connection=7),
        )
        after = override(
            before,
            {
                "backend": ("unix:/a", "unix:/b"),
                "client_certificate": "required",
                "max_certificate_bytes": "99",
            },
        )
        self.assertEqual(
            (after.backend, after.client_certificate), (("unix:/a", "unix:/b"), ClientAuth.REQUIRED)
        )
        self.assertEqual(
            (after.trust, after.client.max_requests_per_connection, after.max_certificate_bytes),
            (Trust.CA, 7, 99),
        )

    def test_not_given(self) -> None:
        """An option that was not given changes nothing."""
        before = ProxySettings(backend=("http://a",), demo=True, ca="x")
        self.assertEqual(
            override(before, {"backend": (), "listen": [], "demo": False, "ca": None}), before
        )

    def test_empty_text(self) -> None:
        """An empty value was given, and is not taken for none."""
        self.assertEqual(override(ProxySettings(ca="x"), {"ca": ""}).ca, "")

    def test_single_text(self) -> None:
        """A single back end may be plain text, and a flag a flag."""
        after = override(ProxySettings(), {"backend": "http://a", "demo": True})
        self.assertEqual((after.backend, after.demo), (("http://a",), True))

    def test_namings(self) -> None:
        """Either way to name the header replaces both.

        Only the command line itself can contradict itself.
        """
        self.assertEqual(
            _namings(override(ProxySettings(header_file="f"), {"header": "h"})), ("h", None)
        )
        self.assertEqual(
            _namings(override(ProxySettings(header="h"), {"header_file": "f"})), (None, "f")
        )
        self.assertEqual(
            _namings(override(ProxySettings(), {"header_file": "f", "header": "h"})), ("h", "f")
        )
        self.assertEqual(_namings(override(ProxySettings(header="h"), {"ca": "c"})), ("h", None))

    def test_bad_value(self) -> None:
        """An unfit value is named by its option."""
        self.assertEqual(
            self.refusal(trust="x"), "--trust: found 'x', expected any, self-signed, ca or either"
        )
        self.assertEqual(
            self.refusal(client_certificate="x"),
            "--client-certificate: found 'x', expected none, optional or required",
        )
        self.assertEqual(
            self.refusal(max_certificate_bytes="x"),
            "--max-certificate-bytes: found a string, expected an integer",
        )
        self.assertEqual(
            self.refusal(max_certificate_bytes="0"),
            "--max-certificate-bytes: found 0, expected a number above zero",
        )
        self.assertEqual(
            self.refusal(max_certificate_bytes="16385"),
            "--max-certificate-bytes: found 16385, expected 16384 or less",
        )
        self.assertEqual(self.refusal(ca=object), "--ca: found type, expected a string")

    def test_unknown_option(self) -> None:
        """An option that there is not is an error too."""
        self.assertEqual(self.refusal(lisen="x"), "--lisen: found an unknown key, expected listen")


def _namings(of: ProxySettings) -> tuple[str | None, str | None]:
    return of.header, of.header_file


class LoadConfigurationTests(FileTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.key = self.write(pem(KEY), name="server.key")
        self.good: dict[str, object] = {
            "certificate": self.write(pem(LEAF, ISSUER), 0o644, "server.pem"),
            "private_key": self.key,
            "header_file": self.write(NAME, name="header.txt"),
            "backend": ("http://127.0.0.1:8080",),
        }
        self.bundle = self.write(pem(ISSUER), 0o644, "ca.pem")

    def load(
        self, now: float | None = None, upstream: UpstreamSettings | None = None, **changes: object
    ) -> Configuration:
        """Return the good settings with changes; ``None`` removes one."""
        told = {name: value for name, value in (self.good | changes).items() if value is not None}
        base = ProxySettings(upstream=upstream or UpstreamSettings(), listen=("tcp:1",))
        return load_configuration(override(base, told), now)

    def refusal(self, upstream: UpstreamSettings | None = None, **changes: object) -> str:
        error: SettingsError = self.assertRaises(
            SettingsError, self.load, None, upstream, **changes
        )
        self.assert_sentence(error)
        self.assertNotIn(NAME, str(error))
        return str(error)

    def test_good(self) -> None:
        """Everything is read, and there is nothing to warn of."""
        found = self.load()
        self.assertEqual((found.identity.certificate, found.identity.chain), (LEAF, (ISSUER,)))
        self.assertEqual(
            found.backends, (Backend(scheme=Scheme.HTTP, host="127.0.0.1", port=8080),)
        )
        self.assertEqual(
            [(plan.form, plan.name) for plan in found.rules.plans], [(Format.PEM, NAME.encode())]
        )
        self.assertEqual(
            found.rules.secrets, (fold(NAME.encode()).removeprefix(b"sec-client-x509-cert-"),)
        )
        self.assertEqual((found.trusted, found.extra_identities), (TrustStore(), ()))
        self.assertEqual((found.upstream_authorities, found.upstream_identity), (None, None))
        self.assertEqual(found.warnings, ())

    def claims(self, level: TokenLevel, **changes: Any) -> Configuration:
        """Load settings with a header for the claims of tokens."""
        settings = override(ProxySettings(), self.good)
        table = TokenSettings(
            level=level, issuer="https://a", audience=("b",), jwks_url="https://a/b"
        )
        own = HeaderSettings(format=Format.TOKEN_CLAIMS, name="X-My-Claims")
        rule = RuleSettings(path="/api", token=TokenRequirement.BOUND)
        more = {"tokens": table, "rules": (rule,), "headers": (own,), **changes}
        return load_configuration(msgspec.structs.replace(settings, **more))

    def test_claims(self) -> None:
        """Verified claims are a header like any other, with a limit of its own."""
        plan = self.claims(TokenLevel.JWT).rules.plans[1]
        self.assertEqual(
            (Format.TOKEN_CLAIMS, b"X-My-Claims", 8192), (plan.form, plan.name, plan.maximum)
        )
        own = HeaderSettings(format=Format.TOKEN_CLAIMS, name="X-Mine", max_value_bytes=99)
        self.assertEqual(99, self.claims(TokenLevel.JWT, headers=(own,)).rules.plans[1].maximum)

    def test_unverified_claims(self) -> None:
        """Claims that nothing verifies are an error, and so are those that no rule has."""
        preset = {"preset": "token-claims", "header_file": None, "headers": ()}
        for more in ({}, preset):
            for level, changes, begin in (
                (TokenLevel.UNVERIFIED, {}, "tokens.level: found unverified beside a header"),
                (
                    TokenLevel.JWT,
                    {"rules": ()},
                    "rules: found none with token, expected one, since",
                ),
            ):
                error = self.assertRaises(SettingsError, self.claims, level, **more, **changes)
                self.assert_sentence(error)
                self.assertTrue(str(error).startswith(begin), error)

    def test_repr_is_silent(self) -> None:
        """Neither name nor key shows in a traceback."""
        text = repr(self.load(header_file=None, header=NAME))
        self.assertNotIn(NAME, text)
        self.assertNotIn(NAME.lower(), text)
        self.assertNotIn("PrivateKey", text)

    def test_one_file(self) -> None:
        """Certificate and key may be in one file."""
        both = self.write(pem(LEAF, KEY), name="both.pem")
        self.assertEqual(self.load(certificate=both, private_key=None).identity.certificate, LEAF)

    def test_missing(self) -> None:
        """Each required key is asked for."""
        self.assertIn(
            "certificate: found none, expected a PEM file", self.refusal(certificate=None)
        )
        self.assertIn("backend: found none, expected at least one URL", self.refusal(backend=None))
        error = self.assertRaises(SettingsError, load_configuration, ProxySettings(listen=()))
        self.assert_sentence(error, "listen: found none, expected at least one endpoint")

    def test_bad_backend(self) -> None:
        """A back end that is no URL is named."""
        self.assertIn("backend: found 'ftp://x'", self.refusal(backend=("http://a", "ftp://x")))

    def test_backend_that_cannot_be_verified(self) -> None:
        """A host's name that no certificate has is an error with https."""
        for host in ("-a.example", "a_b.example", "xn--a.example"):
            self.assertIn(
                f"backend: found '{host}' with https", self.refusal(backend=(f"https://{host}",))
            )
            self.assertEqual(host, Backend.parse(f"http://{host}").host)
        for host in ("localhost", "as.example", "192.0.2.1", "[::1]"):
            Backend.parse(f"https://{host}:8443/base")

    def test_keys_in_a_backend(self) -> None:
        """A query is not shown, nor a fragment, nor a user name: each may hold a key."""
        for url in (
            "http://h?token=SECRETKEY",
            "http://h/#SECRETKEY",
            "http://me:SECRETKEY@h",
            "ftp://h/?a\n=SECRETKEY",
        ):
            self.assertNotIn("SECRETKEY", self.refusal(backend=(url,)))

    def test_long_socket(self) -> None:
        """A path that is longer than a socket's may be cannot be connected to."""
        self.assertIn(
            "found a socket's path of 108 bytes", self.refusal(backend=("unix:/" + "x" * 107,))
        )

    def test_two_rules_for_one(self) -> None:
        """Two rules for the same requests contradict each other, or one is too many."""
        rule = RuleSettings(client_certificate=CertificateRequirement.OPTIONAL, path="/a")
        error = self.assertRaises(
            SettingsError, ProxySettings, rules=(rule, msgspec.structs.replace(rule))
        )
        self.assert_sentence(error, "rules: found two for the same path, server name and method")
        capitals = RuleSettings(client_certificate=CertificateRequirement.REQUIRED, path="/A")
        error = self.assertRaises(SettingsError, ProxySettings, rules=(rule, capitals))
        self.assert_sentence(error, "rules: found two for the same path, server name and method")

    def test_unknown_preset(self) -> None:
        """A preset that there is not is named, unless it is the header's name."""
        self.assertIn("preset: found 'x', expected one of connect2id", self.refusal(preset="x"))
        self.assertIn("preset: found '…'", self.refusal(preset=NAME))

    def test_open_preset(self) -> None:
        """A preset that leaves the name open needs it once, and it must be good."""
        self.assertIn(
            "header-file: found none, expected a file with the secret header name",
            self.refusal(header_file=None),
        )
        self.assertIn(
            "found both header-file and header, expected one of them", self.refusal(header=NAME)
        )
        self.assertIn(
            "header: found a header name of 12 characters",
            self.refusal(header_file=None, header="X-Clientcert"),
        )
        self.assertIn("header-file: ", self.refusal(header_file=self.write("X-Cert", name="short")))

    def test_fixed_preset(self) -> None:
        """A preset with fixed names takes no other."""
        self.assertIn(
            "header-file: found one, expected none, since preset xfcc", self.refusal(preset="xfcc")
        )
        self.assertIn(
            "header: found one, expected none",
            self.refusal(preset="xfcc", header_file=None, header=NAME),
        )
        rules = self.load(preset="rfc9440", header_file=None).rules
        self.assertEqual(
            [plan.name for plan in rules.plans], [b"Client-Cert", b"Client-Cert-Chain"]
        )
        self.assertEqual(rules.secrets, ())

    def test_trust_needs_authorities(self) -> None:
        """Trust in authorities needs some."""
        for trust in ("ca", "either"):
            self.assertEqual(
                self.refusal(trust=trust),
                f"ca: found none, expected a PEM file with authorities, since trust is {trust}",
            )
            found = self.load(trust=trust, ca=self.bundle)
            self.assertEqual((found.trusted, found.warnings), (TrustStore((ISSUER,)), ()))

    def test_useless_authorities(self) -> None:
        """Authorities that decide nothing are worth a warning."""
        found = self.load(ca=self.bundle)
        self.assertEqual(found.trusted, TrustStore((ISSUER,)))
        self.assertEqual(
            found.warnings,
            (
                "ca: has no effect while trust is any; "
                "ca or either forward the certificates that it has issued",
            ),
        )

    def test_warns_of_authorities(self) -> None:
        """An authority that makes no client trusted, or is out of date, is worth a warning."""
        leaf = self.write(pem(LEAF), name="leaf.pem")
        for trust in ("ca", "either"):
            (warning,) = self.load(trust=trust, ca=leaf).warnings
            self.assertTrue(
                warning.startswith("ca: 'CN=localhost' is not a CA certificate"), warning
            )
        old = self.write(pem(certificate_for(OTHER_KEY, "old", 0, ca=True)), name="old.pem")
        (warning,) = self.load(trust="ca", ca=old).warnings
        self.assertRegex(warning, r"\Aca: 'CN=old' expired at 20")
        self.assertEqual(1, len(self.load(ca=leaf).warnings))
        self.assertIn(
            "ca: 'CN=localhost' is not a CA certificate",
            str(self.load(ca=self.write(pem(ISSUER, LEAF)), crl=(self.crl(),)).warnings),
        )

    def test_warns_of_chains(self) -> None:
        """A chain that is another's is warned of, with the key of its certificate."""
        (warning,) = self.load(
            certificate=self.write(pem(certificate_for(KEY), ISSUER), name="foreign.pem")
        ).warnings
        self.assertTrue(
            warning.startswith("certificate: the certificate number 2 in the file did not issue"),
            warning,
        )
        made = certificate_for(KEY, "further.example")
        further = {"certificate": self.write(pem(made, ISSUER, KEY), name="further.pem")}
        (warning,) = load_configuration(
            override(ProxySettings(), {**self.good, "certificates": [further]})
        ).warnings
        self.assertTrue(
            warning.startswith("certificates[0].certificate: the certificate number 2"), warning
        )

    def crl(self, days: int = 1) -> str:
        """Write a file with the issuer's revocation list, for so many days from now."""
        end = datetime.now(UTC) + timedelta(days=days)
        builder = x509.CertificateRevocationListBuilder(
            ISSUER.subject, end - timedelta(days=30), end
        )
        return self.write(
            builder.sign(OTHER_KEY, hashes.SHA256()).public_bytes(Encoding.PEM), name="list.pem"
        )

    def test_lists(self) -> None:
        """Revocation lists are read, and make authorities decide something whatever is trusted."""
        for trust in ("ca", "any"):
            found = self.load(trust=trust, ca=self.bundle, crl=(self.crl(),))
            self.assertEqual(
                (len(found.trusted.crls), found.trusted.authorities, found.warnings),
                (1, (ISSUER,), ()),
            )

    def test_list_problems(self) -> None:
        """A list without authorities, or by another, is an error.

        One that has expired is warned of.
        """
        self.assertIn(
            "ca: found none, expected a PEM file with authorities, since there is a crl",
            self.refusal(crl=(self.crl(),)),
        )
        leaf = self.write(pem(LEAF), name="leaf.pem")
        self.assertIn(
            "list.pem: found a list of 'CN=issuer', expected one of",
            self.refusal(ca=leaf, crl=(self.crl(),)),
        )
        (warning,) = self.load(trust="ca", ca=self.bundle, crl=(self.crl(-1),)).warnings
        self.assertRegex(warning, r"\Acrl: the list of 'CN=issuer' expired at 20")

    def further(self, *made: SelfSigned) -> ProxySettings:
        """Return the good settings with further certificates."""
        tables = [
            {"certificate": self.write(one.certificate_pem + one.key_pem, name=f"{at}.pem")}
            for at, one in enumerate(made)
        ]
        return override(ProxySettings(listen=("tcp:1",)), {**self.good, "certificates": tables})

    def test_further(self) -> None:
        """Further certificates are read in their order, and their validity is watched."""
        a, b = (
            make_self_signed(KeyKind.EC, name, days, server=True)
            for name, days in (("a.example", 99), ("b.example", 9))
        )
        found = load_configuration(self.further(a, b))
        self.assertEqual(
            [one.certificate for one in found.extra_identities], [a.certificate, b.certificate]
        )
        (warning,) = found.warnings
        self.assertRegex(warning, r"\Acertificates\[1\]\.certificate: expires soon, at ")

    def test_further_problems(self) -> None:
        """A name that is there twice, or none, is an error in the check, not only at the start."""
        a, nameless = (
            make_self_signed(KeyKind.EC, name, server=True) for name in ("a.example", "192.0.2.1")
        )
        error = self.assertRaises(SettingsError, load_configuration, self.further(a, a))
        self.assert_sentence(
            error,
            "certificates[1].certificate: found the name 'a.example' of "
            "certificates[0].certificate",
        )
        error = self.assertRaises(SettingsError, load_configuration, self.further(nameless))
        self.assert_sentence(error, "certificates[0].certificate: found no DNS name in it")
        settings = self.further(a)
        Path(settings.certificates[0].certificate).unlink()
        error = self.assertRaises(SettingsError, load_configuration, settings)
        self.assert_sentence(
            error, "certificates[0].certificate: ", "0.pem: found a file that cannot be read"
        )

    def test_reload(self) -> None:
        """A reload reads every one of these files again, and warns by the clock of then."""
        a, b = (
            make_self_signed(KeyKind.EC, name, 99, server=True)
            for name in ("a.example", "b.example")
        )
        settings = msgspec.structs.replace(
            self.further(a), trust=Trust.CA, ca=self.bundle, crl=(self.crl(),)
        )
        before = load_configuration(settings)
        self.further(b)
        self.crl(9)
        other = certificate_for(KEY, "other", ca=True)
        self.write(pem(ISSUER, other), name="ca.pem")
        after = load_configuration(before.settings)
        self.assertEqual([one.certificate for one in after.extra_identities], [b.certificate])
        self.assertEqual(after.trusted.authorities, (ISSUER, other))
        self.assertNotEqual(after.trusted.crls, before.trusted.crls)
        self.assertEqual((before.warnings, len(after.warnings)), ((), 1))
        self.assertEqual(
            len(load_configuration(before.settings, time.time() + 10 * DAY).warnings), 2
        )

    def test_recorded(self) -> None:
        """The files that were read make the same configuration again, without the disk.

        Each is read once.
        """
        both = self.write(pem(ISSUER, OTHER_KEY), name="client.pem")
        upstream = UpstreamSettings(ca=self.bundle, certificate=both)
        found = self.load(
            upstream=upstream, workers="2", trust="ca", ca=self.bundle, crl=(self.crl(),)
        )
        self.assertEqual(6, len(found.files.contents))
        shutil.rmtree(self.folder)
        again = read_configuration(found.settings, found.files.read)
        self.assertEqual((found.rules, found.trusted), (again.rules, again.trusted))
        self.assertEqual(found.identity.certificate, again.identity.certificate)
        self.assertEqual(found.upstream_authorities, again.upstream_authorities)
        self.assertEqual(((), {}), (again.warnings, again.files.contents))
        error = self.assertRaises(
            SettingsError, read_configuration, found.settings, RecordedFiles().read
        )
        self.assertEqual(5, len(error.sentences), error.sentences)

    def test_upstream(self) -> None:
        """The side towards the back end has authorities and an identity of its own."""
        both = self.write(pem(ISSUER, OTHER_KEY), name="client.pem")
        found = self.load(upstream=UpstreamSettings(ca=self.bundle, certificate=both))
        self.assertEqual(found.upstream_authorities, (ISSUER,))
        assert found.upstream_identity is not None
        self.assertEqual(found.upstream_identity.certificate, ISSUER)

    def test_upstream_problems(self) -> None:
        """Its errors name its keys."""
        key = UpstreamSettings(private_key=self.key)
        self.assertIn("upstream.certificate: found none, expected a PEM file", self.refusal(key))
        self.assertIn(
            "upstream.ca: none: found a file that cannot be read",
            self.refusal(UpstreamSettings(ca="none")),
        )
        self.assertIn(
            "upstream.certificate: none: found a file that cannot be read",
            self.refusal(UpstreamSettings(certificate="none")),
        )
        wrong = UpstreamSettings(certificate=self.bundle, private_key=self.key)
        self.assertIn(
            f"upstream.certificate: {self.bundle}: found a certificate with another public key",
            self.refusal(wrong),
        )

    def test_warns_of_header(self) -> None:
        """A name on the command line is for trials."""
        (warning,) = self.load(header_file=None, header=NAME).warnings
        self.assertIn("header: the process list shows a name from the command line", warning)
        self.assertNotIn(NAME, warning)

    def test_back_end_twice(self) -> None:
        """The same back end twice is an error, also in two spellings."""
        error = self.assertRaises(
            SettingsError, self.load, backend=("http://a.example", "http://a.example:80/")
        )
        self.assertEqual("backend: found 'http://a.example' twice, expected it once", str(error))

    def test_warns_of_open_network(self) -> None:
        """Each http back end that is not this host is warned of.

        Https, sockets and loopback are not.
        """
        quiet = (
            "https://a.example",
            "unix:/run/a",
            "http://localhost:2",
            "http://127.1.2.3",
            "http://[::1]:8080",
        )
        loud = (
            "http://10.0.0.1",
            "http://a.example:8080",
            "http://[2001:db8::1]",
            "http://127.evil.example",
        )
        warnings = self.load(backend=(*quiet, *loud)).warnings
        expected = [
            f"backend: {url} is neither https nor this host; anyone on that network can read or "
            "forge the header"
            for url in loud
        ]
        self.assertEqual(list(warnings), expected)

    def test_warns_of_validity(self) -> None:
        """A certificate outside its time, or soon to be, is served with a warning."""
        end = LEAF.not_valid_after_utc.timestamp()
        for now, words in (
            (end - 14 * DAY, ()),
            (end - 14 * DAY + 1, ("certificate: expires soon, at ",)),
            (end, ("certificate: expires soon, at ",)),
            (end + 1, ("certificate: expired at ",)),
            (LEAF.not_valid_before_utc.timestamp() - 1, ("certificate: is not valid before ",)),
        ):
            self.assertEqual(
                tuple(
                    warning[: len(word)]
                    for warning, word in zip(self.load(now).warnings, words, strict=True)
                ),
                words,
            )

    def test_warns_by_the_clock(self) -> None:
        """Without a given time it is now; the identity towards the back end counts too."""
        expired = self.write(pem(certificate_for(OTHER_KEY, days=0), OTHER_KEY), name="client.pem")
        self.patch(time, "time", lambda: LEAF.not_valid_before_utc.timestamp() + 2 * DAY)
        (warning,) = self.load(upstream=UpstreamSettings(certificate=expired)).warnings
        self.assertRegex(warning, r"\Aupstream\.certificate: expired at 20\d\d-\d\d-\d\dT")
