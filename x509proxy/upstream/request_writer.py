"""Writer of a connection's requests, with the unread input of a connection that breaks."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IPushProducer

from x509proxy.transport.direct_writer import DirectWriter
from x509proxy.upstream.endpoints import UnreadInput

__all__ = ["RequestWriter"]

_MAX_UNREAD = 262144  # octets


class RequestWriter:
    """The writer of one connection's requests, one after the other."""

    __slots__ = ("_transport", "_unread", "_writer", "write")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._writer = DirectWriter(transport)
        self.write = self._writer.write
        self._unread: UnreadInput | None = None

    def begin(self, producer: IPushProducer) -> None:
        """Begin a body that is streamed: ``producer`` is paused while it arrives too fast."""
        self._unread = UnreadInput(self._transport)
        self._writer.register(producer)

    def release(self) -> None:
        """End a streamed body, complete or not: its producer is not paused any more."""
        if self._unread is not None:
            self._unread.forget()
            self._unread = None
            self._writer.unregister()

    def unread(self) -> bytes:
        """Return the octets that came, and were not read, while a body was written."""
        return b"" if self._unread is None else self._unread.take(_MAX_UNREAD)
