"""Promises of :mod:`x509proxy.http1.head_cache`, and of the reader: a head that is known is read as the parser reads it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import attrs
import httptools
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support import streams as feeds
from tests.support.streams import Event, chunked, joined, pieces, post, request
from tests.unit.http1.test_response_parser import (
    GOOD_ANSWERS,
    HOSTILE_BODIES,
    HOSTILE_HEADS,
    TRUNCATED,
    UPSTREAM,
    answer,
    respond,
)
from x509proxy.forwarding.client import Client, Hop
from x509proxy.forwarding.forwarded_fields import forward
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.forwarding.presets import PRESETS
from x509proxy.forwarding.sanitizer import sanitize_request, sanitize_response
from x509proxy.http1 import request_parser as room
from x509proxy.http1.head_cache import KnownHeads, known_answers, known_heads
from x509proxy.http1.messages import Framing, RequestHead, ResponseHead
from x509proxy.http1.parser import ParserState
from x509proxy.http1.request_parser import RequestParser
from x509proxy.http1.response_parser import ResponseParser
from x509proxy.settings import ClientSettings, PolicySettings, UpstreamSettings

HEAD = RequestHead(b"GET", b"/", "1.1", (), b"a", Framing.NONE)
REQUESTS = [
    request(), request(b"X: y\r\n"), post(b"Content-Length: 5\r\n", b"abcde"), post(b"Content-Length: 0\r\n"),
    chunked(b"0\r\n\r\n"), chunked(b"3\r\nabc\r\n0\r\n\r\n"), request(b"Connection: close\r\n"),
    post(b"Content-Length: 2\r\nConnection: close\r\n", b"\r\n"),
    request(b"Upgrade: h2c\r\nConnection: Upgrade\r\n"), request(b"Bad Name: x\r\n"), request(line=b"GET / HTTP/1.0"),
    post(b"Expect: 100-continue\r\nContent-Length: 1\r\n", b"x"), request(b"X_Y: z\r\n"), post(b"Content-Length: 9999999\r\n"),
    b"\r\n" + request(),
]  # fmt: skip


def largest(start: bytes) -> bytes:
    """As large a head as is kept, with as many fields, no two alike; so large that what is written for it is still kept."""
    size = (3800 - len(start)) // 99
    return (
        start
        + b"".join(b"X%d: %b\r\n" % (number, b"x" * (size - 7)) for number in range(10, 108))
        + b"\r\n"
    )


class Table(SynchronousTestCase):
    def test_found(self) -> None:
        """What was added is found, wherever it stands in the data, with the place behind it."""
        known: KnownHeads[RequestHead] = KnownHeads()
        known.add(b"one\r\n\r\n", HEAD)
        self.assertEqual((HEAD, 7), known.find(b"one\r\n\r\nrest", 0))
        self.assertEqual((HEAD, 9), known.find(b"xyone\r\n\r\nrest", 2))

    def test_not_found(self) -> None:
        """What differs in one octet, or is not complete, is not found."""
        known: KnownHeads[RequestHead] = KnownHeads()
        known.add(b"one\r\n\r\n", HEAD)
        for data in (b"onE\r\n\r\n", b"one\r\n\r", b"one", b"", b" one\r\n\r\n"):
            self.assertIs(None, known.find(data, 0)[0], data)
        self.assertEqual((None, 7), known.find(b"one\r\n\r\n", 7))

    def test_bounds(self) -> None:
        """Large heads are not kept, chunked ones and those with secrets neither, and of many only so many."""
        known: KnownHeads[RequestHead] = KnownHeads()
        for name in (
            b"Authorization", b"cookie", b"DPoP", b"proxy-authorization", b"Set-Cookie", b"Location", b"content-location",
            b"Authentication-Info", b"Proxy-Authentication-Info", b"X-Api-Key", b"X-Auth-Token", b"X-CSRF-Token", b"Referer",
            b"X-Client-Secret", b"PASSWORD", b"X-Passwd", b"DPoP-Nonce", b"OAuth-Client-Attestation", b"X-Session", b"X-JWT",
        ):  # fmt: skip
            for rest in (b": x\r\n\r\n", b":\r\nA: b\r\n\r\n"):
                known.add(b"GET / HTTP/1.1\r\nHost: a\r\n" + name + rest, HEAD)
        for target in (b"/userinfo?access_token=hush", b"/?", b"http://a?code=hush"):
            known.add(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n", HEAD)
        known.add(b"x" * 4093 + b"\r\n\r\n", HEAD)
        known.add(b"chunked\r\n\r\n", RequestHead(b"POST", b"/", "1.1", (), b"a", Framing.CHUNKED))
        self.assertEqual({}, known._heads)
        for number in range(2000):
            known.add(b"%d\r\n\r\n" % number, HEAD)
        self.assertLessEqual(len(known._heads), 512)
        self.assertIs(HEAD, known.find(b"1999\r\n\r\n", 0)[0])

    def test_harmless(self) -> None:
        """What clients and servers send all the time is kept, and so is what merely quotes such a word."""
        known: KnownHeads[RequestHead] = KnownHeads()
        fields = (
            b"Host: a?b", b"Accept: application/json", b"User-Agent: secret/1.0 (?)", b"Content-Type: text/html",
            b"Keep-Alive: 5", b"Accept-Encoding: gzip", b"Cache-Control: no-store", b"ETag: token", b"Origin: https://a/?b",
            b"Vary: Cookie",
        )  # fmt: skip
        for line in (b"GET / HTTP/1.1", b"POST /token HTTP/1.1", b"HTTP/1.1 200 What?"):
            known.add(b"\r\n".join([line, *fields, b"", b""]), HEAD)
        self.assertEqual(3, len(known._heads))

    def test_fields(self) -> None:
        """A head of very many small fields is not kept: as values they take many times what they take as octets."""
        known: KnownHeads[RequestHead] = KnownHeads()
        for count, kept in ((101, 0), (100, 1)):
            pairs = ((b"A", b"b"),) * count
            known.add(b"x%d\r\n\r\n" % count, attrs.evolve(HEAD, pairs=pairs))
            self.assertEqual(kept, len(known._heads))

    def test_memory(self) -> None:
        """Full of the largest heads, each with all that is ever found out about it, a table is as large as it says."""
        known: KnownHeads[RequestHead] = KnownHeads()
        self.patch(room, "known_heads", lambda _: known)
        clients = [Client(Hop(f"192.0.2.{number}")) for number in range(9)]
        rules = HeaderRules.for_preset(PRESETS["connect2id"], b"Quiet-Harbour-" + b"9" * 20)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(512):
            [head, *_] = RequestParser(ClientSettings()).feed(
                largest(b"GET /%d HTTP/1.1\r\nHost: a\r\n" % number)
            )
            assert isinstance(head, RequestHead)
            for client in clients:
                forward(
                    sanitize_request(head, rules)[0], head, client, rules, PolicySettings(), 0.0
                )
            self.assertEqual(4, len(head.told))
        self.assertEqual(512, len(known._heads))
        self.assertLess(tracemalloc.get_traced_memory()[0], 24 * 2**20)

    def test_memory_for_answers(self) -> None:
        """So is one of answers."""
        known: KnownHeads[ResponseHead] = KnownHeads()
        rules = HeaderRules.for_preset(PRESETS["connect2id"], b"Quiet-Harbour-" + b"9" * 20)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(512):
            start = b"HTTP/1.1 200 OK%d\r\nContent-Length: 0\r\n" % number
            [head, *_] = ResponseParser(b"GET", UPSTREAM, known).feed(largest(start))
            assert isinstance(head, ResponseHead)
            self.assertGreater(len(sanitize_response(head, rules)[1].written), 3000)
        self.assertEqual(512, len(known._heads))
        self.assertLess(tracemalloc.get_traced_memory()[0], 24 * 2**20)

    def test_limits(self) -> None:
        """Other limits are another table: what was read within some may be too much for others."""
        self.assertIs(known_heads(ClientSettings()), known_heads(ClientSettings()))
        self.assertIsNot(
            known_heads(ClientSettings()), known_heads(ClientSettings(max_header_fields=99))
        )
        self.assertIs(known_answers(UpstreamSettings()), known_answers(UpstreamSettings()))
        self.assertIsNot(
            known_answers(UpstreamSettings()), known_answers(UpstreamSettings(max_header_fields=99))
        )


class Alike(SynchronousTestCase):
    def read(
        self, data: list[bytes], known: KnownHeads[RequestHead]
    ) -> tuple[list[Event], bool, ParserState]:
        """The events, and how the reader stands afterwards."""
        patch: Any = self.patch(room, "known_heads", lambda _: known)
        reader = RequestParser(ClientSettings())
        patch.restore()
        return joined(feeds.feed(data, reader)), reader.dead, reader.stage

    @given(
        st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=5),
        st.lists(st.integers(0, 2000), max_size=4),
    )
    def test_alike(self, requests: list[bytes], cuts: list[int]) -> None:
        """Whatever is sent, however it is cut: with all heads known the events are those of a reader that knows none."""
        data = b"".join(requests)
        full: KnownHeads[RequestHead] = KnownHeads()
        for one in REQUESTS:
            self.read([one], full)
        expected = self.read(list(pieces(data, cuts)), KnownHeads())
        self.assertEqual(expected, self.read(list(pieces(data, cuts)), full))
        self.assertEqual(expected, self.read([data], full))

    def test_what_is_kept(self) -> None:
        """Whole heads alone are kept, without a body, and none that was refused, upgraded, or came in pieces."""
        full: KnownHeads[RequestHead] = KnownHeads()
        for one in REQUESTS:
            self.read([one], full)
        heads = {one.partition(b"\r\n\r\n")[0].lstrip(b"\r\n") + b"\r\n\r\n" for one in REQUESTS}
        kept = set(full._heads)
        self.assertLessEqual(kept, heads)
        self.assertEqual(9, len(kept), kept)
        pieced: KnownHeads[RequestHead] = KnownHeads()
        self.read([b"GET / HTTP/1.1\r\nHo", b"st: a\r\n\r\n"], pieced)
        self.assertEqual({}, pieced._heads)

    def test_behind_half_a_line(self) -> None:
        """A head that is known is none of its own where half a request line stands before it."""
        known: KnownHeads[RequestHead] = KnownHeads()
        self.read([request()], known)
        events, dead, _ = self.read([b"POST /x", request()], known)
        self.assertEqual(
            ([400], True), ([getattr(event, "status", event) for event in events], dead)
        )

    def test_parser_is_spared(self) -> None:
        """The second time, the parser sees nothing of it."""
        known: KnownHeads[RequestHead] = KnownHeads()
        self.read([REQUESTS[2]], known)
        self.patch(room.RequestParser, "_feed_piece", lambda *_: 1 / 0)
        events, dead, stage = self.read([REQUESTS[2]], known)
        self.assertEqual((3, False, ParserState.IDLE), (len(events), dead, stage))


LENGTH_3 = b"Content-Length: 3\r\n"
ANSWERS = [
    *GOOD_ANSWERS, *HOSTILE_HEADS, *HOSTILE_BODIES, *TRUNCATED, answer(LENGTH_3, body=b"abc"), answer(LENGTH_3, body=b"abcd"),
    answer(LENGTH_3, body=b"ab"), answer(LENGTH_3 + b"Connection: close\r\n", body=b"abc"), answer(b"Content-Length: 0\r\n"),
    answer(LENGTH_3, b"HTTP/1.1 304 Not Modified", b"abc"), answer(LENGTH_3, b"HTTP/1.0 200 OK", b"abc"),
    b"\r\n" + answer(LENGTH_3, body=b"abc"), b"\r\n\r\n" + answer(LENGTH_3, body=b"abc"),
    answer(line=b"HTTP/1.1 100 Continue") + answer(LENGTH_3, body=b"abc"),
]  # fmt: skip


class AnswersAlike(SynchronousTestCase):
    def taught(self) -> KnownHeads[ResponseHead]:
        """A table of all the heads that are kept."""
        known: KnownHeads[ResponseHead] = KnownHeads()
        for one in ANSWERS:
            ResponseParser(b"GET", UPSTREAM, known).feed(one)
        return known

    @given(
        st.sampled_from(ANSWERS), st.lists(st.integers(0, 2000), max_size=4), st.sampled_from([b"GET", b"HEAD", b"POST"]),
        st.booleans(),
    )  # fmt: skip
    def test_alike(self, data: bytes, cuts: list[int], method: bytes, clean: bool) -> None:
        """Whatever is answered, however it is cut: with all heads known it is what a reader that knows none makes of it."""
        cut = list(pieces(data, cuts))
        expected = respond(cut, method, clean=clean, known=KnownHeads())
        self.assertEqual(expected, respond(cut, method, clean=clean, known=self.taught()))
        self.assertEqual(expected, respond([data], method, clean=clean, known=self.taught()))

    def test_what_is_kept(self) -> None:
        """Whole heads of answers with a length, none that was refused or stands behind something else, none to HEAD."""
        kept = self.taught()._heads
        self.assertEqual({Framing.LENGTH}, {head.body for head in kept.values()})
        for raw in kept:
            self.assertTrue(raw.startswith(b"HTTP/1."), raw)
            self.assertEqual(len(raw) - 4, raw.find(b"\r\n\r\n"), raw)
            self.assertNotIn(b" 304 ", raw)
        known: KnownHeads[ResponseHead] = KnownHeads()
        for method, cut in (
            (b"HEAD", [answer(LENGTH_3)]),
            (b"GET", [answer(LENGTH_3)[:9], answer(LENGTH_3, body=b"abc")[9:]]),
        ):
            respond(cut, method, known=known)
        self.assertEqual({}, known._heads)

    def test_parser_is_spared(self) -> None:
        """The second time, the parser sees nothing of it, nor is there one."""
        data = answer(LENGTH_3, body=b"abc")
        known = self.taught()
        self.patch(httptools, "HttpResponseParser", lambda _: 1 / 0)
        found, reusable = respond([data[:-2], data[-2:]], known=known)
        self.assertEqual((3, True), (len(found), reusable))

    def test_in_a_body(self) -> None:
        """What looks like a head and stands in a body is not kept: it is somebody's text, and would be believed later."""
        text = answer(LENGTH_3, b"HTTP/1.1 500 Text")
        known: KnownHeads[ResponseHead] = KnownHeads()
        head = answer(b"Content-Length: %d\r\n" % len(text))
        for cut in (
            [head, text],
            [head + text[:1], text[1:]],
            [head[:9], head[9:], text],
            [head + text],
        ):
            respond(cut, known=known)
        self.assertEqual({head}, set(known._heads))

    def test_behind_half_a_head(self) -> None:
        """A head that is known is none of its own where half another one stands before it."""
        whole, half = answer(LENGTH_3, body=b"abc"), b"HTTP/1.1 200 OK\r\nX: "
        found, reusable = respond([half, whole], known=self.taught())
        self.assertEqual(respond([half + whole], known=KnownHeads()), (found, reusable))

    def test_cleaned_for_each(self) -> None:
        """The name that one proxy keeps secret is taken out of its answers, whatever another in this process has made of it."""
        name, other = b"Quiet-Harbour-" + b"9" * 20, b"Quiet-Harbour-" + b"8" * 20
        head = ResponseHead(200, b"OK", ((b"Allow", name), (b"Allow", other)), Framing.LENGTH, 0)
        for hidden, shown in ((name, other), (other, name), (name, other)):
            rules = HeaderRules.for_preset(PRESETS["connect2id"], hidden)
            for _ in range(2):
                self.assertEqual((b"OK", ((b"Allow", shown),)), sanitize_response(head, rules))
