"""The service log as systemd's journal reads it: a priority for each line, and no second time.

``twistd --logger x509proxy.service.journal.observer`` writes it, as the shipped unit does. Then
``journalctl -p warning`` shows failed reloads, workers that have died, and forged headers.

Facts
-----
* A line that begins with ``<N>`` has the priority N, from 0, emergency, to 7, debug (sd-daemon(3)).
  Other lines have ``SyslogLevel=``, which is info.
* The journal adds time, host and process to each line.
* ``JOURNAL_STREAM`` has the device and the inode of standard output or standard error, if that is
  the journal (systemd.exec(5)). A child process may have the variable, and another standard error.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText
from zope.interface import implementer

__all__ = ["JournalObserver", "observer", "prefix"]

_PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}


@implementer(ILogObserver)
class JournalObserver:
    """An observer that writes each line of an event to ``stream`` with the event's priority."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: LogEvent) -> None:
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        begin = f"<{_PRIORITIES[event.get('log_level', LogLevel.info)]}>"
        self._stream.write("".join(f"{begin}{line}\n" for line in text.splitlines()))
        self._stream.flush()


def observer() -> JournalObserver:
    """Make the observer of ``twistd --logger``, for standard output."""
    return JournalObserver(sys.stdout)


def prefix(level: LogLevel) -> str:
    """Return what a line on standard error begins with: its priority, if the journal reads it."""
    try:
        status = os.fstat(2)
    except OSError:
        return ""
    is_journal = os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return f"<{_PRIORITIES[level]}>" if is_journal else ""
