"""Tests of :mod:`x509proxy.service.worker`."""

from __future__ import annotations

import os
import pickle
import runpy
import signal
import sys
from typing import Any

import msgspec
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, capturedLogs, globalLogBeginner

from tests.support.parent_reactor import ParentReactor
from tests.support.services import WorkersTestCase, parse_options
from x509proxy.service import worker as worker_module
from x509proxy.service.access_log import LogFile
from x509proxy.service.ipc import (
    Alive,
    Frames,
    NewConfiguration,
    ReopenLog,
    Stop,
    Task,
    Used,
    decode_worker_message,
    encode_parent_message,
    frame,
)
from x509proxy.service.supervisor import FROM_PARENT, TO_PARENT, WorkerSupervisor
from x509proxy.service.worker import Worker

_ran: list[object] = []


class Pickled:
    """An object whose pickle runs code where it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _run, ()


def _run() -> None:
    _ran.append(1)


class WorkerReactor(ParentReactor):
    """A reactor that runs until ``stop`` is called."""

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
        """Do the calls before the reactor stops."""
        [(call, arguments, named)] = self.triggers["before"]["shutdown"]
        return call(*arguments, **named)


class Child(WorkersTestCase):
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
        sockets = tuple((6 + n, 2) for n, _ in enumerate(configuration.settings.all_listeners))
        self.receive(Task(NewConfiguration.of(configuration), sockets, log))
        self.assertEqual({"kind": "serving"}, self.said()[0])

    def test_task(self) -> None:
        """It listens at the given sockets with the given configuration, and reads no file."""
        configuration = self.configuration()
        for path in (self.files.key, self.files.certificate, self.files.header):
            path.unlink()
        self.receive(Task(NewConfiguration.of(configuration), ((6, 2), (7, 2))))
        self.assertEqual([6, 7], [port.number for port in self.reactor.ports])
        assert self.worker.running is not None
        self.assertEqual([6, 7], self.worker.running.addresses)

    def test_collector(self) -> None:
        """Objects from before it serves are not the collector's."""
        self.begin()
        self.assertEqual([2], self.relaxed)

    def test_use(self) -> None:
        """Another configuration is used, and reported."""
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
        """A configuration that OpenSSL rejects is not used, and the reason is reported."""
        self.begin()
        found = self.configuration()
        # OpenSSL is the judge, as of a key that it does not accept.
        self.patch(SSL.Context, "use_certificate", self.reject)
        self.receive(NewConfiguration.of(found))
        [message] = self.said()[1:]
        self.assertEqual("not used", message["kind"])
        self.assertIn(
            "certificate: found a certificate or a key that OpenSSL rejects: z", message["error"]
        )

    def reject(self, *_: object) -> None:
        raise SSL.Error([("x", "y", "z")])

    def test_unexpected(self) -> None:
        """With any other error the old configuration stays in use."""
        self.begin()
        assert self.worker.running is not None
        self.patch(self.worker.running, "use", lambda _: 1 / 0)
        self.receive(NewConfiguration.of(self.configuration()))
        self.assertEqual(
            [{"kind": "not used", "error": "unexpected error ZeroDivisionError"}],
            self.said()[1:],
        )
        self.assertEqual(
            (1, 0), (len(self.flushLoggedErrors(ZeroDivisionError)), self.reactor.stops)
        )

    def test_missing_file(self) -> None:
        """A configuration without its files in the message is not used."""
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
        """Let it end with one sentence, exit status 1, and no traceback."""
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
        """A message that is cut off is ignored, and the end of the pipe ends the worker."""
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
        """After the parent's message it continues in the access log's new file."""
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
        """An event of Twisted's old logging interface is sent under Twisted's name."""
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
        """Close the pipe from the parent, and let the reactor run."""
        self.worker.readConnectionLost()
        self.assertEqual((1, 0), (self.reactor.stops, self.worker.exit_code))
        ended = self.reactor.shutdown()
        self.assertNoResult(ended)
        self.assertTrue(self.pipe.disconnecting)
        self.worker.connectionLost()
        return ended

    def test_end(self) -> None:
        """At the end of its pipe it accepts no more, ends its exchanges, and sends the rest."""
        self.begin()
        self.successResultOf(self.end())
        self.assertEqual(
            ([False, False], [True, True]),
            ([p.reading for p in self.reactor.ports], [p.listening for p in self.reactor.ports]),
        )
        self.assertEqual(1, self.reactor.stops)
        self.assertIn({"kind": "draining"}, self.said())

    def shut_down(self) -> list[bool]:
        """Return for each port whether it was shut down for all processes."""
        return [port.shut_down for port in self.reactor.ports]

    def test_stop(self) -> None:
        """A parent that stops says so, and closes the sockets itself."""
        self.begin()
        self.receive(Stop())
        self.assertEqual(1, self.reactor.stops)
        self.successResultOf(self.end())
        self.assertEqual([False, False], self.shut_down())

    def test_orphan(self) -> None:
        """When the parent has died, it shuts the sockets down, but not those of systemd."""
        self.begin("--listen", "systemd:domain=INET:index=0")
        self.successResultOf(self.end())
        self.assertEqual([True, True, False], self.shut_down())

    def test_orphan_that_drains(self) -> None:
        """It shuts them down also if the parent dies while the last requests are served."""
        self.begin()
        ended = self.reactor.shutdown()
        self.assertEqual([False, False], self.shut_down())
        self.worker.readConnectionLost()
        self.assertEqual([True, True], self.shut_down())
        self.worker.connectionLost()
        self.successResultOf(ended)

    def test_end_before_the_task(self) -> None:
        """It can end before it has begun."""
        self.successResultOf(self.end())

    def test_signal(self) -> None:
        """A signal that stops the reactor ends it likewise.

        That the pipe closes then stops nothing twice.
        """
        self.begin()
        ended = self.reactor.shutdown()
        self.worker.readConnectionLost()
        self.worker.connectionLost()
        self.successResultOf(ended)
        self.assertEqual(0, self.reactor.stops)

    def test_parent_is_gone(self) -> None:
        """Without a parent it sends nothing more, and ends all the same."""
        self.begin()
        self.worker.writeConnectionLost()
        self.worker.readConnectionLost()
        self.successResultOf(self.reactor.shutdown())
        self.worker.send(Alive())
        self.assertEqual(1, len(self.said()))

    def test_snapshots(self) -> None:
        """For the parent's admin listener it reports every second, until it ends.

        And the parent shows all of it.
        """
        config = self.files.write("admin.toml", b'admin.listen = "tcp:19:interface=127.0.0.1"\n')
        self.begin("--config", str(config))
        self.reactor.pump([1.0, 1.0])
        messages = self.said()[1:]
        self.assertEqual(["snapshot"] * 3, [message["kind"] for message in messages])
        supervisor = WorkerSupervisor(self.configuration("--config", str(config)), self.reactor)
        for number in (1, 2):
            supervisor.on_message(number, decode_worker_message(msgspec.json.encode(messages[-1])))
        self.assertIsNotNone(supervisor.snapshot())

    def test_sign_of_life(self) -> None:
        """Without an admin listener it reports life alone, every second."""
        self.begin()
        self.reactor.pump([1.0, 1.0])
        self.assertEqual([{"kind": "alive"}] * 2, self.said()[1:])
        WorkerSupervisor(self.configuration(), self.reactor).on_message(1, Alive())

    def test_no_snapshot(self) -> None:
        """A snapshot that cannot be made is left out: the next one is sent."""
        config = self.files.write("admin.toml", b'admin.listen = "tcp:19:interface=127.0.0.1"\n')
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
        """The process takes the reactor that its command line names."""
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
        """It takes its two pipes, ignores the parent's signals, logs upwards, and runs."""
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
