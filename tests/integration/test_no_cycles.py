"""Promises about memory: what ends is freed at once, without the collector."""

from __future__ import annotations

import gc
import itertools
import socket
import ssl
import struct
import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import Proxy
from tests.support.raw_tls import ProxyTestCase, get, read_reply, read_to_end, until
from x509proxy.certificates.self_signed import KeyKind, make_self_signed

OURS = ("x509proxy.", "OpenSSL.")
KEEP = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Number: %d\r\n\r\n"
POST = b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
CLIENT = make_self_signed(KeyKind.EC, "client")
# Each head is new: one from the cache would need no parser.
NUMBERS = itertools.count()
ANSWER = b"HTTP/1.1 200 OK\r\nX-Number: %d\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
HALF = b"HTTP/1.1 200 OK\r\nX-Half: %d\r\nContent-Length: 10\r\n\r\nhalf"
LINGER = struct.pack("ii", 1, 0)


class Waiting(SynchronousTestCase):
    def test_in_the_inbox(self) -> None:
        """A request that waits, or has no body yet, keeps no connection that has ended."""
        gc.disable()
        self.addCleanup(gc.enable)
        for said in (2 * (KEEP % 0), POST):
            channel = Proxy().factory.buildProtocol(None)
            channel._queue.feed(said)
            self.assertTrue(channel._queue.has_unserved)
            gone = weakref.ref(channel)
            channel.connectionLost()
            del channel
            self.assertIsNone(gone(), said)


class Cycles(ProxyTestCase):
    """Connections over real sockets: each has some 30 KiB of OpenSSL's memory, and keys."""

    def setUp(self) -> None:
        self.start(*[ANSWER % number for number in range(20)])

    async def left_behind(self, step: Callable[[ssl.SSLSocket], object]) -> Counter[str]:
        """Return the objects, by type, that only the collector would have freed."""

        def connect() -> None:
            with self.proxy.connect(CLIENT) as client:
                step(client)

        return await self.left_behind_by(connect)

    async def left_behind_by(self, connect: Callable[[], object]) -> Counter[str]:
        await self.some(connect)
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await self.some(connect)
            gc.collect()
        finally:
            gc.set_debug(0)
        kinds = [f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.garbage]
        gc.garbage.clear()
        return Counter(kind for kind in kinds if kind.startswith(OURS))

    async def some(self, connect: Callable[[], object]) -> None:
        for _ in range(3):
            await deferToThread(connect)
        await until(lambda: not self.proxy._tls.protocols)

    async def test_answered(self) -> None:
        """One exchange, and the end that the client requested."""
        self.assertEqual({}, await self.left_behind(answered))

    async def test_chunked(self) -> None:
        """A response without a length."""
        self.back_end.answers.extendleft([CHUNKED] * 6)
        self.assertEqual({}, await self.left_behind(answered))

    async def test_kept(self) -> None:
        """A connection that could have been used again.

        The client closes it, or resets it.
        """
        for end in (closed, reset):
            self.assertEqual({}, await self.left_behind(partial(kept, end)), end.__name__)

    async def test_silent(self) -> None:
        """A client without a request."""
        for end in (closed, reset):
            self.assertEqual({}, await self.left_behind(end), end.__name__)

    async def test_no_handshake(self) -> None:
        """A client without TLS."""

        def connect() -> bytes:
            with socket.create_connection(("127.0.0.1", self.proxy.port), 10) as plain:
                plain.sendall(get())
                return read_to_end(plain)

        self.assertEqual({}, await self.left_behind_by(connect))

    async def test_refused(self) -> None:
        """A malformed request."""
        self.assertEqual({}, await self.left_behind(refused))

    async def test_not_whole(self) -> None:
        """A client that leaves in the middle of a head, of a body, or of a response."""
        for said in (b"GET / HTTP/1.1\r\n", POST, POST + b"ab"):
            self.assertEqual(
                {}, await self.left_behind(partial(ssl.SSLSocket.sendall, data=said)), said
            )
        self.back_end.answers.extendleft([HALF % number for number in range(6)])
        self.assertEqual({}, await self.left_behind(left))

    async def test_back_end_gone(self) -> None:
        """A back end that closes before its response, or in the middle of it."""
        for answer in (cut, half):
            self.back_end.answers.extendleft([answer] * 6)
            self.assertEqual({}, await self.left_behind(answered))


# What a back end does.


def cut(transport: Any) -> None:
    transport.abortConnection()


def half(transport: Any) -> None:
    transport.write(HALF % next(NUMBERS))
    transport.loseConnection()


# What a client does.


def answered(client: ssl.SSLSocket) -> None:
    client.sendall(get("/", f"X-Number: {next(NUMBERS)}"))
    read_to_end(client)


def closed(client: ssl.SSLSocket) -> None:
    client.unwrap()


def reset(client: ssl.SSLSocket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)


def kept(end: Callable[[ssl.SSLSocket], None], client: ssl.SSLSocket) -> None:
    for _ in range(2):
        client.sendall(KEEP % next(NUMBERS))
        read_reply(client)
    end(client)


def refused(client: ssl.SSLSocket) -> None:
    client.sendall(b"what?\r\n\r\n")
    read_to_end(client)


def left(client: ssl.SSLSocket) -> None:
    client.sendall(get())
    client.recv(1000)
