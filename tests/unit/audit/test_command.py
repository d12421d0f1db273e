"""The command ``x509proxy audit``, from the command line to exit status and reports."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.support.audit_requests import echo
from tests.support.broken_terminator import HEADER, Fault, Terminator
from tests.support.ports import free_port
from x509proxy import cli
from x509proxy.audit import command
from x509proxy.audit.options import Options
from x509proxy.audit.probes import PROBES
from x509proxy.audit.recorder import Listener, Recorder
from x509proxy.monitoring.snapshot_builder import installed_version


@attrs.frozen
class Done:
    """One finished command."""

    status: int
    out: str
    err: str


class Terminal(io.StringIO):
    """Standard error on a terminal."""

    def isatty(self) -> bool:
        return True


def run(*arguments: str, err: io.StringIO | None = None) -> Done:
    """Run ``x509proxy audit`` in this process."""
    out, err = io.StringIO(), err or io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(["audit", *arguments])
    return Done(status, out.getvalue(), err.getvalue())


class AuditCase(SynchronousTestCase):
    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.header = self.folder / "header.txt"
        self.header.write_bytes(HEADER + b"\n")
        self.back_end = free_port()

    def audit(self, *options: str, faults: tuple[Fault, ...] = (), **words: Any) -> Done:
        """Audit a terminator with these faults."""
        terminator = Terminator(self.back_end, *faults)
        self.addCleanup(terminator.stop)
        return run(
            "https://localhost", "--connect", f"127.0.0.1:{terminator.port}",
            "--header-file", str(self.header), "--listen", f"tcp:{self.back_end}", *options,
            **words,
        )  # fmt: skip

    def refused(self, sentence: str, *options: str) -> None:
        """Check that the command ends with status 2 and one sentence."""
        done = run(*options)
        self.assertEqual((2, ""), (done.status, done.out))
        self.assertIn(sentence, done.err)
        self.assertEqual(1, done.err.count("\n"))


class Runs(AuditCase):
    def test_clean(self) -> None:
        """Without a failure the exit status is 0."""
        done = self.audit("--only", "name-same")
        self.assertEqual((0, ""), (done.status, done.err))
        self.assertIn("0 failed, 1 passed", done.out)

    def test_echo(self) -> None:
        """Without ``--listen`` an echo is expected where the terminator forwards to."""
        recorder = Recorder(Listener(host="127.0.0.1"))
        self.addCleanup(recorder.stop)
        recorder.responder = echo
        terminator = Terminator(recorder.port)
        self.addCleanup(terminator.stop)
        place = f"127.0.0.1:{terminator.port}"
        options = ("--header-file", str(self.header), "--only", "name-same", "--connect", place)
        self.assertEqual(0, run("https://localhost", *options).status)

    def test_failed(self) -> None:
        """A failure gives exit status 1, unless it is less severe than asked for."""
        faults = (Fault.EMPTY,)
        self.assertEqual(1, self.audit("--only", "absent-empty", faults=faults).status)
        options = ("--only", "absent-empty", "--fail-on", "high")
        self.assertEqual(0, self.audit(*options, faults=faults).status)

    def test_reports(self) -> None:
        """Each report is written to its file, and JSON to standard output."""
        names = {kind: str(self.folder / f"report.{kind}") for kind in ("junit", "sarif", "html")}
        options = [word for kind, name in names.items() for word in (f"--{kind}", name)]
        done = self.audit("--only", "name-same", "--json", *options, faults=(Fault.KEEPS,))
        self.assertEqual("failed", json.loads(done.out)["results"][0]["outcome"])
        for name in names.values():
            self.assertIn("name-same", Path(name).read_text())
            self.assertNotIn(HEADER.decode(), Path(name).read_text())

    def test_unwritable(self) -> None:
        """A report that cannot be written is an error with its name."""
        done = self.audit("--only", "name-same", "--html", str(self.folder))
        self.assertEqual(2, done.status)
        self.assertIn(str(self.folder), done.err)

    def test_progress(self) -> None:
        """On a terminal a line shows the progress, and is removed at the end."""
        err = Terminal()
        self.audit("--only", "name-same", err=err)
        self.assertIn("[1/1] pass name-same", err.getvalue())
        self.assertTrue(err.getvalue().endswith("\r\033[K"))

    def test_authority(self) -> None:
        """The authority's certificate is written, and the audit waits."""
        self.patch(sys, "stdin", io.StringIO("\n"))
        path = self.folder / "ca.pem"
        done = self.audit("--only", "name-same", "--authority", str(path))
        self.assertIn("BEGIN CERTIFICATE", path.read_text())
        self.assertIn("press Enter", done.err)

    def test_untrusted(self) -> None:
        """Where no certificate is accepted, a note reports that probes with one test nothing."""
        done = self.audit("--only", "name-same", faults=(Fault.ALERTS,))
        self.assertEqual(0, done.status)
        self.assertIn("--authority makes certificates that it can trust", done.err)

    def test_nothing_arrives(self) -> None:
        """Where nothing arrives the audit reports it, and does not pass."""
        done = self.audit("--listen", f"tcp:{free_port()}", "--only", "name-same")
        self.assertEqual(2, done.status)
        self.assertIn("no request at the back end", done.err)

    def test_nobody_listens(self) -> None:
        """Where no terminator listens the audit reports it."""
        options = ("https://localhost", "--header", "X-A", "--connect", f"127.0.0.1:{free_port()}")
        self.refused("found no connection", *options)

    def test_busy_port(self) -> None:
        """A port that is taken is an error of the operating system."""
        terminator = Terminator(1)
        self.addCleanup(terminator.stop)
        self.refused("in use", "https://a", "--header", "X-A", "--listen", f"tcp:{terminator.port}")

    def test_too_many(self) -> None:
        """The number of connections is bounded."""
        self.patch(command, "Pace", command_pace)
        done = self.audit("--only", "name-same")
        self.assertEqual(2, done.status)
        self.assertIn("connections, expected 2 or fewer", done.err)

    def test_version(self) -> None:
        """The report has the version of the package."""
        done = self.audit("--only", "name-same", "--json")
        self.assertEqual(installed_version(), json.loads(done.out)["version"])


def command_pace(rate: float) -> object:
    """Return a pace of two connections."""
    from x509proxy.audit.lab import Pace

    return Pace(rate=rate, connections=2)


class CommandLine(AuditCase):
    def test_list(self) -> None:
        """``--list`` prints every probe."""
        done = run("--list")
        self.assertEqual((0, len(PROBES)), (done.status, done.out.count("\n")))

    def test_hostile(self) -> None:
        """Probes for denial of service run when they are asked for."""
        options = Options(**{**_DEFAULTS, "hostile": False})
        gentle = command.chosen(options)
        self.assertFalse([probe for probe in gentle if probe.hostile])
        every = command.chosen(Options(**{**_DEFAULTS, "hostile": True}))
        self.assertEqual(len(PROBES), len(every))

    def test_errors(self) -> None:
        """Each mistake is one sentence."""
        url = "https://a"
        self.refused("url: found none")
        self.refused("url: found 'ftp://a'", "ftp://a", "--header", "X-A")
        self.refused("url: found 'https://a:x'", "https://a:x", "--header", "X-A")
        self.refused("url: found 'https://ä'", "https://ä", "--header", "X-A")
        self.refused("rate: found 0", url, "--header", "X-A", "--rate", "0")
        self.refused("path: found '/ä'", url, "--header", "X-A", "--path", "/ä")
        self.refused("other-name: found 'a b'", url, "--header", "X-A", "--other-name", "a b")
        self.refused("connect: found", url, "--header", "X-A", "--connect", "b:x")
        self.refused("header: found none, expected --header,", url)
        self.refused("header: found both", url, "--header", "X-A", "--header-file", "x")
        self.refused("header: found other characters", url, "--header", "X A")
        self.refused("preset: found 'x'", url, "--preset", "x")
        self.refused("header: found none, expected --header-file", url, "--preset", "connect2id")
        self.refused(
            "preset: found token-claims, expected one with a", url, "--preset", "token-claims"
        )
        self.refused("listen: found 'x'", url, "--header", "X-A", "--listen", "x")
        self.refused("only: found 'x'", url, "--header", "X-A", "--only", "x")
        self.refused("No such file", url, "--header-file", str(self.folder / "none"))

    def test_odd_names(self) -> None:
        """A host's name or an address that cannot be one is a mistake like any other."""
        for host in ("[::1", "a..b", f"{'a' * 64}.b", ".a"):
            self.refused("url: found 'https://", f"https://{host}", "--header", "X-A")
            self.refused("connect: found 'https://", "https://a", "--header", "X-A",
                         "--connect", host)  # fmt: skip

    def test_odd_files_and_ports(self) -> None:
        """A header file in another encoding, and a port above 65535, are mistakes too."""
        path = self.folder / "latin"
        path.write_bytes(b"X-\xe4")
        self.refused(f"{path}: found bytes that are not", "https://a", "--header-file", str(path))
        self.refused("listen: found 'tcp:65536'", "https://a", "--header", "X-A",
                     "--listen", "tcp:65536")  # fmt: skip

    def test_address_of_ipv6(self) -> None:
        """An address of IPv6 has its brackets in Host (RFC 9112 section 3.2)."""
        target = command.read_target(
            Options(**{**_DEFAULTS, "url": "https://[::1]:8443", "header": "X-A"})
        )
        self.assertEqual(("::1", 8443, "[::1]"), attrs.astuple(target.address))

    def test_targets(self) -> None:
        """A preset names the fields; a name and a format may replace its own."""
        for words, expected in (
            (
                {"preset": "keycloak-nginx"},
                [(b"ssl-client-cert", "pem-url"), (b"ssl-client-verify", "verify")],
            ),
            (
                {"preset": "keycloak-nginx", "header": "X-A"},
                [(b"X-A", "pem-url"), (b"ssl-client-verify", "verify")],
            ),
            ({"preset": "aspnet", "format": "pem"}, [(b"X-Client-Cert", "pem")]),
            ({"header": "X-A"}, [(b"X-A", "pem-url")]),
            ({"header": "X-A", "format": "xfcc"}, [(b"X-A", "xfcc")]),
        ):
            target = command.read_target(Options(**{**_DEFAULTS, **words}))
            self.assertEqual(expected, [(each.name, each.form.value) for each in target.fields])

    def test_other_places(self) -> None:
        """Back end, unencrypted port, paths and names are passed on."""
        words = {
            "header": "X-A", "direct": "http://10.0.0.1:8080", "plain": "http://a", "path": ["/p"],
            "other_name": ["b"],
        }  # fmt: skip
        target = command.read_target(Options(**{**_DEFAULTS, **words}))
        assert target.direct is not None
        assert target.plain is not None
        self.assertEqual(
            (443, 8080, 80), (target.address.port, target.direct.port, target.plain.port)
        )
        self.assertEqual(((b"/p",), ("b",)), (target.paths, target.other_names))

    def test_missing_library(self) -> None:
        """Without h11 the error has the command that installs it."""
        name = "x509proxy.audit.command"
        self.addCleanup(sys.modules.__setitem__, name, command)
        sys.modules[name] = None  # type: ignore[assignment]
        err = io.StringIO()
        with redirect_stderr(err):
            self.assertEqual(2, cli.main(["audit", "--list"]))
        self.assertIn("pip install h11 h2", err.getvalue())


_DEFAULTS: dict[str, Any] = {
    "url": "https://a", "preset": None, "header": None, "header_file": None, "format": None,
    "listen": None, "connect": None, "direct": None, "plain": None, "path": [], "other_name": [],
    "only": [], "list": False, "hostile": False, "rate": 1.0, "fail_on": "low", "authority": None,
    "verbose": False, "json": False, "junit": None, "sarif": None, "html": None,
}  # fmt: skip
