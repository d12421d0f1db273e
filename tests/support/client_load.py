"""A client that sends requests continuously, while the proxy reloads or restarts."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from pathlib import Path

from tests.support.daemons import Daemon
from tests.support.raw_tls import read_reply


class ClientLoad:
    """Clients in threads: some send on one connection each, some on a new one each time."""

    def __init__(self, daemon: Daemon, trusted: Path, seconds: float) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self.last_failure = 0.0
        self.connections = 0
        self._daemon = daemon
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._context.load_cert_chain(trusted)
        self._end = time.monotonic() + seconds
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return the time on the clock of ``last_failure``."""
        return time.monotonic()

    def run(self, keep: bool) -> None:
        """Run one client until the load ends."""
        connection: ssl.SSLSocket | None = None
        while time.monotonic() < self._end:
            try:
                connection = connection or self._connect()
                connection.sendall(
                    b"GET / HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
                    % (b"" if keep else b"Connection: close\r\n")
                )
                reply = read_reply(connection)
                self._count(None if reply.status == 200 else f"status {reply.status}")
                if not keep or "close" in reply.get("Connection"):
                    connection.close()
                    connection = None
            except (OSError, ValueError, EOFError) as error:
                self._count(repr(error))
                connection = None
        if connection is not None:
            connection.close()

    def _connect(self) -> ssl.SSLSocket:
        with self._lock:
            self.connections += 1
        return self._context.wrap_socket(
            socket.create_connection(("127.0.0.1", self._daemon.port), 10), server_hostname="a"
        )

    def _count(self, failure: str | None) -> None:
        with self._lock:
            if failure is None:
                self.answered += 1
            else:
                self.failures.append(failure)
                self.last_failure = time.monotonic()
