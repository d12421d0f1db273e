"""Tests of :mod:`x509proxy.transport.tls_records`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.streams import pieces
from x509proxy.transport.tls_records import IncomingRecords

ALL = 1 << 20


def record(content: bytes) -> bytes:
    return b"\x17\x03\x03" + len(content).to_bytes(2, "big") + content


def counted(records: IncomingRecords, data: bytes) -> int:
    """Return the number of records that end in the piece, which is taken whole."""
    taken, count = records.take(data, ALL, ALL)
    assert taken == data
    return count


class Counting(SynchronousTestCase):
    def test_whole(self) -> None:
        """As many as end in the piece: none, one, several."""
        records = IncomingRecords()
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
        records = IncomingRecords()
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
        records, place = IncomingRecords(), 0
        for piece in pieces(data, cuts):
            before, place = place, place + len(piece)
            self.assertEqual(sum(before < end <= place for end in ends), counted(records, piece))


class Sharing(SynchronousTestCase):
    def test_records(self) -> None:
        """No more records are taken than wanted; the rest stays, also an incomplete one."""
        records = IncomingRecords()
        data = record(b"1") + record(b"22") + record(b"333")
        self.assertEqual((record(b"1") + record(b"22"), 2), records.take(data, 2, ALL))
        self.assertEqual(record(b"333"), records.waiting)
        rest = record(b"4444")[:-1]
        self.assertEqual((record(b"333") + rest, 1), records.take(rest, 2, ALL))
        self.assertEqual(b"", records.waiting)
        self.assertEqual(1, counted(records, b"4"))

    def test_octets(self) -> None:
        """No more octets are taken than asked for, wherever that is in a record."""
        data = record(b"1") + record(b"22")
        for size in range(1, len(data)):
            records = IncomingRecords()
            taken, count = records.take(data, ALL, size)
            while records.waiting:
                piece, ended = records.take(b"", ALL, size)
                self.assertLessEqual(len(piece), size)
                taken, count = taken + piece, count + ended
            self.assertEqual((data, 2), (taken, count))

    @given(
        st.lists(st.integers(0, 90), max_size=9),
        st.lists(st.tuples(st.integers(1, 3), st.integers(1, 120)), min_size=1, max_size=9),
    )
    def test_any_share(self, sizes: list[int], shares: list[tuple[int, int]]) -> None:
        """With any shares all octets come in order, and each record is counted once."""
        data = b"".join(record(bytes([number]) * size) for number, size in enumerate(sizes))
        records = IncomingRecords()
        records.waiting = data
        taken, count = b"", 0
        for turn in range(1000):
            if not records.waiting:
                break
            most, octets = shares[turn % len(shares)]
            piece, ended = records.take(b"", most, octets)
            self.assertLessEqual(ended, most)
            taken, count = taken + piece, count + ended
        self.assertEqual((data, len(sizes)), (taken, count))
