"""Whole client byte streams through a whole proxy.

Reference parsers read the data that reaches the back end (threats 1A, 1B).
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.play import FORGED_NAMES, GENUINE, GOOD, ClientPlay, cut, play_client
from tests.support.exhaustive import examples
from tests.support.memory import GET, HEADER, post
from tests.support.reference_parsers import (
    SERVERS,
    HttpError,
    pointed_requests,
    read_answers,
    read_requests,
)
from tests.support.streams import pieces, single_bytes

FORGED = HEADER + b": EVIL"
TWIN = HEADER.replace(b"-", b"_")
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: as.example\r\n" + FORGED + b"\r\n\r\n"
CHUNKED_SMUGGLED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)


def request(
    *fields: bytes,
    line: bytes = b"GET / HTTP/1.1",
    host: bytes = b"Host: as.example",
    body: bytes = b"",
) -> bytes:
    return b"\r\n".join([line, host, *fields, b"", body])


def chunked(body: bytes, *fields: bytes) -> bytes:
    return post(body, *fields, length=-1)


class StreamTestCase(SynchronousTestCase):
    def play(
        self, stream: bytes, mode: int, *, certificate: bool, request_buffer_bytes: int = 65536
    ) -> ClientPlay:
        """Play a stream; check that no parser finds a fault or a smuggled request."""
        play = play_client(
            cut(stream, mode),
            shows_certificate=certificate,
            request_buffer_bytes=request_buffer_bytes,
        )
        self.assertEqual([], play.faults(), (stream, mode, certificate))
        self.assertNotIn(b"/smuggled", play.targets, (stream, mode, certificate))
        return play

    def everyhow(self, stream: bytes) -> list[ClientPlay]:
        """Play a stream with and without a certificate, whole, in single bytes and in lines."""
        return [
            self.play(stream, mode, certificate=certificate)
            for certificate in (True, False)
            for mode in (0, 1, 3)
        ]

    def expect_refused(self, *streams: bytes, status: int = 400) -> None:
        """Check that the proxy responds ``status``, and that nothing reaches the back end."""
        for stream in streams:
            for play in self.everyhow(stream):
                self.assertEqual(([status], []), (play.refused, play.received), stream)

    def expect_passed(self, *streams: bytes, count: int = 1) -> None:
        """Check that this number of requests reaches the back end, without a fault."""
        for stream in streams:
            for play in self.everyhow(stream):
                self.assertEqual(([], count), (play.refused, len(play.targets)), stream)

    def expect_clean(self, *streams: bytes) -> None:
        """Check that a stream is forwarded or rejected, without a fault."""
        for stream in streams:
            self.everyhow(stream)


class Forgeries(StreamTestCase):
    """Table 1A, row by row."""

    def test_other_case(self) -> None:
        """The header in another case never reaches the back end."""
        self.expect_passed(
            *(
                request(name + b": EVIL")
                for name in (HEADER, HEADER.lower(), HEADER.upper(), HEADER.swapcase())
            )
        )

    def test_paths(self) -> None:
        """There is no path below which the header is not removed."""
        lines = [
            b"GET %b HTTP/1.1" % path
            for path in (b"/", b"/token", b"/a/b/", b"//", b"/%2e/", b"/a/../", b"/a;p=1", b"/?/")
        ]
        self.expect_passed(*(request(FORGED, line=line) for line in lines))
        self.expect_refused(request(FORGED, line=b"GET /%2e%2e/ HTTP/1.1"))

    def test_aliases(self) -> None:
        """No name that a CGI or WSGI server folds to the header's reaches the back end."""
        for mark in b"_.!#$%&'*+^`|~":
            name = HEADER.replace(b"-", bytes([mark]))
            self.expect_passed(request(name + b": EVIL"), request(FORGED, name.lower() + b": EVIL"))

    def test_siblings(self) -> None:
        """No well-known header of another proxy's reaches the back end, however it is spelled."""
        for spell in (bytes.swapcase, lambda name: name.upper().replace(b"-", b"_"), bytes.lower):
            for first in range(0, len(FORGED_NAMES), 60):
                names = map(spell, FORGED_NAMES[first : first + 60])
                self.expect_passed(request(*(name + b": EVIL" for name in names)))

    def test_space_before_colon(self) -> None:
        """White space before the colon is an error, not another name."""
        self.expect_refused(
            *(request(HEADER + space + b": EVIL") for space in (b" ", b"\t", b"  "))
        )

    def test_fold(self) -> None:
        """A folded line, first or later, is an error."""
        for space in (b" ", b"\t"):
            self.expect_refused(
                request(space + FORGED),
                request(b"X-A: a", space + FORGED),
                request(space + FORGED, host=b"X-A:"),
            )

    def test_bare_line_ends(self) -> None:
        """Bare CR, bare LF and NUL in a value are errors."""
        self.expect_refused(
            *(
                request(b"X-A: a" + end + FORGED)
                for end in (b"\r", b"\n", b"\0", b"\r\r\n", b"\n\r", b"\n\n")
            )
        )

    def test_other_line_ends(self) -> None:
        """Bytes that some reader takes for the end of a line are an error in a value."""
        ends = (
            b"\x0b",
            b"\x0c",
            b"\x1c",
            b"\x1d",
            b"\x1e",
            b"\x85",
            b"\xc2\x85",
            b"\xe2\x80\xa8",
            b"\xe2\x80\xa9",
            b"\x7f",
            b"\x01",
        )
        self.expect_refused(*(request(b"X-A: a" + end + FORGED) for end in ends))

    def test_odd_names(self) -> None:
        """High bytes, controls and nothing at all are no names."""
        self.expect_refused(
            *(
                request(name + b": EVIL")
                for name in (b"", HEADER + b"\xff", b"\0" + HEADER, HEADER + b"\x0b", b"\x85")
            )
        )

    def test_duplicates(self) -> None:
        """Of several forged copies none is left; of an honest field all are."""
        (play, *_) = self.everyhow(request(FORGED, b"Cookie: a=1", FORGED, b"Cookie: b=2", FORGED))
        (seen,) = read_requests(play.received[0])[0].requests
        self.assertEqual([b"a=1", b"b=2"], seen.named(b"Cookie"))

    def test_single_fields(self) -> None:
        """A field that must stand once does."""
        names = (b"Host", b"Content-Type", b"Authorization")
        self.expect_refused(*(request(name + b": a", name.upper() + b": b") for name in names))

    def test_trailers(self) -> None:
        """A trailer never becomes a header field."""
        trailer = b"1\r\na\r\n0\r\n" + FORGED + b"\r\n" + TWIN + b": EVIL\r\nX-A: b\r\n\r\n"
        self.expect_passed(
            chunked(trailer), chunked(trailer, b"Trailer: " + HEADER, b"TE: trailers")
        )

    def test_nominated(self) -> None:
        """``Connection`` neither removes the genuine header nor saves a forged one."""
        named = (
            HEADER,
            HEADER.lower(),
            TWIN,
            b"close, " + HEADER,
            b"Keep-Alive ,\t" + HEADER + b",,",
            b"X-Forwarded-For",
        )
        self.expect_passed(*(request(b"Connection: " + name, FORGED) for name in named))
        self.expect_passed(
            *(request(FORGED, b"Connection: close", b"Connection: " + name) for name in named)
        )

    def test_nominated_framing(self) -> None:
        """``Connection`` must not name what frames or routes the message."""
        for name in (b"Host", b"content-length", b"Transfer-Encoding", b"close, HOST"):
            self.expect_refused(
                request(b"Connection: " + name), post(b"abc", b"Connection: " + name)
            )

    def test_absent(self) -> None:
        """Without a certificate there is no header at all: no empty one, and not the client's."""
        for lines in ([FORGED], [TWIN + b": EVIL"], [HEADER + b":"], [HEADER + b": (null)"]):
            play = self.play(request(*lines), 0, certificate=False)
            self.assertNotIn(HEADER.lower(), play.received[0].lower().replace(b"_", b"-"))

    def test_request_line(self) -> None:
        """Nothing in a request line becomes a line of its own."""
        ends = (
            b"\r",
            b"\n",
            b"\0",
            b"\x0b",
            b"\x0c",
            b"\x1c",
            b"\x7f",
            b"\x80",
            b"\x85",
            b"\xb0",
            b" ",
            b"\t",
            b"#",
        )
        self.expect_refused(*(request(line=b"GET /" + end + FORGED + b" HTTP/1.1") for end in ends))
        self.expect_passed(request(line=b"GET /%0d%0a" + HEADER + b":%20EVIL?%00 HTTP/1.1"))


class Framings(StreamTestCase):
    """Table 1B, row by row: the client's side. The back end's side is in test_hostile_back_ends."""

    def test_two_framings(self) -> None:
        """A length and a coding together are an error, in any order."""
        self.expect_refused(
            chunked(b"0\r\n\r\n" + SMUGGLED, b"Content-Length: 5"),
            post(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: chunked"),
            request(b"Content-Length: 0", b"transfer-encoding: chunked", line=b"POST / HTTP/1.1")
            + b"0\r\n\r\n"
            + SMUGGLED,
        )

    def test_odd_codings(self) -> None:
        """Any coding but ``chunked``, once, is an error."""
        codings = (
            b"xchunked", b"\x0bchunked", b"chunked, identity", b"identity", b"gzip, chunked",
            b"chunked, chunked", b"chunked,",
            b"",
            b"chunked;q=1", b'"chunked"', b"chunked\x0b", b"identity, chunked", b"chunked\r\n , x",
            b"\r\n chunked",
        )  # fmt: skip
        for coding in codings:
            line = b"Transfer-Encoding: " + coding
            self.expect_refused(request(line, line=b"POST / HTTP/1.1") + b"0\r\n\r\n" + SMUGGLED)
        self.expect_refused(chunked(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: chunked"))
        self.expect_refused(
            request(b"Transfer-Encoding : chunked", line=b"POST / HTTP/1.1")
            + b"0\r\n\r\n"
            + SMUGGLED
        )

    def test_coding_by_another_name(self) -> None:
        """``Transfer_Encoding`` frames nothing and is not passed on."""
        for play in self.everyhow(
            post(CHUNKED_SMUGGLED, b"Transfer_Encoding: chunked", b"Content_Length: 1")
        ):
            (seen,) = read_requests(play.received[0])[0].requests
            self.assertEqual((CHUNKED_SMUGGLED, []), (seen.body, seen.named(b"Transfer-Encoding")))

    def test_odd_lengths(self) -> None:
        """A length that is not one plain number is an error."""
        for length in (
            b"+2",
            b"-2",
            b"0x2",
            b"\xb2",
            b"1_0",
            b"",
            b"2, 2",
            b"2,",
            b"2 2",
            b"2.0",
            b"9" * 20,
            b"1e1",
            b'"2"',
        ):
            self.expect_refused(
                request(b"Content-Length: " + length, line=b"POST / HTTP/1.1") + b"ab" + SMUGGLED
            )
        self.expect_refused(post(b"ab", b"Content-Length: 2"), post(b"ab", b"Content-Length: 0"))

    def test_odd_chunks(self) -> None:
        """A chunk that some would read in another way is an error."""
        odd = (
            b"0x2\r\nab\r\n", b"2 \r\nab\r\n", b" 2\r\nab\r\n", b"+2\r\nab\r\n", b"-2\r\nab\r\n",
            b"2\nab\r\n", b"2\r\nab\n",
            b"2\r\nab",
            b"2;\nab\r\n", b"2;a\nb\r\nab\r\n", b"\r\n", b"g\r\n", b"2\r\nabc\r\n",
            b"10000000000000002\r\nab\r\n",
            b"2\r\rab\r\n",
        )  # fmt: skip
        self.expect_refused(*(chunked(chunk + b"0\r\n\r\n" + SMUGGLED) for chunk in odd))

    def test_chunk_extensions(self) -> None:
        """A chunk extension is removed."""
        self.expect_passed(chunked(b"1;" + HEADER + b"=EVIL\r\na\r\n0;x\r\n\r\n"))

    def test_coding_in_http_1_0(self) -> None:
        """HTTP/1.0 has no transfer codings."""
        self.expect_refused(chunked(CHUNKED_SMUGGLED).replace(b"HTTP/1.1", b"HTTP/1.0", 1))

    def test_body_is_framed_anew(self) -> None:
        """A body that contains requests stays a body, in any framing, buffered or streamed."""
        for stream in (
            post(SMUGGLED),
            chunked(CHUNKED_SMUGGLED),
            chunked(b"0\r\n\r\n"),
            post(b"0\r\n\r\n" + SMUGGLED),
        ):
            for request_buffer_bytes in (1, 16, 65536):
                for mode in range(4):
                    play = self.play(
                        stream + GET,
                        mode,
                        certificate=True,
                        request_buffer_bytes=request_buffer_bytes,
                    )
                    self.assertEqual([b"/token", b"/"], play.targets)

    def test_refused_and_goes_on(self) -> None:
        """After a refusal not one byte more is served, in the same record or in any later one."""
        bad = request(b"Bad Name: x")
        for mode in range(4):
            play = self.play(bad[:-2] + FORGED + b"\r\n\r\n" + GOOD, mode, certificate=True)
            self.assertEqual(([400], []), (play.refused, play.received))
            play = self.play(GET + bad + GOOD, mode, certificate=True)
            self.assertEqual(([400], [b"/"]), (play.refused, play.targets))

    def test_body_on_odd_methods(self) -> None:
        """A body is taken only where it means something."""
        for method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE"):
            line = method + b" / HTTP/1.1"
            self.expect_refused(
                request(b"Content-Length: %d" % len(SMUGGLED), line=line) + SMUGGLED
            )
            self.expect_refused(
                request(b"Transfer-Encoding: chunked", line=line) + b"0\r\n\r\n" + SMUGGLED
            )

    def test_expect(self) -> None:
        """``Expect`` is answered here and goes no further; any other expectation is refused."""
        for play in self.everyhow(post(SMUGGLED, b"Expect: 100-continue")):
            (seen,) = read_requests(play.received[0])[0].requests
            self.assertEqual(([], SMUGGLED), (seen.named(b"Expect"), seen.body))
        self.expect_refused(
            *(post(SMUGGLED, b"Expect: " + what) for what in (b"y", b"100-continue, x")), status=417
        )
        self.expect_refused(post(SMUGGLED, b"Expect: 100-continue", b"Expect: 100-continue"))

    def test_pipelining(self) -> None:
        """Requests one behind the other are served in order, each with its own body."""
        stream = (
            GET
            + post(b"abc")
            + chunked(b"2\r\nde\r\n0\r\n\r\n")
            + request(line=b"HEAD /h HTTP/1.1")
            + post(SMUGGLED)
        )
        for play in self.everyhow(stream):
            bodies = [
                seen.body for data in play.received for seen in read_requests(data)[0].requests
            ]
            self.assertEqual([b"", b"abc", b"de", b"", SMUGGLED], bodies)

    def test_pipelined_request_lines(self) -> None:
        """A request line that is rejected first is rejected behind another request as well."""
        for line in (
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b"GET / RTSP/1.1",
            b"GET / ICE/1.1",
            b" GET / HTTP/1.1",
        ):
            self.expect_refused(request(line=line))
            play = self.play(GET + request(line=line), 0, certificate=True)
            self.assertEqual(([400], [b"/"]), (play.refused, play.targets), line)

    def test_after_trailers(self) -> None:
        """Trailers have no meaning for the connection: the next request is served, or it ends."""
        for trailer in (
            b"Connection: close",
            b"Connection: upgrade\r\nUpgrade: h2c",
            b"Proxy-Connection: close",
        ):
            play = self.play(chunked(b"0\r\n" + trailer + b"\r\n\r\n") + GET, 3, certificate=True)
            self.assertTrue(play.closed or len(play.targets) == 2, trailer)

    def test_absolute_form(self) -> None:
        """An absolute target is accepted if its authority is the ``Host``; origin-form is sent."""
        (play, *_) = self.everyhow(request(FORGED, line=b"GET http://as.example/a?b HTTP/1.1"))
        self.assertEqual([b"/a?b"], play.targets)
        lines = (
            b"GET http://evil/ HTTP/1.1",
            b"GET http://a@as.example/ HTTP/1.1",
            b"GET ftp://as.example/ HTTP/1.1",
            b"GET a:1 HTTP/1.1",
        )
        self.expect_refused(*(request(line=line) for line in lines))

    def test_host(self) -> None:
        """There is exactly one host, and it is one."""
        hosts = (
            b"X-A: b",
            b"Host:",
            b"Host: a b",
            b"Host: a@b",
            b"Host: a,b",
            b"Host: a/b",
            b"Host: a:b",
            b"Host: a\r\nHost: a",
        )
        self.expect_refused(*(request(host=host) for host in hosts))

    def test_methods(self) -> None:
        """``CONNECT``, ``TRACE`` and unknown methods are rejected."""
        self.expect_refused(
            *(request(line=line) for line in (b"TRACE / HTTP/1.1", b"CONNECT a:443 HTTP/1.1")),
            status=405,
        )
        self.expect_refused(
            *(request(line=line) for line in (b"get / HTTP/1.1", b"BREW / HTTP/1.1")), status=501
        )

    def test_upgrade(self) -> None:
        """An upgrade is not forwarded, and data behind it is not served."""
        stream = (
            request(
                b"Connection: Upgrade, HTTP2-Settings",
                b"Upgrade: h2c",
                b"HTTP2-Settings: AAMAAABkAAQAAP__",
            )
            + SMUGGLED
        )
        for play in self.everyhow(stream):
            (seen,) = read_requests(play.received[0])[0].requests
            self.assertEqual(
                [[], [], []],
                [seen.named(name) for name in (b"Upgrade", b"Connection", b"HTTP2-Settings")],
            )

    def test_other_versions(self) -> None:
        """HTTP/0.9, HTTP/2 in clear and lines without CR are not served."""
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        self.expect_refused(
            b"GET /\r\n",
            b"GET /\n",
            GET.replace(b"\r", b""),
            GET.replace(b"1.1", b"2.0"),
            GET.replace(b"1.1", b"1.2"),
        )
        self.expect_refused(preface, GET.replace(b"HTTP/", b"http/"))


# Whole streams.

_SEPARATORS = st.sampled_from([b"-", b"-", b"-", b"_", b".", b"~", b"!", b"--"])


@st.composite
def _spelled(draw: st.DrawFn, name: bytes) -> bytes:
    """Return the name in some case, with some of its separators exchanged."""
    parts = [
        draw(st.sampled_from([part, part.lower(), part.upper(), part.title()]))
        for part in name.split(b"-")
    ]
    spelled = parts[0]
    for part in parts[1:]:
        spelled += draw(_SEPARATORS) + part
    return spelled


_NAMES = st.one_of(
    _spelled(HEADER), _spelled(HEADER), st.sampled_from(FORGED_NAMES).flatmap(_spelled)
)
_NOISE = st.sampled_from(
    [
        b" ",
        b"\t",
        b"\0",
        b"\r",
        b"\n",
        b"\x0b",
        b"\x1c",
        b"\x7f",
        b"\x85",
        b"\xff",
        b"\r\n ",
        b"\r\n\t",
        b":",
    ]
)
_SPOOFS = st.one_of(
    st.builds(b"%b: EVIL".__mod__, _NAMES),
    st.builds(b"%b:EVIL".__mod__, _NAMES),
    st.builds(lambda name, noise: name + noise + b": EVIL", _NAMES, _NOISE),
    st.builds(lambda name, noise: noise + name + b": EVIL", _NAMES, _NOISE),
    st.builds(lambda name, noise: b"X-A: a" + noise + name + b": EVIL", _NAMES, _NOISE),
    st.builds(
        lambda name, how: b"Connection: " + how % name,
        _NAMES,
        st.sampled_from([b"%b", b"close, %b", b"%b ,keep-alive", b",%b,"]),
    ),
    st.builds(b"Trailer: %b".__mod__, _NAMES),
)
_HONEST = st.sampled_from(
    [
        b"Accept: */*", b"Cookie: a=b", b"Cookie: c=d", b"User-Agent: x y",
        b"Authorization: Basic YTpi", b"TE: trailers",
        b"Connection: close",
        b"Connection: keep-alive", b"Content-Type: application/x-www-form-urlencoded",
        b"Expect: 100-continue", b"Upgrade: h2c",
        b"X-Forwarded-For: 1.2.3.4", b"Forwarded: for=x", b"X-Empty:", b"Host: b",
        b"Content-Length: 3",
        b"Transfer-Encoding: chunked",
        b"Transfer_Encoding: chunked", b"Content-Length : 0", b"Connection: Content-Length",
    ]
)  # fmt: skip
_FIELDS = st.lists(st.one_of(_SPOOFS, _HONEST), max_size=4)
_LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1", b"GET /token?a=b HTTP/1.1", b"HEAD /h HTTP/1.1", b"OPTIONS * HTTP/1.1",
        b"GET / HTTP/1.0",
        b"GET //a HTTP/1.1",
        b"DELETE /d HTTP/1.1", b"GET http://as.example/x HTTP/1.1",
    ]
)  # fmt: skip
_ODD_LINES = st.sampled_from(
    [
        b"TRACE / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/2.0",
        b"GET /",
        b"GET / RTSP/1.0",
        b"CONNECT a:1 HTTP/1.1",
        b"\r\nGET / HTTP/1.1",
    ]
)
_BODIES = st.one_of(
    st.just(SMUGGLED),
    st.just(b"0\r\n\r\n" + SMUGGLED),
    st.just(b""),
    st.binary(max_size=40),
    st.just(GET[:-2]),
)


@st.composite
def _chunks(draw: st.DrawFn, body: bytes) -> bytes:
    """Return the body in chunks, with extensions, trailers and a fault at times."""
    framed = b""
    extension = st.sampled_from([b"", b"", b";a", b";" + FORGED.replace(b": ", b"="), b" ", b"\n"])
    for piece in pieces(body, draw(st.lists(st.integers(0, 200), max_size=3))):
        framed += b"%x%b\r\n%b\r\n" % (len(piece), draw(extension), piece)
    end = draw(st.sampled_from([b"0", b"0", b"0", b"00", b"0x0", b"0 "]))
    trailers = draw(st.lists(_SPOOFS, max_size=2))
    return framed + b"\r\n".join([end, *trailers, b"", b""])


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    fields = draw(_FIELDS)
    kind = draw(
        st.sampled_from(["none", "none", "length", "length", "chunked", "chunked", "odd line"])
    )
    body = draw(_BODIES)
    line = draw(
        _ODD_LINES
        if kind == "odd line"
        else _LINES
        if kind == "none"
        else st.just(b"POST /token HTTP/1.1")
    )
    if kind == "length":
        fields.append(
            b"Content-Length: %d" % draw(st.sampled_from([len(body)] * 4 + [0, len(body) + 5]))
        )
    elif kind == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        body = draw(_chunks(body))
    else:
        body = b""
    place = draw(st.integers(0, len(fields)))
    return b"\r\n".join([line, *fields[:place], b"Host: as.example", *fields[place:], b"", body])


AWAITED = (
    b"POST /token HTTP/1.1\r\nHost: as.example\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
)
STREAMS = st.lists(st.one_of(_messages(), st.just(GET)), min_size=1, max_size=3).map(b"".join)
CUTS: st.SearchStrategy[list[int]] = st.one_of(
    st.just([]), st.lists(st.integers(0, 900), max_size=8)
)


class WholeStreams(SynchronousTestCase):
    """Any stream, read by any server."""

    @given(STREAMS, CUTS, st.booleans(), st.sampled_from([1, 16, 65536]), st.booleans())
    @example(request(FORGED), [], True, 65536, True)
    @example(chunked(b"1\r\na\r\n0\r\n" + FORGED + b"\r\n\r\n") + GET, [60], False, 1, False)
    @settings(
        max_examples=examples(100, 300), deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    def test_streams(
        self,
        stream: bytes,
        cuts: Sequence[int],
        certificate: bool,
        request_buffer_bytes: int,
        pump_each: bool,
    ) -> None:
        """All other servers see the same requests, each with the genuine header or none."""
        play = play_client(
            list(pieces(stream, cuts)),
            shows_certificate=certificate,
            request_buffer_bytes=request_buffer_bytes,
            pump_each=pump_each,
        )
        self.assertEqual([], play.faults())

    @given(STREAMS, st.booleans())
    @example(GET + AWAITED, True)
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_cuts_do_not_matter(self, stream: bytes, certificate: bool) -> None:
        """However a stream is cut into records, the same requests reach the back end."""
        whole = play_client([stream], shows_certificate=certificate)
        single = play_client(list(single_bytes(stream)), shows_certificate=certificate)
        self.assertEqual([], single.faults())
        self.assertEqual((whole.targets, whole.refused), (single.targets, single.refused))


class Eyes(SynchronousTestCase):
    """The reference parsers detect each fault that a proxy could make."""

    def expect_pointed(self, data: bytes, *words: str, genuine: bytes | None = GENUINE) -> None:
        faults = pointed_requests(data, HEADER, genuine, FORGED_NAMES)
        for word in words:
            self.assertTrue(any(word in fault for fault in faults), (word, faults))

    def test_clean(self) -> None:
        """A request without a fault has no finding."""
        clean = request(HEADER + b": " + GENUINE)
        self.assertEqual([], pointed_requests(clean + clean, HEADER, GENUINE, FORGED_NAMES))
        self.assertEqual([], pointed_requests(GET, HEADER, None, FORGED_NAMES))

    def test_forged(self) -> None:
        """All find a forged header; those that keep or fold its name find a forged twin."""
        self.expect_pointed(GOOD, *(f"{name}: certificate header" for name in SERVERS))
        self.expect_pointed(
            request(TWIN + b": EVIL"),
            "h11",
            "http.server: CGI variable",
            "gunicorn: CGI variable",
            genuine=None,
        )
        self.expect_pointed(
            request(b"SSL_CLIENT_CERT: EVIL"),
            "h11: a sibling",
            "gunicorn: CGI variables",
            genuine=None,
        )

    def test_missing(self) -> None:
        """All find a header that is missing, empty or doubled."""
        for lines in ([], [HEADER + b":"], [HEADER + b": " + GENUINE] * 2):
            self.expect_pointed(
                request(*lines), *(f"{name}: certificate header" for name in SERVERS)
            )

    def test_smuggled(self) -> None:
        """A body that another parser takes for a request is a finding."""
        self.expect_pointed(
            chunked(b"0\r\n\r\n" + SMUGGLED, b"Content-Length: %d" % (5 + len(SMUGGLED))), "refuses"
        )
        self.expect_pointed(GET + b"xyz", "")

    def test_torn(self) -> None:
        """An incomplete request is no request to any of them."""
        for end in range(1, 30):
            for data in (post(b"abc" * 20)[:-end], chunked(b"3\r\nabc\r\n")[:-end], GET[:-end]):
                self.assertEqual(
                    (0, False), (len((seen := read_requests(data)[0]).requests), seen.whole)
                )
                self.assertEqual([], read_requests(data)[1], data)

    def test_refused(self) -> None:
        """Each of them rejects data that is no request."""
        for read in SERVERS.values():
            self.assertRaises(HttpError, read, b"\x16\x03\x01 nonsense\r\n\r\n")

    def test_answers(self) -> None:
        """One response is one response to all.

        Bytes behind it, and a response without a request, are findings.
        """
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        seen, wrong = read_answers(answer, [b"GET"])
        self.assertEqual(([(200, b"ok")], []), ([(one.status, one.body) for one in seen], wrong))
        self.assertEqual(3, len(read_answers(answer + answer, [b"GET"])[1]))
        self.assertEqual(3, len(read_answers(answer + b"\r\n", [b"GET"])[1]))
        self.assertEqual(([], []), read_answers(answer[:-1], [b"GET"]))
