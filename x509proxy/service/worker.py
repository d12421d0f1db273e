"""One of several processes that serve: ``python -m x509proxy.service.worker REACTOR``.

Only :mod:`x509proxy.service.supervisor` starts it. It does not open the files that the
configuration names: settings and the contents of the files come through a pipe. When the parent
closes the pipe or dies, the worker stops accepting, finishes its requests and ends. Without a
parent the worker shuts the sockets down too, since no other process accepts on them.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall
from twisted.logger import LogEvent, Logger, LogLevel, eventAsText, globalLogBeginner
from twisted.python.failure import Failure
from twisted.python.reflect import namedModule
from zope.interface import implementer

from x509proxy.certificates.client_certificate import ignore_name_lengths
from x509proxy.service.access_log import LogFile
from x509proxy.service.gc_tuning import relax_collector
from x509proxy.service.ipc import (
    Alive,
    Draining,
    FrameError,
    Frames,
    LogLine,
    NewConfiguration,
    NotUsed,
    ParentMessage,
    Serving,
    SnapshotReport,
    Stop,
    Task,
    Used,
    VersionError,
    WorkerMessage,
    decode_parent_message,
    encode_worker_message,
)
from x509proxy.service.supervisor import FROM_PARENT, PARENT_SIGNALS, TO_PARENT
from x509proxy.settings import SettingsError
from x509proxy.transport.monotonic import use_monotonic_time
from x509proxy.upstream.name_resolver import NameResolver

__all__ = ["Worker", "main"]

# Events by Twisted's old interface have this namespace, such as "… starting on 8443".
_NAMESPACES = {"log_legacy": "twisted"}
_QUIET = frozenset({LogLevel.debug})
# Seconds between two signs of life, or snapshots if the parent has an admin listener.
_REPORT_INTERVAL = 1.0


@implementer(IHalfCloseableProtocol, IPushProducer)
class Worker(Protocol):
    """The worker's side of the two pipes."""

    transport: Any
    _log = Logger(namespace="x509proxy.service.worker.Worker")

    def __init__(self, reactor: Any) -> None:
        from x509proxy.service.server import ProxyServer

        self.exit_code = 0
        self.running: ProxyServer | None = None
        self._reactor = reactor
        self._frames = Frames()
        self._paused = False
        self._closed = False
        self._flushed: Deferred[None] | None = None
        self._ending = False
        self._told_to_stop = False
        reactor.addSystemEventTrigger("before", "shutdown", self._drain)

    def send(self, message: WorkerMessage) -> None:
        """Send a message to the parent, or drop it while the parent does not read.

        Reports that the parent waits for are sent in any case. There is one for each of its
        messages.
        """
        is_report = isinstance(message, Serving | Draining | Used | NotUsed)
        if not self._closed and (is_report or not self._paused):
            self.transport.write(encode_worker_message(message))

    def log(self, event: LogEvent) -> None:
        """Send an event to the parent's log (a log observer)."""
        if event["log_level"] not in _QUIET:
            text = eventAsText(event, includeTimestamp=False, includeSystem=False)
            namespace = str(event.get("log_namespace", "-"))
            level = event["log_level"].name
            self.send(LogLine(level, _NAMESPACES.get(namespace, namespace), text))

    def end(self, exit_code: int = 0) -> None:
        """Stop accepting, and end when all requests are finished."""
        if not self._ending:
            self._ending = True
            self.exit_code = exit_code
            self._reactor.stop()

    def _drain(self) -> Deferred[None]:
        """Return a result for which the reactor waits: all requests, then the last messages."""
        self._ending = True
        stopped: Deferred[None] = self.running.stop() if self.running is not None else succeed(None)
        self.send(Draining())
        return stopped.addCallback(lambda _: self._flush())

    def _flush(self) -> Deferred[None]:
        flushed: Deferred[None] = Deferred()
        if self._closed:
            flushed.callback(None)
        else:
            self._flushed = flushed
            self.transport.loseConnection()
        return flushed

    # Twisted calls: the pipes.

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, streaming=True)

    def dataReceived(self, data: bytes) -> None:
        try:
            for content in self._frames.feed(data):
                self._on_message(decode_parent_message(content))
        except (VersionError, FrameError):
            # The disk may have another version now than the one that the parent has loaded.
            self._log.critical(VersionError.SENTENCE)
            self.end(1)
        except SettingsError as error:
            sentence = "cannot use the configuration of the parent: {error}"
            self._log.critical(sentence, error=str(error))
            self.end(1)
        except Exception:
            self._log.failure("unexpected error in a message from the parent")
            self.end(1)

    def readConnectionLost(self) -> None:
        if not self._told_to_stop and self.running is not None:
            # The parent has died.
            self.running.abandon_sockets()
        self.end()

    def writeConnectionLost(self) -> None:
        self._closed = True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closed = True
        if self._flushed is not None:
            self._flushed.callback(None)
        self.end()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False

    def stopProducing(self) -> None:
        self._paused = True

    # Inside.

    def _on_message(self, message: ParentMessage) -> None:
        match message:
            case Task():
                self._begin(message)
            case NewConfiguration():
                self._use(message)
            case Stop():
                self._told_to_stop = True
                self.end()
            case _:
                # ReopenLog.
                assert self.running is not None
                self.running.reopen_log()

    def _begin(self, task: Task) -> None:
        from x509proxy.service.server import ProxyServer

        configuration = task.configuration.load()
        path = configuration.settings.access_log
        log = LogFile(path, task.access_log) if path is not None else None
        self.running = ProxyServer(configuration, self._reactor, log)
        self.running.adopt(task.sockets)
        relax_collector()
        self.send(Serving())
        watched = configuration.settings.admin is not None
        reporting = LoopingCall(self._report if watched else self._send_alive)
        reporting.clock = self._reactor
        reporting.start(_REPORT_INTERVAL, now=watched)

    def _send_alive(self) -> None:
        """Show the parent that this process is neither stopped nor hangs."""
        self.send(Alive())

    def _report(self) -> None:
        assert self.running is not None
        try:
            self.send(SnapshotReport(self.running.snapshot()))
        except Exception:
            # An exception would end the loop, and the parent would then kill this worker.
            self._log.failure("cannot make a snapshot for the parent")

    def _use(self, message: NewConfiguration) -> None:
        assert self.running is not None
        try:
            self.running.use(message.load())
        except SettingsError as error:
            self.send(NotUsed(str(error)))
        except Exception as error:
            # The old configuration stays in use. Ending here would end all workers.
            self._log.failure("unexpected error in a new configuration")
            self.send(NotUsed(f"unexpected error {type(error).__name__}"))
        else:
            self.send(Used())


def main(reactor_module: str) -> int:
    """Serve with the reactor of a module until the parent closes its pipe.

    Return the exit code.
    """
    namedModule(reactor_module).install()
    from twisted.internet import reactor

    return serve(reactor)


def serve(reactor: Any) -> int:
    """Serve with an installed reactor (:func:`main`)."""
    ignore_name_lengths()
    use_monotonic_time(reactor)
    reactor.installNameResolver(NameResolver(reactor))
    # The parent has blocked these signals since the start of this worker. Pending ones are dropped.
    for number in PARENT_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    worker = Worker(reactor)
    # Ctrl-C and systemd send signals to all processes, and the parent closes the pipe, too:
    # Twisted's own handlers would stop the reactor twice.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: reactor.callFromThread(worker.end))
    # Twisted's hint names the Windows one.
    StandardIO(worker, FROM_PARENT, TO_PARENT, reactor)  # type: ignore[call-arg]
    globalLogBeginner.beginLoggingTo([worker.log])  # type: ignore[list-item]  # a method is an observer too
    reactor.run(installSignalHandlers=False)
    return worker.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
