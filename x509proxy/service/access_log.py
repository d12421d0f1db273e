"""The access log: who writes it, where it lies, and how little of it a flood or a full disk gets.

Facts
-----
* One ``write`` to a file opened with ``O_APPEND`` is one piece in it (write(2)), so several processes may share a file.
* logrotate renames the file, makes a new one with the old one's owner and rights (``create``), and sends SIGUSR1: whoever holds
  the descriptor goes on writing into the renamed file until it opens the name anew.
* Whoever is refused can be so ten thousand times a second, at 300 bytes a line. What the back end has answered is written
  whatever happens: it is what an administrator needs in order to know what clients have done.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from x509proxy.certificates.pem_files import without_secrets
from x509proxy.config.file_paths import log_problem
from x509proxy.config.loader import Configuration
from x509proxy.exchange import Exchange, Outcome
from x509proxy.forwarding.header_rules import redact
from x509proxy.monitoring.access_log_format import WRITERS
from x509proxy.monitoring.counters import NULL_METRICS, MetricsObserver
from x509proxy.monitoring.reason_codes import counted
from x509proxy.service.background_writer import BackgroundWriter, may_block
from x509proxy.settings import SettingsError

__all__ = ["AccessLog", "LogFile", "RateLimiter", "open_log"]

_STANDARD_OUTPUT = 1
_PATIENCE = 1.0  # seconds
# A pipe that nobody reads is an error, and no reason to wait.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK


class LogFile:
    """A file that lines are appended to, readable by nobody else. ``path``: ``-`` for standard output.

    ``dropped``: how many lines were not written, or not whole; ``error``: why the last of them was not.
    """

    def __init__(self, path: str, descriptor: int | None = None) -> None:
        """``descriptor``: of a file that is open already.

        :raises OSError: it cannot be opened.
        """
        self.path = path
        self.dropped = 0
        self.error = ""
        if descriptor is None:
            descriptor = _STANDARD_OUTPUT if path == "-" else os.open(path, _FLAGS, 0o600)
        self._use(descriptor)

    def _use(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._torn = False
        self._writer = BackgroundWriter(descriptor) if may_block(descriptor) else None
        self._dropped_there = 0

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def write(self, line: str) -> None:
        """Write a line and its end, in one piece; or count it as dropped."""
        data = f"{line}\n".encode("ascii")
        if self._writer is None:
            self._append(data)
        else:
            self._writer.write(data)
            self._count_dropped(self._writer)

    def _append(self, data: bytes) -> None:
        if self._torn:
            # The rest of a line that was written in part is lost; the next one is a line of its own.
            data = b"\n" + data
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            self._drop(1, os.strerror(error.errno or 0))
        else:
            self._torn = written < len(data)
            if self._torn:
                self._drop(1, "a line was written in part")

    def _drop(self, lines: int, error: str) -> None:
        self.dropped += lines
        self.error = error

    def _count_dropped(self, writer: BackgroundWriter) -> None:
        dropped, self._dropped_there = writer.dropped - self._dropped_there, writer.dropped
        if dropped:
            self._drop(dropped, writer.error)

    def reopen(self) -> None:
        """Go on in whatever bears the file's name now.

        :raises OSError: it cannot be opened, and the old file goes on.
        """
        if self.path != "-":
            after = os.open(self.path, _FLAGS, 0o600)
            self._leave()
            self._use(after)

    def close(self) -> None:
        """Close it, unless it is standard output; a reader that has stopped is waited for for a second at the most."""
        if self._writer is not None:
            self._writer.drain(_PATIENCE)
            self._count_dropped(self._writer)
        if self.path != "-":
            self._leave()

    def _leave(self) -> None:
        if self._writer is None:
            os.close(self._descriptor)
        else:
            self._writer.close()


def open_log(path: str | None) -> LogFile | None:
    """Open the log with the rights that the daemon starts with.

    :raises SettingsError: it cannot be opened.
    """
    if path is None or path == "-":
        return None if path is None else LogFile(path)
    problem = log_problem(path)
    if problem:
        raise SettingsError(
            f"access-log: {without_secrets(path)}: found {problem}, expected a file that can be written"
        )
    try:
        return LogFile(path)
    except OSError as error:
        raise SettingsError(f"access-log: {without_secrets(path)}: {error.strerror}") from None


class RateLimiter:
    """So many of a kind in each span of time; what is beyond that is counted, and told at the end of the span.

    ``clock``: has ``callLater``; ``tell`` is called with the count. The first ones of each span always pass.
    """

    def __init__(self, rate: int, seconds: float, clock: Any, tell: Callable[[int], None]) -> None:
        self.rate = rate
        self._seconds = seconds
        self._clock = clock
        self._tell = tell
        self._count = 0
        self._call: IDelayedCall | None = None

    def take(self) -> bool:
        """Whether there is something left for this one."""
        if self._call is None:
            self._call = self._clock.callLater(self._seconds, self.end)
        self._count += 1
        return self._count <= self.rate

    def end(self) -> None:
        """The span is over, be it early."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()
        beyond, self._count = self._count - self.rate, 0
        if beyond > 0:
            self._tell(beyond)


# Sentences a second for forged headers: an attack must be seen, and need not be seen ten thousand times.
_FORGED = 10
_COMPLAINTS = 60.0  # seconds


class AccessLog:
    """An observer of exchanges that writes them down, and warns of forged headers. ``file``: ``None`` for warnings only."""

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
        self._refusals = RateLimiter(
            configuration.settings.max_logged_errors_per_second, 1.0, clock, self._tell_refusals
        )
        self._forged = RateLimiter(0, 1.0, clock, self._tell_forged)
        self._forgeries: list[Exchange] = []
        self._lost = RateLimiter(1, _COMPLAINTS, clock, self._tell_lost)
        self.use(configuration)

    def use(self, configuration: Configuration) -> None:
        """Write as this configuration says from now on; the file stays."""
        self._rules = configuration.rules
        self._write = WRITERS[configuration.settings.log_format]
        self._refusals.rate = configuration.settings.max_logged_errors_per_second

    def observe(self, exchange: Exchange) -> None:
        """Write down what has happened."""
        if exchange.forged:
            # Written now, it would delay this client's next request, and so reveal the name (L4).
            self._forged.take()
            if len(self._forgeries) < _FORGED:
                self._forgeries.append(exchange)
        if self.file is not None and (
            exchange.outcome is Outcome.COMPLETED or self._refusals.take()
        ):
            # A full disk, or a reader that has stopped, must not cost an exchange.
            self.file.write(redact(self._write(exchange), self._rules))
            if self.file.dropped > self._dropped:
                self._tell_dropped(self.file)

    def _tell_dropped(self, file: LogFile) -> None:
        dropped, self._dropped = file.dropped - self._dropped, file.dropped
        self._watch.log_lines_dropped("access", dropped)
        for _ in range(dropped):
            if self._lost.take():
                self._log.error("access-log: {error}; the line is lost", error=file.error)

    def reopen(self) -> None:
        """Go on in whatever bears the file's name now (SIGUSR1)."""
        if self.file is not None:
            try:
                self.file.reopen()
            except OSError as error:
                sentence = (
                    "access-log: {path} cannot be opened again: {error}; the old file goes on"
                )
                self._log.error(
                    sentence, path=without_secrets(self.file.path), error=error.strerror
                )

    def close(self) -> None:
        """Tell what is still to be told, and close the file."""
        for ration in (self._refusals, self._forged, self._lost):
            ration.end()
        file, self.file = self.file, None
        if file is not None:
            file.close()

    def _tell_refusals(self, count: int) -> None:
        self._log.warn(
            "access-log: {count} more refused or aborted exchanges are not in it", count=count
        )

    def _tell_forged(self, count: int) -> None:
        forgeries, self._forgeries = self._forgeries, []
        for exchange in forgeries:
            self._log.warn(
                "{what} from {peer} removed",
                what=counted(exchange.forged, "forged certificate header"),
                count=exchange.forged,
                peer=exchange.peer,
            )
        if more := count - len(forgeries):
            self._log.warn(
                "{what} with forged certificate headers",
                what=counted(more, "more request"),
                count=more,
            )

    def _tell_lost(self, count: int) -> None:
        self._log.error("access-log: {count} more lines are lost", count=count)
