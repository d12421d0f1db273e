"""The back end behind every subject: HTTP/1.1 with keep-alive on asyncio, in a process of its own.

* A request with an interaction id (``x-fapi-interaction-id``, FAPI 1.0 part 1) receives a unique
  response. It has the id, the time, an ``ETag`` and JSON with random values.
* ``/slow…`` receives its response after 2 ms.
* ``/bytes/N`` receives N bytes.
* ``/headers`` receives the request's header fields as JSON.
* Any other request receives the same 100 bytes.

The body of a request is read and dropped. The proxy in front has to send well-formed requests.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from email.utils import formatdate
from random import getrandbits
from typing import cast

__all__ = ["RESPONSE", "THINK_TIME", "BackEnd"]

THINK_TIME = 0.002
_TOKEN = (
    b'{"access_token":"mF_9.B5f-4.1JqM","token_type":"Bearer","expires_in":600,'
    b'"scope":"read write admin"}\n'
)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
RESPONSE = _HEAD % len(_TOKEN) + _TOKEN
_PIECE = bytes(262144)
# Any proxy may change the case of a name.
_FIELD = re.compile(
    rb"\r\n(content-length|x-fapi-interaction-id|connection):[ \t]*([^\r]*)", re.IGNORECASE
)
_UNIQUE = (
    "HTTP/1.1 200 OK\r\nDate: {date}\r\n"
    "Content-Type: application/json\r\nCache-Control: no-store\r\n"
    'ETag: "{tag:032x}"\r\nx-fapi-interaction-id: {identifier}\r\nContent-Length: {length}\r\n\r\n'
)
_BODY = (
    '{{"access_token":"{token:0128x}","token_type":"Bearer","expires_in":600,"jti":"{jti:032x}"}}\n'
)


def unique_response(identifier: str) -> bytes:
    """Make a response that no other request receives."""
    body = _BODY.format(token=getrandbits(512), jti=getrandbits(128))
    head = _UNIQUE.format(
        date=formatdate(usegmt=True),
        tag=getrandbits(128),
        identifier=identifier,
        length=len(body),
    )
    return (head + body).encode("latin-1")


class BackEnd(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._head = b""  # of the request whose body is being read
        self._body = 0  # bytes of the request's body still to be received
        self._unsent = 0  # bytes of a long response still to be sent
        self._writable = True
        self._last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._body:
            self._skip(len(data))
            return
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if found:
            self._received = b""
            self._begin(head, len(rest))

    def _begin(self, head: bytes, begun: int) -> None:
        self._head = head
        fields = {name.lower(): value for name, value in _FIELD.findall(head)}
        self._last = head.split(b"\r\n", 1)[0].endswith(b"HTTP/1.0") or (
            fields.get(b"connection", b"").lower() == b"close"
        )
        self._identifier = fields.get(b"x-fapi-interaction-id", b"").decode("latin-1")
        self._body = int(fields.get(b"content-length", 0))
        self._skip(begun)

    def _skip(self, count: int) -> None:
        self._body -= count
        if self._body <= 0:
            self._body = 0
            self._serve(self._head.split(b" ", 2)[1].decode("latin-1"))

    def _serve(self, target: str) -> None:
        if target.startswith("/bytes/"):
            self._unsent = int(target.rpartition("/")[2])
            self._transport.write(self._announcing(_HEAD % self._unsent))
            self._send_pieces()
        elif target.startswith("/slow"):
            asyncio.get_running_loop().call_later(THINK_TIME, self._respond)
        elif target == "/headers":
            lines = self._head.decode("latin-1").split("\r\n")[1:]
            fields = [(name, value.strip()) for name, _, value in (f.partition(":") for f in lines)]
            body = json.dumps(fields).encode()
            self._send(_HEAD % len(body) + body)
        else:
            self._respond()

    def _respond(self) -> None:
        self._send(unique_response(self._identifier) if self._identifier else RESPONSE)

    def _send(self, response: bytes) -> None:
        self._transport.write(self._announcing(response))
        if self._last:
            self._transport.close()

    def _announcing(self, response: bytes) -> bytes:
        # RFC 9112 section 9.6: a server that receives "close" responds with it. Stock Twisted
        # always sends it, and passes the field on to its client.
        if not self._last:
            return response
        return response.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)

    def _send_pieces(self) -> None:
        while self._unsent and self._writable:
            piece = _PIECE[: self._unsent]
            self._unsent -= len(piece)
            self._transport.write(piece)
        if not self._unsent and self._last:
            self._transport.close()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._unsent:
            self._send_pieces()


async def _listen(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        BackEnd, "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_listen(int(sys.argv[1])))
