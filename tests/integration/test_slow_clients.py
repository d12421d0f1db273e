"""Promises to clients on slow lines: their responses are complete, and so is the record."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.threads import deferToThread

from tests.support.raw_tls import ProxyTestCase, until
from x509proxy.downstream import channel
from x509proxy.exchange import Outcome
from x509proxy.http1.errors import Code
from x509proxy.settings import ClientSettings

SIZE = 200_000
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE + bytes(SIZE)
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Far above what the kernels hold.
LARGE_SIZE = 8_000_000
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE_SIZE + bytes(LARGE_SIZE)


class SlowClients(ProxyTestCase):
    SETTINGS = ClientSettings(send_timeout=0.5)

    def setUp(self) -> None:
        self.patch(channel, "_LINGER", 0.5)

    def connect(self) -> ssl.SSLSocket:
        """Connect a client with a small receive buffer, so that the proxy has to hold the rest."""
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        # As on Ethernet: by the loopback's 64 KiB the window would open in jumps.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        plain.settimeout(20)
        plain.connect(("127.0.0.1", self.proxy.port))
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(plain, suppress_ragged_eofs=False)

    def read_slowly(self, client: ssl.SSLSocket, paces: int, whole: bool) -> tuple[int, bool]:
        """Read in steps of a tenth of a second, then to the end if ``whole``.

        Return the octets, and whether there was no reset.
        """
        count, pace = 0, threading.Event()
        with client:
            try:
                for _ in range(paces):
                    pace.wait(0.1)
                    count += len(client.recv(8192))
                while whole and (piece := client.recv(65536)):
                    count += len(piece)
            except ssl.SSLEOFError:
                return count, True
            except OSError:
                return count, False
            return count, True

    async def run_client(
        self, then: Callable[[], Any], paces: int, whole: bool = True
    ) -> tuple[int, bool]:
        """Let a client be served and read slowly, and do ``then`` meanwhile."""

        def begin() -> ssl.SSLSocket:
            client = self.connect()
            client.sendall(REQUEST)
            client.recv(1)
            return client

        client = await deferToThread(begin)
        then()
        found: tuple[int, bool] = await deferToThread(self.read_slowly, client, paces, whole)
        return found

    async def test_drain(self) -> None:
        """A drain waits for a client that is still receiving, and ends its connection with FIN."""
        self.start(RESPONSE, client=self.SETTINGS)
        drained: list[object] = []
        found = await self.run_client(
            lambda: self.proxy._tls._factory.drain().addCallback(drained.append), 20
        )
        self.assertGreater(found[0], SIZE)
        self.assertTrue(found[1])
        await until(lambda: drained)
        (exchange,) = self.proxy.exchanges
        self.assertEqual((Outcome.COMPLETED, SIZE), (exchange.outcome, exchange.bytes_out))

    async def test_blocked(self) -> None:
        """``send-timeout`` does not cut a client that still receives after three times as long."""
        self.start(LARGE, client=self.SETTINGS)
        found = await self.run_client(lambda: None, 15, whole=False)
        self.assertTrue(found[1])
        await until(lambda: self.proxy.exchanges)
        (exchange,) = self.proxy.exchanges
        self.assertEqual((Outcome.ABORTED, Code.CLIENT_LEFT), (exchange.outcome, exchange.code))

    async def test_stuck(self) -> None:
        """A client that stops reading is cut, and recorded as aborted."""
        self.start(
            RESPONSE.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), client=self.SETTINGS
        )
        client = await deferToThread(self.connect)
        self.addCleanup(client.close)
        client.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await until(lambda: self.proxy.exchanges, pause=0.05)
        (exchange,) = self.proxy.exchanges
        self.assertEqual((Outcome.ABORTED, Code.SEND_TIMEOUT), (exchange.outcome, exchange.code))

    async def test_leaves(self) -> None:
        """A client that resets its connection has not received what the kernel held for it."""
        self.start(RESPONSE, client=self.SETTINGS)
        client = await deferToThread(self.connect)
        client.sendall(REQUEST)
        await deferToThread(client.recv, 1)
        self.assertEqual([], self.proxy.exchanges)
        # A plain close is no reset if the client has just read all that the kernel held.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
        client.close()
        await until(lambda: self.proxy.exchanges)
        (exchange,) = self.proxy.exchanges
        self.assertEqual((Outcome.ABORTED, Code.CLIENT_LEFT), (exchange.outcome, exchange.code))
