"""One of several processes that serve: ``python -m x509proxy.service.worker REACTOR``, started by :mod:`x509proxy.service.supervisor` alone.

It reads no files: what it is to do, and all it needs for it, comes through a pipe. When that pipe closes, be it that the parent
wants so or that there is no parent any more, it accepts nothing more and ends when what is in flight has ended.
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

from x509proxy.config.loader import Configuration
from x509proxy.service.access_log import LogFile
from x509proxy.service.gc_tuning import relax_collector
from x509proxy.service.ipc import Frames, Message, Task, frame, unpack, write_message
from x509proxy.service.supervisor import FOR_THE_PARENT, FROM_PARENT, TO_PARENT
from x509proxy.settings import SettingsError
from x509proxy.transport.monotonic import use_monotonic_time
from x509proxy.upstream.name_resolver import NameResolver

__all__ = ["Worker", "main"]

# Of events by Twisted's old interface, such as "… starting on 8443".
_NAMESPACES = {"log_legacy": "twisted"}
_QUIET = frozenset({LogLevel.debug})
_REPORTS = (
    1.0  # seconds between two signs of life, or snapshots where the parent has an admin listener
)


@implementer(IHalfCloseableProtocol, IPushProducer)
class Worker(Protocol):
    """What its parent says is done."""

    transport: Any
    _log = Logger(namespace="x509proxy.service.worker.Worker")

    def __init__(self, reactor: Any) -> None:
        from x509proxy.service.server import ProxyServer

        self.exit_code = 0
        self.running: ProxyServer | None = None
        self._reactor = reactor
        self._frames = Frames()
        self._full = False
        self._mute = False
        self._said: Deferred[None] | None = None
        self._ending = False
        reactor.addSystemEventTrigger("before", "shutdown", self._drain)

    def say(self, message: Message) -> None:
        """Say something to the parent; while that does not listen, it is lost: nothing piles up."""
        if not self._full:
            self.transport.write(frame(write_message(message)))

    def log(self, event: LogEvent) -> None:
        """A log observer: what is written goes into the parent's log."""
        if event["log_level"] not in _QUIET:
            text = eventAsText(event, includeTimestamp=False, includeSystem=False)
            namespace = event.get("log_namespace", "-")
            self.say(
                {
                    "kind": "log",
                    "level": event["log_level"].name,
                    "namespace": _NAMESPACES.get(namespace, namespace),
                    "text": text,
                }
            )

    def end(self, exit_code: int = 0) -> None:
        """Accept no more, and end when what is in flight has ended."""
        if not self._ending:
            self._ending = True
            self.exit_code = exit_code
            self._reactor.stop()

    def _drain(self) -> Deferred[None]:
        """What the reactor waits for before it stops: what is in flight, and then what is still to be said."""
        self._ending = True
        stopped: Deferred[None] = self.running.stop() if self.running is not None else succeed(None)
        return stopped.addCallback(lambda _: self._say_the_rest())

    def _say_the_rest(self) -> Deferred[None]:
        said: Deferred[None] = Deferred()
        if self._mute:
            said.callback(None)
        else:
            self._said = said
            self.transport.loseConnection()
        return said

    # Twisted calls: the pipes.

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, streaming=True)

    def dataReceived(self, data: bytes) -> None:
        try:
            for content in self._frames.feed(data):
                self._take(unpack(content))
        except Exception:
            # Of any kind: another version may be on the disk by now than the one that the parent has in memory.
            self._log.failure(
                "the parent says what cannot be done, be it that x509proxy is another one since its start"
            )
            self.end(1)

    def readConnectionLost(self) -> None:
        self.end()

    def writeConnectionLost(self) -> None:
        self._full = self._mute = True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._full = self._mute = True
        if self._said is not None:
            self._said.callback(None)
        self.end()

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False

    def stopProducing(self) -> None:
        self._full = True

    # Inside.

    def _take(self, thing: Any) -> None:
        match thing:
            case Task():
                self._begin(thing)
            case Configuration():
                self._use(thing)
            case {"kind": "reopen log"}:
                assert self.running is not None
                self.running.reopen_log()
            case _:
                raise ValueError("found a message that nobody understands")

    def _begin(self, task: Task) -> None:
        from x509proxy.service.server import ProxyServer

        path = task.configuration.settings.access_log
        log = LogFile(path, task.access_log) if path is not None else None
        self.running = ProxyServer(task.configuration, self._reactor, log)
        self.running.adopt(task.sockets)
        relax_collector()
        self.say({"kind": "serving"})
        watched = task.configuration.settings.admin is not None
        reporting = LoopingCall(self._report if watched else self._live)
        reporting.clock = self._reactor
        reporting.start(_REPORTS, now=watched)

    def _live(self) -> None:
        """Have the parent know that this process is not stopped, and does not hang."""
        self.say({"kind": "alive"})

    def _report(self) -> None:
        assert self.running is not None
        try:
            self.say({"kind": "snapshot", "snapshot": self.running.snapshot()})
        except Exception:
            # Or the loop would end with it, and the parent would take this worker for dead.
            self._log.failure("no snapshot could be made for the parent")

    def _use(self, configuration: Configuration) -> None:
        assert self.running is not None
        try:
            self.running.use(configuration)
        except SettingsError as error:
            self.say({"kind": "not used", "error": str(error)})
        except Exception as error:
            # The old one goes on serving; to end here would be to end everywhere.
            self._log.failure("a new configuration could not be used")
            self.say(
                {"kind": "not used", "error": f"found an error of the kind {type(error).__name__}"}
            )


def main(reactor_module: str) -> int:
    """Serve with the reactor of that module, until the parent says so or a signal comes; the exit code."""
    namedModule(reactor_module).install()
    from twisted.internet import reactor

    return serve(reactor)


def serve(reactor: Any) -> int:
    """The same, with a reactor that there is."""
    use_monotonic_time(reactor)
    reactor.installNameResolver(NameResolver(reactor))
    # The parent holds them back as it starts a worker: those that have come by now go, like those to come.
    for number in FOR_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    worker = Worker(reactor)
    # Ctrl-C and systemd tell all processes at once, and so the parent's word comes too: Twisted's own handlers would end twice.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: reactor.callFromThread(worker.end))
    # Twisted's hint names the Windows one.
    StandardIO(worker, FROM_PARENT, TO_PARENT, reactor)  # type: ignore[call-arg]
    globalLogBeginner.beginLoggingTo([worker.log])  # type: ignore[list-item]  # a method is an observer too
    reactor.run(installSignalHandlers=False)
    return worker.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
