"""The files and options of a proxy, and the parts of a service in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.parent_reactor import ParentReactor
from tests.support.raw_tls import HEADER
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.config.loader import Configuration
from x509proxy.exchange import Exchange, Outcome
from x509proxy.service.options import Options
from x509proxy.service.proxy_service import ProxyService
from x509proxy.service.server import ProxyServer
from x509proxy.settings import SettingsError


class ProxyFiles:
    """A folder with all files of a proxy."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).absolute()
        self.folder.mkdir()
        self.renew()
        self.header = self.write("header.txt", HEADER.encode() + b"\n")
        self.ca = self.write("ca.pem", make_self_signed(KeyKind.EC, "ca").certificate_pem)

    def write(self, name: str, content: bytes, mode: int = 0o600) -> Path:
        path = self.folder / name
        path.touch(mode)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def renew(self) -> None:
        """Make a new key and certificate for the server."""
        self.server = make_self_signed(KeyKind.EC, "localhost", names=["localhost"], server=True)
        self.certificate = self.write("server.pem", self.server.certificate_pem)
        self.key = self.write("server.key", self.server.key_pem)

    def arguments(self, *more: str) -> list[str]:
        """Return a complete command line."""
        files = [
            "--certificate",
            self.certificate,
            "--private-key",
            self.key,
            "--header-file",
            self.header,
        ]
        return [*map(str, files), "--backend", "http://127.0.0.1:9", *more]


def server_of(service: ProxyService) -> ProxyServer:
    """Return the part of the service that serves in this process."""
    assert isinstance(service.serving, ProxyServer)
    return service.serving


def tls_context_of(service: ProxyService) -> object:
    """Return the TLS context that new connections use."""
    return server_of(service).listeners[0].connections._context


def parse_options(*arguments: str) -> Options:
    options: Any = Options()
    options.parseOptions(list(arguments))
    parsed: Options = options
    return parsed


class ServiceTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = ProxyFiles(self.mktemp())

    def expect_sentence(self, call: Callable[[], object], *words: str) -> str:
        """Check that a call raises one sentence, from the options or from the service."""
        error: BaseException = self.assertRaises((SystemExit, SettingsError), call)
        sentence = str(error)
        if isinstance(error, SettingsError):
            sentence = f"x509proxy: {sentence}"
        self.assertTrue(sentence.startswith("x509proxy: "), sentence)
        self.assertNotIn("\n", sentence)
        for word in words:
            self.assertIn(word, sentence)
        return sentence


class SignalReactor(MemoryReactorClock):
    """A reactor with the one method that signal handlers call."""

    called: list[Callable[[], object]]

    def callFromThread(self, callable: Callable[[], object], *args: Any, **kwargs: Any) -> None:  # noqa: A002
        self.called.append(callable)


class WorkersTestCase(SynchronousTestCase):
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


class ServiceInMemoryTestCase(ServiceTestCase):
    """A service on a reactor in memory."""

    def setUp(self) -> None:
        super().setUp()
        self.reactor = SignalReactor()
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
