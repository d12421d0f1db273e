r"""The ``x509:`` endpoint: gives any Twisted server its clients' certificates, self-signed ones included, from a string.

``twist web --listen=x509:tcp\:8443:certificate=server.pem:privateKey=server.key`` and in the application
:func:`x509proxy.transport.tls_context.client_certificate`.
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
    """Reads ``x509:ENDPOINT:certificate=FILE[:privateKey=FILE][:clientCertificate=optional|required|none][:ca=FILE]``."""

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
    """TLS that asks for certificates, on top of the endpoint that ``nested`` and ``others`` describe (colons escaped or not).

    ``required`` here ends the handshake of a client without a certificate, since there is no proxy that could answer it. What a
    certificate is worth (expired, weak, of an unknown authority) the application judges, by ``flags_at`` and ``verdict``.

    :raises SettingsError: (a ``ValueError``) a file cannot be read, or does not fit.
    """
    # Late, so that a scan of the plugins stays quick.
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
    except (
        Exception
    ) as error:  # each kind of endpoint raises what it likes for a description that it cannot read
        raise SettingsError(
            f"x509: found {description!r}, expected a Twisted server endpoint: {error}"
        ) from None
    return wrapServerTLS(ServerConnections(context), within)
