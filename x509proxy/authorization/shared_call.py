"""Shared call: one call at a time, whose result goes to all that join it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

__all__ = ["SharedCall"]

_Result = TypeVar("_Result")


class SharedCall(Generic[_Result]):
    """A call that several wait for. It is cancelled when the last of them leaves."""

    def __init__(self, begin: Callable[[], Deferred[_Result]]) -> None:
        self._begin = begin
        self._running: Deferred[Any] | None = None
        self._waiting: list[Deferred[_Result]] = []

    def join(self) -> Deferred[_Result]:
        """Wait for the call that is under way, or begin one."""
        waiting: Deferred[_Result] = Deferred(self._leave)
        self._waiting.append(waiting)
        if self._running is None:
            self._running = self._begin()
            self._running.addBoth(self._ended)
        return waiting

    @property
    def is_wanted(self) -> bool:
        """True while there is one that waits."""
        return bool(self._waiting)

    def _leave(self, waiting: Deferred[_Result]) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            if not self._waiting and self._running is not None:
                self._running.cancel()

    def _ended(self, result: _Result | Failure) -> None:
        self._running = None
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            # The end of one can be that of another.
            if one.called:
                continue
            if isinstance(result, Failure):
                one.errback(result)
            else:
                one.callback(result)
