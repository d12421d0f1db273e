"""Tests of the time of day: the clock is set back by an hour, and every timer continues."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.daemons import ROOT, TWISTD, Daemon, DaemonTestCase
from tests.support.notify_socket import NotifySocket
from tests.support.raw_tls import until

# Each Python with this module in its path imports it before Twisted reads time.time: parent and
# workers.
_STEPPING = """
import os, time
_real = time.time
time.time = lambda: _real() - 3600 * os.path.exists({flag!r})
"""
_CONFIG = """
[health]
path = "/health"
interval = 0.2

[client]
drain-timeout = 1
"""


class StepBack(DaemonTestCase):
    async def serve(self, *lines: str) -> Daemon:
        """Start a proxy with systemd's watchdog, and with a clock that can be set."""
        self.ear = NotifySocket()
        self.addCleanup(self.ear.close)
        daemon = self.prepare()
        self.flag = daemon.files.folder / "step"
        module = daemon.files.write(
            "sitecustomize.py", _STEPPING.format(flag=str(self.flag)).encode()
        )
        config = daemon.files.write("proxy.toml", "\n".join([*lines, _CONFIG]).encode())
        environment = [
            f"PYTHONPATH={module.parent}:{ROOT}",
            f"NOTIFY_SOCKET={self.ear.name}",
            "WATCHDOG_USEC=400000",
        ]
        daemon.spawn(
            [
                "env",
                *environment,
                *TWISTD,
                "-n",
                "--pidfile=",
                *daemon.arguments("--config", str(config)),
            ]
        )
        await until(lambda: len(daemon.back_end.requests) > 1, pause=0.05)
        self.flag.touch()
        return daemon

    async def expect_life(self, daemon: Daemon) -> None:
        """Check that the watchdog is notified and the back end is checked, several times more."""
        before = len(daemon.back_end.requests)
        beats: list[dict[str, str]] = []
        self.ear.heard()

        def goes_on() -> bool:
            beats.extend(said for said in self.ear.heard() if "WATCHDOG" in said)
            return len(beats) > 2 and len(daemon.back_end.requests) > before + 2

        await until(goes_on, pause=0.05)

    async def test_one_process(self) -> None:
        """The watchdog's notifications, the health checks and the end of a drain are on time."""
        daemon = await self.serve()
        await self.expect_life(daemon)
        held = daemon.connect()
        self.addCleanup(held.close)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)

    async def test_workers(self) -> None:
        """The timers of workers and their parent continue too; a dead worker is replaced."""
        daemon = await self.serve("workers = 2")
        await self.expect_life(daemon)
        first, *_ = before = self.workers(daemon)
        os.kill(first, signal.SIGKILL)
        await until(lambda: len({*self.workers(daemon)} - {*before}) == 1, pause=0.05)
        await self.expect_life(daemon)

    def workers(self, daemon: Daemon) -> list[int]:
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text("ascii")
        return [int(number) for number in children.split()]
