"""Promises of several listeners, of rules by path and of a reload, by a service from TOML."""

from __future__ import annotations

import ssl
from typing import Any

from twisted.internet.threads import deferToThread

from tests.support.certificates import Pair, pair
from tests.support.pki import PkiTestCase, value_of
from tests.support.raw_tls import HEADER, Reply, get, read_reply
from x509proxy.forwarding.secret_name import new_header_name

EMPTY: list[bytes] = []


class ListenersTestCase(PkiTestCase):
    MORE = "\n"
    CLIENT = pair()

    async def at(
        self, place: int, target: str, client: Pair | None, host: str = "localhost"
    ) -> tuple[Reply, list[bytes]]:
        """Return the response at one of the listeners, and the certificates that arrived."""
        before = len(self.back_end.requests)

        def run() -> Reply:
            with self.connect(client, place=place) as connection:
                connection.sendall(
                    get(target).replace(b"Host: localhost", b"Host: " + host.encode())
                )
                return read_reply(connection)

        reply = await deferToThread(run)
        return reply, [
            value for request in self.back_end.requests[before:] for value in request.values(HEADER)
        ]


class Listeners(ListenersTestCase):
    TWO = '[[listeners]]\nendpoint = "tcp:0:interface=127.0.0.1"\nclient-certificate = "{}"\n'

    async def test_one_that_does_not_ask(self) -> None:
        """A listener for browsers requests no certificate (RFC 8705 section 5).

        Its requests are forwarded without one, even where the client has one.
        """
        self.start(f'client-certificate = "required"\n{self.TWO.format("none")}')
        reply, seen = await self.at(0, "/", self.CLIENT)
        self.assertEqual((200, [value_of(self.CLIENT)]), (reply.status, seen))
        reply, seen = await self.at(0, "/", None)
        self.assertEqual(401, reply.status)
        for client in (self.CLIENT, None):
            reply, seen = await self.at(1, "/", client)
            self.assertEqual((200, EMPTY), (reply.status, seen))

    async def test_one_that_demands(self) -> None:
        """A listener can require a certificate that the others only request."""
        self.start(self.TWO.format("required"))
        self.assertEqual(
            [200, 401], [(await self.at(place, "/", None))[0].status for place in (0, 1)]
        )
        reply, seen = await self.at(1, "/", self.CLIENT)
        self.assertEqual((200, [value_of(self.CLIENT)]), (reply.status, seen))

    async def test_only_listeners(self) -> None:
        """``listen`` may be empty where there are listeners."""
        self.start(f"{self.TWO.format('optional')}", listen="[]")
        reply, seen = await self.at(0, "/", self.CLIENT)
        self.assertEqual((200, [value_of(self.CLIENT)]), (reply.status, seen))

    async def test_reload(self) -> None:
        """After a reload each listener has the same certificate request as before."""
        self.start(self.TWO.format("none"))
        self.service.reload()
        self.assertEqual([value_of(self.CLIENT)], (await self.at(0, "/", self.CLIENT))[1])
        self.assertEqual(EMPTY, (await self.at(1, "/", self.CLIENT))[1])


class Rules(ListenersTestCase):
    RULES = """
        [[rules]]
        path = "/token"
        client-certificate = "required"
        [[rules]]
        path = "/login"
        client-certificate = "ignored"
        [[rules]]
        server-name = "mtls.example.com"
        client-certificate = "required"
    """

    async def test_paths(self) -> None:
        """One listener serves browsers and machines: a path needs a certificate, or not."""
        self.start(self.RULES)
        rows = [
            ("/token", 200, True),
            ("/login", 200, False),
            ("/other", 200, True),
            ("/token/../other", 200, True),
        ]
        for target, status, passed in rows:
            reply, seen = await self.at(0, target, self.CLIENT)
            self.assertEqual(
                (status, [value_of(self.CLIENT)] * passed), (reply.status, seen), target
            )
        for target, status in (
            ("/token", 401), ("/%74oken;a=b", 401), ("/login", 200), ("/other", 200),
            ("/token.", 401), ("/token/../other", 401),
            ("/x%2fy/../token", 400), ("//x/token", 400), ("/\\x/token", 400), ("/tok%ffen", 400),
            ("/%a0token", 400),
            ("/tok%85en", 400), ("/tok%c0%afen", 400), ("/token%3f", 400), ("/token%3fx", 400),
            ("/to%E2%84%AAen", 401),
            ("/token.json", 401), ("/index.php/token", 401), ("/(S(x))/token", 400),
        ):  # fmt: skip
            reply, seen = await self.at(0, target, None)
            self.assertEqual((status, EMPTY), (reply.status, seen), target)
        for client in (self.CLIENT, None):
            reply, seen = await self.at(0, "/token/../login", client)
            self.assertEqual((400, EMPTY), (reply.status, seen))

    async def test_open(self) -> None:
        """Where only a rule opens a path, only the rule's own spelling opens one."""
        self.start(
            """
            client-certificate = "required"
            [[rules]]
            path = "/.well-known"
            client-certificate = "ignored"
            """
        )
        for target, status in (
            ("/.well-known/openid-configuration", 200), ("/token", 401), ("//x/token", 400),
            ("/.WELL-KNOWN/x", 400),
            ("/.well-known;x/../token", 400), ("/.well-known/..;/token", 400),
            ("/.well-known/../token", 400),
        ):  # fmt: skip
            reply, seen = await self.at(0, target, None)
            self.assertEqual((status, EMPTY), (reply.status, seen), target)
        reply, seen = await self.at(0, "/token", self.CLIENT)
        self.assertEqual((200, [value_of(self.CLIENT)]), (reply.status, seen))

    async def test_byte_for_byte(self) -> None:
        """Without rules an odd target is forwarded unchanged."""
        self.start("")
        for target in ("//x/token", "/\\x/token", "/tok%ffen", "/token%3fx", "/(S(x))/token"):
            reply, seen = await self.at(0, target, self.CLIENT)
            self.assertEqual((200, [value_of(self.CLIENT)]), (reply.status, seen), target)
            self.assertEqual(target.encode(), self.back_end.requests[-1].raw.split(b" ")[1])

    async def test_server_names(self) -> None:
        """A host name for clients with certificates needs one on every path without a rule."""
        self.start(self.RULES)
        for host, target, status in (
            ("mtls.example.com", "/other", 401), ("MTLS.example.com:8443", "/other", 401),
            ("mtls.example.com", "/login", 200),
        ):  # fmt: skip
            reply, _ = await self.at(0, target, None, host)
            self.assertEqual(status, reply.status, (host, target))


class Rotation(ListenersTestCase):
    def values(self, *names: str) -> list[list[bytes]]:
        return [self.back_end.requests[-1].values(name) for name in names]

    async def test_without_an_outage(self) -> None:
        """A secret name changes on an open connection: the old one, both, the new one.

        From a client none of them passes.
        """
        old, new = HEADER, new_header_name()
        self.start()
        connection: ssl.SSLSocket = await deferToThread(self.connect, self.CLIENT)
        self.addCleanup(connection.close)
        value = value_of(self.CLIENT)
        for lines, expected in (
            ((old,), [[value], []]),
            ((old, new), [[value], [value]]),
            ((new,), [[], [value]]),
        ):
            self.write("header.txt", "\n".join(lines).encode())
            self.service.reload()
            request = b"GET / HTTP/1.1\r\nHost: a\r\n%b: forged\r\n\r\n" % lines[0].encode()

            def ask(request: bytes = request) -> Any:
                connection.sendall(request)
                return read_reply(connection)

            self.assertEqual(200, (await deferToThread(ask)).status)
            self.assertEqual(expected, self.values(old, new))

    async def test_broken(self) -> None:
        """A reload of a file without a name changes nothing."""
        self.start()
        self.write("header.txt", b"short\n")
        self.service.reload()
        self.assertEqual([value_of(self.CLIENT)], (await self.at(0, "/", self.CLIENT))[1])
