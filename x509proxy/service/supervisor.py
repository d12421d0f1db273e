"""The parent of worker processes: it binds the sockets, and starts and restarts the workers.

Facts
-----
* The sockets are bound once and inherited. With ``SO_REUSEPORT`` each worker would have a queue of
  its own, and connections in the queue of a worker that dies would be reset. From a shared queue,
  another worker accepts them.
* The parent reads the configuration, with rights that the workers need not have, and sends it
  through a pipe. A command line or an environment would be visible to others.
* A process sees its end of a pipe close when the process at the other end dies in any way. So
  workers end with their parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from x509proxy.config.loader import Configuration
from x509proxy.downstream.factory import NamedFactory
from x509proxy.monitoring.counters import Counters
from x509proxy.monitoring.snapshot import Snapshot
from x509proxy.monitoring.snapshot_builder import SnapshotBuilder
from x509proxy.monitoring.worker_aggregation import WorkerAggregate
from x509proxy.service.access_log import AccessLog, LogFile
from x509proxy.service.ipc import (
    Draining,
    Frames,
    LogLine,
    NewConfiguration,
    NotUsed,
    ParentMessage,
    ReopenLog,
    Serving,
    SnapshotReport,
    Stop,
    Task,
    Used,
    WorkerMessage,
    decode_worker_message,
    encode_parent_message,
)
from x509proxy.service.listening import ListeningEndpoint
from x509proxy.service.server import contexts_for
from x509proxy.settings import SettingsError

__all__ = ["FROM_PARENT", "PARENT_SIGNALS", "TO_PARENT", "WorkerSupervisor"]

FROM_PARENT, TO_PARENT = 3, 4
"""The descriptors of a worker's two pipes. After them come the access log and the sockets."""
PARENT_SIGNALS = (signal.SIGHUP, signal.SIGUSR1)
"""Signals for the parent. They must not end a worker if they are sent to all processes."""
_FIRST_FREE = 5
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before a worker that has ended is restarted
_LONG_LIFE = 60.0  # seconds; a worker that ends later did not fail because of its start
_ACCEPT_TIME = 1.0  # seconds for the accept queue, which a worker that hangs does not accept
_GRACE = 5.0  # seconds, beyond drain-timeout
_CHECK_INTERVAL = 1.0  # seconds; workers report as often
# Checks without a report until a worker counts as stopped or hanging. Checks are counted instead of
# seconds: a parent that was stopped itself has read no report.
_MAX_SILENT_CHECKS = 10
_MAX_SILENT_CHECKS_AT_START = 60
_MAX_UNSERVED_CHECKS = 10
_MAX_MESSAGE_BYTES = 1 << 24
_MAX_LINE_BYTES = 4096
_ENDED = "worker {worker} (process {pid}) has ended, {how}; another is started in {pause:g} s"
_NOT_STARTED = "worker {worker} cannot be started: {how}; it is tried again in {pause:g} s"
# Set by systemd for one process only.
_NOT_INHERITED = (
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


class _Closing(NamedFactory):
    """Closes each connection at once. The parent accepts only while no worker does."""

    def buildProtocol(self, addr: IAddress | None) -> None:
        return None


class _Reports:
    """The workers' reports about one event. ``done`` fires with the last of them."""

    def __init__(self, workers: Iterable[int]) -> None:
        self.done: Deferred[None] = Deferred()
        self._missing = set(workers)
        self._errors: list[str] = []
        self._fire()

    def add(self, worker: int, error: str = "") -> None:
        """Record the first report of a worker, or its end.

        ``error`` is the reason why it does not use a configuration, or ``""``.
        """
        if worker in self._missing:
            self._missing.remove(worker)
            if error:
                self._errors.append(f"worker {worker}: {error}")
            self._fire()

    def _fire(self) -> None:
        if self._missing:
            return
        if not self._errors:
            self.done.callback(None)
            return
        first, *others = self._errors
        more = f" (and {len(others)} more workers)" if others else ""
        self.done.errback(SettingsError(first + more))


class WorkerSupervisor:
    """The parent of the workers.

    ``aggregate`` adds up the snapshots of the workers. ``on_serving`` is called each time that a
    worker has begun to serve.
    """

    _log = Logger()

    def __init__(
        self, configuration: Configuration, reactor: Any, log_file: LogFile | None = None
    ) -> None:
        """Check the configuration as far as workers would.

        :raises SettingsError: OpenSSL rejects a certificate, a key or a revocation list, or the
            configuration cannot be sent.
        """
        contexts_for(configuration)
        encode_parent_message(NewConfiguration.of(configuration))
        self.configuration = configuration
        self.on_serving: Callable[[], None] = lambda: None
        self.reactor = reactor
        self.counters = Counters()
        self.aggregate = WorkerAggregate(
            SnapshotBuilder(self.counters, lambda: self.configuration).snapshot
        )
        self.workers = [
            _Worker(self, number) for number in range(1, configuration.settings.workers + 1)
        ]
        self._access_log = AccessLog(log_file, configuration, reactor)
        self._ports: list[IListeningPort] = []
        self._call: IDelayedCall | None = None
        self._unserved = 0
        self._reports = self._draining = _Reports(())

    @property
    def addresses(self) -> list[IAddress]:
        """Return the addresses of the sockets."""
        return [port.getHost() for port in self._ports]

    def listen(self, endpoints: Sequence[ListeningEndpoint]) -> None:
        """Bind the sockets, on which the workers accept.

        :raises SettingsError: an address cannot be bound. :meth:`stop` releases the others.
        """
        for endpoint in endpoints:
            port: Any = endpoint.bind(_Closing())
            self._ports.append(port)
            port.stopReading()

    def start(self) -> None:
        """Start all workers."""
        for worker in self.workers:
            worker.start()
        self._check_later()

    def _check_later(self) -> None:
        self._call = self.reactor.callLater(_CHECK_INTERVAL, self._check)

    def _check(self) -> None:
        """Find workers that are stopped or hang, and close connections while none serves."""
        self._check_later()
        for worker in self.workers:
            worker.check()
        self._unserved = 0 if any(worker.serves for worker in self.workers) else self._unserved + 1
        if self._unserved == _MAX_UNSERVED_CHECKS:
            self._log.error("no worker serves: connections are closed until one does")
            for port in self._ports:
                port.startReading()  # type: ignore[attr-defined]

    def _is_served(self) -> None:
        if self._unserved >= _MAX_UNSERVED_CHECKS:
            self._log.info("a worker serves again")
        self._unserved = 0
        for port in self._ports:
            port.stopReading()  # type: ignore[attr-defined]

    def use(self, configuration: Configuration) -> Deferred[None]:
        """Serve by another configuration. Each worker that is started from now on gets it.

        The result fires when all workers have reported. It fails with SettingsError if one of them
        ended or did not use the configuration. Do not call this again before that.

        :raises SettingsError: OpenSSL rejects a certificate, a key or a revocation list, or the
            configuration cannot be sent. In that case nothing is sent to any worker.
        """
        contexts_for(configuration)
        frame = encode_parent_message(NewConfiguration.of(configuration))
        self.configuration = configuration
        sent = [worker.number for worker in self.workers if worker.send(frame)]
        self._reports = _Reports(sent)
        return self._reports.done

    def snapshot(self) -> Snapshot:
        """Return the state of all workers, for ``[admin]``."""
        return self.aggregate.snapshot()

    def reopen_log(self) -> None:
        """Continue in the access log's new file, in all workers."""
        self._access_log.reopen()
        self.broadcast(ReopenLog())

    def broadcast(self, message: ParentMessage) -> None:
        """Send a message to all running workers."""
        frame = encode_parent_message(message)
        for worker in self.workers:
            worker.send(frame)

    def stop(self) -> Deferred[None]:
        """Let all workers finish their exchanges, within ``drain_timeout``, and end."""
        ports, self._ports = self._ports, []
        self.aggregate.draining = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._draining = _Reports([worker.number for worker in self.workers if worker.pid])
        ends: list[Deferred[Any]] = [
            worker.stop(self.configuration.settings.client.drain_timeout + _GRACE)
            for worker in self.workers
        ]
        # The workers accept the queue first: connections in it are reset when the port is closed.
        accepted = self._draining.done.addTimeout(_ACCEPT_TIME, self.reactor)
        accepted.addErrback(lambda _: None)
        ends.append(accepted.addCallback(lambda _: _close_all(ports)))
        return DeferredList(ends).addCallback(lambda _: self._access_log.close())

    # Calls from the workers' processes.

    def task(self) -> tuple[Task, dict[int, int]]:
        """Return the task of a new worker, and its descriptors as ``{in the worker: in here}``."""
        given: dict[int, int] = {}
        log: int | None = None
        if self._access_log.file is not None:
            log = _FIRST_FREE
            given[log] = self._access_log.file.fileno()
        sockets = []
        for number, port in enumerate(self._ports, _FIRST_FREE + 1):
            given[number] = port.fileno()  # type: ignore[attr-defined]
            sockets.append((number, int(port.addressFamily)))  # type: ignore[attr-defined]
        return Task(NewConfiguration.of(self.configuration), tuple(sockets), log), given

    def on_message(self, number: int, message: WorkerMessage) -> None:
        """Handle a message of a worker."""
        match message:
            case LogLine():
                Logger(namespace=message.namespace).emit(
                    _level(message.level),
                    "worker {worker}: {text}",
                    worker=number,
                    text=message.text,
                )
            case SnapshotReport():
                self.aggregate.add(number, message.snapshot)
            case Serving():
                self._is_served()
                self.on_serving()
            case Draining():
                self._draining.add(number)
            case Used():
                self._reports.add(number)
            case NotUsed():
                self._reports.add(number, message.error)
            case _:
                # Alive: each frame is a sign of life.
                pass

    def on_end(self, number: int) -> None:
        """Record that a worker's process has ended."""
        self.aggregate.ended(number)
        self._draining.add(number)
        self._reports.add(number, "its process ended before it used the new configuration")


def _close_all(ports: Iterable[IListeningPort]) -> Deferred[Any]:
    return DeferredList([maybeDeferred(port.stopListening) for port in ports])


def _level(name: str) -> Any:
    return next((level for level in LogLevel.iterconstants() if level.name == name), LogLevel.error)


class _Worker(ProcessProtocol):
    """A worker, with one process after another. ``serves`` is True if its process accepts."""

    transport: Any

    def __init__(self, supervisor: WorkerSupervisor, number: int) -> None:
        self.pid = 0
        self.number = number
        self._supervisor = supervisor
        self._clock = supervisor.reactor
        self._log = Logger(namespace=f"{__name__}.WorkerSupervisor")
        self._restarts = 0
        self._started = 0.0
        self.serves = False
        self._silent = 0
        self._call: IDelayedCall | None = None
        self._pipe_open = False
        self._stopped: Deferred[None] | None = None

    def start(self) -> None:
        """Start a process, and send its task through the pipe."""
        task, given = self._supervisor.task()
        self._call = None
        self._frames, self._errors, self._started = (
            Frames(_MAX_MESSAGE_BYTES),
            b"",
            self._clock.seconds(),
        )
        try:
            process = self._spawn({0: 0, 1: 1, 2: "r", FROM_PARENT: "w", TO_PARENT: "r", **given})
        except OSError as error:
            # Too little memory, or too many processes, which may be temporary.
            self._start_later(_NOT_STARTED, 0, os.strerror(error.errno or 0))
            return
        self.pid, self._pipe_open, self._silent = process.pid, True, 0
        self.send(encode_parent_message(task))

    def _spawn(self, numbers: dict[int, Any]) -> Any:
        # Blocked signals are inherited, and so blocked in the worker from its first moment. Ignored
        # ones are not: Twisted resets them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, PARENT_SIGNALS)
        try:
            return self._clock.spawnProcess(
                self, sys.executable, _command(self._clock), _environment(), childFDs=numbers
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def check(self) -> None:
        """Kill a process that has not reported for too long. SIGKILL ends a stopped one, too."""
        self._silent += 1
        limit = _MAX_SILENT_CHECKS if self.serves else _MAX_SILENT_CHECKS_AT_START
        if self.pid and self._silent == limit:
            sentence = (
                "worker {worker} (process {pid}) has not reported for {seconds} s, and is killed"
            )
            self._log.error(sentence, worker=self.number, pid=self.pid, seconds=limit)
            self._signal(signal.SIGKILL)

    def send(self, frame: bytes) -> bool:
        """Write a frame to its pipe, and return False if the pipe is closed."""
        if self._pipe_open:
            self.transport.writeToChild(FROM_PARENT, frame)
        return self._pipe_open

    def stop(self, seconds: float) -> Deferred[None]:
        """Let it end by itself, or kill it after so many seconds. It is not restarted."""
        self._stopped = Deferred()
        self._cancel()
        if not self.pid:
            self._stopped.callback(None)
        else:
            self.send(encode_parent_message(Stop()))
            self._pipe_open = False
            self.transport.closeChildFD(FROM_PARENT)
            self._call = self._clock.callLater(seconds, self._kill)
        return self._stopped

    def _cancel(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _kill(self) -> None:
        self._call = None
        self._log.error("worker {worker} does not end in time, and is killed", worker=self.number)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess(number)

    # Twisted calls.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == TO_PARENT:
            self._read(data)
        else:
            *lines, self._errors = (self._errors + data).split(b"\n")
            self._errors = self._errors[-_MAX_LINE_BYTES:]
            for line in lines:
                self._log.error(
                    "worker {worker}: {text}",
                    worker=self.number,
                    text=line.decode("utf-8", "backslashreplace"),
                )

    def _read(self, data: bytes) -> None:
        try:
            for content in self._frames.feed(data):
                message = decode_worker_message(content)
                self._silent = 0
                self.serves = self.serves or isinstance(message, Serving)
                self._supervisor.on_message(self.number, message)
        except ValueError as error:
            sentence = "worker {worker} is killed: it sent a message that cannot be read: {error}"
            self._log.error(sentence, worker=self.number, error=str(error))
            self._signal(signal.SIGKILL)

    def childConnectionLost(self, childFD: int) -> None:
        if childFD == FROM_PARENT:
            self._pipe_open = False

    def processEnded(self, reason: Failure) -> None:
        pid, self.pid = self.pid, 0
        self._pipe_open = self.serves = False
        self._cancel()
        self._supervisor.on_end(self.number)
        if self._stopped is None:
            self._start_later(_ENDED, pid, _how(reason.value))
        else:
            self._stopped.callback(None)

    def _start_later(self, sentence: str, pid: int, how: str) -> None:
        if self._clock.seconds() - self._started >= _LONG_LIFE:
            self._restarts = 0
        pause = _PAUSES[min(self._restarts, len(_PAUSES) - 1)]
        self._restarts += 1
        self._log.error(sentence, worker=self.number, pid=pid, how=how, pause=pause)
        self._call = self._clock.callLater(pause, self.start)


def _how(reason: Any) -> str:
    number = getattr(reason, "signal", None)
    return (
        f"by signal {number}"
        if number is not None
        else f"with exit code {getattr(reason, 'exitCode', None)}"
    )


def _command(reactor: Any) -> list[str]:
    # -P: modules in a daemon's working directory must not be imported.
    return [sys.executable, "-P", "-m", "x509proxy.service.worker", type(reactor).__module__]


def _environment() -> dict[str, str]:
    """Return the parent's environment, with its module search path."""
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.startswith(os.sep)),
    }
