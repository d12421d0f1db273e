"""Notifications to systemd: ready, reloading, stopping, and the watchdog (sd_notify(3)).

Facts
-----
* A notification is text in a datagram to the unix socket in ``NOTIFY_SOCKET``. ``@`` stands for the
  NUL of an abstract socket.
* ``RELOADING=1`` needs the monotonic time in microseconds. Without it, ``Type=notify-reload``
  (systemd 253) ignores the message as an old one. ``READY=1`` ends the reload.
* ``WATCHDOG_USEC`` is the time in which systemd expects ``WATCHDOG=1``. sd_watchdog_enabled(3)
  recommends half of it. The reactor sends it, so systemd restarts a process with a blocked reactor.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Any

__all__ = ["Notifier"]

_MAX_SEND_SECONDS = 1.0  # systemd normally reads at once


class Notifier:
    """A sender of notifications. It does nothing without an ``address``.

    ``watchdog`` is the time in seconds within which systemd expects a message, or 0.0.
    """

    def __init__(self, address: str | None = None, watchdog: float = 0.0) -> None:
        self.watchdog = watchdog
        self._address = (
            "\0" + address[1:] if address is not None and address.startswith("@") else address
        )
        self._clock: Any = None
        self._call: Any = None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """Remove systemd's variables from the environment and make a notifier from them.

        They are removed because child processes must not send notifications for this one.
        """
        address = environment.pop("NOTIFY_SOCKET", None)
        microseconds = environment.pop("WATCHDOG_USEC", "")
        is_for_us = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        watchdog = int(microseconds) / 1e6 if is_for_us and microseconds.isdecimal() else 0.0
        return cls(address, watchdog)

    def ready(self, status: str = "") -> None:
        """Report that the start or a reload has ended, with a line for ``systemctl status``."""
        self._send("READY=1", f"MAINPID={os.getpid()}", f"STATUS={_one_line(status)}")

    def reloading(self) -> None:
        """Report that a reload has begun. :meth:`ready` must follow."""
        self._send(
            "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
        )

    def stopping(self, status: str = "") -> None:
        """Report that no more connections are accepted."""
        self._send("STOPPING=1", f"STATUS={_one_line(status)}")

    def keep_alive(self, clock: Any) -> None:
        """Send watchdog messages from now on. ``clock`` has Twisted's ``callLater``."""
        if self._address is not None and self.watchdog:
            self._clock = clock
            self._send_watchdog()

    def _send_watchdog(self) -> None:
        self._call = self._clock.callLater(self.watchdog / 2, self._send_watchdog)
        self._send("WATCHDOG=1")

    def end(self) -> None:
        """Stop the watchdog messages, because the process ends."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _send(self, *lines: str) -> None:
        if self._address is not None:
            # Exchanges go on even if systemd does not read.
            with (
                contextlib.suppress(OSError),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel,
            ):
                channel.settimeout(_MAX_SEND_SECONDS)
                channel.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)


def _one_line(status: str) -> str:
    return " ".join(status.split())
