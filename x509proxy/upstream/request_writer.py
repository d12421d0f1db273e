"""A request on its way to the back end: its head with the first of its body; and what the back end said before it hung up."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IPushProducer

from x509proxy.transport.direct_writer import DirectWriter
from x509proxy.upstream.endpoints import UnreadInput

__all__ = ["RequestWriter"]

_LAST_WORDS = 262144


class RequestWriter:
    """The requests of one connection, one after the other."""

    __slots__ = ("_head", "_last_words", "_sender", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._sender = DirectWriter(transport)
        self._head = b""
        self._last_words: UnreadInput | None = None

    def begin(self, head: bytes, producer: IPushProducer | None) -> None:
        """A request's head; it goes out with what follows it. ``producer``: who is paused while a body is sent too fast."""
        self._head = head
        if producer is not None:
            self._last_words = UnreadInput(self._transport)
            self._sender.register(producer)

    def write(self, data: bytes) -> None:
        """A piece of the body: a short request is one write."""
        head, self._head = self._head, b""
        self._sender.write(head + data if head else data)

    def end(self) -> None:
        """The request is complete."""
        if self._head:
            self.write(b"")
        self.release()

    def release(self) -> None:
        """It is complete, or off: nobody is paused any more."""
        if self._last_words is not None:
            self._last_words.forget()
            self._last_words = None
            self._sender.unregister()

    def last_words(self) -> bytes:
        """What has come from the back end and has not been read, while a body was being sent."""
        return b"" if self._last_words is None else self._last_words.take(_LAST_WORDS)
