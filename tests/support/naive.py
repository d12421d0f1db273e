"""The obvious proxy, which is not safe: it is here so that the tests of spoofing can be seen to go red on it."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.web.proxy import ReverseProxyResource

__all__ = ["NaiveResource", "RepairedNaiveResource"]


class NaiveResource(ReverseProxyResource):
    """Removes the header, sets it from the handshake and calls the parent, whose ``getChild`` knows nothing of this class."""

    def __init__(self, host: str, port: int, header: str, reactor: Any) -> None:
        parent: Any = super()
        parent.__init__(host, port, b"", reactor)
        self._header = header

    def render(self, request: Any) -> Any:
        """Looks right, and is never called: not even ``/`` is rendered by this object."""
        request.requestHeaders.removeHeader(self._header)
        certificate = request.transport.getPeerCertificate()
        if certificate is not None:
            pem = certificate.to_cryptography().public_bytes(Encoding.PEM)
            request.requestHeaders.setRawHeaders(self._header, [pem.replace(b"\n", b"")])
        parent: Any = super()
        return parent.render(request)


class RepairedNaiveResource(NaiveResource):
    """With ``getChild`` repaired, so that ``render`` is called."""

    isLeaf = True
