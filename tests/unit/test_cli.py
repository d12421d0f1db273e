"""Tests of :mod:`x509proxy.cli`."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from socket import AF_INET, SOCK_STREAM, socket
from threading import Timer
from unittest.mock import Mock, patch
from urllib.request import Request, urlopen

import attrs
import twisted.internet
import twisted.internet.reactor
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from tests.support.names import secret_name
from x509proxy import cli
from x509proxy.audit import command as audit_command
from x509proxy.certificates.client_certificate import ClientCertificate
from x509proxy.certificates.pem_files import read_identity
from x509proxy.certificates.self_signed import KeyKind, jwk_set, make_self_signed
from x509proxy.config import accounts, credentials
from x509proxy.config.endpoint_strings import expected_for
from x509proxy.export.command import RENDERERS, export
from x509proxy.forwarding import presets
from x509proxy.forwarding import secret_name as header_secrets
from x509proxy.forwarding.presets import PRESETS, HeaderPlan, Naming, Preset
from x509proxy.forwarding.secret_name import check_header_name, read_header_names
from x509proxy.service import config_check
from x509proxy.service.config_check import review
from x509proxy.settings import Format, SettingsError

ROOT = Path(__file__).parents[2]
NAME = secret_name("test_cli")
# A shell starts its background jobs with SIGINT ignored, and the tests may run in one.
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from x509proxy.cli import main
sys.exit(main())
"""
PATIENCE = 30.0  # seconds


@attrs.frozen
class Result:
    """The exit status and the output of a command."""

    code: int
    out: str
    err: str


def run(*arguments: str) -> Result:
    """Run a command in this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = cli.main(arguments)
        except SystemExit as error:
            code = int(error.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in its own process; kill it after ``PATIENCE`` seconds."""
    command = [sys.executable, "-c", START, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        timer = Timer(PATIENCE, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()


class Case(SynchronousTestCase):
    """A test case with its own folder."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)

    def path(self, name: str, content: bytes | None = None, mode: int = 0o600) -> str:
        path = self.folder / name
        if content is not None:
            path.write_bytes(content)
            path.chmod(mode)
        return str(path)

    def configuration(self, days: int = 365, more: str = "") -> str:
        made = make_self_signed(KeyKind.EC, "localhost", days, server=True)
        self.path("server.pem", made.certificate_pem + made.key_pem)
        self.path("header.txt", f"{NAME}\n".encode("ascii"))
        text = 'certificate = "server.pem"\nheader-file = "header.txt"\nbackend = "http://127.0.0.1:8080"\n'
        return self.path("proxy.toml", (text + more).encode("utf-8"))

    def refuse(self, sentence: str, *arguments: str) -> None:
        """Check that the command fails with this sentence and prints nothing else."""
        self.assertEqual(Result(1, "", f"x509proxy: {sentence}\n"), run(*arguments))

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


class CommandLine(Case):
    def test_unknown_command(self) -> None:
        """An unknown command, or no command, prints the usage and exits with status 2."""
        for arguments in (["brew"], []):
            result = run(*arguments)
            self.assertEqual((2, ""), (result.code, result.out))
            self.assertTrue(result.err.startswith("usage: x509proxy"))

    def test_the_proxy_itself(self) -> None:
        """The hint for a wrong command is the command of the proxy itself."""
        for arguments in (["run"], ["--config", "a.toml"], []):
            self.assertTrue(
                run(*arguments).err.endswith(
                    "; the proxy itself is twistd -n x509proxy --config FILE\n"
                )
            )
        self.assertNotIn("the proxy itself", run("check").err)

    def test_help(self) -> None:
        """The help names every command."""
        result = run("--help")
        self.assertEqual(0, result.code)
        for command in (
            "secret",
            "check",
            "presets",
            "client-certificate",
            "echo",
            "audit",
            "export",
        ):
            self.assertRegex(result.out, rf"\n +{command}\b")

    def test_version(self) -> None:
        """The version is that of the installed package."""
        self.patch(importlib.metadata, "version", lambda name: f"26.1 of {name}")
        self.assertEqual(Result(0, "x509proxy 26.1 of x509proxy\n", ""), run("--version"))

    def test_module(self) -> None:
        """The command runs as a module too; an import of that module runs nothing."""
        self.patch(sys, "argv", ["x509proxy", "presets"])
        runpy.run_module("x509proxy.__main__", run_name="other")
        out = StringIO()
        with redirect_stdout(out):
            error = self.assertRaises(
                SystemExit, runpy.run_module, "x509proxy", run_name="__main__"
            )
        self.assertEqual((0, run("presets").out), (error.code, out.getvalue()))

    def test_version_of_a_checkout(self) -> None:
        """Without an installed package, the version line reports that."""

        def fail(name: str) -> str:
            raise importlib.metadata.PackageNotFoundError(name)

        self.patch(importlib.metadata, "version", fail)
        self.assertEqual(
            Result(0, "x509proxy, from a checkout that is not installed\n", ""), run("--version")
        )

    def test_error_without_file(self) -> None:
        """A system error without a file name is one sentence, with or without an error number."""
        for error, sentence in (
            (OSError(errno.ENOSPC, "No space left"), "No space left"),
            (OSError("odd"), "odd"),
        ):

            def fail(error: OSError = error) -> str:
                raise error

            self.patch(header_secrets, "new_header_name", fail)
            self.refuse(sentence, "secret")


class Secret(Case):
    def test_print(self) -> None:
        """The name is valid, the server's line holds it, and each run prints a new name."""
        first, second = run("secret"), run("secret")
        name, line = first.out.splitlines()
        self.assertEqual(
            (0, "", name.encode("ascii")), (first.code, first.err, check_header_name(name, "here"))
        )
        self.assertEqual(f"op.tls.clientX509CertHeader = {name}", line)
        self.assertNotEqual(first.out, second.out)

    def test_write(self) -> None:
        """``--write`` puts the name into a file that the proxy accepts.

        Standard output holds the server's line only.
        """
        path = self.path("header.txt")
        result = run("secret", "--write", path)
        name = read_header_names(path)[0].decode("ascii")
        self.assertEqual(Result(0, f"op.tls.clientX509CertHeader = {name}\n", ""), result)
        self.assertEqual(0o600, Path(path).stat().st_mode & 0o777)

    def test_never_overwrites(self) -> None:
        """An existing file keeps its content; a dangling symbolic link is not followed."""
        path = self.path("header.txt", b"old\n")
        link = self.folder / "link"
        link.symlink_to(self.folder / "nowhere")
        for taken in (path, str(link)):
            self.refuse(
                f"{taken}: exists already, and nothing is overwritten", "secret", "--write", taken
            )
        self.assertEqual(b"old\n", Path(path).read_bytes())
        self.assertEqual(["header.txt", "link"], self.files())

    def test_unwritable(self) -> None:
        """A missing folder is reported with the command that makes it."""
        for first, *arguments in (
            ["no/header.txt", "secret", "--write", self.path("no/header.txt")],
            ["no/me.key", "client-certificate", "--out", self.path("no/me")],
        ):
            folder = self.path("no")
            sentence = f"{self.path(first)}: found no folder {folder}"
            self.refuse(f"{sentence}, expected one: mkdir -p {folder}", *arguments)

    def test_no_secret_needed(self) -> None:
        """A preset with fixed header names rejects a secret one."""
        self.refuse(
            "preset: xfcc has fixed header names, expected a preset that takes a name, "
            "or none for the name-file of [[headers]]",
            "secret",
            "--preset",
            "xfcc",
        )

    def test_name_file(self) -> None:
        """For preset none only the name is printed: it belongs to a ``[[headers]]`` name-file."""
        path = self.path("header.txt")
        self.assertEqual(Result(0, "", ""), run("secret", "--preset", "none", "--write", path))
        self.assertEqual(1, len(run("secret", "--preset", "none").out.splitlines()))
        made = make_self_signed(KeyKind.EC, "localhost", server=True)
        self.path("server.pem", made.certificate_pem + made.key_pem)
        text = (
            'certificate = "server.pem"\nbackend = "http://127.0.0.1:8080"\npreset = "none"\n'
            '[[headers]]\nname-file = "header.txt"\nformat = "pem"\n'
        )
        toml = self.path("proxy.toml", text.encode())
        self.assertEqual(0, run("check", toml).code)

    def test_unknown_preset(self) -> None:
        """An unknown preset is rejected with a list of the known ones.

        A secret name in its place is not repeated.
        """
        expected = f"expected one of {', '.join(PRESETS)}"
        self.refuse(f"preset: found 'brew', {expected}", "secret", "--preset", "brew")
        self.refuse(f"preset: found '…', {expected}", "secret", "--preset", NAME)

    def test_no_line(self) -> None:
        """Without a known configuration line for the server, only the name is printed."""
        self.patch(
            presets,
            "PRESETS",
            {"a": Preset("a", "A", (HeaderPlan(Format.PEM),), (), Naming.SECRET)},
        )
        self.assertEqual(1, len(run("secret", "--preset", "a").out.splitlines()))


class Check(Case):
    def test_good(self) -> None:
        """A configuration with every recommended setting is reported as good, without notes."""
        path = self.configuration(more=self.THOUGHTFUL)
        self.assertEqual(Result(0, f"{path}: the configuration is good\n", ""), run("check", path))

    def test_credentials(self) -> None:
        """The originals of a unit's credentials are checked; a copy that differs is a note."""
        path = self.configuration()
        running = self.folder / "run"
        (running / "a.service").mkdir(parents=True)
        copy = running / "a.service" / "header.txt"
        copy.write_text("an earlier name")
        unit = self.path(
            "a.service", f"[Service]\nLoadCredential=header.txt:{self.folder}/header.txt\n".encode()
        )
        toml = Path(path)
        toml.write_text(toml.read_text().replace('"header.txt"', f'"{copy}"'))
        self.patch(credentials, "_CREDENTIALS", running)
        with patch.dict(os.environ, {"CREDENTIALS_DIRECTORY": ""}):
            result = run("check", "--unit", unit, path)
        self.assertEqual(0, result.code, result.err)
        self.assertIn("header-file: restart needed: the service runs with a copy of ", result.err)
        copy.write_bytes((self.folder / "header.txt").read_bytes())
        self.assertNotIn("restart needed", run("check", "--unit", unit, path).err)

    def test_as_root(self) -> None:
        """Root checks with the rights of the service's user, and is told so; others do not."""
        path = self.configuration(more=self.THOUGHTFUL)
        unit = self.path("a.service", b"[Service]\nUser=nobody\n")
        for user, problem, expected in (
            (0, "", "note: checked as nobody, the user of a.service\n"),
            (0, "found no user", "warning: a.service: found no user\n"),
            (1, "", ""),
        ):
            with (
                patch.object(os, "geteuid", return_value=user),
                patch.object(accounts, "act_as", return_value=problem) as become,
                patch.object(config_check, "review", return_value=()),
            ):
                result = run("check", "--unit", unit, path)
            self.assertEqual((0, expected), (result.code, result.err))
            self.assertEqual(user == 0, become.called)

    def test_online(self) -> None:
        """``--online`` sends a request to the authorization server; no response is an error."""
        with socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
            tokens = (
                '[[rules]]\ntoken = "bound"\n[tokens]\nlevel = "jwt"\n'
                f'issuer = "{url}"\naudience = ["a"]\n'
            )
            path = self.configuration(more=self.THOUGHTFUL + tokens)
            self.assertEqual(0, run("check", path).code)
            with started("check", "--online", path) as process:
                _, err = process.communicate()
        self.assertEqual(1, process.returncode)
        self.assertIn(
            "tokens: the authorization server: found no whole response: Connection refused", err
        )

    def probe(self, asked: Deferred[str]) -> Result:
        reactor = Mock()
        reactor.callWhenRunning = lambda call: call()
        err = StringIO()
        with patch.object(config_check, "probe", return_value=asked), redirect_stderr(err):
            try:
                cli._probe("path", reactor)
            except SettingsError as error:
                return Result(1, err.getvalue(), str(error))
        reactor.stop.assert_called_once_with()
        return Result(0, "", err.getvalue())

    def test_probe(self) -> None:
        """A good response prints a line; an unexpected error is reported by its class."""
        self.assertEqual(Result(0, "", "good\n"), self.probe(succeed("good")))
        sentence = "tokens: found an error of the kind ZeroDivisionError"
        self.assertEqual(Result(1, "", sentence), self.probe(fail(ZeroDivisionError("secret"))))
        self.assertEqual(Result(1, "", "no"), self.probe(fail(SettingsError("no"))))

    def test_online_first(self) -> None:
        """The probe follows the check of the file, and its error replaces the result "good"."""
        path = self.configuration(more=self.THOUGHTFUL)
        with patch.object(cli, "_probe", side_effect=SettingsError("no")) as probe:
            self.refuse("no", "check", "--online", path)
        self.assertEqual(path, probe.call_args[0][0])

    THOUGHTFUL = 'access-log = "-"\n'

    def test_notes(self) -> None:
        """A missing recommended setting is a note, and the configuration is still good."""
        path = self.configuration()
        result = run("check", path)
        self.assertEqual(0, result.code)
        notes = [
            line.removeprefix(f"note: {path}: ").split(":")[0] for line in result.err.splitlines()
        ]
        self.assertEqual(["access-log"], notes)

    def test_warnings(self) -> None:
        """A warning goes to standard error with its line; with ``--strict`` the check fails."""
        path = self.configuration(days=3, more=self.THOUGHTFUL)
        result = run("check", path)
        said = f"warning: {path}: line 1: certificate: expires soon, at "
        self.assertTrue(result.err.startswith(said), result.err)
        self.assertEqual((0, f"{path}: the configuration is good\n"), (result.code, result.out))
        strict = run("check", path, "--strict")
        self.assertEqual((1, "", result.err), (strict.code, strict.out, strict.err))
        self.assertEqual(0, run("check", self.configuration(), "--strict").code)

    def test_bad(self) -> None:
        """A mistake in the file, or in a file that it names, is one sentence with file and line."""
        path = self.configuration(more="brew = 1\n")
        result = run("check", path)
        self.assertEqual((1, "", 1), (result.code, result.out, result.err.count("\n")))
        self.assertTrue(
            result.err.startswith(f"x509proxy: {path}: line 4: brew: found an unknown key"),
            result.err,
        )
        path = self.configuration(more='preset = "xfcc"\n')
        found = (
            "line 2: header-file: found one, expected none, "
            "since preset xfcc has fixed header names"
        )
        self.refuse(f"{path}: {found}", "check", path)

    def test_journal(self) -> None:
        """In the journal, an error and a warning have their priorities."""
        status = os.fstat(2)
        stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        path = self.configuration(more='preset = "connect3id"\n')
        with patch.dict(os.environ, stream):
            self.assertTrue(run("check", path).err.startswith("<3>x509proxy: "))
        path = self.configuration(more="client.idle-timeout = 60000\n")
        with patch.dict(os.environ, stream):
            self.assertTrue(run("check", path).err.startswith("<4>warning: "))

    def test_all_at_once(self) -> None:
        """All mistakes are reported together.

        They are in the file, in the files that it names, and in its addresses and paths.
        """
        more = """\
trust = "nobody"
ca = "nothing.pem"
access-log = "nowhere/log"
listen = ["tcp:80800", "fd:3"]
backend = ["http://a?b", "unix:relative"]
"""
        path = self.configuration()
        text = Path(path).read_text().replace('backend = "http://127.0.0.1:8080"\n', more)
        Path(path).write_text(text)
        result = run("check", path)
        lines = [line.removeprefix(f"x509proxy: {path}: ") for line in result.err.splitlines()]
        self.assertEqual(1, result.code)
        for line, start in zip(
            lines,
            (
                "line 3: trust: found 'nobody', expected any, ",
                "line 4: ca: ",
                "line 5: access-log: ",
                "line 6: listen: found 'tcp:80800' with the port '80800', "
                "which is not within 0 to 65535",
                "line 6: listen: found 'fd:3', an unknown endpoint type",
                "line 7: backend: found 'http://a?…', expected http://host",
                "line 7: backend: found 'unix:relative', expected http://host",
            ),
            strict=True,
        ):
            self.assertTrue(line.startswith(start), (line, start))
        self.assertTrue(lines[5].endswith("; a query or a fragment cannot be part of it"), lines[5])
        self.assertTrue(lines[6].endswith("; the path must begin with /"), lines[6])

    def test_json(self) -> None:
        """``--json`` prints the findings as JSON, and nothing else."""
        path = self.configuration(days=3, more="brew = 1\nmax-certificate-bytes = 99999\n")
        result = run("check", path, "--json")
        self.assertEqual((1, ""), (result.code, result.err))
        found = json.loads(result.out)
        self.assertEqual((path, False), (found["file"], found["good"]))
        self.assertEqual(
            [
                {
                    "severity": "error",
                    "key": "brew",
                    "line": 4,
                    "message": found["findings"][0]["message"],
                },
                {
                    "severity": "error",
                    "key": "max-certificate-bytes",
                    "line": 5,
                    "message": "max-certificate-bytes: found 99999, expected 16384 or less",
                },
                {
                    "severity": "warning",
                    "key": "certificate",
                    "line": 1,
                    "message": found["findings"][2]["message"],
                },
            ],
            found["findings"],
        )
        path = self.configuration(more=self.THOUGHTFUL)
        found = json.loads(run("check", path, "--json").out)
        self.assertEqual({"file": path, "good": True, "findings": []}, found)
        found = json.loads(run("check", "/nowhere.toml", "--json").out)
        [only] = found["findings"]
        self.assertEqual(("config", None), (only["key"], only["line"]))

    def test_syntax(self) -> None:
        """A file that is not valid TOML has one finding, with its line."""
        path = self.configuration(more="listen tcp\n")
        [finding] = review(path)
        self.assertEqual(4, finding.line)
        self.refuse(f"{path}: line 4: {finding.message}", "check", path)
        path = self.configuration(more=f'header = "{NAME}"\n')
        Path(path).chmod(0o644)
        [finding] = review(path)
        self.assertEqual((4, "header"), (finding.line, finding.key))

    def test_access_log(self) -> None:
        """The access log must be writable and must not be one of the files read.

        The check does not create it.
        """
        path = self.configuration(more='access-log = "logs/access.log"\n')
        folder = self.path("logs")
        found = (
            f"line 4: access-log: {folder}/access.log: found no folder {folder}, "
            "expected a file that can be written"
        )
        self.refuse(f"{path}: {found}", "check", path)
        for read, key in (("server.pem", "certificate"), ("proxy.toml", "the configuration")):
            path = self.configuration(more=f'access-log = "{read}"\n')
            found = (
                f"line 4: access-log: {self.path(read)}: found the file of {key}, "
                "expected one of its own"
            )
            self.refuse(f"{path}: {found}", "check", path)

    def test_endpoints(self) -> None:
        """The listening addresses are parsed, including those of plug-ins, but no port is bound."""
        for text in ("fd:3", "https://127.0.0.1:8443", "http:8443", "haproxy:nothing:1"):
            path = self.configuration(more=f'listen = "{text}"\n')
            told = text.removeprefix("haproxy:")
            said = (
                f"line 4: listen: found {told!r}, an unknown endpoint type, "
                f"expected {expected_for()}"
            )
            self.refuse(f"{path}: {said}", "check", path)
        path = self.configuration(more='admin = {listen = "fd:3", allow-remote = true}\n')
        said = (
            "line 4: admin.listen: found 'fd:3', an unknown endpoint type, "
            f"expected {expected_for()}"
        )
        self.refuse(f"{path}: {said}", "check", path)
        path = self.configuration(more='listen = "tcp:abc"\n')
        self.assertIn("listen: found 'tcp:abc' with the port 'abc'", run("check", path).err)
        good = 'listen = ["tcp:1", "systemd:domain=INET:name=https", "unix:/nowhere/a"]\n'
        path = self.configuration(more=good + self.THOUGHTFUL)
        result = run("check", path)
        warning = (
            f"warning: {path}: line 4: listen: found no folder /nowhere, "
            "expected it at the start, for example from RuntimeDirectory=\n"
        )
        self.assertEqual((0, warning), (result.code, result.err))

    def test_senseless(self) -> None:
        """Values with which no proxy could serve are rejected."""
        for more, sentence in (
            ("client.max-head-bytes = 1", "client.max-head-bytes: found 1, expected 64 to 1048576"),
            (
                "[client]\nmax-head-bytes = 4096\nmax-line-bytes = 8000",
                "client.max-line-bytes: found 8000, expected max-head-bytes, 4096, or less",
            ),
            (
                "[client]\nmax-body-bytes = 1000\nrequest-buffer-bytes = 2000",
                "client.request-buffer-bytes: found 2000, expected max-body-bytes, 1000, or less",
            ),
            (
                "client.max-connections = 100000000000000000000",
                "client.max-connections: found 100000000000000000000, expected 1000000 or less",
            ),
            (
                "client.idle-timeout = 1e12",
                "client.idle-timeout: found 1e+12, expected 31622400 or less",
            ),
        ):
            path = self.configuration(more=f"{more}\n")
            self.assertEqual([sentence], [one.message for one in review(path)][:1])
        for more in ("client.max-body-bytes = 1000", "client.max-head-bytes = 4096"):
            path = self.configuration(
                more=f'{more}\naccess-log = "-"\nmax-certificate-bytes = 2048\n'
            )
            self.assertNotIn("error", [one.severity.value for one in review(path)])


class Audit(Case):
    def test_status(self) -> None:
        """The command receives its options, and its status is the exit status."""
        with patch.object(audit_command, "audit", return_value=2) as audit:
            self.assertEqual(Result(2, "", ""), run("audit", "https://as.example", "--path", "/a"))
        arguments = audit.call_args.kwargs
        self.assertEqual(("https://as.example", ["/a"]), (arguments["url"], arguments["path"]))

    def test_not_installed(self) -> None:
        """A missing module is reported with the command that installs it; the status is 2."""
        module = "x509proxy.audit.command"
        sentence = f"audit: found no module {module}, expected it: pip install h11 h2"
        with patch.dict(sys.modules, {module: None}):
            result = run("audit", "https://as.example")
        self.assertEqual(Result(2, "", f"x509proxy: {sentence}\n"), result)


class Export(Case):
    def test_output(self) -> None:
        """The configuration goes to standard output, each limit of the product to the errors."""
        path = self.configuration()
        text, limits = export("haproxy", path)
        self.assertTrue(limits)
        errors = "".join(f"haproxy: {limit}\n" for limit in limits)
        self.assertEqual(Result(0, text, errors), run("export", "haproxy", path))

    def test_products(self) -> None:
        """The products are those that can be rendered."""
        result = run("export", "apache2", "a.toml")
        self.assertIn(f"choose from {', '.join(map(repr, RENDERERS))}", result.err)


class Presets(Case):
    def test_list(self) -> None:
        """Each preset has one line: name, title, headers, formats."""
        result = run("presets")
        self.assertEqual((0, ""), (result.code, result.err))
        rows = [re.split(" {2,}", line) for line in result.out.splitlines()]
        self.assertEqual(list(PRESETS), [row[0] for row in rows])
        self.assertEqual(["connect2id", "Connect2id server", "<the secret name>", "pem"], rows[0])
        self.assertIn(
            ["Client-Cert, Client-Cert-Chain", "rfc9440, rfc9440-chain"], [row[2:] for row in rows]
        )

    def test_secret_name(self) -> None:
        """A preset with a secret name shows the header, the server's line and the command."""
        lines = run("presets", "connect2id").out.splitlines()
        wire = (
            r"  <the secret name>: -----BEGIN CERTIFICATE-----"
            r"MII[\w+/]{13}…[\w+/]{8}=*-----END CERTIFICATE-----"
        )
        self.assertEqual("Connect2id server:", lines[0])
        self.assertRegex(lines[1], f"^{wire}$")
        self.assertEqual("  op.tls.clientX509CertHeader = <the secret name>", lines[3])
        self.assertEqual("x509proxy secret --preset connect2id makes <the secret name>.", lines[4])

    def test_every_preset(self) -> None:
        """Every preset shows each of its headers, chains included, on lines of moderate length."""
        for preset in PRESETS.values():
            result = run("presets", preset.name)
            self.assertEqual((0, ""), (result.code, result.err))
            for plan in preset.plans:
                # The client of the example sent one certificate besides its own.
                shown = f"  {plan.name.decode('ascii') or '<the secret name>'}: " in result.out
                self.assertEqual(plan.chain_index <= 2, shown, preset.name)
            self.assertTrue(all(len(line) < 200 for line in result.out.splitlines()))

    def test_chosen_name(self) -> None:
        """A preset with a customary name offers a secret one, and shows its own size limit."""
        self.assertIn(
            "x509proxy secret --preset aspnet makes a secret name instead of X-Client-Cert.\n",
            run("presets", "aspnet").out,
        )
        self.assertIn(
            "    (at most 4096 bytes; the response to a larger one is 400)\n",
            run("presets", "auth0").out,
        )

    def test_fixed_names(self) -> None:
        """A preset without a secret name or a server's line shows the header only."""
        self.assertEqual(3, len(run("presets", "rfc9440").out.splitlines()))

    def test_unknown(self) -> None:
        """An unknown preset is reported in one sentence."""
        self.refuse(
            f"preset: found 'brew', expected one of {', '.join(PRESETS)}", "presets", "brew"
        )


class Certificates(Case):
    def test_files(self) -> None:
        """Key, certificate and JWK set are written and match; only the key's file is private."""
        prefix = self.path("me")
        result = run("client-certificate", "--name", "one", "--days", "30", "--out", prefix)
        self.assertEqual((0, ""), (result.code, result.err))
        self.assertEqual(["me.jwks.json", "me.key", "me.pem"], self.files())
        identity = read_identity(f"{prefix}.pem", f"{prefix}.key")
        client = ClientCertificate.from_x509(identity.certificate, ())
        self.assertEqual(("CN=one", "EC P-256"), (client.subject, client.key))
        self.assertEqual(30, (client.not_after - client.not_before) // 86400)
        self.assertEqual(
            jwk_set(identity.certificate), json.loads(Path(f"{prefix}.jwks.json").read_bytes())
        )
        self.assertEqual(0o600, Path(f"{prefix}.key").stat().st_mode & 0o777)
        self.assertEqual(f"x5t#S256: {client.thumbprint}", result.out.splitlines()[-1])
        for name in self.files():
            self.assertIn(f"{self.path(name)}: ", result.out)

    def test_kinds(self) -> None:
        """Every kind of key is supported."""
        for kind in KeyKind:
            prefix = self.path(kind.value)
            self.assertEqual(
                0, run("client-certificate", "--key", kind.value, "--out", prefix).code
            )
            certificate = x509.load_pem_x509_certificate(Path(f"{prefix}.pem").read_bytes())
            key = load_pem_private_key(Path(f"{prefix}.key").read_bytes(), None)
            self.assertEqual(certificate.public_key(), key.public_key())

    def test_never_overwrites(self) -> None:
        """If any of the three files exists, it stays unchanged, and none is written."""
        for suffix in (".key", ".pem", ".jwks.json"):
            path = self.path(f"me{suffix}", b"old")
            prefix = self.path("me")
            self.refuse(
                f"{path}: exists already, and nothing is overwritten",
                "client-certificate",
                "--out",
                prefix,
            )
            self.assertEqual([f"me{suffix}"], self.files())
            self.assertEqual(b"old", Path(path).read_bytes())
            Path(path).unlink()

    def test_all_or_none(self) -> None:
        """If one file cannot be written, the earlier ones are removed.

        A file that another process created meanwhile stays.
        """
        prefix = self.path("me")
        original = os.open

        def quicker(path: Path, *arguments: int) -> int:
            if str(path).endswith(".json"):
                self.path("me.jwks.json", b"somebody else's")
            return original(path, *arguments)

        self.patch(os, "open", quicker)
        self.refuse(f"{prefix}.jwks.json: File exists", "client-certificate", "--out", prefix)
        self.assertEqual(["me.jwks.json"], self.files())

    def test_bad_input(self) -> None:
        """An invalid kind, name or number of days is reported in one sentence.

        No file is written.
        """
        prefix = self.path("me")
        for sentence, *arguments in (
            [
                "key: found 'dsa', expected one of ec, ec-p384, rsa, rsa-4096, ed25519, "
                "ml-dsa-44, ml-dsa-65, ml-dsa-87",
                "--key",
                "dsa",
            ],
            ["days: found 0, expected 1 to 36525", "--days", "0"],
            ["common name: found '', expected 1 to 64 bytes of printable text", "--name", ""],
        ):
            self.refuse(sentence, "client-certificate", "--out", prefix, *arguments)
        self.assertEqual([], self.files())


@attrs.frozen
class Port:
    """A listening port, as far as the command uses it."""

    host: IAddress

    def getHost(self) -> IAddress:
        return self.host


class Echo(Case):
    def test_serves(self) -> None:
        """The echo service listens at the given address until the reactor stops."""
        reactor = MemoryReactorClock()
        out = StringIO()
        with redirect_stdout(out):
            cli._serve(reactor, "tcp:8080:interface=127.0.0.1", show_secret_name=False)
        ((port, site, _, interface),) = reactor.tcpServers
        self.assertEqual((8080, "127.0.0.1", True), (port, interface, reactor.hasRun))
        self.assertIsInstance(site, Site)
        self.assertEqual(
            "listening; for the proxy: --backend http://0.0.0.0:8080\n", out.getvalue()
        )

    def test_announces_what_the_proxy_takes(self) -> None:
        """The printed address has the syntax of ``--backend``, for every kind of address."""
        for address, expected in (
            (IPv4Address("TCP", "127.0.0.1", 8080), "http://127.0.0.1:8080"),
            (IPv6Address("TCP", "::1", 8080), "http://[::1]:8080"),
            (UNIXAddress(b"/run/echo"), "unix:/run/echo"),
            (UNIXAddress("echo"), f"unix:{Path.cwd() / 'echo'}"),
            (HostnameAddress(b"a", 1), str(HostnameAddress(b"a", 1))),
        ):
            out = StringIO()
            with redirect_stdout(out):
                cli._announce(Port(address))  # type: ignore[arg-type]
            self.assertEqual(f"listening; for the proxy: --backend {expected}\n", out.getvalue())

    def test_bad_endpoint(self) -> None:
        """An invalid endpoint is reported in one sentence, and the reactor is not started."""
        reactor = MemoryReactorClock()
        self.patch(twisted.internet, "reactor", reactor)
        address = "tcp:8080:interface=127.0.0.1"
        for text, example, reason in (
            ("brew:1", address, "Unknown endpoint type: 'brew'"),
            ("tcp:x", address, "invalid literal for int() with base 10: 'x'"),
            ("9090", "tcp:9090:interface=127.0.0.1", "Unknown endpoint type: '9090'"),
        ):
            sentence = (
                f"listen: found {text!r}, expected a Twisted server endpoint such as {example}: "
                f"{reason}"
            )
            self.refuse(sentence, "echo", "--listen", text)
        self.assertFalse(reactor.hasRun)

    def test_taken_port_in_process(self) -> None:
        """A port in use stops the reactor, and is reported in one sentence."""
        reactor = MemoryReactorClock()

        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.EADDRINUSE, "Address already in use")

        self.patch(reactor, "listenTCP", fail)
        self.patch(twisted.internet, "reactor", reactor)
        self.refuse(f"listen: [Errno {errno.EADDRINUSE}] Address already in use", "echo")
        self.assertTrue(reactor.hasStopped)

    def test_for_real(self) -> None:
        """In its own process, the service responds to a real client and exits with 0 on Ctrl-C."""
        with started("echo", "--listen", "tcp:0:interface=127.0.0.1") as process:
            assert process.stdout is not None
            url = process.stdout.readline().rpartition(" ")[2].strip()
            with urlopen(f"{url}/token", timeout=PATIENCE) as answer:  # noqa: S310  (our own process)
                self.assertEqual("No client certificate arrived.", json.load(answer)["message"])
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
        self.assertEqual((0, "", ""), (process.returncode, out, err))

    def test_secret_name(self) -> None:
        """A secret header name is masked, unless the command line has ``--show-secret-name``."""
        name = secret_name("echo")
        for options, is_shown in (([], False), (["--show-secret-name"], True)):
            with started("echo", "--listen", "tcp:0:interface=127.0.0.1", *options) as process:
                assert process.stdout is not None
                url = process.stdout.readline().rpartition(" ")[2].strip()
                request = Request(url, headers={name: "value"})  # noqa: S310 - our own process
                with urlopen(request, timeout=PATIENCE) as response:  # noqa: S310
                    text = response.read().decode().lower()
                process.send_signal(signal.SIGINT)
                process.communicate()
            self.assertEqual(is_shown, name.lower() in text)

    def test_taken_port_for_real(self) -> None:
        """A port in use is reported in one sentence, with exit status 1."""
        with socket(AF_INET, SOCK_STREAM) as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with started("echo", "--listen", f"tcp:{port}:interface=127.0.0.1") as process:
                out, err = process.communicate()
        self.assertEqual((1, ""), (process.returncode, out))
        self.assertRegex(
            err, rf"^x509proxy: listen: .*127\.0\.0\.1:{port}.*Address already in use\n$"
        )
