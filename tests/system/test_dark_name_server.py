"""Tests of a name server that does not respond: it delays requests to one back end only."""

from __future__ import annotations

import os
import signal

from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from tests.support.daemons import ROOT, TWISTD, Daemon, DaemonTestCase
from tests.support.raw_tls import get, read_reply, until

# Each lookup of this name takes a minute, like resolv.conf's defaults with several servers.
_DARK = """
import socket, time
_real = socket.getaddrinfo
def getaddrinfo(host, *rest, **named):
    if host == "dark.example":
        time.sleep(60)
    return _real(host, *rest, **named)
socket.getaddrinfo = getaddrinfo
"""


class Dark(DaemonTestCase):
    async def serve(self, *lines: str) -> Daemon:
        """Start a proxy for a back end whose name cannot be resolved."""
        daemon = self.prepare()
        module = daemon.files.write("sitecustomize.py", _DARK.encode())
        text = "\n".join([*lines, "[upstream]", "connect-timeout = 0.5", ""])
        config = daemon.files.write("proxy.toml", text.encode())
        arguments = daemon.arguments("--config", str(config))
        arguments[arguments.index("--backend") + 1] = "http://dark.example:8080"
        daemon.spawn(
            ["env", f"PYTHONPATH={module.parent}:{ROOT}", *TWISTD, "-n", "--pidfile=", *arguments]
        )
        await until(daemon.listens, pause=0.05)
        return daemon

    async def expect_end(self, daemon: Daemon) -> None:
        """Check that requests are 504, and that the end does not wait for the lookup."""

        def ask() -> int:
            with daemon.connect() as connection:
                connection.sendall(get())
                return read_reply(connection).status

        statuses = await gatherResults([deferToThread(ask) for _ in range(8)])
        self.assertEqual([504] * 8, statuses)
        os.kill(daemon.pid, signal.SIGTERM)
        process = daemon.process
        assert process is not None
        await until(lambda: process.poll() is not None, seconds=15, pause=0.05)

    async def test_one_process(self) -> None:
        """One process responds and ends in time."""
        await self.expect_end(await self.serve())

    async def test_workers(self) -> None:
        """Workers respond and end in time."""
        await self.expect_end(await self.serve("workers = 2"))
