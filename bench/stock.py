"""The subject ``stock``: Twisted's ``ReverseProxyResource``, with the certificate passed on."""

from __future__ import annotations

import sys
from base64 import b64encode
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto
from twisted.internet import endpoints, reactor, ssl
from twisted.internet.interfaces import IReactorCore, ISSLTransport
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.web.http import Request
from twisted.web.proxy import ReverseProxyResource
from twisted.web.server import Site


class Forwarding(ReverseProxyResource):
    """Resource that sets the certificate header, in place of any that the client sent."""

    def __init__(self, port: int, name: bytes, path: bytes = b"") -> None:
        super().__init__("127.0.0.1", port, path)  # type: ignore[no-untyped-call]
        self._name = name

    def getChild(self, path: bytes, request: Request) -> Forwarding:
        return Forwarding(self.port, self._name, self.path + b"/" + path)

    def render(self, request: Request) -> int:
        transport = cast("ISSLTransport", request.transport)
        certificate = cast("crypto.X509", transport.getPeerCertificate()).to_cryptography()
        request.requestHeaders.setRawHeaders(
            self._name, [b64encode(certificate.public_bytes(Encoding.DER))]
        )
        return cast("int", super().render(request))  # type: ignore[no-untyped-call]


def main(port: int, back_end: int, folder: Path) -> None:
    """Serve until a signal arrives.

    The client's certificate is the one authority: stock Twisted requests nothing without one.
    """
    own = PrivateCertificate.loadPEM((folder / "server-both.pem").read_bytes())
    client = Certificate.loadPEM((folder / "client.pem").read_bytes())
    options = ssl.CertificateOptions(
        privateKey=own.privateKey.original,
        certificate=own.original,
        trustRoot=client,
        raiseMinimumTo=ssl.TLSVersion.TLSv1_3,
    )
    name = (folder / "header.txt").read_bytes().strip()
    endpoint = endpoints.SSL4ServerEndpoint(reactor, port, options, 1024, "127.0.0.1")
    endpoint.listen(Site(Forwarding(back_end, name), logPath=str(folder / "stock-access.log")))
    cast("IReactorCore", reactor).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
