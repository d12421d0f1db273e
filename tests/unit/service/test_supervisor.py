"""Tests of :mod:`x509proxy.service.supervisor`."""

from __future__ import annotations

import os
import signal
import sys

import attrs
import msgspec
from twisted.logger import LogLevel, capturedLogs

from tests.support.daemons import ROOT
from tests.support.parent_reactor import FakeProcess, ParentReactor
from tests.support.services import WorkersTestCase
from tests.support.snapshots import snapshot
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.monitoring.snapshot import WorkerState
from x509proxy.service.ipc import (
    ReopenLog,
    Stop,
    Task,
    frame,
)
from x509proxy.service.proxy_service import ProxyService
from x509proxy.service.supervisor import FROM_PARENT, TO_PARENT, WorkerSupervisor
from x509proxy.settings import SettingsError


class Parent(WorkersTestCase):
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
        """The parent binds and does not accept.

        The workers get sockets, pipes and a task, in their arguments no secret.
        """
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
        """Variables of systemd for one process are not passed on; the module path is."""
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
        """A worker starts with the parent's signals blocked, and the parent has its own again."""
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
        """A configuration that OpenSSL rejects ends the start, with workers too."""
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
        """A new configuration is sent to every worker, and to those that start later."""
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
        """A worker that is restarted gets the files that the parent has read."""
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
        """A configuration that cannot be sent ends the start, or fails a reload."""
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
        """A broken configuration reaches no worker."""
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
        """A reload counts once, and when all workers have reported.

        One that has no process does not report.
        """
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
        """One that ends before it reports makes the reload a failure.

        Its next process reports no more.
        """
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
        """A dead worker is restarted after 1, 2, 4, 8, 16, 30, 30 … seconds, then after 1 again."""
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
        """One that cannot be started, for lack of memory or of processes, is tried again.

        Meanwhile the others receive messages.
        """
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
        """A message goes to all that live.

        One that is ending, or waits to be started again, receives nothing.
        """
        first, second = self.start()
        first.protocol.childConnectionLost(FROM_PARENT)
        first.protocol.childConnectionLost(2)
        self.supervisor.broadcast(ReopenLog())
        self.assertEqual((1, [ReopenLog()]), (len(first.received), second.received[1:]))

    def test_reopen(self) -> None:
        """A new access log is passed to all workers."""
        first, _ = self.start("--access-log", str(self.files.folder / "access.log"))
        self.supervisor.reopen_log()
        self.assertEqual([ReopenLog()], first.received[1:])

    def test_messages(self) -> None:
        """A worker with an unknown message is another program, and is killed."""
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
        """A silent worker, stopped or hanging, is killed and replaced."""
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
        """One that has not yet served has more time: a machine may be busy.

        A dead one is not killed.
        """
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
        """After ten seconds without a worker that serves, connections are closed until one does."""
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
        """A worker's standard error is in the log too, line by line.

        A line without an end takes no memory.
        """
        first, _ = self.start()
        with capturedLogs() as events:
            first.protocol.childDataReceived(2, b"one\nt")
            first.protocol.childDataReceived(2, b"wo\xff\n" + b"x" * 100000)
        self.assertEqual(["one", "two\\xff"], [event["text"] for event in events])
        self.assertLess(len(first.protocol._errors), 5000)

    def test_garbage(self) -> None:
        """A worker with a malformed message is killed, also if it has been already."""
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
        self.assertEqual([True, True], [one.closed for one in (first, second)])
        self.assertEqual([Stop()] * 2, [one.received[-1] for one in (first, second)])
        first.sends({"kind": "draining"})
        self.assertEqual({True}, {port.listening for port in self.reactor.ports})
        second.sends({"kind": "draining"})
        self.assertEqual({False}, {port.listening for port in self.reactor.ports})
        first.ends(code=0)
        self.assertNoResult(stopped)
        self.supervisor.broadcast(ReopenLog())
        second.ends(code=0)
        self.successResultOf(stopped)
        self.assertEqual([], self.reactor.getDelayedCalls())
        self.assertEqual(2, len(self.reactor.processes))

    def test_ports_at_the_end(self) -> None:
        """The ports are closed in a second also if a worker does not accept the queue."""
        for reports in ([], [0], [0, 1]):
            self.setUp()
            processes = self.start()
            stopped = self.service.stopService()
            for number in reports:
                processes[number].ends(code=0)
            is_open = len(reports) < 2
            self.assertEqual({is_open}, {port.listening for port in self.reactor.ports})
            self.reactor.advance(1.0)
            self.assertEqual({False}, {port.listening for port in self.reactor.ports})
            for number in {0, 1} - {*reports}:
                processes[number].sends({"kind": "draining"})
                processes[number].ends(code=0)
            self.successResultOf(stopped)

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
        """From the end on readiness is not reported any more, nor workers that have ended."""
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
