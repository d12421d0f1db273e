"""Promises of :mod:`x509proxy.knownheads`, and of the reader: a head that is known is read as the parser reads it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests import feeds
from tests.feeds import Event, chunked, joined, pieces, post, request
from x509proxy import reader as room
from x509proxy.head import Body, RequestHead
from x509proxy.knownheads import KnownHeads, known_heads
from x509proxy.message import Stage
from x509proxy.reader import RequestReader
from x509proxy.settings import ClientSettings

HEAD = RequestHead(b"GET", b"/", "1.1", (), b"a", Body.NONE)
REQUESTS = [
    request(), request(b"X: y\r\n"), post(b"Content-Length: 5\r\n", b"abcde"), post(b"Content-Length: 0\r\n"),
    chunked(b"0\r\n\r\n"), chunked(b"3\r\nabc\r\n0\r\n\r\n"), request(b"Connection: close\r\n"),
    post(b"Content-Length: 2\r\nConnection: close\r\n", b"\r\n"),
    request(b"Upgrade: h2c\r\nConnection: Upgrade\r\n"), request(b"Bad Name: x\r\n"), request(line=b"GET / HTTP/1.0"),
    post(b"Expect: 100-continue\r\nContent-Length: 1\r\n", b"x"), request(b"X_Y: z\r\n"), post(b"Content-Length: 9999999\r\n"),
    b"\r\n" + request(),
]  # fmt: skip


class Table(SynchronousTestCase):
    def test_found(self) -> None:
        """What was added is found, wherever it stands in the data, with the place behind it."""
        known = KnownHeads()
        known.add(b"one\r\n\r\n", HEAD)
        self.assertEqual((HEAD, 7), known.find(b"one\r\n\r\nrest", 0))
        self.assertEqual((HEAD, 9), known.find(b"xyone\r\n\r\nrest", 2))

    def test_not_found(self) -> None:
        """What differs in one octet, or is not complete, is not found."""
        known = KnownHeads()
        known.add(b"one\r\n\r\n", HEAD)
        for data in (b"onE\r\n\r\n", b"one\r\n\r", b"one", b"", b" one\r\n\r\n"):
            self.assertIs(None, known.find(data, 0)[0], data)
        self.assertEqual((None, 7), known.find(b"one\r\n\r\n", 7))

    def test_bounds(self) -> None:
        """Large heads are not kept, chunked ones and those with secrets neither, and of many only so many."""
        known = KnownHeads()
        for name in (b"Authorization", b"cookie", b"DPoP", b"proxy-authorization"):
            known.add(b"GET / HTTP/1.1\r\nHost: a\r\n" + name + b": x\r\n\r\n", HEAD)
        known.add(b"x" * 4093 + b"\r\n\r\n", HEAD)
        known.add(b"chunked\r\n\r\n", RequestHead(b"POST", b"/", "1.1", (), b"a", Body.CHUNKED))
        self.assertEqual({}, known._heads)
        for number in range(2000):
            known.add(b"%d\r\n\r\n" % number, HEAD)
        self.assertLessEqual(len(known._heads), 512)
        self.assertIs(HEAD, known.find(b"1999\r\n\r\n", 0)[0])

    def test_limits(self) -> None:
        """Other limits are another table: what was read within some may be too much for others."""
        self.assertIs(known_heads(ClientSettings()), known_heads(ClientSettings()))
        self.assertIsNot(known_heads(ClientSettings()), known_heads(ClientSettings(fields=99)))


class Alike(SynchronousTestCase):
    def read(self, data: list[bytes], known: KnownHeads) -> tuple[list[Event], bool, Stage]:
        """The events, and how the reader stands afterwards."""
        patch: Any = self.patch(room, "known_heads", lambda _: known)
        reader = RequestReader(ClientSettings())
        patch.restore()
        return joined(feeds.feed(data, reader)), reader.dead, reader.stage

    @given(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=5), st.lists(st.integers(0, 2000), max_size=4))
    def test_alike(self, requests: list[bytes], cuts: list[int]) -> None:
        """Whatever is sent, however it is cut: with all heads known the events are those of a reader that knows none."""
        data = b"".join(requests)
        full = KnownHeads()
        for one in REQUESTS:
            self.read([one], full)
        expected = self.read(list(pieces(data, cuts)), KnownHeads())
        self.assertEqual(expected, self.read(list(pieces(data, cuts)), full))
        self.assertEqual(expected, self.read([data], full))

    def test_what_is_kept(self) -> None:
        """Whole heads alone are kept, without a body, and none that was refused, upgraded, or came in pieces."""
        full = KnownHeads()
        for one in REQUESTS:
            self.read([one], full)
        heads = {one.partition(b"\r\n\r\n")[0].lstrip(b"\r\n") + b"\r\n\r\n" for one in REQUESTS}
        kept = set(full._heads)
        self.assertLessEqual(kept, heads)
        self.assertEqual(9, len(kept), kept)
        pieced = KnownHeads()
        self.read([b"GET / HTTP/1.1\r\nHo", b"st: a\r\n\r\n"], pieced)
        self.assertEqual({}, pieced._heads)

    def test_behind_half_a_line(self) -> None:
        """A head that is known is none of its own where half a request line stands before it."""
        known = KnownHeads()
        self.read([request()], known)
        events, dead, _ = self.read([b"POST /x", request()], known)
        self.assertEqual(([400], True), ([getattr(event, "status", event) for event in events], dead))

    def test_parser_is_spared(self) -> None:
        """The second time, the parser sees nothing of it."""
        known = KnownHeads()
        self.read([REQUESTS[2]], known)
        self.patch(room.RequestReader, "_feed_piece", lambda *_: 1 / 0)
        events, dead, stage = self.read([REQUESTS[2]], known)
        self.assertEqual((3, False, Stage.IDLE), (len(events), dead, stage))
