"""The auditor's TLS client, where the server does not take part as it should."""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.broken_terminator import Fault, Terminator
from x509proxy.audit import client
from x509proxy.audit.certificates import Store
from x509proxy.audit.client import Address, Connection, Ending, Tls, Version


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


class Parameters(ClientCase):
    def setUp(self) -> None:
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.store = Store(folder)

    def test_version_and_protocol(self) -> None:
        """A client offers the version and the protocols that it is given."""
        for version, name in ((Version.TLS_1_2, "TLSv1.2"), (Version.TLS_1_3, "TLSv1.3")):
            tls = Tls(version=version, protocols=(b"http/1.1",))
            with Connection(self.terminator(), tls) as connection:
                self.assertEqual((Ending.OPEN, name), (connection.ending, connection.version))
                self.assertIn(connection.protocol, (b"", b"http/1.1"))
                self.assertEqual(0, connection.authorities)

    def test_server_name(self) -> None:
        """Another server name, or none, is sent than that of the address."""
        for name in ("other.localhost", ""):
            with Connection(self.terminator(), Tls(server_name=name)) as connection:
                self.assertIs(Ending.OPEN, connection.ending)

    def test_pieces(self) -> None:
        """The first flight comes in segments, or in records, of any size."""
        for tls in (Tls(segment=100), Tls(fragment=100), Tls(segment=50, fragment=100)):
            with Connection(self.terminator(), tls) as connection:
                self.assertIs(Ending.OPEN, connection.ending)

    def test_resumption(self) -> None:
        """A session is resumed on a connection of the same context, with another certificate."""
        address = self.terminator(Fault.RESUMES)
        tls = Tls(client=self.store.get("client"), version=Version.TLS_1_2).shared()
        with Connection(address, tls) as first:
            self.assertFalse(first.resumed)
            session = first.session
        assert session is not None
        with Connection(address, tls.resume(session, tls.context)) as second:
            self.assertTrue(second.resumed)

    def test_requests(self) -> None:
        """Bytes are sent and read; after the end nothing is."""
        with Connection(self.terminator(), Tls(client=self.store.get("client"))) as connection:
            connection.send(b"nonsense\r\n\r\n")
            self.assertIn(b"400", connection.read(5.0))
            while connection.read(5.0):
                pass
            self.assertIs(Ending.CLOSED, connection.ending)
            connection.send(b"more")
            self.assertEqual(b"", connection.read(0.1))

    def test_silence(self) -> None:
        """A read without bytes ends in its time, and leaves the connection open."""
        with Connection(self.terminator(), Tls()) as connection:
            self.assertEqual(b"", connection.read(0.01))
            self.assertIs(Ending.OPEN, connection.ending)

    def test_reset(self) -> None:
        """A connection whose socket fails while bytes are sent is closed."""

        class Broken:
            def sendall(self, _: bytes) -> None:
                raise ConnectionResetError

            def close(self) -> None:
                pass

        with Connection(self.terminator(), Tls()) as connection:
            self.addCleanup(connection._socket.close)
            connection._socket = Broken()  # type: ignore[assignment]
            for _ in range(2):
                connection.send(b"data")
                self.assertIs(Ending.CLOSED, connection.ending)
