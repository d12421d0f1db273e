"""The proxy in its own process, with its files, its log and its signals."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import attrs
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support.ports import free_port
from tests.support.raw_tls import HEADER, Reply, get, read_reply, until
from tests.support.services import ProxyFiles
from x509proxy.certificates.self_signed import SelfSigned
from x509proxy.testing import (
    Answer,
    RecordingBackEnd,
    client_identity,
    header_value,
)

ROOT = Path(__file__).parents[2]


Answered = TypeVar("Answered")


BIN = Path(sys.executable).parent


TWISTD = [sys.executable, str(BIN / "twistd")]


TWIST = [sys.executable, "-m", "twisted"]


def is_running(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@attrs.define
class Daemon:
    """One proxy in its own process, with its files."""

    files: ProxyFiles
    port: int
    back_end: RecordingBackEnd
    pid: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid_file(self) -> Path:
        return self.files.folder / "twistd.pid"

    @property
    def log(self) -> str:
        """Return twistd's log and both standard streams."""
        paths = (self.files.folder / name for name in ("twistd.log", "stdout", "stderr"))
        return "".join(path.read_text() for path in paths if path.exists())

    @property
    def access_log(self) -> Path:
        return self.files.folder / "access.log"

    def arguments(self, *more: str) -> list[str]:
        listen = f"tcp:{self.port}:interface=127.0.0.1"
        back_end = f"http://127.0.0.1:{self.back_end.port}"
        files = self.files
        names = [
            "--certificate",
            files.certificate,
            "--private-key",
            files.key,
            "--header-file",
            files.header,
        ]
        return ["x509proxy", "--listen", listen, "--backend", back_end, *map(str, names), *more]

    def spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        with (
            (self.files.folder / "stdout").open("wb") as out,
            (self.files.folder / "stderr").open("wb") as err,
        ):
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.pid = self.process.pid
        return self.process

    def listens(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"it has ended with {self.process.returncode}:\n{self.log}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def connect(self, ca: Path | None = None, client: SelfSigned | None = None) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ca or self.files.certificate)
        if client is not None:
            context.load_cert_chain(
                self.files.write("client.pem", client.certificate_pem + client.key_pem)
            )
        return context.wrap_socket(
            socket.create_connection(("127.0.0.1", self.port), 10), server_hostname="localhost"
        )

    def end(self) -> None:
        """Kill the process, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        elif self.pid and self.process is None and is_running(self.pid):
            os.kill(self.pid, signal.SIGKILL)


class DaemonTestCase(TestCase):
    timeout = 60

    def prepare(self, *answers: Answer) -> Daemon:
        back_end = RecordingBackEnd(reactor, *answers)
        self.addCleanup(back_end.stop)
        daemon = Daemon(ProxyFiles(self.mktemp()), free_port(), back_end)
        self.addCleanup(daemon.end)
        return daemon

    async def start(
        self, *more: str, answers: Sequence[Answer] = (), runner: Sequence[str] = ()
    ) -> Daemon:
        """Start a proxy in the foreground, with ``twistd -n`` or another runner."""
        daemon = self.prepare(*answers)
        daemon.spawn(
            [
                *(runner or [*TWISTD, "-n", "--pidfile", str(daemon.pid_file)]),
                *daemon.arguments(*more),
            ]
        )
        await until(daemon.listens, pause=0.05)
        return daemon

    async def dialogue(
        self,
        daemon: Daemon,
        step: Callable[[ssl.SSLSocket], Answered],
        client: SelfSigned | None = None,
    ) -> Answered:
        def run() -> Answered:
            with daemon.connect(client=client) as connection:
                return step(connection)

        result: Answered = await deferToThread(run)
        return result

    async def ask(self, daemon: Daemon, request: bytes, client: SelfSigned | None = None) -> Reply:
        def step(connection: ssl.SSLSocket) -> Reply:
            connection.sendall(request)
            return read_reply(connection)

        return await self.dialogue(daemon, step, client)

    async def ends(self, daemon: Daemon, status: int) -> None:
        """Check that it ends without a signal, with this exit status, and leaves no pid file."""
        process = daemon.process
        assert process is not None
        await until(lambda: process.poll() is not None, pause=0.05)
        self.assertEqual(status, process.returncode, daemon.log)
        # A daemon's parent ends before the daemon removes the file.
        await until(lambda: not daemon.pid_file.exists(), pause=0.05)

    async def serves(self, daemon: Daemon) -> None:
        """Check that the back end receives a client's certificate, and not the forged one."""
        client = client_identity()
        self.assertEqual(
            200, (await self.ask(daemon, get("/token", f"{HEADER}: EVIL"), client)).status
        )
        self.assertEqual([header_value(client)], daemon.back_end.requests[-1].values(HEADER))


def other_user_can_run() -> bool:
    """Return whether another user can import the modules that are imported late."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import twisted.web.http"], user="nobody", cwd=ROOT, check=False
        )
    except PermissionError:
        return False
    return done.returncode == 0
