"""Other products' balancers in front of ``twistd x509proxy``: HAProxy and nginx.

The client's address and certificate arrive through both.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence

from interop.arrivals import RawBackEnd
from interop.consumers import Fields
from interop.recipes import filled, recipe
from interop.stage import ClientFiles, Proxy, Stage
from tests.support.ports import free_port
from x509proxy.testing import header_value

PAGE = "operations/proxy-protocol"
NGINX_STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"
PROXY = """
certificate = "server.pem"
private-key = "server.key"
header-file = "header.txt"
access-log = "access.log"
backend = "http://127.0.0.1:{back_end}"
client.handshake-timeout = 1.0
"""
# What the page has for its readers, and what this machine has in its place.
TRUSTED = 'trusted-proxies = ["192.0.2.10", "2001:db8:1::/64"]'
NODE = "192.0.2.20:8443"
REQUEST = b"GET / HTTP/1.1\r\nHost: as.example\r\nConnection: close\r\n\r\n"


class BalancerStage(Stage):
    """A back end, a proxy with the page's listener, and a client with an address of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.back_end = RawBackEnd()
        self.addCleanup(self.back_end.stop)
        self.server_files()
        self.me = self.client()
        self.proxy = self.behind(
            filled(
                recipe(PAGE, "listener.toml"), {TRUSTED: 'trusted-proxies = ["127.0.0.1", "::1"]'}
            )
        )

    def behind(self, listener: str) -> Proxy:
        port = free_port()
        toml = PROXY.format(back_end=self.back_end.port)
        head, table, rest = filled(
            listener, {"tcp:8443": f"tcp:{port}:interface=127.0.0.1"}
        ).partition("[[listeners]]")
        # Without an address on the page there is no other port to listen at.
        toml = f"{toml}{head or 'listen = []'}\n{table}{rest}"
        return self.start_proxy(toml, port)

    def start_haproxy(
        self, configuration: str, port: int, name: str = "haproxy"
    ) -> subprocess.Popen[bytes]:
        path = self.write(f"{name}.cfg", configuration)
        process = self.start(name, ["haproxy", "-db", "-f", str(path)])
        self.wait_for(port, process, name)
        return process

    def balance(self, how: str, bind: str = "127.0.0.1:{}", name: str = "haproxy") -> int:
        """Start HAProxy by the page's recipe, with another header option; return its port."""
        port = free_port()
        places = {
            ":443": bind.format(port),
            NODE: f"127.0.0.1:{self.proxy.port}",
            "send-proxy-v2 check inter 2s": how,
        }
        self.start_haproxy(filled(recipe(PAGE, "haproxy.cfg"), places), port, name)
        return port

    def ask(
        self, port: int, source: str, host: str = "127.0.0.1", client: ClientFiles | None = None
    ) -> Fields:
        """Return the fields of a request from an address of the loopback's, as they arrived."""
        context = self.context(self.proxy, client or self.me)
        plain = socket.create_connection((host, port), 30, source_address=(source, 0))
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(REQUEST)
            self.assertTrue(connection.recv(65536).startswith(b"HTTP/1.1 200 "))
        return self.back_end.requests[-1]

    def assert_arrived(self, fields: Fields, source: str, port: int) -> None:
        """Check the client's address and certificate, the port, and the address in the log."""
        found = dict(fields)
        self.assertEqual(header_value(self.me.made).decode(), found[self.proxy.header_name])
        self.assertEqual((source, str(port)), (found["X-Forwarded-For"], found["X-Forwarded-Port"]))
        named = f'"[{source}]"' if ":" in source else source
        self.assertIn(f"for={named}", found["Forwarded"])
        self.assertIn(source, self.log_lines()[-1])

    def log_lines(self) -> list[str]:
        """Return the access log, once it has a line for each served request."""
        end = time.monotonic() + 20
        path = self.folder / "access.log"
        while (
            len(lines := path.read_text().splitlines()) < len(self.back_end.requests)
            and time.monotonic() < end
        ):
            time.sleep(0.02)
        return lines

    def hello(self) -> bytes:
        """Return a ClientHello, which each TLS server responds to."""
        said = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            self.context(self.proxy, self.me).wrap_bio(
                ssl.MemoryBIO(), said, server_hostname="localhost"
            ).do_handshake()
        return said.read()

    def cut(
        self, *pieces: bytes, pause: float = 0.0, port: int | None = None, source: str = "127.0.0.1"
    ) -> bytes:
        """Return the response to these bytes, from the proxy itself or another port."""
        said = b""
        try:
            with socket.create_connection(
                ("127.0.0.1", port or self.proxy.port), 30, source_address=(source, 0)
            ) as connection:
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause)
                while data := connection.recv(65536):
                    said += data
        except ConnectionError:
            pass
        return said


class HAProxy(BalancerStage):
    def setUp(self) -> None:
        self.require("haproxy")
        super().setUp()

    def test_versions(self) -> None:
        """Version 1 and 2, with TLS details, checksum and id: the address arrives each time."""
        options = "crc32c,unique-id,ssl,cert-cn,authority"
        for place, how in enumerate(
            (
                "send-proxy",
                "send-proxy-v2",
                "send-proxy-v2-ssl",
                "send-proxy-v2-ssl-cn",
                f"send-proxy-v2 proxy-v2-options {options}",
            )
        ):
            port = self.balance(how, name=f"haproxy-{place}")
            source = f"127.0.0.{place + 2}"
            self.assert_arrived(self.ask(port, source), source, port)

    def test_workers(self) -> None:
        """Several processes that share a port read headers as one does."""
        self.proxy.process.terminate()
        self.proxy.process.wait(20)
        self.proxy = self.behind(
            "workers = 2\n"
            + filled(recipe(PAGE, "listener.toml"), {TRUSTED: 'trusted-proxies = ["127.0.0.1"]'})
        )
        port = self.balance("send-proxy-v2")
        for place in range(4):
            source = f"127.0.0.{place + 20}"
            self.assert_arrived(self.ask(port, source), source, port)

    def test_families(self) -> None:
        """IPv6, and IPv4 at a socket for both, which arrives as IPv4."""
        if not _has_ipv6():
            self.skipTest("no ::1 here")
        for place, how in enumerate(("send-proxy", "send-proxy-v2")):
            port = self.balance(how, ":::{} v4v6", f"haproxy-{place}")
            self.assert_arrived(self.ask(port, "::1", "::1"), "::1", port)
            self.assert_arrived(self.ask(port, "127.0.0.9"), "127.0.0.9", port)

    def test_health_checks(self) -> None:
        """HAProxy finds it well by its own checks, with either header.

        They are no requests, and the proxy logs nothing about them.
        """
        for place, how in enumerate(("send-proxy", "send-proxy-v2")):
            port = free_port()
            places = {":443": f"127.0.0.1:{port}", NODE: f"127.0.0.1:{self.proxy.port}"}
            places["send-proxy-v2 check inter 2s"] = f"{how} check inter 100ms"
            control = self.folder / f"control-{place}"
            text = filled(recipe(PAGE, "haproxy.cfg"), places)
            self.start_haproxy(
                f"global\n    stats socket {control} mode 600\n{text}", port, f"haproxy-{place}"
            )
            time.sleep(1.0)
            self.assertEqual(("UP", "L4OK"), _health(control))
        self.assertEqual([], self.back_end.requests)
        self.assertNotIn("cut before TLS", self.proxy.log.read_text())

    def test_without_header(self) -> None:
        """Behind a balancer that is not configured to send a header, no client is served."""
        port = self.balance("")
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            self.ask(port, "127.0.0.2")
        self.assertEqual([], self.back_end.requests)

    def test_refused(self) -> None:
        """Garbage, excess, delay, silence, no header: nothing arrives, the next is served."""
        port = self.balance("send-proxy-v2")
        signature = bytes.fromhex("0D0A0D0A000D0A515549540A")
        for pieces in (
            [b""], [REQUEST], [b"\x16\x03\x01\x02\x00"], [b"\xff" * 100000],
            [b"PROXY TCP4 127.0.0.1 127.0.0.1 1\r\n", REQUEST],
            [b"PROXY UNKNOWN " + b"x" * 200], [signature, b"\x21\x11\xff\xff"],
            [signature + b"\x31\x11\x00\x0c" + bytes(12)],
            [b"PROXY TCP4 127.0.0.2"], [self.hello()],
            [b"PROXY TCP4 127.0.0.2 127.0.0.1 40000 65536\r\n" + self.hello()],
        ):  # fmt: skip
            self.assertEqual(b"", self.cut(*pieces, pause=0.01))
        began = time.monotonic()
        self.cut(*(bytes([octet]) for octet in b"PROXY TCP4 127.0"), pause=0.1)
        self.assertLess(time.monotonic() - began, 5.0)
        self.assertEqual([], self.back_end.requests)
        self.assert_arrived(self.ask(port, "127.0.0.7"), "127.0.0.7", port)
        self.assertRegex(
            self.proxy.log.read_text(),
            r"[0-9]+ connections? cut before TLS, the last one from 127\.0\.0\.1: ",
        )

    def test_split(self) -> None:
        """A header that arrives byte by byte is read; Twisted's own reader drops the connection."""
        with socket.create_connection(("127.0.0.1", self.proxy.port), 30) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for octet in b"PROXY TCP4 203.0.113.5 203.0.113.1 40000 8443\r\n":
                plain.sendall(bytes([octet]))
                time.sleep(0.005)
            with self.context(self.proxy, self.me).wrap_socket(
                plain, server_hostname="localhost"
            ) as connection:
                connection.sendall(REQUEST)
                self.assertTrue(connection.recv(65536).startswith(b"HTTP/1.1 200 "))
        self.assert_arrived(self.back_end.requests[-1], "203.0.113.5", 8443)


class NotTrusted(BalancerStage):
    def setUp(self) -> None:
        super().setUp()
        self.proxy.process.terminate()
        self.proxy.process.wait(20)
        self.proxy = self.behind(recipe(PAGE, "listener.toml"))

    def test_elsewhere(self) -> None:
        """With the page's addresses no peer here is trusted, and the log reports it."""
        self.assertEqual(
            b"", self.cut(b"PROXY TCP4 127.0.0.2 127.0.0.1 40000 443\r\n" + self.hello())
        )
        self.assertEqual([], self.back_end.requests)
        self.assertIn(
            "from 127.0.0.1: its address is not among those that are trusted",
            self.proxy.log.read_text(),
        )


class TwoInARow(BalancerStage):
    def setUp(self) -> None:
        self.require("haproxy")
        super().setUp()
        self.proxy.process.terminate()
        self.proxy.process.wait(20)
        trusted = 'trusted-proxies = ["192.0.2.10", "198.51.100.0/28"]'
        self.proxy = self.behind(
            filled(
                recipe(PAGE, "hops.toml"), {trusted: 'trusted-proxies = ["127.0.0.1", "127.0.0.4"]'}
            )
        )

    def chain(self, near: str, far: str) -> tuple[int, int]:
        """Start two HAProxy, of which the near one passes the header on; return their ports."""
        near_port = self.balance(near, name="near")
        port = free_port()
        places = {
            ":443": f"127.0.0.1:{port}",
            NODE: f"127.0.0.1:{near_port}",
            "send-proxy-v2 check inter 2s": far,
        }
        self.start_haproxy(filled(recipe(PAGE, "haproxy.cfg"), places), port, "far")
        return near_port, port

    def test_client(self) -> None:
        """The client is the one that the far one names.

        Past it no client is served, with any header of its own.
        """
        near_port, port = self.chain("send-proxy-v2", "send-proxy source 127.0.0.4")
        self.assert_arrived(self.ask(port, "127.0.0.8"), "127.0.0.8", port)
        before = len(self.back_end.requests)
        for source, forged in (
            ("127.0.0.4", b""),
            ("127.0.0.6", b"PROXY TCP4 127.0.0.9 127.0.0.1 40000 443\r\n"),
        ):
            self.assertEqual(b"", self.cut(forged + self.hello(), port=near_port, source=source))
        self.assertEqual(before, len(self.back_end.requests))


class Nginx(BalancerStage):
    def test_stream(self) -> None:
        """The stream module of nginx, which writes version 1."""
        self.require("nginx", NGINX_STREAM)
        port = free_port()
        text = filled(
            recipe(PAGE, "nginx.conf"),
            {NODE: f"127.0.0.1:{self.proxy.port}", "listen 443;": f"listen 127.0.0.1:{port};"},
        )
        head = (
            f"load_module {NGINX_STREAM};\ndaemon off;\npid {self.folder}/nginx.pid;\n"
            "error_log stderr;\nevents {}\n"
        )
        self.write("nginx.conf", head + text)
        command: Sequence[str] = [
            "nginx",
            "-p",
            str(self.folder),
            "-c",
            "nginx.conf",
            "-e",
            "stderr",
        ]
        self.wait_for(port, self.start("nginx", command), "nginx")
        self.assert_arrived(self.ask(port, "127.0.0.5"), "127.0.0.5", port)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _health(control: object) -> tuple[str, str]:
    """Return HAProxy's state of its only server, and the result of its last check."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(control))
        connection.sendall(b"show stat\n")
        said = b""
        while data := connection.recv(65536):
            said += data
    rows = [line.split(",") for line in said.decode().splitlines() if line]
    names = re.sub(r"^# ", "", ",".join(rows[0])).split(",")
    row = next(row for row in rows if row[1:2] == ["one"])
    return row[names.index("status")], row[names.index("check_status")].removeprefix("* ")
