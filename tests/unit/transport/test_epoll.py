"""Promises of :mod:`x509proxy.transport.epoll`."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IReactorFDSet
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Port, Server
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from x509proxy.transport import epoll as room
from x509proxy.transport.direct_writer import DirectWriter
from x509proxy.transport.epoll import Sockets, end, join


@implementer(IReactorFDSet)
class Outer(Clock):
    """A reactor that waits for descriptors, when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        if reader not in self.readers:
            self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def no(self, *_: Any) -> Any:
        raise AssertionError("nobody else watches a descriptor here")

    addWriter = removeWriter = removeAll = getReaders = getWriters = no

    def turn(self) -> bool:
        """Serve whoever can be read, once; whether there was anybody."""
        ready = [reader for reader in self.readers if select.select([reader], [], [], 0)[0]]
        for reader in ready:
            reader.doRead()
        return bool(ready)


class Heard(Protocol):
    """Remembers what it was told. ``then``: what it does when it is told something."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: list[Any] = []
        self.then: Any = lambda: None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self.then()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost.append(reason.type)
        self.then()


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Heard):
    def readConnectionLost(self) -> None:
        self.lost.append("no more")

    def writeConnectionLost(self) -> None:
        raise AssertionError("nobody has asked for it")


class SocketsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.outer = Outer()
        self.sockets = Sockets(self.outer)

    def pair(self, protocol: Heard | None = None) -> tuple[Heard, socket.socket]:
        """A protocol on a transport among the sockets, and the far end."""
        one, far = socket.socketpair()
        self.addCleanup(far.close)
        self.addCleanup(one.close)
        for side in (one, far):
            side.setblocking(False)
        protocol = protocol or Heard()
        transport: Any = Server(one, protocol, ("127.0.0.1", 1), None, 1, self.sockets)  # type: ignore[arg-type]
        protocol.makeConnection(transport)
        return protocol, far

    def read_in_turns(self, far: socket.socket) -> bytes:
        """All that comes at the far end while a thousand turns are taken."""
        read = b""
        for _ in range(1000):
            self.turns(1)
            with contextlib.suppress(BlockingIOError):
                read += far.recv(1 << 20)
        return read

    def turns(self, most: int = 20) -> None:
        for _ in range(most):
            if not self.outer.turn():
                return


def lose(transport: Any) -> None:
    transport.connectionLost(Failure(ConnectionLost()))


class Serving(SocketsTestCase):
    def test_read(self) -> None:
        """What has come is handed on, to each its own."""
        pairs = [self.pair() for _ in range(3)]
        for number, (_, far) in enumerate(pairs):
            far.send(b"%d" % number)
        self.turns()
        self.assertEqual([b"0", b"1", b"2"], [protocol.data for protocol, _ in pairs])

    def test_one_turn(self) -> None:
        """What becomes ready while others are served is served in the same turn."""
        (first, far), (second, other) = self.pair(), self.pair()
        first.then = lambda: other.send(b"x")
        far.send(b"x")
        self.assertTrue(self.outer.turn())
        self.assertEqual(b"x", second.data)

    def test_bounded(self) -> None:
        """Who keeps himself busy does not keep the reactor from its timers."""
        protocol, far = self.pair()
        protocol.then = lambda: far.send(b"x")
        far.send(b"x")
        self.assertTrue(self.outer.turn())
        self.assertEqual(128, len(protocol.data))

    def test_write(self) -> None:
        """What the kernel does not take at once is written when it can be, all of it, and reading goes on."""
        protocol, far = self.pair()
        data = bytes(range(256)) * 16384
        protocol.transport.write(data)  # type: ignore[union-attr]
        far.send(b"meanwhile")
        read = self.read_in_turns(far)
        self.assertEqual((data, b"meanwhile"), (read, protocol.data))
        self.turns()
        self.assertFalse(self.outer.turn(), "a writer that has nothing to write")

    def test_paused(self) -> None:
        """Who does not want to read is not told, and hears it all later."""
        protocol, far = self.pair()
        protocol.transport.pauseProducing()  # type: ignore[union-attr]
        far.send(b"abc")
        self.assertFalse(self.outer.turn())
        protocol.transport.resumeProducing()  # type: ignore[union-attr]
        self.turns()
        self.assertEqual(b"abc", protocol.data)

    def test_anything_else(self) -> None:
        """Whatever else a transport wants of its reactor, it gets from the reactor."""
        called: list[int] = []
        self.sockets.callLater(1, called.append, 1)
        self.outer.advance(1)
        self.assertEqual([1], called)


class Ending(SocketsTestCase):
    def test_far_end(self) -> None:
        """The far end's close comes behind what it said."""
        protocol, far = self.pair()
        far.send(b"last")
        far.close()
        self.turns()
        self.assertEqual((b"last", [ConnectionDone]), (protocol.data, protocol.lost))

    def test_half_closed(self) -> None:
        """A protocol that goes on when the far end has said its last is told so, once; a reset is the end for it, too."""
        protocol, far = self.pair(HalfCloseable())
        far.shutdown(socket.SHUT_WR)
        self.turns()
        protocol.transport.write(b"still here")  # type: ignore[union-attr]
        self.turns()
        self.assertEqual((["no more"], b"still here"), (protocol.lost, far.recv(99)))
        protocol.transport.write(bytes(1 << 22))  # type: ignore[union-attr]
        far.close()
        self.turns()
        self.assertEqual(["no more", ConnectionLost], protocol.lost)

    def test_near_end(self) -> None:
        """What was written before a close goes out first; and that is the end, also for who would go on without the far end."""
        for kind in (Heard, HalfCloseable):
            protocol, far = self.pair(kind())
            protocol.transport.write(b"bye")  # type: ignore[union-attr]
            protocol.transport.loseConnection()  # type: ignore[union-attr]
            self.turns()
            self.assertEqual(
                (b"bye", b"", [ConnectionDone]), (far.recv(99), far.recv(99), protocol.lost), kind
            )

    def test_near_end_at_once(self) -> None:
        """Who has said all, and ends while it is served, has ended when that is over: in the same turn, and not within."""
        protocol, far = self.pair()
        lost_within: list[bool] = []

        def say_and_end() -> None:
            if not protocol.lost:
                protocol.transport.socket.send(b"bye")  # type: ignore[union-attr]
                end(protocol.transport)
                lost_within.append(bool(protocol.lost))

        protocol.then = say_and_end
        far.send(b"x")
        self.assertTrue(self.outer.turn())
        self.assertEqual(
            ([False], [ConnectionDone], b"bye"), (lost_within, protocol.lost, far.recv(9))
        )
        self.assertEqual((b"", []), (far.recv(9), self.outer.readers))

    def test_near_end_after_all(self) -> None:
        """What the kernel has not taken yet is sent before the end that was asked for while the connection was served."""
        protocol, far = self.pair()
        sender, data = DirectWriter(protocol.transport), bytes(range(256)) * 16384

        def say_and_end() -> None:
            if not protocol.lost:
                sender.write(data)
                sender.end()

        protocol.then = say_and_end
        far.send(b"x")
        read = self.read_in_turns(far)
        self.assertEqual((len(data), [ConnectionDone]), (len(read), protocol.lost))

    def test_near_end_twice(self) -> None:
        """Whoever is ended twice, or cut meanwhile, is told once."""
        for first in (end, lose):
            protocol, far = self.pair()

            def twice(protocol: Heard = protocol, first: Any = first) -> None:
                if not protocol.lost:
                    first(protocol.transport)
                    end(protocol.transport)

            protocol.then = twice
            far.send(b"x")
            self.turns()
            self.assertEqual(1, len(protocol.lost))

    def test_near_end_of_its_own_accord(self) -> None:
        """Who ends while nobody is served, at a timer's behest, ends in the next turn; so does who has another reactor."""
        protocol, far = self.pair()
        far.send(b"x")
        self.turns()
        end(protocol.transport)
        self.assertEqual([], protocol.lost)
        self.turns()
        self.assertEqual(([ConnectionDone], b""), (protocol.lost, far.recv(9)))
        transport = StringTransport()
        end(transport)
        self.assertTrue(transport.disconnecting)

    def test_reset(self) -> None:
        """A connection that is gone while nobody reads from it is found out by whoever writes; it has not said its last."""
        for kind in (Heard, HalfCloseable):
            protocol, far = self.pair(kind())
            protocol.transport.pauseProducing()  # type: ignore[union-attr]
            protocol.transport.write(bytes(1 << 22))  # type: ignore[union-attr]
            far.close()
            self.turns()
            self.assertEqual([ConnectionLost], protocol.lost, kind)

    def test_fault(self) -> None:
        """A protocol that fails loses its own connection, and nobody else's."""
        (failing, far), (other, far_too) = self.pair(), self.pair()
        failing.then = lambda: failing.lost or 1 / 0
        far.send(b"x")
        far_too.send(b"x")
        self.turns()
        self.assertEqual(([ZeroDivisionError], [], b"x"), (failing.lost, other.lost, other.data))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_fault_at_the_end(self) -> None:
        """A protocol that fails when it is told of its end, or all are, is no reason for others to end."""
        (failing, far), (other, far_too), (last, _) = self.pair(), self.pair(), self.pair()
        failing.then = last.then = lambda: 1 / 0
        far.close()
        far_too.send(b"x")
        self.turns()
        self.assertEqual(([ConnectionDone], [], b"x"), (failing.lost, other.lost, other.data))
        self.sockets.connectionLost(Failure(ConnectionLost()))
        self.assertEqual([[ConnectionLost]] * 2, [other.lost, last.lost])
        self.assertEqual(2, len(self.flushLoggedErrors(ZeroDivisionError)))

    def close_what_others_left(self) -> None:
        """A socket of another test's that the collector closes meanwhile would have a lower number to give."""
        gc.collect()

    def test_number_given_again(self) -> None:
        """An event of a connection that has been closed is none of the one that has its number now."""
        self.close_what_others_left()
        (first, far), (second, far_too) = self.pair(), self.pair()
        number = second.transport.fileno()  # type: ignore[union-attr]
        gone: list[Heard] = []

        def replace() -> None:
            second.transport.connectionLost(Failure(ConnectionDone()))  # type: ignore[union-attr]
            gone.append(self.pair()[0])
            # As the kernel does it when there is no number between.
            self.assertEqual(number, gone[0].transport.fileno())  # type: ignore[union-attr]

        first.then = replace
        far.send(b"x")
        far_too.close()
        self.sockets._epoll = _Both(
            self.sockets._epoll,
            [(first.transport.fileno(), 1), (number, select.EPOLLHUP)],  # type: ignore[union-attr,assignment]
        )
        self.sockets.doRead()
        self.assertEqual(([ConnectionDone], []), (second.lost, gone[0].lost))

    def test_closed_by_somebody_else(self) -> None:
        """Whoever gets the number of a socket that was closed without a word is served."""
        self.close_what_others_left()
        silent, _ = self.pair()
        number = silent.transport.fileno()  # type: ignore[union-attr]
        silent.transport.socket.close()  # type: ignore[union-attr]
        protocol, far = self.pair()
        self.assertEqual(number, protocol.transport.fileno())  # type: ignore[union-attr]
        far.send(b"x")
        self.turns()
        self.assertEqual((b"x", b""), (protocol.data, silent.data))

    def test_end_found_by_reading(self) -> None:
        """Who has read the far end's last is at his end, though he could still write."""
        protocol, far = self.pair()
        far.shutdown(socket.SHUT_WR)
        protocol.transport.write(b"x")  # type: ignore[union-attr]
        number = protocol.transport.fileno()  # type: ignore[union-attr]
        self.sockets._epoll = _Both(
            self.sockets._epoll, [(number, select.EPOLLIN | select.EPOLLOUT)]
        )  # type: ignore[assignment]
        self.sockets.doRead()
        self.assertEqual([ConnectionDone], protocol.lost)

    def test_closed_while_served(self) -> None:
        """Who is closed by what it reads is not written to any more."""
        protocol, far = self.pair()
        protocol.transport.write(bytes(1 << 22))  # type: ignore[union-attr]
        self.turns(1)
        protocol.then = lambda: protocol.transport.connectionLost(Failure(ConnectionDone()))  # type: ignore[union-attr]
        far.send(b"x")
        far.recv(1 << 22)
        self.turns()
        self.assertEqual([ConnectionDone], protocol.lost)
        self.assertEqual([], self.flushLoggedErrors())

    def test_reactor_ends(self) -> None:
        """When the reactor ends and disconnects all, it disconnects these."""
        pairs = [self.pair() for _ in range(3)]
        (reader,) = self.outer.readers
        self.outer.readers.clear()
        # As a client's connection ends the one to the back end.
        pairs[0][0].then = lambda: pairs[1][0].transport.connectionLost(Failure(ConnectionLost()))  # type: ignore[union-attr]
        reader.connectionLost(Failure(ConnectionLost()))
        self.assertEqual([[ConnectionLost]] * 3, [protocol.lost for protocol, _ in pairs])


class _Both:
    """An epoll that has these to tell once, whatever the kernel says."""

    def __init__(self, epoll: select.epoll, ready: list[tuple[int, int]]) -> None:
        self._epoll = epoll
        self._ready = ready

    def poll(self, _timeout: float, _most: int) -> list[tuple[int, int]]:
        ready, self._ready = self._ready, []
        return ready

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


class Joining(SocketsTestCase):
    def test_nothing_left(self) -> None:
        """A reactor watches the sockets as one, and only while there are any: tests find it clean."""
        self.assertEqual([], self.outer.readers)
        pairs = [self.pair() for _ in range(5)]
        self.assertEqual([self.sockets], self.outer.readers)
        for _, far in pairs:
            far.close()
        self.turns()
        self.assertEqual([], self.outer.readers)

    def test_forgotten(self) -> None:
        """Where somebody has emptied the reactor, as trial does after a test that left something behind, the next is served."""
        self.pair()
        self.outer.readers.clear()
        protocol, far = self.pair()
        far.send(b"x")
        self.turns()
        self.assertEqual(b"x", protocol.data)

    def test_port(self) -> None:
        """What a port accepts is served among the others, and so is the port."""
        accepted: list[Heard] = []

        class Accepting(Factory):
            def buildProtocol(self, addr: Any) -> Heard:
                accepted.append(Heard())
                return accepted[-1]

        port = Port(0, Accepting(), interface="127.0.0.1", reactor=self.outer)
        port.startListening()
        join(port)
        self.assertEqual(1, len(self.outer.readers))
        self.assertIsNot(port, self.outer.readers[0])
        self.assertIn("Accepting", repr(self.outer.readers[0]))
        with socket.create_connection(("127.0.0.1", port.getHost().port)) as client:
            client.send(b"hello")
            self.turns()
            self.assertEqual([b"hello"], [protocol.data for protocol in accepted])
        self.turns()
        self.assertEqual([ConnectionDone], accepted[0].lost)
        port.stopListening()
        self.outer.advance(0)
        self.assertEqual([], self.outer.readers)

    def test_connection(self) -> None:
        """A connection that is there already joins them with others of the same reactor."""
        near, far = socket.socketpair()
        self.addCleanup(far.close)
        self.addCleanup(near.close)
        near.setblocking(False)
        protocol = Heard()
        transport: Any = Server(near, protocol, ("127.0.0.1", 1), None, 1, self.outer)  # type: ignore[arg-type]
        protocol.makeConnection(transport)
        self.assertEqual([transport], self.outer.readers)
        join(transport)
        self.assertNotIn(transport, self.outer.readers)
        self.assertIs(room._sockets(self.outer), transport.reactor)
        far.send(b"x")
        self.turns()
        self.assertEqual(b"x", protocol.data)
        far.close()
        self.turns()

    def test_others(self) -> None:
        """What wraps a transport stays as it is, and all does on a system without epoll, or on a reactor without descriptors."""
        join(StringTransport())
        protocol, _ = self.pair()
        transport: Any = protocol.transport
        transport.reactor = self.outer
        self.patch(room, "select", os)
        join(transport)
        self.assertIs(self.outer, transport.reactor)
        self.patch(room, "select", select)
        transport.reactor = clock = Clock()
        join(transport)
        self.assertIs(clock, transport.reactor)
        transport.reactor = self.sockets
