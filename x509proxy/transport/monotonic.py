"""A reactor's timers on the monotonic clock.

Facts
-----
* Twisted's reactors compute the time of each timer with ``reactor.seconds``, which is the time of day. A step back by an hour
  delays every timer by an hour: systemd's watchdog then ends a healthy proxy, and no health check is sent.
* ``seconds`` is a method of ``IReactorTime`` and is looked up at each use, which Twisted's own tests rely on
  (``test_callLaterUsesReactorSecondsInDelayedCall``). So an attribute of the instance takes its place, and the timers of
  endpoints, loops and connectors follow too. A timer made before that has a time of the other clock, and would never fire.
"""

from __future__ import annotations

import time
from typing import Any

__all__ = ["use_monotonic_time"]


def use_monotonic_time(reactor: Any) -> None:
    """Have all timers of ``reactor`` use the monotonic clock, unless it has timers or a clock of its own.

    To be called before the reactor runs. In a program that embeds the proxy the reactor is not changed
    (:class:`x509proxy.transport.deadlines.Deadlines` has a clock of its own for that).
    """
    if reactor.seconds is time.time and not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic
