"""Tests of :mod:`x509proxy.http1.request_parser`.

However octets are cut, they give the same requests, or the same error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.streams import (
    CUTS,
    HOST,
    STREAMS,
    Event,
    chunked,
    feed,
    joined,
    pieces,
    post,
    request,
    shape_of,
    single_bytes,
    taken,
    told,
)
from x509proxy.http1 import request_parser
from x509proxy.http1.errors import ErrorResponse
from x509proxy.http1.messages import EndOfMessage, Framing, RequestHead
from x509proxy.http1.request_parser import ParserState, RequestParser
from x509proxy.settings import ClientSettings

CLIENT = ClientSettings()


NEXT = request(line=b"GET /next HTTP/1.1")


# Each of these is rejected with 400, and no head is returned.
TWO_FRAMINGS = (
    post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"),
    post(b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n", b"0\r\n\r\n"),
)


ODD_LENGTHS = tuple(
    post(b"Content-Length: " + length + b"\r\n", b"ab")
    for length in (
        b"2\r\nContent-Length: 2", b"2\r\nContent-Length: 3", b"2, 2", b"2,3", b"2 2", b"+2", b"-2",
        b"0x2", b"\xc2\xb2",
        b"1_0", b"", b" ", b"2;", b"2.0", b"1e1", b"9" * 20, b"18446744073709551618", b"2\x0b",
        b"\x002",
    )
)  # fmt: skip


ODD_CODINGS = (
    *(post(b"Transfer-Encoding: " + coding + b"\r\n", b"1\r\na\r\n0\r\n\r\n") for coding in (
        b"xchunked", b"chunkedx", b"\x0bchunked", b"chunked\x0b", b"\0chunked",
        b"chunked, identity", b"identity, chunked",
        b"identity", b"gzip", b"gzip, chunked", b"chunked, chunked", b",chunked", b"chunked,",
        b"chunked;a=b", b'"chunked"',
        b"", b"chunk\r\n ed", b"\r\n chunked", b"chunked\r\nTransfer-Encoding: chunked",
        b"chunked\r\nTransfer-Encoding: gzip",
        b"gzip\r\nTransfer-Encoding: chunked", b"chunked\nX: y", b"chu\xffnked",
    )),
    post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
    post(b" Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    post(b"Transfer-Encoding\r\n : chunked\r\n", b"0\r\n\r\n"),
    post(b"Transfer-Encoding\t: chunked\r\n", b"0\r\n\r\n"),
    post(b"X: y\rTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    post(b"Transfer-Encoding: chunked\t\r\n", b"0\r\n\r\n"),
    request(b"Transfer-Encoding: chunked\r\n", b"POST / HTTP/1.0", b"0\r\n\r\n"),
    request(b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n", b"POST / HTTP/1.0",
    b"0\r\n\r\n"),
)  # fmt: skip


BODIES_WITHOUT_MEANING = tuple(
    request(fields, method + b" / HTTP/1.1", body)
    for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS")
    for fields, body in (
        (b"Content-Length: 2\r\n", b"ab"),
        (b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    )
)


BARE_LINE_ENDS = (
    request().replace(b"\r\n", b"\n"),
    b"GET / HTTP/1.1\nHost: as.example\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: as.example\n\r\n",
    b"GET / HTTP/1.1\r\nHost: as.example\r\n\n",
    b"GET / HTTP/1.1\rHost: as.example\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: as.example\rX: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: as.example\r\n\rGET",
    b"GET / HTTP/1.1\r\nHost: as.example\r\nX: a\nY: b\r\n\r\n",
)


ODD_FIELDS = (
    *(request(field + b"\r\n") for field in (
        b"X: a\r\n b", b"X: a\r\n\tb", b"X: a\r\n ", b" X: a", b"\tX: a", b"X : a", b"X", b": a",
        b"X Y: a", b"X(): a",
        b"X\0: a", b"X\x80: a", b"X\xc3\xa9: a", b"X: a\0b", b"X: a\x01b", b"X: a\x0bb",
        b"X: a\x0cb", b"X: a\x1bb",
        b"X: a\x7fb", b"X: a\x80b", b"X: \xc3\xa9", b"X: \xff",
    )),
    b"GET / HTTP/1.1\r\n Host: as.example\r\n\r\n",
)  # fmt: skip


ODD_VERSIONS = (
    *(request(line=b"GET / " + version) for version in (
        b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/1.10", b"HTTP/11.1",
        b"HTTP/01.1", b"HTTP/1", b"HTTP/2",
        b"HTTP/1,1", b"HTTP/.1", b"http/1.1", b"XTTP/1.1", b"HTTP /1.1", b"HTTP/1.1 ",
        b"HTTP/1.1\t", b"ICE/1.0", b"x HTTP/1.1",
    )),
    b"GET /\r\n\r\n", b"GET / \r\n\r\n", b"GET\r\n\r\n",
)  # fmt: skip


ODD_TARGETS = tuple(
    request(line=b"GET " + target + b" HTTP/1.1")
    for target in (
        b"", b"*", b"?x", b"x", b"as.example/x", b"/a b", b"/a\tb", b"/a\x0bb", b"/a\0", b"/\x7f",
        b"/\x80", b"/\xc3\xa9",
        b"/a#b", b"/#", b"/a\rb", b"/a\nb", b"/a\r\nb", b"ftp://as.example/", b"http://",
        b"http:///x", b"http://evil.example/",
        b"http://as.example:8443/", b"http://user@as.example/", b"http://as.example\\/",
        b"http://as.example#/",
        b"as.example:443",
    )
)  # fmt: skip


ODD_HOSTS = tuple(
    request(host=host)
    for host in (
        b"", HOST + HOST, HOST + b"hOsT: evil.example\r\n", b"Host: \r\n", b"Host: a b\r\n",
        b"Host: a,b\r\n", b"Host: a/b\r\n",
        b"Host: user@a\r\n", b"Host: a:b\r\n", b"Host: a::\r\n", b"Host: a:123456\r\n",
        b"Host: [::1\r\n", b"Host: ::1\r\n",
        b"Host: a?b\r\n", b"Host: a#b\r\n", b"Host: \xc3\xa9\r\n", b"Host: a\0\r\n",
        b"Host: a\r\n b\r\n", b"Host : a\r\n",
        b"Host: http://a\r\n",
    )
)  # fmt: skip


UNREADABLE_METHODS = tuple(
    request(line=method + b" / HTTP/1.1") for method in (b"", b" GET", b"G\xc9T", b"G\0T", b"GET\t")
)


UNKNOWN_METHODS = tuple(
    request(line=method + b" / HTTP/1.1") for method in (b"get", b"Get", b"BREW", b"PRI")
)


NO_HTTP = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + NEXT,
    b"HTTP/1.1 200 OK\r\n\r\n",
)


TWICE = tuple(
    post(field + field)
    for field in (b"Expect: 100-continue\r\n", b"Content-Type: a/b\r\n", b"Authorization: a b\r\n")
)


MALFORMED = (
    *TWO_FRAMINGS, *ODD_LENGTHS, *ODD_CODINGS, *BODIES_WITHOUT_MEANING, *BARE_LINE_ENDS,
    *ODD_FIELDS, *ODD_VERSIONS,
    *ODD_TARGETS, *ODD_HOSTS, *UNREADABLE_METHODS, *NO_HTTP, *TWICE,
)  # fmt: skip


# The head of each of these is valid, its body is not.
ODD_CHUNKS = tuple(
    chunked(body)
    for body in (
        b"0x2\r\nab\r\n0\r\n\r\n", b"2 \r\nab\r\n0\r\n\r\n", b" 2\r\nab\r\n0\r\n\r\n",
        b"+2\r\nab\r\n0\r\n\r\n",
        b"-2\r\nab\r\n0\r\n\r\n", b"1_0\r\nab\r\n0\r\n\r\n", b"g\r\nab\r\n", b"\r\nab\r\n0\r\n\r\n",
        b"2\nab\r\n0\r\n\r\n",
        b"2\rab\r\n0\r\n\r\n", b"2;\nab\r\n0\r\n\r\n", b"2;a\nab\r\n0\r\n\r\n",
        b"2;a=b\nab\r\n0\r\n\r\n",
        b"2;\r\nab\r\n0\r\n\r\n", b"2 ;a\r\nab\r\n0\r\n\r\n", b"2;a\0\r\nab\r\n0\r\n\r\n",
        b'2;a="\r\n"\r\nab\r\n0\r\n\r\n',
        b"2\r\nab0\r\n\r\n", b"2\r\nabc\r\n0\r\n\r\n", b"2\r\nab\n0\r\n\r\n", b"2\r\nab\r0\r\n\r\n",
        b"3\r\nab\r\n0\r\n\r\n",
        b"2\r\nab\r\n0\n\n", b"2\r\nab\r\n0\r\n\n", b"2\r\nab\r\n0\r\n x: y\r\n\r\n",
        b"2\r\nab\r\n0\r\nX : y\r\n\r\n",
        b"2\r\nab\r\n0\r\nX: a\0\r\n\r\n", b"2\r\nab\r\n0\r\nX: y\n\r\n",
        b"2\r\nab\r\n0\r\nX: y\r\n z\r\n\r\n",
        b"2\r\nab\r\n0\r\nContent-Length: 5\r\n\r\n",
        b"2\r\nab\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"F" * 17 + b"\r\n", b"0" * 15 + b"f" * 16 + b"0\r\n", b"2\r\nab\r\n" + NEXT,
    )
)  # fmt: skip


METHODS = tuple(
    (status, request(line=method + b" " + target + b" HTTP/1.1"))
    for status, method, target in (
        (405, b"CONNECT", b"as.example:443"), (405, b"CONNECT", b"/"), (405, b"TRACE", b"/"),
        (501, b"PROPFIND", b"/"),
        (501, b"SOURCE", b"/"), (501, b"M-SEARCH", b"/"), (501, b"QUERY", b"/"),
        (501, b"LINK", b"/"),
    )
)  # fmt: skip


OTHERS = (
    *METHODS,
    (413, post(b"Content-Length: 1048577\r\n")),
    (413, post(b"Content-Length: " + b"9" * 18 + b"\r\n", b"ab")),
    (417, post(b"Expect: 200-ok\r\nContent-Length: 2\r\n", b"ab")),
    (417, post(b"Expect: 100-continue, x\r\nContent-Length: 2\r\n", b"ab")),
)


# After each of these requests nothing more is parsed.
LAST_REQUESTS = (
    request(b"Connection: close\r\n"),
    request(b"Connection: keep-alive, cLoSe\r\n"),
    request(b"Connection: close\r\nConnection: keep-alive\r\n"),
    request(line=b"GET / HTTP/1.0"),
    request(b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
    request(b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
    post(b"Connection: close\r\nContent-Length: 2\r\n", b"ab"),
    post(b"Connection: close\r\nTransfer-Encoding: chunked\r\n", b"2\r\nab\r\n0\r\n\r\n"),
)


WELL_FORMED = (
    request(), NEXT * 3, post(b"Content-Length: 2\r\n", b"ab") + NEXT, b"\r\n\r\n" + request(),
    *LAST_REQUESTS,
    chunked(b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\nX: y\r\n\r\n") + NEXT,
)  # fmt: skip


def read(feeds: Iterable[bytes], settings: ClientSettings = CLIENT) -> list[Event]:
    return joined(feed(feeds, RequestParser(settings)))


class ReaderTestCase(SynchronousTestCase):
    def expect_error(
        self, status: int, data: bytes, shape: str = "R", settings: ClientSettings = CLIENT
    ) -> None:
        """Check the error, whole and octet by octet, and that nothing follows it."""
        reader = RequestParser(settings)
        events = joined(feed([data], reader))
        self.assertEqual(shape, shape_of(events), (data[:200], events))
        self.assertEqual(status, getattr(events[-1], "status", None), (data[:200], events[-1]))
        self.assertEqual([[], []], [reader.feed(NEXT), reader.feed(data)])
        self.assertEqual(told(events), told(read(single_bytes(data), settings)), data[:200])


class Malformed(ReaderTestCase):
    def expect_all_rejected(self, table: Iterable[bytes]) -> None:
        for data in table:
            self.expect_error(400, data)
            self.expect_error(400, NEXT + data, "HER")

    def test_two_framings(self) -> None:
        """``Content-Length`` beside ``Transfer-Encoding`` is rejected before a head is returned.

        These are CL.TE and TE.CL.
        """
        self.expect_all_rejected(TWO_FRAMINGS)

    def test_odd_lengths(self) -> None:
        """A ``Content-Length`` that occurs twice, or is no plain number, is rejected."""
        self.expect_all_rejected(ODD_LENGTHS)

    def test_odd_codings(self) -> None:
        """Anything but ``chunked`` alone, once and in HTTP/1.1 is rejected (TE.TE)."""
        self.expect_all_rejected(ODD_CODINGS)

    def test_bodies_without_meaning(self) -> None:
        """A body on a method that gives it no meaning (CL.0) is rejected."""
        self.expect_all_rejected(BODIES_WITHOUT_MEANING)

    def test_bare_line_ends(self) -> None:
        """A line that ends in LF or CR alone is rejected."""
        self.expect_all_rejected(BARE_LINE_ENDS)

    def test_odd_fields(self) -> None:
        """Invalid octets are rejected.

        These are folded lines, white space around a name, control characters and octets above 0x7E.
        """
        self.expect_all_rejected(ODD_FIELDS)

    def test_odd_versions(self) -> None:
        """Every version but HTTP/1.0 and HTTP/1.1 is rejected, also a missing one."""
        for data in ODD_VERSIONS:
            self.expect_error(400, data)

    def test_odd_targets(self) -> None:
        """A target in no form of RFC 9112, or with another authority than ``Host``, is 400."""
        self.expect_all_rejected(ODD_TARGETS)

    def test_odd_hosts(self) -> None:
        """A missing, duplicate or malformed ``Host`` is rejected."""
        self.expect_all_rejected(ODD_HOSTS)

    def test_unreadable_methods(self) -> None:
        """An invalid method is rejected."""
        self.expect_all_rejected(UNREADABLE_METHODS)

    def test_unknown_methods(self) -> None:
        """An unknown method has a response of its own, and methods are case-sensitive.

        After another request it is rejected as well.
        """
        for data in UNKNOWN_METHODS:
            self.expect_error(501, data)
            self.assertEqual("HER", shape_of(read([NEXT + data])))

    def test_other_protocols(self) -> None:
        """HTTP/2's preface, TLS, SSH, PROXY lines and responses are rejected as requests."""
        self.expect_all_rejected(NO_HTTP)

    def test_repeated_fields(self) -> None:
        """A field of which servers would use different ones may occur only once."""
        self.expect_all_rejected(TWICE)

    def test_other_statuses(self) -> None:
        """Unsupported methods, large bodies and unknown expectations have errors of their own."""
        for status, data in OTHERS:
            self.expect_error(status, data)

    def test_odd_chunks(self) -> None:
        """A malformed chunk is rejected, after the head and before the end.

        Size, extension, line end and trailer have no liberties.
        """
        for data in ODD_CHUNKS:
            whole = shape_of(read([data]))
            self.assertIn(whole, ("HR", "HBR"), data)
            self.expect_error(400, data, whole)

    @given(st.sampled_from((*MALFORMED, *ODD_CHUNKS, *(data for _, data in OTHERS))), CUTS)
    def test_any_split(self, data: bytes, cuts: Sequence[int]) -> None:
        """Wherever a malformed request is cut, the events are the same; the error is last."""
        found = read([*pieces(data, cuts), NEXT, NEXT])
        self.assertEqual(read([data]), found)
        self.assertEqual(1, shape_of(found).count("R"))
        self.assertEqual("R", shape_of(found)[-1])

    def test_no_secrets_in_reasons(self) -> None:
        """The detail of an error quotes no field."""
        for data in (*MALFORMED, *ODD_CHUNKS):
            error = read([data.replace(b"X", b"Quoted")])[-1]
            self.assertIsInstance(error, ErrorResponse)
            self.assertNotIn("Quoted", repr(error))


class RequestLine(ReaderTestCase):
    def test_other_forms(self) -> None:
        """A request line is method, target and version, with one space between.

        This holds after another request too.
        """
        for line in (
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b"GET / RTSP/1.0",
            b"GET / ICE/1.0",
            b"OPTIONS * RTSP/1.0",
        ):
            self.expect_error(400, request(line=line))
            self.expect_error(400, NEXT + request(line=line), "HER")

    def test_odd_empty_lines(self) -> None:
        """Empty lines before a request end in CRLF."""
        for more in (b"\n", b"\r", b"\r\r\n", b" \r\n"):
            self.expect_error(400, more + request())

    def test_empty_line_in_two_pieces(self) -> None:
        """An empty line in two pieces does not hide the line after it from the checks."""
        for line in (b"GET  / HTTP/1.1", b"GET / RTSP/1.1"):
            events = feed(
                [b"\r", b"\n", request(b"X: GET / HTTP/1.1\r\n", line)],
                RequestParser(ClientSettings()),
            )
            self.assertEqual("R", shape_of(events), line)

    def test_drips(self) -> None:
        """Half an empty line begins no request.

        A client that sends empty lines slowly has no new deadline with each of them.
        """
        reader = RequestParser(CLIENT)
        for data in (b"\r", b"\n", b"\r", b"\n"):
            self.assertEqual(([], ParserState.IDLE), (reader.feed(data), reader.stage))

    def test_version_is_missing(self) -> None:
        """A request of HTTP/0.9 is rejected at the end of its line."""
        self.expect_error(400, b"GET /\r\n")


class Forgiven(SynchronousTestCase):
    def test_forgiven(self) -> None:
        """Permitted variations are normalized: none of them is copied."""
        plain = read([request()])
        for data in (
            b"\r\n\r\n" + request(),
            request(host=b"Host:as.example\r\n"),
            request(host=b"Host: \t as.example \t\r\n"),
        ):
            self.assertEqual(plain, read([data]), data)
            self.assertEqual(plain, read(single_bytes(data)), data)

    def test_numbers_with_zeros(self) -> None:
        """Leading zeros in a length or in the size of a chunk change nothing."""
        self.assertEqual(
            [b"ab", EndOfMessage.END], read([post(b"Content-Length: 0002\r\n", b"ab")])[1:]
        )
        self.assertEqual(
            [b"ab", EndOfMessage.END], read([chunked(b"0002\r\nab\r\n000\r\n\r\n")])[1:]
        )


class Faults(SynchronousTestCase):
    def test_fault(self) -> None:
        """An error of the proxy is not reported as the client's, and ends the parsing."""
        reader = RequestParser(CLIENT)
        self.patch(request_parser, "request_head", lambda *_: 1 / 0)
        self.assertRaises(ZeroDivisionError, reader.feed, NEXT)
        self.assertEqual([], reader.feed(NEXT))


class Trailers(ReaderTestCase):
    def test_connection(self) -> None:
        """A ``Connection`` field in a trailer is rejected.

        Otherwise the response would announce an open connection that is not read.
        """
        self.expect_error(400, chunked(b"1\r\na\r\n0\r\nConnection: close\r\n\r\n"), "HBR")


class OneAtATime(SynchronousTestCase):
    def test_one_at_a_time(self) -> None:
        """Of many requests in one piece only the first is parsed; the others stay octets."""
        reader = RequestParser(CLIENT)
        self.assertEqual("HE", shape_of(reader.feed(NEXT * 3)))
        self.assertEqual(NEXT * 2, reader.rest)
        self.assertEqual(["HE", "HE", ""], [shape_of(reader.feed(b"")) for _ in range(3)])

    def test_more_comes_meanwhile(self) -> None:
        """New octets are added after those that are left."""
        reader = RequestParser(CLIENT)
        reader.feed(NEXT + b"GET /2")
        self.assertEqual("HE", shape_of(reader.feed(b" HTTP/1.1\r\nHost: as.example\r\n\r\n")))


class Chunks(SynchronousTestCase):
    def test_together(self) -> None:
        """Chunks that arrive together are one event.

        This also holds at the end of a body, and before an error.
        """
        for end, last in (
            (b"0\r\n\r\n", EndOfMessage.END),
            (b"0\r\nX: y\r\n\r\n", EndOfMessage.END),
            (b"x", ErrorResponse),
        ):
            reader = RequestParser(CLIENT)
            reader.feed(chunked(b""))
            self.assertEqual([b"a" * 100], reader.feed(b"1\r\na\r\n" * 100))
            piece, event = reader.feed(b"1\r\nb\r\n" * 50 + end)
            self.assertEqual(b"b" * 50, piece)
            self.assertTrue(event is last or type(event) is last)


class WellFormed(SynchronousTestCase):
    def test_literal(self) -> None:
        """A request is its validated head, its body and its end; then the parser starts again."""
        reader = RequestParser(CLIENT)
        head = RequestHead(
            b"POST",
            b"/token?a",
            "1.1",
            [(b"Host", b"as.example"), (b"Content-Length", b"2")],
            b"as.example",
            Framing.LENGTH,
            2,
        )
        data = request(b"Content-Length: 2\r\n", b"POST /token?a HTTP/1.1", b"ab")
        self.assertEqual([head, b"ab", EndOfMessage.END], reader.feed(data))
        self.assertEqual((ParserState.IDLE, False), (reader.stage, reader.dead))

    def test_pipelined(self) -> None:
        """Requests in one feed are returned in order, with their own fields and bodies."""
        first = post(b"Content-Length: 2\r\nA: 1\r\n", b"ab") + request(b"B: 2\r\n")
        found = read([first + chunked(b"1\r\nc\r\n0\r\n\r\n") + NEXT])
        self.assertEqual("HBEHEHBEHE", shape_of(found))
        heads = [event for event in found if isinstance(event, RequestHead)]
        self.assertEqual(
            [b"A", b"B"], [name for head in heads for name, _ in head.pairs if name in (b"A", b"B")]
        )
        self.assertEqual([b"/", b"/", b"/", b"/next"], [head.target for head in heads])

    def test_stages(self) -> None:
        """The stage of the parser is right for the deadlines at every point of a message."""
        reader = RequestParser(CLIENT)
        stages = []
        for data in (
            b"\r\n",
            b"P",
            b"OST / HTTP/1.1\r\n" + HOST,
            b"Content-Length: 2\r\n\r\n",
            b"a",
            b"b",
            b"G",
        ):
            reader.feed(data)
            stages.append(reader.stage)
        expected = [
            ParserState.IDLE,
            ParserState.HEAD,
            ParserState.HEAD,
            ParserState.BODY,
            ParserState.BODY,
            ParserState.IDLE,
            ParserState.HEAD,
        ]
        self.assertEqual(expected, stages)

    def test_trailers_are_dropped(self) -> None:
        """Trailer fields never become fields of this request or of the next."""
        found = read([chunked(b"1\r\na\r\n0\r\nX-Cert: evil\r\nHost: evil\r\n\r\n") + NEXT])
        self.assertEqual("HBEHE", shape_of(found))
        self.assertNotIn("evil", repr(found).lower())

    def test_invalid_names_are_dropped(self) -> None:
        """A field whose name CGI-like servers fold is dropped and counted, and frames nothing."""
        head, end, *rest = read(
            [post(b"Transfer_Encoding: chunked\r\nContent.Length: 5\r\n") + NEXT]
        )
        assert isinstance(head, RequestHead)
        self.assertEqual(
            (2, Framing.NONE, EndOfMessage.END, "HE"),
            (head.invalid_header_names, head.body, end, shape_of(rest)),
        )

    @given(st.sampled_from(WELL_FORMED), CUTS)
    def test_any_split(self, data: bytes, cuts: Sequence[int]) -> None:
        """Wherever requests are cut, they are the same requests."""
        whole = read([data])
        self.assertEqual(whole, read(pieces(data, cuts)))
        self.assertEqual(whole, read(single_bytes(data)))


class LastRequest(SynchronousTestCase):
    def test_more_bytes(self) -> None:
        """After ``close``, HTTP/1.0 or an upgrade the request is valid; the rest is dropped."""
        for data in LAST_REQUESTS:
            for more in (
                NEXT,
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"\0",
                post(b"Content-Length: 2\r\n", b"ab"),
            ):
                for feeds in ([data + more], [data, more, more], single_bytes(data + more)):
                    found = read(feeds)
                    self.assertIn(shape_of(found), ("HE", "HBE"), data)
                    assert isinstance(found[0], RequestHead)
                    self.assertFalse(found[0].keep_alive, data)

    def test_keep_alive(self) -> None:
        """HTTP/1.1 stays open unless it closes, HTTP/1.0 only with keep-alive."""
        for data in (
            request(),
            request(b"Connection: keep-alive\r\n", b"GET / HTTP/1.0"),
            request(b"Upgrade: h2c\r\n"),
        ):
            self.assertEqual("HEHE", shape_of(read([data + NEXT])), data)

    def test_upgrade_with_a_body(self) -> None:
        """A request never loses its body: one that asks for an upgrade has it, or is rejected."""
        fields = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
        for data in (
            post(fields + b"Content-Length: 2\r\n", b"ab"),
            post(fields + b"Transfer-Encoding: chunked\r\n", b"2\r\nab\r\n0\r\n\r\n"),
        ):
            for feeds in ([data], [data + NEXT], single_bytes(data + NEXT)):
                self.assertIn(shape_of(read(feeds)), ("HBE", "R"), data)


class HeadLimits(ReaderTestCase):
    def test_fields_together(self) -> None:
        """The head has at most ``max_head_bytes``, from its first octet to its empty line's end."""
        head = request(b"X: " + b"a" * 76 + b"\r\n")
        settings = ClientSettings(max_head_bytes=len(head))
        longer = request(b"X: " + b"a" * 77 + b"\r\n")
        other = request(b"X: " + b"a" * 76 + b"\r\n", b"GET /a HTTP/1.1")
        for before in (b"", b"\r\n", NEXT, chunked(b"1\r\na\r\n0\r\nX: y\r\n\r\n")):
            for cut in (pieces, lambda data, _: single_bytes(data)):
                self.assertEqual("HE", shape_of(read(cut(before + head, []), settings))[-2:])
                self.expect_status(431, cut(before + longer, []), settings)
                self.expect_status(431, cut(before + other, []), settings)
                self.expect_status(431, cut(before + longer + NEXT, []), settings)

    def test_line(self) -> None:
        """One line may have exactly ``max_line_bytes``."""
        settings = ClientSettings(max_line_bytes=20)
        for ends in ([0], []):
            self.assertEqual(
                "HE", shape_of(read(pieces(request(b"X: " + b"a" * 17 + b"\r\n"), ends), settings))
            )
            self.expect_status(431, pieces(request(b"X: " + b"a" * 18 + b"\r\n"), ends), settings)
        # A head that is not complete, in one piece or in two.
        for size, shape in ((17, ""), (18, "R")):
            line = b"GET / HTTP/1.1\r\nX: " + b"a" * size + b"\r\n"
            for cuts in ([], [len(line) - 3]):
                self.assertEqual(shape, shape_of(read(pieces(line, cuts), settings)), cuts)

    def test_early(self) -> None:
        """A limit is enforced as soon as it is exceeded, in incomplete lines and heads."""
        settings = ClientSettings(max_line_bytes=20, max_target_bytes=10)
        for start, more, status in (
            (b"GET /" + b"a" * 9 + b" HTTP/1.1", b"\r\n", 0),
            (b"GET /" + b"a" * 10 + b" HTTP/1.1", b"\r\n", 414),
            (b"GET / HTTP/1.1\r\nX: " + b"a" * 17, b"\r", 0),
            (b"GET / HTTP/1.1\r\nX: " + b"a" * 18, b"a", 431),
        ):
            reader = RequestParser(settings)
            self.assertEqual([], reader.feed(start))
            found = [getattr(event, "status", None) for event in reader.feed(more)]
            self.assertEqual([status] if status else [], found, start)

    def test_line_of_a_rejected_head(self) -> None:
        """The request line of a rejected head is kept for the log, however it arrived.

        That of a valid head is not.
        """
        line = b"GET /a HTTP/1.1"
        for rest, expected in ((b"X: \0\r\n\r\n", line), (b"\r\n", line), (HOST + b"\r\n", b"")):
            for cut in (pieces, lambda data, _: single_bytes(data)):
                reader = RequestParser(CLIENT)
                feed(cut(line + b"\r\n" + rest, []), reader)
                self.assertEqual(expected, reader.line, rest)

    def test_number_of_fields(self) -> None:
        """Exactly ``fields`` lines are permitted, including those that are dropped."""
        settings = ClientSettings(max_header_fields=3)
        self.assertEqual("HE", shape_of(read([request(b"X_Y: a\r\nX: b\r\n")], settings)))
        self.expect_status(431, [request(b"X_Y: a\r\nX: b\r\nX: c\r\n")], settings)
        self.expect_status(431, single_bytes(request(b"X_Y: a\r\nX: b\r\nX: c\r\n")), settings)
        # A head that is not complete.
        reader = RequestParser(settings)
        events = feed([b"GET / HTTP/1.1\r\n", HOST, b"X: b\r\n", b"X: c\r\n"], reader)
        self.assertEqual([], events)
        self.assertEqual(431, getattr(reader.feed(b"X: d\r\n")[0], "status", None))

    def test_target(self) -> None:
        """A target may have exactly ``max_target_bytes``, in any number of pieces."""
        settings = ClientSettings(max_target_bytes=10)
        for step in (pieces, lambda data, _: single_bytes(data)):
            self.assertEqual(
                "HE",
                shape_of(
                    read(step(request(line=b"GET /" + b"a" * 9 + b" HTTP/1.1"), []), settings)
                ),
            )
            self.expect_status(
                414, step(request(line=b"GET /" + b"a" * 10 + b" HTTP/1.1"), []), settings
            )

    def test_endless_value(self) -> None:
        """A field without an end is rejected as soon as it exceeds the head."""
        self.assertLessEqual(
            taken(self, RequestParser(CLIENT), b"GET / HTTP/1.1\r\nX: ", b"a" * 100, 431),
            16384 + 100,
        )

    def test_endless_name(self) -> None:
        """A name without an end is rejected as soon as it exceeds the head."""
        self.assertLessEqual(
            taken(self, RequestParser(CLIENT), b"GET / HTTP/1.1\r\n", b"a" * 100, 431), 16384 + 100
        )

    def test_endless_space(self) -> None:
        """White space that is removed is counted too."""
        self.assertLessEqual(
            taken(self, RequestParser(CLIENT), b"GET / HTTP/1.1\r\nX: ", b" " * 100, 431),
            16384 + 100,
        )

    def test_endless_target(self) -> None:
        """A target without an end is rejected as soon as it exceeds its limit."""
        self.assertLessEqual(
            taken(self, RequestParser(CLIENT), b"GET /", b"a" * 100, 414), 8192 + 32 + 100
        )

    def test_endless_after_a_request(self) -> None:
        """The count begins anew with each head, also in the middle of a feed."""
        reader = RequestParser(CLIENT)
        self.assertEqual("HE", shape_of(feed([NEXT + b"GET / HTTP/1.1\r\nX: "], reader)))
        self.assertLessEqual(taken(self, reader, b"", b"a" * 100, 431), 16384 + 100)

    def test_empty_lines(self) -> None:
        """A flood of empty lines begins nothing and is not kept; the request after it is parsed."""
        reader = RequestParser(CLIENT)
        sizes = set()
        for _ in range(100):
            self.assertEqual([], reader.feed(b"\r\n" * 1000))
            sizes.add(
                repr(
                    [
                        value
                        for name in reader.__slots__
                        if isinstance(value := getattr(reader, name), int | bytes)
                    ]
                )
            )
        self.assertEqual((ParserState.IDLE, 1), (reader.stage, len(sizes)))
        self.assertEqual("HE", shape_of(reader.feed(NEXT)))

    def expect_status(self, status: int, feeds: Iterable[bytes], settings: ClientSettings) -> None:
        event = read(feeds, settings)[-1]
        assert isinstance(event, ErrorResponse)
        self.assertEqual(status, event.status, event)


class BodyLimits(ReaderTestCase):
    def test_length(self) -> None:
        """A body of exactly ``max_body_bytes`` is accepted.

        One more octet is rejected before any.
        """
        settings = ClientSettings(max_body_bytes=3)
        self.assertEqual(
            [b"abc", EndOfMessage.END], read([post(b"Content-Length: 3\r\n", b"abc")], settings)[1:]
        )
        self.expect_error(413, post(b"Content-Length: 4\r\n", b"abcd"), "R", settings)

    def test_chunked(self) -> None:
        """All chunks may have exactly ``max_body_bytes``; no octet above is returned."""
        settings = ClientSettings(max_body_bytes=3)
        self.assertEqual(
            [b"abc", EndOfMessage.END],
            read([chunked(b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")], settings)[1:],
        )
        found = read([chunked(b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n")], settings)
        self.assertEqual((b"ab", "HBR"), (found[1], shape_of(found)))
        self.assertEqual(413, getattr(found[-1], "status", None))
        self.assertEqual("HR", shape_of(read([chunked(b"4\r\nabcd\r\n")], settings)))

    def test_largest_chunk(self) -> None:
        """A chunk that announces more than permitted is rejected at once, up to 2**64-1 octets."""
        settings = ClientSettings(max_body_bytes=1000)
        for size in (b"3e9", b"f" * 16):
            self.expect_error(413, chunked(size + b"\r\n" + b"a" * 300), "HR", settings)
        self.assertEqual("HB", shape_of(read([chunked(b"3e8\r\n" + b"a" * 300)], settings)))

    def test_head_is_not_counted(self) -> None:
        """A slow head that nearly fills its limit does not reduce the limit of the body."""
        data = post(
            b"X: " + b"a" * 8000 + b"\r\nY: " + b"a" * 8000 + b"\r\nTransfer-Encoding: chunked\r\n"
        )
        slow = [
            *pieces(data, range(0, len(data), 1000)),
            *[b"1;" + b"x" * 500 + b"\r\na\r\n"] * 30,
            *single_bytes(b"0\r\n\r\n"),
        ]
        self.assertEqual("HBE", shape_of(read(slow)))

    def test_count_begins_anew(self) -> None:
        """Each request has the whole limit."""
        settings = ClientSettings(max_body_bytes=3)
        self.assertEqual(
            "HBEHBE", shape_of(read([post(b"Content-Length: 3\r\n", b"abc") * 2], settings))
        )

    def test_chunks_of_one_byte(self) -> None:
        """Chunks of one octet are wasteful, and 1,023 and the last one are permitted."""
        reader = RequestParser(CLIENT)
        feeds = [chunked(b""), *[b"1\r\na\r\n" * 341] * 3, b"0\r\n\r\n"]
        events = joined(feed(feeds, reader))
        self.assertEqual("HBE", shape_of(events))
        self.assertEqual(b"a" * 1023, events[1])

    def test_chunk_extensions(self) -> None:
        """A flood of chunk extensions around a few octets is rejected (Go CVE-2023-39326)."""
        reader = RequestParser(CLIENT)
        self.assertLess(
            taken(self, reader, chunked(b""), b"1;" + b"x" * 1000 + b"\r\na\r\n", 400), 32768
        )

    def test_small_chunks(self) -> None:
        """A flood of chunks of one octet is rejected after 1,024 of them."""
        reader = RequestParser(CLIENT)
        read = taken(self, reader, chunked(b""), b"1\r\na\r\n" * 10, 400)
        self.assertLess(read, 6 * 1024 + 200)

    def test_chunks_in_one_read(self) -> None:
        """One read of 128 KiB has fewer than 3,000 chunks, which bounds a turn of the reactor."""
        dense = b"1\r\na\r\n" * 1023 + b"40\r\n%b\r\n" % (b"a" * 64) * 4000
        reader = RequestParser(CLIENT)
        self.assertEqual("HB", shape_of(reader.feed(chunked(dense)[:131072])))
        self.assertLess(dense[:131072].count(b"\r\n") / 2, 3000)

    def test_endless_chunk_extension(self) -> None:
        """A chunk extension without an end is rejected."""
        self.assertLess(taken(self, RequestParser(CLIENT), chunked(b"1;"), b"x" * 100, 400), 32768)

    def test_endless_chunk_size(self) -> None:
        """A chunk size of nothing but zeros is rejected."""
        self.assertLess(taken(self, RequestParser(CLIENT), chunked(b""), b"0" * 100, 400), 32768)

    def test_trailers(self) -> None:
        """A flood of trailer fields is rejected."""
        self.assertLess(
            taken(self, RequestParser(CLIENT), chunked(b"0\r\n"), b"X: y\r\n" * 20, 400), 32768
        )

    def test_endless_trailer_after_a_large_body(self) -> None:
        """A trailer field is limited as a head is, however large the body was.

        Each piece of it costs a copy of the whole.
        """
        reader = RequestParser(CLIENT)
        reader.feed(chunked(b"10000\r\n" + b"a" * 65536))
        self.assertLess(taken(self, reader, b"\r\n0\r\nX: ", b"y" * 100, 400), 65536)


class AnyBytes(SynchronousTestCase):
    @given(STREAMS, CUTS)
    def test_requests(self, data: bytes, cuts: Sequence[int]) -> None:
        """Any octets, in any pieces, give complete requests in order and at most one error, last.

        A part of a request may follow the complete ones.
        """
        found = read(pieces(data, cuts))
        self.assertRegex(shape_of(found), r"\A(HB?E)*(HB?)?R?\Z")
        # The error may differ: after another request in the same piece the parser reports it.
        whole = read([data])
        self.assertEqual(shape_of(whole), shape_of(found))
        self.assertEqual(
            *(
                [event for event in events if not isinstance(event, ErrorResponse)]
                for events in (whole, found)
            )
        )
