"""Bytes to a transport, at once where the kernel has room.

Facts
-----
* Twisted's transports wait for the reactor to say that a socket can be written: two ``epoll_ctl`` and a turn of the loop for
  each answer, and for each request to a back end. Nearly always there is room, so it is tried.
* What the kernel does not take goes the usual way, and until that is gone everything goes after it: the order is kept.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.tcp import Connection
from zope.interface import implementer

__all__ = ["DirectWriter"]

# Linux alone has it.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


@implementer(IPullProducer)
class DirectWriter:
    """Writes to one transport, of which it is the only writer.

    ``producer`` is paused when the kernel has taken less than it was given, and resumed when it has taken all.
    """

    __slots__ = ("_behind", "_producer", "_socket", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        # TCP and unix sockets, not what wraps them: a wrapper's bytes are others than its socket's.
        self._socket: socket.socket | None = (
            transport.getHandle() if isinstance(transport, Connection) else None
        )
        self._behind = False
        self._producer: IPushProducer | None = None

    def write(self, data: bytes) -> None:
        """Send the bytes now, or as soon as may be."""
        if self._socket is None or self._behind:
            self._transport.write(data)
            return
        try:
            sent = self._socket.send(data)
        except OSError:
            # The kernel has no room. Or the connection is broken: the transport will find out in its own turn, and say so.
            sent = 0
        if sent < len(data):
            self._fall_behind(data[sent:])

    def acknowledge(self) -> bool:
        """Have TCP acknowledge at once what comes from now on, until more is written; whether that can be done."""
        try:
            if self._socket is None or _QUICKACK is None:
                return False
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        except OSError:
            return False  # a unix socket, or one that is gone
        return True

    def end(self) -> None:
        """Close the connection when all has been sent."""
        self._transport.loseConnection()

    def end_half(self) -> None:
        """Say no more; what comes is still read. Where there is no such half, or bytes wait, the connection is closed."""
        if self._socket is None or self._behind:
            self._transport.loseConnection()
        else:
            self._transport.loseWriteConnection()

    def _fall_behind(self, rest: bytes) -> None:
        # A pull producer is asked for more when all has been written; it is also asked at once, and has nothing then.
        self._transport.registerProducer(self, False)  # noqa: FBT003 - Twisted's argument
        self._transport.write(rest)
        self._behind = True
        if self._producer is not None:
            self._producer.pauseProducing()

    def register(self, producer: IPushProducer) -> None:
        """Whom to pause and to resume."""
        self._producer = producer
        if self._socket is None:
            self._transport.registerProducer(producer, True)  # noqa: FBT003 - Twisted's argument
        elif self._behind:
            producer.pauseProducing()

    def unregister(self) -> None:
        """Nobody, from now on."""
        if self._producer is not None:
            self._producer = None
            if self._socket is None:
                self._transport.unregisterProducer()

    def forget(self) -> None:
        """The connection has gone, and with it whoever was to be paused."""
        self._producer = None

    # The transport calls.

    def resumeProducing(self) -> None:
        if self._behind:
            self._behind = False
            self._transport.unregisterProducer()
            if self._producer is not None:
                self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """The transport is going; its protocol is told."""
