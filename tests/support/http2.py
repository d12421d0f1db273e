"""An HTTP/2 client that sends any frames, and a stock ``Site`` with HTTP/2 in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import attrs
import h2.config
import h2.connection
import h2.events
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.web import http
from twisted.web._http2 import H2Connection
from twisted.web.server import Site

from x509proxy.exchange import Exchange
from x509proxy.resource import X509ProxyResource

__all__ = ["Http2Client", "Http2Response", "Http2Site", "pseudo"]

Fields = Iterable[tuple[bytes, bytes]]


def pseudo(
    method: bytes = b"GET", path: bytes = b"/token", authority: bytes = b"localhost"
) -> list[tuple[bytes, bytes]]:
    """Return the four pseudo-header fields of a request (RFC 9113 section 8.3.1)."""
    return [
        (b":method", method),
        (b":path", path),
        (b":authority", authority),
        (b":scheme", b"https"),
    ]


@attrs.define
class Http2Response:
    """A response as far as it has arrived. ``reset``: the stream was reset by the server."""

    pairs: list[tuple[bytes, bytes]] = attrs.field(factory=list)
    body: bytes = b""
    ended: bool = False
    reset: bool = False

    @property
    def status(self) -> int:
        """The status code; 0 before the head has arrived."""
        return int(dict(self.pairs).get(b":status", b"0"))


class Http2Client:
    """The client's side of one connection, without I/O. ``over``: the server has ended it."""

    def __init__(self) -> None:
        # No output is validated: a hostile client has its own library.
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._connection = h2.connection.H2Connection(config=config)
        self._connection.initiate_connection()
        self.responses: dict[int, Http2Response] = {}
        self.over = False

    def request(
        self, fields: Fields, data: Sequence[bytes] | None = None, trailers: Fields | None = None
    ) -> Http2Response:
        """Begin a stream; ``data``: its DATA frames; ``None``: the head ends it."""
        stream = self._connection.get_next_available_stream_id()
        self._connection.send_headers(stream, list(fields), end_stream=data is None)
        for piece in data or ():
            self._connection.send_data(stream, piece)
        if trailers is not None:
            self._connection.send_headers(stream, list(trailers), end_stream=True)
        elif data is not None:
            self._connection.end_stream(stream)
        response = self.responses[stream] = Http2Response()
        return response

    def reset(self) -> None:
        """Reset the newest stream."""
        self._connection.reset_stream(max(self.responses))

    def take(self) -> bytes:
        """Return the bytes to be sent."""
        return self._connection.data_to_send()

    def feed(self, data: bytes) -> None:
        """Receive bytes from the server."""
        for event in self._connection.receive_data(data):
            if isinstance(event, h2.events.ConnectionTerminated):
                self.over = True
                continue
            response = self.responses.get(getattr(event, "stream_id", None) or 0)
            if response is not None:
                self._note(response, event)

    def _note(self, response: Http2Response, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            response.pairs = [(bytes(name), bytes(value)) for name, value in event.headers]
        elif isinstance(event, h2.events.DataReceived):
            response.body += event.data
            self._connection.acknowledge_received_data(
                event.flow_controlled_length, event.stream_id
            )
        elif isinstance(event, h2.events.StreamEnded):
            response.ended = True
        elif isinstance(event, h2.events.StreamReset):
            response.reset = True


class _Transport(StringTransport):
    negotiatedProtocol = b"h2"


class Http2Site:
    """A stock ``Site`` with the proxy's resource, one HTTP/2 client, and a back end."""

    def __init__(self, patch: Any, **options: Any) -> None:
        self.clock = MemoryReactorClock()
        # Twisted gives its HTTP/2 connections the global reactor, not the Site's.
        patch(http, "H2Connection", partial(H2Connection, self.clock))
        self.exchanges: list[Exchange] = []
        self.resource = X509ProxyResource(
            "127.0.0.1", 8080, reactor=self.clock, observe=self.exchanges.append, **options
        )
        site: Any = Site(self.resource, reactor=self.clock, timeout=None)
        self._channel = site.buildProtocol(None)
        self._wire = _Transport(lenient=True)
        self._channel.makeConnection(self._wire)
        self.client = Http2Client()
        self.back_ends: list[tuple[Any, StringTransport]] = []

    def ask(
        self, fields: Fields, data: Sequence[bytes] | None = None, trailers: Fields | None = None
    ) -> Http2Response:
        """Send a request, and return after the back end has accepted every connection."""
        response = self.client.request(fields, data, trailers)
        self.turn()
        return response

    def turn(self) -> None:
        """Transfer the bytes in both directions."""
        self._channel.dataReceived(self.client.take())
        while len(self.back_ends) < len(self.clock.tcpClients):
            protocol: Any = self.clock.tcpClients[len(self.back_ends)][2].buildProtocol(None)
            transport = StringTransport()
            protocol.makeConnection(transport)
            self.back_ends.append((protocol, transport))
        for _ in range(4):
            self.clock.advance(0)
            data = self._wire.value()
            self._wire.clear()
            if data:
                self.client.feed(data)

    @property
    def received(self) -> bytes:
        """All bytes that the back end has received."""
        return b"".join(transport.value() for _, transport in self.back_ends)

    def answer(self, data: bytes) -> None:
        """Let the back end send bytes on its newest connection."""
        self.back_ends[-1][0].dataReceived(data)
        self.turn()
