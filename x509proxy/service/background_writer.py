"""Log lines to a descriptor whose reader may stop, written by a thread from a bounded buffer.

Lines are dropped while the buffer is full.

Facts
-----
* A write to a pipe, a socket or a terminal blocks while its reader has stopped. With ``access-log =
  "-"`` the whole proxy stopped after 191 responses, and did not react to SIGTERM either. A regular
  file has no reader.
* ``O_NONBLOCK`` belongs to the open file description, which standard output shares with other
  processes: a shell there would fail.
* ``poll`` before each write does not help if workers share a pipe, since another worker may fill it
  in between. A thread works for every type of descriptor.
* A ``write`` of at most ``PIPE_BUF`` bytes to a pipe is atomic (pipe(7)).
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

_MAX_BUFFER_BYTES = 1 << 20  # 3000 lines of an access log
# Seconds for which lines are collected: 1.5 us of CPU for a line at 10,000 lines a second, against
# 3 to 7 us with a thread that wakes up for each line.
_COLLECT_SECONDS = 0.02
_MAX_DRAIN_SECONDS = 1.0  # for which the end of the process waits for a reader
_MAX_ATOMIC_BYTES = select.PIPE_BUF
_STANDARD_OUTPUT = 1


def may_block(descriptor: int) -> bool:
    """Return True if a write may wait for a reader, which a file and ``/dev/null`` do not have."""
    mode = os.fstat(descriptor).st_mode
    return not stat.S_ISREG(mode) and (not stat.S_ISCHR(mode) or os.isatty(descriptor))


class BackgroundWriter:
    """A thread that writes lines to a descriptor.

    It starts with the first line, because a daemon opens its files before it forks. ``dropped`` is
    the number of lines that were not written. ``error`` is the reason for the last of them.
    """

    def __init__(self, descriptor: int, max_bytes: int = _MAX_BUFFER_BYTES) -> None:
        self.dropped = 0
        self.error = ""
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._changed = Condition()
        self._thread: Thread | None = None
        self._closing = False

    def write(self, line: bytes) -> None:
        """Queue a line, which includes its end, or drop it if the buffer is full."""
        with self._changed:
            if self._size + len(line) > self._max_bytes:
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
        """Wait until all lines are written, but no longer than that."""
        with self._changed:
            self._changed.wait_for(lambda: not self._size, seconds)

    def close(self) -> None:
        """Close the descriptor after the last line is written.

        If it were closed before, another file could get its number and then the lines.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None:
            os.close(self._descriptor)

    # In the thread.

    def _run(self) -> None:
        while self._has_lines():
            time.sleep(_COLLECT_SECONDS)
            self._write_all()
        os.close(self._descriptor)

    def _has_lines(self) -> bool:
        """Wait for lines, and return False after :meth:`close`."""
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
        """Remove the next line from the buffer, with those that fit into one atomic write."""
        with self._changed:
            lines: list[bytes] = []
            size = 0
            while self._lines and (not lines or size + len(self._lines[0]) <= _MAX_ATOMIC_BYTES):
                lines.append(self._lines.popleft())
                size += len(lines[-1])
            return lines

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                # Another process has set O_NONBLOCK on it.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()


class LogStream(io.TextIOBase):
    """A text stream over a :class:`BackgroundWriter`, for Twisted's log.

    ``report`` is called with the number of dropped lines.
    """

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
        """Wait for the pending lines, and for each line from now on, for a second in total.

        It is called when the process ends.
        """
        self._end = time.monotonic() + _MAX_DRAIN_SECONDS
        self._writer.drain(_MAX_DRAIN_SECONDS)


def unblock_log(
    program_options: MutableMapping[str, Any] | None,
    reactor: Any,
    report: Callable[[int], None],
) -> None:
    """Replace the log stream of ``twistd -n`` or ``twist`` by one that never blocks.

    ``program_options`` are those of the program. They are ``None`` in another application, whose
    log is not changed.
    """
    if program_options is None or not may_block(_STANDARD_OUTPUT):
        return
    stream = LogStream(BackgroundWriter(_STANDARD_OUTPUT), report)
    if program_options.get("logFile") is sys.stdout:
        program_options["logFile"] = stream  # twist
    elif program_options.get("nodaemon"):
        sys.stdout = stream  # twistd, which begins to log after the service is made
    else:
        return
    reactor.addSystemEventTrigger("after", "shutdown", stream.finish)
