"""Promises of :mod:`x509proxy.service`: options, the service in memory, and real daemons in processes of their own."""

from __future__ import annotations

import gc
import io
import os
import shutil
import signal
import socket
import ssl
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemons import (
    ROOT,
    TWIST,
    TWISTD,
    Daemon,
    DaemonTestCase,
    is_running,
    nobody_can_run,
)
from tests.support.raw_tls import HEADER, get, read_reply, read_to_end, until
from tests.support.services import ProxyFiles, parse_options, server_of, tls_context_of
from x509proxy.exchange import Exchange, Outcome
from x509proxy.service import access_log, listening
from x509proxy.service.options import Options, _without_traceback, makeService
from x509proxy.service.proxy_service import ProxyService
from x509proxy.settings import ClientAuth, SettingsError, Trust
from x509proxy.testing import (
    ThrowAwayAuthority,
    client_identity,
)

# More objects than the collector keeps without a freeze.
MANY = 10_000


class ServiceTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = ProxyFiles(self.mktemp())

    def expect_sentence(self, call: Callable[[], object], *words: str) -> str:
        """It ends with one sentence, from the options or from the service."""
        error: BaseException = self.assertRaises((SystemExit, SettingsError), call)
        sentence = str(error)
        if isinstance(error, SettingsError):
            sentence = f"x509proxy: {sentence}"
        self.assertTrue(sentence.startswith("x509proxy: "), sentence)
        self.assertNotIn("\n", sentence)
        for word in words:
            self.assertIn(word, sentence)
        return sentence


class CommandLine(ServiceTestCase):
    def test_each_option(self) -> None:
        """Each option arrives in the settings."""
        log = str(self.files.folder / "access.log")
        more = [
            "--preset",
            "connect2id",
            "--client-certificate",
            "required",
            "--trust",
            "either",
            "--ca",
            str(self.files.ca),
        ]
        settings = parse_options(
            *self.files.arguments("--listen", "tcp:1", "--access-log", log, *more)
        ).settings
        self.assertEqual((("tcp:1",), ("http://127.0.0.1:9",)), (settings.listen, settings.backend))
        paths = (
            settings.certificate,
            settings.private_key,
            settings.header_file,
            settings.ca,
            settings.access_log,
        )
        files = self.files
        self.assertEqual(
            (*map(str, (files.certificate, files.key, files.header, files.ca)), log), paths
        )
        self.assertEqual("connect2id", settings.preset)
        self.assertEqual(
            (ClientAuth.REQUIRED, Trust.EITHER), (settings.client_certificate, settings.trust)
        )
        self.assertFalse(settings.demo)

    def test_header(self) -> None:
        """The name may stand on the command line, for trials: there is a warning then, without the name."""
        arguments = self.files.arguments("--header", HEADER)
        place = arguments.index("--header-file")
        options = parse_options(*arguments[:place], *arguments[place + 2 :])
        assert options.configuration is not None
        [warning] = options.configuration.warnings
        self.assertIn("process list", warning)
        self.assertNotIn(HEADER, warning)

    def test_defaults(self) -> None:
        """What is not said is as the manual says."""
        settings = parse_options(*self.files.arguments()).settings
        self.assertEqual(("tcp:8443",), settings.listen)
        self.assertEqual(
            (ClientAuth.OPTIONAL, Trust.ANY), (settings.client_certificate, settings.trust)
        )
        self.assertIsNone(settings.access_log)

    def test_repeatable(self) -> None:
        """``--listen`` and ``--backend`` may be repeated, and keep their order."""
        more = ("--listen", "tcp:1", "--listen", "tcp:2", "--backend", "unix:/a")
        settings = parse_options(*self.files.arguments(*more)).settings
        self.assertEqual(("tcp:1", "tcp:2"), settings.listen)
        self.assertEqual(("http://127.0.0.1:9", "unix:/a"), settings.backend)

    def test_toml(self) -> None:
        """A file can say it all; what it says of files is relative to it."""
        config = self.files.write("proxy.toml", self.toml())
        settings = parse_options("--config", str(config)).settings
        self.assertEqual(
            (("tcp:1",), 7), (settings.listen, settings.client.max_requests_per_connection)
        )
        self.assertEqual(str(self.files.certificate), settings.certificate)

    def toml(self) -> bytes:
        return b"""
            listen = "tcp:1"
            certificate = "server.pem"
            private-key = "server.key"
            header-file = "header.txt"
            backend = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
            client-certificate = "required"
            client.max-requests-per-connection = 7
        """

    def test_command_line_wins(self) -> None:
        """What the command line says replaces what the file says, lists whole; the rest of the file stands."""
        config = str(self.files.write("proxy.toml", self.toml()))
        more = ("--listen", "tcp:2", "--backend", "unix:/a", "--client-certificate", "none")
        settings = parse_options("--config", config, *more).settings
        self.assertEqual((("tcp:2",), ("unix:/a",)), (settings.listen, settings.backend))
        self.assertEqual(
            (ClientAuth.NONE, 7),
            (settings.client_certificate, settings.client.max_requests_per_connection),
        )

    def test_demo(self) -> None:
        """``--demo`` needs nothing else, and reads no configuration."""
        options = parse_options("--demo")
        self.assertTrue(options.settings.demo)
        self.assertIsNone(options.configuration)

    def test_errors(self) -> None:
        """Whatever is wrong is one sentence that says where."""
        for arguments, words in (
            (["--config", "/nowhere.toml"], ["/nowhere.toml", "cannot be read"]),
            (self.files.arguments("--trust", "nobody"), ["--trust", "'nobody'", "self-signed"]),
            (
                self.files.arguments("--client-certificate", "maybe"),
                ["--client-certificate", "required"],
            ),
            (self.files.arguments("--preset", "nginx"), ["preset", "'nginx'", "connect2id"]),
            (self.files.arguments("--backend", "ftp://a"), ["backend", "'ftp://a'"]),
            (self.files.arguments("--trust", "ca"), ["ca: found none"]),
            (self.files.arguments("--ca", "/nowhere.pem"), ["/nowhere.pem"]),
            (self.files.arguments("--header", "X-Cert"), ["header"]),
        ):
            self.expect_sentence(lambda arguments=arguments: parse_options(*arguments), *words)  # type: ignore[misc]

    def test_all_errors(self) -> None:
        """Several mistakes are as many lines."""
        said = str(self.assertRaises(SystemExit, parse_options).code)
        keys = [line.split(": ")[:3] for line in said.splitlines()]
        self.assertEqual(
            [["x509proxy", key] for key in ("backend", "header-file", "certificate")],
            [words[:2] for words in keys],
        )

    def test_open_header_file(self) -> None:
        """A header file that others can read is refused."""
        self.files.header.chmod(0o644)
        self.expect_sentence(
            lambda: parse_options(*self.files.arguments()), "header.txt", "0644", "0600"
        )

    def test_secret_in_errors(self) -> None:
        """A name that is refused, or stands in the wrong place, is not repeated."""
        for arguments in (
            ["--header", HEADER + "_"],
            ["--header-file", HEADER],
            ["--preset", HEADER],
            ["--trust", HEADER],
        ):
            sentence = self.expect_sentence(
                lambda arguments=arguments: parse_options(*self.files.arguments(*arguments))  # type: ignore[misc]
            )
            self.assertNotIn(HEADER, sentence)

    def test_empty_values(self) -> None:
        """An option with nothing in it, as an unset variable of a shell leaves it, is an error and not the default."""
        for name in (
            "client-certificate",
            "trust",
            "header-file",
            "preset",
            "backend",
            "config",
            "ca",
        ):
            self.expect_sentence(
                lambda name=name: parse_options(*self.files.arguments(f"--{name}", "")),  # type: ignore[misc]
                name,
            )

    def test_unknown(self) -> None:
        """An unknown option is the usual error of Twisted's."""
        self.assertRaises(UsageError, parse_options, "--resume")


class _Reactor(MemoryReactorClock):
    """With the one call that signals take."""

    called: list[Callable[[], object]]

    def callFromThread(self, callable: Callable[[], object], *args: Any, **kwargs: Any) -> None:  # noqa: A002
        self.called.append(callable)


class InMemory(ServiceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.reactor = _Reactor()
        self.reactor.called = []
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        self.patch(sys, "excepthook", sys.excepthook)

    def make(self, *more: str) -> ProxyService:
        options = parse_options(*self.files.arguments(*more))
        assert options.configuration is not None
        return ProxyService(options.configuration, self.reactor)

    def exchange(self, **changes: Any) -> Exchange:
        given = {
            "started": 0.0,
            "duration": 0.0,
            "peer": "192.0.2.1",
            "method": "GET",
            "target": "/",
            **changes,
        }
        return Exchange(outcome=Outcome.COMPLETED, **given)

    def test_privileged_start(self) -> None:
        """``twistd`` has the ports bound while there are rights for it, once."""
        service = self.make("--listen", "tcp:1", "--listen", "tcp:2")
        self.assertEqual([], service.addresses)
        service.privilegedStartService()
        service.startService()
        self.assertEqual([1, 2], [server[0] for server in self.reactor.tcpServers])
        self.assertEqual(2, len(service.addresses))
        self.successResultOf(service.stopService())

    def test_plain_start(self) -> None:
        """``twist`` knows no privileged start: the ports are bound all the same."""
        service = self.make("--listen", "tcp:1")
        service.startService()
        self.assertEqual([1], [server[0] for server in self.reactor.tcpServers])
        self.successResultOf(service.stopService())
        self.assertEqual([], service.addresses)

    def test_admin(self) -> None:
        """The admin listener's port is bound with the others, while there are rights for it; the last to be closed."""
        config = self.files.write("admin.toml", b'admin.listen = "tcp:9:interface=127.0.0.1"\n')
        service = self.make("--listen", "tcp:1", "--config", str(config))
        service.privilegedStartService()
        self.assertEqual([1, 9], [server[0] for server in self.reactor.tcpServers])
        service.startService()
        self.successResultOf(service.stopService())

    def test_collector(self) -> None:
        """What is there once the reactor runs is no business of the garbage collector's, until the end."""
        self.addCleanup(gc.unfreeze)
        service = self.make("--listen", "tcp:1")
        service.startService()
        self.assertLess(gc.get_freeze_count(), MANY)
        self.reactor.run()
        self.assertGreater(gc.get_freeze_count(), MANY)
        self.successResultOf(service.stopService())
        self.assertLess(gc.get_freeze_count(), MANY)

    def test_relaxed_too_late(self) -> None:
        """A service that has been stopped before the reactor runs does nothing to the garbage collector any more."""
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

    def test_others_exceptions(self) -> None:
        """An exception of anybody else's is shown as ever, whole."""
        shown: list[object] = []
        self.patch(sys, "__excepthook__", lambda *error: shown.append(error))
        error = ValueError("another")
        _without_traceback(ValueError, error, None)
        self.assertEqual([(ValueError, error, None)], shown)

    def test_reasons(self) -> None:
        """Whatever a port cannot be had for is said."""
        nameless = CannotListenError("", 1, OSError("no such thing"))
        self.assertEqual(
            "listen: a: no such thing", listening._why_not("listen: a", Failure(nameless))
        )
        self.assertEqual(
            "listen: a: other", listening._why_not("listen: a", Failure(ValueError("other")))
        )

    def test_keys(self) -> None:
        """The sentence names the place by its key in the document, and says of it what was written there."""
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
        """When the second of two ports cannot be had, the first can be given back by stopping: no port is left bound."""
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
        """One that there is not is named at the start too, and what a plug-in objects to is told in its words."""
        for text, words in (
            ("tcp:x", "found 'tcp:x' with the port 'x'"),
            ("nothing:1", "found 'nothing:1', of a kind that there is not, expected tcp:8443, "),
        ):
            self.expect_sentence(lambda text=text: self.make("--listen", text), f"listen: {words}")  # type: ignore[misc]
        for text in ("ssl:1:privateKey=/nowhere", "ssl"):
            words = f"admin.listen: found {text!r}, expected a Twisted endpoint: "
            self.expect_sentence(
                lambda text=text: listening.ListeningEndpoint(self.reactor, text, "admin.listen"),  # type: ignore[misc]
                words,
            )

    def parse_below(self, **above: int) -> None:
        """Parse ``--access-log -`` as ``twistd`` or ``twist`` does, with options of its own."""
        options: Any = Options()
        options.parent = above
        options.parseOptions(self.files.arguments("--access-log", "-"))

    def test_daemon_without_output(self) -> None:
        """A daemon's standard output goes nowhere, so that its access log needs a file; in the foreground it may go there."""
        words = ("access-log: found - for a daemon, ", "expected a file, or twistd -n")
        self.expect_sentence(lambda: self.parse_below(nodaemon=0, debug=0), *words)
        for above in ({"nodaemon": 1}, {"nodaemon": 0, "debug": 1}, {}):
            self.parse_below(**above)

    def test_daemon_looks_first(self) -> None:
        """A daemon's addresses are bound for a moment before ``twistd`` forks; in the foreground the start itself reports them."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            place = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
            for nodaemon in (0, 1):
                options: Any = Options()
                options.parent = {"nodaemon": nodaemon, "debug": 0}
                options.parseOptions(self.files.arguments("--listen", place))
                if nodaemon:
                    self.assertIsNotNone(makeService(options))
                else:
                    words = f"listen: {place}: Address already in use"
                    self.expect_sentence(lambda: makeService(options), words)  # noqa: B023

    def test_no_systemd_socket(self) -> None:
        """A socket that systemd has not handed over is one sentence, without Twisted's words."""
        for text in ("systemd:domain=INET:name=https", "systemd:domain=INET:index=7"):
            sentence = self.expect_sentence(lambda text=text: self.make("--listen", text))  # type: ignore[misc]
            expected = "a socket that is not there, expected one that systemd has handed over (LISTEN_FDS, LISTEN_FDNAMES)"
            self.assertEqual(f"x509proxy: listen: found {text!r}, {expected}", sentence)

    def test_bad_access_log(self) -> None:
        """An access log that cannot be opened ends the start with one sentence."""
        self.expect_sentence(
            lambda: self.make("--access-log", "/nowhere/access.log"),
            "access-log",
            "/nowhere/access.log",
        )

    def test_access_log_that_is_read(self) -> None:
        """Neither a start nor a reload takes a file for the access log that the proxy reads, such as its key or the TOML."""
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
        """The access log is its owner's alone and gets a line for each exchange, at once; it is appended to."""
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
        """A log that cannot be written costs log lines and nothing else: the observer does not raise."""
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
        """A broken file leaves the old certificate serving, and the log says so."""
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
        """A reload finds files whose names were relative, though ``twistd --rundir`` has gone to another folder by then."""
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
        """SIGHUP asks the reactor for a reload while the service runs, and is whose it was before afterwards."""
        before = signal.getsignal(signal.SIGHUP)
        service = self.make()
        service.startService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual([service.reload], self.reactor.called)
        self.successResultOf(service.stopService())
        self.assertEqual(before, signal.getsignal(signal.SIGHUP))

    def test_reopen(self) -> None:
        """SIGUSR1 asks the reactor to open the access log anew; whoever was called by it before still is."""
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

    def test_embedded_in_a_thread(self) -> None:
        """In a thread, signals are the program's business: they are left alone, at the start and at the end."""
        before = signal.getsignal(signal.SIGHUP)
        service = self.make()
        for step in (service.startService, service.stopService):
            thread = threading.Thread(target=step)
            thread.start()
            thread.join()
        self.assertEqual((before, False), (signal.getsignal(signal.SIGHUP), bool(service.running)))

    def test_make_service(self) -> None:
        """The service is made of the options; warnings go to standard error, one a line."""
        shown = io.StringIO()
        self.patch(sys, "stderr", shown)
        made = makeService(
            parse_options(
                *self.files.arguments("--backend", "http://192.0.2.1", "--listen", "tcp:0")
            )
        )
        self.assertIsInstance(made, ProxyService)
        self.assertTrue(
            shown.getvalue().startswith("x509proxy: warning: backend: http://192.0.2.1 "),
            shown.getvalue(),
        )
        self.assertEqual(1, shown.getvalue().count("\n"))

    def test_filter(self) -> None:
        """The process filters warnings about odd names of clients, which a library must not."""
        with warnings.catch_warnings():
            warnings.resetwarnings()
            makeService(parse_options(*self.files.arguments("--listen", "tcp:0")))
            self.assertIn("client_certificate", str(warnings.filters[0]))

    def test_make_demo(self) -> None:
        """``--demo`` makes the demonstration."""
        from x509proxy.service.demo import DemoService

        made = makeService(parse_options("--demo"))
        assert isinstance(made, DemoService)
        shutil.rmtree(made.folder)

    def test_bad_demo(self) -> None:
        """A demonstration with something wrong on its command line ends the start with one sentence."""
        self.expect_sentence(
            lambda: makeService(parse_options("--demo", "--trust", "ca")), "ca: found none"
        )


# Real processes.


class Foreground(DaemonTestCase):
    async def test_twistd(self) -> None:
        """``twistd -n`` serves until SIGTERM, ends by it and removes its pid file."""
        daemon = await self.start()
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)

    async def test_asyncio(self) -> None:
        """``twistd --reactor=asyncio`` serves: nothing has installed another reactor before."""
        daemon = await self.start(runner=[*TWISTD, "-n", "--pidfile=", "--reactor=asyncio"])
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)

    async def test_twist(self) -> None:
        """``twist`` serves."""
        daemon = await self.start(runner=TWIST)
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: daemon.process and daemon.process.poll() is not None, pause=0.05)

    async def test_secret(self) -> None:
        """The secret name stands in no log, no answer of ours and no process list, whatever clients and back end do."""
        name = HEADER.encode()
        told = (
            b"HTTP/1.1 200 %b\r\n%b: x\r\nVary: %b\r\nSet-Cookie: %b\r\nContent-Length: 0\r\n\r\n"
            % ((name,) * 4)
        )
        daemon = await self.start("--access-log", "-", answers=[told, name + b" garbage\r\n\r\n"])
        cmdline = Path(f"/proc/{daemon.pid}/cmdline").read_text()
        answers = []
        for request in (
            get("/", f"{HEADER}: EVIL"),
            get("/", f"{HEADER}: EVIL"),
            get("/", f"{HEADER}: \x01"),
            get("/", f"{HEADER} : x"),
            get("/", f"Connection: {HEADER}"),
            get(f"/{HEADER}\x7f"),
            get("/", f"Expect: {HEADER}"),
        ):

            def step(connection: ssl.SSLSocket, request: bytes = request) -> bytes:
                connection.sendall(request)
                return read_to_end(connection)

            answers.append(await self.dialogue(daemon, step, client_identity()))
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)
        everything = "".join(
            [cmdline, daemon.log, *(answer.decode("latin-1") for answer in answers)]
        ).lower()
        self.assertNotIn(HEADER.lower(), everything)
        self.assertNotIn("-----begin", everything)
        self.assertIn("1 forged certificate header from 127.0.0.1 removed", everything)

    async def test_bad_option(self) -> None:
        """What is wrong with the options is one sentence on standard error, and exit code 1."""
        daemon = self.prepare()
        daemon.files.header.chmod(0o644)
        daemon.spawn([*TWISTD, "-n", "--pidfile", str(daemon.pid_file), *daemon.arguments()])
        await self.ends(daemon, 1)
        self.assertEqual(1, daemon.log.count("\n"), daemon.log)
        self.assertIn("expected 0600", daemon.log)

    async def test_bad_demo(self) -> None:
        """What is wrong with the options of a demonstration is one sentence too, and no folder is left."""
        daemon = self.prepare()
        temporary = daemon.files.folder / "tmp"
        temporary.mkdir()
        for more in (
            ["--trust", "ca"],
            ["--listen", "nothing:1"],
            ["--access-log", "/nowhere/access.log"],
        ):
            command = [
                *TWISTD,
                "-n",
                "--pidfile",
                str(daemon.pid_file),
                "x509proxy",
                "--demo",
                *more,
            ]
            daemon.spawn(["env", f"TMPDIR={temporary}", *command])
            await self.ends(daemon, 1)
            self.assertEqual([], list(temporary.iterdir()))
            [sentence] = (daemon.files.folder / "stderr").read_text().splitlines()
            self.assertTrue(sentence.startswith("x509proxy: "), sentence)


class Taken(DaemonTestCase):
    """A port that somebody else has."""

    words: ClassVar[str] = "Address already in use"

    async def fails(self, runner: Sequence[str]) -> Daemon:
        daemon = self.prepare()
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            daemon.port = other.getsockname()[1]
            command = [part.replace("PIDFILE", str(daemon.pid_file)) for part in runner]
            daemon.spawn([*command, *daemon.arguments()])
            await self.ends(daemon, 1)
        return daemon

    async def test_twistd(self) -> None:
        """It ends ``twistd -n`` with exit code 1 and one sentence on standard error; the pid file is gone."""
        daemon = await self.fails([*TWISTD, "-n", "--pidfile", "PIDFILE"])
        [sentence] = (daemon.files.folder / "stderr").read_text().splitlines()
        self.assertEqual(
            f"x509proxy: listen: tcp:{daemon.port}:interface=127.0.0.1: {self.words}", sentence
        )

    async def test_daemonised(self) -> None:
        """It ends the starting process of a daemon with exit code 1 and the sentence, and leaves no process behind."""
        daemon = await self.fails([*TWISTD, "--pidfile", "PIDFILE", "--logfile", "/dev/null"])
        [sentence] = (daemon.files.folder / "stderr").read_text().splitlines()
        self.assertEqual(
            f"x509proxy: listen: tcp:{daemon.port}:interface=127.0.0.1: {self.words}", sentence
        )
        await until(lambda: not running_with(str(daemon.files.folder)), pause=0.05)

    async def test_twist(self) -> None:
        """It ends ``twist`` with exit code 1 and the sentence."""
        daemon = await self.fails(TWIST)
        self.assertIn(self.words, daemon.log)
        self.assertNotIn("Traceback", daemon.log)


def running_with(word: str) -> list[int]:
    """The processes with a word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            pass
    return found


class Background(DaemonTestCase):
    async def start_daemon(self, *more: str, options: Sequence[str] = ()) -> Daemon:
        daemon = self.prepare()
        log = str(daemon.files.folder / "twistd.log")
        started = daemon.spawn(
            [
                *TWISTD,
                "--pidfile",
                str(daemon.pid_file),
                "--logfile",
                log,
                *options,
                *daemon.arguments(*more),
            ]
        )
        await until(lambda: started.poll() is not None, pause=0.05)
        self.assertEqual(0, started.returncode, daemon.log)
        daemon.process = None
        await until(
            lambda: daemon.pid_file.exists() and daemon.pid_file.read_text().strip(), pause=0.05
        )
        daemon.pid = int(daemon.pid_file.read_text())
        return daemon

    async def test_daemon(self) -> None:
        """A daemon serves, and on SIGTERM it ends and takes its pid file with it."""
        daemon = await self.start_daemon()
        await self.serves(daemon)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: not is_running(daemon.pid), pause=0.05)
        self.assertFalse(daemon.pid_file.exists())

    async def test_rundir(self) -> None:
        """A daemon that has gone to another folder reads its files again all the same when it is told to."""
        daemon = self.prepare()
        folder = daemon.files.folder
        relative = [
            part.replace(str(folder), os.path.relpath(folder, ROOT)) for part in daemon.arguments()
        ]
        daemon.spawn(
            [*TWISTD, "-n", "--pidfile", str(daemon.pid_file), "--rundir", str(folder), *relative]
        )
        await until(daemon.listens, pause=0.05)
        daemon.files.renew()
        os.kill(daemon.pid, signal.SIGHUP)
        await until(lambda: "reload: " in daemon.log, pause=0.05)
        self.assertIn("the files are used as they are now", daemon.log)

    async def test_user(self) -> None:
        """Started by root with ``-u``, it serves with that user's rights, and goes on writing the log that root opened."""
        if not nobody_can_run():
            self.skipTest("takes root, and a Python and a checkout that nobody can read")
        daemon = self.prepare()
        daemon.files.folder.parent.chmod(0o755)
        options = ["-u", "nobody", "-g", "nogroup", "-n", "--pidfile", str(daemon.pid_file)]
        daemon.spawn([*TWISTD, *options, *daemon.arguments("--access-log", str(daemon.access_log))])
        await until(daemon.listens, pause=0.05)
        await self.serves(daemon)
        self.assertNotIn("\nUid:\t0", Path(f"/proc/{daemon.pid}/status").read_text())
        self.assertEqual(1, len(daemon.access_log.read_text().splitlines()))


class Reload(DaemonTestCase):
    async def certificate(self, daemon: Daemon, trusted: Path) -> bytes:
        """The server's certificate as a new client sees it."""

        def run() -> bytes:
            with daemon.connect(trusted) as connection:
                return connection.getpeercert(binary_form=True) or b""

        der: bytes = await deferToThread(run)
        return der

    async def test_new_certificate(self) -> None:
        """After SIGHUP new clients see the new certificate, and a connection that is open goes on."""
        daemon = await self.start()
        old = daemon.files.write("old.pem", daemon.files.server.certificate_pem)
        first = await self.certificate(daemon, old)
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        daemon.files.renew()
        os.kill(daemon.pid, signal.SIGHUP)
        await until(lambda: "reload: the files are used" in daemon.log, pause=0.05)
        self.assertNotEqual(first, await self.certificate(daemon, daemon.files.certificate))
        connection.sendall(get())
        self.assertEqual(200, (await deferToThread(read_reply, connection)).status)

    async def test_broken_file(self) -> None:
        """After SIGHUP with a broken file the old files go on serving, and the log says so."""
        daemon = await self.start()
        old = daemon.files.write("old.pem", daemon.files.server.certificate_pem)
        first = await self.certificate(daemon, old)
        daemon.files.key.write_bytes(b"nothing")
        os.kill(daemon.pid, signal.SIGHUP)
        await until(lambda: "reload: " in daemon.log, pause=0.05)
        self.assertIn("the old files go on serving", daemon.log)
        self.assertEqual(first, await self.certificate(daemon, old))


class End(DaemonTestCase):
    async def test_in_flight(self) -> None:
        """SIGTERM lets a request that is in flight end, though nobody new is let in; then the process ends."""
        held: list[Any] = []
        daemon = await self.start(
            "--access-log", str(Path(self.mktemp()).absolute()), answers=[held.append]
        )
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await daemon.back_end.heard(1)
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: not daemon.listens(), pause=0.05)
        held[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        reply = await deferToThread(read_reply, connection)
        self.assertEqual(
            (200, b"late", ["close"]), (reply.status, reply.body, reply.get("Connection"))
        )
        connection.close()
        await self.ends(daemon, -signal.SIGTERM)

    async def test_idle(self) -> None:
        """A client that keeps its connection open, with nothing in flight, does not hold up the end for long."""
        daemon = await self.start()
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual(200, (await deferToThread(read_reply, connection)).status)
        process = daemon.process
        os.kill(daemon.pid, signal.SIGTERM)
        await until(lambda: process and process.poll() is not None, 10, pause=0.05)

    async def test_cut_at_the_end(self) -> None:
        """What has not ended within ``drain-timeout`` is cut, and has its line in the access log all the same."""
        config = b"client.drain-timeout = 0.1\n"
        daemon = self.prepare(lambda _: None)
        path = daemon.files.write("proxy.toml", config)
        more = ("--config", str(path), "--access-log", str(daemon.access_log))
        daemon.spawn([*TWISTD, "-n", "--pidfile", str(daemon.pid_file), *daemon.arguments(*more)])
        await until(daemon.listens, pause=0.05)
        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        connection.sendall(get("/cut"))
        await daemon.back_end.heard(1)
        os.kill(daemon.pid, signal.SIGTERM)
        await self.ends(daemon, -signal.SIGTERM)
        self.assertNotIn("Traceback", daemon.log)
        self.assertIn("target=/cut", daemon.access_log.read_text())


class AccessLog(DaemonTestCase):
    async def test_lines(self) -> None:
        """Each exchange is one line, an aborted one and a refused one too, in a file that is its owner's alone."""
        daemon = self.prepare()
        daemon.spawn(
            [*TWISTD, "-n", "--pidfile=", *daemon.arguments("--access-log", str(daemon.access_log))]
        )
        await until(daemon.listens, pause=0.05)
        await self.ask(daemon, get("/answered?code=1"), client_identity())
        daemon.back_end.answers.append(lambda _: None)
        connection = await deferToThread(daemon.connect)
        connection.sendall(get("/aborted"))
        await daemon.back_end.heard(2)
        connection.close()
        self.assertEqual(400, (await self.ask(daemon, get("/refused", "Host: b"))).status)
        await until(lambda: daemon.access_log.read_text().count("\n") == 3, pause=0.05)
        text = daemon.access_log.read_text()
        for outcome in ("completed", "aborted", "rejected"):
            self.assertEqual(1, text.count(f" outcome={outcome} "), text)
        self.assertIn("target=/answered ", text)
        self.assertNotIn("code=1", text)
        self.assertIn('subject="CN=client"', text)
        self.assertEqual(0o600, stat.S_IMODE(daemon.access_log.stat().st_mode))

    async def test_full_disk(self) -> None:
        """A log on a full disk costs log lines, and neither answers nor connections."""
        daemon = await self.start("--access-log", "/dev/full")

        def step(connection: ssl.SSLSocket) -> list[int]:
            statuses = []
            for _ in range(2):
                connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                statuses.append(read_reply(connection).status)
            return statuses

        connection = await deferToThread(daemon.connect)
        self.addCleanup(connection.close)
        connection.settimeout(3)
        self.assertEqual([200, 200], await deferToThread(step, connection))


class Authority(DaemonTestCase):
    async def test_trust(self) -> None:
        """With ``--trust ca`` a certificate of the authority is passed on, and another is answered 401."""
        authority = ThrowAwayAuthority()
        daemon = self.prepare()
        from cryptography.hazmat.primitives.serialization import Encoding

        path = daemon.files.write("authority.pem", authority.certificate.public_bytes(Encoding.PEM))
        more = ("--trust", "ca", "--ca", str(path), "--client-certificate", "required")
        daemon.spawn([*TWISTD, "-n", "--pidfile=", *daemon.arguments(*more)])
        await until(daemon.listens, pause=0.05)
        statuses = [
            (await self.ask(daemon, get(), client)).status
            for client in (authority.client(), client_identity(), None)
        ]
        self.assertEqual([200, 401, 401], statuses)
