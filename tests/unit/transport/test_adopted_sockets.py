"""Tests of :mod:`x509proxy.transport.adopted_sockets`: files of sockets that others have bound."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, eventAsText
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support.names import NAME
from tests.support.parent_reactor import ParentReactor
from tests.support.raw_tls import until
from x509proxy.downstream.factory import NamedFactory
from x509proxy.transport.adopted_sockets import adopt_port, keeping_files

_OTHER_USER = 65534


class Counting(NamedFactory):
    """A factory that counts connections."""

    def __init__(self) -> None:
        self.accepted = 0
        self.running = False

    def doStart(self) -> None:
        self.running = True

    def doStop(self) -> None:
        self.running = False

    def buildProtocol(self, addr: Any) -> Protocol:
        self.accepted += 1
        return Protocol()


class Files(TestCase):
    def bind(self, name: str, mode: int) -> tuple[socket.socket, Path]:
        """Return a socket that systemd could have bound, and its file."""
        # Not trial's own: the name of a unix socket has 107 bytes at the most.
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        path = Path(folder, name)
        held = socket.socket(socket.AF_UNIX)
        self.addCleanup(held.close)
        held.bind(str(path))
        path.chmod(mode)
        held.listen(3)
        held.setblocking(False)
        return held, path

    async def accepts(self, path: Path, factory: Counting) -> None:
        before = factory.accepted
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            await until(lambda: factory.accepted == before + 1)

    async def test_kept(self) -> None:
        """The file keeps its mode and owner, and the socket goes on listening after the end."""
        for mode in (0o600, 0o660):
            held, path = self.bind("a", mode)
            if os.geteuid() == 0:
                os.chown(path, _OTHER_USER, _OTHER_USER)
            before = path.stat()
            factory = Counting()
            port = adopt_port(reactor, held.fileno(), socket.AF_UNIX, factory)
            self.assertEqual(UNIXAddress(os.fsencode(path)), port.getHost())
            await self.accepts(path, factory)
            self.assertTrue(factory.running)
            await maybeDeferred(port.stopListening)
            self.assertFalse(factory.running)
            after = path.stat()
            self.assertEqual(mode, stat.S_IMODE(after.st_mode))
            self.assertEqual((before.st_ino, before.st_uid), (after.st_ino, after.st_uid))
            # The next process of a service that systemd starts again.
            again = adopt_port(reactor, held.fileno(), socket.AF_UNIX, factory)
            await self.accepts(path, factory)
            await maybeDeferred(again.stopListening)

    async def test_passed(self) -> None:
        """An endpoint of a passed unix socket keeps the file likewise."""
        held, path = self.bind("a", 0o640)
        factory = Counting()
        endpoint = keeping_files(
            AdoptedStreamServerEndpoint(reactor, os.dup(held.fileno()), socket.AF_UNIX)
        )
        port = await endpoint.listen(factory)
        await self.accepts(path, factory)
        await maybeDeferred(port.stopListening)
        self.assertEqual(0o640, stat.S_IMODE(path.stat().st_mode))

    async def test_log(self) -> None:
        """The log names the socket, but not a secret name in its path."""
        held, path = self.bind(NAME, 0o600)
        with capturedLogs() as events:
            port = adopt_port(reactor, held.fileno(), socket.AF_UNIX, Counting())
        [line] = [
            eventAsText(event, includeTimestamp=False, includeSystem=False)
            for event in events
            if "prefix" in event
        ]
        self.assertEqual(f"x509proxy starting on '{path.parent}/…'", line)
        await maybeDeferred(port.stopListening)


class Others(SynchronousTestCase):
    def test_tcp(self) -> None:
        """Sockets of another family are those of the reactor."""
        parent = ParentReactor()
        port = adopt_port(parent, 7, socket.AF_INET, NamedFactory())
        self.assertEqual([port], parent.ports)

    def test_other_endpoints(self) -> None:
        """Endpoints that bind their own sockets stay as they are."""
        memory = MemoryReactorClock()
        endpoint = TCP4ServerEndpoint(memory, 1)
        self.assertIs(endpoint, keeping_files(endpoint))
        self.assertIs(memory, endpoint._reactor)
