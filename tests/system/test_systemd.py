"""Tests of the interface to systemd: signals, notifications, a rotated log, an orderly end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemons import TWISTD, Daemon, DaemonTestCase
from tests.support.notify_socket import NotifySocket
from tests.support.raw_tls import get, read_reply, read_to_end, until
from tests.support.services import ProxyFiles, parse_options
from x509proxy.service.proxy_service import ProxyService
from x509proxy.service.supervisor import WorkerSupervisor
from x509proxy.settings import SettingsError

RECIPE = Path(__file__).parents[2] / "contrib" / "logrotate"


class _Reactor(MemoryReactorClock):
    """A reactor in memory, with the calls that a service makes of a real one.

    A call from a signal handler runs at once.
    """

    def callFromThread(self, callable: Callable[..., object], *args: Any, **kwargs: Any) -> None:  # noqa: A002
        callable(*args, **kwargs)

    def callWhenRunning(self, callable: Callable[..., object], *args: Any, **kwargs: Any) -> None:  # noqa: A002
        callable(*args, **kwargs)


class ServiceTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = ProxyFiles(self.mktemp())
        self.ear = NotifySocket()
        self.addCleanup(self.ear.close)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def serve(self, *more: str) -> ProxyService:
        options = parse_options(*self.files.arguments("--listen", "tcp:1", *more))
        assert options.configuration is not None
        environment = patch.dict(
            os.environ, {"NOTIFY_SOCKET": self.ear.name, "WATCHDOG_USEC": "20000000"}
        )
        environment.start()
        self.addCleanup(environment.stop)
        self.reactor = _Reactor()
        service = ProxyService(options.configuration, self.reactor)
        service.startService()
        return service

    def serve_by_workers(self) -> tuple[ProxyService, WorkerSupervisor]:
        """Start a service with two workers, neither of which exists."""
        self.patch(WorkerSupervisor, "start", lambda _: None)
        self.patch(WorkerSupervisor, "listen", lambda *_: None)
        service = self.serve("--config", str(self.files.write("proxy.toml", b"workers = 2\n")))
        assert isinstance(service.serving, WorkerSupervisor)
        return service, service.serving

    def said(self) -> list[str]:
        """Return systemd's notifications: the first word of each, and the status."""
        return [
            " ".join(filter(None, [next(iter(said)), said.get("STATUS", "")]))
            for said in self.ear.heard()
        ]


class Words(ServiceTestCase):
    def test_life(self) -> None:
        """The notifications are WATCHDOG, READY, more WATCHDOG, and STOPPING.

        No timer stays afterwards.
        """
        service = self.serve()
        self.assertEqual(["WATCHDOG", "READY serving"], self.said())
        self.reactor.advance(10)
        self.assertEqual(["WATCHDOG"], self.said())
        self.successResultOf(service.stopService())
        self.assertEqual(["STOPPING finishing requests in progress"], self.said())
        self.reactor.advance(60)
        self.assertEqual([], self.said())

    def reload_by_workers(
        self, service: ProxyService, supervisor: WorkerSupervisor
    ) -> Deferred[None]:
        """Begin a reload; the returned Deferred stands for the workers' reports."""
        reports: Deferred[None] = Deferred()
        patched = self.patch(supervisor, "use", lambda _: reports)
        service.reload()
        patched.restore()
        return reports

    def test_workers(self) -> None:
        """With workers, the proxy is ready when the first of them serves.

        A reload ends with their reports.
        """
        service, supervisor = self.serve_by_workers()
        self.assertEqual(["WATCHDOG"], self.said())
        supervisor.on_serving()
        self.assertEqual(["READY serving"], self.said())
        reports = self.reload_by_workers(service, supervisor)
        supervisor.on_serving()
        self.assertEqual(["RELOADING"], self.said())
        reports.errback(SettingsError("worker 1: of another planet"))
        self.assertEqual(
            ["READY serving; the last reload failed: worker 1: of another planet"], self.said()
        )
        reports = self.reload_by_workers(service, supervisor)
        service.reload()
        self.assertEqual(["RELOADING"], self.said())
        reports.callback(None)
        self.assertEqual(["READY serving", "RELOADING", "READY serving"], self.said())
        self.successResultOf(service.stopService())

    def test_too_late(self) -> None:
        """A late report of a worker does not revoke the end of the service."""
        service, supervisor = self.serve_by_workers()
        reports = self.reload_by_workers(service, supervisor)
        self.successResultOf(service.stopService())
        self.assertEqual(
            ["WATCHDOG", "RELOADING", "STOPPING finishing requests in progress"], self.said()
        )
        supervisor.on_serving()
        reports.errback(SettingsError("worker 1: of another planet"))
        self.assertEqual([], self.said())

    def test_children(self) -> None:
        """The environment of child processes has no address of systemd's socket."""
        service = self.serve()
        self.assertEqual(
            set(), {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
        )
        self.successResultOf(service.stopService())

    def test_reload(self) -> None:
        """A reload notifies its beginning and its end; a failed one is part of the status."""
        service = self.serve()
        self.said()
        content = self.files.certificate.read_bytes()
        self.files.certificate.write_bytes(b"nothing")
        os.kill(os.getpid(), signal.SIGHUP)
        begun, ended = self.said()
        self.assertEqual("RELOADING", begun)
        self.assertRegex(ended, "^READY serving; the last reload failed: .*server.pem")
        self.files.certificate.write_bytes(content)
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(["RELOADING", "READY serving"], self.said())
        self.successResultOf(service.stopService())

    def test_copies(self) -> None:
        """After a reload, the status names copies of credentials that may be outdated."""
        folder = str(self.files.folder)
        with patch.dict(os.environ, {"CREDENTIALS_DIRECTORY": folder}):
            service = self.serve()
            self.said()
            os.kill(os.getpid(), signal.SIGHUP)
        _, ended = self.said()
        keys = "certificate and private-key and header-file"
        self.assertTrue(
            ended.startswith(f"READY serving; {keys}: restart needed if changed"), ended
        )
        self.successResultOf(service.stopService())


class Signals(ServiceTestCase):
    def test_reopen(self) -> None:
        """SIGUSR1 reopens the access log, and twistd's own handler for it runs too."""
        seen: list[int] = []

        def before(number: int, _: FrameType | None) -> None:
            seen.append(number)

        signal.signal(signal.SIGUSR1, before)
        path = self.files.folder / "access.log"
        service = self.serve("--access-log", str(path))
        path.rename(f"{path}.1")
        os.kill(os.getpid(), signal.SIGUSR1)
        self.assertEqual((True, [signal.SIGUSR1]), (path.exists(), seen))
        self.successResultOf(service.stopService())
        self.assertEqual(before, signal.getsignal(signal.SIGUSR1))


class Rotation(DaemonTestCase):
    async def lines(self, daemon: Daemon, path: Path, targets: list[str]) -> None:
        await until(
            lambda: path.exists() and len(path.read_text().splitlines()) == len(targets), pause=0.05
        )
        self.assertEqual(
            targets, [json.loads(line)["target"] for line in path.read_text().splitlines()]
        )

    def toml(self, daemon: Daemon, *lines: str) -> str:
        return str(
            daemon.files.write(
                "proxy.toml", "\n".join(['log-format = "json"', *lines, ""]).encode()
            )
        )

    async def test_recipe(self) -> None:
        """With the logrotate recipe, old lines stay in the old file, and new ones do not."""
        program = shutil.which("logrotate") or shutil.which("logrotate", path="/usr/sbin")
        if program is None:
            self.skipTest("logrotate is not here")
        daemon = self.prepare()
        more = ("--config", self.toml(daemon), "--access-log", str(daemon.access_log))
        daemon.spawn([*TWISTD, "-n", "--pidfile=", *daemon.arguments(*more)])
        await until(daemon.listens, pause=0.05)
        await self.ask(daemon, get("/before"))
        await self.lines(daemon, daemon.access_log, ["/before"])
        self.rotate(program, daemon, f"kill -USR1 {daemon.pid}")
        await self.ask(daemon, get("/after"))
        await self.lines(daemon, daemon.access_log, ["/after"])
        [old] = daemon.files.folder.glob("access.log-*")
        await self.lines(daemon, old, ["/before"])
        self.assertEqual(
            [0o600, 0o600], [path.stat().st_mode & 0o777 for path in (daemon.access_log, old)]
        )

    def test_stopped(self) -> None:
        """Rotation succeeds while the service is stopped, and systemctl fails."""
        daemon = self.prepare()
        daemon.access_log.write_text("{}\n")
        program = shutil.which("logrotate") or shutil.which("logrotate", path="/usr/sbin")
        if program is None:
            self.skipTest("logrotate is not here")
        self.rotate(program, daemon, "false")
        self.assertEqual(1, len([*daemon.files.folder.glob("access.log-*")]))

    def rotate(self, program: str, daemon: Daemon, instead: str) -> None:
        """Run the recipe's steps, with this daemon's file, and another command for systemctl's."""
        text = RECIPE.read_text("ascii").replace(
            "/var/log/x509proxy/access.log", str(daemon.access_log)
        )
        command = "systemctl kill --kill-whom=main --signal=USR1 x509proxy.service"
        self.assertIn(command, text)
        recipe = daemon.files.write("logrotate.conf", text.replace(command, instead).encode())
        state = daemon.files.folder / "state"
        done = subprocess.run(
            [program, "--force", "--state", state, recipe],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((0, ""), (done.returncode, done.stderr))

    async def test_workers(self) -> None:
        """With several processes too, each continues in the new file."""
        daemon = self.prepare()
        path = daemon.access_log
        more = ("--config", self.toml(daemon, "workers = 2"), "--access-log", str(path))
        daemon.spawn([*TWISTD, "-n", "--pidfile=", *daemon.arguments(*more)])
        await until(daemon.listens, pause=0.05)
        await self.ask(daemon, get("/before"))
        await self.lines(daemon, path, ["/before"])
        path.rename(f"{path}.1")
        os.kill(daemon.pid, signal.SIGUSR1)
        await until(path.exists, pause=0.05)
        await until(lambda: self.holders(daemon, f"{path}.1") == 0, pause=0.05)
        for _ in range(8):
            await self.ask(daemon, get("/after"))
        await self.lines(daemon, path, ["/after"] * 8)

    def holders(self, daemon: Daemon, path: str) -> int:
        """Return the number of the daemon's and its workers' descriptors for a file."""
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        found = [
            link
            for pid in [str(daemon.pid), *children]
            for link in Path(f"/proc/{pid}/fd").iterdir()
        ]

        def leads_there(link: Path) -> bool:
            try:
                return str(link.readlink()) == path
            except OSError:
                # It has been closed meanwhile.
                return False

        return sum(map(leads_there, found))

    async def test_own_log(self) -> None:
        """The log of ``twistd`` itself is rotated at the same signal."""
        daemon = self.prepare()
        log = daemon.files.folder / "twistd.log"
        daemon.spawn([*TWISTD, "-n", "--pidfile=", "--logfile", str(log), *daemon.arguments()])
        await until(daemon.listens, pause=0.05)
        os.kill(daemon.pid, signal.SIGUSR1)
        await until(lambda: log.with_name("twistd.log.1").exists(), pause=0.05)


class End(DaemonTestCase):
    async def test_just_connected(self) -> None:
        """A client that connected before the end and sends after its beginning is served."""
        held: list[Any] = []
        daemon = await self.start(answers=[held.append])
        slow, quiet = [await deferToThread(daemon.connect) for _ in range(2)]
        for connection in (slow, quiet):
            self.addCleanup(connection.close)
        slow.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await daemon.back_end.heard(1)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: not daemon.listens(), pause=0.05)
        quiet.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        reply = await deferToThread(read_reply, quiet)
        self.assertEqual((200, ["close"]), (reply.status, reply.get("Connection")))
        held[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(200, (await deferToThread(read_reply, slow)).status)
        for connection in (slow, quiet):
            connection.close()
        await self.ends(daemon, -signal.SIGTERM)

    async def test_idle(self) -> None:
        """An idle connection is closed at the beginning of the end, with close_notify."""
        daemon = await self.start()
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)

        def step(connection: ssl.SSLSocket) -> bytes:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            read_reply(connection)
            os.kill(daemon.pid, signal.SIGTERM)
            return read_to_end(connection)

        self.assertEqual(b"", await deferToThread(step, connection))
        connection.close()
        await self.ends(daemon, -signal.SIGTERM)
