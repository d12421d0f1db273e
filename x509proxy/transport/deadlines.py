"""Deadlines of many waiters, checked by one coarse timer.

A ``callLater`` for each wait would be created and cancelled at each request. Here a wait costs one
assignment to ``deadline``, and all deadlines are checked a few times a second.

Facts
-----
* Twisted's reactors use the time of day, which can be set. A step ahead would expire all waits at
  once, and a step back would expire none until the clock catches up. So deadlines use the monotonic
  clock. The checks are the reactor's timers, which a step back delays too: the next waiter restarts
  an overdue timer.
* The reactor calls timers before it reads sockets. A waiter whose deadline has passed gets one more
  turn of the reactor. So a back end whose response is already in the socket is not blamed for a
  long turn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

__all__ = ["NEVER", "Deadlines", "HasDeadline"]

NEVER = math.inf
_MAX_DELAY = 1.0  # seconds; a busy reactor delays its timers by less


class HasDeadline(Protocol):
    """An object that must not wait for ever.

    ``deadline``: in the clock's seconds, ``NEVER`` while it waits for nothing.
    """

    deadline: float

    def expired(self) -> None:
        """Handle a deadline that has passed.

        It is called at each check until ``deadline`` is changed or the waiter is forgotten.
        """


@implementer(IReactorTime)
class _MonotonicClock:
    """A reactor's timers with the monotonic clock."""

    seconds = staticmethod(time.monotonic)

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def callLater(
        self,
        delay: float,
        callable: Any,  # noqa: A002 - IReactorTime
        *args: object,
        **kwargs: object,
    ) -> IDelayedCall:
        call: IDelayedCall = self._reactor.callLater(delay, callable, *args, **kwargs)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        calls: Sequence[IDelayedCall] = self._reactor.getDelayedCalls()
        return calls


class Deadlines:
    """The waiters of one reactor. ``expired`` is called within ``resolution`` seconds, never early.

    ``clock``: the clock of all deadlines. Of a reactor that uses the time of day, only the timers
    are used.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, resolution: float = 0.25) -> None:
        self.clock: IReactorTime = _MonotonicClock(clock) if clock.seconds is time.time else clock
        self._resolution = resolution
        self._waiters: dict[HasDeadline, None] = {}
        self._call: IDelayedCall | None = None
        self._next_check = 0.0

    def watch(self, waiter: HasDeadline) -> None:
        """Begin to check the deadline of ``waiter``."""
        self._waiters[waiter] = None
        if self._call is not None and self.clock.seconds() > self._next_check + _MAX_DELAY:
            self._call.cancel()
            self._call = None
        if self._call is None:
            self._schedule_check()

    def forget(self, waiter: HasDeadline) -> None:
        """Stop checking ``waiter``. To forget one that is not watched is no error."""
        self._waiters.pop(waiter, None)
        if not self._waiters and self._call is not None:
            self._call.cancel()
            self._call = None

    def _schedule_check(self) -> None:
        self._next_check = self.clock.seconds() + self._resolution
        self._call = self.clock.callLater(self._resolution, self._check)

    def _check(self) -> None:
        self._next_check = now = self.clock.seconds()
        if any(waiter.deadline <= now for waiter in self._waiters):
            self._call = self.clock.callLater(0, self._expire_late)
        else:
            self._schedule_check()

    def _expire_late(self) -> None:
        self._schedule_check()
        now = self.clock.seconds()
        for waiter in [waiter for waiter in self._waiters if waiter.deadline <= now]:
            # Checked again: an earlier waiter may have forgotten it, or changed its deadline.
            if waiter.deadline <= now and waiter in self._waiters:
                self._expire(waiter)

    def _expire(self, waiter: HasDeadline) -> None:
        try:
            waiter.expired()
        except Exception:
            # A waiter that fails must not affect the deadlines of the others.
            self._log.failure("cannot handle an expired deadline")
