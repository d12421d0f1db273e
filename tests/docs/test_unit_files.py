"""Promises of ``contrib/x509proxy.service`` and ``x509proxy.socket``: they start, hardened."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from twisted.internet.endpoints import _SystemdParser
from twisted.internet.testing import MemoryReactor
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from x509proxy.service import journal
from x509proxy.service.options import Options
from x509proxy.settings import ClientSettings

UNIT = Path(__file__).parents[2] / "contrib" / "x509proxy.service"
# Tenths of the exposure that ``systemd-analyze security`` computes; 20 is 2.0.
EXPOSURE = 20


class Unit(SynchronousTestCase):
    def setUp(self) -> None:
        self.settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text("ascii"), re.MULTILINE))

    def test_command(self) -> None:
        """The command is the proxy's, in the foreground, without a pid file; its options exist."""
        _, *arguments = shlex.split(self.settings["ExecStart"])
        observer = f"{journal.__name__}.{journal.observer.__name__}"
        expected = ["--nodaemon", "--pidfile=", "--logger", observer, "x509proxy"]
        self.assertEqual(expected, arguments[:5])
        self.assertLessEqual(
            {argument[2:] for argument in arguments[5:] if argument.startswith("--")}, {"config"}
        )
        self.assertIn("config=", Options().longOpt)

    def test_reload(self) -> None:
        """A reload checks the file of the command first, and sends the signal after that."""
        commands = re.findall(r"^ExecReload=(.*)$", UNIT.read_text("ascii"), re.MULTILINE)
        program, _, arguments = self.settings["ExecStart"].partition(" ")
        check = f"{program.removesuffix('twistd')}x509proxy check {arguments.split()[-1]}"
        self.assertEqual([check, "/bin/kill -HUP $MAINPID"], commands)

    def test_patience(self) -> None:
        """Systemd waits longer for the end than the proxy does for what is in flight."""
        self.assertGreater(int(self.settings["TimeoutStopSec"]), ClientSettings().drain_timeout)

    def test_files(self) -> None:
        """As many files may be open as the default number of connections needs, two for each."""
        self.assertGreater(int(self.settings["LimitNOFILE"]), 2 * ClientSettings().max_connections)

    def test_words(self) -> None:
        """It waits for the proxy's notification, from any of its processes, and the watchdog's."""
        self.assertEqual(("notify", "main"), (self.settings["Type"], self.settings["NotifyAccess"]))
        # A reload of large lists holds the reactor up for seconds.
        self.assertGreaterEqual(int(self.settings["WatchdogSec"]), 30)

    def test_socket(self) -> None:
        """The socket's name is the file's endpoint, and Twisted has that kind of endpoint."""
        text = UNIT.with_suffix(".socket").read_text("ascii")
        settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
        [description] = re.findall(r'^#   listen = "(.*)"$', text, re.MULTILINE)
        self.assertEqual(f"systemd:domain=INET:name={settings['FileDescriptorName']}", description)
        self.assertEqual(UNIT.name, settings["Service"])
        # A start of the service starts a socket that has failed with it.
        self.assertEqual(UNIT.name, settings["RequiredBy"])
        parser = _SystemdParser()
        self.patch(parser, "_sddaemon", ListenFDs([7], [settings["FileDescriptorName"]]))
        endpoint = parser.parseStreamServer(
            MemoryReactor(), **dict(part.split("=") for part in description.split(":")[1:])
        )
        self.assertEqual(7, endpoint.fileno)

    def test_exposure(self) -> None:
        """The exposure that systemd computes is 2.0 or better."""
        command = shutil.which("systemd-analyze")
        if command is None:
            raise SkipTest("systemd-analyze is not here")
        done = subprocess.run(
            [
                command,
                "security",
                "--offline=yes",
                f"--threshold={EXPOSURE}",
                "--no-pager",
                UNIT.name,
            ],
            cwd=UNIT.parent,
            capture_output=True,
            timeout=30,
            check=False,
        )
        self.assertEqual(0, done.returncode, done.stdout.decode()[-2000:] + done.stderr.decode())
