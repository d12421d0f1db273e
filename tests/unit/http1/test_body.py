"""Tests of :mod:`x509proxy.http1.body`.

A chunked body is parsed in one way, within limits, or rejected.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.streams import CUTS, pieces, single_bytes
from x509proxy.http1.body import (
    LAST_CHUNK,
    BodyTooLarge,
    ChunkDecoder,
    MalformedBody,
    write_chunk,
)

TCHARS = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def decode(feeds: Iterable[bytes], limit: int = sys.maxsize) -> tuple[bytes, bytes, bool]:
    """Return the body, what is left, and whether the end has been read."""
    decoder, found, rest = ChunkDecoder(limit), list[bytes](), b""
    for data in feeds:
        rest = rest + data if decoder.done else decoder.decode(data, found)
    return b"".join(found), rest, decoder.done


class DecoderTestCase(SynchronousTestCase):
    def expect(self, body: bytes, data: bytes, rest: bytes = b"") -> None:
        for feeds in ([data + rest], single_bytes(data + rest), [data, rest]):
            self.assertEqual((body, rest, True), decode(feeds), data[:80])

    def expect_malformed(self, data: bytes) -> None:
        """At once, whole and octet by octet: what follows cannot mend it."""
        for feeds in ([data], list(single_bytes(data))):
            self.assertRaises(MalformedBody, decode, feeds)

    def octets(self, template: bytes) -> frozenset[int]:
        """Those that may stand in the place of ``@``."""
        found = set()
        for octet in range(256):
            try:
                found.add(octet) if decode([template.replace(b"@", bytes([octet]))])[2] else None
            except MalformedBody:
                continue
        return frozenset(found)


class Chunks(DecoderTestCase):
    def test_sizes(self) -> None:
        """A size is one to sixteen hexadecimal digits, in any case, with leading zeros.

        See RFC 9112 section 7.1.
        """
        for size in (b"a", b"A", b"0a", b"0" * 15 + b"A"):
            self.expect(b"0123456789", size + b"\r\n0123456789\r\n0\r\n\r\n")
        self.expect(b"", b"0" * 16 + b"\r\n\r\n")
        for size in (
            b"",
            b" a",
            b"a ",
            b"+a",
            b"-a",
            b"0xa",
            b"a_",
            b"g",
            b"0" * 16 + b"A",
            b"a\t",
            b"a\0",
        ):
            self.expect_malformed(size + b"\r\n0123456789\r\n0\r\n\r\n")

    def test_line_ends(self) -> None:
        """Each line, and each chunk's data, ends in CRLF."""
        whole = b"2\r\nab\r\n1;x\r\nc\r\n0\r\nX: y\r\n\r\n"
        self.expect(b"abc", whole, b"GET")
        for place, octet in enumerate(whole):
            if octet in b"\r\n":
                for other in (b"", b"\0", b" ", b"\n\n", b"\r\r"):
                    changed = whole[:place] + other + whole[place + 1 :]
                    if not changed.startswith(whole):
                        self.expect_malformed(changed + b"X: y\r\n\r\n\r\n")

    def test_data(self) -> None:
        """Data is exactly as long as its size, and may be anything."""
        self.expect(b"\r\n0\r\n\r\n", b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n")
        for data in (b"2\r\nabc\r\n0\r\n\r\n", b"3\r\nab\r\n0\r\n\r\n"):
            self.expect_malformed(data)

    def test_rest(self) -> None:
        """Octets behind the end are returned unchanged."""
        for rest in (b"GET / HTTP/1.1\r\n", b"\r\n", b"\0"):
            self.expect(b"a", b"1\r\na\r\n0\r\n\r\n", rest)

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.binary(min_size=1, max_size=20), max_size=5), CUTS)
    def test_round_trip(self, chunks: Sequence[bytes], cuts: Sequence[int]) -> None:
        """Written chunks are read back, however they are cut."""
        data = b"".join(map(write_chunk, chunks)) + LAST_CHUNK
        self.assertEqual((b"".join(chunks), b"", True), decode(pieces(data, cuts)))


class Extensions(DecoderTestCase):
    def test_accepted(self) -> None:
        """Names have a token, a quoted string or nothing, and no white space.

        See RFC 9112 section 7.1.1.
        """
        for extension in (
            b";a", b";a;b", b";a=b", b';a=""', b';a="b c;\\"\t\\\\"', b";a=b;c=\"d\";e",
        ):  # fmt: skip
            self.expect(b"a", b"1" + extension + b"\r\na\r\n0" + extension + b"\r\n\r\n")

    def test_malformed(self) -> None:
        """Anything else is malformed."""
        for extension in (
            b";", b";;", b" ;a", b"; a", b";a ", b";a =b", b";a= b", b";a=", b';a="', b';a="\\"',
            b';a="b"c', b';a="\r\n"',
            b";a=b c", b"=a", b";a\n", b";a\rb", b";a\0", b";a=\x80", b';a="\x80"', b";a,b",
        ):  # fmt: skip
            self.expect_malformed(b"1" + extension + b"\r\na\r\n0\r\n\r\n")

    def test_octets(self) -> None:
        """Names and values are tokens; a quoted string has text with its own marks escaped."""
        self.assertEqual(TCHARS | {ord(";"), ord("=")}, self.octets(b"1;a@b\r\na\r\n0\r\n\r\n"))
        self.assertEqual(TCHARS | {ord(";")}, self.octets(b"1;a=c@b\r\na\r\n0\r\n\r\n"))
        text = {9, *range(0x20, 0x7F)}
        self.assertEqual(text - set(b'"\\'), self.octets(b'1;a="@"\r\na\r\n0\r\n\r\n'))
        self.assertEqual(text, self.octets(b'1;a="\\@"\r\na\r\n0\r\n\r\n'))

    def test_length(self) -> None:
        """A line before a chunk has at most 1024 octets, with its line ends in any pieces."""
        first = b"1;" + b"x" * 1020 + b"\r\n"
        self.assertEqual(1024, len(first))
        self.expect(b"a", first + b"a\r\n0\r\n\r\n")
        self.expect(b"ab", b"1\r\na\r\n1;" + b"x" * 1018 + b"\r\nb\r\n0\r\n\r\n")
        self.expect_malformed(b"1;" + b"x" * 1021 + b"\r\na\r\n0\r\n\r\n")
        self.expect_malformed(b"1;" + b"x" * 1022)
        self.expect_malformed(b"1\r\na\r\n1;" + b"x" * 1019 + b"\r\nb\r\n0\r\n\r\n")


class Trailers(DecoderTestCase):
    def test_dropped(self) -> None:
        """Trailer fields are checked and dropped."""
        for trailer in (b"X: y\r\n", b"X:\r\nY: z\r\n", b"Host: evil\r\n", b"X: caf\xe9\r\n"):
            self.expect(b"", b"0\r\n" + trailer + b"\r\n", b"GET")

    def test_malformed(self) -> None:
        """They have the form of header fields (RFC 9112 section 7.1.2)."""
        for trailer in (
            b"X : y",
            b" X: y",
            b": y",
            b"X",
            b"X: \0",
            b"X: y\r\n z",
            b"X: y\n",
            b"X: y\rz",
            b"X\x80: y",
        ):
            self.expect_malformed(b"0\r\n" + trailer + b"\r\n\r\n")

    def test_framing(self) -> None:
        """Fields that frame the message, or end the connection, are no trailers.

        See RFC 9110 section 6.5.1.
        """
        for name in (b"Content-Length", b"transfer-encoding", b"CONNECTION"):
            self.expect_malformed(b"0\r\nX: y\r\n" + name + b": 1\r\n\r\n")
            error = self.assertRaises(MalformedBody, decode, [b"0\r\n" + name + b": 1\r\n\r\n"])
            self.assertEqual(f"{name.decode().lower()} in a trailer", str(error))

    def test_size(self) -> None:
        """The trailer section has at most 4096 octets, in one line or in many."""
        for line in (b"X: y\r\n", b"X:" + b"y" * 96 + b"\r\n", b"X:" + b"y" * 4090 + b"\r\n"):
            count = (4096 - 2) // len(line)
            self.expect(b"", b"0\r\n" + line * count + b"\r\n")
            self.expect_malformed(b"0\r\n" + line * (count + 2))
        self.expect_malformed(b"0\r\nX:" + b"y" * 4095)


class Limits(DecoderTestCase):
    def test_body(self) -> None:
        """A chunk above the limit is rejected when its size is parsed.

        The chunks before it have been returned.
        """
        data = b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        self.assertEqual((b"abc", b"", True), decode([data], 3))
        found: list[bytes] = []
        self.assertRaises(BodyTooLarge, ChunkDecoder(2).decode, data, found)
        self.assertEqual([b"ab"], found)
        self.assertRaises(BodyTooLarge, ChunkDecoder(2).decode, b"ffffffffffffffff\r\n", found)

    def test_overhead(self) -> None:
        """Framing may have 16 KiB, and eight octets more for each of the body.

        See Go CVE-2023-39326.
        """
        line = b"1;" + b"x" * 96 + b"\r\na\r\n"
        decoder, found = ChunkDecoder(sys.maxsize), list[bytes]()
        count = 0
        with self.assertRaises(MalformedBody):
            while True:
                decoder.decode(line, found)
                count += 1
        # The first line is 100 octets, each other one 102 with the line end before it.
        self.assertEqual((16384 + 2) // (102 - 8), count)
        large = b"%x\r\n%b\r\n" % (1000, b"a" * 1000)
        self.expect(b"a" * 1000 + b"a" * 200, large + line * 200 + b"0\r\n\r\n")

    def test_one_octet(self) -> None:
        """A back end's chunks of one octet are within it, however many there are."""
        self.expect(b"a" * 3000, b"1\r\na\r\n" * 3000 + b"0\r\n\r\n")

    def test_small_chunks(self) -> None:
        """A body may have a number of chunks of any size, and one more for each 64 octets."""
        small, end = b"1\r\na\r\n", b"0\r\n\r\n"
        for chunks, most in (
            (small * 9 + end, 10),
            (b"40\r\n%b\r\n" % (b"a" * 64) + small * 9 + end, 10),
            (small * 63 + b"41\r\n%b\r\n" % (b"a" * 65) + end, 63),
        ):
            decoder = ChunkDecoder(sys.maxsize, most)
            decoder.decode(chunks, [])
            self.assertTrue(decoder.done)
            fewer = ChunkDecoder(sys.maxsize, most - 1)
            error = self.assertRaises(MalformedBody, fewer.decode, chunks, [])
            self.assertEqual("too many small chunks", str(error))

    def test_chunks_of_64_octets(self) -> None:
        """Chunks of 64 octets may be as many as the body's limit permits."""
        chunk = b"40\r\n%b\r\n" % (b"a" * 64)
        decoder = ChunkDecoder(sys.maxsize, 1)
        decoder.decode(chunk * 5000 + b"0\r\n\r\n", [])
        self.assertTrue(decoder.done)
