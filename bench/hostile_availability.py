"""Hostile loads on shared resources: connections, the reactor's turns, the admin listener.

``bench.hostile`` registers them, and runs them with its own.
"""

from __future__ import annotations

import select
import selectors
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import repeat

from bench.hostile import Target, client_context, load

__all__ = [
    "bursts",
    "idle_admin",
    "ligature_paths",
    "octet_chunks",
    "resets",
    "silent",
    "stuck_readers",
]


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


@load("silent", "4,200 connections without an octet, each replaced after it is cut")
def silent(target: Target, seconds: float) -> int:
    """Hold connections that send nothing."""
    end = time.monotonic() + seconds
    held: list[socket.socket] = []
    while time.monotonic() < end:
        with suppress(OSError):
            while len(held) < 4200 and time.monotonic() < end:
                held.append(_connect(target.port))
        ended = {*_ended(held)}
        for wire in ended:
            wire.close()
        held = [wire for wire in held if wire not in ended]
        time.sleep(0.05)
    for wire in held:
        wire.close()
    return 0


def _ended(wires: list[socket.socket]) -> Iterator[socket.socket]:
    """Yield the connections that have something to read: their end, since nothing was asked."""
    poll = select.poll()
    by_number = {wire.fileno(): wire for wire in wires}
    for number in by_number:
        poll.register(number, select.POLLIN)
    for number, _ in poll.poll(0):
        yield by_number[number]


@load("resets", "connections that one process opens and resets as fast as it can")
def resets(target: Target, seconds: float) -> int:
    """Open connections and reset them before an octet is sent."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError):
            wire = _connect(target.port)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wire.close()
    return 0


_CHUNKED = b"POST /token HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@load("octet-chunks", "50 clients that send bodies in chunks of one octet")
def octet_chunks(target: Target, seconds: float) -> int:
    """Send chunks of one octet for as long as they are taken."""
    return _flood(target, seconds, 50, _CHUNKED, b"1\r\nx\r\n" * 2730)


# U+FDFA, escaped: NFKC makes 18 characters of it.
_LIGATURES = b"GET /" + b"%EF%B7%BA" * 880 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"


@load("ligature-paths", "50 clients that ask for a path of 880 times U+FDFA")
def ligature_paths(target: Target, seconds: float) -> int:
    """Send requests with long paths that are costly to normalize."""
    return _flood(target, seconds, 50, b"", _LIGATURES)


def _flood(target: Target, seconds: float, clients: int, first: bytes, piece: bytes) -> int:
    """Send ``first`` once and ``piece`` again and again from each client; return the octets."""
    end, sent = time.monotonic() + seconds, 0
    context = client_context(target)
    held: list[ssl.SSLSocket] = []
    while time.monotonic() < end:
        for _ in repeat(None, clients - len(held)):
            with suppress(OSError):
                wire = context.wrap_socket(_connect(target.port))
                wire.settimeout(0)
                held.append(wire)
                sent += wire.send(first)
        going = []
        for wire in held:
            try:
                sent += _exchange(wire, piece)
                going.append(wire)
            except OSError:
                wire.close()
        held = going
    for wire in held:
        wire.close()
    return sent


def _exchange(wire: ssl.SSLSocket, piece: bytes) -> int:
    """Send as much of a piece as is taken, and drop what has arrived.

    :raises OSError: the connection has ended.
    """
    with suppress(ssl.SSLWantReadError):
        if not wire.recv(65536):
            raise ConnectionError("the connection was cut")
    with suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
        return wire.send(piece)
    return 0
