"""A proxy with a trust store, and clients that authorities issued."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support.certificates import Pair, pair
from tests.support.raw_tls import HEADER, Reply, get, read_reply
from x509proxy.certificates.self_signed import KeyKind, SelfSigned, make_self_signed
from x509proxy.config.loader import load_configuration, load_settings
from x509proxy.service.proxy_service import ProxyService
from x509proxy.testing import RecordingBackEnd, header_value

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


ROOT = pair(subject="CN=root", ca=True)


def value_of(client: Pair | SelfSigned) -> bytes:
    """Return the header value that the back end should receive for a client."""
    return header_value(SelfSigned(client.certificate, client.private_key))


class PkiTestCase(TestCase):
    """A service from a TOML file, between clients in threads and a recording back end."""

    timeout = 60
    MORE = 'trust = "ca"\nca = "ca.pem"\n'

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.server = make_self_signed(KeyKind.EC, "main", names=["main.example"], server=True)
        self.write("header.txt", HEADER.encode())
        self.write_server("server", self.server)
        self.write_ca(ROOT)
        self.back_end = RecordingBackEnd(reactor)
        self.addCleanup(self.back_end.stop)

    def write(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)
        (self.folder / name).chmod(0o600)

    def write_server(self, name: str, made: SelfSigned) -> None:
        self.write(f"{name}.pem", made.certificate_pem)
        self.write(f"{name}.key", made.key_pem)

    def write_ca(self, *authorities: Pair) -> None:
        self.write(
            "ca.pem", b"".join(one.certificate.public_bytes(Encoding.PEM) for one in authorities)
        )

    def start(self, more: str = "", listen: str = '"tcp:0:interface=127.0.0.1"') -> ProxyService:
        """Start the service; it is stopped after the test."""
        text = f"""
            listen = {listen}
            certificate = "server.pem"
            private-key = "server.key"
            header-file = "header.txt"
            backend = "http://127.0.0.1:{self.back_end.port}"
            client.drain-timeout = 0.2
        """
        self.write("proxy.toml", f"{text}\n{more or self.MORE}".encode())
        self.service = ProxyService(
            load_configuration(load_settings(str(self.folder / "proxy.toml"))), reactor
        )
        self.service.startService()
        self.addCleanup(self.service.stopService)
        return self.service

    def connect(
        self,
        client: Pair | None,
        chain: Sequence[Pair] = (),
        name: str | None = None,
        version: str = "TLSv1.3",
        place: int = 0,
    ) -> ssl.SSLSocket:
        """Open a connection that trusts any server; its caller checks the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = VERSIONS[version]
        context.set_alpn_protocols(["http/1.1"])
        if client is not None:
            path = self.folder / "client.pem"
            path.write_bytes(
                client.pem + b"".join(one.certificate.public_bytes(Encoding.PEM) for one in chain)
            )
            context.load_cert_chain(path)
        port: Any = self.service.addresses[place]
        return context.wrap_socket(
            socket.create_connection(("127.0.0.1", port.port), 10), server_hostname=name
        )

    async def ask(
        self, client: Pair | None, chain: Sequence[Pair] = (), **more: Any
    ) -> tuple[Reply, bytes | None]:
        """Send a request on a new connection; return the response and the server's certificate."""

        def run() -> tuple[Reply, bytes | None]:
            with self.connect(client, chain, **more) as connection:
                self.assertEqual("http/1.1", connection.selected_alpn_protocol())
                connection.sendall(get())
                return read_reply(connection), connection.getpeercert(binary_form=True)

        answer: tuple[Reply, bytes | None] = await deferToThread(run)
        return answer

    async def passes(self, client: Pair, chain: Sequence[Pair] = (), **more: Any) -> None:
        """Check that the back end receives this certificate, once."""
        before = len(self.back_end.requests)
        reply, _ = await self.ask(client, chain, **more)
        self.assertEqual((200, before + 1), (reply.status, len(self.back_end.requests)), reply.body)
        self.assertEqual([value_of(client)], self.back_end.requests[-1].values(HEADER))

    async def refused(
        self, words: str, client: Pair, chain: Sequence[Pair] = (), **more: Any
    ) -> None:
        """Check that the client receives the reason, and the back end nothing."""
        before = len(self.back_end.requests)
        reply, _ = await self.ask(client, chain, **more)
        self.assertEqual((401, before), (reply.status, len(self.back_end.requests)))
        self.assertIn(words, reply.body.decode())
