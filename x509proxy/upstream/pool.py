"""The connections to one back end: decide, then do. LIFO, with a maximum, a bounded wait, and no connection used too old."""

from __future__ import annotations

import enum
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import attrs
from twisted.internet.interfaces import IStreamClientEndpoint

from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.monitoring.backend_status import BackendState, PoolStatus
from x509proxy.settings import Backend, HealthSettings, UpstreamSettings
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.connection import Connection
from x509proxy.upstream.health_checks import Checks
from x509proxy.upstream.health_tracker import BackendHealth

__all__ = ["ConnectionWaiter", "Pool", "Step", "plan"]


# Seconds for which a client may have read nothing without being cut for one who waits, and between two looks for such clients.
_BEHIND = 1.0
_LOOK = 0.5
_SLOW_CLIENT = ErrorResponse(
    Code.SLOW_CLIENT, "the client does not read while others wait for the connection"
)


class Step(enum.Enum):
    """What to do for one who asks for a connection, where none is idle."""

    OPEN = "open"
    WAIT = "wait"
    REFUSE = "refuse"


def plan(connections: int, waiting: int, settings: UpstreamSettings) -> Step:
    """The next step, by how many connections there are (opening ones included), and how many are waited for."""
    if connections < settings.max_connections:
        return Step.OPEN
    return Step.WAIT if waiting < settings.max_queued_requests else Step.REFUSE


class ConnectionWaiter(Protocol):
    """Who needs a connection, for one exchange. ``streams``: its client is still sending the body, as slowly as it likes."""

    @property
    def streams(self) -> bool: ...
    def connected(self, connection: Connection) -> None: ...
    def not_connected(self, error: ErrorResponse) -> None: ...


class _Waiting:
    """One in the queue. ``end``: when it gives up; ``deadline``: when it looks for room again."""

    def __init__(
        self, asker: ConnectionWaiter, end: float, look: Callable[[_Waiting], None]
    ) -> None:
        self.asker = asker
        self.end = end
        self.deadline = 0.0
        self._look = look

    def expired(self) -> None:
        self._look(self)


class Pool:
    """The connections to one back end, and what is known of it.

    ``exchanges``: how many have gone well; ``turn``: when it was last chosen among several; ``name``: its address, for the
    record of exchanges. ``health``: how it is asked whether it is well, from :meth:`start` on.
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
        # Lent, or being opened, to those who stream. Half of all is for whoever has the whole of its request, or a few clients
        # that send slowly would be all that a back end sees.
        self._uploads: set[Connection] = set()
        self._most_uploads = max(1, settings.max_connections // 2)
        # Likewise for those whose clients do not read; at least one connection is for others.
        self._most_unread = settings.max_connections // 2
        self._waiting: deque[_Waiting] = deque()
        self._serving = False
        self._closed = False
        self._checks = (
            None if health is None else Checks(backend, endpoint, deadlines, health, self._checked)
        )

    def __repr__(self) -> str:
        return (
            f"<Pool {self.backend} busy={len(self._busy)} idle={len(self._idle)} "
            f"opening={len(self._opening)} waiting={len(self._waiting)}>"
        )

    @property
    def load(self) -> int:
        """How many exchanges there are, or wait to be."""
        return len(self._busy) + len(self._opening) + len(self._waiting)

    def status(self) -> PoolStatus:
        """What there is to see of it, now."""
        return attrs.evolve(
            self.record.status(time.time()),
            exchanges=self.exchanges, busy=len(self._busy), idle=len(self._idle), opening=len(self._opening), waiting=len(self._waiting),
        )  # fmt: skip

    def start(self) -> None:
        """Begin the checks, if there are any, until :meth:`close`."""
        if self._checks is not None:
            self._checks.start()

    def has_room(self, asker: ConnectionWaiter) -> bool:
        """Return true if ``asker`` would get a connection without a wait for another exchange's end."""
        return (bool(self._idle) or self._may_open()) and self._may_upload(asker)

    def acquire(self, asker: ConnectionWaiter) -> None:
        """Give ``asker`` a connection, now or later, or the reason why not."""
        if asker.streams and not self._may_upload(asker):
            self._hold_up(asker)
            return
        while self._idle:
            if self._idle[-1].is_open():
                self._lend(self._idle.pop(), asker)
                return
            self._idle[-1].close()
        taken = len(self._busy) + len(self._opening)
        if taken >= self.settings.max_connections:
            self._make_room()
            taken = len(self._busy) + len(self._opening)
        match plan(taken, len(self._waiting), self.settings):
            case Step.OPEN:
                self._open(asker)
            case Step.WAIT:
                self._wait(asker)
            case _:
                asker.not_connected(
                    ErrorResponse(Code.QUEUE_FULL, "the queue for the back end is full")
                )

    def uploaded(self, connection: Connection) -> None:
        """The body of who has this connection has come whole: the place is another upload's."""
        self._uploads.discard(connection)
        self._serve_queue()

    def cancel(self, asker: ConnectionWaiter) -> None:
        """``asker`` no longer needs one. A connection being opened for it is kept for the next."""
        for waiting in [waiting for waiting in self._waiting if waiting.asker is asker]:
            self._leave_queue(waiting)
        for connection, other in self._opening.items():
            if other is asker:
                self._opening[connection] = None

    # A connection reports.

    def opened(self, connection: Connection) -> None:
        """It can be used."""
        asker = self._opening.pop(connection)
        if asker is not None:
            self._lend(connection, asker)
        elif connection.expires > self.deadlines.clock.seconds():
            self.release(connection)
        else:
            connection.close()

    def failed(self, connection: Connection, error: ErrorResponse) -> None:
        """It could not be opened; not one byte of a request has been sent on it."""
        asker = self._opening.pop(connection)
        if error.code is not Code.OUT_OF_RESOURCES:
            self._judge(self.record.failed, connection.born, error.detail)
        self._uploads.discard(connection)
        self._serve_queue()
        if asker is not None:
            asker.not_connected(error)

    def served(self, connection: Connection) -> None:
        """Its exchange went well."""
        self.exchanges += 1
        if not self.record.spotless:
            self.record.served(connection.born)

    def faulted(self, connection: Connection, error: ErrorResponse) -> None:
        """Its exchange failed, for no reason of the client's."""
        self._judge(self.record.faulted, connection.born, error.detail)

    def release(self, connection: Connection) -> None:
        """Its exchange is over, and it is as it was before."""
        self._busy.discard(connection)
        if self._uploads:
            self._uploads.discard(connection)
        first = self._first() if self._waiting else None
        if first is not None and not connection.is_open():
            # Behind the response there is something that nothing asked for, or the end.
            connection.close()
        elif first is not None:
            self._leave_queue(first)
            self._lend(connection, first.asker)
        elif self._closed:
            connection.close()
        else:
            connection.rest()
            self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """It has ended, whatever it was doing."""
        self._busy.discard(connection)
        self._uploads.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._serve_queue()

    def close(self) -> None:
        """End the checks and the idle connections, and from now on each connection when what it does has ended."""
        self._closed = True
        if self._checks is not None:
            self._checks.stop()
        self._close_idle()

    # Inside.

    def _checked(self, reason: str) -> None:
        self._judge(self.record.checked, reason)

    def _judge(self, judge: Callable[..., None], *evidence: object) -> None:
        """If it goes down for this, no connection from before is used after it: they would say nothing of what there is then."""
        was_down = self.record.health.state is BackendState.DOWN
        judge(*evidence)
        if self.record.health.state is BackendState.DOWN and not was_down:
            for connection in (*self._busy, *self._opening):
                connection.retire()
            self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle[-1].close()

    def _lend(self, connection: Connection, asker: ConnectionWaiter) -> None:
        self._busy.add(connection)
        if asker.streams:
            self._uploads.add(connection)
        asker.connected(connection)

    def _open(self, asker: ConnectionWaiter) -> None:
        connection = Connection(self, self._endpoint)
        self._opening[connection] = asker
        if asker.streams:
            self._uploads.add(connection)
        connection.open()

    def _hold_up(self, asker: ConnectionWaiter) -> None:
        """An upload has to wait for another one's end, in half of the queue."""
        if plan(self.settings.max_connections, 2 * len(self._waiting), self.settings) is Step.WAIT:
            self._wait(asker)
        else:
            asker.not_connected(
                ErrorResponse(Code.UPLOADS_FULL, "as many uploads to the back end as there may be")
            )

    def _make_room(self) -> None:
        """Where all are lent, more than half to clients that do not read, take that of the one that is furthest behind."""
        unread = [connection for connection in self._busy if connection.paused_at < math.inf]
        if len(unread) > self._most_unread:
            last = min(unread, key=lambda connection: connection.paused_at)
            if last.paused_at + _BEHIND <= self.deadlines.clock.seconds():
                last.give_up(_SLOW_CLIENT)

    def _wait(self, asker: ConnectionWaiter) -> None:
        now = self.deadlines.clock.seconds()
        waiting = _Waiting(asker, now + self.settings.queue_timeout, self._look_again)
        self._waiting.append(waiting)
        self._look_later(waiting, now)
        self.deadlines.watch(waiting)

    def _look_later(self, waiting: _Waiting, now: float) -> None:
        waiting.deadline = min(waiting.end, now + _LOOK)

    def _look_again(self, waiting: _Waiting) -> None:
        """A client may have stopped reading since the last look. What is freed goes to the first in the queue."""
        now = self.deadlines.clock.seconds()
        if waiting.end <= now:
            self._give_up(waiting)
        else:
            self._look_later(waiting, now)
            if self._first() is not None:
                self._make_room()

    def _serve_queue(self) -> None:
        """A place has become free. What fails at once comes back here by ``failed``, and is not nested."""
        if self._serving:
            return
        self._serving = True
        try:
            while (first := self._first()) is not None and (self._idle or self._may_open()):
                self._leave_queue(first)
                self.acquire(first.asker)
        finally:
            self._serving = False

    def _may_upload(self, asker: ConnectionWaiter) -> bool:
        return not asker.streams or len(self._uploads) < self._most_uploads

    def _may_open(self) -> bool:
        return len(self._busy) + len(self._opening) < self.settings.max_connections

    def _first(self) -> _Waiting | None:
        """Who has waited longest of those who may have a connection."""
        may_upload = len(self._uploads) < self._most_uploads
        return next(
            (waiting for waiting in self._waiting if may_upload or not waiting.asker.streams), None
        )

    def _leave_queue(self, waiting: _Waiting) -> None:
        self._waiting.remove(waiting)
        self.deadlines.forget(waiting)

    def _give_up(self, waiting: _Waiting) -> None:
        self._leave_queue(waiting)
        waiting.asker.not_connected(
            ErrorResponse(Code.QUEUE_TIMEOUT, "no connection to the back end became free in time")
        )
