"""nginx and HAProxy on one port with the proxy: each server name reaches its own terminator."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping

import attrs
import yaml

from interop.arrivals import RawBackEnd, spellings
from interop.consumers import Fields
from interop.field_values import field_values
from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Stage
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.testing import header_value

PAGE = "howto/beside-another-proxy"
NGINX_STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"
_MTLS, _BROWSERS = "mtls.example.com", "as.example.com"
_NGINX = f"""
daemon off;
pid nginx.pid;
error_log stderr;
load_module {NGINX_STREAM};
events {{}}
"""
_FOLDERS = """http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy;
    fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
"""
# An address of the client's own: what arrives under this one came by the PROXY protocol.
_CLIENT = "127.0.0.77"


@attrs.frozen
class Ports:
    """The ports of one run."""

    shared: int = attrs.field(factory=free_port)
    other: int = attrs.field(factory=free_port)
    own: int = attrs.field(factory=free_port)


class Beside(Stage):
    def setUp(self) -> None:
        super().setUp()
        self.back_end = RawBackEnd()
        self.addCleanup(self.back_end.stop)
        self.server_files(_MTLS)
        made = make_self_signed(KeyKind.EC, _BROWSERS, names=(_BROWSERS,), server=True)
        self.write("as.pem", made.certificate_pem)
        self.write("as.key", made.key_pem)
        self.write("as-both.pem", made.certificate_pem + made.key_pem)
        self.ports = Ports()
        self.me, self.victim = self.client(common_name="me"), self.client(common_name="victim")

    def places(self, more: Mapping[str, str]) -> dict[str, str]:
        """Return the places of the page and of this machine."""
        return {
            "127.0.0.1:8443": f"127.0.0.1:{self.ports.own}",
            "127.0.0.1:4433": f"127.0.0.1:{self.ports.other}",
            "127.0.0.1:8080": f"127.0.0.1:{self.back_end.port}",
            **more,
        }

    def serve(self) -> None:
        """Start x509proxy by the page."""
        places = {
            "tcp:8443": f"tcp:{self.ports.own}",
            "127.0.0.1:8080": f"127.0.0.1:{self.back_end.port}",
        }
        self.proxy = self.start_proxy(
            filled(recipe(PAGE, "x509proxy.toml"), places), self.ports.own
        )

    def ask(
        self, name: str | None, client: ClientFiles | None, host: str, *fields: tuple[str, str]
    ) -> tuple[int, Fields]:
        """Send one request under a server name; return the status and the fields that arrived."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        before = len(self.back_end.requests)
        lines = [f"{field}: {value}" for field, value in (("Host", host), *fields)]
        head = "\r\n".join(["GET / HTTP/1.1", *lines, "Connection: close", "", ""])
        address = ("127.0.0.1", self.ports.shared)
        with (
            socket.create_connection(address, 30, (_CLIENT, 0)) as plain,
            context.wrap_socket(plain, server_hostname=name) as connection,
        ):
            connection.sendall(head.encode("latin-1"))
            status = int(connection.makefile("rb").readline().split()[1])
        arrived = self.back_end.requests[before:]
        return status, arrived[0] if arrived else []

    def check(self) -> None:
        """Check that each name reaches its terminator, and no forged header arrives."""
        mine = header_value(self.me.made).decode("ascii")
        forged = header_value(self.victim.made).decode("ascii")
        secret = self.proxy.header_name
        status, fields = self.ask(_MTLS, self.me, _MTLS)
        self.assertEqual((200, [mine]), (status, field_values(fields, secret)))
        self.assertEqual([_CLIENT], field_values(fields, "X-Forwarded-For"))
        status, fields = self.ask(_BROWSERS, self.me, _BROWSERS)
        self.assertEqual((200, []), (status, field_values(fields, secret)))
        self.assertEqual([_CLIENT], field_values(fields, "X-Forwarded-For"))
        for name in (_MTLS, _BROWSERS, None):
            for host in (_MTLS, _BROWSERS):
                for client in (self.me, None):
                    for spelling in spellings(secret):
                        _, fields = self.ask(name, client, host, (spelling, forged))
                        self.assertNotIn(forged, field_values(fields, secret), (name, spelling))

    def test_nginx(self) -> None:
        """The page's ``stream`` block sends one name to x509proxy and all others to nginx."""
        self.require("nginx", NGINX_STREAM)
        self.serve()
        here = self.places(
            {
                "listen 443;": f"listen 127.0.0.1:{self.ports.shared};",
                "http {\n": _FOLDERS,
                "X-Client-Cert": self.proxy.header_name,
            }
        )
        self.write("nginx.conf", _NGINX + filled(recipe(PAGE, "nginx.conf"), here))
        command = ["nginx", "-p", ".", "-c", "nginx.conf", "-e", "stderr"]
        self.wait_for(self.ports.shared, self.start("nginx", command), "nginx")
        self.check()

    def test_haproxy(self) -> None:
        """The page's ``tcp`` front end does the same."""
        self.require("haproxy")
        self.serve()
        here = self.places(
            {
                "bind :443": f"bind 127.0.0.1:{self.ports.shared}",
                "x-client-cert": self.proxy.header_name.lower(),
            }
        )
        self.write("haproxy.cfg", filled(recipe(PAGE, "haproxy.cfg"), here))
        process = self.start("haproxy", ["haproxy", "-db", "-f", "haproxy.cfg"])
        self.wait_for(self.ports.shared, process, "haproxy")
        self.check()

    def test_traefik(self) -> None:
        """The block for Traefik is YAML, and its names fit each other."""
        tcp = yaml.safe_load(recipe(PAGE, "traefik.yaml"))["tcp"]
        router = tcp["routers"]["x509proxy"]
        balancer = tcp["services"][router["service"]]["loadBalancer"]
        self.assertEqual({"passthrough": True}, router["tls"])
        self.assertIn(balancer["serversTransport"], tcp["serversTransports"])
