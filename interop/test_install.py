"""Promises about an installed package, in clean clones of the last commit."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[1]
# Seconds, the installation included.
_INSTALL = 600
_DEMO = 240


class Clean(SynchronousTestCase):
    """A clone of the last commit, and nothing else: no file that is only here helps."""

    timeout = _INSTALL

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="x509proxy-package-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.tree = self.folder / "tree"
        safe = ["git", "-c", "safe.directory=*"]
        self.run_(*safe, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(self.tree))

    def run_(self, *command: str, cwd: Path | None = None) -> str:
        """Run a command; it has to succeed."""
        outside = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        environment = {key: value for key, value in os.environ.items() if key not in outside}
        done = subprocess.run(
            command, cwd=cwd or self.folder, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=_INSTALL,
        )  # fmt: skip
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        return done.stdout

    def environment(self, *install: str) -> Path:
        """Make a virtual environment with something installed.

        Return the folder of its programs.
        """
        made = self.folder / "venv"
        self.run_(sys.executable, "-m", "venv", str(made))
        self.run_(str(made / "bin/pip"), "install", "--quiet", *install, cwd=self.tree)
        return made / "bin"

    def assert_listed(self, programs: Path) -> None:
        """Check that ``twistd`` lists the plugin, outside of the source tree."""
        shown = self.run_(str(programs / "twistd"), "--help")
        self.assertRegex(shown, r"(?m)^ +x509proxy +")


class Installed(Clean):
    def test_plain(self) -> None:
        """After ``pip install .`` twistd lists the plugin, and the console script runs."""
        programs = self.environment(".")
        self.assert_listed(programs)
        self.assertIn("usage", self.run_(str(programs / "x509proxy"), "--help").lower())

    def test_editable(self) -> None:
        """After ``pip install -e .`` too, in a clean folder."""
        self.assert_listed(self.environment("-e", "."))

    def test_wheel(self) -> None:
        """The wheel has the plugin and the marker of its types, and none of the tests."""
        wheels = self.folder / "wheels"
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        self.run_(*pip, "--wheel-dir", str(wheels), str(self.tree))
        (wheel,) = wheels.glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        self.assertIn("twisted/plugins/x509proxy_plugin.py", names)
        self.assertIn("x509proxy/py.typed", names)
        self.assertIn("x509proxy/monitoring/status_page/status.css", names)
        forbidden = r"^(tests|interop|bench)/|dropin\.cache|^twisted/(plugins/)?__init__"
        self.assertEqual([], [name for name in names if re.search(forbidden, name)])
        self.assert_listed(self.environment(str(wheel)))


class Readme(Clean):
    def command(self, name: str) -> str:
        """Return the block behind ``.. ci: NAME`` in the README."""
        text = (self.tree / "README.rst").read_text("utf-8")
        found = re.search(rf"^\.\. ci: {name}\n\n::\n\n((?:    .*\n)+)", text, re.MULTILINE)
        assert found is not None, name
        return "".join(line.strip() + "\n" for line in found[1].splitlines())

    def test_tests(self) -> None:
        """The README's command for the tests installs what they need, and starts them."""
        command = self.command("tests")
        self.assertTrue(command.rstrip().endswith("-m twisted.trial tests"), command)
        quick = command.rstrip() + ".unit.http1"
        shown = self.run_("bash", "-euo", "pipefail", "-c", quick, cwd=self.tree)
        self.assertIn("PASSED", shown)

    def test_demo(self) -> None:
        """The README's demonstration starts, and each ``curl`` line that it prints works."""
        log = self.folder / "demo.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", self.command("demo")],
                cwd=self.tree, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self.addCleanup(self.end, process)
        lines = self.curl_lines(log, process)
        for line in lines:
            self.run_("bash", "-euo", "pipefail", "-c", f"timeout 30 {line}", cwd=self.tree)
        self.assertIsNone(process.poll(), log.read_text())

    def curl_lines(self, log: Path, process: subprocess.Popen[bytes]) -> list[str]:
        """Wait until the demonstration has printed its lines: two looks see the same ones."""
        end, before = time.monotonic() + _DEMO, [""]
        while True:
            lines = re.findall(r"(?:^|\s)(curl .*)", log.read_text(errors="replace"))
            if lines and lines == before:
                return lines
            before = lines
            self.assertIsNone(process.poll(), log.read_text())
            self.assertLess(time.monotonic(), end, log.read_text())
            time.sleep(1)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End the demonstration with SIGTERM, within ten seconds."""
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
