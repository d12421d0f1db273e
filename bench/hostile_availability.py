"""Hostile loads on shared resources: back-end connections, accept queue, admin listener.

``bench.hostile`` registers them, and runs them with its own.
"""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import suppress

from bench.hostile import Target, client_context, load

__all__ = ["bursts", "idle_admin", "stuck_readers"]


@load(
    "stuck-readers",
    "96 clients that ask for 4 MB and read nothing, over 64 connections to the back end",
    "[client]\nsend-timeout = 60\n",
)
def stuck_readers(target: Target, seconds: float) -> int:
    """Send requests, read nothing, and connect again after a reset."""
    end, sent = time.monotonic() + seconds, 0
    context = client_context(target)
    request = b"GET /bytes/4000000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    held: list[socket.socket] = []
    while time.monotonic() < end:
        # Connections that the proxy has cut are replaced.
        held = [wire for wire in held if not _is_cut(wire)]
        with suppress(OSError):
            while len(held) < 96 and time.monotonic() < end:
                wire = context.wrap_socket(_connect(target.port, 4096))
                wire.sendall(request)
                sent += len(request)
                wire.settimeout(0)
                held.append(wire)
        time.sleep(0.05)
    for one in held:
        one.close()
    return sent


def _connect(port: int, buffer: int | None = None) -> socket.socket:
    wire = socket.socket()
    if buffer is not None:
        # The kernels hold little of the response then.
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    wire.settimeout(10)
    wire.connect(("127.0.0.1", port))
    return wire


def _is_cut(wire: socket.socket) -> bool:
    """Return true after a reset; nothing is read."""
    return wire.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


@load("bursts", "800 connections at once, closed after a second, again and again")
def bursts(target: Target, seconds: float) -> int:
    """Open connections, and close them without a byte."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with selectors.DefaultSelector() as selector:
            wires = [socket.socket() for _ in range(800)]
            for wire in wires:
                wire.settimeout(0)
                wire.connect_ex(("127.0.0.1", target.port))
                selector.register(wire, selectors.EVENT_WRITE)
            time.sleep(1)
            for wire in wires:
                wire.close()
    return 0


@load("idle-admin", "64 idle connections to the admin listener")
def idle_admin(target: Target, seconds: float) -> int:
    """Open connections without a request, and close the oldest ones."""
    end = time.monotonic() + seconds
    held: list[socket.socket] = []
    while time.monotonic() < end:
        with suppress(OSError):
            held = [*held[-63:], _connect(target.admin)]
        time.sleep(0.01)
    for wire in held:
        wire.close()
    return 0
