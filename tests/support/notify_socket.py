"""The socket on which systemd receives notifications."""

from __future__ import annotations

import secrets
import socket


class NotifySocket:
    """The receiving socket, in the kernel's abstract namespace."""

    def __init__(self, name: str = "") -> None:
        self.name = name or f"@x509proxy-{secrets.token_hex(8)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(self.name.replace("@", "\0", 1))

    def heard(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        while True:
            try:
                text = self._socket.recv(4096).decode()
            except BlockingIOError:
                return found
            found.append(dict(line.split("=", 1) for line in text.split("\n")))

    def close(self) -> None:
        self._socket.close()
