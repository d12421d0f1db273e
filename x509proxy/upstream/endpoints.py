"""Endpoints that connect to a back end, with TLS verified, and the unread input of a connection.

Facts
-----
* Twisted's own check of a server's name catches one exception of two. For a certificate that has no
  name or cannot be parsed, it logs a failure, and the connection continues (26.10). So the name is
  verified here.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import (
    Certificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from x509proxy.certificates.pem_files import Identity
from x509proxy.settings import Backend, Scheme, SettingsError, UpstreamSettings
from x509proxy.transport.tls_context import pyopenssl_key

__all__ = ["PendingInput", "UnreadInput", "backend_endpoint", "check_identity", "connect"]


def backend_endpoint(
    reactor: Any,
    backend: Backend,
    settings: UpstreamSettings,
    authorities: Sequence[x509.Certificate] | None = None,
    identity: Identity | None = None,
) -> IStreamClientEndpoint:
    """Return an endpoint that connects to the back end.

    Over ``https``, chain and name are verified against ``authorities``, or those of the system if
    it is ``None``. ``identity``: the certificate to send to an ``https`` back end.
    """
    if backend.scheme is Scheme.UNIX:
        return UNIXClientEndpoint(reactor, backend.path, timeout=settings.connect_timeout)
    endpoint = _tcp_endpoint(reactor, backend, settings.connect_timeout)
    if backend.scheme is Scheme.HTTP:
        return endpoint
    return wrapClientTLS(_client_options(backend.host, authorities, identity), endpoint)


def _tcp_endpoint(reactor: Any, backend: Backend, timeout: float) -> IStreamClientEndpoint:
    """Return an endpoint for an address, or for a name that is resolved at each connection."""
    if isIPAddress(backend.host):
        return TCP4ClientEndpoint(reactor, backend.host, backend.port, timeout=timeout)
    if isIPv6Address(backend.host):
        return TCP6ClientEndpoint(reactor, backend.host, backend.port, timeout=timeout)
    # Loads the codec while files can be read: without it, after -u, a resolution never ends.
    backend.host.encode("idna")
    return HostnameEndpoint(reactor, backend.host, backend.port, timeout=timeout)


def connect(endpoint: IStreamClientEndpoint, protocol: Protocol) -> Deferred[Any]:
    """Connect ``protocol`` itself."""
    # pop drops the factory's reference: Twisted's connector and transport are a cycle, and the
    # protocol must not stay in it until the garbage collector runs.
    factory: Factory = Factory.forProtocol([protocol].pop)
    factory.noisy = False
    return endpoint.connect(factory)


class PendingInput:
    """Input of an idle connection that it has not received: octets, or the connection's end.

    Over TLS an unread record may be harmless, or it may be the one that ends TLS. One packet can
    have several records, which Twisted delivers one by one: OpenSSL holds the others meanwhile.
    """

    __slots__ = ("_poll", "_socket", "_tls")

    def __init__(self, transport: Any) -> None:
        handle = transport.getHandle() if hasattr(transport, "getHandle") else None
        self._tls = handle if isinstance(handle, SSL.Connection) else None
        carrier = getattr(transport, "transport", transport)
        handle = carrier.getHandle() if hasattr(carrier, "getHandle") else None
        self._socket = handle if isinstance(handle, socket.socket) else None
        # Not recv with MSG_PEEK: it reports by an exception that there is nothing, three times as
        # expensive.
        self._poll = select.poll()
        if self._socket is not None:
            self._poll.register(self._socket, select.POLLIN)

    def is_empty(self) -> bool:
        """Return true if there is none, and the socket is open.

        The socket of a transport without one always counts as empty.
        """
        if self._tls is not None and _has_record(self._tls):
            return False
        if self._socket is None:
            return True
        return self._socket.fileno() >= 0 and not self._poll.poll(0)


def _has_record(tls: SSL.Connection) -> bool:
    """Return true if OpenSSL holds octets that have not been delivered, or TLS has ended."""
    try:
        tls.recv(1, socket.MSG_PEEK)
    except SSL.WantReadError:
        return False
    except SSL.Error:
        return True
    return True


class UnreadInput:
    """A duplicate of a plain connection's descriptor, to read the response before a reset.

    A back end that responds early and closes with unread bytes resets the connection. Its response
    is in the kernel then. But the next write fails, and Twisted closes the socket without reading.
    """

    def __init__(self, transport: Any) -> None:
        handle = getattr(transport, "getHandle", lambda: None)()
        self._handle = handle.dup() if isinstance(handle, socket.socket) else None

    def take(self, max_bytes: int) -> bytes:
        """Return up to ``max_bytes`` unread bytes, and close the duplicate."""
        handle, self._handle = self._handle, None
        if handle is None:
            return b""
        with handle:
            try:
                return handle.recv(max_bytes, socket.MSG_DONTWAIT)
            except OSError:
                return b""

    def forget(self) -> None:
        """Close the duplicate."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None


@implementer(IOpenSSLClientConnectionCreator)
class _VerifyingCreator:
    """Creator of Twisted's client connections that send nothing unless the server is ``host``."""

    def __init__(self, creator: Any, host: str) -> None:
        self._creator = creator
        self._host = host
        is_address = isIPAddress(host) or isIPv6Address(host)
        self._verify_name = (
            verify_certificate_ip_address if is_address else verify_certificate_hostname
        )

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection: SSL.Connection = self._creator.clientConnectionForTLS(tlsProtocol)
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verify)
        return connection

    def _verify(
        self, connection: SSL.Connection, certificate: crypto.X509, _code: int, depth: int, ok: int
    ) -> bool:
        try:
            if ok and not depth:
                self._verify_name(certificate.to_cryptography(), self._host)
        except Exception:
            # Any doubt ends the connection (L3). Twisted sets its protocol as the app data.
            connection.get_app_data().failVerification(Failure())
            return False
        return bool(ok)


def _client_options(
    host: str, authorities: Sequence[x509.Certificate] | None, identity: Identity | None
) -> Any:
    trust = (
        platformTrust()
        if authorities is None
        else trustRootFromCertificates(map(_twisted_certificate, authorities))
    )
    extra: dict[str, Any] = {}
    if identity is not None:
        # Without PrivateCertificate, which uses pyOpenSSL's deprecated types.
        extra = {
            "certificate": identity.certificate,
            "privateKey": pyopenssl_key(identity.private_key),
            "extraCertChain": list(identity.chain),
        }
    options = optionsForClientTLS(
        host, trustRoot=trust, acceptableProtocols=[b"http/1.1"], extraCertificateOptions=extra
    )
    return _VerifyingCreator(options, host)


def check_identity(identity: Identity) -> None:
    """Check that OpenSSL accepts the proxy's own certificate and key.

    :raises SettingsError: OpenSSL rejects them.
    """
    try:
        _client_options("localhost", (), identity)
    except SSL.Error:
        raise SettingsError(
            "upstream.certificate: found a certificate or a key that OpenSSL rejects, "
            "expected one that it can sign with"
        ) from None


def _twisted_certificate(certificate: x509.Certificate) -> Certificate:
    loaded: Certificate = Certificate.loadPEM(certificate.public_bytes(Encoding.PEM))
    return loaded
