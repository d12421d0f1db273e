"""The access log: its file, its rate limits, and the warnings about forged headers.

Facts
-----
* One ``write`` to a file opened with ``O_APPEND`` appends one piece (write(2)), so several
  processes can share a file.
* logrotate renames the file, creates a new one with the same owner and mode (``create``), and sends
  SIGUSR1. Until the path is opened again, lines go to the renamed file.
* A client can cause ten thousand rejected requests a second, at 300 bytes a line, so these lines
  have a rate limit. Responses of the back end are always logged, because an administrator needs a
  complete record of what clients did.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from x509proxy.config.file_paths import log_problem
from x509proxy.config.loader import Configuration
from x509proxy.exchange import Exchange, Outcome
from x509proxy.forwarding.header_rules import redact
from x509proxy.monitoring.access_log_format import WRITERS
from x509proxy.monitoring.counters import NULL_METRICS, MetricsObserver
from x509proxy.monitoring.reason_codes import counted
from x509proxy.redaction import without_secrets
from x509proxy.service.background_writer import BackgroundWriter, may_block
from x509proxy.settings import SettingsError

__all__ = ["AccessLog", "LogFile", "RateLimiter", "open_log"]

_STANDARD_OUTPUT = 1
_MAX_DRAIN_SECONDS = 1.0
# O_NONBLOCK: opening a pipe without a reader fails at once.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK


class LogFile:
    """A log file that its owner alone can read.

    ``dropped`` is the number of lines that were not written, or not completely. ``error`` is the
    reason for the last of them.
    """

    def __init__(self, path: str, descriptor: int | None = None) -> None:
        """Open ``path``, or use an open ``descriptor`` of it. ``-`` is standard output.

        :raises OSError: the file cannot be opened.
        """
        self.path = path
        self.dropped = 0
        self.error = ""
        if descriptor is None:
            descriptor = _STANDARD_OUTPUT if path == "-" else os.open(path, _FLAGS, 0o600)
        self._use(descriptor)

    def _use(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_line_open = False
        self._writer = BackgroundWriter(descriptor) if may_block(descriptor) else None
        self._counted = 0

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def write(self, line: str) -> None:
        """Write a line and a line end in one piece, or count the line as dropped."""
        data = f"{line}\n".encode("ascii")
        if self._writer is None:
            self._append(data)
        else:
            self._writer.write(data)
            self._count_dropped(self._writer)

    def _append(self, data: bytes) -> None:
        if self._is_line_open:
            # The previous line was written in part. Its rest is lost.
            data = b"\n" + data
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            self._drop(1, os.strerror(error.errno or 0))
        else:
            self._is_line_open = written < len(data)
            if self._is_line_open:
                self._drop(1, "a line was written in part")

    def _drop(self, lines: int, error: str) -> None:
        self.dropped += lines
        self.error = error

    def _count_dropped(self, writer: BackgroundWriter) -> None:
        dropped, self._counted = writer.dropped - self._counted, writer.dropped
        if dropped:
            self._drop(dropped, writer.error)

    def reopen(self) -> None:
        """Open the path again and continue in the file that is there now.

        :raises OSError: it cannot be opened. The old file stays in use.
        """
        if self.path != "-":
            descriptor = os.open(self.path, _FLAGS, 0o600)
            # Without a rotation, the path is still the file in which a line may be open.
            same = os.path.sameopenfile(descriptor, self._descriptor)
            is_line_open = same and self._is_line_open
            self._close_descriptor()
            self._use(descriptor)
            self._is_line_open = is_line_open

    def close(self) -> None:
        """Write the pending lines, for at most a second, and close all but standard output."""
        if self._writer is not None:
            self._writer.drain(_MAX_DRAIN_SECONDS)
            self._count_dropped(self._writer)
        if self.path != "-":
            self._close_descriptor()

    def _close_descriptor(self) -> None:
        if self._writer is None:
            os.close(self._descriptor)
        else:
            self._writer.close()


def open_log(path: str | None) -> LogFile | None:
    """Open the log with the rights that the daemon starts with.

    ``None`` stands for no log, ``-`` for standard output.

    :raises SettingsError: the file cannot be opened.
    """
    if path is None or path == "-":
        return None if path is None else LogFile(path)
    problem = log_problem(path)
    if problem:
        raise SettingsError(
            f"access-log: {without_secrets(path)}: found {problem}, "
            "expected a file that can be written"
        )
    try:
        return LogFile(path)
    except OSError as error:
        raise SettingsError(
            f"access-log: {without_secrets(path)}: found a file that cannot be opened: "
            f"{error.strerror}, expected one that can be written"
        ) from None


class RateLimiter:
    """A limit of events per period. Events beyond it are counted.

    A period begins with its first event. At its end, ``report`` is called with the number of events
    beyond the limit, if there were any. ``clock`` has Twisted's ``callLater``.
    """

    def __init__(
        self, rate: int, seconds: float, clock: Any, report: Callable[[int], None]
    ) -> None:
        self.rate = rate
        self._seconds = seconds
        self._clock = clock
        self._report = report
        self._count = 0
        self._call: IDelayedCall | None = None

    def take(self) -> bool:
        """Count an event, and return True if it is within the limit."""
        if self._call is None:
            self._call = self._clock.callLater(self._seconds, self.end)
        self._count += 1
        return self._count <= self.rate

    def end(self) -> None:
        """End the period now, and report."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()
        beyond, self._count = self._count - self.rate, 0
        if beyond > 0:
            self._report(beyond)


_MAX_FORGERY_LINES = 10  # a second: enough to see an attack, and no flood
_LOST_LINES_PERIOD = 60.0  # seconds


class AccessLog:
    """An observer of exchanges that logs them, and warns of forged headers.

    Without a ``file`` there are only the warnings.
    """

    _log = Logger()

    def __init__(
        self,
        file: LogFile | None,
        configuration: Configuration,
        clock: Any,
        watch: MetricsObserver = NULL_METRICS,
    ) -> None:
        self.file = file
        self._watch = watch
        self._dropped = 0
        self._rejections = RateLimiter(
            configuration.settings.max_logged_errors_per_second, 1.0, clock, self._report_rejections
        )
        self._forged = RateLimiter(0, 1.0, clock, self._report_forgeries)
        self._forgeries: list[Exchange] = []
        self._lost = RateLimiter(1, _LOST_LINES_PERIOD, clock, self._report_lost)
        self.use(configuration)

    def use(self, configuration: Configuration) -> None:
        """Log by this configuration from now on, in the same file."""
        self._rules = configuration.rules
        self._write = WRITERS[configuration.settings.log_format]
        self._rejections.rate = configuration.settings.max_logged_errors_per_second

    def observe(self, exchange: Exchange) -> None:
        """Log a finished exchange."""
        if exchange.forged:
            # The warning is written later. Now it would delay this client's next request, and so
            # reveal that the name is right (L4).
            self._forged.take()
            if len(self._forgeries) < _MAX_FORGERY_LINES:
                self._forgeries.append(exchange)
        if self.file is not None and (
            exchange.outcome is Outcome.COMPLETED or self._rejections.take()
        ):
            # Lines are dropped if the disk is full or a reader has stopped: exchanges go on.
            self.file.write(redact(self._write(exchange), self._rules))
            if self.file.dropped > self._dropped:
                self._report_dropped(self.file)

    def _report_dropped(self, file: LogFile) -> None:
        dropped, self._dropped = file.dropped - self._dropped, file.dropped
        self._watch.log_lines_dropped("access", dropped)
        for _ in range(dropped):
            if self._lost.take():
                self._log.error("access-log: {error}; the line is lost", error=file.error)

    def reopen(self) -> None:
        """Continue in the file that has the path now (SIGUSR1)."""
        if self.file is not None:
            try:
                self.file.reopen()
            except OSError as error:
                sentence = (
                    "access-log: {path} cannot be opened again: {error}; the old file stays in use"
                )
                self._log.error(
                    sentence, path=without_secrets(self.file.path), error=error.strerror
                )

    def close(self) -> None:
        """Report pending counts and close the file."""
        for limiter in (self._rejections, self._forged, self._lost):
            limiter.end()
        file, self.file = self.file, None
        if file is not None:
            file.close()

    def _report_rejections(self, count: int) -> None:
        self._log.warn(
            "access-log: {count} more rejected or aborted requests are not logged", count=count
        )

    def _report_forgeries(self, count: int) -> None:
        forgeries, self._forgeries = self._forgeries, []
        for exchange in forgeries:
            self._log.warn(
                "{headers} from {peer} removed",
                headers=counted(exchange.forged, "forged header"),
                count=exchange.forged,
                peer=exchange.peer,
            )
        if more := count - len(forgeries):
            self._log.warn(
                "{requests} with forged headers",
                requests=counted(more, "more request"),
                count=more,
            )

    def _report_lost(self, count: int) -> None:
        self._log.error("access-log: {count} more lines are lost", count=count)
