"""Tests of a low limit of open files: one warning, few lines, and requests are served."""

from __future__ import annotations

import resource
import socket
import sys

from twisted.internet.threads import deferToThread

from tests.support.daemons import BIN, Daemon, DaemonTestCase
from tests.support.raw_tls import get, read_reply, until

_FILES = 300
_CROWD = 600


class FewFiles(DaemonTestCase):
    async def test_crowd(self) -> None:
        """Above the limit of files, silent connections are cut for a client with a request.

        The log has one warning.
        """
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < _CROWD + 200:
            self.skipTest("this process may not open enough files itself")
        daemon = self.prepare()
        limited = ["prlimit", f"--nofile={_FILES}:{_FILES}", sys.executable, str(BIN / "twistd")]
        daemon.spawn([*limited, "-n", "--pidfile=", *daemon.arguments()])
        await until(daemon.listens, pause=0.05)
        crowd: list[socket.socket] = []
        self.addCleanup(lambda: [*map(socket.socket.close, crowd)])

        def come() -> None:
            crowd.extend(
                socket.create_connection(("127.0.0.1", daemon.port), 10) for _ in range(_CROWD)
            )

        await deferToThread(come)
        self.assertEqual(200, await deferToThread(self.status, daemon))
        self.assertEqual(1, daemon.log.count("the limit of open files is 300"), daemon.log)
        self.assertNotIn("EMFILE", daemon.log)
        self.assertLess(len(daemon.log.splitlines()), 20)

    def status(self, daemon: Daemon) -> int:
        with daemon.connect() as connection:
            connection.sendall(get())
            return read_reply(connection).status
