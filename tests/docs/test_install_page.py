"""Promises of ``docs/install-systemd.rst``: each step works, up to rotated secrets."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.forwarding.secret_name import new_header_name

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "install-systemd.rst").read_text("utf-8")
UNIT = (ROOT / "contrib" / "x509proxy.service").read_text("ascii")
PATIENCE = 60.0  # seconds; enough for a busy machine
RELOAD = "systemctl reload x509proxy"
USER = "x509proxy"


def block(name: str) -> str:
    """Return the indented text behind ``.. test: NAME``."""
    found = re.search(
        rf"^\.\. test: {name}\n\n\.\. code-block:: \w+\n\n((?:    .*\n|\n)+)", PAGE, re.MULTILINE
    )
    assert found is not None, name
    return dedent(found[1])


class _BackEnd(ThreadingHTTPServer):
    """A back end that records the fields of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.fields: list[list[str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Request(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _BackEnd)
        self.server.fields.append([name.lower() for name in self.headers])
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in http.server
        """Keep the test's output clean."""


class InstallTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.port = free_port()
        self.back_end = _BackEnd()
        self.addCleanup(self.back_end.stop)
        (self.folder / "files").mkdir(parents=True)
        self.user = self.service_user()
        # RuntimeDirectory= of systemd; a short name, since the path of a socket has 107 bytes.
        self.runtime = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.runtime)
        shutil.chown(self.runtime, self.user)
        self.renew()

    def service_user(self) -> str:
        """Return a user that can take the place of the service's: not root, where possible."""
        if os.geteuid() == 0:
            command = [sys.executable, "-c", "import x509proxy"]
            try:
                subprocess.run(
                    command, cwd=self.folder, user="nobody", extra_groups=[], capture_output=True,
                    check=True,
                )  # fmt: skip
            except (OSError, subprocess.CalledProcessError):
                # An interpreter in root's own folder, for instance.
                return getpass.getuser()
            return "nobody"
        return getpass.getuser()

    def renew(self) -> SelfSigned:
        """Put a new key and certificate of the server where the administrator has them."""
        made = make_self_signed(KeyKind.EC, "localhost", names=["localhost"], server=True)
        (self.folder / "server.pem").write_bytes(made.certificate_pem)
        (self.folder / "server.key").write_bytes(made.key_pem)
        return made

    def here(self, text: str) -> str:
        """Return a text of the page or the unit with the folders and the user of this test."""
        for there, folder in (
            ("/etc/x509proxy", self.folder / "files"),
            ("/var/log/x509proxy", self.folder / "log"),
            ("/run/x509proxy", self.runtime),
            ("/opt/x509proxy/bin", Path(sys.executable).parent),
        ):
            text = re.sub(rf"(?<![\w/]){there}(?=[/\s]|$)", str(folder), text)
        text = re.sub(rf"(?<=-o |-u ){USER}\b", self.user, text)
        if os.geteuid() != 0:
            text = text.replace(f"runuser -u {self.user} -- ", "")
        text = text.replace(
            "http://127.0.0.1:8080", f"http://127.0.0.1:{self.back_end.server_port}"
        )
        return text.replace("tcp:443", f"tcp:{self.port}:interface=127.0.0.1")

    def run_shell(self, commands: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", self.here(commands)],
            env={**os.environ, "RENEWED_LINEAGE": str(self.folder)},
            cwd=self.folder, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.assertEqual((0, ""), (done.returncode, done.stderr if done.returncode else ""))
        return done.stdout

    def install(self) -> None:
        """Do the steps 2 and 3."""
        self.assertIn("op.tls.clientX509CertHeader = ", self.run_shell(block("files")))
        (self.folder / "files" / "x509proxy.toml").write_text(self.here(block("toml")))

    @property
    def names(self) -> list[str]:
        """The lines of the header file."""
        return (self.folder / "files" / "header.txt").read_text("ascii").split()


class Steps(InstallTestCase):
    def test_modes(self) -> None:
        """Secrets are readable by the service's user alone, as the table on the page has it."""
        self.install()
        modes = {}
        for path in (self.folder / "files").iterdir():
            status = path.stat()
            modes[path.name] = f"{status.st_mode & 0o777:04o}"
            if path.name in {"server.key", "header.txt"}:
                self.assertEqual(self.user, path.owner(), path)
        self.assertEqual(
            {"server.pem": "0644", "server.key": "0400", "header.txt": "0600"},
            {name: mode for name, mode in modes.items() if name != "x509proxy.toml"},
        )
        self.assertEqual(0o755, (self.folder / "files").stat().st_mode & 0o777)
        for name, mode in (*modes.items(), ("x509proxy.toml", "0644")):
            row = PAGE.partition(f"``/etc/x509proxy/{name}``\n     - ")[2]
            self.assertEqual("0644" if mode == "0600" and "toml" in name else mode, row[:4], name)

    def test_secret_that_is_there(self) -> None:
        """A secret header name that is there already is not replaced."""
        before = self.folder / "header.txt"
        before.touch(0o600)
        before.write_text(f"{new_header_name()}\n")
        self.assertEqual("", self.run_shell(block("files")))
        self.assertEqual([before.read_text().strip()], self.names)

    def test_check(self) -> None:
        """The check accepts the configuration of the page, as the user of the service."""
        self.install()
        self.assertIn("the configuration is good", self.run_shell(block("check")))


class Removal(InstallTestCase):
    def test_sockets(self) -> None:
        """The removal ends the sockets before the service, and leaves no file of a unit."""
        units = self.folder / "units"
        (units / "x509proxy.service.d").mkdir(parents=True)
        for name in ("x509proxy.service", "x509proxy.socket", "x509proxy-v6.socket", "other"):
            (units / name).touch()
        (units / "x509proxy.service.d" / "key.conf").touch()
        commands = block("removal").partition("rm -r /opt")[0]
        called = self.folder / "bin" / "systemctl"
        called.parent.mkdir()
        called.write_text('#!/bin/sh\necho "$@"\n')
        called.chmod(0o755)
        for folder in ("/etc/systemd/system", "/etc/logrotate.d"):
            commands = commands.replace(folder, str(units))
        shown = self.run_shell(f"PATH={called.parent}:$PATH\n{commands}").replace(f"{units}/", "")
        first, *others = shown.splitlines()
        self.assertEqual(
            ["--now", "disable", "x509proxy-v6.socket", "x509proxy.socket"], sorted(first.split())
        )
        self.assertEqual(
            ["disable --now x509proxy", "daemon-reload", "reset-failed x509proxy*"], others
        )
        self.assertEqual(["other"], [path.name for path in units.iterdir()])


class RunningTestCase(InstallTestCase):
    def start(self, **environment: str) -> None:
        """Start the command of the unit, as systemd does it."""
        [command] = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
        # An abstract name, since a path may be too long.
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.systemd.close)
        self.systemd.bind(f"\0x509proxy-install-{self.port}")
        self.systemd.settimeout(PATIENCE)
        environment["NOTIFY_SOCKET"] = f"@x509proxy-install-{self.port}"
        self.log = self.folder / "twistd.log"
        account: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = {"user": self.user, "extra_groups": []}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                shlex.split(self.here(command)), cwd="/", stdout=output, stderr=output,
                env={**os.environ, **environment}, **account,
            )  # fmt: skip
        self.addCleanup(self.end)
        self.receive("READY=1")

    def end(self) -> None:
        self.process.terminate()
        # Twisted ends by the signal, which systemd counts as a clean end.
        self.assertIn(
            self.process.wait(PATIENCE), (0, -signal.SIGTERM), self.log.read_text(errors="replace")
        )

    def receive(self, word: str) -> str:
        """Wait for a word of the service's; return its status."""
        while True:
            lines = self.systemd.recv(4096).decode().split("\n")
            if word in lines:
                return "".join(line[7:] for line in lines if line.startswith("STATUS="))

    def reload(self) -> str:
        """Wait for the end of a reload; return the status after it."""
        self.receive("RELOADING=1")
        return self.receive("READY=1")


class Rotation(RunningTestCase):
    def step(self, name: str) -> None:
        """Do a step of the page that ends with a reload."""
        commands = block(name).strip()
        self.assertEqual(RELOAD, commands.splitlines()[-1])
        self.run_shell(commands.replace(RELOAD, f"kill -HUP {self.process.pid}"))
        self.assertEqual("serving", self.reload())

    def get(self, certificate: SelfSigned) -> list[str]:
        """Send a request with a client certificate; return the names of the fields that arrive."""
        context = ssl.create_default_context(cadata=certificate.certificate_pem.decode("ascii"))
        client = self.folder / "client.pem"
        made = make_self_signed(KeyKind.EC, "client")
        client.write_bytes(made.certificate_pem + made.key_pem)
        context.load_cert_chain(client)
        # The listener has an address of IPv4 only, and the certificate the name localhost.
        context.check_hostname = False
        connection = HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=context)
        connection.request("GET", "/token")
        self.assertEqual(204, connection.getresponse().status)
        connection.close()
        return self.back_end.fields[-1]

    def arrived(self, certificate: SelfSigned, names: list[str]) -> list[str]:
        fields = self.get(certificate)
        return [name for name in names if name.lower() in fields]

    def test_admin(self) -> None:
        """The admin listener reports that the proxy is ready, and has the metrics."""
        self.install()
        self.start()
        shown = self.run_shell(block("admin"))
        self.assertTrue(shown.startswith("ready\n"), shown[:80])
        self.assertIn("x509proxy_ready 1", shown)

    def test_rotation(self) -> None:
        """A reload uses a new key, a deploy hook's too, both secret header names, and then one."""
        self.install()
        self.start()
        [old] = self.names
        made = self.renew()
        self.step("key")
        self.assertEqual([old], self.arrived(made, [old]))
        made = self.renew()
        shutil.copy(self.folder / "server.key", self.folder / "privkey.pem")
        shutil.copy(self.folder / "server.pem", self.folder / "fullchain.pem")
        self.step("hook")
        self.assertEqual([old], self.arrived(made, [old]))
        self.step("both")
        both = self.names
        self.assertEqual((old, 2), (both[0], len(both)))
        self.assertEqual(both, self.arrived(made, both))
        self.step("next")
        self.assertEqual(both[1:], self.names)
        self.assertEqual(both[1:], self.arrived(made, both))
        self.assertFalse((self.folder / "next.txt").exists())


class Credentials(RunningTestCase):
    def sentence(self) -> str:
        """Return the sentence of the page about copies whose originals cannot be looked at."""
        [found] = re.findall(r"^    (private-key: restart needed .*)$", PAGE, re.MULTILINE)
        return str(found)

    def test_drop_in(self) -> None:
        """The page's drop-in and configuration name the same copy."""
        [name] = re.findall(r"^LoadCredential=([\w.]+):/\S+$", block("drop-in"), re.MULTILINE)
        self.assertIn(f'``private-key = "/run/credentials/x509proxy.service/{name}"``', PAGE)

    def test_not_silent(self) -> None:
        """A reload that could only read the old copies reports it in the status and the log."""
        self.install()
        copies = self.folder / "credentials" / "x509proxy.service"
        copies.mkdir(parents=True)
        shutil.move(self.folder / "files" / "server.key", copies)
        toml = self.folder / "files" / "x509proxy.toml"
        toml.write_text(toml.read_text().replace('"server.key"', f'"{copies / "server.key"}"'))
        self.start(CREDENTIALS_DIRECTORY=str(copies))
        self.process.send_signal(signal.SIGHUP)
        self.assertEqual(f"serving; {self.sentence()}", self.reload())
        self.assertIn(f"reload: {self.sentence()}", self.log.read_text())


class Unit(SynchronousTestCase):
    def test_user(self) -> None:
        """The unit runs as the user of the page, and reads its files where the page puts them."""
        settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))
        self.assertEqual((USER, USER), (settings["User"], settings["LogsDirectory"]))
        self.assertNotIn("LoadCredential", settings)
        self.assertRegex(PAGE, rf"useradd .*\\\n +--shell /usr/sbin/nologin {USER}\n")
        self.assertTrue(settings["ExecStart"].endswith(" --config /etc/x509proxy/x509proxy.toml"))

    def test_verify(self) -> None:
        """``systemd-analyze verify`` accepts the unit, with a program that is installed."""
        analyze = shutil.which("systemd-analyze")
        if analyze is None:
            raise SkipTest("systemd-analyze is not here")
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        unit = folder / "x509proxy.service"
        unit.write_text(re.sub(r"/opt/x509proxy/bin/\w+", shutil.which("true") or "", UNIT))
        done = subprocess.run(
            [analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
        )
        self.assertEqual((0, ""), (done.returncode, done.stderr))
