"""The monotonic clock for a reactor's timers.

Facts
-----
* Twisted's reactors compute the time of each timer with ``reactor.seconds``, which is the time of
  day. A step back by an hour delays every timer by an hour: systemd's watchdog then ends a healthy
  proxy, and no health check is sent.
* ``seconds`` is a method of ``IReactorTime`` that is looked up at each use, on which Twisted's own
  tests rely (``test_callLaterUsesReactorSecondsInDelayedCall``). So an attribute of the instance
  can replace it, also for the timers of endpoints, loops and connectors.
* A timer that was made before has a time of the other clock and would never fire.
"""

from __future__ import annotations

import time
from typing import Any

__all__ = ["use_monotonic_time"]


def use_monotonic_time(reactor: Any) -> None:
    """Let all timers of ``reactor`` use the monotonic clock, before it runs.

    Nothing changes if the reactor already has timers or another clock. An embedding program keeps
    its reactor unchanged, and :class:`x509proxy.transport.deadlines.Deadlines` has its own clock.
    """
    if reactor.seconds is time.time and not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic
