"""Blocks of the documentation's pages, and a folder in which a test runs them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, make_self_signed

__all__ = ["DOCS", "ROOT", "PageTests", "block", "read_page", "toml_blocks"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_PATIENCE = 60.0  # seconds, for busy machines
_TOML = re.compile(r"^( *)\.\. code-block:: toml\n(?: +:.*\n)*\n((?:\1   .*\n|\n)+)", re.MULTILINE)


def read_page(page: str) -> str:
    """Return a page of ``docs`` by its name without ``.rst``, or the README."""
    path = ROOT / "README.rst" if page == "README" else DOCS / f"{page}.rst"
    return path.read_text("utf-8")


def block(page: str, name: str) -> str:
    """Return the indented text behind ``.. test: NAME``, as a reader copies it."""
    found = re.search(
        rf"^\.\. test: {name}\n\n[^\n]*::[^\n]*\n\n((?:(?:    [^\n]*)?\n)+)",
        read_page(page),
        re.MULTILINE,
    )
    if found is None:
        raise AssertionError(f"{page}: found no block {name}")
    return dedent(found[1]).strip() + "\n"


def toml_blocks(page: str) -> list[str]:
    """Return each block of TOML on a page, with or without a name."""
    return [dedent(text).strip() + "\n" for _, text in _TOML.findall(read_page(page))]


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the process accepts connections; fail if it ends, or after the patience."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"port {port}: found no listener")


class PageTests(SynchronousTestCase):
    """An administrator's folder, with the page's ports replaced by free ones."""

    page: str

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(mode=0o700)
        made = make_self_signed(KeyKind.EC, "localhost", names=["localhost"], server=True)
        for name, content in (("server.pem", made.certificate_pem), ("server.key", made.key_pem)):
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_bytes(content)
        self.ports = {"8443": str(free_port()), "8080": str(free_port())}
        self.environ = dict(
            os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        )

    def block(self, name: str) -> str:
        """Return the page's block, with free ports."""
        return self.here(block(self.page, name))

    def here(self, text: str) -> str:
        """Return a text of a page, with its ports replaced by free ones."""
        return re.sub(r"\b(8443|8080)\b", lambda port: self.ports[port[0]], text)

    def shell(self, commands: str) -> str:
        """Return the output of the commands; each must succeed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(
            (done.returncode, done.stderr.decode() if done.returncode else ""), (0, ""), commands
        )
        return done.stdout.decode()

    @contextmanager
    def running(self, command: list[str], port: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the command in the background while it listens on the port."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(int(port), process)
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_PATIENCE)
            finally:
                process.kill()

    def in_shell(self, name: str) -> list[str]:
        """Return a command whose last line keeps running, after the lines that prepare it."""
        *before, last = self.block(name).replace("\\\n", " ").splitlines()
        return ["bash", "-ec", "\n".join([*before, f"exec {last}"])]
