"""A back end that receives and sends bodies of any size, in blocks with a checksum."""

from __future__ import annotations

import os
import socketserver
import zlib
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20


# A pattern that a compressor, or a shifted buffer, would change.
BLOCK = os.urandom(MIB - 1) + b"\n"


def blocks(count: int) -> Iterator[bytes]:
    return (BLOCK for _ in range(count))


def checksum(pieces: Iterator[bytes]) -> tuple[int, int]:
    """Return the number of bytes and their checksum."""
    size = crc = 0
    for piece in pieces:
        size, crc = size + len(piece), zlib.crc32(piece, crc)
    return size, crc


class BulkHandler(socketserver.StreamRequestHandler):
    """Responds to ``POST`` with the checksum of the body, and to ``GET /N`` with N blocks.

    The response is framed by ``Content-Length``.
    """

    def handle(self) -> None:
        while line := self.rfile.readline():
            fields = dict(
                field.strip().lower().split(b": ", 1)
                for field in iter(self.rfile.readline, b"\r\n")
            )
            method, target, _ = line.split(b" ")
            if method == b"POST":
                self.answer_checksum(fields)
            else:
                count = int(target[1:])
                self.wfile.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (count * len(BLOCK))
                )
                for block in blocks(count):
                    self.wfile.write(block)

    def answer_checksum(self, fields: dict[bytes, bytes]) -> None:
        body = (
            self.chunks()
            if b"transfer-encoding" in fields
            else self.pieces(int(fields[b"content-length"]))
        )
        answer = b"%d %d" % checksum(body)
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))

    def pieces(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self.rfile.read(min(size, 65536))
            size -= len(piece)
            yield piece

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield from self.pieces(size)
            self.rfile.readline()
        self.rfile.readline()


class BulkServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


def high_water(pid: int) -> int:
    """Return the largest resident size that a process has had, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) >> 10
