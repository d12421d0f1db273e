"""The auditor's TLS client, where the server does not take part as it should."""

from __future__ import annotations

import shutil
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.broken_terminator import Fault, Terminator
from x509proxy.audit import client
from x509proxy.audit.certificates import Store
from x509proxy.audit.client import Address, Connection, Ending, Tls, Version
from x509proxy.audit.probe import NotApplicable


class ClientCase(SynchronousTestCase):
    timeout = 30

    def server(self, serve: Callable[[socket.socket], None]) -> Address:
        """Start a server for one connection; return its address."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 5)
        return Address("127.0.0.1", listener.getsockname()[1], "localhost")

    def terminator(self, *faults: Fault) -> Address:
        """Start a terminator; return its address."""
        found = Terminator(1, *faults)
        self.addCleanup(found.stop)
        return Address("127.0.0.1", found.port, "localhost")


class Handshakes(ClientCase):
    def test_silence(self) -> None:
        """A server that sends nothing refuses the handshake, after a time."""
        self.patch(client, "_HANDSHAKE_SECONDS", 0.1)
        done = threading.Event()
        self.addCleanup(done.set)

        def silent(_: socket.socket) -> None:
            done.wait(5)

        with Connection(self.server(silent), Tls()) as connection:
            self.assertEqual(
                (Ending.REFUSED, "no response in time"), (connection.ending, connection.alert)
            )
        done.set()

    def test_cut(self) -> None:
        """A server that resets the connection refuses the handshake."""

        def reset(connection: socket.socket) -> None:
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        with Connection(self.server(reset), Tls()) as connection:
            self.assertIs(Ending.REFUSED, connection.ending)
            connection.send(b"GET")
            self.assertEqual(b"", connection.read(0.1))

    def test_garbage(self) -> None:
        """A server that is no TLS server refuses the handshake, with OpenSSL's reason."""
        address = self.server(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n"))
        with Connection(address, Tls()) as connection:
            self.assertIs(Ending.REFUSED, connection.ending)
            self.assertTrue(connection.alert)


class Open(ClientCase):
    def test_after_shutdown(self) -> None:
        """Bytes after the end of the connection end it, and raise nothing."""
        connection = Connection(self.terminator(), Tls())
        connection.close()
        connection.send(b"GET")
        self.assertIs(Ending.ALERT, connection.ending)

    def test_renegotiation(self) -> None:
        """TLS 1.3 has none; with 1.2 the server decides."""
        for version, faults, expected in (
            (Version.TLS_1_3, (), False),
            (Version.TLS_1_2, (), False),
            (Version.TLS_1_2, (Fault.RENEGOTIATES,), True),
        ):
            with Connection(self.terminator(*faults), Tls(version=version)) as connection:
                self.assertEqual(expected, connection.renegotiate())


class Certificates(SynchronousTestCase):
    def test_no_ml_dsa(self) -> None:
        """An older ``cryptography`` makes no ML-DSA key, and the probe does not apply."""
        name = "cryptography.hazmat.primitives.asymmetric.mldsa"
        before = import_module(name)
        self.addCleanup(sys.modules.__setitem__, name, before)
        sys.modules[name] = None  # type: ignore[assignment]
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        with self.assertRaises(NotApplicable):
            Store(folder).get("ml-dsa-44")
