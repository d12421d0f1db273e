"""Promises of :mod:`x509proxy.service.supervisor` and :mod:`x509proxy.service.worker`: the parent and a worker in memory, then real ones."""

from __future__ import annotations

import os
import pickle
import re
import runpy
import signal
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, capturedLogs, globalLogBeginner
from twisted.trial.unittest import SynchronousTestCase

from tests.support.client_load import ClientLoad
from tests.support.daemons import ROOT, TWISTD, Daemon, DaemonTestCase, is_running, nobody_can_run
from tests.support.parent_reactor import FakeProcess, ParentReactor
from tests.support.raw_tls import get, read_reply, read_to_end, until
from tests.support.services import ProxyFiles, parse_options
from tests.support.snapshots import snapshot
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.config.loader import Configuration
from x509proxy.monitoring.snapshot import WorkerState
from x509proxy.service import worker as worker_module
from x509proxy.service.access_log import LogFile
from x509proxy.service.ipc import (
    Alive,
    Frames,
    NewConfiguration,
    ReopenLog,
    Task,
    Used,
    decode_worker_message,
    encode_parent_message,
    frame,
)
from x509proxy.service.proxy_service import ProxyService
from x509proxy.service.supervisor import FROM_PARENT, TO_PARENT, WorkerSupervisor
from x509proxy.service.worker import Worker
from x509proxy.settings import SettingsError

_ran: list[object] = []


class Pickled:
    """An object whose pickle runs code where it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _run, ()


def _run() -> None:
    _ran.append(1)


class InMemory(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = ProxyFiles(self.mktemp())
        self.reactor = ParentReactor()
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))

    def configuration(self, *more: str) -> Configuration:
        options = parse_options(
            *self.files.arguments("--listen", "tcp:1", "--listen", "tcp:2", "--workers", "2", *more)
        )
        assert options.configuration is not None
        return options.configuration


class Parent(InMemory):
    def make(self, *more: str) -> ProxyService:
        service = ProxyService(self.configuration(*more), self.reactor)
        assert isinstance(service.serving, WorkerSupervisor)
        self.supervisor = service.serving
        self.service = service
        return service

    def start(self, *more: str) -> list[FakeProcess]:
        service = self.make(*more)
        service.privilegedStartService()
        self.assertEqual([], self.reactor.processes)
        service.startService()
        self.assertEqual(2, len(self.reactor.processes))
        return list(self.reactor.processes)

    def test_start(self) -> None:
        """The parent binds and does not accept; the workers get sockets, pipes and a task, in their arguments no secret."""
        log = self.files.folder / "access.log"
        first, second = self.start("--access-log", str(log))
        self.assertEqual(
            [(1, False, True), (2, False, True)],
            [(p.number, p.reading, p.listening) for p in self.reactor.ports],
        )
        self.assertEqual([1, 2], self.service.addresses)
        self.assertEqual(
            [sys.executable, "-P", "-m", "x509proxy.service.worker", ParentReactor.__module__],
            first.arguments,
        )
        self.assertEqual(
            {0: 0, 1: 1, 2: "r", 3: "w", 4: "r", 6: 101, 7: 102},
            {k: v for k, v in first.numbers.items() if k != 5},
        )
        self.assertEqual(os.fstat(first.numbers[5]).st_ino, log.stat().st_ino)
        for process in (first, second):
            [task] = process.received
            self.assertIsInstance(task, Task)
            self.assertEqual((((6, 2), (7, 2)), 5), (task.sockets, task.access_log))
            self.assertEqual(self.supervisor.configuration.rules, task.configuration.load().rules)

    def test_no_access_log(self) -> None:
        """Without an access log none is handed down."""
        self.assertNotIn(5, self.start()[0].numbers)

    def test_environment(self) -> None:
        """What systemd says to one process alone does not go down, and modules are found where the parent has found them."""
        self.patch(
            os,
            "environ",
            {"A": "b", "LISTEN_FDS": "1", "NOTIFY_SOCKET": "/run/n", "LISTEN_PID": "1"},
        )
        environment = self.start()[0].environment
        self.assertEqual(["A", "PYTHONPATH"], sorted(environment))
        self.assertIn(str(ROOT), environment["PYTHONPATH"].split(os.pathsep))
        self.assertNotIn("", environment["PYTHONPATH"].split(os.pathsep))

    def test_signals(self) -> None:
        """A worker is started deaf to the parent's signals, and the parent hears as before, also when none could be started."""
        before = {signal.SIGWINCH}
        self.addCleanup(
            signal.pthread_sigmask,
            signal.SIG_SETMASK,
            signal.pthread_sigmask(signal.SIG_SETMASK, before),
        )
        first, _ = self.start()
        self.assertEqual({signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH}, first.deaf_to)
        self.assertEqual(before, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        self.reactor.refusals = 1
        first.ends(by=9)
        self.reactor.advance(1)
        self.assertEqual(before, signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    def test_bad(self) -> None:
        """What OpenSSL does not take ends the start, with workers as without."""
        configuration = self.configuration()
        tampered = attrs.evolve(
            configuration.identity, private_key=make_self_signed(KeyKind.EC, "other").private_key
        )
        self.assertRaises(
            SettingsError,
            WorkerSupervisor,
            attrs.evolve(configuration, identity=tampered),
            self.reactor,
        )

    def test_reload(self) -> None:
        """What has been read and checked goes to every worker, and to those that are started later."""
        first, second = self.start()
        self.files.renew()
        self.service.reload()
        for process in (first, second):
            _, message = process.received
            self.assertEqual(self.files.server.certificate, message.load().identity.certificate)
        first.ends(by=9)
        self.reactor.advance(1)
        [task] = self.reactor.processes[2].received
        self.assertEqual(
            self.files.server.certificate, task.configuration.load().identity.certificate
        )

    def test_swapped_key(self) -> None:
        """A worker that is started again gets the files that the parent has read, not those of then."""
        first, _ = self.start()
        before = self.files.server.certificate
        self.files.renew()
        first.ends(by=9)
        self.reactor.advance(1)
        [task] = self.reactor.processes[2].received
        found = task.configuration.load().identity
        self.assertEqual(before, found.certificate)
        self.assertEqual(before.public_key(), found.private_key.public_key())

    def test_not_to_be_sent(self) -> None:
        """A configuration that cannot be sent ends the start, and fails a reload before it is used."""
        first, second = self.start()
        before = self.supervisor.configuration
        unsendable = attrs.evolve(
            before, settings=msgspec.structs.replace(before.settings, certificate="\udcff")
        )
        self.assertRaises(SettingsError, WorkerSupervisor, unsendable, self.reactor)
        self.assertRaises(SettingsError, self.supervisor.use, unsendable)
        self.assertIs(before, self.supervisor.configuration)
        self.assertEqual((1, 1), (len(first.received), len(second.received)))

    def test_broken_reload(self) -> None:
        """What is broken reaches no worker."""
        first, _ = self.start()
        self.files.certificate.write_bytes(b"nothing")
        self.service.reload()
        self.assertEqual(1, len(first.received))
        assert self.service.reloading.last is not None
        self.assertIn("server.pem", self.service.reloading.last.error)

    def results(self) -> dict[str, int]:
        """Return how many reloads have been counted, by their results."""
        return self.supervisor.snapshot().counts.reloads

    def test_used(self) -> None:
        """A reload counts once, and when all workers have reported; one that has no process does not report."""
        first, second = self.start()
        self.service.reload()
        self.assertIsNone(self.service.reloading.last)
        first.sends({"kind": "used"})
        self.assertIsNone(self.service.reloading.last)
        second.sends({"kind": "used"})
        second.sends({"kind": "used"})
        assert self.service.reloading.last is not None
        self.assertTrue(self.service.reloading.last.ok)
        self.assertEqual({"success": 1, "failure": 0}, self.results())
        second.ends(by=9)
        self.service.reload()
        first.sends({"kind": "used"})
        self.assertEqual({"success": 2, "failure": 0}, self.results())

    def test_not_used(self) -> None:
        """One that cannot use it makes the reload a failure, once, when all have reported."""
        first, second = self.start()
        self.service.reload()
        with capturedLogs() as events:
            first.sends({"kind": "not used", "error": "certificate: of another planet"})
            self.assertIsNone(self.service.reloading.last)
            second.sends({"kind": "used"})
        assert self.service.reloading.last is not None
        self.assertEqual(
            "worker 1: certificate: of another planet", self.service.reloading.last.error
        )
        self.assertEqual(1, len(events))
        self.assertEqual({"success": 0, "failure": 1}, self.results())

    def test_used_by_none(self) -> None:
        """The sentences of many workers are one, with the number of the others."""
        first, second = self.start()
        self.service.reload()
        second.sends({"kind": "not used", "error": "certificate: of another planet"})
        first.ends(by=9)
        assert self.service.reloading.last is not None
        self.assertEqual(
            "worker 2: certificate: of another planet (and 1 more workers)",
            self.service.reloading.last.error,
        )
        self.assertEqual({"success": 0, "failure": 1}, self.results())

    def test_dies_of_it(self) -> None:
        """One that ends before it reports makes the reload a failure; its next process reports no more."""
        first, second = self.start()
        self.service.reload()
        second.sends({"kind": "used"})
        first.ends(by=11)
        assert self.service.reloading.last is not None
        self.assertEqual(
            "worker 1: its process ended before it used the new configuration",
            self.service.reloading.last.error,
        )
        self.reactor.advance(1)
        self.reactor.processes[2].sends({"kind": "serving"})
        self.assertEqual({"success": 0, "failure": 1}, self.results())

    def test_reload_meanwhile(self) -> None:
        """A second reload waits for the reports of the first, and then reads the files of then."""
        first, second = self.start()
        self.service.reload()
        self.files.renew()
        self.service.reload()
        self.assertEqual(2, len(first.received))
        for process in (first, second):
            process.sends({"kind": "used"})
        self.assertEqual(3, len(first.received))
        self.assertEqual(
            self.files.server.certificate, first.received[2].load().identity.certificate
        )
        for process in (first, second):
            process.sends({"kind": "used"})
        self.assertEqual({"success": 2, "failure": 0}, self.results())

    def test_stop_meanwhile(self) -> None:
        """The end of the service ends a reload, too."""
        first, second = self.start()
        self.service.reload()
        stopped = self.service.stopService()
        for process in (first, second):
            process.ends(code=0)
        self.successResultOf(stopped)
        self.assertFalse(self.service.reloading.is_running)

    def test_back_off(self) -> None:
        """One that dies is started again after 1, 2, 4, 8, 16, 30, 30 … seconds, and after a minute of life after 1 again."""
        first, _ = self.start()
        process = first
        for pause in (1, 2, 4, 8, 16, 30, 30):
            with capturedLogs() as events:
                process.ends(by=9)
            [event] = events
            self.assertEqual(
                ("by signal 9", pause, 1), (event["how"], event["pause"], event["worker"])
            )
            count = len(self.reactor.processes)
            self.reactor.advance(pause - 0.1)
            self.assertEqual(count, len(self.reactor.processes))
            self.reactor.advance(0.2)
            self.assertEqual(count + 1, len(self.reactor.processes))
            process = self.reactor.processes[-1]
        self.reactor.advance(61)
        with capturedLogs() as events:
            process.ends(code=3)
        self.assertEqual(("with exit code 3", 1), (events[0]["how"], events[0]["pause"]))

    def test_not_started(self) -> None:
        """One that cannot be started, for lack of memory or of processes, is tried again; meanwhile the others are told."""
        first, second = self.start()
        self.reactor.refusals = 2
        with capturedLogs() as events:
            first.ends(by=9)
            self.reactor.advance(1)
        self.assertEqual([1, 2], [event["pause"] for event in events])
        self.assertEqual("Resource temporarily unavailable", events[1]["how"])
        self.supervisor.broadcast(ReopenLog())
        self.assertEqual([ReopenLog()], second.received[1:])
        with capturedLogs() as events:
            self.reactor.advance(2)
        self.assertEqual([4], [event["pause"] for event in events])
        self.reactor.advance(4)
        self.assertEqual(3, len(self.reactor.processes))
        self.assertEqual(1, len(self.reactor.processes[-1].received))

    def test_broadcast(self) -> None:
        """A message goes to all that live; one that is going, or waits to be started again, hears nothing."""
        first, second = self.start()
        first.protocol.childConnectionLost(FROM_PARENT)
        first.protocol.childConnectionLost(2)
        self.supervisor.broadcast(ReopenLog())
        self.assertEqual((1, [ReopenLog()]), (len(first.received), second.received[1:]))

    def test_reopen(self) -> None:
        """That the access log is another file now is told to all."""
        first, _ = self.start("--access-log", str(self.files.folder / "access.log"))
        self.supervisor.reopen_log()
        self.assertEqual([ReopenLog()], first.received[1:])

    def test_messages(self) -> None:
        """A worker that says what nobody here knows is another program, and is killed."""
        first, second = self.start()
        first.sends({"kind": "serving"})
        with capturedLogs() as events:
            second.sends({"kind": "nonsense"})
        self.assertEqual(([], [signal.SIGKILL]), (first.signals, second.signals))
        self.assertIn("nonsense", str(events[0]["error"]))

    def tick(self, seconds: int) -> None:
        for _ in range(seconds):
            self.reactor.advance(1)

    def test_silent(self) -> None:
        """One that served and says nothing any more, since it is stopped or hangs, is killed, and another is started."""
        first, second = self.start()
        first.sends({"kind": "serving"})
        second.sends({"kind": "serving"})
        for _ in range(20):
            self.tick(1)
            second.sends({"kind": "alive"})
        self.assertEqual(([signal.SIGKILL], []), (first.signals, second.signals))
        first.ends(by=9)
        self.tick(1)
        self.assertEqual(3, len(self.reactor.processes))

    def test_silent_at_its_start(self) -> None:
        """One that has not yet served has more time: a machine may be busy. One that is dead is nobody to be killed."""
        first, second = self.start()
        second.ends(by=9)
        self.tick(59)
        self.assertEqual([], first.signals)
        self.tick(2)
        self.assertEqual(([signal.SIGKILL], []), (first.signals, second.signals))

    def test_parent_that_was_stopped(self) -> None:
        """A parent that was stopped itself, and so has read nothing, blames no worker for that."""
        first, second = self.start()
        first.sends({"kind": "serving"})
        self.reactor.advance(3600)
        self.assertEqual([], [*first.signals, *second.signals])

    def test_nobody_serves(self) -> None:
        """While no worker has served for ten seconds, clients are turned away, and not left in the queue; until one serves."""
        _, second = self.start()
        self.tick(9)
        self.assertFalse(any(port.reading for port in self.reactor.ports))
        with capturedLogs() as events:
            self.tick(2)
        self.assertTrue(all(port.reading for port in self.reactor.ports))
        self.assertIs(None, self.reactor.ports[0].factory.buildProtocol(None))
        [event] = events
        self.assertEqual(LogLevel.error, event["log_level"])
        second.sends({"kind": "serving"})
        self.tick(20)
        self.assertFalse(any(port.reading for port in self.reactor.ports))
        second.ends(by=9)
        self.tick(11)
        self.assertTrue(all(port.reading for port in self.reactor.ports))

    def test_log(self) -> None:
        """A worker's log line is in the parent's log, with its number, its level and its place."""
        first, _ = self.start()
        for level, expected in (("warn", LogLevel.warn), ("shouting", LogLevel.error)):
            with capturedLogs() as events:
                first.sends(
                    {
                        "kind": "log",
                        "level": level,
                        "namespace": "x509proxy.service.access_log",
                        "text": "a {brace}",
                    }
                )
            [event] = events
            self.assertEqual(
                (expected, "x509proxy.service.access_log"),
                (event["log_level"], event["log_namespace"]),
            )
            self.assertEqual("worker 1: a {brace}", event["log_format"].format(**event))

    def test_last_words(self) -> None:
        """What a worker writes to its standard error, line by line, is in the log too; a line without an end takes no memory."""
        first, _ = self.start()
        with capturedLogs() as events:
            first.protocol.childDataReceived(2, b"one\nt")
            first.protocol.childDataReceived(2, b"wo\xff\n" + b"x" * 100000)
        self.assertEqual(["one", "two\\xff"], [event["text"] for event in events])
        self.assertLess(len(first.protocol._errors), 5000)

    def test_garbage(self) -> None:
        """A worker that says what is no message is none of ours: it is killed, which it may have been already."""
        first, second = self.start()
        for process, data in ((first, b"\xff\xff\xff\xff"), (second, frame(b"not JSON"))):
            with capturedLogs() as events:
                process.protocol.childDataReceived(TO_PARENT, data)
            self.assertEqual([LogLevel.error], [event["log_level"] for event in events])
            self.assertEqual([signal.SIGKILL], process.signals)
            process.protocol.childDataReceived(TO_PARENT, frame(b"not JSON"))

    def test_stop(self) -> None:
        """The end comes when the last worker has ended, and none is started again."""
        first, second = self.start()
        stopped = self.service.stopService()
        self.assertEqual(
            ([True, True], [False, False]),
            ([one.closed for one in (first, second)], [p.listening for p in self.reactor.ports]),
        )
        first.ends(code=0)
        self.assertNoResult(stopped)
        self.supervisor.broadcast(ReopenLog())
        second.ends(code=0)
        self.successResultOf(stopped)
        self.assertEqual([], self.reactor.getDelayedCalls())
        self.assertEqual(2, len(self.reactor.processes))

    def test_stop_while_dead(self) -> None:
        """One that waits to be started again is not."""
        first, second = self.start()
        first.ends(by=9)
        stopped = self.service.stopService()
        second.ends(code=0)
        self.successResultOf(stopped)
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_kill(self) -> None:
        """One that does not end within the stop timeout, and a little more, is killed."""
        first, second = self.start()
        stopped = self.service.stopService()
        second.ends(code=0)
        self.reactor.advance(34.9)
        self.assertEqual([], first.signals)
        self.reactor.advance(0.2)
        self.assertEqual([signal.SIGKILL], first.signals)
        first.ends(by=9)
        self.successResultOf(stopped)

    def test_stop_seen(self) -> None:
        """From the first moment of the end on nobody is told that it is ready, and who has ended is not shown any more."""
        first, _ = self.start()
        first.sends(
            {
                "kind": "snapshot",
                "snapshot": msgspec.to_builtins(
                    snapshot(workers=(WorkerState(pid=1000, started=1.0),))
                ),
            }
        )
        self.assertEqual(
            (True, 1), (self.supervisor.snapshot().ready, len(self.supervisor.snapshot().workers))
        )
        self.service.stopService()
        self.assertEqual(
            (True, False), (self.supervisor.snapshot().draining, self.supervisor.snapshot().ready)
        )
        first.ends(code=0)
        self.assertEqual((), self.supervisor.snapshot().workers)

    def test_death_seen(self) -> None:
        """One that has died is not among those that serve, from this moment on."""
        first, _ = self.start()
        first.sends({"kind": "snapshot", "snapshot": msgspec.to_builtins(snapshot())})
        self.assertTrue(self.supervisor.snapshot().ready)
        first.ends(by=9)
        self.assertEqual(
            (False, False), (self.supervisor.snapshot().draining, self.supervisor.snapshot().ready)
        )

    def test_unstarted(self) -> None:
        """One that was never started can be stopped."""
        self.successResultOf(self.make().stopService())


class WorkerReactor(ParentReactor):
    """A reactor that runs until it is told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.stops = 0

    def run(self, *, installSignalHandlers: bool = True) -> None:
        assert not installSignalHandlers
        self.hasRun = True

    def callFromThread(self, call: Any) -> None:
        call()

    def stop(self) -> None:
        self.stops += 1

    def shutdown(self) -> Any:
        """What happens before it stops."""
        [(call, arguments, named)] = self.triggers["before"]["shutdown"]
        return call(*arguments, **named)


class Child(InMemory):
    reactor: WorkerReactor

    def setUp(self) -> None:
        super().setUp()
        self.reactor = WorkerReactor()
        self.pipe = StringTransport()
        self.relaxed: list[int] = []
        self.patch(
            worker_module, "relax_collector", lambda: self.relaxed.append(len(self.reactor.ports))
        )
        self.worker = Worker(self.reactor)
        self.worker.makeConnection(self.pipe)  # type: ignore[no-untyped-call]

    def said(self) -> list[Any]:
        return [msgspec.json.decode(content) for content in Frames().feed(self.pipe.value())]

    def receive(self, message: Any) -> None:
        self.worker.dataReceived(encode_parent_message(message))

    def begin(self, *more: str) -> None:
        configuration = self.configuration(*more)
        log = None
        if configuration.settings.access_log is not None:
            log = os.dup(LogFile(configuration.settings.access_log).fileno())
        self.receive(Task(NewConfiguration.of(configuration), ((6, 2), (7, 2)), log))
        self.assertEqual({"kind": "serving"}, self.said()[0])

    def test_task(self) -> None:
        """It listens at the sockets that it was given, with the configuration that it was given, and reads no file for it."""
        configuration = self.configuration()
        for path in (self.files.key, self.files.certificate, self.files.header):
            path.unlink()
        self.receive(Task(NewConfiguration.of(configuration), ((6, 2), (7, 2))))
        self.assertEqual([6, 7], [port.number for port in self.reactor.ports])
        assert self.worker.running is not None
        self.assertEqual([6, 7], self.worker.running.addresses)

    def test_collector(self) -> None:
        """What is there once it serves is no business of the garbage collector's."""
        self.begin()
        self.assertEqual([2], self.relaxed)

    def test_use(self) -> None:
        """Another configuration is used, and it says so."""
        self.begin()
        self.files.renew()
        self.receive(NewConfiguration.of(self.configuration()))
        assert self.worker.running is not None
        self.assertEqual(
            self.files.server.certificate, self.worker.running.configuration.identity.certificate
        )
        self.assertEqual([{"kind": "used"}], self.said()[1:])

    def test_warnings(self) -> None:
        """The parent has printed the warnings of a configuration, so that a worker does not."""
        self.files.write("proxy.toml", b'backend = "http://192.0.2.1"\n')
        more = ("--config", str(self.files.folder / "proxy.toml"))
        arguments = self.files.arguments("--listen", "tcp:2", "--workers", "2", *more)
        place = arguments.index("--backend")
        options = parse_options(*arguments[:place], *arguments[place + 2 :])
        assert options.configuration is not None
        self.assertTrue(options.configuration.warnings)
        message = NewConfiguration.of(options.configuration)
        with capturedLogs() as events:
            self.receive(Task(message, ((6, 2),)))
            self.receive(message)
        self.assertEqual([], [e for e in events if e["log_level"] >= LogLevel.warn])
        assert self.worker.running is not None
        self.assertEqual((), self.worker.running.configuration.warnings)

    def test_not_used(self) -> None:
        """One that OpenSSL does not take is not used, and it says why."""
        self.begin()
        found = self.configuration()
        # OpenSSL is the judge, as of a key that it does not accept.
        self.patch(SSL.Context, "use_certificate", self.reject)
        self.receive(NewConfiguration.of(found))
        [message] = self.said()[1:]
        self.assertEqual("not used", message["kind"])
        self.assertIn("certificate: OpenSSL does not take it", message["error"])

    def reject(self, *_: object) -> None:
        raise SSL.Error([("x", "y", "z")])

    def test_unexpected(self) -> None:
        """Whatever else goes wrong with one, the old one goes on serving."""
        self.begin()
        assert self.worker.running is not None
        self.patch(self.worker.running, "use", lambda _: 1 / 0)
        self.receive(NewConfiguration.of(self.configuration()))
        self.assertEqual(
            [{"kind": "not used", "error": "found an error of the kind ZeroDivisionError"}],
            self.said()[1:],
        )
        self.assertEqual(
            (1, 0), (len(self.flushLoggedErrors(ZeroDivisionError)), self.reactor.stops)
        )

    def test_missing_file(self) -> None:
        """A configuration whose files are not in the message is not used, though they are on the disk."""
        self.begin()
        self.receive(NewConfiguration(self.configuration().settings, {}))
        [message] = self.said()[1:]
        self.assertEqual("not used", message["kind"])
        self.assertIn("Not among the files of the parent", message["error"])

    def test_bad_task(self) -> None:
        """A task that it cannot load ends it, with the sentence and exit code 1."""
        with capturedLogs() as events:
            self.receive(Task(NewConfiguration(self.configuration().settings, {}), ()))
        self.assertEqual((1, 1), (self.reactor.stops, self.worker.exit_code))
        [event] = events
        self.assertIn("Not among the files of the parent", event["error"])

    def assert_other_version(self, data: bytes) -> None:
        """It ends with one sentence, exit code 1, and no traceback."""
        with capturedLogs() as events:
            self.worker.dataReceived(data)
        [event] = events
        self.assertEqual(
            "cannot decode a message from the parent; was x509proxy upgraded without a restart?",
            event["log_format"],
        )
        self.assertNotIn("log_failure", event)
        self.assertEqual((1, 1), (self.reactor.stops, self.worker.exit_code))

    def test_message(self) -> None:
        """A message of an unknown kind is one of another version: it ends."""
        self.begin()
        self.assert_other_version(frame(b'{"kind":"unknown"}'))

    def test_version(self) -> None:
        """A task of another version is not carried out."""
        message = Task(NewConfiguration.of(self.configuration()), ((6, 2), (7, 2)), version="1.0")
        self.assert_other_version(encode_parent_message(message))
        self.assertIsNone(self.worker.running)
        self.assertEqual([], self.reactor.ports)

    def test_pickle(self) -> None:
        """A pickle is not loaded."""
        ran: list[object] = []
        self.patch(sys.modules[__name__], "_ran", ran)
        self.assert_other_version(frame(pickle.dumps(Pickled())))
        self.assertEqual([], ran)
        self.assertIsNone(pickle.loads(pickle.dumps(Pickled())))  # noqa: S301 - the test's own
        self.assertEqual([1], ran)

    def test_too_long(self) -> None:
        """A frame that is too long ends it before its content has come."""
        self.assert_other_version(b"\xff\xff\xff\xff")

    def test_truncated(self) -> None:
        """A message that is cut off is not carried out, and the end of the pipe ends it as always."""
        message = Task(NewConfiguration.of(self.configuration()), ((6, 2), (7, 2)))
        self.worker.dataReceived(encode_parent_message(message)[:-1])
        self.successResultOf(self.end())
        self.assertIsNone(self.worker.running)

    def test_other_errors(self) -> None:
        """Any other error with a message ends it too, and is in the log."""
        self.receive(ReopenLog())
        self.assertEqual((1, 1), (self.reactor.stops, self.worker.exit_code))
        self.assertEqual(1, len(self.flushLoggedErrors(AssertionError)))

    def test_reopen(self) -> None:
        """It goes on in the access log's new file when it is told to."""
        path = self.files.folder / "access.log"
        self.begin("--access-log", str(path))
        path.rename(self.files.folder / "access.log.1")
        self.receive(ReopenLog())
        self.assertTrue(path.exists())
        self.successResultOf(self.end())

    def test_garbage(self) -> None:
        """A frame that is no message ends it."""
        self.assert_other_version(frame(b"no message"))

    def test_log(self) -> None:
        """Its log lines go up, each with its level and place; the finest stay."""
        event: Any = {
            "log_level": LogLevel.warn,
            "log_namespace": "a.b",
            "log_format": "count {count}",
            "count": 3,
        }
        self.worker.log(event)
        self.worker.log({**event, "log_level": LogLevel.debug})
        [message] = self.said()
        self.assertEqual(
            {"kind": "log", "level": "warn", "namespace": "a.b", "text": "count 3"}, message
        )

    def test_old_events(self) -> None:
        """What Twisted logs by its old interface goes up under Twisted's name."""
        event: Any = {"log_namespace": "log_legacy", "log_format": "x", "log_level": LogLevel.info}
        self.worker.log(event)
        [message] = self.said()
        self.assertEqual(("info", "twisted"), (message["level"], message["namespace"]))

    def test_parent_does_not_listen(self) -> None:
        """While the parent does not read, nothing piles up but the report that it waits for."""
        assert self.pipe.producer is not None
        self.pipe.producer.pauseProducing()
        self.worker.send(Alive())
        self.assertEqual([], self.said())
        self.worker.send(Used())
        self.assertEqual([{"kind": "used"}], self.said())
        self.pipe.clear()
        self.pipe.producer.resumeProducing()
        self.worker.send(Alive())
        self.assertEqual(1, len(self.said()))
        self.pipe.producer.stopProducing()
        self.worker.send(Alive())
        self.assertEqual(1, len(self.said()))

    def end(self) -> Any:
        """The pipe from the parent closes, and the reactor does as it is told."""
        self.worker.readConnectionLost()
        self.assertEqual((1, 0), (self.reactor.stops, self.worker.exit_code))
        ended = self.reactor.shutdown()
        self.assertNoResult(ended)
        self.assertTrue(self.pipe.disconnecting)
        self.worker.connectionLost()
        return ended

    def test_end(self) -> None:
        """When the parent's pipe closes it accepts no more, ends what there is, and says what is left to say."""
        self.begin()
        self.successResultOf(self.end())
        self.assertEqual(
            ([False, False], [True, True]),
            ([p.reading for p in self.reactor.ports], [p.listening for p in self.reactor.ports]),
        )
        self.assertEqual(1, self.reactor.stops)

    def test_end_before_the_task(self) -> None:
        """It can end before it has begun."""
        self.successResultOf(self.end())

    def test_signal(self) -> None:
        """A signal that stops the reactor ends it likewise; that the pipe closes then stops nothing twice."""
        self.begin()
        ended = self.reactor.shutdown()
        self.worker.readConnectionLost()
        self.worker.connectionLost()
        self.successResultOf(ended)
        self.assertEqual(0, self.reactor.stops)

    def test_parent_is_gone(self) -> None:
        """With no parent left it has nobody to say a last word to, and ends all the same."""
        self.begin()
        self.worker.writeConnectionLost()
        self.worker.readConnectionLost()
        self.successResultOf(self.reactor.shutdown())
        self.worker.send(Alive())
        self.assertEqual(1, len(self.said()))

    def test_snapshots(self) -> None:
        """For the parent's admin listener it says every second how it is, until it ends; and the parent shows all of it."""
        config = self.files.write("admin.toml", b'admin.listen = "tcp:9:interface=127.0.0.1"\n')
        self.begin("--config", str(config))
        self.reactor.pump([1.0, 1.0])
        messages = self.said()[1:]
        self.assertEqual(["snapshot"] * 3, [message["kind"] for message in messages])
        supervisor = WorkerSupervisor(self.configuration("--config", str(config)), self.reactor)
        for number in (1, 2):
            supervisor.on_message(number, decode_worker_message(msgspec.json.encode(messages[-1])))
        self.assertIsNotNone(supervisor.snapshot())

    def test_sign_of_life(self) -> None:
        """Without an admin listener it says every second that it lives, which the parent takes for just that."""
        self.begin()
        self.reactor.pump([1.0, 1.0])
        self.assertEqual([{"kind": "alive"}] * 2, self.said()[1:])
        WorkerSupervisor(self.configuration(), self.reactor).on_message(1, Alive())

    def test_no_snapshot(self) -> None:
        """A snapshot that cannot be made is one that is missing: the next one is said."""
        config = self.files.write("admin.toml", b'admin.listen = "tcp:9:interface=127.0.0.1"\n')
        self.begin("--config", str(config))
        assert self.worker.running is not None
        broken = self.patch(self.worker.running, "snapshot", lambda: 1 / 0)
        self.reactor.advance(1)
        broken.restore()
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(1, len(self.said()[1:]))
        self.reactor.advance(1)
        self.assertEqual(["snapshot"] * 2, [message["kind"] for message in self.said()[1:]])

    def test_both_pipes_at_once(self) -> None:
        """Both pipes may be gone at once."""
        self.worker.connectionLost()
        self.assertEqual(1, self.reactor.stops)
        self.successResultOf(self.reactor.shutdown())

    def test_module(self) -> None:
        """It is a module to be run; with a reactor that there is not, it ends at once."""
        self.patch(sys, "argv", ["worker", "nowhere.reactor"])
        self.assertRaises(
            ModuleNotFoundError, runpy.run_module, "x509proxy.service.worker", run_name="__main__"
        )

    def test_main(self) -> None:
        """The process takes the reactor that it is told to take."""
        installed: list[str] = []
        served: list[Any] = []

        class Module:
            def install(self) -> None:
                """There is one already."""

        def named(name: str) -> Module:
            installed.append(name)
            return Module()

        self.patch(worker_module, "namedModule", named)
        self.patch(worker_module, "serve", served.append)
        self.assertIsNone(worker_module.main("twisted.internet.epollreactor"))
        self.assertEqual((["twisted.internet.epollreactor"], [reactor]), (installed, served))

    def test_serve(self) -> None:
        """It takes its two pipes, leaves the parent's signals to the parent, logs upwards, and runs."""
        begun: list[Any] = []
        ignored: dict[int, Any] = {}
        made: list[Any] = []
        self.patch(globalLogBeginner, "beginLoggingTo", begun.append)
        self.patch(signal, "signal", ignored.__setitem__)
        self.patch(worker_module, "StandardIO", lambda *given: made.append(given))
        filters: list[str] = []
        self.patch(worker_module, "ignore_name_lengths", lambda: filters.append("names"))
        self.assertEqual(0, worker_module.serve(self.reactor))
        self.assertTrue(self.reactor.hasRun)
        self.assertEqual(["names"], filters)
        self.assertEqual(4, len(ignored))
        self.assertEqual(
            [signal.SIG_IGN] * 2, [ignored[number] for number in (signal.SIGHUP, signal.SIGUSR1)]
        )
        [(worker, from_parent, to_parent, used)] = made
        for number in (signal.SIGTERM, signal.SIGINT):
            # From Ctrl-C, systemd and the parent it hears the same, in any order.
            ignored[number](number, None)
        self.assertEqual(1, self.reactor.stops)
        self.assertEqual((FROM_PARENT, TO_PARENT, self.reactor), (from_parent, to_parent, used))
        self.assertEqual([[worker.log]], begun)


# Real processes.


def children(pid: int) -> list[int]:
    """The processes that a process has started, by their numbers, oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and int((entry / "stat").read_text().rpartition(") ")[2].split()[1]) == pid
            ):
                found.append(int(entry.name))
        except OSError:
            pass
    return sorted(found)


def workers_of(pid: int) -> list[int]:
    """Those of them that live and are workers, as their command lines say."""
    return [
        child
        for child in children(pid)
        if is_running(child) and b"x509proxy.service.worker" in command_line(child)
    ]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Real(DaemonTestCase):
    """A parent and its workers."""

    OPTIONS: Sequence[str] = ()

    async def crew(
        self, *more: str, options: Sequence[str] = (), runner: Sequence[str] = ()
    ) -> Daemon:
        daemon = self.prepare()
        command = [*(runner or TWISTD), "-n", "--pidfile", str(daemon.pid_file), *options]
        daemon.spawn([*command, *daemon.arguments("--workers", "2", *more)])
        self.addCleanup(self.end_all, daemon)
        await self.ready(daemon)
        return daemon

    async def ready(self, daemon: Daemon) -> list[int]:
        """Its workers, when all of them accept."""
        words = ["worker 1: x509proxy starting on", "worker 2: x509proxy starting on"]
        await until(
            lambda: daemon.listens() and all(map(daemon.log.__contains__, words)), pause=0.05
        )
        return workers_of(daemon.pid)

    def end_all(self, daemon: Daemon) -> None:
        """No worker outlives a test."""
        for pid in workers_of(daemon.pid):
            os.kill(pid, signal.SIGKILL)

    async def client(self, daemon: Daemon) -> Path:
        made = make_self_signed(KeyKind.EC, "client")
        return daemon.files.write("load.pem", made.certificate_pem + made.key_pem)


class Serving(Real):
    async def test_all_of_it(self) -> None:
        """Two workers serve one port and write one access log; SIGTERM ends all three processes, and none is left."""
        daemon = await self.crew("--access-log", "-")
        first, second = workers_of(daemon.pid)
        await self.serves(daemon)
        for _ in range(5):
            self.assertEqual(200, (await self.ask(daemon, get("/again"))).status)
        await until(lambda: daemon.log.count("target=/again") == 5, pause=0.05)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)
        self.assertFalse(is_running(first) or is_running(second))
        self.assertNotIn("Traceback", daemon.log)
        self.assertNotIn("another is started", daemon.log)
        self.assertEqual({"x509proxy"}, set(re.findall(r"(\S+) starting on \d", daemon.log)))

    async def test_signals_too_early(self) -> None:
        """SIGHUP and SIGUSR1 to all processes at once end no worker, not even one that has only just begun to import."""
        daemon = self.prepare()
        daemon.spawn(
            [*TWISTD, "-n", "--pidfile", str(daemon.pid_file), *daemon.arguments("--workers", "2")]
        )
        self.addCleanup(self.end_all, daemon)
        await until(lambda: len(workers_of(daemon.pid)) == 2, pause=0.002)
        early = workers_of(daemon.pid)
        for pid in (daemon.pid, *early):
            os.kill(pid, signal.SIGHUP)
            os.kill(pid, signal.SIGUSR1)
        self.assertEqual(early, await self.ready(daemon))
        await self.serves(daemon)
        self.assertNotIn("has ended", daemon.log)

    async def test_secrets(self) -> None:
        """Neither a command line nor an environment of a worker has anything that is secret."""
        daemon = await self.crew()
        name = daemon.files.header.read_bytes().strip()
        key = daemon.files.key.read_bytes().splitlines()[1]
        for pid in workers_of(daemon.pid):
            told = command_line(pid) + Path(f"/proc/{pid}/environ").read_bytes()
            for secret in (name, key, b"PRIVATE KEY"):
                self.assertNotIn(secret, told)

    async def test_log_out_of_reach(self) -> None:
        """A log that cannot be opened again goes on in the old file, in every process, and each says so once."""
        folder = self.mktemp()
        Path(folder).mkdir()
        daemon = await self.crew("--access-log", str(Path(folder).absolute() / "access.log"))
        Path(folder).rename(f"{folder}.old")
        os.kill(daemon.pid, signal.SIGUSR1)
        await until(
            lambda: daemon.log.count("No such file or directory; the old file goes on") == 3,
            pause=0.05,
        )
        for number in range(5):
            self.assertEqual(200, (await self.ask(daemon, get(f"/{number}"))).status)
        await until(
            lambda: Path(f"{folder}.old", "access.log").read_text().count("target=/") == 5,
            pause=0.05,
        )
        self.assertEqual(3, daemon.log.count("the old file goes on"))
        self.assertNotIn("has ended", daemon.log)

    async def test_asyncio(self) -> None:
        """The workers' reactor is of the parent's kind."""
        daemon = await self.crew(options=["--reactor=asyncio"])
        for pid in workers_of(daemon.pid):
            self.assertIn(b"twisted.internet.asyncioreactor", command_line(pid))
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)

    async def test_daemon(self) -> None:
        """A daemon has workers too, and takes them along when it ends."""
        daemon = self.prepare()
        log = str(daemon.files.folder / "twistd.log")
        command = [*TWISTD, "--pidfile", str(daemon.pid_file), "--logfile", log, "--rundir", "/"]
        started = daemon.spawn([*command, *daemon.arguments("--workers", "2")])
        await until(lambda: started.poll() is not None, pause=0.05)
        self.assertEqual(0, started.returncode, daemon.log)
        daemon.process = None
        await until(
            lambda: daemon.pid_file.exists() and daemon.pid_file.read_text().strip(), pause=0.05
        )
        daemon.pid = int(daemon.pid_file.read_text())
        self.addCleanup(self.end_all, daemon)
        pids = await self.ready(daemon)
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: not any(map(is_running, (daemon.pid, *pids))), pause=0.05)

    async def test_systemd(self) -> None:
        """A socket that systemd has bound is handed on."""
        daemon = self.prepare()
        words = [
            TWISTD[1],
            "-n",
            "--pidfile",
            str(daemon.pid_file),
            *daemon.arguments("--workers", "2"),
        ]
        words[words.index("--listen") + 1] = "systemd:domain=INET:index=0"
        held = (
            "import os, socket, sys; held = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
            "os.dup2(held.fileno(), 3); os.set_inheritable(3, True)\n"
            "os.environ.update(LISTEN_FDS='1', LISTEN_FDNAMES='a', LISTEN_PID=str(os.getpid()))\n"
            "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
        )
        daemon.spawn([sys.executable, "-c", held, str(daemon.port), *words])
        self.addCleanup(self.end_all, daemon)
        await self.ready(daemon)
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)

    async def test_unix_socket(self) -> None:
        """A worker that dies does not take the file of a unix socket with it; the parent does at the end."""
        path = Path("/tmp") / f"x509proxy-{os.getpid()}.sock"  # noqa: S108 - a longer name would be none of a socket
        self.addCleanup(path.unlink, missing_ok=True)
        daemon = await self.crew("--listen", f"unix:{path}")
        first, second = workers_of(daemon.pid)
        os.kill(first, signal.SIGTERM)
        os.kill(second, signal.SIGKILL)
        await until(lambda: not is_running(first) and not is_running(second), pause=0.05)
        self.assertTrue(path.exists())
        await until(lambda: len(workers_of(daemon.pid)) == 2, pause=0.05)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)
        self.assertFalse(path.exists())

    async def test_user(self) -> None:
        """Started by root with ``-u``, the workers have that user's rights, and go on writing the log that root opened."""
        if not nobody_can_run():
            self.skipTest("takes root, and a Python and a checkout that nobody can read")
        daemon = self.prepare()
        daemon.files.folder.parent.chmod(0o755)
        options = ["-u", "nobody", "-g", "nogroup", "-n", "--pidfile", str(daemon.pid_file)]
        more = ["--workers", "2", "--access-log", str(daemon.access_log)]
        daemon.spawn([*TWISTD, *options, *daemon.arguments(*more)])
        self.addCleanup(self.end_all, daemon)
        for pid in await self.ready(daemon):
            self.assertNotIn("\nUid:\t0", Path(f"/proc/{pid}/status").read_text())
        await self.serves(daemon)
        self.assertEqual(1, len(daemon.access_log.read_text().splitlines()))


# As after an upgrade that went wrong: the parent goes on, and no worker can be imported.
_NO_WORKERS = """
import os, sys
if "x509proxy.service.worker" in sys.orig_argv:
    os._exit(1)
"""


class Deaths(Real):
    async def test_killed_under_load(self) -> None:
        """A worker that is killed takes what it has with it and no more: the failures are those of the connections in it."""
        daemon = await self.crew()
        first, _ = workers_of(daemon.pid)
        clients = 6
        load = ClientLoad(daemon, await self.client(daemon), 3.0)
        running = [deferToThread(load.run, turn % 2 == 0) for turn in range(clients)]
        await deferLater(reactor, 1.0)
        os.kill(first, signal.SIGKILL)
        killed = load.now()
        for one in running:
            await one
        self.assertLessEqual(len(load.failures), clients, load.failures)
        self.assertLess(load.last_failure, killed + 0.5)
        self.assertGreater(load.answered, 200)
        self.assertEqual(2, len(workers_of(daemon.pid)), daemon.log)
        self.assertEqual(
            1,
            daemon.log.count(
                f"worker 1 (process {first}) has ended, by signal 9; another is started in 1 s"
            ),
        )
        self.assertEqual(200, (await self.ask(daemon, get())).status)

    async def test_swapped_files(self) -> None:
        """Workers that start after the files have changed serve by those that the parent has read."""
        daemon = await self.crew()
        before = daemon.files.server.certificate.public_bytes(Encoding.DER)
        daemon.files.renew()
        daemon.files.header.write_bytes(b"swapped")
        old = workers_of(daemon.pid)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not any(map(is_running, old)), pause=0.05)

        def shown() -> bytes | None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            plain = socket.create_connection(("127.0.0.1", daemon.port), 30)
            with context.wrap_socket(plain, server_hostname="localhost") as over:
                return over.getpeercert(binary_form=True)

        self.assertEqual(before, await deferToThread(shown))

    async def test_parent_killed(self) -> None:
        """When the parent is killed, the workers answer what is in flight and end."""
        held: list[Any] = []
        daemon = await self.crew()
        daemon.back_end.answers.append(held.append)
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await daemon.back_end.heard(1)
        pids = workers_of(daemon.pid)
        os.kill(daemon.pid, signal.SIGKILL)
        await until(lambda: sum(map(is_running, pids)) == 1, pause=0.05)
        held[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        reply = await deferToThread(read_reply, connection)
        self.assertEqual((200, b"late"), (reply.status, reply.body))
        connection.close()
        await until(lambda: not any(map(is_running, pids)), pause=0.05)

    async def test_in_flight(self) -> None:
        """SIGTERM to the parent lets a request that is in flight in a worker end."""
        held: list[Any] = []
        daemon = await self.crew()
        daemon.back_end.answers.append(held.append)
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await daemon.back_end.heard(1)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: len(workers_of(daemon.pid)) == 1, pause=0.05)
        held[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        reply = await deferToThread(read_reply, connection)
        self.assertEqual(
            (200, b"late", ["close"]), (reply.status, reply.body, reply.get("Connection"))
        )
        connection.close()
        await self.ends(daemon, -signal.SIGTERM)

    async def test_accept_queue(self) -> None:
        """Who has been connected and not been accepted when all workers die is served by the next ones."""
        daemon = await self.crew()
        pids = workers_of(daemon.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        waiting = [socket.create_connection(("127.0.0.1", daemon.port), 10) for _ in range(4)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

        def served(connection: socket.socket) -> int:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(daemon.files.certificate)
            with context.wrap_socket(connection, server_hostname="localhost") as over:
                over.sendall(get())
                return read_reply(over).status

        self.assertEqual([200] * 4, [await deferToThread(served, one) for one in waiting])

    async def test_stopped(self) -> None:
        """A worker that is stopped, and not dead, is noticed and replaced."""
        daemon = await self.crew()
        first, second = workers_of(daemon.pid)
        os.kill(first, signal.SIGSTOP)
        await until(lambda: len({*workers_of(daemon.pid)} - {first}) == 2, seconds=30, pause=0.05)
        self.assertIn(
            f"worker 1 (process {first}) has not reported for 10 s, and is killed", daemon.log
        )
        self.assertIn(second, workers_of(daemon.pid))

    async def test_none_can_start(self) -> None:
        """Where no worker can start, clients are turned away, and do not hang."""
        daemon = self.prepare()
        module = daemon.files.write("sitecustomize.py", _NO_WORKERS.encode())
        environment = ["env", f"PYTHONPATH={module.parent}:{ROOT}"]
        daemon.spawn(
            [*environment, *TWISTD, "-n", "--pidfile=", *daemon.arguments("--workers", "2")]
        )
        await until(daemon.listens, pause=0.05)
        connection = socket.create_connection(("127.0.0.1", daemon.port), 30)
        self.addCleanup(connection.close)
        self.assertEqual(b"", await deferToThread(read_to_end, connection))
        self.assertIn("no worker serves: connections are closed until one does", daemon.log)
