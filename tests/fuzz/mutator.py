"""A small mutator, in place of ``atheris``: it cuts, repeats, joins and changes the corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from tests.support.memory import HEADER

__all__ = ["LARGEST", "WORDS", "Mutator", "read_seeds", "stretched"]

LARGEST = 4096
# The limits of the parsers: the line before a chunk, trailers, a field line or a target, two heads.
_LIMITS = (1024, 4096, 8192, 16384, 32768)
_RUNS = (b"a", b" ", b"0", b"x:y\r\n", b"a;", b"\r\n", b"1\r\na\r\n", b"\t")
_SEEDS = Path(__file__).parent / "seeds"
WORDS = (
    HEADER, HEADER.lower(), HEADER.replace(b"-", b"_"), HEADER.replace(b"-", b"."), b"Client-Cert",
    b"SSL_CLIENT_CERT",
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\r\n ", b"\r\n\t", b" ", b"\t", b":", b": ",
    b"\0", b"\x0b", b"\x0c", b"\x1c",
    b"\x7f", b"\x85", b"\xff", b"0", b"1", b"00", b"+1", b"-1", b"0x1", b"FFFFFFFFFFFFFFFFF",
    b"18446744073709551616",
    b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding : chunked\r\n",
    b"Transfer-Encoding: identity\r\n", b"Transfer_Encoding: chunked\r\n", b"0\r\n\r\n",
    b"5\r\nabcde\r\n", b"5;x=y\r\nabcde\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: " + HEADER + b"\r\n",
    b"Connection: Host\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n",
    b"Host: as.example\r\n", b"Host: b\r\n",
    HEADER + b": EVIL\r\n", b"Trailer: " + HEADER + b"\r\n", b"TE: trailers\r\n",
    b"Vary: " + HEADER + b"\r\n",
    b"GET / HTTP/1.1\r\n", b"POST /token HTTP/1.1\r\n", b"HEAD / HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: as.example\r\n\r\n", b" HTTP/1.0", b" HTTP/2.0", b" RTSP/1.0",
    b"http://as.example/",
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n", b"HTTP/1.1 204 No\r\n", b"HTTP/1.1 304 Not\r\n",
    b"HTTP/1.1 500 " + HEADER + b"\r\n",
)  # fmt: skip
"""Tokens of the two protocols."""


def read_seeds(kind: str) -> list[bytes]:
    """Return the stored seeds for ``requests`` or ``answers``."""
    return [path.read_bytes() for path in sorted((_SEEDS / kind).iterdir())]


def stretched(data: bytes, random: Random) -> bytes:
    """Return the data with a run that ends within a few octets of a parser's limit."""
    piece = random.choice(_RUNS)
    size = random.choice(_LIMITS) + random.randint(-20, 20)
    place = random.randint(1, max(1, len(data)))
    return data[:place] + (piece * (size // len(piece) + 1))[:size] + data[place:]


class Mutator:
    """New inputs from old ones, equal for an equal seed."""

    def __init__(self, corpus: Sequence[bytes], seed: int) -> None:
        self._corpus = list(corpus)
        self._random = Random(seed)
        self._ways: tuple[Callable[[bytes], bytes], ...] = (
            self._insert, self._insert, self._replace, self._drop, self._repeat, self._join,
            self._flip, self._options,
        )  # fmt: skip

    def next(self) -> bytes:
        """Return the next input."""
        data = self._random.choice(self._corpus)
        for _ in range(self._random.randint(1, 5)):
            data = self._random.choice(self._ways)(data)
        return data[:LARGEST]

    def _place(self, data: bytes) -> int:
        return self._random.randint(1, max(1, len(data)))

    def _span(self, data: bytes) -> tuple[int, int]:
        start = self._place(data)
        return start, start + self._random.choice((1, 1, 2, 4, 16, 64))

    def _insert(self, data: bytes) -> bytes:
        place = self._place(data)
        return data[:place] + self._random.choice(WORDS) + data[place:]

    def _replace(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:start] + self._random.choice(WORDS) + data[end:]

    def _drop(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:start] + data[end:]

    def _repeat(self, data: bytes) -> bytes:
        lines = data.split(b"\r\n")
        place = self._random.randrange(len(lines))
        return b"\r\n".join([*lines[: place + 1], *lines[place:]])

    def _join(self, data: bytes) -> bytes:
        other = self._random.choice(self._corpus)
        return (
            data + other[1:]
            if self._random.random() < 0.5
            else data[: self._place(data)] + other[self._place(other) :]
        )

    def _flip(self, data: bytes) -> bytes:
        place = self._place(data)
        return data[:place] + bytes([self._random.randrange(256)]) + data[place + 1 :]

    def _options(self, data: bytes) -> bytes:
        return bytes([0x40 | self._random.randrange(64)]) + data[1:]
