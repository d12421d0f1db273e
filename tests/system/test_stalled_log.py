"""Tests of logs whose reader stops: no wait, a count of dropped lines, a timely end."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Sequence

from tests.support.daemons import ROOT, TWIST, TWISTD, Daemon, DaemonTestCase
from tests.support.raw_tls import read_reply, until

# More than a pipe (64 KiB) and the proxy's own buffer (1 MiB) can hold: each line has the path.
_REQUESTS = 600
_PATH = "/" + "x" * 8000
_REQUEST = f"GET {_PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class Stalled(DaemonTestCase):
    timeout = 90

    async def serve(self, runner: Sequence[str], *lines: str, writer: int | None = None) -> Daemon:
        """Start a proxy whose standard output is ``writer``, or a pipe without a reader."""
        daemon = self.prepare()
        admin = daemon.files.folder / "a"
        text = "\n".join([*lines, "[admin]", f'listen = "unix:{admin}"', ""])
        config = daemon.files.write("proxy.toml", text.encode())
        if writer is None:
            reader, writer = os.pipe()
            self.addCleanup(os.close, reader)
        with (daemon.files.folder / "stderr").open("wb") as err:
            daemon.process = subprocess.Popen(
                [*runner, *daemon.arguments("--config", str(config), "--access-log", "-")],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=err,
            )
        daemon.pid = daemon.process.pid
        os.close(writer)
        await until(daemon.listens, pause=0.05)
        return daemon

    async def flood(self, daemon: Daemon) -> None:
        """Send more requests than the lines that fit into any buffer."""
        for _ in range(_REQUESTS // 100):
            await self.dialogue(daemon, self.ask_often)

    def ask_often(self, connection: ssl.SSLSocket) -> None:
        for _ in range(100):
            connection.sendall(_REQUEST)
            self.assertEqual(200, read_reply(connection).status)

    def dropped(self, daemon: Daemon) -> dict[str, int]:
        """Return the counter of dropped lines, by log."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.path.relpath(daemon.files.folder / "a"))
            connection.sendall(
                b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        found: dict[str, int] = json.loads(answer.partition(b"\r\n\r\n")[2])["counts"][
            "log_lines_dropped"
        ]
        return found

    async def expect_end(self, daemon: Daemon) -> None:
        """Check that it ends in time, even with its last lines unread."""
        os.kill(daemon.pid, signal.SIGTERM)
        process = daemon.process
        assert process is not None
        await until(lambda: process.poll() is not None, seconds=10, pause=0.05)

    async def test_twistd(self) -> None:
        """``twistd -n`` drops lines; its own log shares the pipe."""
        daemon = await self.serve([*TWISTD, "-n", "--pidfile="])
        await self.flood(daemon)
        await until(lambda: self.dropped(daemon)["access"] > 0, pause=0.05)
        await self.expect_end(daemon)

    async def test_full_disk(self) -> None:
        """Lines of the service log that a full disk rejects are counted; the proxy serves."""
        full = os.open("/dev/full", os.O_WRONLY)
        daemon = await self.serve([*TWISTD, "-n", "--pidfile="], writer=full)
        await until(lambda: self.dropped(daemon)["service"] > 0, pause=0.05)
        await self.dialogue(daemon, self.ask_often)
        await self.expect_end(daemon)

    async def test_twist(self) -> None:
        """``twist`` ends in time."""
        daemon = await self.serve(TWIST)
        await self.flood(daemon)
        await self.expect_end(daemon)

    async def test_workers(self) -> None:
        """Several processes that write into the same pipe drop lines."""
        daemon = await self.serve([*TWISTD, "-n", "--pidfile="], "workers = 2")
        await self.flood(daemon)
        await until(lambda: self.dropped(daemon)["access"] > 0, pause=0.05)
        await self.expect_end(daemon)
