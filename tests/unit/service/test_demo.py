"""Tests of :mod:`x509proxy.service.demo`."""

from __future__ import annotations

import io
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.support.command_lines import lines_of
from tests.support.ports import free_port
from x509proxy.service import demo
from x509proxy.service.demo import DemoService
from x509proxy.settings import ProxySettings, SettingsError, Trust


class InMemory(SynchronousTestCase):
    def setUp(self) -> None:
        # Not trial's own: the name of a unix socket has 107 bytes at the most.
        self.folders = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folders)
        self.patch(tempfile, "tempdir", str(self.folders))
        # Signals are the running test's business.
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        self.patch(demo, "_PORT", 0)

    def make(self, **settings: Any) -> Any:
        self.out = io.StringIO()
        return DemoService(ProxySettings(demo=True, **settings), MemoryReactorClock(), self.out)

    def test_files(self) -> None:
        """Keys, the secret name and the folder are their owner's alone."""
        service = self.make()
        self.assertEqual(0o700, service.folder.stat().st_mode & 0o777)
        self.assertEqual(
            {0o600}, {path.stat().st_mode & 0o777 for path in service.folder.iterdir()}
        )
        shutil.rmtree(service.folder)

    def test_nothing_is_left(self) -> None:
        """An error in the rest of the command line leaves no folder behind."""
        for settings in (
            {"trust": Trust.CA},
            {"listen": ("nothing:1",)},
            {"access_log": "/nowhere/access.log"},
        ):
            self.assertRaises((SettingsError, SystemExit), self.make, **settings)
            self.assertEqual([], list(self.folders.iterdir()), settings)

    def test_port_taken(self) -> None:
        """A start that fails leaves no keys behind."""
        for start in ("privilegedStartService", "startService"):
            service = self.make()

            def fail(*_: Any, **__: Any) -> None:
                raise CannotListenError("127.0.0.1", 8443, OSError(98, "Address already in use"))

            self.patch(service._proxy._reactor, "listenTCP", fail)
            self.addCleanup(setattr, sys, "excepthook", sys.excepthook)
            self.assertRaises(SettingsError, getattr(service, start))
            self.assertEqual([], list(self.folders.iterdir()), start)

    def test_long_folder(self) -> None:
        """A temporary folder with too long a name for the back end's socket is an error."""
        long = self.folders / ("x" * 100)
        long.mkdir()
        self.patch(tempfile, "tempdir", str(long))
        self.assertRaises((SettingsError, SystemExit), self.make)
        self.assertEqual([], list(long.iterdir()))

    def test_listen(self) -> None:
        """It listens on the loopback alone, unless the command line has another address."""
        for listen, expected in (((), "127.0.0.1"), (("tcp:1:interface=192.0.2.1",), "192.0.2.1")):
            given: dict[str, Any] = {"listen": listen} if listen else {}
            service = self.make(**given)
            service.privilegedStartService()
            [server] = service._proxy._reactor.tcpServers
            self.assertEqual(expected, server[3])
            shutil.rmtree(service.folder)

    def test_told(self) -> None:
        """It prints four command lines, and the path of the folder that it removes at the end."""
        service = self.make()
        service.privilegedStartService()
        service.startService()
        text = self.out.getvalue()
        self.assertEqual(4, len(lines_of(text)))
        self.assertIn(f"removes {service.folder}", text)
        self.successResultOf(service.stopService())
        self.assertEqual([], list(self.folders.iterdir()))


class Port(SynchronousTestCase):
    def test_free(self) -> None:
        """The usual port is taken when it is free, and any other when it is not."""
        # Not 8443 itself: any program of this machine may have it.
        self.patch(demo, "_PORT", free_port())
        self.assertEqual(demo._PORT, demo._free_port())
        with socket.socket() as other:
            other.bind(("127.0.0.1", demo._PORT))
            other.listen()
            self.assertEqual(0, demo._free_port())
