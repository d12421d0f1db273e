"""The subject ``bare``: the least CPython that does the job, a lower bound for proxies in Python.

One loop over epoll, the interpreter's ``ssl`` module, one regular expression for a head. It has no
limits, no deadlines, no error responses and no access log, and holds a message in memory as a
whole. It is not a proxy to use.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import sys
from base64 import b64encode
from pathlib import Path

__all__ = ["forged_fields", "main", "whole_head"]

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


def whole_head(received: bytes) -> int:
    """Return the end of the head, once the message is complete; 0 before that."""
    end = received.find(b"\r\n\r\n") + 4
    if end < 4:
        return 0
    length = _LENGTH.search(received, 0, end)
    return end if len(received) - end >= (int(length[1]) if length else 0) else 0


def forged_fields(name: bytes) -> re.Pattern[bytes]:
    """Return an expression for fields of this name, also with ``_`` for ``-``."""
    pattern = re.escape(name).replace(rb"\-", rb"[-_]")
    return re.compile(rb"\r\n%b:[^\r]*" % pattern, re.IGNORECASE)


class Side:
    """A connection of either kind. ``peer``: the other side of the current exchange."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.peer: Side | None = None
        self.header = b""
        self.secured = False

    def handshake(self, name: bytes) -> None:
        """Continue the handshake, and keep the client's certificate as a header field."""
        assert isinstance(self.sock, ssl.SSLSocket)
        self.sock.do_handshake()
        self.secured = True
        if certificate := self.sock.getpeercert(binary_form=True):
            self.header = b"\r\n%b: %b" % (name, b64encode(certificate))


class Loop:
    """Listener and relay in one loop. ``name``: of the header with the certificate."""

    def __init__(self, port: int, back_end: int, folder: Path) -> None:
        self._name = (folder / "header.txt").read_bytes().strip()
        self._forged = forged_fields(self._name)
        self._back_end = ("127.0.0.1", back_end)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.num_tickets = 0
        self._context.load_cert_chain(folder / "server.pem", folder / "server.key")
        # The module cannot accept any certificate: the one of the benchmark is its own authority.
        self._context.load_verify_locations(folder / "client.pem")
        self._context.verify_mode = ssl.CERT_OPTIONAL
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._listener.settimeout(0.0)
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._sides: dict[int, Side] = {}
        self._idle: list[Side] = []  # connections to the back end that wait for a request

    def run(self) -> None:
        """Serve until a signal arrives."""
        listening = self._listener.fileno()
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == listening:
                    self._accept()
                elif side := self._sides.get(descriptor):
                    self._readable(side)

    def _accept(self) -> None:
        try:
            plain, _ = self._listener.accept()
        except BlockingIOError:
            return
        plain.settimeout(0.0)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._add(self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False))

    def _add(self, sock: socket.socket) -> Side:
        side = self._sides[sock.fileno()] = Side(sock)
        self._poll.register(sock, select.EPOLLIN)
        return side

    def _drop(self, side: Side) -> None:
        del self._sides[side.sock.fileno()]
        if side in self._idle:
            self._idle.remove(side)
        side.sock.close()

    def _readable(self, side: Side) -> None:
        try:
            if isinstance(side.sock, ssl.SSLSocket) and not side.secured:
                side.handshake(self._name)
            data = side.sock.recv(65536)
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        except OSError:
            data = b""
        if not data:
            self._drop(side)
            return
        side.received += data
        if end := whole_head(side.received):
            message, side.received = side.received, b""
            self._relay(side, message, end)

    def _relay(self, side: Side, message: bytes, end: int) -> None:
        if isinstance(side.sock, ssl.SSLSocket):
            back = self._idle.pop() if self._idle else self._connect()
            back.peer = side
            head = self._forged.sub(b"", message[: end - 4]) + side.header
            address = b"\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
            back.sock.send(head + address + message[end:])
        elif side.peer:
            client, side.peer = side.peer, None
            self._idle.append(side)
            if client.sock.fileno() >= 0:
                client.sock.send(message)

    def _connect(self) -> Side:
        sock = socket.create_connection(self._back_end)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(0.0)
        return self._add(sock)


def main(port: int, back_end: int, folder: Path) -> None:
    """Serve until a signal arrives."""
    Loop(port, back_end, folder).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
