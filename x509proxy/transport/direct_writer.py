"""Direct writes to a transport's socket, without waiting for the reactor.

Facts
-----
* Twisted's transports wait until the reactor reports that a socket is writable. That costs two
  ``epoll_ctl`` and a turn of the loop for each response, and for each request to a back end. The
  kernel nearly always has room, so the bytes are sent at once.
* Bytes that the kernel does not accept are given to the transport. Until it has sent them, so are
  all later bytes: the order is kept.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.tcp import Connection
from zope.interface import implementer

__all__ = ["DirectWriter"]

# Only Linux has it.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


@implementer(IPullProducer)
class DirectWriter:
    """The only writer of one transport.

    The producer is paused when the kernel accepts only part of the bytes, and resumed when it has
    accepted all.
    """

    __slots__ = ("_is_buffering", "_producer", "_socket", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        # Only TCP and unix sockets: a wrapper, such as TLS, sends other bytes than it is given.
        self._socket: socket.socket | None = (
            transport.getHandle() if isinstance(transport, Connection) else None
        )
        self._is_buffering = False
        self._producer: IPushProducer | None = None

    def write(self, data: bytes) -> None:
        """Send the bytes now, or as soon as the kernel has room."""
        if self._socket is None or self._is_buffering:
            self._transport.write(data)
            return
        try:
            sent = self._socket.send(data)
        except OSError:
            # The kernel has no room, or the connection is broken. The transport detects the latter
            # in its own turn, and reports it.
            sent = 0
        if sent < len(data):
            self._buffer(data[sent:])

    def acknowledge(self) -> bool:
        """Make TCP acknowledge later input at once, until the next write.

        Return false if this is not possible.
        """
        try:
            if self._socket is None or _QUICKACK is None:
                return False
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        except OSError:
            return False  # a unix socket, or a closed one
        return True

    def close(self) -> None:
        """Close the connection when all bytes have been sent."""
        self._transport.loseConnection()

    def close_write_side(self) -> None:
        """Close the sending side; input is still read.

        If the transport has no half-close, or bytes still wait, the connection is closed.
        """
        if self._socket is None or self._is_buffering:
            self._transport.loseConnection()
        else:
            self._transport.loseWriteConnection()

    def _buffer(self, rest: bytes) -> None:
        # Twisted calls a pull producer when all bytes have been written, and once at its
        # registration; nothing is written then.
        self._transport.registerProducer(self, False)  # noqa: FBT003 - Twisted's argument
        self._transport.write(rest)
        self._is_buffering = True
        if self._producer is not None:
            self._producer.pauseProducing()

    def register(self, producer: IPushProducer) -> None:
        """Set the producer to pause and to resume."""
        self._producer = producer
        if self._socket is None:
            self._transport.registerProducer(producer, True)  # noqa: FBT003 - Twisted's argument
        elif self._is_buffering:
            producer.pauseProducing()

    def unregister(self) -> None:
        """Remove the producer."""
        if self._producer is not None:
            self._producer = None
            if self._socket is None:
                self._transport.unregisterProducer()

    def stop(self) -> None:
        """Stop the producer, because the other end has ended the connection."""
        if self._producer is not None:
            self._producer.stopProducing()

    def forget(self) -> None:
        """Drop the producer of a lost connection."""
        self._producer = None

    # The transport calls.

    def resumeProducing(self) -> None:
        if self._is_buffering:
            self._is_buffering = False
            self._transport.unregisterProducer()
            if self._producer is not None:
                self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: the transport calls its protocol's ``connectionLost``."""
