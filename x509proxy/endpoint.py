r"""The ``x509:`` endpoint: any Twisted server receives its clients' certificates, from a string.

The server listens with
``twist web --listen=x509:tcp\:8443:certificate=server.pem:privateKey=server.key``. The application
calls :func:`x509proxy.transport.tls_context.client_certificate`, also for self-signed certificates.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import serverFromString, wrapServerTLS
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from zope.interface import implementer

__all__ = ["X509EndpointParser", "x509_endpoint"]


@implementer(IPlugin, IStreamServerEndpointStringParser)
class X509EndpointParser:
    """Parser of the endpoint's string.

    ``x509:ENDPOINT:certificate=FILE``, then ``:privateKey=FILE``, ``:ca=FILE`` and
    ``:clientCertificate=optional``, ``required`` or ``none``, each of which can be left out.
    """

    prefix = "x509"

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamServerEndpoint:
        return x509_endpoint(reactor, *args, **kwargs)


def x509_endpoint(
    reactor: Any,
    *nested: str,
    certificate: str | None = None,
    privateKey: str | None = None,
    clientCertificate: str = "optional",
    ca: str | None = None,
    **others: str,
) -> IStreamServerEndpoint:
    """Put TLS that requests certificates on top of another endpoint.

    ``nested`` and ``others`` describe the other endpoint, with its colons escaped or not. Here
    ``required`` ends the handshake of a client without a certificate, since there is no proxy that
    could send an error response. The application decides about expired, weak and unknown
    certificates, by ``flags_at`` and ``verdict``.

    :raises SettingsError: (a ``ValueError``) a file cannot be read, or does not fit.
    """
    # Imported here, so that a scan of the plugins stays fast.
    from x509proxy.certificates.pem_files import read_authorities, read_identity
    from x509proxy.certificates.trust_store import TrustStore
    from x509proxy.config.endpoint_strings import endpoint_string
    from x509proxy.settings import ClientAuth, SettingsError
    from x509proxy.transport.adopted_sockets import keeping_files
    from x509proxy.transport.tls_context import ServerConnections, make_context, require_certificate

    try:
        ask = ClientAuth(clientCertificate)
    except ValueError:
        expected = "optional, required or none"
        raise SettingsError(
            f"clientCertificate: found {clientCertificate!r}, expected {expected}"
        ) from None
    if certificate is None:
        raise SettingsError("certificate: found none, expected a file in PEM")
    identity = read_identity(certificate, privateKey)
    context = make_context(
        identity, ask, TrustStore(read_authorities(ca) if ca else ()), http=False
    )
    if ask is ClientAuth.REQUIRED:
        require_certificate(context)
    description = endpoint_string(nested, others)
    try:
        within = keeping_files(serverFromString(reactor, description))
    except Exception as error:  # the parsers of endpoints have no common exception
        raise SettingsError(
            f"x509: found {description!r}, expected a Twisted server endpoint: {error}"
        ) from None
    return wrapServerTLS(ServerConnections(context), within)
