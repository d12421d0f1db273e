"""Spoofs of the certificate header through real TLS, judged by the back end's bytes."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import Any, ClassVar

from twisted.web.server import Site

from tests.support.exhaustive import EXHAUSTIVE
from tests.support.naive import NaiveResource, RepairedNaiveResource
from tests.support.raw_tls import HEADER, ProxyTestCase
from x509proxy.certificates.self_signed import SelfSigned
from x509proxy.forwarding.claim_headers import CERTIFICATE_CLAIMS, HOP_CLAIMS
from x509proxy.testing import RecordedRequest, client_identity, header_value

SECRET = HEADER.encode()
EVIL = b"EVIL"
TARGETS = (
    b"GET /",
    b"GET /token",
    b"GET /a/b/",
    b"GET //",
    b"GET /%2e/",
    b"OPTIONS *",
    b"GET http://localhost/token",
)
VERSIONS = (b"1.1", b"1.0")
# The places of the targets that each spoof is tried at, where the suite takes a sample.
SAMPLED = (0, 3)

FORGED_NAMES = (*CERTIFICATE_CLAIMS, *HOP_CLAIMS)
# Bytes that some reader takes for the end of a line.
SPLITS = b"\r \n \0 \x0b \x0c \x1c \x1d \x1e \x85 \xc2\x85 \xe2\x80\xa8 \x7f".split(b" ")
# Fields that only the proxy itself may set.
OURS = {
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-port",
    b"x-forwarded-host",
    b"forwarded",
}


def fold(name: bytes) -> bytes:
    """Fold a name as CGI, WSGI and servlets do; this is not the product's function."""
    return re.sub(rb"[^a-z0-9]", b"-", name.lower())


def letters(name: bytes) -> bytes:
    """Return the name without its marks: ``XRealIP``."""
    return re.sub(rb"[^A-Za-z0-9]", b"", name)


CLAIMS = {letters(name).lower() for name in FORGED_NAMES}


def spoofs() -> Iterator[bytes]:
    """Yield header lines, each a way to get a forged header past a sanitiser."""
    forged = b": EVIL\r\n"
    yield from (
        name + forged for name in (SECRET, SECRET.lower(), SECRET.upper(), SECRET.swapcase())
    )
    yield (SECRET + forged) * 2
    for mark in b"_.!#$%&'*+^`|~":
        yield SECRET.replace(b"-", bytes([mark])) + forged
        yield SECRET.replace(b"-", bytes([mark]), 1).lower() + forged
    yield SECRET + forged + SECRET.replace(b"-", b"_") + forged
    for first in range(0, len(FORGED_NAMES), 30):
        names = FORGED_NAMES[first : first + 30]
        yield b"".join(
            name + forged + name.replace(b"-", b"_").upper() + forged + letters(name) + forged
            for name in names
        )
    yield from (SECRET + space + forged for space in (b" ", b"\t", b"  "))
    yield from (space + SECRET + forged for space in (b" ", b"\t"))
    yield from (b"X-A: a\r\n" + space + SECRET + forged for space in (b" ", b"\t"))
    for split in SPLITS:
        yield b"X-A: a" + split + SECRET + forged
        yield b"X-A" + split + SECRET + forged
    yield from (
        SECRET + odd + forged for odd in (b"\xff", b"\0", b"\x80", b"\xc5\xbf", b":", b"\x0b")
    )
    yield b": EVIL\r\n"
    yield b"\r " + SECRET + forged
    twin = SECRET.replace(b"-", b"_")
    for named in (
        SECRET,
        SECRET.lower(),
        twin,
        b"close, " + SECRET,
        b"Keep-Alive," + SECRET + b",",
        b"Host",
    ):
        yield b"Connection: " + named + b"\r\n" + SECRET + forged
    yield b"Proxy-Connection: " + SECRET + b"\r\n" + SECRET + forged
    yield b"Keep-Alive: " + SECRET + forged
    yield b"Transfer_Encoding: chunked\r\n" + SECRET + forged
    yield (
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
        b"Connection: Upgrade, HTTP2-Settings\r\n" + SECRET + forged
    )
    yield (
        b"X-Forwarded-For: EVIL\r\nForwarded: for=EVIL\r\n"
        b"X-Forwarded-Host: EVIL\r\nX-Forwarded-Proto: EVIL\r\n"
    )


def messages() -> Iterator[tuple[bytes, bytes]]:
    """Yield header lines and bodies, which hide a request or a field."""
    inner = b"GET /admin HTTP/1.1\r\nHost: localhost\r\n" + SECRET + b": EVIL\r\n\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n"
    length = b"Content-Length: %d\r\n"
    yield chunked, b"0\r\n" + SECRET + b": EVIL\r\n\r\n"
    yield (
        chunked + b"Trailer: " + SECRET + b"\r\nTE: trailers\r\n",
        b"1\r\na\r\n0\r\n" + SECRET + b": EVIL\r\n\r\n",
    )
    yield chunked, b"1;" + SECRET + b"=EVIL\r\na\r\n0\r\n\r\n"
    yield chunked + length % 5, b"0\r\n\r\n" + inner
    yield length % (5 + len(inner)), b"0\r\n\r\n" + inner
    yield length % 0 + length % len(inner), inner
    yield length % len(inner) + chunked, b"0\r\n\r\n" + inner
    yield b"Content-Length: +0\r\n", inner
    yield b"Content-Length: 0, %d\r\n" % len(inner), inner
    yield b"Content-Length : 0\r\n", inner
    codings = (
        b"identity",
        b"xchunked",
        b"\x0bchunked",
        b"chunked, identity",
        b"gzip, chunked",
        b"chunked\r\n , a",
    )
    for coding in codings:
        yield b"Transfer-Encoding: " + coding + b"\r\n", b"0\r\n\r\n" + inner
    yield from (
        (chunked, start + b"\r\n\r\n" + inner)
        for start in (b"0x0", b"+0", b"0 ", b"0;\n", b"00000000000000000", b"-0")
    )
    yield b"Expect: 100-continue\r\n" + length % len(inner), inner


def faults(request: RecordedRequest, client: SelfSigned | None) -> list[str]:
    """Return the faults of one request that the back end received."""
    head = request.raw.partition(b"\r\n\r\n")[0]
    names = [fold(name) for name, _ in request.pairs]
    genuine = [] if client is None else [(SECRET, header_value(client))]
    found = {
        "not the genuine header, or not once": [
            pair for pair in request.pairs if fold(pair[0]) == fold(SECRET)
        ]
        != genuine,
        "a well-known sibling": bool(CLAIMS & {letters(name) for name in names}),
        "one of ours twice, or not": any(names.count(name) != 1 for name in OURS),
        # X-A has no meaning: with a fold in it, the stock channel makes one long value of it.
        "a forged value": any(
            EVIL in value for name, value in request.pairs if fold(name) != b"x-a"
        ),
        "a line within a line": len(head.decode("latin-1").splitlines()) != head.count(b"\r\n") + 1,
        "an odd name": any(not re.fullmatch(rb"[A-Za-z0-9-]+", name) for name, _ in request.pairs),
        "a hop-by-hop field": bool(
            {b"connection", b"te", b"trailer", b"upgrade", b"expect", b"keep-alive"} & set(names)
        ),
        "framing of two kinds": names.count(b"content-length") + names.count(b"transfer-encoding")
        > 1,
        "no Host, or two": names.count(b"host") != 1,
    }
    return [fault for fault, there in found.items() if there]


class SpoofingTestCase(ProxyTestCase):
    timeout = 120

    async def attack(self, client: SelfSigned | None, requests: list[bytes]) -> list[str]:
        """Send each on its own connection; return the faults that the back end received."""
        for number, request in enumerate(requests):
            line, _, rest = request.partition(b"\r\n")
            marked = line + b"\r\nConnection: close\r\nX-Case: %d\r\n" % number + rest
            await self.dialogue(lambda connection, marked=marked: send(connection, marked), client)  # type: ignore[misc]
        wrong = [
            f"{fault}: "
            f"{requests[int(request.values('X-Case')[0])] if request.values('X-Case') else b'smuggled'!r}"  # noqa: E501
            for request in self.back_end.requests
            for fault in faults(request, client)
        ]
        cases = [tuple(request.values("X-Case")) for request in self.back_end.requests]
        if len(set(cases)) != len(cases) or () in cases:
            wrong.append("a request within a request")
        if bytes(self.back_end.received) != b"".join(
            request.raw for request in self.back_end.requests
        ):
            wrong.append("bytes that are no request")
        return wrong


def send(connection: ssl.SSLSocket, request: bytes) -> None:
    """Send a request; wait for the response, and for the end if it is announced.

    The response itself is not checked here.
    """
    try:
        connection.sendall(request)
        response = HTTPResponse(connection)
        response.begin()
        response.read()
        while response.will_close and connection.recv(65536):
            pass
    except (HTTPException, OSError):
        pass


def everywhere(version: bytes) -> list[bytes]:
    """Return every spoof: at every target, or at two of them in turn."""
    start = b"%b HTTP/%b\r\nHost: localhost\r\n"
    return [
        start % (target, version) + lines + b"\r\n"
        for number, lines in enumerate(spoofs())
        for place, target in enumerate(TARGETS)
        if EXHAUSTIVE or (place - number) % len(TARGETS) in SAMPLED
    ]


def at_least(requests: list[bytes]) -> int:
    """Return the number of requests that must arrive: 300 of all spoofs at every target."""
    return 300 * len(requests) // (len(list(spoofs())) * len(TARGETS))


class Ours(SpoofingTestCase):
    """Under our own factory."""

    factory: ClassVar[Any] = None

    async def expect_clean(
        self, client: SelfSigned | None, requests: list[bytes], at_least: int
    ) -> None:
        self.start(factory=type(self).factory)
        self.assertEqual([], (await self.attack(client, requests))[:5])
        self.assertGreater(len(self.back_end.requests), at_least)

    async def expect_spoofs(self, client: SelfSigned | None, version: bytes) -> None:
        requests = everywhere(version)
        await self.expect_clean(client, requests, at_least(requests))

    async def test_with_certificate(self) -> None:
        """With any header lines of a client, the back end receives the genuine header alone."""
        await self.expect_spoofs(client_identity(), b"1.1")

    async def test_without_certificate(self) -> None:
        """A client without a certificate has none, with any header lines."""
        await self.expect_spoofs(None, b"1.1")

    async def test_http_1_0_with_certificate(self) -> None:
        """The same in HTTP/1.0."""
        await self.expect_spoofs(client_identity(), b"1.0")

    async def test_http_1_0_without_certificate(self) -> None:
        """The same in HTTP/1.0 without a certificate."""
        await self.expect_spoofs(None, b"1.0")

    async def test_bodies(self) -> None:
        """Nothing in a body, in trailers or chunk extensions becomes a header or a request."""
        start = b"POST /token HTTP/%b\r\nHost: localhost\r\n"
        requests = [
            start % version + lines + b"\r\n" + body
            for version in VERSIONS
            for lines, body in messages()
        ]
        for client in (client_identity(), None):
            await self.expect_clean(client, requests, 3)

    async def test_request_lines(self) -> None:
        """Nothing in a request line or in ``Host`` becomes a header."""
        forged = SECRET + b": EVIL"
        lines = [b"GET /%b HTTP/1.1" % (split + forged) for split in (*SPLITS, b"\t", b" ")]
        lines += [
            b"GET /%0d%0a" + SECRET + b":EVIL HTTP/1.1",
            b"GET /?\x7f HTTP/1.1",
            b"GET //[ HTTP/1.1",
            b"GET /# HTTP/1.1",
        ]
        lines += [
            b"GET / HTTP/" + rest
            for rest in (b"1.1 " + forged, b"0.9", b"2.0", b"1.2", b"01.1", b"1.1\x0b" + forged)
        ]
        lines += [b"GET /", b" GET / HTTP/1.1", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 "]
        requests = [line + b"\r\nHost: localhost\r\n\r\n" for line in lines]
        hosts = (
            b"localhost\x0b" + forged,
            b"localhost, " + forged,
            b"localhost\t" + forged,
            b'a";x="',
            b"",
            b"a@b",
            b"a b",
        )
        requests += [b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n" for host in hosts]
        requests += [
            b"GET http://evil/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ]
        await self.expect_clean(client_identity(), requests, 0)


class UnderStockSite(Ours):
    """The same tests under ``twisted.web.server.Site``."""

    factory = Site


class Naive(SpoofingTestCase):
    """The tests above can fail: they do on a naive proxy."""

    async def attack_naive(self, kind: type[NaiveResource], requests: list[bytes]) -> list[str]:
        def factory(resource: Any) -> Site:
            return Site(kind(resource.host, resource.port, HEADER, resource.reactor), timeout=None)

        self.start(factory=factory)
        return await self.attack(client_identity(), requests)

    async def test_child_of_the_wrong_class(self) -> None:
        """The naive proxy passes the plainest forgery on, at every path, and adds no header."""
        request = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b: EVIL\r\n\r\n"
        wrong = await self.attack_naive(
            NaiveResource, [request % (path, SECRET) for path in (b"/", b"/token", b"/a/b/")]
        )
        for fault in ("not the genuine header, or not once", "a forged value"):
            self.assertEqual(3, sum(one.startswith(fault) for one in wrong), wrong)

    async def test_repaired(self) -> None:
        """With that repaired, twins, siblings and lines within lines still pass."""
        requests = [
            b"GET /token HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % lines for lines in spoofs()
        ]
        wrong = await self.attack_naive(RepairedNaiveResource, requests)
        for fault in (
            "not the genuine header",
            "a well-known sibling",
            "a forged value",
            "a line within a line",
            "an odd name",
        ):
            self.assertTrue(any(one.startswith(fault) for one in wrong), fault)
