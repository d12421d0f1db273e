"""One coarse timer for everything that waits: whoever has outlived its deadline is told so.

A ``callLater`` for each wait would be made and cancelled at each request; here a wait costs one assignment to ``deadline``, and
everybody is looked at a few times a second.

Facts
-----
* Twisted's reactors go by the time of day, which somebody may set. With it, a step ahead would end all waits at once, and a step
  back would none for as long. The looks are the reactor's timers, which such a step holds up too: whoever comes sets them right.
* The reactor calls timers before it reads sockets. A waiter whose deadline has passed gets one turn of the reactor more: a back
  end whose response is in the socket already is not blamed for a turn that took long.
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
_LATE = 1.0  # seconds; a reactor that has much to do is late by less


class HasDeadline(Protocol):
    """Something that must not wait for ever. ``deadline``: in the clock's seconds, ``NEVER`` while it waits for nothing."""

    deadline: float

    def expired(self) -> None:
        """The deadline has passed. It is called again at each look until ``deadline`` is set anew, or the waiter forgotten."""


@implementer(IReactorTime)
class _Steady:
    """A reactor's timers, and a clock that nobody sets."""

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
    """The waiters of one reactor. A deadline is kept to within ``resolution`` seconds, never early.

    ``clock``: what all who wait go by. Of a reactor that goes by the time of day only the timers are used.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, resolution: float = 0.25) -> None:
        self.clock: IReactorTime = _Steady(clock) if clock.seconds is time.time else clock
        self._resolution = resolution
        self._waiters: dict[HasDeadline, None] = {}
        self._call: IDelayedCall | None = None
        self._due = 0.0

    def watch(self, waiter: HasDeadline) -> None:
        """Look after ``waiter`` from now on."""
        self._waiters[waiter] = None
        if self._call is not None and self.clock.seconds() > self._due + _LATE:
            self._call.cancel()
            self._call = None
        if self._call is None:
            self._look_later()

    def forget(self, waiter: HasDeadline) -> None:
        """No longer. A waiter that was not watched is no error: what ends twice is forgotten twice."""
        self._waiters.pop(waiter, None)
        if not self._waiters and self._call is not None:
            self._call.cancel()
            self._call = None

    def _look_later(self) -> None:
        self._due = self.clock.seconds() + self._resolution
        self._call = self.clock.callLater(self._resolution, self._look)

    def _look(self) -> None:
        self._due = now = self.clock.seconds()
        if any(waiter.deadline <= now for waiter in self._waiters):
            self._call = self.clock.callLater(0, self._end_waits)
        else:
            self._look_later()

    def _end_waits(self) -> None:
        self._look_later()
        now = self.clock.seconds()
        for waiter in [waiter for waiter in self._waiters if waiter.deadline <= now]:
            # Again, since those before it may have forgotten it or put it off.
            if waiter.deadline <= now and waiter in self._waiters:
                self._tell(waiter)

    def _tell(self, waiter: HasDeadline) -> None:
        try:
            waiter.expired()
        except Exception:
            # One that fails must not cost the others their deadlines.
            self._log.failure("a deadline could not be kept")
