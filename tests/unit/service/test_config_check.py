"""Tests of :mod:`x509proxy.service.config_check`: findings, and the servers that are named."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from twisted.internet.task import Clock

from tests.support.names import secret_name
from tests.support.tokens import AskedServer, key_set
from tests.support.toml_files import TomlTestCase
from x509proxy.authorization import verifiers
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.config import credentials
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.service import server
from x509proxy.service.config_check import Finding, Severity, probe, review
from x509proxy.settings import SettingsError
from x509proxy.upstream import endpoints

JWT = 'level = "jwt"\nissuer = "https://as.example"\naudience = ["a"]\n'
INTROSPECTION = """
level = "introspection"
introspection-url = "https://as.example/introspect"
client-id = "api"
client-secret-file = "secret.txt"
"""


DAY = 86400.0
# Every recommended setting, so that there is no note.
RECOMMENDED = 'access-log = "-"\n'


class Findings(TomlTestCase):
    """One finding by itself."""

    def test_text(self) -> None:
        """A finding is shown with its file, and with its line if it has one."""
        for line, expected in ((4, "a.toml: line 4: ca: found x"), (0, "a.toml: ca: found x")):
            self.assertEqual(expected, Finding(Severity.NOTE, "ca: found x", line).text("a.toml"))

    def test_secret_path(self) -> None:
        """A secret name in the file's path is not shown."""
        name = secret_name("test_config_check")
        self.assertNotIn(name, Finding(Severity.ERROR, "ca: found x").text(f"/etc/{name}"))

    def test_key(self) -> None:
        """The key is the part of the sentence before the first colon."""
        self.assertEqual("rules[0].path", Finding(Severity.ERROR, "rules[0].path: a: b").key)


class ReviewTestCase(TomlTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.write(new_header_name(), 0o600, "header.txt")
        self.write_certificate()

    def write_certificate(self, days: int = 365) -> None:
        made = make_self_signed(KeyKind.EC, "localhost", days, server=True)
        self.write(made.certificate_pem + made.key_pem, 0o600, "server.pem")

    def review(
        self,
        more: str = "",
        *,
        certificate: str = '"server.pem"',
        header: str = "header.txt",
        unit: str | None = None,
        now: float | None = None,
    ) -> tuple[Finding, ...]:
        """Review a configuration whose first three lines are the settings that it needs."""
        text = f'certificate = {certificate}\nheader-file = "{header}"\n'
        path = self.write(f'{text}backend = "http://127.0.0.1:9"\n{more}', 0o600, "proxy.toml")
        return review(path, unit, now)

    def expect(self, found: tuple[Finding, ...], *expected: tuple[Severity, int, str]) -> None:
        """Check the severity and the line of each finding, and the beginning of its sentence."""
        self.assertEqual(
            [*expected],
            [
                (one.severity, one.line, one.message[: len(start)])
                for one, (_, _, start) in zip(found, expected, strict=True)
            ],
        )


class Files(ReviewTestCase):
    """The configuration file itself."""

    def test_good(self) -> None:
        """A configuration with every recommended setting has no finding."""
        self.expect(self.review(RECOMMENDED))

    def test_missing(self) -> None:
        """A file that does not exist is one error, without a line."""
        self.expect(review("/nowhere.toml"), (Severity.ERROR, 0, "config: "))

    def test_syntax(self) -> None:
        """A file that is not TOML has one error, with its line and without the file's name."""
        (found,) = self.review("listen tcp\n")
        self.assertEqual((Severity.ERROR, 4), (found.severity, found.line))
        self.assertNotIn("proxy.toml", found.message)

    def test_lines(self) -> None:
        """Errors of the file, and of the files that it names, are sorted by line."""
        self.expect(
            self.review("brew = 1\n", header="missing.txt"),
            (Severity.ERROR, 2, "header-file: "),
            (Severity.ERROR, 4, "brew: found an unknown key"),
        )

    def test_order(self) -> None:
        """Errors come before warnings."""
        self.write_certificate(days=3)
        found = self.review("max-certificate-bytes = 99999\nbrew = 1\n")
        self.expect(
            found,
            (Severity.ERROR, 4, "max-certificate-bytes: found 99999, expected 16384 or less"),
            (Severity.ERROR, 5, "brew: found an unknown key"),
            (Severity.WARNING, 1, "certificate: expires soon, at "),
        )

    def test_no_echo(self) -> None:
        """A key with a wrong value is not also reported as missing."""
        sentence = "certificate: found an integer, expected a string"
        self.expect(self.review(certificate="5"), (Severity.ERROR, 1, sentence))

    def test_contradiction(self) -> None:
        """If settings contradict each other, the files are not read."""
        found = self.review('trust = "x"\nkey-types = []\n', header="missing.txt")
        self.assertEqual(["trust", "key-types"], [one.key for one in found])


class Starts(ReviewTestCase):
    """Errors that the start would find."""

    def test_all(self) -> None:
        """A file, a log, and an endpoint type that do not exist are reported together."""
        more = 'access-log = "nowhere/log"\nlisten = ["tcp:1", "haproxy:nothing:1"]\n'
        self.expect(
            self.review(more, header="missing.txt"),
            (Severity.ERROR, 2, "header-file: "),
            (Severity.ERROR, 4, "access-log: "),
            (Severity.ERROR, 5, "listen: found 'nothing:1', an unknown endpoint type"),
        )

    def test_once(self) -> None:
        """A bad address that is listed twice is one error."""
        found = self.review('listen = ["fd:3", "fd:3"]\n')
        self.expect(found, (Severity.ERROR, 4, "listen: found 'fd:3', an unknown endpoint type"))

    def test_no_type(self) -> None:
        """An address without the type of endpoint is one error."""
        found = self.review('listen = "127.0.0.1:8443"\n')
        text = "listen: found '127.0.0.1:8443' without the type of endpoint"
        self.expect(found, (Severity.ERROR, 4, text))

    def test_missing_file(self) -> None:
        """The name of a configuration that does not exist stands once in its error."""
        [found] = review("nowhere.toml")
        start = "nowhere.toml: config: found a file that cannot be read"
        self.assertEqual(start, found.text("nowhere.toml")[: len(start)])

    def test_log_in_its_own_file(self) -> None:
        """The configuration file cannot be the access log."""
        found = self.review('access-log = "proxy.toml"\n')
        self.assertEqual([(4, "access-log")], [(one.line, one.key) for one in found])
        self.assertIn("found the file of the configuration", found[0].message)

    def test_client_contexts(self) -> None:
        """The TLS contexts for clients are built, to report what OpenSSL rejects."""
        sentence = "certificate: found a key that OpenSSL rejects: no reason"
        with patch.object(server, "contexts_for", side_effect=SettingsError(sentence)):
            self.expect(self.review(RECOMMENDED), (Severity.ERROR, 1, sentence))

    def test_back_end_contexts(self) -> None:
        """The certificate for back ends is tried in a TLS context, if there is one."""
        sentence = "upstream.certificate: found a key that OpenSSL rejects"
        with patch.object(endpoints, "check_identity", side_effect=SettingsError(sentence)):
            self.expect(self.review(RECOMMENDED))
            found = self.review(f'upstream.certificate = "server.pem"\n{RECOMMENDED}')
        self.expect(found, (Severity.ERROR, 4, sentence))

    def test_expired(self) -> None:
        """A certificate that is not valid now is an error alone, though the start only warns.

        Every handshake would fail.
        """
        for days, start in ((400, "expired at "), (-2, "is not valid before ")):
            found = self.review(now=time.time() + days * DAY)
            self.expect(found, (Severity.ERROR, 1, f"certificate: {start}"))


class Lesser(ReviewTestCase):
    """Warnings and notes."""

    def test_endpoints(self) -> None:
        """A unix socket in a missing folder is a warning, since systemd may create the folder."""
        more = 'listen = "unix:/nowhere/a"\n'
        found = self.review(more + RECOMMENDED)
        self.expect(found, (Severity.WARNING, 4, "listen: found no folder /nowhere"))

    def test_endpoints_of_a_bad_configuration(self) -> None:
        """A configuration that cannot be loaded has errors, and no warning of endpoints."""
        found = self.review('listen = "unix:/nowhere/a"\n', header="missing.txt")
        self.expect(found, (Severity.ERROR, 2, "header-file: "))

    def test_expires_soon(self) -> None:
        """A certificate that is valid for less than two weeks at that time is a warning."""
        self.write_certificate(days=30)
        found = self.review(RECOMMENDED, now=time.time() + 20 * DAY)
        self.expect(found, (Severity.WARNING, 1, "certificate: expires soon, at "))

    def test_notes(self) -> None:
        """A good configuration has a note for each missing recommended setting."""
        (note,) = self.review()
        self.assertEqual((Severity.NOTE, "access-log"), (note.severity, note.key))

    def test_no_notes(self) -> None:
        """A configuration with an error has no notes, even if it can be loaded without that key."""
        found = self.review("brew = 1\n")
        self.expect(found, (Severity.ERROR, 4, "brew: found an unknown key"))


class Credentials(ReviewTestCase):
    """A configuration that names the credentials of a systemd unit."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = self.folder.absolute()
        self.running = self.folder / "run"
        (self.running / "a.service").mkdir(parents=True)
        self.copy = self.running / "a.service" / "header.txt"
        self.patch(credentials, "_CREDENTIALS", self.running)
        environment = patch.dict(os.environ, {"CREDENTIALS_DIRECTORY": ""})
        environment.start()
        self.addCleanup(environment.stop)

    def unit(self, text: str) -> str:
        return self.write(f"[Service]\n{text}\n", 0o644, "a.service")

    def test_originals(self) -> None:
        """The original of a credential is read in place of its copy."""
        unit = self.unit(f"LoadCredential=header.txt:{self.folder}/header.txt")
        self.expect(self.review(RECOMMENDED, header=str(self.copy), unit=unit))

    def test_outdated(self) -> None:
        """A copy that differs from its original is a note."""
        unit = self.unit(f"LoadCredential=header.txt:{self.folder}/header.txt")
        self.copy.write_text("an earlier name")
        found = self.review(RECOMMENDED, header=str(self.copy), unit=unit)
        self.expect(found, (Severity.NOTE, 2, "header-file: restart needed: "))
        self.copy.write_bytes(Path(self.folder / "header.txt").read_bytes())
        self.expect(self.review(RECOMMENDED, header=str(self.copy), unit=unit))

    def test_no_original(self) -> None:
        """A credential without an original is one error, not a missing file as well."""
        found = self.review(RECOMMENDED, header=str(self.copy), unit=self.unit(""))
        self.expect(found, (Severity.ERROR, 2, f"header-file: {self.copy}: "))


class Online(TomlTestCase):
    def probe(self, tokens: str) -> Any:
        made = make_self_signed(KeyKind.EC, "localhost", server=True)
        self.write(made.certificate_pem + made.key_pem, 0o600, "server.pem")
        self.write(new_header_name(), 0o600, "header.txt")
        self.write("secret", 0o600, "secret.txt")
        self.write(key_set(), 0o600, "jwks.json")
        text = 'certificate = "server.pem"\nheader-file = "header.txt"\nbackend = "http://127.0.0.1:9"\n'
        path = self.write(text + (f"[tokens]\n{tokens}" if tokens else ""), 0o600, "proxy.toml")
        self.server = AskedServer()
        with patch.object(verifiers, "HttpClient", return_value=self.server):
            return probe(path, cast(Any, Clock()))

    def test_nothing_to_ask(self) -> None:
        """Without a server nothing is asked."""
        for tokens, sentence in (
            ("", "there is no server to send a request to"),
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
