"""Tests of :mod:`x509proxy.transport.delivery`: the kernel's own count, of real sockets."""

from __future__ import annotations

import socket
import time
from typing import Any

from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Server
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.transport import delivery as module
from x509proxy.transport.delivery import Delivery
from x509proxy.transport.tls_context import ServerConnections
from x509proxy.transport.tls_stream import TlsStream


class DeliveryTestCase(SynchronousTestCase):
    def of(self, near: socket.socket) -> Delivery:
        near.setblocking(False)
        protocol, reactor = Protocol(), MemoryReactorClock()
        self.transport: Any = Server(near, protocol, ("127.0.0.1", 1), None, 1, reactor)  # type: ignore[arg-type]
        return Delivery(self.transport)

    def over_tcp(self) -> tuple[socket.socket, socket.socket]:
        """Two ends of a connection, the far one with a small buffer."""
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            near = socket.create_connection(listening.getsockname())
            far, _ = listening.accept()
        for end in (near, far):
            self.addCleanup(end.close)
        return near, far


class Tcp(DeliveryTestCase):
    def test_counts(self) -> None:
        """Octets in the client's kernel are acknowledged. Others wait until the client reads."""
        near, far = self.over_tcp()
        delivery = self.of(near)
        before = delivery.acknowledged()
        assert before is not None
        self.assertEqual(0, delivery.unsent())
        sent = near.send(bytes(1 << 20))
        unsent, acknowledged = delivery.unsent(), delivery.acknowledged()
        assert unsent is not None and acknowledged is not None
        self.assertEqual(sent, unsent + acknowledged - before)
        self.assertGreater(unsent, 0)
        taken = 0
        while taken < sent:
            taken += len(far.recv(65536))
        # A kernel acknowledges within 200 ms (RFC 9293 section 3.8.6.3 allows 500).
        end = time.monotonic() + 10
        while delivery.unsent() and time.monotonic() < end:
            pass
        self.assertEqual((0, before + sent), (delivery.unsent(), delivery.acknowledged()))

    def test_below_tls(self) -> None:
        """Below a TLS stream it is the socket that counts."""
        near, _ = self.over_tcp()
        self.of(near)
        stream = TlsStream(ServerConnections(None), Protocol(), set(), Clock())  # type: ignore[arg-type]
        stream.transport = self.transport
        self.assertEqual(0, Delivery(stream).unsent())

    def test_gone(self) -> None:
        """A socket that is closed has no counts."""
        near, _ = self.over_tcp()
        delivery = self.of(near)
        near.close()
        self.assertEqual((None, None), (delivery.unsent(), delivery.acknowledged()))


class Others(DeliveryTestCase):
    def test_unix(self) -> None:
        """A unix socket knows what is unread, and nothing of acknowledgements."""
        near, far = socket.socketpair()
        for end in (near, far):
            self.addCleanup(end.close)
        delivery = self.of(near)
        self.assertEqual((0, None), (delivery.unsent(), delivery.acknowledged()))
        near.send(b"abc")
        self.assertNotEqual(0, delivery.unsent())
        far.recv(3)
        self.assertEqual(0, delivery.unsent())

    def test_memory(self) -> None:
        """Without a socket nothing is known."""
        delivery = Delivery(StringTransport())
        self.assertEqual((None, None), (delivery.unsent(), delivery.acknowledged()))

    def test_elsewhere(self) -> None:
        """Where the system has no such call, nothing is known of acknowledgements."""
        self.patch(module, "_TCP_INFO", None)
        near, _ = self.over_tcp()
        self.assertEqual(None, self.of(near).acknowledged())
