"""Promises of :mod:`x509proxy.transport.tls_records`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.streams import pieces
from x509proxy.transport.tls_records import Records


def record(content: bytes) -> bytes:
    return b"\x17\x03\x03" + len(content).to_bytes(2, "big") + content


def counted(records: Records, data: bytes) -> int:
    """How many more there are."""
    before = records.ready
    records.feed(data)
    return records.ready - before


class Counting(SynchronousTestCase):
    def test_whole(self) -> None:
        """As many as end in the piece: none, one, several."""
        records = Records()
        for data, expected in (
            (record(b"abc"), 1),
            (b"", 0),
            (record(b"a") * 3, 3),
            (record(b""), 1),
            (record(bytes(16640)), 1),
        ):
            self.assertEqual(expected, counted(records, data), len(data))

    def test_in_pieces(self) -> None:
        """A record counts when its last octet comes."""
        records = Records()
        self.assertEqual([0, 0, 1, 0, 2], [counted(records, data) for data in (
            b"\x17\x03", b"\x03\x00\x02a", b"b\x17\x03\x03\x01", b"\x00", bytes(256) + record(b"x")
        )])  # fmt: skip

    @given(st.lists(st.integers(0, 700), max_size=6), st.lists(st.integers(0, 5000), max_size=12))
    def test_any_cut(self, sizes: list[int], cuts: list[int]) -> None:
        """Wherever it is cut, each piece has those that end in it."""
        data, ends = b"", []
        for size in sizes:
            data += record(bytes(size))
            ends.append(len(data))
        records, place = Records(), 0
        for piece in pieces(data, cuts):
            before, place = place, place + len(piece)
            self.assertEqual(sum(before < end <= place for end in ends), counted(records, piece))
