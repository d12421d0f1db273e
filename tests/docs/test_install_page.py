"""Promises of ``docs/install-systemd.rst``: its steps lead to a service that starts and reloads."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, make_self_signed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "install-systemd.rst").read_text("utf-8")
UNIT = (ROOT / "contrib" / "x509proxy.service").read_text("ascii")
PATIENCE = 60.0  # seconds, for machines that do much else


def block(name: str) -> str:
    """Return the indented text behind ``.. test: NAME``."""
    found = re.search(
        rf"^\.\. test: {name}\n\n\.\. code-block:: \w+\n\n((?:    .*\n|\n)+)", PAGE, re.MULTILINE
    )
    assert found is not None, name
    return dedent(found[1])


def properties(words: list[str]) -> list[tuple[str, str]]:
    """Return the properties that a ``systemd-run`` command sets."""
    given = [word.removeprefix("--property=") for word in words if word.startswith("--property=")]
    return [(name, value) for name, _, value in (text.partition("=") for text in given)]


class Steps(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.port = free_port()
        for name in ("files", "credentials"):
            (self.folder / name).mkdir(parents=True)
        made = make_self_signed(KeyKind.EC, "localhost", names=["localhost"], server=True)
        (self.folder / "server.pem").write_bytes(made.certificate_pem)
        (self.folder / "server.key").write_bytes(made.key_pem)

    def here(self, text: str) -> str:
        """Return a text of the page or the unit with the folders of this test."""
        for there, folder in (
            ("/etc/x509proxy", self.folder / "files"),
            ("/run/credentials/x509proxy.service", self.folder / "credentials"),
            ("/var/log/x509proxy", self.folder / "log"),
            ("/opt/x509proxy/bin", Path(sys.executable).parent),
        ):
            text = re.sub(rf"(?<![\w/]){there}(?=[/\s]|$)", str(folder), text)
        return text.replace("tcp:443", f"tcp:{self.port}:interface=127.0.0.1")

    def run_shell(self, commands: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", self.here(commands)],
            cwd=self.folder, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.assertEqual((0, ""), (done.returncode, done.stderr if done.returncode else ""))
        return done.stdout

    def install(self) -> list[str]:
        """Do the steps 2 and 3, copy the credentials as systemd does, and return the output."""
        self.assertIn("op.tls.clientX509CertHeader = ", self.run_shell(block("files")))
        (self.folder / "files" / "x509proxy.toml").write_text(self.here(block("toml")))
        words = shlex.split(self.here(block("run").replace("\\\n", " ")))
        for name, value in properties(words):
            if name == "LoadCredential":
                target, _, source = value.partition(":")
                copy = self.folder / "credentials" / target
                shutil.copyfile(source, copy)
                copy.chmod(0o400)
        return words

    def test_modes(self) -> None:
        """Secrets are root's alone; the service's user reads everything else where it lies."""
        self.install()
        modes = {
            path.name: path.stat().st_mode & 0o777 for path in (self.folder / "files").iterdir()
        }
        del modes["x509proxy.toml"]
        self.assertEqual({"server.pem": 0o644, "server.key": 0o600, "header.txt": 0o600}, modes)
        self.assertEqual(0o755, (self.folder / "files").stat().st_mode & 0o777)
        for name, mode in (*modes.items(), ("x509proxy.toml", 0o644)):
            row = PAGE.partition(f"``/etc/x509proxy/{name}``\n     - ")[2]
            self.assertEqual(f"{mode:04o}", row.partition("\n")[0], name)

    def test_check(self) -> None:
        """The check reads the originals of the copies, which the unit names."""
        self.install()
        toml = block("toml").replace("/var/log/x509proxy", str(self.folder / "log"))
        (self.folder / "files" / "x509proxy.toml").write_text(toml)
        (self.folder / "contrib").mkdir()
        (self.folder / "contrib" / "x509proxy.service").write_text(self.here(UNIT))
        self.assertIn("the configuration is good", self.run_shell(block("check")))

    def test_check_in_unit(self) -> None:
        """The check inside of a unit accepts the configuration of the page, with the copies."""
        words = self.install()
        command = words[words.index(self.here("/opt/x509proxy/bin/x509proxy")) :]
        shown = self.run_shell(shlex.join(command))
        self.assertIn("the configuration is good", shown)

    def test_service(self) -> None:
        """The command of the unit starts with that configuration, and reloads it."""
        self.install()
        [command] = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
        systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(systemd.close)
        # An abstract name, since a path may be too long.
        systemd.bind(f"\0x509proxy-install-{self.port}")
        systemd.settimeout(PATIENCE)
        log = self.folder / "twistd.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                shlex.split(self.here(command)), cwd=self.folder, stdout=output, stderr=output,
                env={**os.environ, "NOTIFY_SOCKET": f"@x509proxy-install-{self.port}"},
            )  # fmt: skip
        try:
            # Ready, reloading, ready again: Type=notify.
            self.receive(systemd, b"READY=1")
            socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
            process.send_signal(signal.SIGHUP)
            self.receive(systemd, b"RELOADING=1")
            self.receive(systemd, b"READY=1")
        finally:
            process.terminate()
            process.wait(PATIENCE)
        self.assertIn(b"the files are used as they are now", log.read_bytes())
        # Twisted ends by the signal, which systemd counts as a clean end.
        self.assertIn(process.returncode, (0, -signal.SIGTERM), log.read_text())

    def receive(self, systemd: socket.socket, word: bytes) -> None:
        while word not in systemd.recv(4096).split(b"\n"):
            pass


class Unit(SynchronousTestCase):
    def test_properties(self) -> None:
        """The check has the user, the credentials and the log folder of the unit."""
        words = shlex.split(block("run").replace("\\\n", " "))
        names = {"DynamicUser", "LoadCredential", "LogsDirectory"}
        of_unit = [
            (name, value)
            for name, value in re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE)
            if name in names
        ]
        self.assertEqual(sorted(of_unit), sorted(properties(words)))
        self.assertIn("--unit=x509proxy", words)

    def test_credentials(self) -> None:
        """The configuration names the copies that the unit makes."""
        named = re.findall(r"/run/credentials/x509proxy\.service/([\w.]+)", block("toml"))
        made = re.findall(r"^LoadCredential=([\w.]+):", UNIT, re.MULTILINE)
        self.assertEqual(sorted(made), sorted(named))

    def test_verify(self) -> None:
        """``systemd-analyze verify`` accepts the unit, with a program that is installed."""
        analyze = shutil.which("systemd-analyze")
        if analyze is None:
            raise SkipTest("systemd-analyze is not here")
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        unit = folder / "x509proxy.service"
        unit.write_text(UNIT.replace("/opt/x509proxy/bin/twistd", shutil.which("true") or ""))
        done = subprocess.run(
            [analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
        )
        self.assertEqual((0, ""), (done.returncode, done.stderr))
