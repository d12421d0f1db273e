"""Promises of ``contrib/x509proxy.service``: it starts what there is, hardened."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from x509proxy.service import Options
from x509proxy.settings import ClientSettings

UNIT = Path(__file__).parent.parent / "contrib" / "x509proxy.service"
# Tenths of the exposure that ``systemd-analyze security`` computes; 20 is 2.0.
EXPOSURE = 20


class Unit(SynchronousTestCase):
    def setUp(self) -> None:
        self.settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text("ascii"), re.MULTILINE))

    def test_command(self) -> None:
        """The command is the proxy's, in the foreground, without a pid file, and its options exist."""
        _, *arguments = shlex.split(self.settings["ExecStart"])
        self.assertEqual(["--nodaemon", "--pidfile=", "x509proxy"], arguments[:3])
        self.assertLessEqual({argument[2:] for argument in arguments[3:] if argument.startswith("--")}, {"config"})
        self.assertIn("config=", Options().longOpt)

    def test_patience(self) -> None:
        """Systemd waits longer for the end than the proxy does for what is in flight."""
        self.assertGreater(int(self.settings["TimeoutStopSec"]), ClientSettings().stop_timeout)

    def test_files(self) -> None:
        """As many files may be open as the default number of connections needs, two for each."""
        self.assertGreater(int(self.settings["LimitNOFILE"]), 2 * ClientSettings().connections)

    def test_exposure(self) -> None:
        """The exposure that systemd computes is 2.0 or better."""
        command = shutil.which("systemd-analyze")
        if command is None:
            raise SkipTest("systemd-analyze is not here")
        done = subprocess.run(
            [command, "security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager", UNIT.name],
            cwd=UNIT.parent, capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        self.assertEqual(0, done.returncode, done.stdout.decode()[-2000:] + done.stderr.decode())
