"""TLS over a client's connection: what ``twisted.protocols.tls`` does for every protocol, done for one, with less on the way.

Facts
-----
* ``TLSMemoryBIOProtocol`` provides its transport's interfaces anew for each connection, wraps the producer, gathers small writes
  for a timer, and asks OpenSSL for output after every input. Here a server's connection, with a protocol of ours on it, has
  its handshake, its records and its end.
* HTTP without TLS is answered in clear text, by its first octets alone: nothing of it is parsed, and nothing repeated.
* ``SSL_shutdown`` returns 1 only when both sides have sent close_notify (RFC 8446 section 6.1); then TCP may go.
* A KeyUpdate costs 10 microseconds, a record of one octet 2. One turn of the reactor processes 128 records of a connection at
  most; the rest waits for later turns, and the socket is not read meanwhile.
* OpenSSL writes the response to a KeyUpdate into its buffer (27 octets), and so it does the refusal of a renegotiation. Both
  are sent in the same turn. HAProxy and Envoy cut connections that do nothing but rekey; this stream does so too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from x509proxy.monitoring.handshake_log_format import HandshakeFailure
from x509proxy.monitoring.reason_codes import handshake_detail, handshake_reason
from x509proxy.transport.direct_writer import DirectWriter
from x509proxy.transport.peer import peer_of
from x509proxy.transport.tls_context import ServerConnections, has_long_chain, key_exchange_of
from x509proxy.transport.tls_records import IncomingRecords

__all__ = ["TlsStream"]

_RECORD = 16384  # RFC 8446 section 5.1; a record's content is never longer
_PIECE = 131072  # bytes read at a time: twice what Twisted reads, since each piece has to go through all of this
_AT_ONCE = 128  # records in a turn: 1.3 ms of KeyUpdates; a piece in records of 1400 octets has 94
_MOST_EMPTY = 64  # records without data, beyond the number of those with data
_SHORT = 4096  # octets of a handshake whose issuers need no count: a ClientHello and 20 small certificates, 60 KiB parsed
_BEFORE = b"before SSL initialization"  # OpenSSL's state until a ClientHello has come
# HTTP without TLS begins with one of these (RFC 9110 section 9.3, RFC 5789); a TLS record with the octet 22.
_METHODS = (
    b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE ", b"PATCH ",
)  # fmt: skip
_LONGEST_METHOD = max(map(len, _METHODS))
_SENTENCE = b"This port expects HTTPS: the URL has to begin with https://\n"
_NOT_HTTPS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=us-ascii\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_SENTENCE), _SENTENCE)
)
_OUTPUT = 69632  # what 64 KiB of an answer become, with what each record adds, in one write


@implementer(ISSLTransport)
class TlsStream(Protocol):
    """A server's end of one TLS connection, and the transport of the protocol on it.

    ``holds_tickets``: the session tickets of TLS 1.3 go out with the first response.
    """

    transport: Any
    disconnecting = False
    holds_tickets = True
    _log = Logger()

    def __init__(
        self,
        connections: ServerConnections,
        protocol: Any,
        among: set[TlsStream],
        clock: IReactorTime,
    ) -> None:
        self._connections = connections
        self._protocol = protocol
        self._among = among
        self._clock = clock
        self._incoming = IncomingRecords()
        self._handshake_bytes = connections.max_handshake_bytes  # that may still come
        self._short = self._handshake_bytes - _SHORT
        self._empty = 0
        self._later: IDelayedCall | None = None
        self._first = b""
        self._shaken = self._is_prompt = False
        self._over = self._paused = self._advancing = self._producing = False
        self._receiving = True

    # Twisted calls, from below.

    def makeConnection(self, transport: Any) -> None:
        self.connected = 1
        self.transport = transport
        self._tls: Any = self._connections.serverConnectionForTLS(self)
        self._tls.set_accept_state()
        self._sender = DirectWriter(transport)
        if ITCPTransport.providedBy(transport):
            # A handshake's last word and an answer are two packets, and the second would wait for the first one's receipt.
            transport.setTcpNoDelay(True)
            self.transport.bufferSize = _PIECE
        self._protocol.makeConnection(self)
        self._told = self.disconnecting  # by whoever has not taken the connection

    def dataReceived(self, data: bytes) -> None:
        """Process this turn's share of what waits and of ``data``. The protocol may pause, close or cut meanwhile."""
        if self._over:
            return
        if data and not self._receiving:
            self._incoming.waiting += data
            return
        self._advancing = True
        try:
            if self._shaken:
                piece, count = self._incoming.take(data, _AT_ONCE, _PIECE)
                self._tls.bio_write(piece)
                full = self._read(count)
                if (self._empty or full < count) and not self._over:
                    self._count_empty(count - full, full)
            else:
                self._take_handshake(data)
        finally:
            self._advancing = False
        if self._over:
            self._incoming.waiting = b""
            return
        if self._incoming.waiting and not self._paused:
            self._later = self._clock.callLater(0, self._go_on)
        wanted = not (self._paused or self._incoming.waiting)
        if wanted is not self._receiving:
            self._receive(wanted=wanted)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected = 0
        self._over = True
        self._incoming.waiting = b""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._among.discard(self)
        if not (self._shaken or self._told):
            self._report(self._how_it_ended())
        self._protocol.connectionLost(reason)
        # Cycles that only the collector would find.
        del self._protocol
        self._sender.forget()

    # The protocol's calls: ISSLTransport.

    def write(self, data: bytes) -> None:
        if self._encrypt(data):
            self._flush()

    def write_last(self, data: bytes) -> None:
        """Write, and say close_notify in the same packet."""
        self.unregisterProducer()
        self._encrypt(data)
        self.loseConnection()

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        """Say close_notify, and close TCP when the other side has said it too."""
        if self.disconnecting or not self.connected:
            return
        if not self._shaken:
            self.abortConnection()
            return
        self.disconnecting = True
        if not self._producing:
            self._shut()

    def finish(self) -> None:
        """Close TCP when all has been sent, without the client's close_notify."""
        self._over = self.disconnecting = True
        self._sender.end()

    def abortConnection(self) -> None:
        """Close TCP at once: what was sent last may never arrive."""
        self._over = self.disconnecting = True
        self.transport.abortConnection()

    def pauseProducing(self) -> None:
        self._paused = True
        if self._receiving:
            self._receive(wanted=False)

    def resumeProducing(self) -> None:
        self._paused = False
        if self._over or self._advancing or self._later is not None:
            return
        if self._incoming.waiting:
            self.dataReceived(b"")
        elif not self._receiving:
            self._receive(wanted=True)

    def stopProducing(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Whom to pause; a push producer, since our protocols have no other."""
        assert streaming
        self._producing = True
        self._sender.register(producer)

    def unregisterProducer(self) -> None:
        if self._producing:
            self._producing = False
            self._sender.unregister()
            if self.disconnecting and not self._over:
                self._shut()

    def loseWriteConnection(self) -> None:
        """TLS has no end of one side alone that everybody would understand."""
        self.loseConnection()

    def getTcpNoDelay(self) -> bool:
        return bool(self.transport.getTcpNoDelay())

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.transport.setTcpNoDelay(enabled)

    def getTcpKeepAlive(self) -> bool:
        return bool(self.transport.getTcpKeepAlive())

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.transport.setTcpKeepAlive(enabled)

    def getHandle(self) -> Any:
        """The TLS connection; nothing once its handshake has failed."""
        return self._tls

    def getPeerCertificate(self) -> Any:
        return self._tls.get_peer_certificate()

    def getPeer(self) -> Any:
        return self.transport.getPeer()

    def getHost(self) -> Any:
        return self.transport.getHost()

    # Inside.

    def _encrypt(self, data: bytes) -> bool:
        """Give OpenSSL the data; whether it has something to send for it."""
        # OpenSSL takes nothing for the end of TLS.
        if not data or self._over or (self.disconnecting and not self._producing):
            return False
        try:
            # pyOpenSSL enables partial writes: one record each.
            sent = self._tls.send(data)
            while sent < len(data):
                sent += self._tls.send(memoryview(data)[sent:])
        except SSL.Error:
            # Nothing is written before the handshake, and a memory BIO takes all: TLS itself is broken.
            self._fail()
            return False
        return True

    # The input, a turn's share at a time.

    def _receive(self, *, wanted: bool) -> None:
        """Read the socket from now on, or do not."""
        self._receiving = wanted
        step = self.transport.resumeProducing if wanted else self.transport.pauseProducing
        step()

    def _go_on(self) -> None:
        self._later = None
        if not self._paused:
            self.dataReceived(b"")

    def _take_handshake(self, data: bytes) -> None:
        piece, count = self._incoming.take(data, _AT_ONCE, self._handshake_bytes)
        self._handshake_bytes -= len(piece)
        # Not len(): a call for each piece that comes (tests/integration/test_costs.py).
        if not self._first[_LONGEST_METHOD:]:
            self._first += piece[: _LONGEST_METHOD + 1]
        self._tls.bio_write(piece)
        if self._shake():
            # Part of the records were the handshake's, and do not count as empty.
            self._read(count)

    def _count_empty(self, empty: int, full: int) -> None:
        """Cut the connection if it sends too many records without data; send OpenSSL's responses to them.

        A record with data makes up for one without, as long as the client is served.
        """
        self._empty += empty if self.disconnecting else empty - full
        if self._empty > _MOST_EMPTY:
            self._connections.watch.limited("tls.records-without-data")
            self.abortConnection()
            return
        self._empty = max(0, self._empty)
        if empty:
            self._flush()

    def _shake(self) -> bool:
        """Go on with the handshake; whether it is over, and well."""
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            if not self._handshake_bytes or (
                self._handshake_bytes < self._short and has_long_chain(self._tls)
            ):
                self._refuse("too_large")
                return False
            self._flush()
            # Now, and not when it has come: the kernel acknowledges it before we have done our part of the handshake.
            self._is_prompt = self._sender.acknowledge()
            return False
        except SSL.Error as error:
            self._refuse(handshake_reason(error.args), handshake_detail(error.args))
            return False
        except Exception:
            # A callback of ours failed: so does the handshake (L3).
            self._log.failure("a handshake could not be judged")
            self._refuse("internal_error")
            return False
        if self._handshake_bytes < self._short and has_long_chain(self._tls):
            self._refuse("too_large")
            return False
        self._shaken = True
        version = self._tls.get_protocol_version()
        self._connections.watch.handshake_succeeded(version, key_exchange_of(self._tls))
        # In TLS 1.3 only tickets are left to say, which are never honoured: they go out with the first answer. But a client with
        # Nagle's algorithm holds its request back until it hears something (40 ms with ApacheBench).
        if not (self.holds_tickets and version == SSL.TLS1_3_VERSION and self._is_prompt):
            self._flush()
        if IHandshakeListener.providedBy(self._protocol):
            self._protocol.handshakeCompleted()
        return True

    def _how_it_ended(self) -> str:
        """A handshake of which OpenSSL had nothing to object to. Whoever only looks whether a port is open says nothing."""
        if self.disconnecting:
            return "timeout"
        return "no_client_hello" if self._tls.get_state_string() == _BEFORE else "client_left"

    def _read(self, count: int) -> int:
        """Hand on the data of up to ``count`` records as one piece; how many of them had data."""
        records: list[bytes] = []
        end: Callable[[], None] = self._wait
        try:
            for _ in range(count):
                records.append(self._tls.recv(_RECORD))  # noqa: PERF401 - an exception ends the loop
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            end = self._shut
        except SSL.Error:
            end = self._fail
        if records:
            self._protocol.dataReceived(records[0] if len(records) == 1 else b"".join(records))
        if not self._over:
            end()
        return len(records)

    def _wait(self) -> None:
        """Until more comes."""

    def _shut(self) -> None:
        """Say close_notify, or answer it."""
        try:
            both = self._tls.shutdown()
        except SSL.Error:
            both = False
        self._flush()
        if both:
            self._over = True
            self._sender.end()

    def _fail(self) -> None:
        """TLS cannot go on: OpenSSL's alert is sent, and TCP closed."""
        self._over = True
        self._flush()
        self._sender.end()

    def _refuse(self, why: str, detail: str = "") -> None:
        """No handshake: OpenSSL's alert is sent, and the client closes TCP, or the protocol when its time is up.

        To close with octets unread, such as a request behind the handshake, would reset it, and lose the alert (RFC 9112, 9.6).
        """
        self._over = self._told = True
        self._report(why, detail)
        if self._first.startswith(_METHODS):
            self._sender.write(_NOT_HTTPS)
        else:
            self._flush()
        # The client may stay until its time is up; what OpenSSL holds of its handshake, 100 KiB and more, must not.
        self._tls = None
        self._sender.end_half()
        if not self._receiving:
            self._receive(wanted=True)

    def _report(self, why: str, detail: str = "") -> None:
        """Count a failed handshake, and log it."""
        self._connections.watch.handshake_failed(why)
        # Zeros until a ClientHello has been read; without one OpenSSL names the newest version that it knows.
        has_hello = any(self._tls.client_random() or b"")
        self._connections.log(
            HandshakeFailure(
                peer_of(self),
                why,
                detail,
                self._tls.get_protocol_version_name() if has_hello else "",
                (self._tls.get_servername() or b"").decode("latin-1"),
            )
        )

    def _flush(self) -> None:
        """Send what OpenSSL has to say."""
        try:
            while True:
                data = self._tls.bio_read(_OUTPUT)
                self._sender.write(data)
                if len(data) < _OUTPUT:
                    return
        except SSL.WantReadError:
            pass
