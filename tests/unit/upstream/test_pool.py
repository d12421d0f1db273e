"""Promises of :mod:`x509proxy.upstream.pool`: who gets which connection, who waits, for how long, and that no place is ever lost."""

from __future__ import annotations

import socket
import time
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import CUT, OK, BackEnd, RecordingWaiter
from x509proxy.monitoring.backend_status import BackendState
from x509proxy.settings import Backend, HealthSettings, UpstreamSettings
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.endpoints import PendingInput
from x509proxy.upstream.pool import Pool, Step, plan

BACKEND = Backend.parse("http://127.0.0.1:8080")


def carry(wire: Any, near: socket.socket) -> None:
    """Let a connection in memory have a real socket, so that the kernel can be asked about it."""
    wire.getHandle = lambda: near
    wire.protocol._input = PendingInput(wire)


class Planning(SynchronousTestCase):
    """The decision alone."""

    def test_table(self) -> None:
        """Open up to the maximum, wait up to the queue's end, else refuse."""
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

    def borrow(self) -> RecordingWaiter:
        """One more who asks, and sends its request as soon as it can."""
        borrower = RecordingWaiter(RecordingWaiter.ask)
        self.pool.acquire(borrower)
        return borrower

    def idle(self, number: int) -> None:
        """Let there be so many idle connections."""
        borrowers = [self.borrow() for _ in range(number)]
        for borrower in borrowers:
            borrower.connection.transport.deliver(OK)

    def expect(self, busy: int = 0, idle: int = 0, opening: int = 0, waiting: int = 0) -> None:
        self.assertEqual(
            f"<Pool http://127.0.0.1:8080 busy={busy} idle={idle} opening={opening} waiting={waiting}>",
            repr(self.pool),
        )
        self.assertEqual(busy + opening + waiting, self.pool.load)


class Uploads(PoolTestCase):
    """Whoever sends its body slowly keeps a connection for as long: half of them are for the others."""

    def arrange(
        self,
        settings: UpstreamSettings = UpstreamSettings(
            max_connections=4, max_queued_requests=4, queue_timeout=5
        ),
    ) -> None:
        super().arrange(settings)

    def upload(self) -> RecordingWaiter:
        """One more whose body is still to come, when its head has been sent."""
        borrower = RecordingWaiter(
            lambda self: self.connection.send_head(b"POST", b"POST / HTTP/1.1\r\n\r\n", self),
            streams=True,
        )
        self.pool.acquire(borrower)
        return borrower

    def end(self, upload: RecordingWaiter) -> None:
        """Its request is complete, and is answered."""
        upload.connection.body_end()
        upload.connection.transport.deliver(OK)

    def test_half(self) -> None:
        """Uploads get half of the connections, and whoever has all of its request gets one at once."""
        uploads = [self.upload() for _ in range(4)]
        self.assertEqual([1, 1, 0, 0], [len(upload.connections) for upload in uploads])
        for _ in range(2):
            self.assertEqual(1, len(self.borrow().connections))
        self.expect(busy=4, waiting=2)

    def test_opened_too_late(self) -> None:
        """A connection that nothing waits for, and that is not to be lent any more, is closed."""
        self.back_end.at_once = False
        borrower = RecordingWaiter()
        self.pool.acquire(borrower)
        (connection,) = self.pool._opening
        self.pool.cancel(borrower)
        connection.retire()
        wire = self.back_end.attempts[0].succeed()
        self.assertTrue(wire.disconnecting)
        self.expect()

    def test_opening(self) -> None:
        """Those that are being opened count; one that fails is no upload any more."""
        self.back_end.at_once = False
        uploads = [self.upload() for _ in range(3)]
        self.expect(opening=2, waiting=1)
        self.back_end.attempts[0].fail()
        self.expect(opening=2)
        self.assertEqual([502], uploads[0].statuses)

    def test_idle(self) -> None:
        """They are not given an idle one either."""
        self.idle(4)
        for _ in range(3):
            self.upload()
        self.expect(busy=2, idle=2, waiting=1)

    def test_next(self) -> None:
        """When one has been answered, the next has its connection."""
        first, _, third = (self.upload() for _ in range(3))
        self.end(first)
        self.assertEqual([first.connection], third.connections)
        self.expect(busy=2)

    def test_next_on_an_idle_one(self) -> None:
        """When one is lost, the next has an idle connection, though there are as many as there may be."""
        self.idle(4)
        first, _, third = (self.upload() for _ in range(3))
        self.borrow()
        first.connection.transport.lose()
        self.assertEqual(1, len(third.connections))
        self.expect(busy=3)

    def test_others_pass(self) -> None:
        """Who waits behind uploads that may not go on does not wait for them."""
        for _ in range(3):
            self.upload()
        first, _, third = (self.borrow() for _ in range(3))
        self.expect(busy=4, waiting=2)
        first.connection.transport.deliver(OK)
        self.assertEqual([first.connection], third.connections)
        self.expect(busy=4, waiting=1)

    def test_down(self) -> None:
        """When one cannot be connected, those that wait are not lent an idle connection that is closed for that at once."""
        self.idle(2)
        self.back_end.at_once = False
        quick = [self.borrow() for _ in range(2)]
        uploads = [self.upload() for _ in range(3)]
        for borrower in quick:
            borrower.connection.transport.deliver(OK)
        self.expect(idle=2, opening=2, waiting=1)
        self.back_end.attempts[-2].fail()
        self.assertEqual([[502], [], []], [upload.statuses for upload in uploads])
        self.assertEqual([], uploads[2].connections)
        self.expect(opening=2)

    def test_queue(self) -> None:
        """They take half of the queue too, wait there as long as others, and are refused beyond."""
        uploads = [self.upload() for _ in range(5)]
        self.assertEqual([[], [], [], [], [503]], [upload.statuses for upload in uploads])
        for _ in range(22):
            self.clock.advance(0.25)
        self.assertEqual([503], uploads[2].statuses)
        self.expect(busy=2)

    def test_only_one(self) -> None:
        """Where there is one connection, an upload may have it."""
        self.arrange(UpstreamSettings(max_connections=1))
        self.assertEqual(1, len(self.upload().connections))


class Lending(PoolTestCase):
    """A connection serves one exchange at a time."""

    def test_opened(self) -> None:
        """The first who asks gets a new connection."""
        self.back_end.at_once = False
        borrower = self.borrow()
        self.expect(opening=1)
        self.back_end.attempts[0].succeed()
        self.expect(busy=1)
        self.assertEqual(self.back_end.wire, borrower.connection.transport)

    def test_reused(self) -> None:
        """A connection whose exchange is over is used again."""
        first = self.borrow()
        self.back_end.wire.deliver(OK)
        self.expect(idle=1)
        second = self.borrow()
        self.expect(busy=1)
        self.assertIs(first.connection, second.connection)
        self.assertEqual(1, len(self.back_end.attempts))

    def test_newest_first(self) -> None:
        """Of several idle connections the one that was used last is used next."""
        first, second = self.borrow(), self.borrow()
        for borrower in (second, first):
            borrower.connection.transport.deliver(OK)
        self.expect(idle=2)
        self.assertIs(first.connection, self.borrow().connection)
        self.assertIs(second.connection, self.borrow().connection)

    def test_handed_over(self) -> None:
        """Who has waited longest gets the connection that becomes free, at once, and its own answer."""
        first, _, third, fourth = (self.borrow() for _ in range(4))
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
        """Handing over from one to the next a great many times neither nests nor opens another connection."""
        self.arrange(UpstreamSettings(max_connections=1, max_queued_requests=2000))
        borrowers = [self.borrow() for _ in range(2000)]
        for _ in borrowers:
            self.back_end.wire.deliver(OK)
        self.assertEqual([[200, b"ok", "end"]] * 2000, [borrower.told for borrower in borrowers])
        self.expect(idle=1)

    def test_dead(self) -> None:
        """Idle connections that the back end has closed, as far as the kernel knows, are passed over."""
        self.arrange(UpstreamSettings(max_connections=3))
        self.idle(3)
        far_ends = []
        for wire in self.back_end.wires[1:]:
            near, far = socket.socketpair()
            far_ends.append(far)
            self.addCleanup(near.close)
            self.addCleanup(far.close)
            carry(wire, near)
        for far in far_ends:
            far.close()
        borrower = self.borrow()
        self.assertEqual(self.back_end.wires[0], borrower.connection.transport)
        self.assertEqual([False, True, True], [wire.disconnecting for wire in self.back_end.wires])
        self.expect(busy=1)

    def test_all_dead(self) -> None:
        """If all are dead a new one is opened."""
        self.idle(1)
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        far.close()
        carry(self.back_end.wire, near)
        self.borrow()
        self.assertEqual(2, len(self.back_end.attempts))
        self.expect(busy=1)


class Waiting(PoolTestCase):
    """The queue is bounded in length and in time."""

    def test_full(self) -> None:
        """Who finds the queue full is told 503."""
        for _ in range(4):
            self.borrow()
        self.assertEqual([503], self.borrow().statuses)
        self.expect(busy=2, waiting=2)

    def test_too_long(self) -> None:
        """Who has waited too long is told 503, and its place in the queue is free."""
        borrowers = [self.borrow() for _ in range(3)]
        self.clock.advance(4.75)
        self.assertEqual([], borrowers[2].statuses)
        self.clock.advance(0.25)
        self.assertEqual([503], borrowers[2].statuses)
        self.expect(busy=2)
        self.back_end.wires[0].deliver(OK)
        self.expect(busy=1, idle=1)

    def test_served_in_time(self) -> None:
        """Who has been served is not told later that it has waited too long."""
        borrowers = [self.borrow() for _ in range(3)]
        self.back_end.wires[0].deliver(OK)
        self.clock.advance(10)
        self.assertEqual([], borrowers[2].statuses)

    def test_served_in_the_last_moment(self) -> None:
        """Who gets its place from another's deadline, in the same moment in which its own passes, is served, and no error."""
        self.arrange(UpstreamSettings(max_connections=1, response_timeout=5, queue_timeout=5))
        first, second = self.borrow(), self.borrow()
        self.clock.advance(5)
        self.assertEqual(([504], []), (first.statuses, second.statuses))
        self.expect(busy=1)

    def test_cancelled(self) -> None:
        """Who no longer needs a connection leaves the queue; the others keep their places."""
        first, _, third, fourth = (self.borrow() for _ in range(4))
        self.pool.cancel(third)
        self.expect(busy=2, waiting=1)
        first.connection.transport.deliver(OK)
        self.assertEqual(([], 1), (third.connections, len(fourth.connections)))

    def test_stranger(self) -> None:
        """Who has not asked may cancel nonetheless."""
        self.borrow()
        self.pool.cancel(RecordingWaiter())
        self.expect(busy=1)


class Opening(PoolTestCase):
    """A connection that is being opened takes a place, and gives it back."""

    def setUp(self) -> None:
        super().setUp()
        self.back_end.at_once = False

    def test_failed(self) -> None:
        """Whose connection cannot be opened is told 502, and its place is free."""
        borrower = self.borrow()
        self.back_end.attempts[0].fail()
        self.assertEqual([502], borrower.statuses)
        self.expect()

    def test_failed_for_the_queue(self) -> None:
        """A failure gives its place to who waits, with an attempt of its own."""
        borrowers = [self.borrow() for _ in range(3)]
        self.back_end.attempts[0].fail()
        self.expect(opening=2)
        self.assertEqual(3, len(self.back_end.attempts))
        self.back_end.attempts[2].succeed()
        self.assertEqual([[502], [], []], [borrower.statuses for borrower in borrowers])
        self.assertEqual(1, len(borrowers[2].connections))

    def test_cancelled(self) -> None:
        """A connection for one who no longer needs it is kept for the next."""
        borrower = self.borrow()
        self.pool.cancel(borrower)
        self.expect(opening=1)
        self.back_end.attempts[0].succeed()
        self.expect(idle=1)
        self.assertEqual([], borrower.connections)
        self.assertEqual(1, len(self.borrow().connections))

    def test_cancelled_while_another_waits(self) -> None:
        """A connection for one who no longer needs it goes to who waits."""
        first, _, third = (self.borrow() for _ in range(3))
        self.pool.cancel(first)
        self.back_end.attempts[0].succeed()
        self.assertEqual(1, len(third.connections))

    def test_cancelled_and_failed(self) -> None:
        """A connection for one who no longer needs it may fail: nobody is told, and the place is free."""
        borrower = self.borrow()
        self.pool.cancel(borrower)
        self.back_end.attempts[0].fail()
        self.expect()
        self.assertEqual([], borrower.statuses)

    def test_raising(self) -> None:
        """An end point that raises in place of failing is a 502 too, for all who wait, and the queue is not stuck."""

        def raising(_: object) -> None:
            raise ZeroDivisionError

        self.arrange(UpstreamSettings(max_connections=1))
        borrowers = [self.borrow() for _ in range(3)]
        self.patch(self.back_end, "connect", raising)
        self.back_end.attempts[0].fail()
        self.assertEqual(
            ([[502]] * 3, False),
            ([borrower.statuses for borrower in borrowers], self.pool._serving),
        )

    def test_failing_at_once(self) -> None:
        """A great many who wait for a back end that can no longer be connected to, even within the call, are all told 502."""
        self.arrange(UpstreamSettings(max_connections=1, max_queued_requests=1000))
        borrowers = [self.borrow() for _ in range(1001)]
        self.back_end.connect = refuse  # type: ignore[assignment]
        self.back_end.attempts[0].fail()
        self.assertEqual([[502]] * 1001, [borrower.statuses for borrower in borrowers])


def refuse(_: IProtocolFactory) -> Deferred[IProtocol]:
    """What an end point does that fails within the call, as for unix sockets when there are no files left."""
    return fail(ConnectError())


class Ending(PoolTestCase):
    """A connection that ends, whatever it was doing, gives its place back."""

    def test_idle(self) -> None:
        """An idle connection that ends is forgotten."""
        self.idle(1)
        self.back_end.wire.lose()
        self.expect()

    def test_busy(self) -> None:
        """A busy connection that ends fails its exchange, and who waits gets a new one."""
        first, _, third = (self.borrow() for _ in range(3))
        first.connection.transport.lose(CUT)
        self.assertEqual([502], first.statuses)
        self.assertEqual(1, len(third.connections))
        self.expect(busy=2)

    def test_cancelled(self) -> None:
        """An exchange that is called off costs its connection, and who waits gets a new one."""
        first, _, third = (self.borrow() for _ in range(3))
        first.connection.cancel()
        self.assertTrue(first.connection.transport.aborted)
        self.assertEqual(1, len(third.connections))
        self.clock.advance(0)
        self.expect(busy=2)

    def test_close(self) -> None:
        """Closing ends the idle connections, and lets the busy ones go on."""
        self.idle(2)
        borrower = self.borrow()
        self.pool.close()
        self.expect(busy=1)
        self.assertEqual([True, False], [wire.disconnecting for wire in self.back_end.wires])
        self.assertEqual([], borrower.refusals)
        borrower.connection.transport.deliver(OK)
        self.assertEqual(
            ([200, b"ok", "end"], True),
            (borrower.told, borrower.connection.transport.disconnecting),
        )
        self.expect()

    def test_not_handed_over(self) -> None:
        """A connection that has been closed behind its answer goes to nobody: who waits gets a new one."""
        first, _, third = (self.borrow() for _ in range(3))
        near, far = socket.socketpair()
        self.addCleanup(near.close)
        far.close()
        carry(first.connection.transport, near)
        first.connection.transport.deliver(OK)
        self.assertIsNot(first.connection, third.connection)
        self.assertTrue(first.connection.transport.disconnecting)
        self.expect(busy=2)


class Wellness(PoolTestCase):
    """What exchanges tell of a back end."""

    def arrange(
        self,
        settings: UpstreamSettings = UpstreamSettings(
            max_connections=3, failure_threshold=2, response_timeout=4
        ),
    ) -> None:
        super().arrange(settings)

    @property
    def state(self) -> BackendState:
        return self.pool.status().state

    def refuse(self) -> None:
        """A connection that is not to be had."""
        self.back_end.at_once = False
        self.borrow()
        self.back_end.attempts[-1].fail()
        self.back_end.at_once = True

    def test_no_connection(self) -> None:
        """One connection that fails takes it down; after the retry-delay it is due, and one answer on a later one brings it back."""
        self.refuse()
        self.assertEqual((BackendState.DOWN, 1), (self.state, self.pool.status().failures))
        self.clock.advance(UpstreamSettings().retry_delay / 2)
        self.assertFalse(self.pool.status().due)
        self.clock.advance(UpstreamSettings().retry_delay / 2)
        self.assertEqual((BackendState.DOWN, True), (self.state, self.pool.status().due))
        self.idle(1)
        self.assertEqual((BackendState.SLOW, 1), (self.state, self.pool.status().exchanges))
        self.clock.advance(10)
        self.assertEqual(BackendState.UP, self.state)

    def test_not_verified(self) -> None:
        """So does a handshake that fails."""
        self.back_end = BackEnd(self.clock, tls=True)
        self.arrange()
        self.borrow()
        self.back_end.wire.lose(CUT)
        self.assertEqual(BackendState.DOWN, self.state)

    def test_late_connection(self) -> None:
        """So does one that takes too long."""
        self.back_end.at_once = False
        self.borrow()
        self.clock.advance(5)
        self.assertEqual(BackendState.DOWN, self.state)

    def test_late_answers(self) -> None:
        """Answers that do not come do so if there are enough of them in a row."""
        self.borrow()
        self.clock.advance(4)
        self.assertEqual(BackendState.UP, self.state)
        self.borrow()
        self.clock.advance(4)
        self.assertEqual((BackendState.DOWN, 2), (self.state, self.pool.status().failures))
        self.assertEqual("timed out waiting for the back end", self.pool.status().last_error)

    def test_bad_answers(self) -> None:
        """Likewise answers that are malformed, or cut short; a good one in between takes the count back."""
        for bad in (b"SMTP\r\n", OK, b"SMTP\r\n"):
            self.borrow().connection.transport.deliver(bad)
        self.assertEqual(BackendState.UP, self.state)
        self.borrow().connection.transport.lose(CUT)
        self.assertEqual(BackendState.DOWN, self.state)

    def test_client_that_leaves(self) -> None:
        """A client that does not wait for its answer says nothing of the back end."""
        for _ in range(3):
            self.borrow().connection.cancel()
        self.clock.advance(0)
        self.assertEqual(
            (BackendState.UP, 0, 0),
            (self.state, self.pool.status().failures, self.pool.status().exchanges),
        )

    def test_connections_from_before(self) -> None:
        """When it goes down the idle connections are closed, and none that was busy is used again, nor says that it is well."""
        self.back_end.at_once = False
        self.borrow()
        self.back_end.at_once = True
        busy = self.borrow()
        self.borrow().connection.transport.deliver(OK)
        self.expect(busy=1, idle=1, opening=1)
        self.clock.advance(0.25)
        self.back_end.attempts[0].fail()
        self.expect(busy=1)
        self.assertEqual([False, False, True], [wire.disconnecting for wire in self.back_end.wires])
        busy.connection.transport.deliver(OK)
        self.assertEqual(
            ([200, b"ok", "end"], True), (busy.told, busy.connection.transport.disconnecting)
        )
        self.assertEqual(BackendState.DOWN, self.state)
        self.expect()

    def test_connection_on_its_way(self) -> None:
        """One that was being opened when it went down serves who asked for it, and nobody else."""
        self.back_end.at_once = False
        first, second = self.borrow(), self.borrow()
        self.clock.advance(0.25)
        self.back_end.attempts[0].fail()
        wire = self.back_end.attempts[1].succeed()
        wire.deliver(OK)
        self.assertEqual(
            ([502], [200, b"ok", "end"], True), (first.statuses, second.told, wire.disconnecting)
        )
        self.expect()

    def test_who_waits(self) -> None:
        """A connection that is not used again makes room for who waits."""
        self.arrange(UpstreamSettings(max_connections=1, max_connection_age=2, read_timeout=60))
        first, second = self.borrow(), self.borrow()
        self.clock.advance(3)
        first.connection.transport.deliver(OK)
        self.assertEqual(
            (True, 1), (first.connection.transport.disconnecting, len(second.connections))
        )
        self.assertIsNot(first.connection, second.connection)

    def test_status(self) -> None:
        """What it does can be seen, and since when, by the time of day."""
        self.idle(1)
        self.back_end.at_once = False
        for _ in range(5):
            self.borrow()
        self.patch(time, "time", lambda: 1000.0)
        found = self.pool.status()
        self.assertEqual(
            ("http://127.0.0.1:8080", BackendState.UP, 1000.0),
            (found.name, found.state, found.since),
        )
        self.assertEqual((1, 0, 2, 2), (found.busy, found.idle, found.opening, found.waiting))
        self.assertEqual(
            (1, 0, "", None), (found.exchanges, found.failures, found.last_error, found.last_check)
        )


class Checked(PoolTestCase):
    """A back end that is asked whether it is well."""

    health: HealthSettings | None = HealthSettings(path="/health")

    def test_until_closed(self) -> None:
        """The checks begin with the pool's start, tell of the back end, and end with its close."""
        self.clock.advance(0)
        self.assertEqual([], self.back_end.attempts)
        self.pool.start()
        self.clock.advance(0)
        self.back_end.wire.deliver(OK.replace(b"200", b"500"))
        status = self.pool.status()
        self.assertEqual(
            (BackendState.DOWN, "check: found status 500, expected 200"),
            (status.state, status.last_error),
        )
        self.assertIsNotNone(status.last_check)
        self.back_end.wire.lose()
        self.pool.close()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_connections_from_before(self) -> None:
        """A check that takes it down closes the idle connections too."""
        self.idle(1)
        self.pool.start()
        self.clock.advance(0)
        self.back_end.wires[1].deliver(OK.replace(b"200", b"500"))
        self.assertTrue(self.back_end.wires[0].disconnecting)
        self.expect()

    def test_none(self) -> None:
        """Without checks there is nothing to start."""
        self.health = None
        self.arrange()
        self.pool.start()
        self.clock.advance(60)
        self.assertEqual([], self.back_end.attempts)
