"""Promises of ``docs/commands.rst``: it is what the parsers have, and each exit status is real."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.commands_page import PAGES, commands_page, parsers
from tests.support.pages import DOCS, ROOT, PageTests, read_page
from tests.support.ports import free_port
from x509proxy.service.options import Options

_GOOD = """
listen = "tcp:8443"
certificate = "server.pem"
private-key = "server.key"
backend = "http://127.0.0.1:8080"
preset = "xfcc"
access-log = "access.log"
"""


class Page(PageTests):
    page = "commands"

    def status(self, *words: str) -> int:
        """Return the exit status of a command, which ends by itself."""
        program = Path(sys.executable).with_name(words[0])
        done = subprocess.run(
            [program, *words[1:]], cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        self.assertNotIn(b"Traceback", done.stderr)
        return done.returncode

    def test_up_to_date(self) -> None:
        """The page was made from these parsers (``python -m tests.support.commands_page``)."""
        self.assertEqual(commands_page(), read_page("commands"))

    def test_width(self) -> None:
        """The page does not depend on the terminal of the user who makes it."""
        self.patch(os, "environ", {**os.environ, "COLUMNS": "60"})
        self.assertEqual(commands_page(), read_page("commands"))

    def test_guides(self) -> None:
        """Each command has a guide."""
        self.assertEqual([*parsers()], [*PAGES])
        for page in PAGES.values():
            self.assertTrue((DOCS / f"{page.guide}.rst").is_file(), page.guide)

    def test_statuses(self) -> None:
        """Each command has the exit statuses of the page."""
        (self.folder / "good.toml").write_text(_GOOD)
        (self.folder / "bad.toml").write_text(_GOOD + "workers = 0\n")
        nowhere = f"https://localhost:{free_port()}"
        recorder = f"tcp:{free_port()}:interface=127.0.0.1"
        for expected, command in (
            (0, "x509proxy secret"),
            (1, "x509proxy secret --preset rfc9440"),
            (2, "x509proxy secret --colour"),
            (0, "x509proxy check good.toml"),
            (1, "x509proxy check bad.toml"),
            (1, "x509proxy check --strict bad.toml"),
            (2, "x509proxy check"),
            (0, "x509proxy presets"),
            (1, "x509proxy presets unknown"),
            (0, "x509proxy client-certificate"),
            (1, "x509proxy client-certificate"),  # the files exist now
            (1, "x509proxy echo --listen tcp:99999"),
            (0, "x509proxy audit --list"),
            (2, f"x509proxy audit {nowhere} --header X-Client-Cert --listen {recorder}"),
            (0, "x509proxy export nginx good.toml"),
            (1, "x509proxy export nginx missing.toml"),
            (2, "x509proxy"),
            (1, "twistd -n --pidfile= x509proxy --config bad.toml"),
            (1, "twistd -n --pidfile= x509proxy --colour"),
        ):
            self.assertEqual(expected, self.status(*command.split()), command)


_COMMAND = re.compile(r"^(?:\S*/)?x509proxy (\w.*)$|^(?:\S*/)?(twistd .*)$")


class Commands(SynchronousTestCase):
    def commands(self) -> Iterator[tuple[str, str]]:
        """Yield each command line of ``x509proxy`` and ``twistd`` on any page."""
        pages = {ROOT / "README.rst", *DOCS.rglob("*.rst")} - {DOCS / "commands.rst"}
        for path in sorted(pages):
            text = path.read_text("utf-8").replace("\\\n", " ")
            for line in re.findall(r"^ {3,}(\S.*)$", text, re.MULTILINE):
                if found := _COMMAND.match(line):
                    yield path.name, re.sub(r"\s+#.*| [>|<&].*", "", found[1] or found[2])

    def test_parse(self) -> None:
        """Each command line on a page is one that the parsers accept."""
        counted = 0
        for page, line in self.commands():
            if line.startswith("twistd "):
                self.check_twistd(page, line)
            elif "…" not in line and line != "check FILE":
                words = shlex.split(line)
                parser = parsers()[words[0]]
                try:
                    parser.parse_args(words[1:])
                except SystemExit as error:
                    self.assertEqual(0, error.code, f"{page}: {line}")
            counted += 1
        self.assertGreater(counted, 30)

    def check_twistd(self, page: str, line: str) -> None:
        """Check that each option of the plugin exists."""
        given = set(re.findall(r" --([a-z-]+)", line.partition(" x509proxy")[2]))
        known = {name.rstrip("=").replace("_", "-") for name in Options().longOpt}
        self.assertLessEqual(given, known, f"{page}: {line}")
