"""Tests of :mod:`x509proxy.transport.direct_writer`: order, back-pressure and closing."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Server
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface import implementer

from x509proxy.transport import direct_writer
from x509proxy.transport.direct_writer import DirectWriter


@implementer(IPushProducer)
class Producer:
    """A producer that records its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class RecordingProtocol(Protocol):
    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.lost: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost.append(reason)


class WriterTestCase(SynchronousTestCase):
    """A real transport of Twisted over a real socket, and a reactor that the test drives."""

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Return the two ends of a new connection."""
        return socket.socketpair()

    def setUp(self) -> None:
        near, self.far = self.pair()
        self.addCleanup(self.far.close)
        near.setblocking(False)
        self.far.setblocking(False)
        self.near = near
        self.reactor = MemoryReactorClock()
        self.protocol = RecordingProtocol()
        make: Any = Server  # no port is needed
        self.transport: Any = make(near, self.protocol, ("127.0.0.1", 1), None, 1, self.reactor)
        self.protocol.makeConnection(self.transport)
        self.addCleanup(near.close)
        self.writer = DirectWriter(self.transport)
        self.producer = Producer()

    def read(self) -> bytes:
        data = b""
        try:
            while piece := self.far.recv(1 << 20):
                data += piece
        except BlockingIOError:
            pass
        return data

    def fill(self) -> bytes:
        """Write more than the kernel accepts; return it."""
        data = bytes(range(256)) * 16384
        self.writer.write(data)
        return data

    def pump(self) -> bytes:
        """Read, and let the reactor write, until all is written."""
        data = self.read()
        while self.transport in self.reactor.writers:
            self.transport.doWrite()
            data += self.read()
        return data


class Direct(WriterTestCase):
    def test_at_once(self) -> None:
        """Bytes that the kernel accepts are sent within the call, without the reactor."""
        self.writer.write(b"abc")
        self.assertEqual(b"abc", self.read())
        self.assertEqual([], list(self.reactor.writers))

    def test_order(self) -> None:
        """Other bytes are sent later, and all later bytes follow them."""
        data = self.fill()
        self.writer.write(b"the end")
        self.assertEqual(data + b"the end", self.pump())
        self.writer.write(b"at once again")
        self.assertEqual(b"at once again", self.read())

    def test_back_pressure(self) -> None:
        """The producer is paused once when the kernel is full, and resumed when all is sent."""
        self.writer.register(self.producer)
        self.writer.write(b"short")
        self.assertEqual([], self.producer.calls)
        self.fill()
        self.assertEqual(["pause"], self.producer.calls)
        self.writer.write(b"more")
        self.pump()
        self.assertEqual(["pause", "resume"], self.producer.calls)

    def test_late_producer(self) -> None:
        """A producer that is registered while bytes wait is paused at once."""
        self.fill()
        self.writer.register(self.producer)
        self.assertEqual(["pause"], self.producer.calls)
        self.pump()
        self.assertEqual(["pause", "resume"], self.producer.calls)

    def test_stopped_producer(self) -> None:
        """A producer is stopped as long as it is registered."""
        self.writer.stop()
        self.writer.register(self.producer)
        self.writer.stop()
        self.writer.unregister()
        self.writer.stop()
        self.assertEqual(["stop"], self.producer.calls)

    def test_gone_producer(self) -> None:
        """An unregistered producer is not called, and its bytes are sent."""
        self.writer.register(self.producer)
        data = self.fill()
        self.writer.unregister()
        self.assertEqual(data, self.pump())
        self.assertEqual(["pause"], self.producer.calls)

    def test_forgotten_producer(self) -> None:
        """The producer of a lost connection is not called, even when bytes still waited."""
        self.writer.register(self.producer)
        self.fill()
        self.writer.forget()
        self.pump()
        self.assertEqual(["pause"], self.producer.calls)

    def test_end_while_bytes_wait(self) -> None:
        """A transport that is closed while bytes wait ends when they are sent."""
        data = self.fill()
        self.transport.loseConnection()
        self.assertEqual(data, self.pump_to_the_end())

    def test_close_while_bytes_wait(self) -> None:
        """A writer that is closed while bytes wait ends when they are sent, and not before."""
        data = self.fill()
        self.writer.close()
        self.assertEqual([], self.protocol.lost)
        self.assertEqual(data, self.pump_to_the_end())

    def test_close(self) -> None:
        """Without waiting bytes, closing is left to the reactor."""
        self.writer.write(b"abc")
        self.writer.close()
        self.assertEqual((b"abc", []), (self.read(), self.protocol.lost))
        self.assertEqual([self.transport], list(self.reactor.writers))

    def test_half_close(self) -> None:
        """After a half-close the far end has all bytes and the end; its input still arrives."""
        self.writer.write(b"abc")
        self.writer.close_write_side()
        self.assertEqual(b"abc", self.pump_to_the_end())
        self.assertEqual(b"", self.far.recv(1))
        self.far.send(b"late")
        self.transport.doRead()
        self.assertEqual(([b"late"], []), (self.protocol.received, self.protocol.lost))

    def test_half_close_while_bytes_wait(self) -> None:
        """While bytes wait, a half-close closes both sides when they are sent."""
        data = self.fill()
        self.writer.close_write_side()
        self.assertEqual(data, self.pump_to_the_end())

    def test_nothing_to_acknowledge(self) -> None:
        """Without TCP, or without Linux, acknowledgements are not available."""
        self.assertFalse(self.writer.acknowledge())
        self.patch(direct_writer, "_QUICKACK", None)
        self.assertFalse(self.writer.acknowledge())

    def pump_to_the_end(self) -> bytes:
        data = self.read()
        while self.transport in self.reactor.writers:
            reason = self.transport.doWrite()
            data += self.read()
            if reason is not None:
                break
        return data

    def test_broken(self) -> None:
        """A broken connection raises nothing; the transport detects it in its own turn."""
        self.far.close()
        self.writer.write(b"abc")
        self.writer.write(b"def")
        self.assertEqual([self.transport], list(self.reactor.writers))

    def test_lost(self) -> None:
        """A connection that is lost while bytes wait is no error."""
        self.fill()
        self.transport.connectionLost(Failure(ConnectionError()))
        self.assertEqual(1, len(self.protocol.lost))


class OverTcp(WriterTestCase):
    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as port:
            far = socket.create_connection(port.getsockname())
            return port.accept()[0], far

    def test_acknowledge(self) -> None:
        """TCP acknowledges later input at once."""
        if not hasattr(socket, "TCP_QUICKACK"):
            raise SkipTest("only Linux has TCP_QUICKACK")
        option = (socket.IPPROTO_TCP, socket.TCP_QUICKACK)
        self.near.setsockopt(*option, 0)
        self.assertEqual((True, 1), (self.writer.acknowledge(), self.near.getsockopt(*option)))


class Wrapped(SynchronousTestCase):
    def test_passed_through(self) -> None:
        """A transport that wraps another one gets the bytes and the producer itself."""
        transport, producer = StringTransport(), Producer()
        writer = DirectWriter(transport)
        writer.register(producer)
        writer.write(b"abc")
        self.assertEqual(
            (b"abc", producer, True), (transport.value(), transport.producer, transport.streaming)
        )
        writer.unregister()
        self.assertIs(None, transport.producer)
        writer.unregister()
        self.assertFalse(writer.acknowledge())
        writer.close()
        self.assertTrue(transport.disconnecting)
