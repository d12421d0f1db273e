r"""The ``x509:`` endpoint: TLS with client certificates for Twisted servers, also self-signed ones.

Listen with ``twist web --listen=x509:tcp\:8443:certificate=server.pem:privateKey=server.key``, and
call :func:`x509proxy.transport.tls_context.client_certificate` in the application.
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
    """The parser of ``x509:ENDPOINT:certificate=FILE`` for Twisted.

    Further arguments are ``privateKey=FILE``, ``clientCertificate=optional|required|none`` and
    ``ca=FILE``.
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
    """Return an endpoint with TLS over the one that ``nested`` and ``others`` describe.

    Its colons may be escaped or not. With ``required``, the handshake of a client without a
    certificate fails, since there is no proxy to send an error response. The application must check
    each certificate by ``verdict`` and ``flags_at``: it may be expired, weak or of an unknown
    authority.

    :raises SettingsError: (a ``ValueError``) a file cannot be read, or is invalid.
    """
    # Imported here, so that Twisted's scan of plugins is fast.
    from x509proxy.certificates.pem_files import read_authorities, read_identity
    from x509proxy.certificates.trust_store import TrustStore
    from x509proxy.config.endpoint_strings import endpoint_string
    from x509proxy.settings import ClientAuth, SettingsError
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
        within = serverFromString(reactor, description)
    except Exception as error:  # each type of endpoint raises other errors
        raise SettingsError(
            f"x509: found {description!r}, expected a Twisted server endpoint: {error}"
        ) from None
    return wrapServerTLS(ServerConnections(context), within)
