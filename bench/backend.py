"""The small back end behind every subject: HTTP/1.1 with keep-alive, asyncio, in a process of its own.

``/token`` answers 100 bytes, ``/bytes/N`` as many as it is asked for, ``/headers`` the request's fields as JSON; a request's body
is read and thrown away. Not for anything but this: it trusts what stands before it to be well-formed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

__all__ = ["ANSWER", "BackEnd"]

_TOKEN = b'{"access_token":"mF_9.B5f-4.1JqM","token_type":"Bearer","expires_in":600,"scope":"read write admin"}\n'
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
ANSWER = _HEAD % len(_TOKEN) + _TOKEN
_PIECE = bytes(262144)
_PLAIN = b"GET /token HTTP/1.1\r\n"


class BackEnd(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._heard = b""
        self._body = 0  # bytes of a request's body that have still to come
        self._owed = 0  # bytes of an answer that have still to go
        self._writable = True
        self._last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._body:
            self._skip(len(data))
            return
        self._heard += data
        head, found, rest = self._heard.partition(b"\r\n\r\n")
        if not found:
            return
        self._heard = b""
        if head.startswith(_PLAIN) and not rest:
            self._transport.write(ANSWER)
        else:
            self._serve(head, len(rest))

    def _serve(self, head: bytes, begun: int) -> None:
        line, *rest = head.decode("latin-1").split("\r\n")
        _, target, version = line.split(" ")
        fields = [
            (name, value.strip()) for name, _, value in (field.partition(":") for field in rest)
        ]
        named = {name.lower(): value for name, value in fields}
        self._last = version == "HTTP/1.0" or named.get("connection", "").lower() == "close"
        self._body = int(named.get("content-length", 0))
        if self._body:
            self._skip(begun)
        elif target.startswith("/bytes/"):
            self._owed = int(target.rpartition("/")[2])
            self._transport.write(self._told(_HEAD % self._owed))
            self._pay()
        else:
            body = json.dumps(fields).encode() if target == "/headers" else _TOKEN
            self._answer(_HEAD % len(body) + body)

    def _skip(self, count: int) -> None:
        self._body -= count
        if self._body <= 0:
            self._body = 0
            self._answer(ANSWER)

    def _answer(self, answer: bytes) -> None:
        self._transport.write(self._told(answer))
        if self._last:
            self._transport.close()

    def _told(self, answer: bytes) -> bytes:
        # RFC 9112 section 9.6: who is asked to close says that it will. Stock Twisted asks always, and tells its client so.
        return (
            answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
            if self._last
            else answer
        )

    def _pay(self) -> None:
        while self._owed and self._writable:
            piece = _PIECE[: self._owed]
            self._owed -= len(piece)
            self._transport.write(piece)
        if not self._owed and self._last:
            self._transport.close()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._owed:
            self._pay()


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        BackEnd, "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
