"""The connections of this process to back ends, so that it recognizes itself as a client.

A proxy whose back end is its own address, under some name, would relay one request to itself
without end. A field such as ``Via`` would reveal the loop too, but servers change their responses
because of it (nginx does not compress them), and clients can invent it.

Facts
-----
* A TCP connection is identified by the addresses and ports of both ends (RFC 9293 section 3.4). Its
  local address and port alone are not enough: the kernel gives the same port to connections with
  different destinations.
"""

from __future__ import annotations

from typing import Any

from x509proxy.transport.ip_address import plain_address

__all__ = ["closed", "is_own", "opened"]

_Connection = tuple[str, int, str, int]
# Of the process and not of one proxy: a loop can lead through several.
_open: set[_Connection] = set()


def opened(transport: Any) -> _Connection | None:
    """Record a connection to a back end; return its key for :func:`closed`."""
    key = _connection(transport.getHost(), transport.getPeer())
    if key is not None:
        _open.add(key)
    return key


def closed(key: _Connection | None) -> None:
    """Forget a connection, which has been lost."""
    if key is not None:
        _open.discard(key)


def is_own(transport: Any) -> bool:
    """Return True if a client's connection is one of this process to a back end."""
    return bool(_open) and _connection(transport.getPeer(), transport.getHost()) in _open


def _connection(client: Any, server: Any) -> _Connection | None:
    """Return the addresses and ports of both ends, or ``None`` for a unix socket."""
    try:
        return plain_address(client.host), client.port, plain_address(server.host), server.port
    except AttributeError:
        return None
