"""Lines to a descriptor whose reader may stop: written in a thread, from a bounded buffer, and dropped where that is full.

Facts
-----
* A write to a pipe, a socket or a terminal blocks while its reader has stopped: with ``access-log = "-"`` the whole proxy stopped after
  191 responses, SIGTERM included. A regular file has no reader, and is written at once.
* ``O_NONBLOCK`` belongs to the open file description, which standard output shares with whatever else writes there: a shell
  behind it would fail. ``poll`` before each write is no help where several workers share one pipe, since another one may take
  the room in between. A thread needs neither, and works for every kind of descriptor.
* One ``write`` of ``PIPE_BUF`` octets at the most is one piece in a pipe (pipe(7)), whatever other processes write.
"""

from __future__ import annotations

import io
import os
import select
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from threading import Condition, Thread
from typing import Any

__all__ = ["BackgroundWriter", "LogStream", "may_block", "unblock_log"]

_LIMIT = 1 << 20  # octets that wait; 3000 lines of an access log
# Seconds for which lines are gathered: 1.5 us of CPU for a line at 10,000 a second, against 3 to 7 with a thread that wakes for each.
_GATHER = 0.02
_PATIENCE = 1.0  # seconds that the end of the proxy waits for a reader
_PIECE = select.PIPE_BUF
_STANDARD_OUTPUT = 1


def may_block(descriptor: int) -> bool:
    """Return true where a write may wait for a reader: not for a file, nor for ``/dev/null``."""
    mode = os.fstat(descriptor).st_mode
    return not stat.S_ISREG(mode) and (not stat.S_ISCHR(mode) or os.isatty(descriptor))


class BackgroundWriter:
    """Writes to ``descriptor`` in a thread, begun with the first line: a daemon forks after its files have been opened.

    ``dropped``: how many lines were not written; ``error``: why the last of them was not.
    """

    def __init__(self, descriptor: int, limit: int = _LIMIT) -> None:
        self.dropped = 0
        self.error = ""
        self._descriptor = descriptor
        self._limit = limit
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._changed = Condition()
        self._thread: Thread | None = None
        self._closing = False

    def write(self, line: bytes) -> None:
        """Write a line, its end included, soon; or drop it."""
        with self._changed:
            if self._size + len(line) > self._limit:
                self.dropped += 1
                self.error = "its reader has stopped"
                return
            self._lines.append(line)
            self._size += len(line)
            self._changed.notify_all()
        if self._thread is None:
            self._thread = Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def drain(self, seconds: float) -> None:
        """Wait until all has been written, for so long at the most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._size, seconds)

    def close(self) -> None:
        """Close the descriptor when all has been written: before that, another file could get its number."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None:
            os.close(self._descriptor)

    # In the thread.

    def _run(self) -> None:
        while self._has_lines():
            time.sleep(_GATHER)
            self._write_all()
        os.close(self._descriptor)

    def _has_lines(self) -> bool:
        """Wait for some; none come after the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closing)
            return bool(self._lines)

    def _write_all(self) -> None:
        while lines := self._next():
            error = ""
            try:
                self._write(b"".join(lines))
            except OSError as failure:
                error = failure.strerror or "unknown error"
            with self._changed:
                if error:
                    self.dropped += len(lines)
                    self.error = error
                self._size -= sum(map(len, lines))
                self._changed.notify_all()

    def _next(self) -> list[bytes]:
        """As many lines as are one piece."""
        with self._changed:
            lines: list[bytes] = []
            size = 0
            while self._lines and (not lines or size + len(self._lines[0]) <= _PIECE):
                lines.append(self._lines.popleft())
                size += len(lines[-1])
            return lines

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                # Whoever has opened it wants no write to wait; so it is waited for here.
                room = select.poll()
                room.register(self._descriptor, select.POLLOUT)
                room.poll()


class LogStream(io.TextIOBase):
    """A text stream over a :class:`BackgroundWriter`, for Twisted's own log. ``report``: called with a number of dropped lines."""

    def __init__(self, writer: BackgroundWriter, report: Callable[[int], None]) -> None:
        self._writer = writer
        self._report = report
        self._reported = 0
        self._end: float | None = None

    def write(self, text: str) -> int:
        self._writer.write(text.encode("utf-8", "backslashreplace"))
        dropped, self._reported = self._writer.dropped - self._reported, self._writer.dropped
        if dropped:
            self._report(dropped)
        if self._end is not None:
            self._writer.drain(max(0.0, self._end - time.monotonic()))
        return len(text)

    def finish(self) -> None:
        """The process ends: from now on each line is waited for, all of them together for a second."""
        self._end = time.monotonic() + _PATIENCE
        self._writer.drain(_PATIENCE)


def unblock_log(
    above: MutableMapping[str, Any] | None, reactor: Any, report: Callable[[int], None]
) -> None:
    """Have the log of ``twistd -n`` or ``twist`` never wait for the reader of standard output.

    ``above``: the options of the program; in an application of its own, logging is that application's business.
    """
    if above is None or not may_block(_STANDARD_OUTPUT):
        return
    stream = LogStream(BackgroundWriter(_STANDARD_OUTPUT), report)
    if above.get("logFile") is sys.stdout:
        above["logFile"] = stream  # twist
    elif above.get("nodaemon"):
        sys.stdout = stream  # twistd, which begins to log when the service has been made
    else:
        return
    reactor.addSystemEventTrigger("after", "shutdown", stream.finish)
