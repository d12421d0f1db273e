"""Raw bytes over real TLS into a proxy, and the requests that its back end recorded."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from http.client import HTTPResponse
from typing import Any, TypeVar

import attrs
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.support.names import secret_name
from x509proxy.certificates.self_signed import SelfSigned
from x509proxy.testing import Answer, RecordingBackEnd, RunningProxy, running_proxy

__all__ = ["HEADER", "ProxyTestCase", "Reply", "get", "read_reply", "read_to_end", "until"]

# A valid secret name, for the settings: it cannot be guessed.
HEADER = secret_name("raw_tls")

Answered = TypeVar("Answered")


@attrs.frozen
class Reply:
    """A response parsed by ``http.client``."""

    status: int
    reason: str
    pairs: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> list[str]:
        """Return all values of a field."""
        return [value for other, value in self.pairs if other.lower() == name.lower()]


def read_reply(connection: socket.socket, method: str = "GET") -> Reply:
    """Read one response; an incomplete one raises an exception of ``http.client``."""
    response = HTTPResponse(connection, method=method)
    response.begin()
    return Reply(response.status, response.reason, response.getheaders(), response.read())


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the other side closes or aborts the connection."""
    data = bytearray()
    try:
        while piece := connection.recv(65536):
            data += piece
    except (ssl.SSLError, ConnectionError):
        pass
    return bytes(data)


def get(target: str = "/", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    """Make a request without a body, for a connection that closes after it."""
    return "\r\n".join(
        [
            f"{method} {target} HTTP/{version}",
            "Host: localhost",
            "Connection: close",
            *lines,
            "",
            "",
        ]
    ).encode()


async def until(condition: Callable[[], Any], seconds: float = 20.0, pause: float = 0.0) -> None:
    """Run the reactor until a condition is true, for a number of seconds at most.

    ``pause``: seconds between two checks.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it has not come true")
        await deferLater(reactor, pause)


class ProxyTestCase(TestCase):
    """A test with a proxy between a client in a thread and a recording back end."""

    timeout = 30
    back_end: RecordingBackEnd
    proxy: RunningProxy

    def start(
        self, *answers: Answer, factory: Callable[[Any], Any] | None = None, **options: Any
    ) -> None:
        """Start both; they are stopped after the test."""
        self.back_end = RecordingBackEnd(reactor, *answers)
        self.addCleanup(self.back_end.stop)
        self.proxy = running_proxy(
            reactor, self.back_end.port, factory, **{"header": HEADER, **options}
        )
        self.addCleanup(self.proxy.stop)

    async def dialogue(
        self,
        step: Callable[[ssl.SSLSocket], Answered],
        client: SelfSigned | None = None,
        alpn: Sequence[str] = (),
    ) -> Answered:
        """Run ``step`` with a new connection, in a thread; ``alpn``: the offered protocols."""

        def run() -> Answered:
            with self.proxy.connect(client, alpn=alpn) as connection:
                return step(connection)

        result: Answered = await deferToThread(run)
        return result

    async def ask(
        self, request: bytes, client: SelfSigned | None = None, method: str = "GET"
    ) -> Reply:
        """Send one request on a new connection; return the response."""

        def step(connection: ssl.SSLSocket) -> Reply:
            connection.sendall(request)
            return read_reply(connection, method)

        return await self.dialogue(step, client)
