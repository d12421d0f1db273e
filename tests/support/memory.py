"""Connections, back ends and a whole proxy in memory, for the tests of both HTTP legs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from OpenSSL import crypto
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.error import ConnectionRefusedError as HttpError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    ISSLTransport,
    IStreamClientEndpoint,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from x509proxy.authorization.token_check import TokenChecker
from x509proxy.downstream.factory import ProxyFactory
from x509proxy.downstream.request import Request
from x509proxy.exchange import Exchange
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.forwarding.presets import find_preset
from x509proxy.http1.errors import ErrorResponse
from x509proxy.http1.messages import Framing, ResponseHead
from x509proxy.relay import Relay
from x509proxy.settings import (
    Backend,
    ClientSettings,
    DiscoverySettings,
    PolicySettings,
    UpstreamSettings,
)
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.connection import Connection
from x509proxy.upstream.pool import Pool

__all__ = [
    "CUT",
    "GET",
    "HEADER",
    "OK",
    "RULES",
    "Attempt",
    "BackEnd",
    "Consumer",
    "Proxy",
    "RecordingHandler",
    "RecordingWaiter",
    "RequestTransport",
    "TlsWire",
    "accept",
    "post",
    "reply",
    "undated",
]

GET = b"GET / HTTP/1.1\r\nHost: as.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CUT = ConnectionLost()
HEADER = b"Sec-Client-X509-Cert-Zq3fJ7sLw0aXn5tRk9vB2yGd8hMc4pUe"
RULES = HeaderRules.for_preset(find_preset("connect2id"), HEADER)


def post(body: bytes, *fields: bytes, length: int | None = None) -> bytes:
    """Build a POST request.

    ``length`` is the declared length of the body, by default the true one; a negative one declares
    ``chunked``.
    """
    size = len(body) if length is None else length
    framing = b"Transfer-Encoding: chunked" if size < 0 else b"Content-Length: %d" % size
    return b"\r\n".join([b"POST /token HTTP/1.1", b"Host: as.example", *fields, framing, b"", body])


def undated(answer: bytes) -> bytes:
    """Return messages without the time of day and the request id, which differ between any two."""
    return re.sub(rb"(?:Date: [^\r]+ GMT|X-Request-Id: [0-9a-f]{32})\r\n", b"", answer)


class RequestTransport(StringTransport):
    """One end of a connection; the test acts as the other end.

    As with Twisted's own transport, an aborted connection ends in the reactor's next turn. No byte
    is written after the end. ``loseConnection`` is only recorded: over TLS, the other end has to
    answer it.
    """

    def __init__(self, clock: Clock, peer: object = None) -> None:
        far = peer or IPv4Address("TCP", "198.51.100.7", 40000)
        StringTransport.__init__(self, IPv4Address("TCP", "192.0.2.1", 8443), far, lenient=True)
        self.protocol: Any = None
        self.aborted = False
        self.gone = False
        self._clock = clock

    def attach(self, protocol: IProtocol) -> RequestTransport:
        """Connect this end to ``protocol``."""
        self.protocol = protocol
        protocol.makeConnection(self)
        return self

    # Calls of the test, for the other end.

    def deliver(self, *pieces: bytes) -> None:
        """Deliver bytes from the other end."""
        for piece in pieces:
            if not self.aborted and not self.gone:
                self.protocol.dataReceived(piece)

    def sent(self) -> bytes:
        """Return the bytes written since the last call."""
        value: bytes = self.value()
        self.clear()
        return value

    def lose(self, reason: Exception | None = None) -> None:
        """End the connection; cleanly if no ``reason`` is given."""
        if not self.gone:
            self.gone = True
            producer, self.producer = self.producer, None
            if producer is not None:
                producer.stopProducing()
            self.protocol.connectionLost(Failure(reason or ConnectionDone()))

    def fill(self) -> None:
        """Pause the producer: the other end does not read, and the buffer is full."""
        if self.producer is not None:
            self.producer.pauseProducing()

    def drain(self) -> None:
        """Resume the producer: the other end has read everything."""
        if self.producer is not None:
            self.producer.resumeProducing()

    @property
    def reading(self) -> bool:
        """``True`` while the protocol accepts bytes from the other end."""
        return bool(self.producerState == "producing")

    # Calls of Twisted.

    def write(self, data: bytes) -> None:
        if not self.aborted and not self.gone:
            self.io.write(data)

    def abortConnection(self) -> None:
        if not self.aborted and not self.gone:
            self.aborted = self.disconnecting = True
            self._clock.callLater(0, self.lose, ConnectionAborted())

    def unregisterProducer(self) -> None:
        self.producer = None


class _Handle:
    def __init__(self, certificate: x509.Certificate | None) -> None:
        self._certificate = certificate

    def get_peer_certificate(self) -> crypto.X509 | None:
        return (
            None if self._certificate is None else crypto.X509.from_cryptography(self._certificate)
        )

    def get_peer_cert_chain(self, *, as_cryptography: bool) -> None:
        """Return no chain: the client sent its leaf only."""

    def get_group_name(self) -> str:
        return "X25519MLKEM768"

    def get_protocol_version_name(self) -> str:
        return "TLSv1.3"


class TlsWire(RequestTransport):
    """A TLS connection whose client shows ``certificate``, once :meth:`shake` has been called."""

    def __init__(self, clock: Clock, certificate: x509.Certificate | None = None) -> None:
        super().__init__(clock)
        alsoProvides(self, ISSLTransport)
        self._handle = _Handle(certificate)

    def shake(self) -> TlsWire:
        """Complete the handshake."""
        self.protocol.handshakeCompleted()
        return self

    def getHandle(self) -> _Handle:
        return self._handle


class Consumer:
    """A consumer of a request: it records calls, and calls ``ready`` once the request is ready."""

    def __init__(self, ready: Callable[[], object] = lambda: None) -> None:
        self.ready = ready
        self.told: list[str] = []
        self.taken: list[bytes | None] = []

    def request_ready(self) -> None:
        self.ready()

    def body_data(self, data: bytes) -> None:
        self.taken.append(data)

    def body_end(self) -> None:
        self.taken.append(None)

    def pause_response(self) -> None:
        self.told.append("pause")

    def resume_response(self) -> None:
        self.told.append("resume")

    def client_gone(self) -> None:
        self.told.append("gone")


def accept(request: Request, ready: Callable[[], object] = lambda: None) -> None:
    """Accept the request for a new consumer, unless it has one."""
    request.consumer = request.consumer or Consumer(ready)
    request.accept()


class RecordingHandler:
    """A handler behind a channel: it records each request, and then calls ``then`` with it."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.exchanges: list[Exchange] = []
        self.observe = self.exchanges.append
        self.then: Callable[[Request], object] = id

    def serve(self, request: Request) -> None:
        self.requests.append(request)
        self.then(request)


def reply(request: Request, body: bytes = b"ok") -> None:
    """Send a complete response at once."""
    request.begin(200, b"OK", (), Framing.LENGTH, len(body))
    request.write(body)
    request.finish()


class RecordingWaiter:
    """A waiter for the connection of one exchange: it records calls.

    It calls ``at_once`` when it gets a connection, ``then`` on the head of the response, and
    ``finally_`` at the end of the exchange. ``streams``: the client is still sending the body.
    """

    def __init__(
        self,
        at_once: Callable[[RecordingWaiter], object] = id,
        finally_: Callable[[RecordingWaiter], object] = id,
        *,
        streams: bool = False,
    ) -> None:
        self.streams = streams
        self.told: list[object] = []
        self.refusals: list[ErrorResponse] = []
        self.connections: list[Connection] = []
        self.then: Callable[[RecordingWaiter], object] = id
        self._at_once = at_once
        self._finally = finally_

    def __repr__(self) -> str:
        return f"<RecordingWaiter {self.told} {self.refusals}>"

    @property
    def connection(self) -> Connection:
        """The newest connection."""
        return self.connections[-1]

    @property
    def statuses(self) -> list[int]:
        """The statuses of the refusals."""
        return [refusal.status for refusal in self.refusals]

    def ask(self, method: bytes = b"GET") -> None:
        """Send a request without a body."""
        self.connection.send(method, method + b" / HTTP/1.1\r\n\r\n", self)

    def connected(self, connection: Connection) -> None:
        self.connections.append(connection)
        self._at_once(self)

    def not_connected(self, refusal: ErrorResponse) -> None:
        self.refusals.append(refusal)
        self._finally(self)

    def response_head(self, head: ResponseHead) -> None:
        self.told.append(head.status)
        self.then(self)

    def response_data(self, data: bytes) -> None:
        self.told.append(data)

    def response_flush(self) -> None:
        """Do nothing: no data is buffered here."""

    def response_end(self) -> None:
        self.told.append("end")
        self._finally(self)

    def response_failed(self, refusal: ErrorResponse) -> None:
        self.refusals.append(refusal)
        self._finally(self)

    def pause_request(self) -> None:
        self.told.append("pause")

    def resume_request(self) -> None:
        self.told.append("resume")


class Attempt:
    """One attempt to open a connection."""

    def __init__(self, factory: IProtocolFactory, wire: RequestTransport) -> None:
        self._factory = factory
        self.wire = wire
        self.cancelled = False
        self.deferred: Deferred[Any] = Deferred(self._cancel)

    def _cancel(self, _: Deferred[Any]) -> None:
        self.cancelled = True

    def succeed(self) -> RequestTransport:
        """Accept the connection, even after the attempt was cancelled."""
        protocol = self._factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 8080))
        assert protocol is not None
        self.wire.attach(protocol)
        if not self.cancelled:
            self.deferred.callback(protocol)
        return self.wire

    def fail(self, reason: Exception | None = None) -> None:
        """Refuse the connection."""
        self.deferred.errback(reason or HttpError())


@implementer(IStreamClientEndpoint)
class BackEnd:
    """A back end's endpoint, whose connections the test controls.

    ``at_once``: each connection is accepted immediately.
    """

    def __init__(self, clock: Clock, *, tls: bool = False, at_once: bool = True) -> None:
        self._clock = clock
        self._tls = tls
        self.at_once = at_once
        self.attempts: list[Attempt] = []

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        wire = TlsWire(self._clock) if self._tls else RequestTransport(self._clock)
        attempt = Attempt(protocolFactory, wire)
        self.attempts.append(attempt)
        if self.at_once:
            return succeed(attempt.succeed().protocol)
        return attempt.deferred

    @property
    def wire(self) -> RequestTransport:
        """The newest connection."""
        return self.attempts[-1].wire

    @property
    def wires(self) -> list[RequestTransport]:
        """All connections, including those that have ended and those that were only attempted."""
        return [attempt.wire for attempt in self.attempts]


class Proxy:
    """A whole proxy in memory, from the client's connection to the back ends' connections."""

    def __init__(
        self,
        *,
        client: ClientSettings = ClientSettings(),
        upstream: UpstreamSettings = UpstreamSettings(),
        policy: PolicySettings = PolicySettings(),
        urls: Sequence[str] = ("http://127.0.0.1:8080",),
        at_once: bool = True,
        rules: HeaderRules = RULES,
        discovery: DiscoverySettings | None = None,
        tokens: TokenChecker | None = None,
    ) -> None:
        self.clock = Clock()
        self.exchanges: list[Exchange] = []
        self.observe = self.exchanges.append
        self.transfers: list[Relay] = []
        self.deadlines = Deadlines(self.clock)
        self.back_ends = [BackEnd(self.clock, at_once=at_once) for _ in urls]
        self.pools = [
            Pool(Backend.parse(url), back_end, self.deadlines, upstream)
            for url, back_end in zip(urls, self.back_ends, strict=True)
        ]
        self.factory = ProxyFactory(self, self.deadlines, client)
        self._policy = policy
        self._rules = rules
        self._discovery = discovery
        self._tokens = tokens

    def serve(self, request: Request) -> None:
        transfer = Relay(
            request, self.pools, self._rules, self._policy, self._discovery, self._tokens
        )
        self.transfers.append(transfer)
        transfer.start()

    @property
    def back_end(self) -> BackEnd:
        """The only back end, or the first one."""
        return self.back_ends[0]

    def client(self, *pieces: bytes) -> RequestTransport:
        """Connect a new client, and send ``pieces``."""
        wire = RequestTransport(self.clock).attach(self.factory.buildProtocol(None))
        wire.deliver(*pieces)
        return wire

    def tls_client(self, certificate: x509.Certificate | None, *pieces: bytes) -> RequestTransport:
        """Connect a new client with a certificate, and send ``pieces``."""
        wire = TlsWire(self.clock, certificate)
        wire.attach(self.factory.buildProtocol(None))
        wire.shake().deliver(*pieces)
        return wire
