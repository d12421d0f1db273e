"""The move from nginx and HAProxy to the proxy: the server receives the same header from both."""

from __future__ import annotations

import ssl
from http.client import HTTPSConnection

from interop.arrivals import RawBackEnd, spellings
from interop.field_values import field_values
from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Proxy, Stage
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind

PAGE = "howto/leave-another-proxy"
_NGINX = """
daemon off;
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy;
    fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
"""


class Leave(Stage):
    def setUp(self) -> None:
        super().setUp()
        self.back_end = RawBackEnd()
        self.addCleanup(self.back_end.stop)
        self.server_files()
        both = [self.folder / name for name in ("server.pem", "server.key")]
        self.write("server-both.pem", b"".join(path.read_bytes() for path in both))
        self.old = free_port()

    def new(self, name: str) -> Proxy:
        """Start x509proxy by the page."""
        port = free_port()
        places = {
            "tcp:8443": f"tcp:{port}:interface=127.0.0.1",
            "127.0.0.1:8080": f"127.0.0.1:{self.back_end.port}",
        }
        return self.start_proxy(filled(recipe(PAGE, name), places), port)

    def arrived(
        self, port: int, client: ClientFiles | None, *fields: tuple[str, str]
    ) -> list[tuple[str, str]]:
        """Send a request to one of the two; return the fields that the server received."""
        context = ssl.create_default_context(cafile=self.folder / "server.pem")
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        before = len(self.back_end.requests)
        connection = HTTPSConnection("localhost", port, timeout=30, context=context)
        try:
            connection.putrequest("GET", "/")
            for name, value in fields:
                connection.putheader(name, value)
            connection.endheaders()
            self.assertEqual(200, connection.getresponse().status)
        finally:
            connection.close()
        [found] = self.back_end.requests[before:]
        return list(found)

    def check(self, new: Proxy, *names: str) -> None:
        """Compare what arrives through both, for clients of three kinds and for none."""
        clients = [self.client(kind, "me") for kind in (KeyKind.EC, KeyKind.RSA, KeyKind.ED25519)]
        for client in (*clients, None):
            through_old, through_new = (self.arrived(port, client) for port in (self.old, new.port))
            for name in names:
                expected = field_values(through_old, name)
                self.assertEqual(expected, field_values(through_new, name), name)
                self.assertEqual(client is not None or "Verify" in name, bool(expected), name)

    def check_forged(self, new: Proxy) -> None:
        """Check that no spelling of the header passes through the proxy."""
        for spelling in spellings("X-Client-Cert"):
            fields = self.arrived(new.port, None, (spelling, "forged"))
            self.assertEqual([], field_values(fields, "X-Client-Cert"), spelling)

    def test_nginx(self) -> None:
        """From nginx: the escaped certificate and the verdict are the same."""
        self.require("nginx")
        places = {
            "listen 443 ssl": f"listen 127.0.0.1:{self.old} ssl",
            "127.0.0.1:8080": f"127.0.0.1:{self.back_end.port}",
        }
        self.write("nginx.conf", f"{_NGINX}{filled(recipe(PAGE, 'nginx-before.conf'), places)}}}\n")
        command = ["nginx", "-p", ".", "-c", "nginx.conf", "-e", "stderr"]
        self.wait_for(self.old, self.start("nginx", command), "nginx")
        new = self.new("nginx-after.toml")
        self.check(new, "X-Client-Cert", "X-Client-Verify")
        self.check_forged(new)

    def test_haproxy(self) -> None:
        """From HAProxy: the certificate is the same, and the forged one that passed does not."""
        self.require("haproxy")
        places = {
            "bind :443": f"bind 127.0.0.1:{self.old}",
            "127.0.0.1:8080": f"127.0.0.1:{self.back_end.port}",
        }
        self.write("haproxy.cfg", filled(recipe(PAGE, "haproxy-before.cfg"), places))
        process = self.start("haproxy", ["haproxy", "-db", "-f", "haproxy.cfg"])
        self.wait_for(self.old, process, "haproxy")
        new = self.new("haproxy-after.toml")
        self.check(new, "X-Client-Cert")
        fields = self.arrived(self.old, None, ("X-Client-Cert", "forged"))
        self.assertEqual(["forged"], field_values(fields, "X-Client-Cert"))
        self.check_forged(new)
