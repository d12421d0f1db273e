"""Promises of listeners behind the PROXY protocol, by a service, over real sockets.

Nothing before the header counts, and everything behind it is the real client's.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from twisted.internet.threads import deferToThread

from tests.support.certificates import pair
from tests.support.memory import GET
from tests.support.pki import PkiTestCase, value_of
from tests.support.proxied import hello
from tests.support.proxy_headers import LINE, SIX, binary, header, line
from tests.support.raw_tls import HEADER, Reply, get, read_reply, read_to_end, until
from x509proxy.config.loader import load_configuration, load_settings
from x509proxy.settings import (
    ListenerSettings,
    SettingsError,
)
from x509proxy.transport.proxy_protocol import End, ProxyAddresses


class Toml(PkiTestCase):
    """The error sentences of the file."""

    MORE = "\n"

    def refusal(self, text: str) -> str:
        self.write("proxy.toml", text.encode())
        error = self.assertRaises(SettingsError, load_settings, str(self.folder / "proxy.toml"))
        return str(error).partition("proxy.toml: line ")[2].partition(": ")[2]

    def test_words(self) -> None:
        """The error for an invalid word lists the valid ones, and the listener's number."""
        text = '[[listeners]]\nendpoint = "tcp:1"\n{}\n'
        found = self.refusal(text.format('proxy-protocol = "v2"'))
        self.assertEqual(
            "listeners[0].proxy-protocol: found 'v2', expected none or required", found
        )
        found = self.refusal(text.format('client-certificate = "no"'))
        self.assertEqual(
            "listeners[0].client-certificate: found 'no', expected none, optional or required",
            found,
        )
        found = self.refusal(
            text.format('proxy-protocol = "required"\ntrusted-proxies = ["10.0.0.1/8"]')
        )
        self.assertTrue(
            found.startswith(
                "listeners[0].trusted-proxies: found '10.0.0.1/8', expected an address"
            ),
            found,
        )

    def test_everybody(self) -> None:
        """A configuration that trusts every address has a warning."""
        settings = self.start(listen='"tcp:0:interface=127.0.0.1"').reloading.configuration.settings
        for network, count in (("0.0.0.0/0", 1), ("::/0", 1), ("10.0.0.0/8", 0)):
            place = ListenerSettings(
                endpoint="haproxy:tcp:1", trusted_proxies=("192.0.2.1", network)
            )
            warnings = load_configuration(
                msgspec.structs.replace(settings, listeners=(place,))
            ).warnings
            self.assertEqual(
                ["listeners.trusted-proxies: tcp:1 trusts every address"] * count,
                [one.partition(";")[0] for one in warnings],
            )

    def test_everything(self) -> None:
        """All keys of a listener with the protocol."""
        self.write(
            "proxy.toml",
            b"""
            listen = "haproxy:tcp:1"
            [[listeners]]
            endpoint = "tcp:2"
            proxy-protocol = "required"
            trusted-proxies = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"]
            proxy-hops = 2
            """,
        )
        first, second = load_settings(str(self.folder / "proxy.toml")).all_listeners
        self.assertEqual(
            (True, 1, ("127.0.0.0/8", "::1/128")),
            (first.is_proxied, first.proxy_hops, first.trusted_proxies),
        )
        self.assertEqual(2, second.proxy_hops)
        self.assertEqual(("10.0.0.0/8", "2001:db8::/32", "192.0.2.1"), second.trusted_proxies)
        self.assertEqual(None, msgspec.structs.asdict(second)["client_certificate"])


class ForReal(PkiTestCase):
    """Sockets, a service made from TOML, a client with a certificate, and the back end."""

    MORE = 'access-log = "access.log"\nclient.handshake-timeout = 1.0\n'
    CLIENT = pair()
    ENDS = ProxyAddresses(End("198.51.100.23", 40123), End("203.0.113.1", 443))

    def start(self, more: str = "", listen: str = '"haproxy:tcp:0:interface=127.0.0.1"') -> Any:
        return super().start(more, listen)

    def plain(self, pieces: Iterable[bytes] = ()) -> socket.socket:
        """Open a connection on which only these bytes are sent, each in a packet."""
        port: Any = self.service.addresses[0]
        connection = socket.create_connection(("127.0.0.1", port.port), 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.002)
        return connection

    def heard(self, pieces: Iterable[bytes]) -> bytes:
        """Return the response to these bytes.

        A cut may come so early that the connection is not even made.
        """
        try:
            with self.plain(pieces) as connection:
                return read_to_end(connection)
        except ConnectionError:
            return b""

    def ask_behind(self, pieces: Iterable[bytes]) -> Reply:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        path = self.folder / "client.pem"
        path.write_bytes(self.CLIENT.pem)
        context.load_cert_chain(path)
        with context.wrap_socket(self.plain(pieces)) as connection:
            connection.sendall(get())
            return read_reply(connection)

    async def test_split(self) -> None:
        """Version 1 and 2, byte by byte too: certificate, addresses and log are the client's."""
        self.start()
        for first in (line(self.ENDS), header(self.ENDS)):
            for pieces in ([first], [bytes([octet]) for octet in first]):
                answer = await deferToThread(self.ask_behind, pieces)
                request = self.back_end.requests[-1]
                self.assertEqual(
                    (200, [value_of(self.CLIENT)]), (answer.status, request.values(HEADER))
                )
                seen = [request.values(name) for name in ("X-Forwarded-For", "X-Forwarded-Port")]
                self.assertEqual([[b"198.51.100.23"], [b"443"]], seen)
        self.assertEqual(4, len(self.back_end.requests))
        await until(
            lambda: (self.folder / "access.log").read_text().count("198.51.100.23") == 4, pause=0.02
        )

    async def test_cut(self) -> None:
        """No header, half of one, garbage, too much: each is cut, and the next is served."""
        self.start()
        for first in (
            b"",
            LINE[:20],
            header(SIX)[:30],
            hello(),
            GET,
            b"\xff" * 70000,
            binary(b"", length=65535),
            b"PROXY " * 30,
        ):
            begin = time.monotonic()
            self.assertEqual(b"", await deferToThread(self.heard, [first]))
            self.assertLess(time.monotonic() - begin, 4.0)
        self.assertEqual(0, self.back_end.accepted)
        self.assertEqual(200, (await deferToThread(self.ask_behind, [LINE])).status)

    async def test_not_trusted(self) -> None:
        """With other networks in ``trusted-proxies`` no peer here is trusted."""
        place = (
            '[[listeners]]\nendpoint = "haproxy:tcp:0:interface=127.0.0.1"\n'
            'trusted-proxies = ["192.0.2.0/24"]\n'
        )
        self.start(place, listen="[]")
        self.assertEqual(b"", await deferToThread(self.heard, [LINE]))
        self.assertEqual(0, self.back_end.accepted)

    async def test_reload(self) -> None:
        """The trusted networks can be changed by a reload.

        Whether there is a header, and how many, cannot.
        """
        place = '[[listeners]]\nendpoint = "tcp:0:interface=127.0.0.1"\nproxy-protocol = "{}"\n{}\n'
        self.start(place.format("required", 'trusted-proxies = ["192.0.2.0/24"]'), listen="[]")
        path = self.folder / "proxy.toml"
        head = path.read_text().partition("[[listeners]]")[0]
        self.service.reloading._read = lambda: load_configuration(load_settings(str(path)))
        self.assertEqual(b"", await deferToThread(self.heard, [LINE]))
        for more, changes in (
            (("required", ""), True),
            (("none", ""), False),
            (("required", "proxy-hops = 2"), False),
        ):
            path.write_text(head + place.format(*more))
            self.service.reload()
            last = self.service.reloading.last
            self.assertEqual(changes, last is not None and last.ok, more)
            self.assertEqual(200, (await deferToThread(self.ask_behind, [LINE])).status)

    async def test_beside(self) -> None:
        """A listener without the protocol takes no header; one with it needs a header."""
        place = (
            '[[listeners]]\nendpoint = "tcp:0:interface=127.0.0.1"\nproxy-protocol = "required"\n'
        )
        self.start(place, listen='"tcp:0:interface=127.0.0.1"')
        self.assertNotIn(b"HTTP/", await deferToThread(self.heard, [LINE]))
        with await deferToThread(self.connect, self.CLIENT) as connection:
            await deferToThread(connection.sendall, get())
            self.assertEqual(200, (await deferToThread(read_reply, connection)).status)
        self.assertEqual([b"127.0.0.1"], self.back_end.requests[-1].values("X-Forwarded-For"))
        await self.assert_no_handshake(1)

    async def assert_no_handshake(self, place: int) -> None:
        try:
            (await deferToThread(self.connect, self.CLIENT, place=place)).close()
        except (ssl.SSLError, ConnectionError):
            return
        self.fail("it was served without a header")
