"""Tests of the demonstration: every line it prints works, and it leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support.command_lines import lines_of
from tests.support.daemons import ROOT, TWIST, TWISTD
from tests.support.raw_tls import until
from x509proxy.service import demo
from x509proxy.service.demo import DemoService
from x509proxy.settings import ProxySettings


def run(line: str) -> Any:
    """Return the response to a printed line, run as a shell would."""
    done = subprocess.run(
        [*shlex.split(line), "--silent", "--show-error", "--max-time", "10"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{line}: {done.stderr.decode()}")
    return json.loads(done.stdout)


class ProxyServer(TestCase):
    """A demonstration in this process, with real sockets."""

    timeout = 60

    async def test_lines(self) -> None:
        """Each printed line works: EC, RSA, no certificate, and a forged header without effect.

        The usual port is taken: another one is used instead, and printed.
        """
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        other = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(other.close)
        self.patch(demo, "_PORT", other.getsockname()[1])
        out = io.StringIO()
        service: Any = DemoService(ProxySettings(demo=True), reactor, out)
        service.privilegedStartService()
        service.startService()
        self.addCleanup(service.stopService)
        await until(out.getvalue)
        self.assertNotIn(f":{demo._PORT}/", out.getvalue())
        await check(self, out.getvalue())
        await service.stopService()
        self.assertFalse(service.folder.exists())


async def check(case: TestCase, text: str) -> None:
    """Run the four lines, and check their responses."""
    answers = [await deferToThread(run, line) for line in lines_of(text)]
    messages = [answer["message"] for answer in answers]
    none = "No client certificate arrived."
    expected = [
        f"The client proved possession of the key of CN=demo client-{kind}."
        for kind in ("ec", "rsa")
    ]
    case.assertEqual([*expected, none, f"The forged field was removed. {none}"], messages)
    kinds = [[certificate["key"] for certificate in answer["certificates"]] for answer in answers]
    case.assertEqual([["EC P-256"], ["RSA 2048"], [], []], kinds)
    case.assertEqual(
        [["X-Echo-Forged", "forged"]],
        [field for field in answers[3]["headers"] if "forged" in field[1]],
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and wait for its end."""
    process.kill()
    process.wait()


class Process(TestCase):
    """Demonstrations with assigned ports: two of them started together may both find 8443 free."""

    timeout = 60

    async def start(self, runner: list[str]) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "tmp").mkdir(parents=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with (self.folder / "out").open("wb") as out:
            command = [*runner, "x509proxy", "--demo", "--listen", "tcp:0:interface=127.0.0.1"]
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        self.addCleanup(end, self.process)
        await until(
            lambda: len(lines_of(self.said())) == 4 or self.process.poll() is not None, pause=0.05
        )

    def said(self) -> str:
        return (self.folder / "out").read_text()

    async def interrupt(self) -> None:
        os.kill(self.process.pid, signal.SIGINT)
        await until(lambda: self.process.poll() is not None, pause=0.05)
        self.assertEqual([], list((self.folder / "tmp").iterdir()))
        self.assertNotIn("Traceback", self.said())

    async def test_twistd(self) -> None:
        """``twistd -n x509proxy --demo`` runs, its lines work, and Ctrl-C ends it."""
        await self.start([*TWISTD, "-n", "--pidfile="])
        await check(self, self.said())
        await self.interrupt()

    async def test_twist(self) -> None:
        """``twist x509proxy --demo`` does the same."""
        await self.start(TWIST)
        await check(self, self.said())
        await self.interrupt()

    async def test_pair(self) -> None:
        """Two demonstrations run side by side."""
        await self.start([*TWISTD, "-n", "--pidfile="])
        first = self.process, self.folder
        await self.start([*TWISTD, "-n", "--pidfile="])
        await check(self, self.said())
        await self.interrupt()
        self.process, self.folder = first
        await check(self, self.said())
        await self.interrupt()
