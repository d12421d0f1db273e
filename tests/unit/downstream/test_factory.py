"""Tests of :mod:`x509proxy.downstream.factory`."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import GET, RecordingHandler, RequestTransport, reply
from tests.support.tls_streams import StreamTestCase
from x509proxy.downstream.factory import ProxyFactory, TlsFactory
from x509proxy.downstream.request import Request
from x509proxy.http1.errors import bad_request
from x509proxy.monitoring.counters import Counters
from x509proxy.settings import ClientSettings
from x509proxy.transport.deadlines import NEVER, Deadlines
from x509proxy.transport.tls_context import ServerConnections
from x509proxy.transport.tls_stream import TlsStream

MALFORMED = bad_request("malformed").response


class Limits(SynchronousTestCase):
    def connect(self, settings: ClientSettings, times: int = 2) -> dict[str, int]:
        clock, counters = Clock(), Counters()
        factory = ProxyFactory(RecordingHandler(), Deadlines(clock), settings, counters)
        for _ in range(times):
            wire = RequestTransport(clock).attach(factory.buildProtocol(None))
            wire.deliver(GET)
            self.addCleanup(wire.lose)
        self.assertEqual(1, factory.connections)
        self.factory = factory
        return counters.counts().limits

    def test_each(self) -> None:
        """A connection that is rejected counts by the setting with the limit."""
        for settings, limit in (
            (ClientSettings(max_connections=1), "client.max-connections"),
            (ClientSettings(max_connections_per_address=1), "client.max-connections-per-address"),
            (ClientSettings(handshake_rate_per_address=0.5), "client.handshake-rate-per-address"),
        ):
            self.assertEqual({limit: 1}, self.connect(settings))

    def test_draining(self) -> None:
        """While the proxy drains no limit is met."""
        counts = self.connect(ClientSettings(), 1)
        self.factory.draining = True
        wire = RequestTransport(Clock()).attach(self.factory.buildProtocol(None))
        self.assertEqual((True, {}), (wire.aborted, counts))


class Held:
    """A connection whose PROXY header is not complete: it records the factory's calls."""

    def __init__(self) -> None:
        self.deadline = NEVER
        self.calls: list[str] = []

    def expired(self) -> None:
        self.calls.append("expired")
        self.deadline = NEVER

    def drain(self) -> None:
        self.calls.append("drain")

    def cut(self) -> None:
        self.calls.append("cut")

    def make_room(self) -> None:
        self.calls.append("make room")


class FactoryTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.counters = Counters()
        self.arrange()

    def arrange(
        self,
        settings: ClientSettings = ClientSettings(),
    ) -> None:
        self.handler = RecordingHandler()
        self.factory = ProxyFactory(self.handler, Deadlines(self.clock), settings, self.counters)

    def connect(self) -> RequestTransport:
        return RequestTransport(self.clock).attach(self.factory.buildProtocol(None))

    def hold(self) -> Held:
        held = Held()
        self.assertTrue(self.factory.hold(held))
        return held


class Ports(FactoryTestCase):
    def test_log_prefix(self) -> None:
        """Twisted logs each port with the program's name."""
        streams = TlsFactory(ServerConnections(None), Factory(), Clock())  # type: ignore[arg-type]
        self.assertEqual(
            ("x509proxy", "x509proxy"), (self.factory.logPrefix(), streams.logPrefix())
        )


class Full(FactoryTestCase):
    """The number of connections is at its maximum."""

    def serving(self) -> RequestTransport:
        """Connect a client whose request has no response yet."""
        wire = self.connect()
        wire.deliver(GET)
        return wire

    def idle(self) -> RequestTransport:
        """Connect a client that has read its response."""
        self.handler.then = reply
        wire = self.serving()
        self.handler.then = id
        return wire

    def aborted(self, *wires: RequestTransport) -> list[bool]:
        return [wire.aborted for wire in wires]

    def test_files(self) -> None:
        """At the number that the process permits, none is accepted if all serve requests."""
        self.factory.most_connections = 1
        wire = self.serving()
        self.assertIsNone(self.factory.buildProtocol(None))
        self.assertEqual({"client.max-connections": 1}, self.counters.counts().limits)
        wire.lose()
        self.assertIsNotNone(self.factory.buildProtocol(None))

    def test_files_make_room(self) -> None:
        """Otherwise an older one makes room, and counts once."""
        self.factory.most_connections = 1
        first, second = self.connect(), self.connect()
        self.assertEqual([True, False], self.aborted(first, second))
        self.assertEqual({"client.max-connections": 1}, self.counters.counts().limits)

    def test_oldest(self) -> None:
        """The oldest connection makes room for each new one, several times in one turn too."""
        self.arrange(ClientSettings(max_connections=2))
        wires = [self.connect() for _ in range(4)]
        self.assertEqual([True, True, False, False], self.aborted(*wires))
        self.assertEqual(2, self.factory.connections)
        self.clock.advance(0)
        self.assertEqual(2, self.factory.connections)
        self.assertEqual({"client.max-connections": 2}, self.counters.counts().limits)

    def test_order(self) -> None:
        """Handshakes end before connections that wait for a request, and those before the rest.

        The rest has sent its last response.
        """
        self.arrange(ClientSettings(max_connections=4))
        self.handler.then = lambda request: request.answer(MALFORMED)
        closing = self.serving()
        idle, silent = self.idle(), self.connect()
        held = self.hold()
        serving = self.serving()
        self.assertEqual(["make room"], held.calls)
        more = [self.serving() for _ in range(3)]
        self.assertEqual([True] * 3, self.aborted(idle, silent, closing))
        self.assertEqual([False] * 4, self.aborted(serving, *more))
        self.assertTrue(self.connect().aborted)

    def test_order_of_waiting(self) -> None:
        """Of those that wait, the one that has waited longest makes room."""
        self.arrange(ClientSettings(max_connections=2))
        first, second = self.idle(), self.idle()
        self.handler.then = reply
        first.deliver(GET)
        self.connect()
        self.assertEqual([False, True], self.aborted(first, second))

    def test_half_a_head(self) -> None:
        """A head that is not complete does not keep a place."""
        self.arrange(ClientSettings(max_connections=1))
        first = self.connect()
        first.deliver(GET[:-1])
        self.assertFalse(self.serving().aborted)
        self.assertTrue(first.aborted)

    def test_slow_reader(self) -> None:
        """A client that has not read its last response keeps its place until its deadline."""
        self.arrange(ClientSettings(max_connections=1))

        def answer(request: Request) -> None:
            wire.fill()
            request.answer(MALFORMED)

        self.handler.then = answer
        wire = self.connect()
        wire.deliver(GET)
        self.assertTrue(self.connect().aborted)
        self.assertFalse(wire.aborted)

    def test_address(self) -> None:
        """One that makes room no longer counts for its address."""
        self.arrange(ClientSettings(max_connections=1, max_connections_per_address=1))
        first, second = self.connect(), self.connect()
        self.assertEqual([True, False], self.aborted(first, second))

    def test_held(self) -> None:
        """A connection without a complete PROXY header makes room, and has room made for it."""
        self.arrange(ClientSettings(max_connections=1))
        held = self.hold()
        wire = self.serving()
        self.assertEqual(["make room"], held.calls)
        self.assertFalse(self.factory.hold(Held()))
        wire.lose()
        self.hold()

    def test_held_for_no_address(self) -> None:
        """It counts for no address."""
        self.arrange(ClientSettings(max_connections_per_address=1))
        for _ in range(3):
            self.hold()
        self.assertFalse(self.connect().aborted)


class Settings(FactoryTestCase):
    def test_limits(self) -> None:
        """Other limits apply to new connections."""
        for before, after in (
            (ClientSettings(max_connections=1), ClientSettings(max_connections=2)),
            (
                ClientSettings(max_connections_per_address=1),
                ClientSettings(max_connections_per_address=2),
            ),
        ):
            self.arrange(before)
            self.connect().deliver(GET)
            self.factory.use(after)
            second = self.connect()
            second.deliver(GET)
            third = self.connect()
            self.assertEqual([False, True], [second.aborted, third.aborted])

    def test_open_connections(self) -> None:
        """Open connections keep their limits."""
        self.arrange(ClientSettings(idle_timeout=5))
        before = self.connect()
        self.factory.use(ClientSettings(idle_timeout=50))
        after = self.connect()
        self.clock.pump([0.25] * 24)
        self.assertEqual((True, False), (before.disconnecting, after.disconnecting))


class HandingOver(FactoryTestCase):
    """A channel replaces a connection whose PROXY header is complete."""

    def test_place(self) -> None:
        """The channel takes the connection's place, and its deadline is no longer checked."""
        self.arrange(ClientSettings(max_connections=1))
        held = self.hold()
        held.deadline = 1.0
        wire = RequestTransport(self.clock)
        self.factory.hand_over(held, lambda: wire.attach(self.factory.make_channel()))
        self.assertEqual((False, 1), (wire.aborted, self.factory.connections))
        self.clock.pump([0.25] * 8)
        self.assertEqual([], held.calls)

    def test_draining(self) -> None:
        """During a drain the channel is admitted, and the drain waits for it."""
        held = self.hold()
        drained = self.factory.drain()
        wire = RequestTransport(self.clock)
        self.factory.hand_over(held, lambda: wire.attach(self.factory.make_channel()))
        self.assertFalse(wire.aborted)
        self.assertNoResult(drained)
        self.assertTrue(self.connect().aborted)
        wire.lose()
        self.successResultOf(drained)

    def test_rejected(self) -> None:
        """A drain ends if no channel takes the last connection's place."""
        held = self.hold()
        drained = self.factory.drain()
        self.factory.hand_over(held, lambda: None)
        self.successResultOf(drained)

    def test_failure(self) -> None:
        """After a failure the drain still rejects new connections."""

        def fail() -> None:
            raise ZeroDivisionError

        held = self.hold()
        self.factory.drain()
        self.assertRaises(ZeroDivisionError, self.factory.hand_over, held, fail)
        self.assertTrue(self.connect().aborted)


class Draining(FactoryTestCase):
    def test_empty(self) -> None:
        """Without connections the drain is complete at once, and leaves no timer."""
        self.successResultOf(self.factory.drain())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_last(self) -> None:
        """Each connection is drained; the drain is complete when the last one has left."""
        both = [self.hold(), self.hold()]
        drained = self.factory.drain()
        self.assertEqual([["drain"], ["drain"]], [held.calls for held in both])
        self.factory.leave(both[0])
        self.assertNoResult(drained)
        self.factory.leave(both[1])
        self.successResultOf(drained)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_too_long(self) -> None:
        """After ``drain_timeout``, and not before, all connections are cut."""
        self.arrange(ClientSettings(drain_timeout=9))
        both = [self.hold(), self.hold()]
        drained = self.factory.drain()
        self.clock.advance(8.75)
        self.assertEqual([["drain"], ["drain"]], [held.calls for held in both])
        self.clock.advance(0.25)
        self.assertEqual([["drain", "cut"]] * 2, [held.calls for held in both])
        for held in both:
            self.factory.leave(held)
        self.successResultOf(drained)


class OverTls(StreamTestCase):
    def test_open_streams(self) -> None:
        """A stream is listed until its connection ends."""
        self.assertEqual({self.stream}, self.factory.protocols)
        self.wire.lose()
        self.assertEqual(set(), self.factory.protocols)

    def handshakes(self, settings: ClientSettings) -> Counters:
        """Connect two clients that send nothing; return the counters after the first has left."""
        clock, counters = Clock(), Counters()
        owner = ProxyFactory(RecordingHandler(), Deadlines(clock), settings, counters)
        self.wire.lose()
        self.factory._connections.watch = counters
        for _ in range(2):
            stream: Any = TlsFactory(self.factory._connections, owner, clock).buildProtocol(None)
            assert isinstance(stream, TlsStream)
            RequestTransport(clock).attach(stream)
        clock.advance(0)
        return counters

    def test_limit_is_no_failure(self) -> None:
        """A connection that a limit rejects or cuts is not among the handshakes that failed."""
        for settings, limit in (
            (ClientSettings(max_connections=1), "client.max-connections"),
            (ClientSettings(max_connections_per_address=1), "client.max-connections-per-address"),
        ):
            counts = self.handshakes(settings).counts()
            self.assertEqual(({limit: 1}, {}), (counts.limits, counts.handshake_failures))


class Inner(SynchronousTestCase):
    """The factory of the protocols on the streams."""

    def test_refusal(self) -> None:
        """A factory that makes no protocol makes no stream."""
        inner = Factory()
        self.patch(inner, "buildProtocol", lambda _: None)
        factory = TlsFactory(ServerConnections(None), inner, Clock())  # type: ignore[arg-type]
        self.assertIsNone(factory.buildProtocol(None))

    def test_start_and_stop(self) -> None:
        """The inner factory is started and stopped with it."""
        calls: list[str] = []
        inner = Factory()
        self.patch(inner, "startFactory", lambda: calls.append("start"))
        self.patch(inner, "stopFactory", lambda: calls.append("stop"))
        inner.noisy = False
        factory = TlsFactory(ServerConnections(None), inner, Clock())  # type: ignore[arg-type]
        factory.doStart()
        factory.doStop()
        self.assertEqual(["start", "stop"], calls)
