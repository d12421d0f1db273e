"""Proxies of others between ``twistd x509proxy`` and the back end: nginx, HAProxy, Caddy, stunnel.

Debian has all but Caddy, which ``python -m interop.downloads caddy`` builds.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping, Sequence

import attrs

from interop.arrivals import RawBackEnd, spellings
from interop.downloads import CADDY
from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Proxy, Stage
from tests.support.ports import free_port
from x509proxy.certificates.self_signed import KeyKind, make_self_signed
from x509proxy.testing import header_value

_PAGE = "servers/hops"
_NGINX = """
daemon off;
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
"""


@attrs.frozen
class Hop:
    """A program: the page's block, what it has for its readers, and the command.

    ``head`` and ``tail`` surround the block in the program's configuration.
    """

    block: str
    listen: str
    command: Sequence[str]
    head: str = ""
    tail: str = ""


NGINX = Hop(
    "nginx.conf",
    "listen 8444",
    ("nginx", "-p", ".", "-c", "nginx.conf", "-e", "stderr"),
    _NGINX,
    "}\n",
)
HAPROXY = Hop("haproxy.cfg", "bind :8444", ("haproxy", "-db", "-f", "haproxy.cfg"))
CADDYFILE = Hop(
    "Caddyfile",
    "hop.internal:8444",
    (str(CADDY), "run", "--adapter", "caddyfile", "--config", "Caddyfile"),
)
STUNNEL = Hop("stunnel.conf", "accept = 8444", ("stunnel4", "stunnel.conf"))
_LISTEN = {
    NGINX: "listen 127.0.0.1:{}",
    HAPROXY: "bind 127.0.0.1:{}",
    CADDYFILE: "localhost:{}",
    STUNNEL: "accept = 127.0.0.1:{}",
}

_CUSTOMARY = {
    'preset = "connect2id"': 'preset = "keycloak-haproxy"',
    'header-file = "header.txt"\n': "",
}


class Hops(Stage):
    def setUp(self) -> None:
        super().setUp()
        self.back_end = RawBackEnd()
        self.addCleanup(self.back_end.stop)
        self.server_files()
        self.hop_port = free_port()
        hop = make_self_signed(KeyKind.EC, "localhost", names=("localhost",), server=True)
        self.write("hop.pem", hop.certificate_pem)
        self.write("hop.key", hop.key_pem)
        self.write("hop-both.pem", hop.certificate_pem + hop.key_pem)
        self.own = self.client(common_name="proxy")
        self.write("proxy.pem", self.own.certificate.read_bytes())
        self.write("proxy.key", self.own.key.read_bytes())

    def serve(self, hop: Hop, changes: Mapping[str, str], preset: Mapping[str, str]) -> Proxy:
        """Start the hop and the proxy in front of it."""
        self.require_hop(hop)
        here = {
            hop.listen: _LISTEN[hop].format(self.hop_port),
            "127.0.0.1:8080": f"127.0.0.1:{self.back_end.port}",
            **changes,
        }
        self.write(hop.block, hop.head + filled(recipe(_PAGE, hop.block), here) + hop.tail)
        home = {"HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)}
        process = self.start("hop", list(hop.command), home)
        self.wait_for(self.hop_port, process, "hop")
        port = free_port()
        places = {
            "tcp:8443": f"tcp:{port}:interface=127.0.0.1",
            "hop.internal:8444": f"localhost:{self.hop_port}",
            **preset,
        }
        return self.start_proxy(filled(recipe(_PAGE, "x509proxy.toml"), places), port)

    def require_hop(self, hop: Hop) -> None:
        """Skip where the program is missing; Caddy's build needs a newer Go than Debian's."""
        if hop is CADDYFILE and not CADDY.exists():
            self.skipTest("not built: python -m interop.downloads caddy")
        self.require(hop.command[0])

    def ask(self, context: ssl.SSLContext, port: int, *fields: tuple[str, str]) -> int:
        """Send a request with these fields; return the status."""
        connection = http.client.HTTPSConnection("localhost", port, timeout=30, context=context)
        try:
            connection.putrequest("GET", "/")
            for name, value in fields:
                connection.putheader(name, value)
            connection.endheaders()
            return connection.getresponse().status
        finally:
            connection.close()

    def arrived(self, name: str) -> list[str]:
        """Return the values of a field of the last request, by any spelling."""
        folded = name.lower().replace("_", "-")
        fields = self.back_end.requests[-1]
        return [value for found, value in fields if found.lower().replace("_", "-") == folded]

    def check(self, hop: Hop) -> None:
        """Check that the hop passes the header on, once, and no forged one."""
        proxy = self.serve(hop, {}, {})
        mine, other = self.client(common_name="mine"), self.client(common_name="other")
        context = self.context(proxy, mine)
        value = header_value(mine.made).decode("ascii")
        self.assertEqual(200, self.ask(context, proxy.port))
        self.assertEqual([value], self.arrived(proxy.header_name))
        forged = header_value(other.made).decode("ascii")
        for name in spellings(proxy.header_name):
            self.assertEqual(200, self.ask(context, proxy.port, (name, forged)), name)
            self.assertEqual([value], self.arrived(proxy.header_name), name)
            self.assertEqual(200, self.ask(self.context(proxy), proxy.port, (name, forged)), name)
            self.assertEqual([], self.arrived(proxy.header_name), name)
        self.check_alone(proxy, other, forged)

    def check_alone(self, proxy: Proxy, other: ClientFiles, forged: str) -> None:
        """Check that nothing arrives from a client that connects past the proxy."""
        before = len(self.back_end.requests)
        for files in (other, None):
            context = ssl.create_default_context(cafile=self.folder / "hop.pem")
            if files is not None:
                context.load_cert_chain(files.certificate, files.key)
            try:
                status = self.ask(context, self.hop_port, (proxy.header_name, forged))
            except (OSError, http.client.HTTPException):
                continue
            self.assertEqual(400, status)
        self.assertEqual(before, len(self.back_end.requests))

    def test_nginx(self) -> None:
        """As an HTTP proxy that verifies the certificate of x509proxy."""
        self.check(NGINX)

    def test_haproxy(self) -> None:
        """The same with HAProxy."""
        self.check(HAPROXY)

    def test_caddy(self) -> None:
        """The same with Caddy."""
        self.check(CADDYFILE)

    def test_stunnel(self) -> None:
        """A tunnel that leaves HTTP alone."""
        self.check(STUNNEL)

    def arrives(self, hop: Hop, changes: Mapping[str, str]) -> int:
        """Count the fields of a header with underscores behind the hop."""
        self.hop_port = free_port()
        proxy = self.serve(hop, changes, _CUSTOMARY)
        context = self.context(proxy, self.client(common_name="mine"))
        self.assertEqual(200, self.ask(context, proxy.port), hop.block)
        return len(self.arrived("SSL_CLIENT_CERT"))

    def test_underscores(self) -> None:
        """With the page's blocks each hop passes names with underscores on."""
        for hop in _LISTEN:
            self.assertEqual(1, self.arrives(hop, {}), hop.block)

    def test_underscores_dropped(self) -> None:
        """Nginx and Caddy drop them by default, which leaves the back end without a certificate."""
        listed = "expected_underscore_headers ssl_client_cert ssl_client_escaped_cert cert_chain_*"
        for hop, option in ((NGINX, "underscores_in_headers on;"), (CADDYFILE, listed)):
            self.assertEqual(0, self.arrives(hop, {option: ""}), hop.block)
