"""Tests of :mod:`x509proxy.service`, as real daemons in their own processes."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet.threads import deferToThread

from tests.support.daemons import (
    ROOT,
    TWIST,
    TWISTD,
    Daemon,
    DaemonTestCase,
    is_running,
    other_user_can_run,
)
from tests.support.raw_tls import HEADER, get, read_reply, read_to_end, until
from x509proxy.testing import (
    ThrowAwayAuthority,
    client_identity,
)

# Real processes.


class Foreground(DaemonTestCase):
    async def test_twistd(self) -> None:
        """``twistd -n`` serves until SIGTERM, and then removes its pid file."""
        daemon = await self.start()
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)

    async def test_asyncio(self) -> None:
        """``twistd --reactor=asyncio`` serves: no other reactor has been installed before."""
        daemon = await self.start(runner=[*TWISTD, "-n", "--pidfile=", "--reactor=asyncio"])
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)

    async def test_twist(self) -> None:
        """``twist`` serves."""
        daemon = await self.start(runner=TWIST)
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: daemon.process and daemon.process.poll() is not None, pause=0.05)

    async def test_secret(self) -> None:
        """The secret name is in no log, response or process list, with any client and back end."""
        name = HEADER.encode()
        told = (
            b"HTTP/1.1 200 %b\r\n%b: x\r\nVary: %b\r\nSet-Cookie: %b\r\nContent-Length: 0\r\n\r\n"
            % ((name,) * 4)
        )
        daemon = await self.start("--access-log", "-", answers=[told, name + b" garbage\r\n\r\n"])
        cmdline = Path(f"/proc/{daemon.pid}/cmdline").read_text()
        answers = []
        for request in (
            get("/", f"{HEADER}: EVIL"),
            get("/", f"{HEADER}: EVIL"),
            get("/", f"{HEADER}: \x01"),
            get("/", f"{HEADER} : x"),
            get("/", f"Connection: {HEADER}"),
            get(f"/{HEADER}\x7f"),
            get("/", f"Expect: {HEADER}"),
        ):

            def step(connection: ssl.SSLSocket, request: bytes = request) -> bytes:
                connection.sendall(request)
                return read_to_end(connection)

            answers.append(await self.dialogue(daemon, step, client_identity()))
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)
        everything = "".join(
            [cmdline, daemon.log, *(answer.decode("latin-1") for answer in answers)]
        ).lower()
        self.assertNotIn(HEADER.lower(), everything)
        self.assertNotIn("-----begin", everything)
        self.assertIn("1 forged header from 127.0.0.1 removed", everything)

    async def test_bad_option(self) -> None:
        """An error in the options is one sentence on standard error, and exit status 1."""
        daemon = self.prepare()
        daemon.files.header.chmod(0o644)
        daemon.spawn([*TWISTD, "-n", "--pidfile", str(daemon.pid_file), *daemon.arguments()])
        await self.ends(daemon, 1)
        self.assertEqual(1, daemon.log.count("\n"), daemon.log)
        self.assertIn("expected 0600", daemon.log)

    async def test_bad_demo(self) -> None:
        """An error in a demonstration's options is one sentence too, and leaves no folder."""
        daemon = self.prepare()
        temporary = daemon.files.folder / "tmp"
        temporary.mkdir()
        for more in (
            ["--trust", "ca"],
            ["--listen", "nothing:1"],
            ["--access-log", "/nowhere/access.log"],
        ):
            command = [
                *TWISTD,
                "-n",
                "--pidfile",
                str(daemon.pid_file),
                "x509proxy",
                "--demo",
                *more,
            ]
            daemon.spawn(["env", f"TMPDIR={temporary}", *command])
            await self.ends(daemon, 1)
            self.assertEqual([], list(temporary.iterdir()))
            [sentence] = (daemon.files.folder / "stderr").read_text().splitlines()
            self.assertTrue(sentence.startswith("x509proxy: "), sentence)


class Taken(DaemonTestCase):
    """A port that another program uses."""

    words: ClassVar[str] = "Address already in use"

    async def fails(self, runner: Sequence[str]) -> Daemon:
        daemon = self.prepare()
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            daemon.port = other.getsockname()[1]
            command = [part.replace("PIDFILE", str(daemon.pid_file)) for part in runner]
            daemon.spawn([*command, *daemon.arguments()])
            await self.ends(daemon, 1)
        return daemon

    async def test_twistd(self) -> None:
        """``twistd -n`` ends with exit status 1 and one sentence on standard error.

        The pid file is removed.
        """
        daemon = await self.fails([*TWISTD, "-n", "--pidfile", "PIDFILE"])
        [sentence] = (daemon.files.folder / "stderr").read_text().splitlines()
        self.assertEqual(
            f"x509proxy: listen: tcp:{daemon.port}:interface=127.0.0.1: {self.words}", sentence
        )

    async def test_daemonised(self) -> None:
        """The starting process ends with status 1 and the sentence, and no other process stays."""
        daemon = await self.fails([*TWISTD, "--pidfile", "PIDFILE", "--logfile", "/dev/null"])
        [sentence] = (daemon.files.folder / "stderr").read_text().splitlines()
        self.assertEqual(
            f"x509proxy: listen: tcp:{daemon.port}:interface=127.0.0.1: {self.words}", sentence
        )
        await until(lambda: not running_with(str(daemon.files.folder)), pause=0.05)

    async def test_twist(self) -> None:
        """``twist`` ends with exit status 1 and the sentence."""
        daemon = await self.fails(TWIST)
        self.assertIn(self.words, daemon.log)
        self.assertNotIn("Traceback", daemon.log)


def running_with(word: str) -> list[int]:
    """Return the processes with a word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            pass
    return found


class Background(DaemonTestCase):
    async def start_daemon(self, *more: str, options: Sequence[str] = ()) -> Daemon:
        daemon = self.prepare()
        log = str(daemon.files.folder / "twistd.log")
        started = daemon.spawn(
            [
                *TWISTD,
                "--pidfile",
                str(daemon.pid_file),
                "--logfile",
                log,
                *options,
                *daemon.arguments(*more),
            ]
        )
        await until(lambda: started.poll() is not None, pause=0.05)
        self.assertEqual(0, started.returncode, daemon.log)
        daemon.process = None
        await until(
            lambda: daemon.pid_file.exists() and daemon.pid_file.read_text().strip(), pause=0.05
        )
        daemon.pid = int(daemon.pid_file.read_text())
        return daemon

    async def test_daemon(self) -> None:
        """A daemon serves, and on SIGTERM it ends and removes its pid file."""
        daemon = await self.start_daemon()
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: not is_running(daemon.pid), pause=0.05)
        self.assertFalse(daemon.pid_file.exists())

    async def test_rundir(self) -> None:
        """A daemon in another working directory still reads its files again at a reload."""
        daemon = self.prepare()
        folder = daemon.files.folder
        relative = [
            part.replace(str(folder), os.path.relpath(folder, ROOT)) for part in daemon.arguments()
        ]
        daemon.spawn(
            [*TWISTD, "-n", "--pidfile", str(daemon.pid_file), "--rundir", str(folder), *relative]
        )
        await until(daemon.listens, pause=0.05)
        daemon.files.renew()
        os.kill(daemon.pid, signal.SIGHUP)
        await until(lambda: "reload: " in daemon.log, pause=0.05)
        self.assertIn("the files are used as they are now", daemon.log)

    async def test_user(self) -> None:
        """Started by root with ``-u``, it has that user's rights, and writes to root's log."""
        if not other_user_can_run():
            self.skipTest("takes root, and a Python and a checkout that nobody can read")
        daemon = self.prepare()
        daemon.files.folder.parent.chmod(0o755)
        options = ["-u", "nobody", "-g", "nogroup", "-n", "--pidfile", str(daemon.pid_file)]
        daemon.spawn([*TWISTD, *options, *daemon.arguments("--access-log", str(daemon.access_log))])
        await until(daemon.listens, pause=0.05)
        await self.serves(daemon)
        self.assertNotIn("\nUid:\t0", Path(f"/proc/{daemon.pid}/status").read_text())
        self.assertEqual(1, len(daemon.access_log.read_text().splitlines()))


class Reload(DaemonTestCase):
    async def certificate(self, daemon: Daemon, trusted: Path) -> bytes:
        """Return the server's certificate as a new client receives it."""

        def run() -> bytes:
            with daemon.connect(trusted) as connection:
                return connection.getpeercert(binary_form=True) or b""

        der: bytes = await deferToThread(run)
        return der

    async def test_new_certificate(self) -> None:
        """After SIGHUP new clients receive the new certificate; an open connection continues."""
        daemon = await self.start()
        old = daemon.files.write("old.pem", daemon.files.server.certificate_pem)
        first = await self.certificate(daemon, old)
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        daemon.files.renew()
        os.kill(daemon.pid, signal.SIGHUP)
        await until(lambda: "reload: the files are used" in daemon.log, pause=0.05)
        self.assertNotEqual(first, await self.certificate(daemon, daemon.files.certificate))
        connection.sendall(get())
        self.assertEqual(200, (await deferToThread(read_reply, connection)).status)

    async def test_broken_file(self) -> None:
        """After SIGHUP with a broken file the old files stay in use, and the log reports it."""
        daemon = await self.start()
        old = daemon.files.write("old.pem", daemon.files.server.certificate_pem)
        first = await self.certificate(daemon, old)
        daemon.files.key.write_bytes(b"nothing")
        os.kill(daemon.pid, signal.SIGHUP)
        await until(lambda: "reload: " in daemon.log, pause=0.05)
        self.assertIn("the old files go on serving", daemon.log)
        self.assertEqual(first, await self.certificate(daemon, old))


class End(DaemonTestCase):
    async def test_in_flight(self) -> None:
        """After SIGTERM a request in progress completes, but no new client is accepted.

        Then the process ends.
        """
        held: list[Any] = []
        daemon = await self.start(
            "--access-log", str(Path(self.mktemp()).absolute()), answers=[held.append]
        )
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await daemon.back_end.heard(1)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: not daemon.listens(), pause=0.05)
        held[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        reply = await deferToThread(read_reply, connection)
        self.assertEqual(
            (200, b"late", ["close"]), (reply.status, reply.body, reply.get("Connection"))
        )
        connection.close()
        await self.ends(daemon, -signal.SIGTERM)

    async def test_signals(self) -> None:
        """SIGUSR1, as from logrotate, or SIGHUP in the meantime does not end the process."""
        for workers in ("1", "2"):
            held: list[Any] = []
            daemon = await self.start("--workers", workers, answers=[held.append])
            connection = await deferToThread(daemon.connect)
            self.addCleanup(connection.close)
            connection.sendall(get("/"))
            await daemon.back_end.heard(1)
            os.kill(daemon.pid, signal.SIGTERM)
            await until(lambda: not daemon.listens(), pause=0.05)  # noqa: B023 - awaited here
            for number in (signal.SIGUSR1, signal.SIGHUP):
                os.kill(daemon.pid, number)
            held[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
            self.assertEqual(200, (await deferToThread(read_reply, connection)).status)
            connection.close()
            await self.ends(daemon, -signal.SIGTERM)

    async def test_idle(self) -> None:
        """An idle connection does not delay the end for long."""
        daemon = await self.start()
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual(200, (await deferToThread(read_reply, connection)).status)
        process = daemon.process
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: process and process.poll() is not None, 10, pause=0.05)

    async def test_cut_at_the_end(self) -> None:
        """An exchange longer than ``drain-timeout`` is cut, and has its line in the access log."""
        config = b"client.drain-timeout = 0.1\n"
        daemon = self.prepare(lambda _: None)
        path = daemon.files.write("proxy.toml", config)
        more = ("--config", str(path), "--access-log", str(daemon.access_log))
        daemon.spawn([*TWISTD, "-n", "--pidfile", str(daemon.pid_file), *daemon.arguments(*more)])
        await until(daemon.listens, pause=0.05)
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        connection.sendall(get("/cut"))
        await daemon.back_end.heard(1)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)
        self.assertNotIn("Traceback", daemon.log)
        self.assertIn("target=/cut", daemon.access_log.read_text())


class AccessLog(DaemonTestCase):
    async def test_lines(self) -> None:
        """Each exchange is one line, in a file that only its owner can read."""
        daemon = self.prepare()
        daemon.spawn(
            [*TWISTD, "-n", "--pidfile=", *daemon.arguments("--access-log", str(daemon.access_log))]
        )
        await until(daemon.listens, pause=0.05)
        await self.ask(daemon, get("/answered?code=1"), client_identity())
        daemon.back_end.answers.append(lambda _: None)
        connection = await deferToThread(daemon.connect)
        connection.sendall(get("/aborted"))
        await daemon.back_end.heard(2)
        connection.close()
        self.assertEqual(400, (await self.ask(daemon, get("/refused", "Host: b"))).status)
        await until(lambda: daemon.access_log.read_text().count("\n") == 3, pause=0.05)
        text = daemon.access_log.read_text()
        for outcome in ("completed", "aborted", "rejected"):
            self.assertEqual(1, text.count(f" outcome={outcome} "), text)
        self.assertIn("target=/answered ", text)
        self.assertNotIn("code=1", text)
        self.assertIn('subject="CN=client"', text)
        self.assertEqual(0o600, stat.S_IMODE(daemon.access_log.stat().st_mode))

    async def test_full_disk(self) -> None:
        """A full disk loses lines of the log, but no response and no connection."""
        daemon = await self.start("--access-log", "/dev/full")

        def step(connection: ssl.SSLSocket) -> list[int]:
            statuses = []
            for _ in range(2):
                connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                statuses.append(read_reply(connection).status)
            return statuses

        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        connection.settimeout(3)
        self.assertEqual([200, 200], await deferToThread(step, connection))


class Authority(DaemonTestCase):
    async def test_trust(self) -> None:
        """With ``--trust ca`` a certificate of the authority is accepted, and another is 401."""
        authority = ThrowAwayAuthority()
        daemon = self.prepare()
        from cryptography.hazmat.primitives.serialization import Encoding

        path = daemon.files.write("authority.pem", authority.certificate.public_bytes(Encoding.PEM))
        more = ("--trust", "ca", "--ca", str(path), "--client-certificate", "required")
        daemon.spawn([*TWISTD, "-n", "--pidfile=", *daemon.arguments(*more)])
        await until(daemon.listens, pause=0.05)
        statuses = [
            (await self.ask(daemon, get(), client)).status
            for client in (authority.client(), client_identity(), None)
        ]
        self.assertEqual([200, 401, 401], statuses)
