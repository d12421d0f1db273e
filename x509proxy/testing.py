"""Test doubles for applications that embed the proxy: certificates, a back end, a proxy.

The back end records what it receives. Both listen on the loopback, at a port that the kernel
chooses, until ``stop``. In a trial test::

    back_end = RecordingBackEnd(reactor)
    self.addCleanup(back_end.stop)
    proxy = running_proxy(reactor, back_end.port)
    self.addCleanup(proxy.stop)
    client = client_identity()
    ...  # in a thread: proxy.connect(client), then send and receive
    self.assertEqual([header_value(client)], back_end.requests[0].values(proxy.header_name))

An application that calls :func:`x509proxy.client_certificate` is tested without TLS::

    request = present(DummyRequest([b""]), client_identity())
    self.assertEqual(b"...", WhoAmI().render_GET(request))
"""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from x509proxy.certificates.client_certificate import (
    SELF_SIGNED_LEAF,
    UNKNOWN_ISSUER,
    ClientCertificate,
    Verdict,
)
from x509proxy.certificates.pem_files import Identity
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.certificates.trust_store import TrustStore
from x509proxy.downstream.factory import ProxyFactory, TlsFactory
from x509proxy.exchange import Exchange, Observer, unobserved
from x509proxy.forwarding.secret_name import new_header_name
from x509proxy.http1.fields import Pairs
from x509proxy.settings import ClientSettings, PolicySettings
from x509proxy.transport.tls_context import ServerConnections, make_context

if TYPE_CHECKING:
    from x509proxy.resource import X509ProxyResource

__all__ = ["Answer", "RecordedRequest", "RecordingBackEnd", "RunningProxy", "ThrowAwayAuthority"]
__all__ += ["client_identity", "header_value", "present", "running_proxy"]

_LOOPBACK = "127.0.0.1"


def client_identity(kind: KeyKind = KeyKind.EC, common_name: str = "client") -> SelfSigned:
    """Make a client's key with a self-signed certificate (RFC 8705 section 2.2)."""
    return make_self_signed(kind, common_name)


def header_value(client: SelfSigned) -> bytes:
    """Encode the certificate as preset ``connect2id`` does: PEM in one line."""
    text = b64encode(client.certificate.public_bytes(Encoding.DER))
    return b"-----BEGIN CERTIFICATE-----" + text + b"-----END CERTIFICATE-----"


_ERRORS = {
    Verdict.SELF_SIGNED: [SELF_SIGNED_LEAF],
    Verdict.UNTRUSTED: [UNKNOWN_ISSUER],
    Verdict.TRUSTED: [],
}
_Request = TypeVar("_Request")


class _Presented:
    """The transport of a request with a certificate, for :func:`x509proxy.client_certificate`."""

    def __init__(self, connection: SSL.Connection, transport: Any) -> None:
        self._connection = connection
        self._transport = transport

    def getHandle(self) -> SSL.Connection:
        return self._connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def present(
    request: _Request, client: SelfSigned | None, verdict: Verdict | None = None
) -> _Request:
    """Give a Twisted web request a client with this certificate, or without one, and return it.

    No TLS is involved.

    :param request: any request, ``twisted.web.test.requesthelper.DummyRequest`` too.
    :param verdict: the result of the handshake; by default ``SELF_SIGNED`` for a self-signed
        certificate, else ``TRUSTED``.
    """
    connection: Any = ServerConnections(SSL.Context(SSL.TLS_METHOD)).serverConnectionForTLS(
        Protocol()
    )
    connection.certificate_read = True
    if client is not None:
        is_own = client.certificate.issuer == client.certificate.subject
        found = verdict or (Verdict.SELF_SIGNED if is_own else Verdict.TRUSTED)
        connection.certificate = ClientCertificate.from_x509(client.certificate, _ERRORS[found])
    target: Any = request
    target.transport = _Presented(connection, getattr(request, "transport", None))
    return request


class ThrowAwayAuthority:
    """A certificate authority for one test (RFC 8705 section 2.1).

    It issues values of the class ``SelfSigned``, with certificates that are not self-signed.
    """

    def __init__(self, common_name: str = "throw-away authority") -> None:
        self._own = make_self_signed(KeyKind.EC, common_name)
        self.certificate = self._sign(
            self._own, [(x509.BasicConstraints(ca=True, path_length=0), True)]
        )

    def client(self, common_name: str = "client", kind: KeyKind = KeyKind.EC) -> SelfSigned:
        """Make a client's key, with a certificate issued by this authority."""
        return self._reissue(make_self_signed(kind, common_name))

    def server(self, *names: str, kind: KeyKind = KeyKind.EC) -> SelfSigned:
        """Make a server's, for DNS names and addresses; for ``localhost`` if none is given."""
        return self._reissue(
            make_self_signed(kind, (names or ("localhost",))[0], names=names, server=True)
        )

    def _reissue(self, made: SelfSigned) -> SelfSigned:
        extensions = [
            (extension.value, extension.critical) for extension in made.certificate.extensions
        ]
        return attrs.evolve(made, certificate=self._sign(made, extensions))

    def _sign(
        self, made: SelfSigned, extensions: Sequence[tuple[x509.ExtensionType, bool]]
    ) -> x509.Certificate:
        old, issuer = made.certificate, self._own.certificate.subject
        times = old.not_valid_before_utc, old.not_valid_after_utc
        builder = x509.CertificateBuilder(
            issuer, old.subject, old.public_key(), old.serial_number, *times
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._own.private_key, hashes.SHA256())


Answer = bytes | Callable[[Any], None]
"""A back end's reaction to a complete request: bytes to write, or a function of its transport."""


@attrs.frozen
class RecordedRequest:
    """One request as it arrived.

    ``raw``: head and body on the wire; ``pairs``: the fields in their order; ``body``: without its
    framing.
    """

    raw: bytes
    start: bytes
    pairs: Pairs
    body: bytes

    def values(self, name: str) -> list[bytes]:
        """Return all fields of that name, in any case."""
        return [
            value for other, value in self.pairs if other.lower() == name.lower().encode("ascii")
        ]


class RecordingBackEnd(Factory):
    """An HTTP/1.1 server that keeps connections alive and records everything.

    It listens from its construction on. ``requests``: the complete ones, in order; ``received``:
    every byte of every connection; ``accepted``: the number of connections. Each of ``answers``
    serves one request; further requests receive a short 200.
    """

    noisy = False

    def __init__(self, reactor: Any, *answers: Answer) -> None:
        self.requests: list[RecordedRequest] = []
        self.received = bytearray()
        self.accepted = 0
        self.connections: set[Any] = set()
        self.answers = deque(answers)
        self._reactor = reactor
        self._awaited: dict[Deferred[None], int] = {}
        self._listening = reactor.listenTCP(0, self, interface=_LOOPBACK)
        self.port: int = self._listening.getHost().port

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        self.accepted += 1
        return _BackEndConnection(self)

    def heard(self, count: int) -> Deferred[None]:
        """Return a ``Deferred`` that fires after so many requests."""
        waiting: Deferred[None] = Deferred()
        self._awaited[waiting] = count
        self._fire()
        return waiting

    def stop(self) -> Deferred[None]:
        """Cut every connection and stop listening."""
        return Deferred.fromCoroutine(_stop(self._reactor, self._listening, self.connections))

    def take(self, request: RecordedRequest, transport: Any) -> None:
        """Record a request, and respond to it."""
        self.requests.append(request)
        answer = (
            self.answers.popleft()
            if self.answers
            else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        )
        if isinstance(answer, bytes):
            transport.write(answer)
        else:
            answer(transport)
        self._fire()

    def _fire(self) -> None:
        for waiting in [
            waiting for waiting, count in self._awaited.items() if count <= len(self.requests)
        ]:
            del self._awaited[waiting]
            waiting.callback(None)


class _BackEndConnection(Protocol):
    transport: Any

    def __init__(self, back_end: RecordingBackEnd) -> None:
        self._back_end = back_end
        self._buffer = b""

    def connectionMade(self) -> None:
        self._back_end.connections.add(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._back_end.received += data
        self._buffer += data
        while request := _first_request(self._buffer):
            self._buffer = self._buffer[len(request.raw) :]
            self._back_end.take(request, self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._back_end.connections.discard(self.transport)


def _first_request(data: bytes) -> RecordedRequest | None:
    """Parse the first request of ``data``, if it is complete.

    This parser is independent of the proxy's own, so that one can find a fault of the other.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    start, *lines = head.split(b"\r\n")
    pairs = [
        (name, value.strip(b" ")) for name, _, value in (line.partition(b":") for line in lines)
    ]
    fields = {name.lower(): value for name, value in pairs}
    if b"transfer-encoding" in fields:
        body, size = _dechunk(rest)
    else:
        size = int(fields.get(b"content-length", b"0"))
        body = rest[:size]
    if not 0 <= size <= len(rest):
        return None
    return RecordedRequest(data[: len(head) + 4 + size], start, pairs, body)


def _dechunk(data: bytes) -> tuple[bytes, int]:
    """Decode a chunked body without trailers; return its size on the wire too, -1 if incomplete."""
    body, place = b"", 0
    while (end := data.find(b"\r\n", place)) >= 0:
        size = int(data[place:end], 16)
        body += data[end + 2 : end + 2 + size]
        place = end + 4 + size
        if size == 0:
            return body, place
    return body, -1


@attrs.define
class RunningProxy:
    """A running proxy.

    ``exchanges``: those that have ended; ``server_pem``: the certificate that its clients trust.
    """

    port: int
    server_pem: Path
    header_name: str
    exchanges: list[Exchange]
    resource: X509ProxyResource
    _tls: Any
    _listening: Any

    def connect(
        self, client: SelfSigned | None = None, timeout: float = 10.0, alpn: Sequence[str] = ()
    ) -> ssl.SSLSocket:
        """Open a blocking connection with its handshake done, for raw bytes; use it in a thread.

        ``alpn``: the protocols that the client offers (RFC 7301).
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if alpn:
            context.set_alpn_protocols(alpn)
        context.load_verify_locations(self.server_pem)
        if client is not None:
            with tempfile.NamedTemporaryFile(dir=self.server_pem.parent) as file:
                file.write(client.certificate_pem + client.key_pem)
                file.flush()
                context.load_cert_chain(file.name)
        plain = socket.create_connection((_LOOPBACK, self.port), timeout)
        # By default Python reports a reset, and an end without close_notify, as a regular end.
        return context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)

    async def _stop(self) -> None:
        self.resource.close()
        await _stop(self.resource.reactor, self._listening, self._tls.protocols)
        shutil.rmtree(self.server_pem.parent, ignore_errors=True)

    def stop(self) -> Deferred[None]:
        """Cut every connection, stop listening and remove the files."""
        return Deferred.fromCoroutine(self._stop())


def running_proxy(
    reactor: Any,
    back_end: int,
    factory: Callable[[X509ProxyResource], Any] | None = None,
    authorities: Sequence[x509.Certificate] = (),
    **options: Any,
) -> RunningProxy:
    """Start a proxy over TLS in front of the port ``back_end`` of the loopback.

    :param factory: the server of the resource, such as ``twisted.web.server.Site``; by default
        :class:`x509proxy.ProxyFactory`.
    :param authorities: the issuers that make a client's certificate ``TRUSTED``.
    :param options: as for :class:`x509proxy.resource.X509ProxyResource`; by default ``header`` is
        a new secret name.
    """
    # Imported here: the module installs a reactor, and by now the caller has chosen one.
    from x509proxy.resource import X509ProxyResource

    exchanges: list[Exchange] = []
    also: Observer = options.pop("observe", unobserved)

    def observe(exchange: Exchange) -> None:
        exchanges.append(exchange)
        also(exchange)

    name = options.setdefault("header", new_header_name())
    resource = X509ProxyResource(_LOOPBACK, back_end, reactor=reactor, observe=observe, **options)
    server = make_self_signed(KeyKind.EC, "localhost", server=True)
    ask = options.get("policy", PolicySettings()).client_certificate
    context = make_context(
        Identity(server.certificate, server.private_key), ask, TrustStore(tuple(authorities))
    )
    connections = ServerConnections(context)
    tls: Any
    if factory is None:
        tls = TlsFactory(
            connections,
            ProxyFactory(resource, resource.deadlines, options.get("client", ClientSettings())),
            resource.deadlines.clock,
        )
    else:
        tls = TLSMemoryBIOFactory(connections, isClient=False, wrappedFactory=factory(resource))
        tls.noisy = False
    listening = reactor.listenTCP(0, tls, interface=_LOOPBACK)
    server_pem = Path(tempfile.mkdtemp(prefix="x509proxy-testing-")) / "server.pem"
    server_pem.write_bytes(server.certificate_pem)
    return RunningProxy(
        listening.getHost().port, server_pem, name, exchanges, resource, tls, listening
    )


async def _stop(reactor: Any, listening: Any, connections: Any) -> None:
    """Close everything, and run the reactor until the other sides have noticed."""
    await maybeDeferred(listening.stopListening)
    for connection in tuple(connections):
        connection.abortConnection()
    turn = 0
    while turn < 4 or (connections and turn < 1000):
        turn += 1
        await deferLater(reactor, 0)
