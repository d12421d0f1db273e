"""Tests of :mod:`x509proxy.wsgi`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from x509proxy.forwarded import KEY, ForwardedFields, forwarded_client
from x509proxy.forwarding.certificate_formats import encode
from x509proxy.settings import Format
from x509proxy.wsgi import ClientCertificateMiddleware

CLIENT = samples.client("CN=client")
PEM = samples.certificate("CN=client").public_bytes(Encoding.PEM).decode("ascii")
((_, OCTETS),) = encode(CLIENT, Format.PEM, b"X-Cert")
VALUE = OCTETS.decode("ascii")
FIELD = {"HTTP_SEC_SECRET_CERT": VALUE}


class GunicornSocket:
    """A socket as gunicorn puts it into the environ."""

    def __init__(self, der: bytes | None) -> None:
        self.der = der

    def getpeercert(self, binary_form: bool = False) -> bytes | None:
        assert binary_form
        return self.der


class Middleware(SynchronousTestCase):
    def serve(self, environ: dict[str, Any], proxies: Iterable[str] = ("127.0.0.1",)) -> Any:
        """Return what the application got, or the status line of an error response."""
        seen: list[Any] = []

        def app(environ: Any, _: Any) -> list[bytes]:
            seen.append(environ)
            return [b"ok"]

        statuses: list[str] = []
        fields = ForwardedFields(
            certificate="Sec-Secret-Cert", format="pem", proxies=tuple(proxies)
        )
        body = ClientCertificateMiddleware(app, fields)(
            {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "a", **environ},
            lambda status, _: statuses.append(status),
        )
        if statuses:
            self.assertEqual([], seen)
            return statuses[0]
        self.assertEqual([b"ok"], body)
        return seen[0]

    def test_client(self) -> None:
        """The application finds the client in the environ, and the field is no longer there."""
        environ = self.serve(FIELD)
        client = forwarded_client(environ)
        assert client is not None
        self.assertEqual(CLIENT.thumbprint, client.thumbprint)
        self.assertEqual({"REMOTE_ADDR", "HTTP_HOST", KEY}, set(environ))

    def test_absent(self) -> None:
        """A request without the field has no client."""
        self.assertIs(None, forwarded_client(self.serve({})))

    def test_joined(self) -> None:
        """Doubled fields, which servers join by a comma, are 400."""
        self.assertEqual(
            "400 Bad Request", self.serve({"HTTP_SEC_SECRET_CERT": f"{VALUE},{VALUE}"})
        )

    def test_twin(self) -> None:
        """A field whose name differs in a mark alone is a doubled one."""
        self.assertEqual("400 Bad Request", self.serve({**FIELD, "HTTP_SEC.SECRET_CERT": VALUE}))

    def test_other_peer(self) -> None:
        """A field from another peer is 400."""
        self.assertEqual("400 Bad Request", self.serve({**FIELD, "REMOTE_ADDR": "192.0.2.1"}))

    def test_unix_socket(self) -> None:
        """A peer on a unix socket has no address, or waitress's word for it."""
        for address in ("", "localhost"):
            environ = self.serve({**FIELD, "REMOTE_ADDR": address}, ["unix"])
            self.assertIsNot(None, forwarded_client(environ))

    def test_proxys_certificate(self) -> None:
        """The certificate of the proxy admits it, as mod_ssl and gunicorn report it."""
        other = {**FIELD, "REMOTE_ADDR": "192.0.2.1"}
        reports: tuple[dict[str, object], ...]
        reports = ({"SSL_CLIENT_CERT": PEM}, {"gunicorn.socket": GunicornSocket(CLIENT.der)})
        for report in reports:
            environ = self.serve({**other, **report}, [CLIENT.thumbprint])
            self.assertIsNot(None, forwarded_client(environ))
        reports = ({}, {"gunicorn.socket": GunicornSocket(None)}, {"gunicorn.socket": object()})
        for report in reports:
            self.assertEqual(
                "400 Bad Request", self.serve({**other, **report}, [CLIENT.thumbprint])
            )
