"""What a service tells systemd of itself: that it is ready, reloads, stops, and still lives (sd_notify(3)).

Facts
-----
* It is text in one datagram to the unix socket that ``NOTIFY_SOCKET`` names; ``@`` stands for the NUL of an abstract one.
* ``RELOADING=1`` goes with the monotonic time in microseconds, or ``Type=notify-reload`` (systemd 253) takes it for an old one;
  ``READY=1`` ends it.
* ``WATCHDOG_USEC`` is how long systemd waits for ``WATCHDOG=1``, and sd_watchdog_enabled(3) recommends half of it. It is said
  from the reactor: one that is stuck says nothing, and systemd starts another.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Any

__all__ = ["Notifier"]

# Seconds; systemd reads at once, unless it is in distress itself.
_PATIENCE = 1.0


class Notifier:
    """Tells systemd, if that wants to know; nobody else. ``watchdog``: after how many seconds of silence it acts, or 0.0."""

    def __init__(self, address: str | None = None, watchdog: float = 0.0) -> None:
        self.watchdog = watchdog
        self._address = (
            "\0" + address[1:] if address is not None and address.startswith("@") else address
        )
        self._clock: Any = None
        self._call: Any = None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """What systemd has put there, which is taken out: processes that this one starts are not to speak for it."""
        address = environment.pop("NOTIFY_SOCKET", None)
        microseconds = environment.pop("WATCHDOG_USEC", "")
        meant = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        watchdog = int(microseconds) / 1e6 if meant and microseconds.isdecimal() else 0.0
        return cls(address, watchdog)

    def ready(self, status: str = "") -> None:
        """It serves, or the reload has ended. ``status``: a sentence for ``systemctl status``."""
        self._say("READY=1", f"MAINPID={os.getpid()}", f"STATUS={_one_line(status)}")

    def reloading(self) -> None:
        """It reads its files again; :meth:`ready` is to follow."""
        self._say(
            "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
        )

    def stopping(self, status: str = "") -> None:
        """It accepts nothing more."""
        self._say("STOPPING=1", f"STATUS={_one_line(status)}")

    def keep_alive(self, clock: Any) -> None:
        """Say that it lives, now and so often that systemd believes it. ``clock``: has ``callLater``."""
        if self._address is not None and self.watchdog:
            self._clock = clock
            self._live()

    def _live(self) -> None:
        self._call = self._clock.callLater(self.watchdog / 2, self._live)
        self._say("WATCHDOG=1")

    def end(self) -> None:
        """It does not live much longer."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _say(self, *lines: str) -> None:
        if self._address is not None:
            # Whatever is wrong with systemd must not cost an exchange.
            with (
                contextlib.suppress(OSError),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel,
            ):
                channel.settimeout(_PATIENCE)
                channel.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)


def _one_line(status: str) -> str:
    return " ".join(status.split())
