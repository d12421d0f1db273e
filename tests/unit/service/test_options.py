"""Tests of :mod:`x509proxy.service.options`."""

from __future__ import annotations

import io
import shutil
import socket
import sys
import warnings
from contextlib import redirect_stdout
from typing import Any

import x509proxy.service.options as options_module
from tests.support.names import secret_name
from tests.support.raw_tls import HEADER
from tests.support.services import (
    ServiceInMemoryTestCase,
    ServiceTestCase,
    parse_options,
)
from x509proxy.monitoring.snapshot_builder import installed_version
from x509proxy.service.listening import ListenError
from x509proxy.service.options import Options, _without_traceback, makeService
from x509proxy.service.proxy_service import ProxyService
from x509proxy.settings import ClientAuth, Trust


class CommandLine(ServiceTestCase):
    def test_version(self) -> None:
        """The option prints this project's version, not Twisted's."""
        out = io.StringIO()
        with redirect_stdout(out):
            error = self.assertRaises(SystemExit, parse_options, "--version")
        self.assertEqual(0, error.code)
        self.assertEqual(f"x509proxy {installed_version()}\n", out.getvalue())

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
        """A name on the command line, for trials, is worth a warning without the name."""
        arguments = self.files.arguments("--header", HEADER)
        place = arguments.index("--header-file")
        options = parse_options(*arguments[:place], *arguments[place + 2 :])
        assert options.configuration is not None
        [warning] = options.configuration.warnings
        self.assertIn("process list", warning)
        self.assertNotIn(HEADER, warning)

    def test_defaults(self) -> None:
        """A key that is not given has its documented default."""
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
        """A file can have every key; paths in it are relative to it."""
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
            backend = ["http://127.0.0.1:9", "http://127.0.0.1:2"]
            client-certificate = "required"
            client.max-requests-per-connection = 7
        """

    def test_command_line_wins(self) -> None:
        """An option replaces the file's key, a list as a whole; the file's other keys stay."""
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
        """Each mistake is one sentence that names its place."""
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

    def test_lines(self) -> None:
        """A fault of a file has the TOML file and the line of its key, at the start and later."""
        config = self.files.write("proxy.toml", self.toml())
        options = parse_options("--config", str(config))
        self.files.header.chmod(0o644)
        sentence = f"{config}: line 5: header-file: {self.files.header}: found mode 0644"
        self.expect_sentence(lambda: parse_options("--config", str(config)), sentence)
        self.expect_sentence(options.read, sentence)
        self.files.header.chmod(0o600)
        # An option has no line.
        self.expect_sentence(
            lambda: parse_options("--config", str(config), "--ca", "/nowhere.pem"),
            "x509proxy: ca: /nowhere.pem",
        )

    def test_journal(self) -> None:
        """In the journal each line about a start has a priority."""
        self.patch(options_module, "prefix", lambda level: f"<{level.name}>")
        error = self.assertRaises(SystemExit, parse_options)
        self.assertEqual({"<error>x509proxy: "}, {line[:18] for line in error.code.splitlines()})

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
        """An empty option, as from an unset variable of a shell, is an error."""
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
        """A mistake in the options is one sentence with the nearest option, and no help text."""
        for arguments, sentence in (
            (["--confg", "a"], "found the unknown option --confg, expected --config"),
            (["--xyz"], "found the unknown option --xyz, expected one of twistd x509proxy --help"),
            (["--config"], "option --config requires argument; see twistd x509proxy --help"),
            (["a.toml"], "Wrong number of arguments; see twistd x509proxy --help"),
        ):
            error = self.assertRaises(SystemExit, parse_options, *arguments)
            self.assertEqual(f"x509proxy: {sentence}", error.code)

    def test_unknown_secret(self) -> None:
        """A secret name in the place of an option is not repeated."""
        name = secret_name("options")
        error = self.assertRaises(SystemExit, parse_options, f"--{name}")
        self.assertNotIn(name.lower(), str(error.code).lower())


class MakeService(ServiceInMemoryTestCase):
    def test_listen_error(self) -> None:
        """A place that cannot be had is one sentence on standard error, without a traceback."""
        shown = io.StringIO()
        self.patch(sys, "__stderr__", shown)
        error = ListenError("listen: tcp:1: Address already in use")
        _without_traceback(ListenError, error, None)
        self.assertEqual("x509proxy: listen: tcp:1: Address already in use\n", shown.getvalue())

    def test_read_again(self) -> None:
        """A reload reads the command line's files again."""
        options = parse_options(*self.files.arguments())
        self.files.renew()
        found = options.read()
        assert options.configuration is not None
        self.assertNotEqual(options.configuration.identity, found.identity)
        self.assertEqual(self.files.server.certificate, found.identity.certificate)

    def test_others_exceptions(self) -> None:
        """Any other exception is shown as ever, whole."""
        shown: list[object] = []
        self.patch(sys, "__excepthook__", lambda *error: shown.append(error))
        error = ValueError("another")
        _without_traceback(ValueError, error, None)
        self.assertEqual([(ValueError, error, None)], shown)

    def parse_below(self, **above: int) -> None:
        """Parse ``--access-log -`` as ``twistd`` or ``twist`` does, with options of its own."""
        options: Any = Options()
        options.parent = above
        options.parseOptions(self.files.arguments("--access-log", "-"))

    def test_daemon_without_output(self) -> None:
        """A daemon's access log needs a file; in the foreground it may be standard output."""
        words = ("access-log: found - for a daemon, ", "expected a file, or twistd -n")
        self.expect_sentence(lambda: self.parse_below(nodaemon=0, debug=0), *words)
        for above in ({"nodaemon": 1}, {"nodaemon": 0, "debug": 1}, {}):
            self.parse_below(**above)

    def test_daemon_looks_first(self) -> None:
        """A daemon's addresses are bound for a moment before ``twistd`` forks."""
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
        """An error in a demonstration's options ends the start with one sentence."""
        self.expect_sentence(
            lambda: makeService(parse_options("--demo", "--trust", "ca")), "ca: found none"
        )
