"""A restart under load, with the socket held by another process, as by systemd.

No client is rejected, and no request fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
from twisted.internet.threads import deferToThread

from tests.support.daemons import ROOT, TWISTD, Daemon, DaemonTestCase
from tests.support.notify_socket import NotifySocket
from tests.support.raw_tls import read_reply, until

_CLIENTS = 4
_SECONDS = 6.0
_BACKLOG = 4096  # systemd.socket(5)
_REQUEST = b"GET /token HTTP/1.1\r\nHost: a\r\n\r\n"


@attrs.define
class Tally:
    """The results of the clients.

    ``stale``: a kept connection had been closed before its next request, as by any idle timeout.
    """

    answered: int = 0
    restarts_seen: int = 0
    stale: int = 0
    refused: int = 0
    failed: list[str] = attrs.field(factory=list)
    longest: float = 0.0


class Holder:
    """The socket, and the program that passes it to a service, as systemd does."""

    def __init__(self, program: str, ear: NotifySocket) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._program = program
        self._ear = ear

    @property
    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port

    def start(self, daemon: Daemon, command: Sequence[str]) -> subprocess.Popen[bytes]:
        given = [
            f"-E{name}={value}"
            for name, value in {"PYTHONPATH": ROOT, "NOTIFY_SOCKET": self._ear.name}.items()
        ]
        activate = [self._program, *given, "--fdname=https", *command]
        # sd_listen_fds(3): descriptors from 3 on, for the process that LISTEN_PID names. bash,
        # since dash duplicates no descriptor above 9.
        shell = [
            "bash",
            "-c",
            f'exec 3<&{self.socket.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"',
            "bash",
            *activate,
        ]
        with (daemon.files.folder / "stderr").open("ab") as err:
            process = subprocess.Popen(
                shell,
                pass_fds=[self.socket.fileno()],
                stdout=err,
                stderr=err,
                stdin=subprocess.DEVNULL,
            )
        daemon.process, daemon.pid = process, process.pid
        return process


class Client(threading.Thread):
    """A client that sends one request after another.

    ``keeps``: over one connection as long as that lives, else over a new one each time.
    """

    def __init__(self, daemon: Daemon, keeps: bool, tally: Tally) -> None:
        super().__init__(daemon=True)
        self._daemon = daemon
        self._keeps = keeps
        self._tally = tally
        self._until = time.monotonic() + _SECONDS
        self._connection: ssl.SSLSocket | None = None

    def run(self) -> None:
        while time.monotonic() < self._until:
            began = time.monotonic()
            self._ask()
            self._tally.longest = max(self._tally.longest, time.monotonic() - began)
            time.sleep(0.005)

    def _ask(self) -> None:
        kept = self._connection is not None
        try:
            connection = self._connection or self._daemon.connect()
            self._connection = None
            connection.sendall(_REQUEST)
            reply = read_reply(connection)
        except ConnectionRefusedError:
            self._tally.refused += 1
        except Exception as error:
            if kept:
                self._tally.stale += 1
            else:
                self._tally.failed.append(repr(error))
        else:
            self._note(connection, reply.status, reply.get("Connection"))

    def _note(self, connection: ssl.SSLSocket, status: int, told: list[str]) -> None:
        if status != 200:
            self._tally.failed.append(str(status))
        self._tally.answered += 1
        self._tally.restarts_seen += told == ["close"]
        if self._keeps and not told:
            self._connection = connection
        else:
            connection.close()


class Restart(DaemonTestCase):
    timeout = 120

    def hold(self) -> tuple[Holder, NotifySocket]:
        program = shutil.which("systemd-socket-activate")
        if program is None:
            self.skipTest("systemd-socket-activate is not here")
        ear = NotifySocket()
        self.addCleanup(ear.close)
        holder = Holder(program, ear)
        self.addCleanup(holder.socket.close)
        return holder, ear

    def command(self, daemon: Daemon, *more: str) -> list[str]:
        _, _, _, *rest = daemon.arguments(*more)
        return [
            *TWISTD,
            "-n",
            "--pidfile=",
            "x509proxy",
            "--listen",
            "systemd:domain=INET:name=https",
            *rest,
        ]

    async def heard(self, ear: NotifySocket, word: str) -> None:
        await until(lambda: any(word in said for said in ear.heard()), 90, pause=0.02)

    async def restarts(self, *more: str) -> None:
        holder, ear = self.hold()
        daemon = self.prepare()
        daemon.port = holder.port
        command = self.command(daemon, *more)
        process = holder.start(daemon, command)
        tallies = [Tally() for _ in range(_CLIENTS)]
        clients = [Client(daemon, number % 2 == 0, tally) for number, tally in enumerate(tallies)]
        for client in clients:
            client.start()
        for _ in range(2):
            await self.heard(ear, "READY")
            await deferToThread(time.sleep, 1.0)
            os.kill(process.pid, signal.SIGTERM)
            await self.heard(ear, "STOPPING")
            await deferToThread(process.wait)
            process = holder.start(daemon, command)
        await self.heard(ear, "READY")
        for client in clients:
            await deferToThread(client.join)
        self.report(tallies)
        self.assertNotIn("Traceback", daemon.log)
        self.assertEqual(
            [(0, [])] * _CLIENTS, [(tally.refused, tally.failed) for tally in tallies], daemon.log
        )

    def report(self, tallies: list[Tally]) -> None:
        total = {
            name: sum(getattr(tally, name) for tally in tallies)
            for name in ("answered", "restarts_seen", "stale", "refused")
        }
        failed = [word for tally in tallies for word in tally.failed]
        longest = max(tally.longest for tally in tallies)
        print(f"\nrestart: {total} failed={failed} longest={longest:.2f} s", file=sys.__stderr__)
        self.assertGreater(total["answered"], 100)

    async def test_twice(self) -> None:
        """Two restarts under load: each connection is accepted, each new request is 200."""
        await self.restarts()

    async def test_with_workers(self) -> None:
        """The same with several processes that serve."""
        config = Path(self.mktemp())
        config.write_text("workers = 2\n", encoding="ascii")
        await self.restarts("--config", str(config))
