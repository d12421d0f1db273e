"""TLS on a client's connection: the server's side of ``twisted.protocols.tls``, at a lower cost.

Facts
-----
* ``TLSMemoryBIOProtocol`` declares its transport's interfaces again for each connection, wraps the
  producer, delays small writes by a timer, and reads OpenSSL's output after every input. This
  stream only has a server's handshake, records and end.
* HTTP without TLS, recognized by its first octets, gets a response in clear text. Nothing of it is
  parsed, and nothing is repeated in the response.
* ``SSL_shutdown`` returns 1 only when both sides have sent close_notify (RFC 8446 section 6.1).
  TCP is closed then.
* A KeyUpdate costs 10 microseconds, and a record of one octet costs 2. One turn of the reactor
  processes at most 128 records of a connection. The rest waits for later turns, and the socket is
  not read meanwhile.
* OpenSSL writes the response to a KeyUpdate into its buffer (27 octets), and also the alert that
  rejects a renegotiation. Both are sent in the same turn. HAProxy and Envoy abort connections that
  only rekey; this stream does so too.
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

_MAX_RECORD = 16384  # octets of a record's content (RFC 8446 section 5.1)
_READ_SIZE = 131072  # octets; twice what Twisted reads, since each read has a fixed cost here
_RECORDS_PER_TURN = 128  # 1.3 ms of KeyUpdates; one read in records of 1400 octets has 94
_MAX_DISCARDED = 1 << 20  # octets behind a rejected handshake: what a client sends with it
_MAX_EMPTY = 64  # records without data, beyond the number of records with data
# Octets of a handshake whose chain is not counted: a ClientHello and 20 small certificates, which
# take 60 KiB when parsed.
_UNCOUNTED = 4096
_NO_HELLO = b"before SSL initialization"  # OpenSSL's state until a ClientHello has been read
# HTTP without TLS begins with a method (RFC 9110 section 9.3, RFC 5789), a TLS handshake with 22.
_METHODS = (
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
)
_LONGEST_METHOD = max(map(len, _METHODS))
_HTTPS_EXPECTED = b"This port expects HTTPS: the URL has to begin with https://\n"
_NOT_HTTPS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=us-ascii\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_HTTPS_EXPECTED), _HTTPS_EXPECTED)
)
_WRITE_SIZE = 69632  # 64 KiB of a response, with the overhead of its records, in one write


@implementer(ISSLTransport)
class TlsStream(Protocol):
    """The server's end of one TLS connection, and the transport of the protocol on it.

    ``holds_tickets``: the session tickets of TLS 1.3 are sent with the first response.
    """

    transport: Any
    disconnecting = False
    holds_tickets = True
    _log = Logger()

    def __init__(
        self,
        connections: ServerConnections,
        protocol: Any,
        streams: set[TlsStream],
        clock: IReactorTime,
    ) -> None:
        self._connections = connections
        self._protocol = protocol
        self._streams = streams
        self._clock = clock
        self._incoming = IncomingRecords()
        self._handshake_bytes = connections.max_handshake_bytes  # still accepted
        self._count_below = self._handshake_bytes - _UNCOUNTED
        self._excess_empty = 0
        self._scheduled: IDelayedCall | None = None
        self._first_octets = b""
        self._handshake_done = self._acknowledges_early = False
        self._discarded = 0
        self._ended = self._paused = self._advancing = self._producing = False
        self._receiving = True

    # IProtocol: the TCP transport's calls.

    def makeConnection(self, transport: Any) -> None:
        self.connected = 1
        self.transport = transport
        self._tls: Any = self._connections.serverConnectionForTLS(self)
        self._tls.set_accept_state()
        self._writer = DirectWriter(transport)
        if ITCPTransport.providedBy(transport):
            # The handshake's last message and a response are two packets. Without TCP_NODELAY, the
            # second would wait for the acknowledgement of the first.
            transport.setTcpNoDelay(True)
            self.transport.bufferSize = _READ_SIZE
        self._protocol.makeConnection(self)
        self._reported = self.disconnecting  # the protocol has rejected the connection

    def dataReceived(self, data: bytes) -> None:
        """Process this turn's share of the waiting input and of ``data``.

        The protocol may pause, close or abort the connection meanwhile.
        """
        if self._ended:
            self._discard(len(data))
            return
        if data and not self._receiving:
            self._incoming.waiting += data
            return
        self._advancing = True
        try:
            if self._handshake_done:
                piece, count = self._incoming.take(data, _RECORDS_PER_TURN, _READ_SIZE)
                self._tls.bio_write(piece)
                with_data = self._read(count)
                if (self._excess_empty or with_data < count) and not self._ended:
                    self._count_empty(count - with_data, with_data)
            else:
                self._feed_handshake(data)
        finally:
            self._advancing = False
        if self._ended:
            self._incoming.waiting = b""
            return
        if self._incoming.waiting and not self._paused:
            self._scheduled = self._clock.callLater(0, self._continue)
        wanted = not (self._paused or self._incoming.waiting)
        if wanted is not self._receiving:
            self._receive(wanted=wanted)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected = 0
        self._ended = True
        self._incoming.waiting = b""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        self._streams.discard(self)
        if not (self._handshake_done or self._reported):
            self._report(self._reason_without_error())
        self._protocol.connectionLost(reason)
        # Break reference cycles.
        del self._protocol
        self._writer.forget()

    # ISSLTransport: the protocol's calls.

    def write(self, data: bytes) -> None:
        if self._encrypt(data):
            self._flush()

    def write_last(self, data: bytes) -> None:
        """Write, and send close_notify in the same packet."""
        self.unregisterProducer()
        self._encrypt(data)
        self.loseConnection()

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        """Send close_notify, and close TCP when the other side has sent it too."""
        if self.disconnecting or not self.connected:
            return
        if not self._handshake_done:
            self.abortConnection()
            return
        self.disconnecting = True
        if not self._producing:
            self._send_close_notify()

    def finish(self) -> None:
        """Close TCP when all bytes have been sent, without the client's close_notify."""
        self._ended = self.disconnecting = True
        self._writer.close()

    def abortConnection(self) -> None:
        """Close TCP at once: the last octets sent may never arrive."""
        self._ended = self.disconnecting = True
        self.transport.abortConnection()

    def is_counted(self) -> None:
        """Do not report a handshake that does not complete: a limit counts the connection."""
        self._reported = True

    def pauseProducing(self) -> None:
        self._paused = True
        if self._receiving:
            self._receive(wanted=False)

    def resumeProducing(self) -> None:
        self._paused = False
        if self._ended or self._advancing or self._scheduled is not None:
            return
        if self._incoming.waiting:
            self.dataReceived(b"")
        elif not self._receiving:
            self._receive(wanted=True)

    def stopProducing(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Set the producer to pause; only push producers are supported."""
        assert streaming
        self._producing = True
        self._writer.register(producer)

    def unregisterProducer(self) -> None:
        if self._producing:
            self._producing = False
            self._writer.unregister()
            if self.disconnecting and not self._ended:
                self._send_close_notify()

    def loseWriteConnection(self) -> None:
        """Close both sides: not every client supports a half-closed TLS connection."""
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
        """Return the TLS connection, or ``None`` after a failed handshake."""
        return self._tls

    def getPeerCertificate(self) -> Any:
        return self._tls.get_peer_certificate()

    def getPeer(self) -> Any:
        return self.transport.getPeer()

    def getHost(self) -> Any:
        return self.transport.getHost()

    # Output.

    def _encrypt(self, data: bytes) -> bool:
        """Give OpenSSL the data; return true if there is output to send."""
        # OpenSSL takes empty data for the end of TLS.
        if not data or self._ended or (self.disconnecting and not self._producing):
            return False
        try:
            self._tls.sendall(data)
        except SSL.Error:
            # Nothing is written before the handshake, and a memory BIO accepts everything: TLS has
            # failed.
            self._fail()
            return False
        return True

    # Input, one turn's share at a time.

    def _receive(self, *, wanted: bool) -> None:
        """Resume or pause reading the socket."""
        self._receiving = wanted
        step = self.transport.resumeProducing if wanted else self.transport.pauseProducing
        step()

    def _discard(self, count: int) -> None:
        """Read on, so that the client can read an alert, but not without end."""
        self._discarded += count
        if self._discarded > _MAX_DISCARDED:
            self.abortConnection()

    def _continue(self) -> None:
        self._scheduled = None
        if not self._paused:
            self.dataReceived(b"")

    def _feed_handshake(self, data: bytes) -> None:
        piece, count = self._incoming.take(data, _RECORDS_PER_TURN, self._handshake_bytes)
        self._handshake_bytes -= len(piece)
        # Not len(), one more call for each read (tests/integration/test_costs.py).
        if not self._first_octets[_LONGEST_METHOD:]:
            self._first_octets += piece[: _LONGEST_METHOD + 1]
        self._tls.bio_write(piece)
        if self._continue_handshake():
            # Some of the records were the handshake's, and do not count as empty.
            self._read(count)

    def _count_empty(self, empty: int, with_data: int) -> None:
        """Abort a connection that sends too many records without data; send OpenSSL's responses.

        A record with data offsets one without, until the connection is closing.
        """
        self._excess_empty += empty if self.disconnecting else empty - with_data
        if self._excess_empty > _MAX_EMPTY:
            self._connections.watch.limited("tls.records-without-data")
            self.abortConnection()
            return
        self._excess_empty = max(0, self._excess_empty)
        if empty:
            self._flush()

    def _continue_handshake(self) -> bool:
        """Continue the handshake; return true when it has succeeded."""
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            if not self._handshake_bytes or (
                self._handshake_bytes < self._count_below and has_long_chain(self._tls)
            ):
                self._reject("too_large")
                return False
            self._flush()
            # Before the client's last message arrives: the kernel acknowledges that message before
            # the proxy has completed its part of the handshake.
            self._acknowledges_early = self._writer.acknowledge()
            return False
        except SSL.Error as error:
            self._reject(handshake_reason(error.args), handshake_detail(error.args))
            return False
        except Exception:
            # An exception in a callback fails the handshake (L3).
            self._log.failure("cannot complete a handshake")
            self._reject("internal_error")
            return False
        if self._handshake_bytes < self._count_below and has_long_chain(self._tls):
            self._reject("too_large")
            return False
        self._handshake_done = True
        version = self._tls.get_protocol_version()
        self._connections.watch.handshake_succeeded(version, key_exchange_of(self._tls))
        # In TLS 1.3 only tickets are left to send, which are never honoured: they are sent with the
        # first response. But a client with Nagle's algorithm delays its request until it receives
        # something (40 ms with ApacheBench).
        if not (self.holds_tickets and version == SSL.TLS1_3_VERSION and self._acknowledges_early):
            self._flush()
        if IHandshakeListener.providedBy(self._protocol):
            self._protocol.handshakeCompleted()
        return True

    def _reason_without_error(self) -> str:
        """Return the reason why a handshake did not complete, without an error of OpenSSL.

        A port check sends no ClientHello.
        """
        if self.disconnecting:
            return "timeout"
        return "no_client_hello" if self._tls.get_state_string() == _NO_HELLO else "client_left"

    def _read(self, count: int) -> int:
        """Deliver the data of up to ``count`` records as one piece.

        Return the number of records that had data.
        """
        records: list[bytes] = []
        end: Callable[[], None] = self._wait
        try:
            for _ in range(count):
                # An exception ends the loop.
                records.append(self._tls.recv(_MAX_RECORD))  # noqa: PERF401
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            end = self._end_with_client
        except SSL.Error:
            end = self._fail
        if records:
            self._protocol.dataReceived(records[0] if len(records) == 1 else b"".join(records))
        if not self._ended:
            end()
        return len(records)

    def _wait(self) -> None:
        """Do nothing until more input comes."""

    def _end_with_client(self) -> None:
        """Send close_notify after the client's, unless the protocol has ended TCP without it."""
        self._writer.stop()
        if not self._ended:
            self._send_close_notify()

    def _send_close_notify(self) -> None:
        """Send close_notify; close TCP if the client has sent it."""
        try:
            both = self._tls.shutdown()
        except SSL.Error:
            both = False
        self._flush()
        if both:
            self._ended = True
            self._writer.close()

    def _fail(self) -> None:
        """Send OpenSSL's alert, and close TCP, because TLS has failed."""
        self._ended = True
        self._flush()
        self._writer.close()

    def _reject(self, reason: str, detail: str = "") -> None:
        """End the handshake: send OpenSSL's alert, and leave closing TCP to the client.

        The protocol closes it when its time is up. To close TCP with unread octets, such as a
        request after the handshake, would reset it and lose the alert (RFC 9112 section 9.6).
        """
        self._ended = self._reported = True
        self._report(reason, detail)
        if self._first_octets.startswith(_METHODS):
            self._writer.write(_NOT_HTTPS)
        else:
            self._flush()
        # The client may stay until its time is up. OpenSSL's memory for its handshake, 100 KiB and
        # more, is freed now.
        self._tls = None
        self._writer.close_write_side()
        if not self._receiving:
            self._receive(wanted=True)

    def _report(self, reason: str, detail: str = "") -> None:
        """Count a failed handshake, and log it."""
        self._connections.watch.handshake_failed(reason)
        # The random is zero until a ClientHello has been read. Without one, OpenSSL reports the
        # newest version that it supports.
        has_hello = any(self._tls.client_random() or b"")
        self._connections.log(
            HandshakeFailure(
                peer_of(self),
                reason,
                detail,
                self._tls.get_protocol_version_name() if has_hello else "",
                (self._tls.get_servername() or b"").decode("latin-1"),
            )
        )

    def _flush(self) -> None:
        """Send OpenSSL's output."""
        try:
            while True:
                data = self._tls.bio_read(_WRITE_SIZE)
                self._writer.write(data)
                if len(data) < _WRITE_SIZE:
                    return
        except SSL.WantReadError:
            pass
