"""Bytes cut into pieces, and the events of both parsers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.http1.errors import ErrorResponse
from x509proxy.http1.messages import EndOfMessage, RequestHead, ResponseHead
from x509proxy.http1.request_parser import RequestParser
from x509proxy.http1.response_parser import ResponseParser

HOST = b"Host: as.example\r\n"


Event = RequestHead | ResponseHead | bytes | EndOfMessage | ErrorResponse


def request(
    fields: bytes = b"", line: bytes = b"GET / HTTP/1.1", body: bytes = b"", host: bytes = HOST
) -> bytes:
    return line + b"\r\n" + host + fields + b"\r\n" + body


def post(fields: bytes, body: bytes = b"") -> bytes:
    return request(fields, b"POST / HTTP/1.1", body)


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


def joined(events: Iterable[Event]) -> list[Event]:
    """Return the same events with each body in one piece."""
    whole: list[Event] = []
    for event in events:
        if isinstance(event, bytes) and whole and isinstance(whole[-1], bytes):
            whole[-1] += event
        else:
            whole.append(event)
    return whole


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[start:end] for start, end in pairwise(places) if start < end)


def single_bytes(data: bytes) -> Iterator[bytes]:
    return pieces(data, range(len(data)))


def feed(feeds: Iterable[bytes], reader: RequestParser | ResponseParser) -> list[Event]:
    """Return all events, also those of several requests in one piece."""
    events: list[Event] = []
    for data in feeds:
        events += reader.feed(data)
        while isinstance(reader, RequestParser) and reader.rest:
            events += reader.feed(b"")
    return events


def shape_of(events: Iterable[Event]) -> str:
    """Return one letter for each event: Head, Body, End, Rejection."""
    letters = {
        bytes: "B",
        RequestHead: "H",
        ResponseHead: "H",
        EndOfMessage: "E",
        ErrorResponse: "R",
    }
    return "".join(letters[type(event)] for event in events)


def told(events: Iterable[Event]) -> list[object]:
    """Return the events as a client sees them, without the detail for the operator.

    The detail depends on whether the parser or the reader found the error first.
    """
    return [
        (event.status, event.description) if isinstance(event, ErrorResponse) else event
        for event in events
    ]


CUTS = st.lists(st.integers(0, 400), max_size=6)


FRAGMENTS = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 199 X\r\n", b"HTTP/1.1 304 X\r\n", b"HTTP/1.0 200 OK\r\n", HOST,
        b"Content-Length: 2\r\n",
        b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"X: y\r\n", b"\r\n", b"ab", b"2\r\nab\r\n", b"0\r\n\r\n", b"0\r\n", b"\r", b"\n", b" ",
        b"\0",
        request(),
        chunked(b"2\r\nab\r\n0\r\n\r\n"),
    ]
)  # fmt: skip


STREAMS = st.lists(FRAGMENTS | st.binary(max_size=8), max_size=12).map(b"".join) | st.binary()


def taken(
    test: SynchronousTestCase,
    reader: RequestParser | ResponseParser,
    start: bytes,
    more: bytes,
    status: int,
) -> int:
    """Return the number of bytes of ``more`` that are accepted before the error."""
    events = feed([start], reader)
    size = 0
    while not events or not isinstance(events[-1], ErrorResponse):
        events = feed([more], reader)
        size += len(more)
        test.assertLess(size, 1 << 20)
    test.assertEqual(status, events[-1].status)
    return size
