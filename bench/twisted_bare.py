"""The subject ``twisted``: the work of ``bare`` on Twisted's reactor, a lower bound for x509proxy.

It has the transports of x509proxy, TLS included, and ``bare``'s single expression for a head. It
has no limits, no deadlines, no error responses and no access log, and holds a message in memory as
a whole. It is not a proxy to use.
"""

from __future__ import annotations

import sys
from base64 import b64encode
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from twisted.internet import epollreactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IAddress, IReactorCore
from twisted.internet.protocol import Factory, Protocol

from bench.bare import forged_fields, whole_head
from x509proxy.certificates.pem_files import Identity
from x509proxy.settings import ClientAuth
from x509proxy.transport.direct_writer import DirectWriter
from x509proxy.transport.tls_context import ServerConnections, make_context
from x509proxy.transport.tls_stream import TlsStream

__all__ = ["main"]


class Side(Protocol):
    """A connection of either kind. ``peer``: the other side of the current exchange."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.received = b""
        self.peer: Side | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if end := whole_head(self.received):
            message, self.received = self.received, b""
            self.message(message, end)

    def message(self, message: bytes, end: int) -> None:
        """Relay a complete message, whose head ends at ``end``."""
        raise NotImplementedError


class Client(Side):
    """A client's connection."""

    header = b""

    def message(self, message: bytes, end: int) -> None:
        transport = cast("Any", self.transport)
        if not self.header:
            found = transport.getPeerCertificate()
            der = found.to_cryptography().public_bytes(Encoding.DER) if found else b""
            self.header = b"\r\n%b: %b" % (self.relay.name, b64encode(der))
        head = self.relay.forged.sub(b"", message[: end - 4]) + self.header
        address = b"\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
        self.relay.send(self, head + address + message[end:])


class BackEnd(Side):
    """A connection to the back end."""

    waiting = b""

    def connectionMade(self) -> None:
        cast("Any", self.transport).setTcpNoDelay(True)
        self.writer = DirectWriter(self.transport)
        self.writer.write(self.waiting)

    def message(self, message: bytes, end: int) -> None:
        client, self.peer = self.peer, None
        self.relay.idle.append(self)
        if client is not None and client.transport is not None:
            client.transport.write(message)


class Relay(Factory):
    """Listener and relay. ``name``: of the header with the certificate."""

    def __init__(self, reactor: Any, back_end: int, folder: Path) -> None:
        self.name = (folder / "header.txt").read_bytes().strip()
        self.forged = forged_fields(self.name)
        self.idle: list[BackEnd] = []  # connections to the back end that wait for a request
        self._reactor = reactor
        self._endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", back_end)
        own = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
        key = load_pem_private_key((folder / "server.key").read_bytes(), None)
        identity = Identity(own, cast("Any", key))
        self._connections = ServerConnections(make_context(identity, ClientAuth.OPTIONAL))

    def buildProtocol(self, addr: IAddress | None) -> TlsStream:
        return TlsStream(self._connections, Client(self), set(), self._reactor)

    def send(self, client: Client, message: bytes) -> None:
        """Send a request on a connection to the back end."""
        if self.idle:
            back = self.idle.pop()
            back.peer = client
            back.writer.write(message)
            return
        back = BackEnd(self)
        back.peer, back.waiting = client, message
        connectProtocol(self._endpoint, back)


def main(port: int, back_end: int, folder: Path) -> None:
    """Serve until a signal arrives."""
    epollreactor.install()
    from twisted.internet import reactor

    relay = Relay(reactor, back_end, folder)
    cast("Any", reactor).listenTCP(port, relay, 1024, "127.0.0.1")
    cast("IReactorCore", reactor).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
