"""Promises of :mod:`x509proxy.transport.direct_writer`."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Server
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from x509proxy.transport import direct_writer
from x509proxy.transport.direct_writer import DirectWriter


@implementer(IPushProducer)
class Told:
    """A producer that remembers what it was told."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def pauseProducing(self) -> None:
        self.words.append("pause")

    def resumeProducing(self) -> None:
        self.words.append("resume")

    def stopProducing(self) -> None:
        self.words.append("stop")


class Listener(Protocol):
    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.lost: list[Failure] = []

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost.append(reason)


class SenderTestCase(SynchronousTestCase):
    """A real transport of Twisted's over a real socket, and a reactor that does nothing by itself."""

    def setUp(self) -> None:
        near, self.far = socket.socketpair()
        self.addCleanup(self.far.close)
        near.setblocking(False)
        self.far.setblocking(False)
        self.near = near
        self.reactor = MemoryReactorClock()
        self.protocol = Listener()
        self.transport: Any = Server(near, self.protocol, ("127.0.0.1", 1), None, 1, self.reactor)  # type: ignore[arg-type]
        self.protocol.makeConnection(self.transport)
        self.addCleanup(near.close)
        self.sender = DirectWriter(self.transport)
        self.told = Told()

    def read(self) -> bytes:
        data = b""
        try:
            while piece := self.far.recv(1 << 20):
                data += piece
        except BlockingIOError:
            pass
        return data

    def fill(self) -> bytes:
        """As much as the kernel takes, and more."""
        data = bytes(range(256)) * 16384
        self.sender.write(data)
        return data

    def pump(self) -> bytes:
        """Read, and let the reactor write, until all is written."""
        data = self.read()
        while self.transport in self.reactor.writers:
            self.transport.doWrite()
            data += self.read()
        return data


class Direct(SenderTestCase):
    def test_at_once(self) -> None:
        """What the kernel takes is gone when the call returns, and the reactor is asked for nothing."""
        self.sender.write(b"abc")
        self.assertEqual(b"abc", self.read())
        self.assertEqual([], list(self.reactor.writers))

    def test_order(self) -> None:
        """What the kernel does not take is written later, and everything after it comes after it."""
        data = self.fill()
        self.sender.write(b"the end")
        self.assertEqual(data + b"the end", self.pump())
        self.sender.write(b"at once again")
        self.assertEqual(b"at once again", self.read())

    def test_back_pressure(self) -> None:
        """The producer is paused when the kernel takes no more, and resumed when all has been taken; both once."""
        self.sender.register(self.told)
        self.sender.write(b"short")
        self.assertEqual([], self.told.words)
        self.fill()
        self.assertEqual(["pause"], self.told.words)
        self.sender.write(b"more")
        self.pump()
        self.assertEqual(["pause", "resume"], self.told.words)

    def test_late_producer(self) -> None:
        """A producer that comes while bytes wait is paused at once."""
        self.fill()
        self.sender.register(self.told)
        self.assertEqual(["pause"], self.told.words)
        self.pump()
        self.assertEqual(["pause", "resume"], self.told.words)

    def test_gone_producer(self) -> None:
        """A producer that has left is told nothing more, and what it wrote is written."""
        self.sender.register(self.told)
        data = self.fill()
        self.sender.unregister()
        self.assertEqual(data, self.pump())
        self.assertEqual(["pause"], self.told.words)

    def test_end_while_bytes_wait(self) -> None:
        """A transport that is closed while bytes wait ends when they have been written."""
        data = self.fill()
        self.transport.loseConnection()
        self.assertEqual(data, self.pump_to_the_end())

    def test_end_of_its_own(self) -> None:
        """What is ended while bytes wait ends when they have been written, and not before."""
        data = self.fill()
        self.sender.close()
        self.assertEqual([], self.protocol.lost)
        self.assertEqual(data, self.pump_to_the_end())

    def test_end_of_nothing(self) -> None:
        """Where the reactor is nobody of ours, an end takes the usual way."""
        self.sender.write(b"abc")
        self.sender.close()
        self.assertEqual((b"abc", []), (self.read(), self.protocol.lost))
        self.assertEqual([self.transport], list(self.reactor.writers))

    def test_end_of_one_half(self) -> None:
        """Whoever says no more is told on: the far end hears all, and the end, and what it says then still comes."""
        self.sender.write(b"abc")
        self.sender.close_write_side()
        self.assertEqual(b"abc", self.pump_to_the_end())
        self.assertEqual(b"", self.far.recv(1))
        self.far.send(b"late")
        self.transport.doRead()
        self.assertEqual(([b"late"], []), (self.protocol.heard, self.protocol.lost))

    def test_end_of_one_half_while_bytes_wait(self) -> None:
        """While bytes wait both halves end, when they have been written."""
        data = self.fill()
        self.sender.close_write_side()
        self.assertEqual(data, self.pump_to_the_end())

    def test_nothing_to_acknowledge(self) -> None:
        """What is not TCP has no acknowledgements, and says so; nor can they be asked for where there is no Linux."""
        self.assertFalse(self.sender.acknowledge())
        self.patch(direct_writer, "_QUICKACK", None)
        self.assertFalse(self.sender.acknowledge())

    def pump_to_the_end(self) -> bytes:
        data = self.read()
        while self.transport in self.reactor.writers:
            reason = self.transport.doWrite()
            data += self.read()
            if reason is not None:
                break
        return data

    def test_broken(self) -> None:
        """A broken connection is the transport's to find out, in its own turn: nothing is raised here, and it asks to write."""
        self.far.close()
        self.sender.write(b"abc")
        self.sender.write(b"def")
        self.assertEqual([self.transport], list(self.reactor.writers))

    def test_lost(self) -> None:
        """A connection that goes while bytes wait is no error here."""
        self.fill()
        self.transport.connectionLost(Failure(ConnectionError()))
        self.assertEqual(1, len(self.protocol.lost))


class Wrapped(SynchronousTestCase):
    def test_as_ever(self) -> None:
        """A transport that wraps another one's socket gets the bytes, and pauses the producer, itself."""
        transport, told = StringTransport(), Told()
        sender = DirectWriter(transport)
        sender.register(told)
        sender.write(b"abc")
        self.assertEqual(
            (b"abc", told, True), (transport.value(), transport.producer, transport.streaming)
        )
        sender.unregister()
        self.assertIs(None, transport.producer)
        sender.unregister()
        self.assertFalse(sender.acknowledge())
        sender.close()
        self.assertTrue(transport.disconnecting)
