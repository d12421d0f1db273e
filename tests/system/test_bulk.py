"""Tests with large bodies: constant memory use, and truncated responses that stay incomplete."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import threading
from http.client import HTTPException, HTTPResponse
from typing import BinaryIO

from twisted.internet.threads import deferToThread

from tests.support.bulk_server import (
    BLOCK,
    MIB,
    BulkHandler,
    BulkServer,
    blocks,
    checksum,
    high_water,
)
from tests.support.daemons import TWISTD, Daemon, DaemonTestCase
from tests.support.raw_tls import until

SIZE = 300  # MiB
GROWTH = 16  # MiB


# A back end that never ends a response; it runs in a process that the test kills.
_ENDLESS = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
head = b""
while not head.endswith(b"\\r\\n\\r\\n"):
    head += connection.recv(1)
if b"GET /chunked" in head:
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
    while True:
        connection.sendall(b"400\\r\\n" + b"x" * 1024 + b"\\r\\n")
connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 67108864\\r\\n\\r\\n")
while True:
    connection.sendall(b"x" * 1024)
"""


class BulkTestCase(DaemonTestCase):
    timeout = 60

    async def proxy(self, back_end: int) -> Daemon:
        """Start a proxy in a process of its own, for bodies of any size."""
        daemon = self.prepare()
        config = (
            f'client.max-body-bytes = {SIZE * MIB * 2}\nbackend = "http://127.0.0.1:{back_end}"\n'
        )
        path = daemon.files.write("proxy.toml", config.encode())
        arguments = daemon.arguments("--config", str(path))
        place = arguments.index("--backend")
        daemon.spawn([*TWISTD, "-n", "--pidfile=", *arguments[:place], *arguments[place + 2 :]])
        await until(daemon.listens, pause=0.05)
        return daemon


class Memory(BulkTestCase):
    def setUp(self) -> None:
        self.server = BulkServer(("127.0.0.1", 0), BulkHandler)
        thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)

    async def grown(self, step: str) -> int:
        """Return the growth of the proxy's peak memory from a small body to a large one, in MiB.

        The body arrives unchanged.
        """
        daemon = await self.proxy(self.server.server_address[1])
        act = {"up": upload, "up in chunks": upload_chunked, "down": download}[step]
        sizes = []
        for count in (4, SIZE):
            expected = checksum(blocks(count))
            self.assertEqual(expected, await deferToThread(self.exchange, daemon, act, count))
            sizes.append(high_water(daemon.pid))
        return sizes[1] - sizes[0]

    @staticmethod
    def exchange(daemon: Daemon, act: object, count: int) -> tuple[int, int]:
        with daemon.connect() as connection, connection.makefile("rwb") as stream:
            assert callable(act)
            result: tuple[int, int] = act(connection, stream, count)
            return result

    async def test_up(self) -> None:
        """300 MiB sent to the back end cause no significant growth of memory."""
        self.assertLess(await self.grown("up"), GROWTH)

    async def test_up_in_chunks(self) -> None:
        """300 MiB in chunks sent to the back end cause none either."""
        self.assertLess(await self.grown("up in chunks"), GROWTH)

    async def test_down(self) -> None:
        """300 MiB received from the back end cause none either."""
        self.assertLess(await self.grown("down"), GROWTH)


def upload(_: ssl.SSLSocket, stream: BinaryIO, count: int) -> tuple[int, int]:
    stream.write(
        b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        % (count * len(BLOCK))
    )
    stream.writelines(blocks(count))
    return answered(stream)


def upload_chunked(_: ssl.SSLSocket, stream: BinaryIO, count: int) -> tuple[int, int]:
    stream.write(b"POST /token HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    stream.writelines(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks(count))
    stream.write(b"0\r\n\r\n")
    return answered(stream)


def answered(stream: BinaryIO) -> tuple[int, int]:
    """Return the checksum in the back end's response."""
    stream.flush()
    length = 0
    for line in iter(stream.readline, b"\r\n"):
        name, _, value = line.partition(b": ")
        length = int(value) if name.lower() == b"content-length" else length
    size, crc = stream.read(length).split()
    return int(size), int(crc)


def download(connection: ssl.SSLSocket, stream: BinaryIO, count: int) -> tuple[int, int]:
    stream.write(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % count)
    stream.flush()
    response = HTTPResponse(connection)
    response.begin()
    return checksum(iter(lambda: response.read(65536), b""))


class Killed(BulkTestCase):
    async def expect_failure(self, target: bytes) -> None:
        command = [sys.executable, "-c", _ENDLESS]
        back_end = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.addCleanup(back_end.wait)
        self.addCleanup(back_end.kill)
        assert back_end.stdout is not None
        self.addCleanup(back_end.stdout.close)
        daemon = await self.proxy(int(back_end.stdout.readline()))

        def run() -> int:
            with daemon.connect() as connection:
                connection.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % target)
                response = HTTPResponse(connection)
                response.begin()
                taken = len(response.read(MIB))
                os.kill(back_end.pid, signal.SIGKILL)
                return taken + len(response.read())

        error = await self.assertFailure(
            deferToThread(run), HTTPException, ssl.SSLError, ConnectionError
        )
        self.assertNotIsInstance(error, TimeoutError)

    async def test_with_length(self) -> None:
        """A back end killed within a response of known length is a failure for the client."""
        await self.expect_failure(b"/")

    async def test_in_chunks(self) -> None:
        """A back end killed within a chunked response is a failure for the client too."""
        await self.expect_failure(b"/chunked")
