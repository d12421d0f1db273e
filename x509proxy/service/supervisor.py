"""Several processes that serve the same sockets, and the parent that binds these, starts the processes and starts them again.

Facts
-----
* The sockets are bound once and inherited. With ``SO_REUSEPORT`` each worker would have a queue of its own, and what has been
  connected but not accepted when it dies would be reset; of a shared one, another worker takes it.
* The parent has the configuration read, with rights that the workers need not have, and hands it down a pipe: not on a command
  line nor in an environment, which others can read.
* Whoever holds the other end of a pipe sees it close, however the holder has died: workers end with their parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
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
from x509proxy.service.ipc import Frames, Message, Task, frame, pack, read_message
from x509proxy.service.listening import ListeningEndpoint
from x509proxy.service.server import contexts_for

__all__ = ["FOR_THE_PARENT", "FROM_PARENT", "TO_PARENT", "WorkerSupervisor"]

FROM_PARENT, TO_PARENT = 3, 4
"""The descriptors of a worker's two pipes. After them come the access log and the sockets."""
FOR_THE_PARENT = (signal.SIGHUP, signal.SIGUSR1)
"""Signals that it catches, and tells its workers what is to be done; sent to all processes, they must not end a worker."""
_REST = 5
_PAUSES = (
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
    30.0,
)  # seconds, before a worker that has died is started again
_LONG = 60.0  # seconds; who has lived so long has not died of what is wrong at the start
_GRACE = 5.0  # seconds, beyond the stop timeout
_LOOK = 1.0  # seconds; workers report as often
# Looks without a report until a worker is taken to be stopped or to hang. They are counted, and not timed: a parent that was
# stopped itself has read no report.
_SILENT_LOOKS = 10
_SILENT_LOOKS_AT_START = 60
_LOOKS_UNSERVED = 10
_LARGEST_MESSAGE = 1 << 24
_LONGEST_LINE = 4096
_ENDED = "worker {worker} (process {pid}) has ended, {how}; another is started in {pause:g} s"
_NOT_STARTED = "worker {worker} cannot be started: {how}; it is tried again in {pause:g} s"
# What systemd tells one process only.
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


class WorkerSupervisor:
    """The parent's side.

    ``fleet``: what is known of the workers. ``not_used``: called with the reason why one of them does not serve by a new
    configuration; ``serves``: whenever one has begun to serve.
    """

    _log = Logger()

    def __init__(
        self, configuration: Configuration, reactor: Any, log_file: LogFile | None = None
    ) -> None:
        contexts_for(configuration)
        self.configuration = configuration
        self.not_used: Callable[[str], None] = lambda _: None
        self.serves: Callable[[], None] = lambda: None
        self.reactor = reactor
        self.counters = Counters()
        self.fleet = WorkerAggregate(
            SnapshotBuilder(self.counters, lambda: self.configuration).snapshot
        )
        self.workers = [
            _Worker(self, number) for number in range(1, configuration.settings.workers + 1)
        ]
        self._access_log = AccessLog(log_file, configuration, reactor)
        self._ports: list[IListeningPort] = []
        self._call: IDelayedCall | None = None
        self._unserved = 0

    @property
    def addresses(self) -> list[IAddress]:
        return [port.getHost() for port in self._ports]

    def listen(self, places: Sequence[ListeningEndpoint]) -> None:
        """Bind, and accept nothing: that is for the workers to do.

        :raises SettingsError: one of the places cannot be had; the others are given back by :meth:`stop`.
        """
        for place in places:
            port: Any = place.bind(_Closing())
            self._ports.append(port)
            port.stopReading()

    def start(self) -> None:
        """Start all workers."""
        for worker in self.workers:
            worker.start()
        self._look_later()

    def _look_later(self) -> None:
        self._call = self.reactor.callLater(_LOOK, self._look)

    def _look(self) -> None:
        """Find workers that are stopped or hang; and turn clients away while there is none to serve them."""
        self._look_later()
        for worker in self.workers:
            worker.look()
        self._unserved = 0 if any(worker.serves for worker in self.workers) else self._unserved + 1
        if self._unserved == _LOOKS_UNSERVED:
            self._log.error("no worker serves: connections are closed until one does")
            for port in self._ports:
                port.startReading()  # type: ignore[attr-defined]

    def _is_served(self) -> None:
        if self._unserved >= _LOOKS_UNSERVED:
            self._log.info("a worker serves again")
        self._unserved = 0
        for port in self._ports:
            port.stopReading()  # type: ignore[attr-defined]

    def use(self, configuration: Configuration) -> None:
        """Serve by another configuration.

        :raises SettingsError: OpenSSL does not take a certificate, a key or a list.
        """
        contexts_for(configuration)
        self.configuration = configuration
        self.tell(configuration)

    def snapshot(self) -> Snapshot:
        """What there is to see of all of them, for ``[admin]``."""
        return self.fleet.snapshot()

    def reopen_log(self) -> None:
        """Go on in the access log's new file, in all workers."""
        self._access_log.reopen()
        self.tell({"kind": "reopen log"})

    def tell(self, thing: Configuration | Message) -> None:
        """Say something to all workers."""
        data = frame(pack(thing))
        for worker in self.workers:
            worker.tell(data)

    def stop(self) -> Deferred[None]:
        """Have all workers end what is in flight, within ``drain_timeout``, and end."""
        ports, self._ports = self._ports, []
        self.fleet.draining = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        ends: list[Deferred[Any]] = [maybeDeferred(port.stopListening) for port in ports]
        ends += [
            worker.stop(self.configuration.settings.client.drain_timeout + _GRACE)
            for worker in self.workers
        ]
        return DeferredList(ends).addCallback(lambda _: self._access_log.close())

    # The workers' calls.

    def task(self) -> tuple[Task, dict[int, int]]:
        """What a new worker is to do, and which of our descriptors it needs for it under which numbers."""
        given: dict[int, int] = {}
        log: int | None = None
        if self._access_log.file is not None:
            log = _REST
            given[log] = self._access_log.file.fileno()
        sockets = []
        for number, port in enumerate(self._ports, _REST + 1):
            given[number] = port.fileno()  # type: ignore[attr-defined]
            sockets.append((number, int(port.addressFamily)))  # type: ignore[attr-defined]
        return Task(self.configuration, tuple(sockets), log), given

    def hear(self, number: int, message: Message) -> None:
        """A worker says something.

        :raises ValueError: something that nobody understands.
        """
        match message:
            case {
                "kind": "log",
                "level": str(level),
                "namespace": str(namespace),
                "text": str(text),
            }:
                Logger(namespace=namespace).emit(
                    _level(level), "worker {worker}: {text}", worker=number, text=text
                )
            case {"kind": "snapshot", "snapshot": table}:
                self.fleet.heard(number, Snapshot.told(table))
            case {"kind": "serving"}:
                self._is_served()
                self.serves()
            case {"kind": "alive"}:
                pass
            case {"kind": "not used", "error": str(sentence)}:
                self.not_used(f"worker {number}: {sentence}")
            case _:
                raise ValueError(
                    f"found a message of the kind {message['kind']!r}, expected a known one"
                )


def _level(name: str) -> Any:
    return next((level for level in LogLevel.iterconstants() if level.name == name), LogLevel.error)


class _Worker(ProcessProtocol):
    """One of the crew, from the first of its processes to the last. ``serves``: whether this one has begun to."""

    transport: Any

    def __init__(self, crew: WorkerSupervisor, number: int) -> None:
        self.pid = 0
        self.number = number
        self._crew = crew
        self._clock = crew.reactor
        self._log = Logger(namespace=f"{__name__}.Crew")
        self._deaths = 0
        self._born = 0.0
        self.serves = False
        self._silent = 0
        self._call: IDelayedCall | None = None
        self._pipe_open = False
        self._stopped: Deferred[None] | None = None

    def start(self) -> None:
        """Start a process. Its task goes through the pipe."""
        task, given = self._crew.task()
        self._call = None
        self._frames, self._errors, self._born = (
            Frames(_LARGEST_MESSAGE),
            b"",
            self._clock.seconds(),
        )
        try:
            process = self._spawn({0: 0, 1: 1, 2: "r", FROM_PARENT: "w", TO_PARENT: "r", **given})
        except OSError as error:
            # No memory, or too many processes: later there may be room.
            self._start_later(_NOT_STARTED, 0, os.strerror(error.errno or 0))
            return
        self.pid, self._pipe_open, self._silent = process.pid, True, 0
        self.tell(frame(pack(task)))

    def _spawn(self, numbers: dict[int, Any]) -> Any:
        # What is held back here is held back there from the first moment on; what is only ignored, Twisted sets back.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PARENT)
        try:
            return self._clock.spawnProcess(
                self, sys.executable, _command(self._clock), _environment(), childFDs=numbers
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def look(self) -> None:
        """Kill a process that has been silent for too long; the signal ends one that is stopped, too."""
        self._silent += 1
        limit = _SILENT_LOOKS if self.serves else _SILENT_LOOKS_AT_START
        if self.pid and self._silent == limit:
            sentence = (
                "worker {worker} (process {pid}) has not reported for {looks} s, and is killed"
            )
            self._log.error(sentence, worker=self.number, pid=self.pid, looks=limit)
            self._signal(signal.SIGKILL)

    def tell(self, data: bytes) -> None:
        """Write down its pipe; one that is going hears nothing."""
        if self._pipe_open:
            self.transport.writeToChild(FROM_PARENT, data)

    def stop(self, seconds: float) -> Deferred[None]:
        """Have it end by itself, or after so many seconds at the latest; none is started again."""
        self._stopped = Deferred()
        self._cancel()
        if not self.pid:
            self._stopped.callback(None)
        else:
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
            self._hear(data)
        else:
            *lines, self._errors = (self._errors + data).split(b"\n")
            self._errors = self._errors[-_LONGEST_LINE:]
            for line in lines:
                self._log.error(
                    "worker {worker}: {text}",
                    worker=self.number,
                    text=line.decode("utf-8", "backslashreplace"),
                )

    def _hear(self, data: bytes) -> None:
        try:
            for content in self._frames.feed(data):
                message = read_message(content)
                self._silent = 0
                self.serves = self.serves or message["kind"] == "serving"
                self._crew.hear(self.number, message)
        except ValueError as error:
            # It is not one of ours any more.
            sentence = "worker {worker} says what nobody understands, and is killed: {error}"
            self._log.error(sentence, worker=self.number, error=str(error))
            self._signal(signal.SIGKILL)

    def childConnectionLost(self, childFD: int) -> None:
        if childFD == FROM_PARENT:
            self._pipe_open = False

    def processEnded(self, reason: Failure) -> None:
        pid, self.pid = self.pid, 0
        self._pipe_open = self.serves = False
        self._cancel()
        self._crew.fleet.ended(self.number)
        if self._stopped is None:
            self._start_later(_ENDED, pid, _how(reason.value))
        else:
            self._stopped.callback(None)

    def _start_later(self, sentence: str, pid: int, how: str) -> None:
        if self._clock.seconds() - self._born >= _LONG:
            self._deaths = 0
        pause = _PAUSES[min(self._deaths, len(_PAUSES) - 1)]
        self._deaths += 1
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
    # -P: a daemon's folder is not one to import from.
    return [sys.executable, "-P", "-m", "x509proxy.service.worker", type(reactor).__module__]


def _environment() -> dict[str, str]:
    """Ours, with what makes the worker find the modules that we have found."""
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.startswith(os.sep)),
    }
