"""The connections of this process to back ends, so that it recognizes itself as a client.

A proxy whose back end is its own address, through a name or an address translation, would relay one
request to itself without end. A field such as ``Via`` would reveal the loop too, but servers change
their responses because of it (nginx does not compress them), and clients can invent it.

Facts
-----
* The local address and port of a TCP connection are the client's address and port at its other end,
  unless a host between them changes both.
"""

from __future__ import annotations

from typing import Any

from x509proxy.transport.ip_address import plain_address

__all__ = ["closed", "is_own", "opened"]

_Address = tuple[str, int]
# Of the process and not of one proxy: a loop can lead through several.
_local: set[_Address] = set()


def opened(transport: Any) -> _Address | None:
    """Record a connection to a back end; return its key for :func:`closed`."""
    key = _address(transport.getHost())
    if key is not None:
        _local.add(key)
    return key


def closed(key: _Address | None) -> None:
    """Forget a connection, which has been lost."""
    if key is not None:
        _local.discard(key)


def is_own(transport: Any) -> bool:
    """Return True if a client's connection is one of this process to a back end."""
    return bool(_local) and _address(transport.getPeer()) in _local


def _address(address: Any) -> _Address | None:
    """Return the address and the port, or ``None`` for a unix socket."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    return (plain_address(host), port) if host is not None and port is not None else None
