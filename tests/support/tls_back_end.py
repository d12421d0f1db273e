"""A back end over TLS in memory, with OpenSSL as its server."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import Clock

from tests.support.memory import BackEnd, RequestTransport
from x509proxy.certificates.pem_files import Identity
from x509proxy.settings import ClientAuth
from x509proxy.testing import ThrowAwayAuthority
from x509proxy.transport.tls_context import make_context

__all__ = ["BACK_END_CONTEXT", "TlsServer", "over_tls"]

_AUTHORITY = ThrowAwayAuthority()
_SERVER = _AUTHORITY.server()
BACK_END_CONTEXT = make_context(Identity(_SERVER.certificate, _SERVER.private_key), ClientAuth.NONE)


def over_tls(back_end: BackEnd, clock: Clock) -> IStreamClientEndpoint:
    """Return an endpoint that speaks TLS on the connections of ``back_end``."""
    trusted = trustRootFromCertificates(
        [Certificate.loadPEM(_AUTHORITY.certificate.public_bytes(Encoding.PEM))]
    )
    options = optionsForClientTLS("localhost", trustRoot=trusted)
    endpoint: IStreamClientEndpoint = wrapClientTLS(options, back_end, clock)
    return endpoint


class TlsServer:
    """The server's end of one connection."""

    def __init__(self, wire: RequestTransport, clock: Clock) -> None:
        self._wire = wire
        self._clock = clock
        self._tls = SSL.Connection(BACK_END_CONTEXT, None)
        self._tls.set_accept_state()

    def receive(self) -> bytes:
        """Return the octets that have arrived; complete the handshake before."""
        received = b""
        while data := self._sent():
            self._tls.bio_write(data)
            try:
                self._tls.do_handshake()
                while True:
                    received += self._tls.recv(1 << 16)
            except SSL.WantReadError:
                self.send()
        return received

    def _sent(self) -> bytes:
        # Twisted joins small writes, and encrypts them in a later turn.
        self._clock.advance(0)
        return self._wire.sent()

    def send(self, *records: bytes, ends: bool = False) -> None:
        """Send the records, and TLS's end behind them, in one packet."""
        for record in records:
            self._tls.send(record)
        if ends:
            self._tls.shutdown()
        try:
            data = self._tls.bio_read(1 << 20)
        except SSL.WantReadError:
            return
        self._wire.deliver(data)
