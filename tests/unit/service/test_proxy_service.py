"""Tests of :mod:`x509proxy.service.proxy_service`."""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import stat
import sys
import threading
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import LogEvent, Logger, capturedLogs, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from tests.support.parent_reactor import ParentReactor
from tests.support.raw_tls import HEADER
from tests.support.services import (
    ServiceInMemoryTestCase,
    parse_options,
    server_of,
    tls_context_of,
)
from x509proxy.service import access_log, listening
from x509proxy.service.options import _without_traceback, makeService
from x509proxy.service.proxy_service import ProxyService, _reload_status
from x509proxy.service.reload import Reload
from x509proxy.service.supervisor import WorkerSupervisor
from x509proxy.settings import SettingsError

# More objects than the collector keeps without a freeze.
MANY = 10_000


class InMemory(ServiceInMemoryTestCase):
    def test_privileged_start(self) -> None:
        """``twistd`` has the ports bound while there are rights for it, once."""
        service = self.make("--listen", "tcp:1", "--listen", "tcp:2")
        self.assertEqual([], service.addresses)
        service.privilegedStartService()
        service.startService()
        self.assertEqual([1, 2], [server[0] for server in self.reactor.tcpServers])
        self.assertEqual(2, len(service.addresses))
        self.successResultOf(service.stopService())

    def test_started(self) -> None:
        """The log has version, listeners, preset and back ends, without the secret name."""
        more = ["--listen", "tcp:1", "--listen", "unix:/run/p.sock"]
        service = self.make(*more, "--backend", f"unix:/run/é/{HEADER}", "--preset", "connect2id")
        with capturedLogs() as events:
            service.startService()
        [line] = [formatEvent(event) for event in events if "words" in event]
        self.assertRegex(
            line,
            r"^started: version=\S+ listeners=https://0\.0\.0\.0:1,https\+unix:/run/p\.sock "
            r"preset=connect2id "
            r"backends=http://127\.0\.0\.1:9,unix:/run/\\xe9/(…|\\u2026) workers=1$",
        )
        self.assertNotIn(HEADER.lower(), line.lower())
        self.successResultOf(service.stopService())

    def test_lost_lines(self) -> None:
        """Lines that the log's observer cannot write are counted while the service runs."""

        def full(_: LogEvent) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def broken(event: LogEvent) -> None:
            raise ValueError(event)

        service = self.make()
        service.startService()
        for observer in (full, broken):
            self.log_to(observer)
        self.assertEqual(1, self.lost(service))
        self.successResultOf(service.stopService())
        self.log_to(full)
        self.assertEqual(1, self.lost(service))
        self.assertEqual(2, len(self.flushLoggedErrors(OSError)))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def log_to(self, observer: Any) -> None:
        """Write a line to the log with one more observer."""
        globalLogPublisher.addObserver(observer)
        Logger().info("a line")
        globalLogPublisher.removeObserver(observer)

    def lost(self, service: ProxyService) -> int:
        """Return the number of lines that the service log has lost."""
        return service.serving.counters.counts().log_lines_dropped["service"]

    def test_plain_start(self) -> None:
        """``twist`` knows no privileged start: the ports are bound all the same."""
        service = self.make("--listen", "tcp:1")
        service.startService()
        self.assertEqual([1], [server[0] for server in self.reactor.tcpServers])
        self.successResultOf(service.stopService())
        self.assertEqual([], service.addresses)

    def test_admin(self) -> None:
        """The admin listener's port is bound with the others, while there are rights for it.

        The last to be closed.
        """
        config = self.files.write("admin.toml", b'admin.listen = "tcp:19:interface=127.0.0.1"\n')
        service = self.make("--listen", "tcp:1", "--config", str(config))
        service.privilegedStartService()
        self.assertEqual([1, 19], [server[0] for server in self.reactor.tcpServers])
        service.startService()
        self.successResultOf(service.stopService())

    def test_collector(self) -> None:
        """Objects from before the reactor's run are not the collector's until the end."""
        self.addCleanup(gc.unfreeze)
        service = self.make("--listen", "tcp:1")
        service.startService()
        self.assertLess(gc.get_freeze_count(), MANY)
        self.reactor.run()
        self.assertGreater(gc.get_freeze_count(), MANY)
        self.successResultOf(service.stopService())
        self.assertLess(gc.get_freeze_count(), MANY)

    def test_relaxed_too_late(self) -> None:
        """A service that was stopped before the reactor runs does not change the collector."""
        usual = gc.get_threshold()
        service = self.make()
        service.startService()
        self.successResultOf(service.stopService())
        self.reactor.run()
        self.assertEqual(usual, gc.get_threshold())

    def test_stop_unstarted(self) -> None:
        """One that was never started can be stopped."""
        self.successResultOf(self.make().stopService())

    def test_taken(self) -> None:
        """A port that cannot be had ends the start with one sentence, and no traceback."""

        def taken(port: int, *_: object, **__: object) -> IListeningPort:
            raise CannotListenError("", port, OSError(98, "Address already in use"))

        self.patch(self.reactor, "listenTCP", taken)
        error = self.assertRaises(
            SettingsError, self.make("--listen", "tcp:1").privilegedStartService
        )
        self.assertEqual("listen: tcp:1: Address already in use", str(error))
        shown = self.patch_stderr()
        _without_traceback(type(error), error, None)
        self.assertEqual("x509proxy: listen: tcp:1: Address already in use\n", shown.getvalue())

    def test_reasons(self) -> None:
        """The reason why a port cannot be bound is reported."""
        nameless = CannotListenError("", 1, OSError("no such thing"))
        self.assertEqual(
            "listen: a: no such thing", listening._reason("listen: a", Failure(nameless))
        )
        self.assertEqual(
            "listen: a: other", listening._reason("listen: a", Failure(ValueError("other")))
        )

    def test_keys(self) -> None:
        """The sentence names the place by its key, and repeats the description."""
        for key, table in (
            ("listeners[0].endpoint", "[[listeners]]\nendpoint"),
            ("admin.listen", "[admin]\nallow-remote = true\nlisten"),
        ):
            config = self.files.write("keys.toml", f'{table} = "nothing:1"\n'.encode())
            error = self.assertRaises(
                SystemExit,
                makeService,
                parse_options(*self.files.arguments("--config", str(config))),
            )
            self.assertEqual(0, str(error).find(f"x509proxy: {key}: found 'nothing:1'"), error)

    def test_second_port_taken(self) -> None:
        """If the second of two ports cannot be bound, a stop closes the first."""
        stopped: list[bool] = []
        listen: Any = self.reactor.listenTCP

        def second_taken(port: int, *arguments: Any, **options: Any) -> Any:
            if port == 2:
                raise CannotListenError("", port, OSError(98, "Address already in use"))
            listening: Any = listen(port, *arguments, **options)
            listening.stopListening = lambda: stopped.append(True)
            return listening

        self.patch(self.reactor, "listenTCP", second_taken)
        service = self.make("--listen", "tcp:1", "--listen", "tcp:2")
        self.assertRaises(SettingsError, service.privilegedStartService)
        self.successResultOf(service.stopService())
        self.assertEqual([True], stopped)

    def patch_stderr(self) -> io.StringIO:
        shown = io.StringIO()
        self.patch(sys, "__stderr__", shown)
        return shown

    def test_bad_endpoints(self) -> None:
        """A description that is no endpoint ends the start with one sentence."""
        for description in ("tcp", "tcp:http:x=y", "nothing:1", "tcp:port=1:a=b"):
            self.expect_sentence(
                lambda description=description: self.make("--listen", description),  # type: ignore[misc]
                "listen",
            )

    def test_bad_kinds(self) -> None:
        """A missing kind is named at the start too, and a plug-in's objection is repeated."""
        for text, words in (
            ("tcp:x", "found 'tcp:x' with the port 'x'"),
            ("nothing:1", "found 'nothing:1', an unknown endpoint type, expected tcp:8443, "),
        ):
            self.expect_sentence(lambda text=text: self.make("--listen", text), f"listen: {words}")  # type: ignore[misc]
        for text in ("ssl:1:privateKey=/nowhere", "ssl"):
            words = f"admin.listen: found {text!r}, expected a Twisted endpoint: "
            self.expect_sentence(
                lambda text=text: listening.ListeningEndpoint(self.reactor, text, "admin.listen"),  # type: ignore[misc]
                words,
            )

    def test_no_systemd_socket(self) -> None:
        """A socket that systemd has not passed is one sentence, with the next command."""
        self.patch(os, "environ", {})
        for text in ("systemd:domain=INET:name=https", "systemd:domain=INET:index=7"):
            sentence = self.expect_sentence(lambda text=text: self.make("--listen", text))  # type: ignore[misc]
            expected = (
                "but systemd has passed no socket, expected one of a socket unit "
                "(systemctl start x509proxy.socket, then systemctl restart x509proxy)"
            )
            self.assertEqual(f"x509proxy: listen: found {text!r}, {expected}", sentence)

    def test_other_systemd_socket(self) -> None:
        """A name that no socket has is one sentence, with the names that there are."""
        self.patch(os, "environ", {"LISTEN_FDNAMES": "https:https-v6"})
        text = "systemd:domain=INET:name=http"
        expected = "which systemd has not passed, expected one of ['https', 'https-v6']"
        self.assertEqual(
            f"x509proxy: listen: found {text!r}, {expected}",
            self.expect_sentence(lambda: self.make("--listen", text)),
        )

    def test_bad_access_log(self) -> None:
        """An access log that cannot be opened ends the start with one sentence."""
        self.expect_sentence(
            lambda: self.make("--access-log", "/nowhere/access.log"),
            "access-log",
            "/nowhere/access.log",
        )

    def test_access_log_that_is_read(self) -> None:
        """Neither a start nor a reload accepts a file that is read as the access log."""
        key = str(self.files.key)
        before = self.files.key.read_bytes()
        self.expect_sentence(
            lambda: self.make("--access-log", key), "access-log", "found the file of private-key"
        )
        self.assertEqual(before, self.files.key.read_bytes())
        toml = str(self.files.write("proxy.toml", b""))
        self.expect_sentence(
            lambda: self.make("--config", toml, "--access-log", toml),
            "found the file of the configuration",
        )
        log = self.files.folder / "log"
        options = parse_options(*self.files.arguments("--config", toml, "--access-log", str(log)))
        log.symlink_to(toml)
        self.assertIn(
            "found the file of the configuration",
            str(self.assertRaises(SettingsError, options.read)),
        )

    def test_access_log(self) -> None:
        """The access log is its owner's alone and gets a line for each exchange, at once.

        It is appended to.
        """
        path = self.files.folder / "access.log"
        lines: list[str] = []
        for count in (1, 2):
            service = self.make("--access-log", str(path))
            server_of(service).observe(self.exchange())
            lines = path.read_text().splitlines()
            self.assertEqual(count, len(lines))
            self.successResultOf(service.stopService())
        self.assertIn("client_address=192.0.2.1 method=GET target=/", lines[1])
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))

    def test_standard_output(self) -> None:
        """``-`` is standard output, which is not closed at the end."""
        read, write = os.pipe()
        for descriptor in (read, write):
            self.addCleanup(os.close, descriptor)
        self.patch(access_log, "_STANDARD_OUTPUT", write)
        service = self.make("--access-log", "-")
        server_of(service).observe(self.exchange())
        self.successResultOf(service.stopService())
        self.assertIn(b"client_address=192.0.2.1", os.read(read, 4096))

    def test_full_disk(self) -> None:
        """A log that cannot be written loses lines, and nothing else."""
        service = self.make("--access-log", "/dev/full")
        server_of(service).observe(self.exchange())
        self.flushLoggedErrors(OSError)

    def test_forged(self) -> None:
        """A forged header is a warning in the log, with its sender and without the name."""
        service = self.make()
        with capturedLogs() as events:
            server_of(service).observe(self.exchange())
            server_of(service).observe(self.exchange(forged=2))
            # It is written up to a second later, and at the end.
            server_of(service).access_log.close()
        [event] = [
            event
            for event in events
            if event.get("log_namespace") == "x509proxy.service.access_log.AccessLog"
        ]
        self.assertEqual(
            (2, "192.0.2.1", "warn"), (event["count"], event["peer"], event["log_level"].name)
        )
        self.assertNotIn(HEADER, str(event))

    def test_reload(self) -> None:
        """A reload makes a new context of the files as they are then."""
        service = self.make()
        before = tls_context_of(service)
        self.files.renew()
        with capturedLogs() as events:
            service.reload()
        self.assertIsNot(before, tls_context_of(service))
        self.assertEqual(["info"], [event["log_level"].name for event in events])

    def test_broken_reload(self) -> None:
        """A broken file leaves the old certificate in use, and the log reports it."""
        service = self.make()
        before = tls_context_of(service)
        self.files.certificate.write_bytes(b"nothing")
        with capturedLogs() as events:
            service.reload()
        self.assertIs(before, tls_context_of(service))
        [event] = events
        self.assertIn("server.pem", event["error"])
        self.assertEqual("error", event["log_level"].name)

    def test_reload_after_change_of_folder(self) -> None:
        """A reload finds relative files, though ``twistd --rundir`` has changed the folder."""
        here = Path.cwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.files.folder)
        arguments = [
            argument.replace(f"{self.files.folder}/", "") for argument in self.files.arguments()
        ]
        options = parse_options(*arguments)
        assert options.configuration is not None
        service = ProxyService(options.configuration, self.reactor)
        before = tls_context_of(service)
        os.chdir("/")
        service.reload()
        self.assertIsNot(before, tls_context_of(service))

    def test_hangup(self) -> None:
        """SIGHUP makes the reactor reload while the service runs, and is restored afterwards."""
        before = signal.getsignal(signal.SIGHUP)
        service = self.make()
        service.startService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual([service.reload], self.reactor.called)
        self.successResultOf(service.stopService())
        self.assertEqual(before, signal.getsignal(signal.SIGHUP))
        service.reload()
        self.assertIsNone(service.reloading.last)

    def test_hangup_while_stopping(self) -> None:
        """The handlers stay until the last exchange has ended: the default ends the process."""
        service = self.make()
        service.startService()
        handlers = [signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR1)]
        stopped: Deferred[None] = Deferred()
        self.patch(service.serving, "stop", lambda: stopped)
        ended = service.stopService()
        self.assertEqual(
            handlers, [signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR1)]
        )
        stopped.callback(None)
        self.successResultOf(ended)
        self.assertNotEqual(handlers[0], signal.getsignal(signal.SIGHUP))

    def test_two_services(self) -> None:
        """The end of a service leaves the handlers of another one, which was started later."""
        before = signal.getsignal(signal.SIGHUP)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        first, second = self.make(), self.make()
        first.startService()
        second.startService()
        self.successResultOf(first.stopService())
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertIn(second.reload, self.reactor.called)
        self.successResultOf(second.stopService())

    def test_reopen(self) -> None:
        """SIGUSR1 asks the reactor to open the access log anew.

        An earlier handler of it is still called.
        """
        called: list[int] = []
        self.addCleanup(
            signal.signal,
            signal.SIGUSR1,
            signal.signal(signal.SIGUSR1, lambda number, _: called.append(number)),
        )
        path = self.files.folder / "access.log"
        service = self.make("--access-log", str(path))
        service.startService()
        os.kill(os.getpid(), signal.SIGUSR1)
        self.assertEqual(([service.reopen_log], [signal.SIGUSR1]), (self.reactor.called, called))
        path.rename(self.files.folder / "access.log.1")
        service.reopen_log()
        self.assertTrue(path.exists())
        self.successResultOf(service.stopService())

    def test_workers(self) -> None:
        """With workers the service starts a parent, and reports readiness once they serve."""
        self.reactor = ParentReactor()  # type: ignore[assignment]
        service = self.make("--listen", "tcp:1", "--workers", "2")
        assert isinstance(service.serving, WorkerSupervisor)
        self.assertIsNotNone(service.serving.on_serving)
        service.startService()
        self.assertEqual(2, len(self.reactor.processes))  # type: ignore[attr-defined]
        service.stopService()

    def test_reload_status(self) -> None:
        """The status has the last reload's error, or its note, or neither."""
        for last, expected in (
            (None, []),
            (Reload(1.0), []),
            (Reload(1.0, note="restart needed"), ["restart needed"]),
            (Reload(1.0, "a: b", "note"), ["the last reload failed: a: b"]),
        ):
            self.assertEqual(expected, list(_reload_status(last)))

    def test_embedded_in_a_thread(self) -> None:
        """In a thread, signals are left alone, at the start and at the end."""
        before = signal.getsignal(signal.SIGHUP)
        service = self.make()
        for step in (service.startService, service.stopService):
            thread = threading.Thread(target=step)
            thread.start()
            thread.join()
        self.assertEqual((before, False), (signal.getsignal(signal.SIGHUP), bool(service.running)))
