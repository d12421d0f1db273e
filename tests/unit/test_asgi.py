"""Tests of :mod:`x509proxy.asgi`."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from x509proxy.asgi import ClientCertificateMiddleware
from x509proxy.forwarded import ForwardedFields, forwarded_client
from x509proxy.forwarding.certificate_formats import encode
from x509proxy.settings import Format

CLIENT = samples.client("CN=client")
PEM = samples.certificate("CN=client").public_bytes(Encoding.PEM).decode("ascii")
((_, VALUE),) = encode(CLIENT, Format.PEM, b"X-Cert")
FIELD = (b"sec-secret-cert", VALUE)


class Middleware(SynchronousTestCase):
    """``seen`` has the scopes of the wrapped application, ``sent`` the events to the server."""

    def setUp(self) -> None:
        self.seen: list[Any] = []
        self.sent: list[Any] = []

    def serve(
        self, *headers: tuple[bytes, bytes], proxies: Any = ("127.0.0.1",), **scope: Any
    ) -> None:
        async def app(scope: Any, _receive: Any, _send: Any) -> None:
            self.seen.append(scope)

        async def send(event: Any) -> None:
            self.sent.append(event)

        fields = ForwardedFields(certificate="Sec-Secret-Cert", format="pem", proxies=proxies)
        middleware = ClientCertificateMiddleware(app, fields)
        whole = {"type": "http", "headers": [(b"host", b"a"), *headers], "client": ("127.0.0.1", 1)}
        running: Any = middleware({**whole, **scope}, None, send)  # type: ignore[arg-type]
        # Nothing in it waits, so that one step runs the whole coroutine.
        self.assertRaises(StopIteration, running.send, None)

    def test_client(self) -> None:
        """The application finds the client in the scope, and the field is no longer there."""
        self.serve(FIELD, (b"accept", b"*/*"))
        (scope,) = self.seen
        client = forwarded_client(scope)
        assert client is not None
        self.assertEqual(CLIENT.thumbprint, client.thumbprint)
        self.assertEqual([(b"host", b"a"), (b"accept", b"*/*")], scope["headers"])

    def test_tls_extension(self) -> None:
        """The tls extension has the client's certificate and name; other extensions stay."""
        self.serve(FIELD, extensions={"other": {}})
        tls = self.seen[0]["extensions"].pop("tls")
        self.assertEqual({"other": {}}, self.seen[0]["extensions"])
        self.assertEqual(([PEM], "CN=client"), (tls["client_cert_chain"], tls["client_cert_name"]))

    def test_proxys_certificate(self) -> None:
        """The certificate of the proxy's own connection admits it, and is not the client's."""
        proxy = {"extensions": {"tls": {"client_cert_chain": [PEM]}}, "client": ("192.0.2.1", 1)}
        self.serve(proxies=[CLIENT.thumbprint], **proxy)
        self.assertEqual([], self.seen[0]["extensions"]["tls"]["client_cert_chain"])
        self.assertIs(None, self.seen[0]["extensions"]["tls"]["client_cert_name"])
        self.assertIs(None, forwarded_client(self.seen[0]))
        self.serve(FIELD, proxies=[CLIENT.thumbprint], **proxy)
        self.assertIsNot(None, forwarded_client(self.seen[1]))

    def test_unix_socket(self) -> None:
        """A peer on a unix socket has no address in the scope."""
        for client in (None, ("", 0)):
            self.serve(FIELD, proxies=["unix"], client=client)
        self.assertEqual(2, len(self.seen))

    def test_rejected(self) -> None:
        """A doubled field is 400, and the application does not see the request."""
        self.serve(FIELD, FIELD)
        self.assertEqual([], self.seen)
        start, body = self.sent
        self.assertEqual(400, start["status"])
        self.assertIn((b"content-length", b"%d" % len(body["body"])), start["headers"])

    def test_other_peer(self) -> None:
        """A field from another peer is 400."""
        self.serve(FIELD, client=("192.0.2.1", 1))
        self.assertEqual([400], [event["status"] for event in self.sent[:1]])
        self.assertEqual([], self.seen)

    def test_websocket(self) -> None:
        """A WebSocket has the same check: it is closed before its handshake is accepted."""
        self.serve(FIELD, FIELD, type="websocket")
        self.assertEqual([{"type": "websocket.close", "code": 1008}], self.sent)
        self.serve(FIELD, type="websocket")
        self.assertIsNot(None, forwarded_client(self.seen[0]))

    def test_lifespan(self) -> None:
        """Other scopes pass untouched."""
        self.serve(FIELD, FIELD, type="lifespan")
        self.assertEqual("lifespan", self.seen[0]["type"])
