"""Octets on their way to a client, by the kernel's own count.

Facts
-----
* The kernel takes megabytes that a client on a slow line has not received. A reset discards them; an end with FIN does not
  (RFC 9293 section 3.6).
* ``SIOCOUTQ`` is the number of octets that the other side has not acknowledged (tcp(7), unix(7)); for unix sockets, that it has
  not read. ``tcpi_bytes_acked`` in ``TCP_INFO`` is the number of those it has (linux/tcp.h, offset 120; Linux 4.1).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from typing import Any

from twisted.internet.tcp import Connection

from x509proxy.transport.tls_stream import TlsStream

__all__ = ["Delivery"]

_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_ACKNOWLEDGED = struct.Struct("@120xQ")
_UNSENT = struct.Struct("@i")
# SIOCOUTQ of linux/sockios.h. A kernel without it, such as that of macOS, reports an error.
_SIOCOUTQ = termios.TIOCOUTQ


class Delivery:
    """The octets written to one connection. Where the kernel has no count, both figures are ``None``."""

    __slots__ = ("_socket",)

    def __init__(self, transport: Any) -> None:
        wire = transport.transport if isinstance(transport, TlsStream) else transport
        self._socket: socket.socket | None = (
            wire.getHandle() if isinstance(wire, Connection) else None
        )

    def unsent(self) -> int | None:
        """Return how many octets the kernel holds that the client has not acknowledged."""
        if self._socket is None:
            return None
        try:
            found: int
            (found,) = _UNSENT.unpack(fcntl.ioctl(self._socket, _SIOCOUTQ, bytes(_UNSENT.size)))
        except (OSError, ValueError):
            return None  # the socket is gone, or the kernel has no such count
        return found

    def acknowledged(self) -> int | None:
        """Return how many octets of this connection the client has acknowledged."""
        if self._socket is None or _TCP_INFO is None:
            return None
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ACKNOWLEDGED.size)
            found: int
            (found,) = _ACKNOWLEDGED.unpack(info)
        except (OSError, struct.error):
            return None  # no TCP, or a kernel from before 4.1
        return found
