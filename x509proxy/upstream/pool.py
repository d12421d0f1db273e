"""Pool of connections to one back end: last in, first out, with a bounded queue and wait.

:func:`plan` decides without I/O; :class:`Pool` does it.
"""

from __future__ import annotations

import enum
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import attrs
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger

from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.monitoring.backend_status import HealthState, PoolStatus
from x509proxy.settings import Backend, HealthSettings, UpstreamSettings
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.connection import Connection
from x509proxy.upstream.health_checks import Checks
from x509proxy.upstream.health_tracker import BackendHealth

__all__ = ["ConnectionWaiter", "Pool", "Step", "plan"]


# Seconds between two searches for clients that do not read, while a request waits.
_CHECK_INTERVAL = 0.5
_INTERNAL_ERROR = ErrorResponse(Code.INTERNAL_ERROR, "internal error")
_SLOW_CLIENT = ErrorResponse(
    Code.SLOW_CLIENT, "the client does not read while other requests wait for a connection"
)


class Step(enum.Enum):
    """Decision for a request that needs a connection while none is idle."""

    OPEN = "open"
    WAIT = "wait"
    REJECT = "reject"


def plan(connections: int, waiting: int, settings: UpstreamSettings) -> Step:
    """Return the next step.

    :param connections: the number of connections, opening ones included.
    :param waiting: the length of the queue.
    """
    if connections < settings.max_connections:
        return Step.OPEN
    return Step.WAIT if waiting < settings.max_queued_requests else Step.REJECT


class ConnectionWaiter(Protocol):
    """A request that needs a connection for one exchange.

    ``streams``: true if its client is still sending the body, at its own speed.
    """

    @property
    def streams(self) -> bool: ...
    def connected(self, connection: Connection) -> None: ...
    def not_connected(self, error: ErrorResponse) -> None: ...


class _QueueEntry:
    """Entry of the queue.

    ``end``: the time when it gives up; ``deadline``: the time of its next search for a connection.
    """

    def __init__(
        self, waiter: ConnectionWaiter, end: float, check: Callable[[_QueueEntry], None]
    ) -> None:
        self.waiter = waiter
        self.end = end
        self.deadline = 0.0
        self._check = check

    def expired(self) -> None:
        self._check(self)


class Pool:
    """The connections to one back end, and its health.

    A request leaves the queue, and a connection leaves its set, in the call that puts it elsewhere.
    So an exception loses neither: what was not done is done when a deadline passes.

    ``exchanges``: the number of good exchanges. ``turn``: the number of its last turn
    among several pools. ``name``: its address, for the record of exchanges. ``health``: the
    settings of its checks, which begin with :meth:`start`.
    """

    def __init__(
        self,
        backend: Backend,
        endpoint: IStreamClientEndpoint,
        deadlines: Deadlines,
        settings: UpstreamSettings,
        health: HealthSettings | None = None,
    ) -> None:
        self.backend = backend
        self.name = str(backend)
        self.record = BackendHealth(backend, deadlines.clock, settings, health)
        self.turn = 0
        self.exchanges = 0
        self.settings = settings
        self.deadlines = deadlines
        self._endpoint = endpoint
        self._idle: list[Connection] = []
        self._opening: dict[Connection, ConnectionWaiter | None] = {}
        self._busy: set[Connection] = set()
        # Lent to streamed uploads, or being opened for them. They may hold at most half of the
        # pool, so that slow clients cannot starve complete requests.
        self._uploads: set[Connection] = set()
        self._max_uploads = max(1, settings.max_connections // 2)
        # The same bound for clients that do not read; at least one connection is left for others.
        self._max_unread = settings.max_connections // 2
        self._waiting: deque[_QueueEntry] = deque()
        self._serving = False
        self._closed = False
        self._checks = (
            None if health is None else Checks(backend, endpoint, deadlines, health, self._checked)
        )

    _log = Logger()

    def __repr__(self) -> str:
        return (
            f"<Pool {self.backend} busy={len(self._busy)} idle={len(self._idle)} "
            f"opening={len(self._opening)} waiting={len(self._waiting)}>"
        )

    @property
    def load(self) -> int:
        """The number of exchanges, waiting ones included."""
        return len(self._busy) + len(self._opening) + len(self._waiting)

    def status(self) -> PoolStatus:
        """Return the current status."""
        return attrs.evolve(
            self.record.status(time.time()),
            exchanges=self.exchanges,
            busy=len(self._busy),
            idle=len(self._idle),
            opening=len(self._opening),
            waiting=len(self._waiting),
        )

    def start(self) -> None:
        """Begin the checks, if there are any, until :meth:`close`."""
        if self._checks is not None:
            self._checks.start()

    def has_room(self, waiter: ConnectionWaiter) -> bool:
        """Return true if ``waiter`` would get a connection without waiting for another exchange."""
        return (bool(self._idle) or self._may_open()) and self._may_upload(waiter)

    def acquire(self, waiter: ConnectionWaiter) -> None:
        """Give ``waiter`` a connection, now or later, or an error."""
        if waiter.streams and not self._may_upload(waiter):
            self._queue_upload(waiter)
            return
        while self._idle:
            if self._idle[-1].is_open():
                self._lend(self._idle[-1], waiter)
                return
            self._idle[-1].close()
        count = len(self._busy) + len(self._opening)
        if count >= self.settings.max_connections:
            self._free_unread()
            count = len(self._busy) + len(self._opening)
        match plan(count, len(self._waiting), self.settings):
            case Step.OPEN:
                self._open(waiter)
            case Step.WAIT:
                self._enqueue(waiter)
            case _:
                waiter.not_connected(
                    ErrorResponse(Code.QUEUE_FULL, "the queue for the back end is full")
                )

    def uploaded(self, connection: Connection) -> None:
        """Record that the upload on ``connection`` is complete; another upload may begin."""
        self._uploads.discard(connection)
        self._serve_queue()

    def cancel(self, waiter: ConnectionWaiter) -> None:
        """Remove ``waiter``. A connection that is being opened for it is kept for the next."""
        for entry in [entry for entry in self._waiting if entry.waiter is waiter]:
            self._leave_queue(entry)
        for connection, other in self._opening.items():
            if other is waiter:
                self._opening[connection] = None

    # A connection reports.

    def opened(self, connection: Connection) -> None:
        """Lend the new connection, or keep it."""
        waiter = self._opening[connection]
        if waiter is not None:
            self._lend(connection, waiter)
            return
        del self._opening[connection]
        if connection.expires > self.deadlines.clock.seconds():
            self.release(connection)
        else:
            connection.close()

    def failed(self, connection: Connection, error: ErrorResponse) -> None:
        """Report the error to the waiter; not one byte of its request has been sent."""
        waiter = self._opening.get(connection)
        if error.code is not Code.OUT_OF_RESOURCES:
            self._update_health(self.record.failed, connection.begun_at, error.detail)
        if waiter is not None:
            waiter.not_connected(error)
        self._opening.pop(connection, None)
        self._uploads.discard(connection)
        self._serve_queue()

    def served(self, connection: Connection) -> None:
        """Record a good exchange."""
        self.exchanges += 1
        if not self.record.spotless:
            self.record.served(connection.begun_at)

    def faulted(self, connection: Connection, error: ErrorResponse) -> None:
        """Record an exchange that failed through no fault of the client."""
        self._update_health(self.record.faulted, connection.begun_at, error.detail)

    def release(self, connection: Connection) -> None:
        """Take back a reusable connection whose exchange has ended."""
        self._busy.discard(connection)
        if self._uploads:
            self._uploads.discard(connection)
        connection.mark_idle()
        self._idle.append(connection)
        if self._waiting:
            self._serve_queue()
        if self._closed:
            self._close_idle()

    def lost(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        self._busy.discard(connection)
        self._uploads.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._serve_queue()

    def close(self) -> None:
        """Stop the checks, close the idle connections, and each other one after its exchange."""
        self._closed = True
        if self._checks is not None:
            self._checks.stop()
        self._close_idle()

    # Inside.

    def _checked(self, reason: str) -> None:
        self._update_health(self.record.checked, reason)

    def _update_health(self, update: Callable[..., None], *arguments: object) -> None:
        """Update the health; if the back end goes down, reuse no connection from before.

        Older connections show nothing about the state of the back end after that.
        """
        was_down = self.record.health.state is HealthState.DOWN
        update(*arguments)
        if self.record.health.state is HealthState.DOWN and not was_down:
            for connection in (*self._busy, *self._opening):
                connection.retire()
            self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle[-1].close()

    def _lend(self, connection: Connection, waiter: ConnectionWaiter) -> None:
        """Lend a new connection, or the last idle one; an exception ends both (L3)."""
        if connection in self._opening:
            del self._opening[connection]
        else:
            self._idle.pop()
        self._busy.add(connection)
        try:
            if waiter.streams:
                self._uploads.add(connection)
            waiter.connected(connection)
        except Exception:
            self._log.failure("a connection could not be lent")
            connection.cancel()
            waiter.not_connected(_INTERNAL_ERROR)

    def _open(self, waiter: ConnectionWaiter) -> None:
        connection = Connection(self, self._endpoint)
        self._opening[connection] = waiter
        if waiter.streams:
            self._uploads.add(connection)
        try:
            connection.open()
        except Exception:
            del self._opening[connection]
            self._uploads.discard(connection)
            raise

    def _queue_upload(self, waiter: ConnectionWaiter) -> None:
        """Queue an upload until another one ends; uploads may fill half of the queue."""
        if plan(self.settings.max_connections, 2 * len(self._waiting), self.settings) is Step.WAIT:
            self._enqueue(waiter)
        else:
            waiter.not_connected(
                ErrorResponse(Code.UPLOADS_FULL, "too many uploads to the back end")
            )

    def _free_unread(self) -> None:
        """Free the connection whose client has not read for longest.

        This happens only if more than half of the pool is lent to clients that do not read. It
        happens at once: with a second of grace, 320 such clients held all connections all the time.
        """
        unread = [connection for connection in self._busy if connection.paused_at < math.inf]
        if len(unread) > self._max_unread:
            min(unread, key=lambda connection: connection.paused_at).give_up(_SLOW_CLIENT)

    def _enqueue(self, waiter: ConnectionWaiter) -> None:
        now = self.deadlines.clock.seconds()
        entry = _QueueEntry(waiter, now + self.settings.queue_timeout, self._recheck)
        self._waiting.append(entry)
        self._schedule_check(entry, now)
        self.deadlines.watch(entry)

    def _schedule_check(self, entry: _QueueEntry, now: float) -> None:
        entry.deadline = min(entry.end, now + _CHECK_INTERVAL)

    def _recheck(self, entry: _QueueEntry) -> None:
        """Reject an entry that has waited too long; otherwise search for clients that do not read.

        A connection that is freed goes to the first entry in the queue.
        """
        now = self.deadlines.clock.seconds()
        if entry.end <= now:
            self._time_out(entry)
        else:
            self._schedule_check(entry, now)
            if self._next_entry() is not None:
                self._free_unread()

    def _serve_queue(self) -> None:
        """Give free capacity to the queue.

        An attempt that fails at once calls ``failed``, and so this method again, without nesting.
        """
        if self._serving:
            return
        self._serving = True
        try:
            while (entry := self._next_entry()) is not None and (self._idle or self._may_open()):
                self._serve_entry(entry)
        finally:
            self._serving = False

    def _serve_entry(self, entry: _QueueEntry) -> None:
        """Take an entry from the queue and serve it, or report an exception to it (L3)."""
        self._leave_queue(entry)
        try:
            self.acquire(entry.waiter)
        except Exception:
            self._log.failure("a request in the queue could not be served")
            self.cancel(entry.waiter)
            entry.waiter.not_connected(_INTERNAL_ERROR)

    def _may_upload(self, waiter: ConnectionWaiter) -> bool:
        return not waiter.streams or len(self._uploads) < self._max_uploads

    def _may_open(self) -> bool:
        return len(self._busy) + len(self._opening) < self.settings.max_connections

    def _next_entry(self) -> _QueueEntry | None:
        """Return the oldest entry that may have a connection."""
        may_upload = len(self._uploads) < self._max_uploads
        return next(
            (entry for entry in self._waiting if may_upload or not entry.waiter.streams), None
        )

    def _leave_queue(self, entry: _QueueEntry) -> None:
        self._waiting.remove(entry)
        self.deadlines.forget(entry)

    def _time_out(self, entry: _QueueEntry) -> None:
        """Reject an entry. Its deadline is checked until that is done, and it is never served."""
        if entry in self._waiting:
            self._waiting.remove(entry)
        entry.waiter.not_connected(
            ErrorResponse(Code.QUEUE_TIMEOUT, "no connection to the back end became free in time")
        )
        self.deadlines.forget(entry)
