"""A simple but unsafe proxy: the tests of spoofing fail with it."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.web.proxy import ReverseProxyResource

__all__ = ["NaiveResource", "RepairedNaiveResource"]


class NaiveResource(ReverseProxyResource):
    """A resource that removes the header, sets it from the handshake, and calls its parent.

    The parent's ``getChild`` returns objects of the parent's class, which do neither.
    """

    def __init__(self, host: str, port: int, header: str, reactor: Any) -> None:
        parent: Any = super()
        parent.__init__(host, port, b"", reactor)
        self._header = header

    def render(self, request: Any) -> Any:
        """Render the request; it is never called, since a child renders even ``/``."""
        request.requestHeaders.removeHeader(self._header)
        certificate = request.transport.getPeerCertificate()
        if certificate is not None:
            pem = certificate.to_cryptography().public_bytes(Encoding.PEM)
            request.requestHeaders.setRawHeaders(self._header, [pem.replace(b"\n", b"")])
        parent: Any = super()
        return parent.render(request)


class RepairedNaiveResource(NaiveResource):
    """The resource with ``getChild`` repaired, so that ``render`` is called."""

    isLeaf = True
