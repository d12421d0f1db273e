"""Tests of a real parent and its workers."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.support.client_load import ClientLoad
from tests.support.daemons import (
    ROOT,
    TWISTD,
    Daemon,
    DaemonTestCase,
    is_running,
    other_user_can_run,
)
from tests.support.raw_tls import get, read_reply, read_to_end, until
from x509proxy.certificates.self_signed import KeyKind, make_self_signed

# Real processes.


def children(pid: int) -> list[int]:
    """Return the children of a process, the oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and int((entry / "stat").read_text().rpartition(") ")[2].split()[1]) == pid
            ):
                found.append(int(entry.name))
        except OSError:
            pass
    return sorted(found)


def workers_of(pid: int) -> list[int]:
    """Return the children that run and are workers, by their command lines."""
    return [
        child
        for child in children(pid)
        if is_running(child) and b"x509proxy.service.worker" in command_line(child)
    ]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def queued(port: int) -> int:
    """Return the number of connections to a port that no process has accepted.

    In the table, the sixth word of a socket that listens (0A) has the length of its queue.
    """
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    [line] = [x for x in lines if x[1].endswith(f":{port:04X}") and x[3] == "0A"]
    return int(line[4].partition(":")[2], 16)


class Real(DaemonTestCase):
    """A parent and its workers."""

    OPTIONS: Sequence[str] = ()

    async def two_workers(
        self, *more: str, options: Sequence[str] = (), runner: Sequence[str] = ()
    ) -> Daemon:
        daemon = self.prepare()
        command = [*(runner or TWISTD), "-n", "--pidfile", str(daemon.pid_file), *options]
        daemon.spawn([*command, *daemon.arguments("--workers", "2", *more)])
        self.addCleanup(self.end_all, daemon)
        await self.ready(daemon)
        return daemon

    async def ready(self, daemon: Daemon) -> list[int]:
        """Wait until all workers accept; return their process ids."""
        words = ["worker 1: x509proxy starting on", "worker 2: x509proxy starting on"]
        await until(
            lambda: daemon.listens() and all(map(daemon.log.__contains__, words)), pause=0.05
        )
        return workers_of(daemon.pid)

    def end_all(self, daemon: Daemon) -> None:
        """Kill the workers that are left."""
        for pid in workers_of(daemon.pid):
            os.kill(pid, signal.SIGKILL)

    async def client(self, daemon: Daemon) -> Path:
        made = make_self_signed(KeyKind.EC, "client")
        return daemon.files.write("load.pem", made.certificate_pem + made.key_pem)


class Serving(Real):
    async def test_all_of_it(self) -> None:
        """Two workers serve one port and write one access log.

        SIGTERM ends all three processes.
        """
        daemon = await self.two_workers("--access-log", "-")
        first, second = workers_of(daemon.pid)
        await self.serves(daemon)
        for _ in range(5):
            self.assertEqual(200, (await self.ask(daemon, get("/again"))).status)
        await until(lambda: daemon.log.count("target=/again") == 5, pause=0.05)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)
        self.assertFalse(is_running(first) or is_running(second))
        self.assertNotIn("Traceback", daemon.log)
        self.assertNotIn("another is started", daemon.log)
        self.assertEqual({"x509proxy"}, set(re.findall(r"(\S+) starting on \d", daemon.log)))

    async def test_signals_too_early(self) -> None:
        """SIGHUP and SIGUSR1 end no worker, not even during its imports."""
        daemon = self.prepare()
        daemon.spawn(
            [*TWISTD, "-n", "--pidfile", str(daemon.pid_file), *daemon.arguments("--workers", "2")]
        )
        self.addCleanup(self.end_all, daemon)
        await until(lambda: len(workers_of(daemon.pid)) == 2, pause=0.002)
        early = workers_of(daemon.pid)
        for pid in (daemon.pid, *early):
            os.kill(pid, signal.SIGHUP)
            os.kill(pid, signal.SIGUSR1)
        self.assertEqual(early, await self.ready(daemon))
        await self.serves(daemon)
        self.assertNotIn("has ended", daemon.log)

    async def test_secrets(self) -> None:
        """Neither the command line nor the environment of a worker has a secret."""
        daemon = await self.two_workers()
        name = daemon.files.header.read_bytes().strip()
        key = daemon.files.key.read_bytes().splitlines()[1]
        for pid in workers_of(daemon.pid):
            told = command_line(pid) + Path(f"/proc/{pid}/environ").read_bytes()
            for secret in (name, key, b"PRIVATE KEY"):
                self.assertNotIn(secret, told)

    async def test_log_out_of_reach(self) -> None:
        """If the log cannot be reopened, the old file stays in use; each process logs it once."""
        folder = self.mktemp()
        Path(folder).mkdir()
        daemon = await self.two_workers("--access-log", str(Path(folder).absolute() / "access.log"))
        Path(folder).rename(f"{folder}.old")
        os.kill(daemon.pid, signal.SIGUSR1)
        await until(
            lambda: daemon.log.count("No such file or directory; the old file stays in use") == 3,
            pause=0.05,
        )
        for number in range(5):
            self.assertEqual(200, (await self.ask(daemon, get(f"/{number}"))).status)
        await until(
            lambda: Path(f"{folder}.old", "access.log").read_text().count("target=/") == 5,
            pause=0.05,
        )
        self.assertEqual(3, daemon.log.count("the old file stays in use"))
        self.assertNotIn("has ended", daemon.log)

    async def test_asyncio(self) -> None:
        """The workers' reactor has the same class as the parent's."""
        daemon = await self.two_workers(options=["--reactor=asyncio"])
        for pid in workers_of(daemon.pid):
            self.assertIn(b"twisted.internet.asyncioreactor", command_line(pid))
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)

    async def test_daemon(self) -> None:
        """A daemon can have workers too, and they end with it."""
        daemon = self.prepare()
        log = str(daemon.files.folder / "twistd.log")
        command = [*TWISTD, "--pidfile", str(daemon.pid_file), "--logfile", log, "--rundir", "/"]
        started = daemon.spawn([*command, *daemon.arguments("--workers", "2")])
        await until(lambda: started.poll() is not None, pause=0.05)
        self.assertEqual(0, started.returncode, daemon.log)
        daemon.process = None
        await until(
            lambda: daemon.pid_file.exists() and daemon.pid_file.read_text().strip(), pause=0.05
        )
        daemon.pid = int(daemon.pid_file.read_text())
        self.addCleanup(self.end_all, daemon)
        pids = await self.ready(daemon)
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: not any(map(is_running, (daemon.pid, *pids))), pause=0.05)

    async def test_systemd(self) -> None:
        """One process and workers serve sockets that systemd has bound.

        A unix socket keeps its file and mode, during the run and after it.
        """
        for workers in ("1", "2"):
            daemon = self.prepare()
            path = self.socket_path()
            words = [*TWISTD[1:], "-n", "--pidfile", str(daemon.pid_file)]
            words += daemon.arguments("--workers", workers)
            words[words.index("--listen") + 1] = "systemd:domain=INET:index=0"
            words += ["--listen", "systemd:domain=UNIX:index=1"]
            daemon.spawn([sys.executable, "-c", _AS_SYSTEMD, str(daemon.port), str(path), *words])
            self.addCleanup(self.end_all, daemon)
            if workers == "2":
                await self.ready(daemon)
            await until(lambda: f"starting on '{path}'" in daemon.log, pause=0.05)  # noqa: B023
            await self.serves(daemon)
            self.assertEqual(0o640, stat.S_IMODE(path.stat().st_mode))
            os.kill(daemon.pid, signal.SIGTERM)
            await self.ends(daemon, -signal.SIGTERM)
            self.assertEqual(0o640, stat.S_IMODE(path.stat().st_mode))

    def socket_path(self) -> Path:
        """Return a path of at most 107 bytes, as the name of a unix socket has."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        return Path(folder, "a")

    async def test_unix_socket(self) -> None:
        """Workers leave a unix socket's file and mode as they are, also when they die.

        The parent removes it at the end.
        """
        own, shared = self.socket_path(), self.socket_path()
        modes = {own: 0o600, shared: 0o660}
        daemon = await self.two_workers(
            "--listen", f"unix:{own}", "--listen", f"unix:{shared}:mode=660"
        )
        first, second = workers_of(daemon.pid)
        os.kill(first, signal.SIGTERM)
        os.kill(second, signal.SIGKILL)
        await until(lambda: not is_running(first) and not is_running(second), pause=0.05)
        self.assertEqual(modes, {path: stat.S_IMODE(path.stat().st_mode) for path in modes})
        await until(lambda: len(workers_of(daemon.pid)) == 2, pause=0.05)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)
        self.assertFalse(own.exists() or shared.exists())

    async def test_user(self) -> None:
        """Started by root with ``-u``, workers have that user's rights, and write to root's log."""
        if not other_user_can_run():
            self.skipTest("takes root, and a Python and a checkout that nobody can read")
        daemon = self.prepare()
        daemon.files.folder.parent.chmod(0o755)
        options = ["-u", "nobody", "-g", "nogroup", "-n", "--pidfile", str(daemon.pid_file)]
        more = ["--workers", "2", "--access-log", str(daemon.access_log)]
        daemon.spawn([*TWISTD, *options, *daemon.arguments(*more)])
        self.addCleanup(self.end_all, daemon)
        for pid in await self.ready(daemon):
            self.assertNotIn("\nUid:\t0", Path(f"/proc/{pid}/status").read_text())
        await self.serves(daemon)
        self.assertEqual(1, len(daemon.access_log.read_text().splitlines()))


# A process that binds two sockets and passes them as systemd does.
_AS_SYSTEMD = """
import os, socket, sys
path = sys.argv[2]
over_tcp = socket.create_server(("127.0.0.1", int(sys.argv[1])))
local = socket.socket(socket.AF_UNIX)
local.bind(path)
os.chmod(path, 0o640)
local.listen()
for number, held in ((20, over_tcp), (21, local)):
    os.dup2(held.fileno(), number, inheritable=False)
for number in (3, 4):
    os.dup2(17 + number, number)
names = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "LISTEN_PID": str(os.getpid())}
os.execve(sys.executable, [sys.executable, *sys.argv[3:]], {**os.environ, **names})
"""
# twistd with a parent that checks its workers every 0.4 s, not every second. It takes ten checks to
# detect a hung worker, which reports once a second.
_CHECKS_OFTEN = """
from x509proxy.service import supervisor
supervisor._CHECK_INTERVAL = 0.4
from twisted.scripts.twistd import run
run()
"""
IMPATIENT = [sys.executable, "-c", _CHECKS_OFTEN]

# A state after a failed upgrade: the parent continues, and no worker can be imported.
_NO_WORKERS = """
import os, sys
if "x509proxy.service.worker" in sys.orig_argv:
    os._exit(1)
"""


class Deaths(Real):
    async def test_killed_under_load(self) -> None:
        """A killed worker loses only its own connections."""
        daemon = await self.two_workers()
        first, _ = workers_of(daemon.pid)
        clients = 6
        load = ClientLoad(daemon, await self.client(daemon), 3.0)
        running = [deferToThread(load.run, turn % 2 == 0) for turn in range(clients)]
        await deferLater(reactor, 1.0)
        os.kill(first, signal.SIGKILL)
        killed = load.now()
        for one in running:
            await one
        self.assertLessEqual(len(load.failures), clients, load.failures)
        self.assertLess(load.last_failure, killed + 0.5)
        self.assertGreater(load.answered, 200)
        self.assertEqual(2, len(workers_of(daemon.pid)), daemon.log)
        self.assertEqual(
            1,
            daemon.log.count(
                f"worker 1 (process {first}) has ended, by signal 9; another is started in 1 s"
            ),
        )
        self.assertEqual(200, (await self.ask(daemon, get())).status)

    async def test_swapped_files(self) -> None:
        """Workers that start after a change of the files use the parent's files."""
        daemon = await self.two_workers()
        before = daemon.files.server.certificate.public_bytes(Encoding.DER)
        daemon.files.renew()
        daemon.files.header.write_bytes(b"swapped")
        old = workers_of(daemon.pid)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not any(map(is_running, old)), pause=0.05)

        def shown() -> bytes | None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            plain = socket.create_connection(("127.0.0.1", daemon.port), 30)
            with context.wrap_socket(plain, server_hostname="localhost") as over:
                return over.getpeercert(binary_form=True)

        self.assertEqual(before, await deferToThread(shown))

    async def test_parent_killed(self) -> None:
        """When the parent is killed, the workers complete the requests in progress and end.

        Meanwhile new connections are refused, and another proxy can listen on the port.
        """
        held: list[Any] = []
        daemon = await self.two_workers()
        daemon.back_end.answers.append(held.append)
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await daemon.back_end.heard(1)
        pids = workers_of(daemon.pid)
        os.kill(daemon.pid, signal.SIGKILL)
        await until(lambda: sum(map(is_running, pids)) == 1, pause=0.05)
        with socket.socket() as probe:
            self.assertEqual(
                errno.ECONNREFUSED, probe.connect_ex(("127.0.0.1", daemon.port)), daemon.log
            )
        socket.create_server(("127.0.0.1", daemon.port)).close()
        held[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        reply = await deferToThread(read_reply, connection)
        self.assertEqual((200, b"late"), (reply.status, reply.body))
        connection.close()
        await until(lambda: not any(map(is_running, pids)), pause=0.05)

    async def test_parent_killed_with_queue(self) -> None:
        """Connections that are queued when the parent is killed are served."""
        daemon = await self.two_workers()
        pids = workers_of(daemon.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        connecting = [deferToThread(daemon.connect) for _ in range(2)]
        await until(lambda: queued(daemon.port) == 2, pause=0.05)
        os.kill(daemon.pid, signal.SIGKILL)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        for one in connecting:
            connection = await one
            self.addCleanup(connection.close)
            connection.sendall(get())
            self.assertEqual(200, (await deferToThread(read_reply, connection)).status)
        await until(lambda: not any(map(is_running, pids)), pause=0.05)

    async def test_in_flight(self) -> None:
        """SIGTERM to the parent lets a request in progress in a worker complete."""
        held: list[Any] = []
        daemon = await self.two_workers()
        daemon.back_end.answers.append(held.append)
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await daemon.back_end.heard(1)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: len(workers_of(daemon.pid)) == 1, pause=0.05)
        held[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        reply = await deferToThread(read_reply, connection)
        self.assertEqual(
            (200, b"late", ["close"]), (reply.status, reply.body, reply.get("Connection"))
        )
        connection.close()
        await self.ends(daemon, -signal.SIGTERM)

    async def test_accept_queue(self) -> None:
        """Connections queued when all workers die are served by the next workers."""
        daemon = await self.two_workers()
        pids = workers_of(daemon.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        waiting = [socket.create_connection(("127.0.0.1", daemon.port), 10) for _ in range(4)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.assertEqual(
            [200] * 4, [await deferToThread(self.served, daemon, one) for one in waiting]
        )

    def served(self, daemon: Daemon, connection: socket.socket) -> int:
        """Return the status of a request on a connection without TLS so far."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(daemon.files.certificate)
        with context.wrap_socket(connection, server_hostname="localhost") as over:
            over.sendall(get())
            return read_reply(over).status

    def queued(self, port: int) -> int:
        """Return the number of connections in the accept queue of a port (proc_net_tcp)."""
        lines = Path("/proc/net/tcp").read_text().splitlines()
        [queue] = [
            words[4]
            for words in map(str.split, lines[1:])
            if words[1].endswith(f":{port:04X}") and words[3] == "0A"
        ]
        return int(queue.partition(":")[2], 16)

    async def test_accept_queue_at_the_end(self) -> None:
        """Connections queued when the proxy is stopped are served before it ends."""
        daemon = await self.two_workers()
        pids = workers_of(daemon.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        waiting = [socket.create_connection(("127.0.0.1", daemon.port), 10) for _ in range(4)]
        served = [deferToThread(self.served, daemon, one) for one in waiting]
        await until(lambda: self.queued(daemon.port) == 4, pause=0.05)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: "Received SIGTERM" in daemon.log, pause=0.05)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        self.assertEqual([200] * 4, [await one for one in served])
        await self.ends(daemon, -signal.SIGTERM)

    async def test_stopped(self) -> None:
        """A stopped but living worker is detected and replaced."""
        daemon = await self.two_workers(runner=IMPATIENT)
        first, second = workers_of(daemon.pid)
        os.kill(first, signal.SIGSTOP)
        await until(lambda: len({*workers_of(daemon.pid)} - {first}) == 2, seconds=30, pause=0.05)
        self.assertIn(
            f"worker 1 (process {first}) has not reported for 10 s, and is killed", daemon.log
        )
        self.assertIn(second, workers_of(daemon.pid))

    async def test_none_can_start(self) -> None:
        """If no worker can start, clients are disconnected without delay."""
        daemon = self.prepare()
        module = daemon.files.write("sitecustomize.py", _NO_WORKERS.encode())
        environment = ["env", f"PYTHONPATH={module.parent}:{ROOT}"]
        daemon.spawn(
            [*environment, *IMPATIENT, "-n", "--pidfile=", *daemon.arguments("--workers", "2")]
        )
        await until(daemon.listens, pause=0.05)
        connection = socket.create_connection(("127.0.0.1", daemon.port), 30)
        self.addCleanup(connection.close)
        self.assertEqual(b"", await deferToThread(read_to_end, connection))
        self.assertIn("no worker serves: connections are closed until one does", daemon.log)
