"""Tests of :mod:`x509proxy.upstream.pool`: lending, the queue, and no lost capacity."""

from __future__ import annotations

import errno
import socket
import time
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import CUT, OK, BackEnd, RecordingWaiter
from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.monitoring.backend_status import HealthState
from x509proxy.settings import Backend, HealthSettings, UpstreamSettings
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.connection import Connection
from x509proxy.upstream.endpoints import PendingInput
from x509proxy.upstream.pool import Pool, Step, plan

BACKEND = Backend.parse("http://127.0.0.1:8080")


def attach_socket(wire: Any, near: socket.socket) -> None:
    """Give a connection in memory a real socket, so that the kernel can be queried."""
    wire.getHandle = lambda: near
    wire.protocol._input = PendingInput(wire)


class Planning(SynchronousTestCase):
    """The decision without I/O."""

    def test_table(self) -> None:
        """Open up to the maximum, wait up to the queue's end, else reject."""
        settings = UpstreamSettings(max_connections=3, max_queued_requests=2)
        for connections, waiting, expected in (
            (0, 0, Step.OPEN),
            (2, 0, Step.OPEN),
            (3, 0, Step.WAIT),
            (3, 1, Step.WAIT),
            (3, 2, Step.REJECT),
            (4, 9, Step.REJECT),
        ):
            self.assertEqual(expected, plan(connections, waiting, settings), (connections, waiting))


class PoolTestCase(SynchronousTestCase):
    health: HealthSettings | None = None

    def setUp(self) -> None:
        self.clock = Clock()
        self.back_end = BackEnd(self.clock)
        self.arrange()

    def arrange(
        self,
        settings: UpstreamSettings = UpstreamSettings(
            max_connections=2, max_queued_requests=2, queue_timeout=5
        ),
    ) -> None:
        self.pool = Pool(BACKEND, self.back_end, Deadlines(self.clock), settings, self.health)

    def request(self) -> RecordingWaiter:
        """Add a waiter that sends its request when it is connected."""
        waiter = RecordingWaiter(RecordingWaiter.ask)
        self.pool.acquire(waiter)
        return waiter

    def idle(self, number: int) -> None:
        """Make ``number`` connections idle."""
        waiters = [self.request() for _ in range(number)]
        for waiter in waiters:
            waiter.connection.transport.deliver(OK)

    def expect(self, busy: int = 0, idle: int = 0, opening: int = 0, waiting: int = 0) -> None:
        self.assertEqual(
            f"<Pool http://127.0.0.1:8080 busy={busy} idle={idle} "
            f"opening={opening} waiting={waiting}>",
            repr(self.pool),
        )
        self.assertEqual(busy + opening + waiting, self.pool.load)


class Uploads(PoolTestCase):
    """Uploads hold connections for long: half of the pool is for complete requests."""

    def arrange(
        self,
        settings: UpstreamSettings = UpstreamSettings(
            max_connections=4, max_queued_requests=4, queue_timeout=5
        ),
    ) -> None:
        super().arrange(settings)

    def upload(self) -> RecordingWaiter:
        """Add a waiter that sends a head, and whose body follows later."""
        waiter = RecordingWaiter(
            lambda self: self.connection.send_head(b"POST", b"POST / HTTP/1.1\r\n\r\n", self),
            streams=True,
        )
        self.pool.acquire(waiter)
        return waiter

    def end(self, upload: RecordingWaiter) -> None:
        """Complete its request, and respond."""
        upload.connection.body_end()
        upload.connection.transport.deliver(OK)

    def test_half(self) -> None:
        """Uploads get half of the connections; complete requests get one at once."""
        uploads = [self.upload() for _ in range(4)]
        self.assertEqual([1, 1, 0, 0], [len(upload.connections) for upload in uploads])
        for _ in range(2):
            self.assertEqual(1, len(self.request().connections))
        self.expect(busy=4, waiting=2)

    def test_opened_too_late(self) -> None:
        """A connection that nothing waits for, and that is not to be lent any more, is closed."""
        self.back_end.at_once = False
        waiter = RecordingWaiter()
        self.pool.acquire(waiter)
        (connection,) = self.pool._opening
        self.pool.cancel(waiter)
        connection.retire()
        wire = self.back_end.attempts[0].succeed()
        self.assertTrue(wire.disconnecting)
        self.expect()

    def test_opening(self) -> None:
        """Uploads with an opening connection count; a failed one does not."""
        self.back_end.at_once = False
        uploads = [self.upload() for _ in range(3)]
        self.expect(opening=2, waiting=1)
        self.back_end.attempts[0].fail()
        self.expect(opening=2)
        self.assertEqual([502], uploads[0].statuses)

    def test_idle(self) -> None:
        """The bound holds for idle connections too."""
        self.idle(4)
        for _ in range(3):
            self.upload()
        self.expect(busy=2, idle=2, waiting=1)

    def test_next(self) -> None:
        """When one has ended, the next gets its connection."""
        first, _, third = (self.upload() for _ in range(3))
        self.end(first)
        self.assertEqual([first.connection], third.connections)
        self.expect(busy=2)

    def test_complete(self) -> None:
        """When the body of one is complete, the next begins, before the response arrives."""
        first, _, third = (self.upload() for _ in range(3))
        self.assertEqual([], third.connections)
        first.connection.body_end()
        self.pool.uploaded(first.connection)
        self.assertEqual(([], 1), (first.told, len(third.connections)))
        self.expect(busy=3)

    def test_room(self) -> None:
        """Uploads have room in half of the pool, complete requests in all of it."""
        waiters = [RecordingWaiter(streams=True), RecordingWaiter()]
        rooms = []
        for _ in range(3):
            rooms.append([self.pool.has_room(waiter) for waiter in waiters])
            self.upload()
        self.assertEqual([[True, True], [True, True], [False, True]], rooms)
        for _ in range(2):
            self.request()
        self.assertFalse(self.pool.has_room(RecordingWaiter()))

    def test_next_on_an_idle_one(self) -> None:
        """When one is lost, the next gets an idle connection, though the pool is full."""
        self.idle(4)
        first, _, third = (self.upload() for _ in range(3))
        self.request()
        first.connection.transport.lose()
        self.assertEqual(1, len(third.connections))
        self.expect(busy=3)

    def test_others_pass(self) -> None:
        """A complete request overtakes uploads in the queue."""
        for _ in range(3):
            self.upload()
        first, _, third = (self.request() for _ in range(3))
        self.expect(busy=4, waiting=2)
        first.connection.transport.deliver(OK)
        self.assertEqual([first.connection], third.connections)
        self.expect(busy=4, waiting=1)

    def test_down(self) -> None:
        """If a back end goes down, queued uploads get no connection that is closed for that."""
        self.idle(2)
        self.back_end.at_once = False
        quick = [self.request() for _ in range(2)]
        uploads = [self.upload() for _ in range(3)]
        for waiter in quick:
            waiter.connection.transport.deliver(OK)
        self.expect(idle=2, opening=2, waiting=1)
        self.back_end.attempts[-2].fail()
        self.assertEqual([[502], [], []], [upload.statuses for upload in uploads])
        self.assertEqual([], uploads[2].connections)
        self.expect(opening=2)

    def test_queue(self) -> None:
        """Uploads get half of the queue, wait as long as others, and are rejected beyond."""
        uploads = [self.upload() for _ in range(5)]
        self.assertEqual([[], [], [], [], [503]], [upload.statuses for upload in uploads])
        for _ in range(22):
            self.clock.advance(0.25)
        self.assertEqual([503], uploads[2].statuses)
        self.expect(busy=2)

    def test_only_one(self) -> None:
        """With a maximum of one connection, an upload may have it."""
        self.arrange(UpstreamSettings(max_connections=1))
        self.assertEqual(1, len(self.upload().connections))


class Lending(PoolTestCase):
    """A connection serves one exchange at a time."""

    def test_opened(self) -> None:
        """The first waiter gets a new connection."""
        self.back_end.at_once = False
        waiter = self.request()
        self.expect(opening=1)
        self.back_end.attempts[0].succeed()
        self.expect(busy=1)
        self.assertEqual(self.back_end.wire, waiter.connection.transport)

    def test_reused(self) -> None:
        """A connection is reused after its exchange."""
        first = self.request()
        self.back_end.wire.deliver(OK)
        self.expect(idle=1)
        second = self.request()
        self.expect(busy=1)
        self.assertIs(first.connection, second.connection)
        self.assertEqual(1, len(self.back_end.attempts))

    def test_newest_first(self) -> None:
        """Of several idle connections, the last one used is used next."""
        first, second = self.request(), self.request()
        for waiter in (second, first):
            waiter.connection.transport.deliver(OK)
        self.expect(idle=2)
        self.assertIs(first.connection, self.request().connection)
        self.assertIs(second.connection, self.request().connection)

    def test_handed_over(self) -> None:
        """The oldest waiter gets a free connection at once, and its own response."""
        first, _, third, fourth = (self.request() for _ in range(4))
        self.expect(busy=2, waiting=2)
        wire = first.connection.transport
        wire.deliver(OK)
        self.assertEqual([200, b"ok", "end"], first.told)
        self.expect(busy=2, waiting=1)
        self.assertIs(first.connection, third.connection)
        self.assertEqual([], third.told)
        wire.deliver(OK.replace(b"ok", b"no"))
        self.assertEqual([200, b"no", "end"], third.told)
        self.assertEqual([], fourth.told)

    def test_not_used_up(self) -> None:
        """Many reuses in a row neither nest nor open another connection."""
        self.arrange(UpstreamSettings(max_connections=1, max_queued_requests=2000))
        waiters = [self.request() for _ in range(2000)]
        for _ in waiters:
            self.back_end.wire.deliver(OK)
        self.assertEqual([[200, b"ok", "end"]] * 2000, [waiter.told for waiter in waiters])
        self.expect(idle=1)

    def test_dead(self) -> None:
        """Idle connections that the back end has closed are skipped."""
        self.arrange(UpstreamSettings(max_connections=3))
        self.idle(3)
        far_ends = []
        for wire in self.back_end.wires[1:]:
            near, far = socket.socketpair()
            far_ends.append(far)
            self.addCleanup(near.close)
            self.addCleanup(far.close)
            attach_socket(wire, near)
        for far in far_ends:
            far.close()
        waiter = self.request()
        self.assertEqual(self.back_end.wires[0], waiter.connection.transport)
        self.assertEqual([False, True, True], [wire.disconnecting for wire in self.back_end.wires])
        self.expect(busy=1)

    def test_all_dead(self) -> None:
        """If all are closed, a new one is opened."""
        self.idle(1)
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        far.close()
        attach_socket(self.back_end.wire, near)
        self.request()
        self.assertEqual(2, len(self.back_end.attempts))
        self.expect(busy=1)


class Waiting(PoolTestCase):
    """The queue is bounded in length and in time."""

    def test_full(self) -> None:
        """A request that finds the queue full is a 503."""
        for _ in range(4):
            self.request()
        self.assertEqual([503], self.request().statuses)
        self.expect(busy=2, waiting=2)

    def test_too_long(self) -> None:
        """A request that waits too long is a 503, and leaves the queue."""
        waiters = [self.request() for _ in range(3)]
        self.clock.advance(4.75)
        self.assertEqual([], waiters[2].statuses)
        self.clock.advance(0.25)
        self.assertEqual([503], waiters[2].statuses)
        self.expect(busy=2)
        self.back_end.wires[0].deliver(OK)
        self.expect(busy=1, idle=1)

    def test_served_in_time(self) -> None:
        """A served request gets no timeout later."""
        waiters = [self.request() for _ in range(3)]
        self.back_end.wires[0].deliver(OK)
        self.clock.advance(10)
        self.assertEqual([], waiters[2].statuses)

    def test_served_in_the_last_moment(self) -> None:
        """A request served at the moment of its own deadline gets no error."""
        self.arrange(UpstreamSettings(max_connections=1, response_timeout=5, queue_timeout=5))
        first, second = self.request(), self.request()
        self.clock.advance(5)
        self.assertEqual(([504], []), (first.statuses, second.statuses))
        self.expect(busy=1)

    def test_cancelled(self) -> None:
        """A cancelled request leaves the queue; the order of the others is kept."""
        first, _, third, fourth = (self.request() for _ in range(4))
        self.pool.cancel(third)
        self.expect(busy=2, waiting=1)
        first.connection.transport.deliver(OK)
        self.assertEqual(([], 1), (third.connections, len(fourth.connections)))

    def test_unknown(self) -> None:
        """To cancel an unknown waiter is no error."""
        self.request()
        self.pool.cancel(RecordingWaiter())
        self.expect(busy=1)


class ClientsThatDoNotRead(PoolTestCase):
    """Clients that do not read hold at most half of the pool while other requests wait."""

    def pause(self, *waiters: RecordingWaiter) -> None:
        """Stop reading for each client, a quarter of a second apart."""
        for waiter in waiters:
            waiter.connection.pause_response()
            self.clock.advance(0.25)

    def codes(self, *waiters: RecordingWaiter) -> list[list[Code]]:
        """Return the codes of the errors of each."""
        return [[error.code for error in waiter.refusals] for waiter in waiters]

    def test_longest(self) -> None:
        """A new request gets the place of the client that has not read for longest."""
        first, second = self.request(), self.request()
        self.pause(second, first)
        third = self.request()
        self.assertEqual([[], [Code.SLOW_CLIENT], []], self.codes(first, second, third))
        self.assertEqual(1, len(third.connections))
        self.assertEqual(0, self.pool.status().failures)

    def test_queue(self) -> None:
        """A request that waits already gets it within half a second."""
        first, second, third = self.request(), self.request(), self.request()
        self.clock.advance(0.25)
        self.pause(second)
        self.assertEqual([], third.connections)
        self.pause(first)
        self.clock.advance(0.25)
        self.assertEqual([[], [Code.SLOW_CLIENT], []], self.codes(first, second, third))
        self.assertEqual(1, len(third.connections))

    def test_half(self) -> None:
        """If only half of the connections are lent to them, each keeps its connection."""
        first, _ = self.request(), self.request()
        self.pause(first)
        self.clock.advance(3)
        third = self.request()
        self.clock.advance(3)
        self.assertEqual([[]], self.codes(first))
        self.assertEqual([], third.connections)


class Opening(PoolTestCase):
    """An opening connection counts, until it has failed."""

    def setUp(self) -> None:
        super().setUp()
        self.back_end.at_once = False

    def test_failed(self) -> None:
        """A failed connection is a 502, and does not count any more."""
        waiter = self.request()
        self.back_end.attempts[0].fail()
        self.assertEqual([502], waiter.statuses)
        self.expect()

    def test_failed_for_the_queue(self) -> None:
        """After a failure the next in the queue gets an attempt of its own."""
        waiters = [self.request() for _ in range(3)]
        self.back_end.attempts[0].fail()
        self.expect(opening=2)
        self.assertEqual(3, len(self.back_end.attempts))
        self.back_end.attempts[2].succeed()
        self.assertEqual([[502], [], []], [waiter.statuses for waiter in waiters])
        self.assertEqual(1, len(waiters[2].connections))

    def test_cancelled(self) -> None:
        """The connection of a cancelled waiter is kept for the next."""
        waiter = self.request()
        self.pool.cancel(waiter)
        self.expect(opening=1)
        self.back_end.attempts[0].succeed()
        self.expect(idle=1)
        self.assertEqual([], waiter.connections)
        self.assertEqual(1, len(self.request().connections))

    def test_cancelled_while_another_waits(self) -> None:
        """The connection of a cancelled waiter goes to a queued one."""
        first, _, third = (self.request() for _ in range(3))
        self.pool.cancel(first)
        self.back_end.attempts[0].succeed()
        self.assertEqual(1, len(third.connections))

    def test_cancelled_and_failed(self) -> None:
        """The connection of a cancelled waiter may fail: no error is reported."""
        waiter = self.request()
        self.pool.cancel(waiter)
        self.back_end.attempts[0].fail()
        self.expect()
        self.assertEqual([], waiter.statuses)

    def test_raising(self) -> None:
        """An endpoint that raises is a 502 for all waiters, and the queue continues."""

        def raising(_: object) -> None:
            raise ZeroDivisionError

        self.arrange(UpstreamSettings(max_connections=1))
        waiters = [self.request() for _ in range(3)]
        self.patch(self.back_end, "connect", raising)
        self.back_end.attempts[0].fail()
        self.assertEqual(
            ([[502]] * 3, False),
            ([waiter.statuses for waiter in waiters], self.pool._serving),
        )

    def test_failing_at_once(self) -> None:
        """Many waiters of a back end that fails within the call all get a 502."""
        self.arrange(UpstreamSettings(max_connections=1, max_queued_requests=1000))
        waiters = [self.request() for _ in range(1001)]
        self.back_end.connect = refuse  # type: ignore[assignment]
        self.back_end.attempts[0].fail()
        self.assertEqual([[502]] * 1001, [waiter.statuses for waiter in waiters])


def refuse(_: IProtocolFactory) -> Deferred[IProtocol]:
    """Fail within the call, as for unix sockets when no descriptors are left."""
    return fail(ConnectError())


class Ending(PoolTestCase):
    """A connection that ends, in any state, does not count any more."""

    def test_idle(self) -> None:
        """An idle connection that ends is dropped."""
        self.idle(1)
        self.back_end.wire.lose()
        self.expect()

    def test_busy(self) -> None:
        """A busy connection that ends fails its exchange; a queued waiter gets a new one."""
        first, _, third = (self.request() for _ in range(3))
        first.connection.transport.lose(CUT)
        self.assertEqual([502], first.statuses)
        self.assertEqual(1, len(third.connections))
        self.expect(busy=2)

    def test_cancelled(self) -> None:
        """A cancelled exchange ends its connection; a queued waiter gets a new one."""
        first, _, third = (self.request() for _ in range(3))
        first.connection.cancel()
        self.assertTrue(first.connection.transport.aborted)
        self.assertEqual(1, len(third.connections))
        self.clock.advance(0)
        self.expect(busy=2)

    def test_close(self) -> None:
        """Closing ends the idle connections, and the busy ones after their exchanges."""
        self.idle(2)
        waiter = self.request()
        self.pool.close()
        self.expect(busy=1)
        self.assertEqual([True, False], [wire.disconnecting for wire in self.back_end.wires])
        self.assertEqual([], waiter.refusals)
        waiter.connection.transport.deliver(OK)
        self.assertEqual(
            ([200, b"ok", "end"], True),
            (waiter.told, waiter.connection.transport.disconnecting),
        )
        self.expect()

    def test_not_handed_over(self) -> None:
        """A connection that was closed after its response is not reused."""
        first, _, third = (self.request() for _ in range(3))
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        far.close()
        attach_socket(first.connection.transport, near)
        first.connection.transport.deliver(OK)
        self.assertIsNot(first.connection, third.connection)
        self.assertTrue(first.connection.transport.disconnecting)
        self.expect(busy=2)


class HealthUpdates(PoolTestCase):
    """Outcomes of exchanges change the health."""

    def arrange(
        self,
        settings: UpstreamSettings = UpstreamSettings(
            max_connections=3, failure_threshold=2, response_timeout=4
        ),
    ) -> None:
        super().arrange(settings)

    @property
    def state(self) -> HealthState:
        return self.pool.status().state

    def refuse(self) -> None:
        """Let a connection fail."""
        self.back_end.at_once = False
        self.request()
        self.back_end.attempts[-1].fail()
        self.back_end.at_once = True

    def test_no_connection(self) -> None:
        """A failed connection takes it down; a good exchange after the delay brings it back."""
        self.refuse()
        self.assertEqual((HealthState.DOWN, 1), (self.state, self.pool.status().failures))
        self.clock.advance(UpstreamSettings().retry_delay / 2)
        self.assertFalse(self.pool.status().due)
        self.clock.advance(UpstreamSettings().retry_delay / 2)
        self.assertEqual((HealthState.DOWN, True), (self.state, self.pool.status().due))
        self.idle(1)
        self.assertEqual((HealthState.SLOW, 1), (self.state, self.pool.status().exchanges))
        self.clock.advance(10)
        self.assertEqual(HealthState.UP, self.state)

    def test_shortage(self) -> None:
        """A connection that fails for lack of local descriptors does not change the health."""
        self.back_end.at_once = False
        waiter = self.request()
        self.back_end.attempts[-1].fail(ConnectError(errno.EMFILE, "text"))
        self.assertEqual([503], waiter.statuses)
        self.assertEqual((HealthState.UP, 0), (self.state, self.pool.status().failures))

    def test_not_verified(self) -> None:
        """A failed handshake takes it down."""
        self.back_end = BackEnd(self.clock, tls=True)
        self.arrange()
        self.request()
        self.back_end.wire.lose(CUT)
        self.assertEqual(HealthState.DOWN, self.state)

    def test_late_connection(self) -> None:
        """A connect timeout takes it down."""
        self.back_end.at_once = False
        self.request()
        self.clock.advance(5)
        self.assertEqual(HealthState.DOWN, self.state)

    def test_late_answers(self) -> None:
        """Missing responses take it down if there are enough of them in a row."""
        self.request()
        self.clock.advance(4)
        self.assertEqual(HealthState.UP, self.state)
        self.request()
        self.clock.advance(4)
        self.assertEqual((HealthState.DOWN, 2), (self.state, self.pool.status().failures))
        self.assertEqual("timed out waiting for the back end", self.pool.status().last_error)

    def test_bad_answers(self) -> None:
        """So do malformed and truncated responses; a good exchange resets the count."""
        for bad in (b"SMTP\r\n", OK, b"SMTP\r\n"):
            self.request().connection.transport.deliver(bad)
        self.assertEqual(HealthState.UP, self.state)
        self.request().connection.transport.lose(CUT)
        self.assertEqual(HealthState.DOWN, self.state)

    def test_client_that_leaves(self) -> None:
        """A client that leaves does not change the health."""
        for _ in range(3):
            self.request().connection.cancel()
        self.clock.advance(0)
        self.assertEqual(
            (HealthState.UP, 0, 0),
            (self.state, self.pool.status().failures, self.pool.status().exchanges),
        )

    def test_connections_from_before(self) -> None:
        """When it goes down, older connections are not reused, nor count as good."""
        self.back_end.at_once = False
        self.request()
        self.back_end.at_once = True
        busy = self.request()
        self.request().connection.transport.deliver(OK)
        self.expect(busy=1, idle=1, opening=1)
        self.clock.advance(0.25)
        self.back_end.attempts[0].fail()
        self.expect(busy=1)
        self.assertEqual([False, False, True], [wire.disconnecting for wire in self.back_end.wires])
        busy.connection.transport.deliver(OK)
        self.assertEqual(
            ([200, b"ok", "end"], True), (busy.told, busy.connection.transport.disconnecting)
        )
        self.assertEqual(HealthState.DOWN, self.state)
        self.expect()

    def test_connection_on_its_way(self) -> None:
        """A connection that was opening when it went down serves only its own waiter."""
        self.back_end.at_once = False
        first, second = self.request(), self.request()
        self.clock.advance(0.25)
        self.back_end.attempts[0].fail()
        wire = self.back_end.attempts[1].succeed()
        wire.deliver(OK)
        self.assertEqual(
            ([502], [200, b"ok", "end"], True), (first.statuses, second.told, wire.disconnecting)
        )
        self.expect()

    def test_expired(self) -> None:
        """A connection that expires is replaced for a queued waiter."""
        self.arrange(UpstreamSettings(max_connections=1, max_connection_age=2, read_timeout=60))
        first, second = self.request(), self.request()
        self.clock.advance(3)
        first.connection.transport.deliver(OK)
        self.assertEqual(
            (True, 1), (first.connection.transport.disconnecting, len(second.connections))
        )
        self.assertIsNot(first.connection, second.connection)

    def test_status(self) -> None:
        """The status has the numbers, and the times in the time of day."""
        self.idle(1)
        self.back_end.at_once = False
        for _ in range(5):
            self.request()
        self.patch(time, "time", lambda: 1000.0)
        found = self.pool.status()
        self.assertEqual(
            ("http://127.0.0.1:8080", HealthState.UP, 1000.0),
            (found.name, found.state, found.since),
        )
        self.assertEqual((1, 0, 2, 2), (found.busy, found.idle, found.opening, found.waiting))
        self.assertEqual(
            (1, 0, "", None), (found.exchanges, found.failures, found.last_error, found.last_check)
        )


class Checked(PoolTestCase):
    """A back end with checks."""

    health: HealthSettings | None = HealthSettings(path="/health")

    def test_until_closed(self) -> None:
        """The checks begin with the pool's start, update its health, and end with its close."""
        self.clock.advance(0)
        self.assertEqual([], self.back_end.attempts)
        self.pool.start()
        self.clock.advance(0)
        self.back_end.wire.deliver(OK.replace(b"200", b"500"))
        status = self.pool.status()
        self.assertEqual(
            (HealthState.DOWN, "check: found status 500, expected 200"),
            (status.state, status.last_error),
        )
        self.assertIsNotNone(status.last_check)
        self.back_end.wire.lose()
        self.pool.close()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_connections_from_before(self) -> None:
        """A failed check that takes it down closes the idle connections too."""
        self.idle(1)
        self.pool.start()
        self.clock.advance(0)
        self.back_end.wires[1].deliver(OK.replace(b"200", b"500"))
        self.assertTrue(self.back_end.wires[0].disconnecting)
        self.expect()

    def test_none(self) -> None:
        """Without checks nothing is started."""
        self.health = None
        self.arrange()
        self.pool.start()
        self.clock.advance(60)
        self.assertEqual([], self.back_end.attempts)


class _Broken(RecordingWaiter):
    """A waiter that raises in its first call of a kind."""

    def __init__(self, call: str) -> None:
        super().__init__()
        self.raises = {call}

    def fail(self, call: str) -> None:
        if call in self.raises:
            self.raises.clear()
            raise ZeroDivisionError

    def connected(self, connection: Connection) -> None:
        self.fail("connected")
        super().connected(connection)

    def not_connected(self, refusal: ErrorResponse) -> None:
        self.fail("not_connected")
        super().not_connected(refusal)


class Exceptions(PoolTestCase):
    """After an exception each waiter is told once, and no place is lost (invariant L3)."""

    def expect_logged(self) -> None:
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_lending(self) -> None:
        """A connection whose waiter raises is closed, and the waiter is told."""
        waiter = _Broken("connected")
        self.pool.acquire(waiter)
        self.assertEqual(([502], True), (waiter.statuses, self.back_end.wire.aborted))
        self.expect()
        self.expect_logged()

    def test_opening(self) -> None:
        """A connection that cannot be opened takes no place."""
        for streams in (False, True):
            with patch.object(Connection, "open", side_effect=ZeroDivisionError):
                waiter = RecordingWaiter(streams=streams)
                self.assertRaises(ZeroDivisionError, self.pool.acquire, waiter)
            self.expect()
            self.assertTrue(self.pool.has_room(waiter))

    def test_queue(self) -> None:
        """A waiter in the queue is told if its connection cannot be opened."""
        first, _ = self.request(), self.request()
        third = self.request()
        with patch.object(Connection, "open", side_effect=ZeroDivisionError):
            first.connection.transport.lose()
        self.assertEqual([502], third.statuses)
        self.expect(busy=1)
        self.expect_logged()

    def test_time_out(self) -> None:
        """A waiter that raises when its time is up is told again, and is not served any more."""
        first, _ = self.request(), self.request()
        waiter = _Broken("not_connected")
        self.pool.acquire(waiter)
        self.clock.advance(5)
        self.clock.advance(0)
        self.expect(busy=2)
        first.connection.transport.deliver(OK)
        self.assertEqual(([], []), (waiter.statuses, waiter.connections))
        self.clock.pump([0.25] * 4)
        self.assertEqual([503], waiter.statuses)
        self.expect_logged()

    def test_failed(self) -> None:
        """A waiter that raises when no connection can be made is told at the deadline."""
        self.back_end.at_once = False
        waiter = _Broken("not_connected")
        self.pool.acquire(waiter)
        self.back_end.attempts[0].fail()
        self.assertEqual([], waiter.statuses)
        self.expect_logged()
        self.clock.advance(5)
        self.clock.pump([0.25] * 4)
        self.assertEqual([504], waiter.statuses)
        self.expect()
