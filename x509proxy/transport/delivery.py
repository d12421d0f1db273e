"""The kernel's counts of the bytes that a client has, and has not yet, received.

Facts
-----
* The kernel buffers megabytes for a client on a slow line. A reset discards them, and an end with
  FIN does not (RFC 9293 section 3.6).
* ``SIOCOUTQ`` is the number of bytes that the other side has not acknowledged (tcp(7)), or not read
  from a unix socket (unix(7)).
* ``tcpi_bytes_acked`` in ``TCP_INFO`` is the number of acknowledged bytes (linux/tcp.h, offset 120;
  Linux 4.1).
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
    """The bytes written to a connection. Both counts are ``None`` if the kernel has none."""

    __slots__ = ("_socket",)

    def __init__(self, transport: Any) -> None:
        wire = transport.transport if isinstance(transport, TlsStream) else transport
        self._socket: socket.socket | None = (
            wire.getHandle() if isinstance(wire, Connection) else None
        )

    def unsent(self) -> int | None:
        """Return the number of bytes that the client has not acknowledged."""
        if self._socket is None:
            return None
        try:
            found: int
            (found,) = _UNSENT.unpack(fcntl.ioctl(self._socket, _SIOCOUTQ, bytes(_UNSENT.size)))
        except (OSError, ValueError):
            return None  # the socket is closed, or the kernel has no count
        return found

    def acknowledged(self) -> int | None:
        """Return the number of bytes that the client has acknowledged."""
        if self._socket is None or _TCP_INFO is None:
            return None
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ACKNOWLEDGED.size)
            found: int
            (found,) = _ACKNOWLEDGED.unpack(info)
        except (OSError, struct.error):
            return None  # not TCP, or a kernel before 4.1
        return found
