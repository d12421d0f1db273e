"""Tests of :mod:`x509proxy.http1.response_parser`.

Whatever a back end sends is one response, or a 502.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.streams import (
    CUTS,
    STREAMS,
    Event,
    feed,
    joined,
    pieces,
    request,
    shape_of,
    single_bytes,
    taken,
)
from x509proxy.http1 import response_parser
from x509proxy.http1.errors import Code, ErrorResponse
from x509proxy.http1.messages import EndOfMessage, Framing, ResponseHead
from x509proxy.http1.response_parser import ResponseParser
from x509proxy.settings import UpstreamSettings

UPSTREAM = UpstreamSettings()


def answer(fields: bytes = b"", line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    return line + b"\r\n" + fields + b"\r\n" + body


LENGTH = b"Content-Length: 2\r\n"


CHUNKED = b"Transfer-Encoding: chunked\r\n"


CHUNKS = b"2\r\nab\r\n0\r\n\r\n"


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


UPGRADE = b"Connection: upgrade\r\nUpgrade: h2c\r\n"


PLAIN = answer(LENGTH, body=b"ab")


# None of these has a valid head.
HOSTILE_HEADS = (
    b"garbage", b"\0", b"SSH-2.0-OpenSSH_9.2\r\n", request(), b"\x15\x03\x03\x00\x02\x02\x28",
    b"ICY 200 OK\r\n\r\n",
    PLAIN.replace(b"\r\n", b"\n"),
    b"HTTP/1.1 200 OK\n" + LENGTH + b"\r\nab",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nab",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nab",
    answer(LENGTH + LENGTH, body=b"ab"),
    answer(LENGTH + b"Content-Length: 3\r\n", body=b"ab"),
    *(answer(b"Content-Length: " + value + b"\r\n", body=b"ab") for value in (b"-2", b"+2", b"2, 2",
    b"0x2", b"", b"9" * 20)),
    answer(LENGTH + CHUNKED, body=CHUNKS),
    answer(CHUNKED + LENGTH, body=CHUNKS),
    answer(CHUNKED, b"HTTP/1.0 200 OK", CHUNKS),
    *(
        answer(b"Transfer-Encoding: " + value + b"\r\n", body=CHUNKS)
        for value in (b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"xchunked", b"",
        b"\x0bchunked")
    ),
    answer(b"Transfer-Encoding: chunked\t\r\n", body=CHUNKS),
    answer(b"Content-Length: 2\t\r\n", body=b"ab"),
    answer(CHUNKED + CHUNKED, body=CHUNKS),
    answer(line=b"HTTP/1.1 101 Switching Protocols"),
    answer(UPGRADE, b"HTTP/1.1 101 Switching Protocols", b"anything"),
    answer(LENGTH, b"HTTP/1.1 101 Switching Protocols", b"ab"),
    *(
        answer(LENGTH, b"HTTP/1.1 " + status + b" X", b"ab")
        for status in (b"000", b"099", b"600", b"999", b"20", b"2000", b"-200", b"+200", b"abc",
        b"2 0", b"")
    ),
    *(answer(LENGTH, version + b" 200 OK", b"ab") for version in (b"HTTP/0.9", b"HTTP/1.2",
    b"HTTP/2.0", b"http/1.1", b"HTTP/1")),
    *(
        answer(field + b"\r\n" + LENGTH, body=b"ab")
        for field in (
            b"X: a\0b", b"X: a\x01b", b"X: a\x7fb", b"X\0: a", b"X\x80: a", b"X : a", b" X: a",
            b"X", b": a", b"X: a\r\n b",
            b"X: a\rY: b", b"X: a\nY: b",
        )
    ),
    answer(LENGTH, b"HTTP/1.1 200 a\rb", b"ab"),
    answer(LENGTH, b"HTTP/1.1 200 a\nb", b"ab"),
    answer(LENGTH, b"HTTP/1.1 200 OK\rSet-Cookie: a", b"ab"),
    INTERIM * 17 + PLAIN,
    answer(b"Connection: close\r\n", b"HTTP/1.1 100 Continue") + PLAIN,
    answer(LENGTH, b"HTTP/1.1 103 Early Hints", b"ab") + PLAIN,
    answer(CHUNKED, b"HTTP/1.1 103 Early Hints", CHUNKS) + PLAIN,
)  # fmt: skip


# An interim response with any number has no body. If one announces it, the beginning of the next
# response is unknown.
INTERIM_BODIES = tuple(
    answer(fields, b"HTTP/1.1 %d X" % status, body)
    for status in (100, 102, 103, 104, 150, 199)
    for fields, body in ((LENGTH, b"ab"), (CHUNKED, CHUNKS), (b"Content-Length: 500\r\n", PLAIN))
)


HOSTILE_BODIES = tuple(
    answer(CHUNKED, body=body)
    for body in (
        b"zz\r\n", b"2\nab\r\n0\r\n\r\n", b"0x2\r\nab", b"2\r\nabc\r\n", PLAIN,
        b"2\r\nab\r\n0\r\nContent-Length: 2\r\n\r\n",
    )
)  # fmt: skip


# Truncated in each state.
TRUNCATED = (
    b"", b"\r\n", b"H", b"HTTP/1.1 20", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nX: y", answer()[:-1],
    INTERIM, answer(LENGTH), answer(LENGTH, body=b"a"), answer(CHUNKED), answer(CHUNKED, body=b"2"),
    answer(CHUNKED, body=b"2\r\na"), answer(CHUNKED, body=b"2\r\nab"),
    answer(CHUNKED, body=b"2\r\nab\r\n"),
    answer(CHUNKED, body=b"2\r\nab\r\n0\r\n"),
    answer(CHUNKED, body=b"2\r\nab\r\n0\r\nX: y\r\n"),
)  # fmt: skip


GOOD_ANSWERS = (
    PLAIN, answer(CHUNKED, body=CHUNKS), answer(CHUNKED, body=b"2\r\nab\r\n0\r\nX: y\r\n\r\n"),
    answer(body=b"ab"),
    INTERIM * 16 + PLAIN, answer(LENGTH, b"HTTP/1.0 200 OK", b"ab"),
    answer(line=b"HTTP/1.1 204 No Content"),
    answer(LENGTH, b"HTTP/1.1 304 X"),
    answer(UPGRADE + LENGTH, body=b"ab"), PLAIN + PLAIN, PLAIN + b"\0",
    answer(LENGTH, b"HTTP/1.1 204 No Content", b"ab"),
)  # fmt: skip


def respond(
    feeds: Iterable[bytes],
    method: bytes = b"GET",
    settings: UpstreamSettings = UPSTREAM,
    *,
    clean: bool = True,
) -> tuple[list[Event], bool]:
    """Return the events up to the connection's end, and whether it could be used again."""
    reader = ResponseParser(method, settings)
    events = feed(feeds, reader)
    reusable = reader.reusable
    return joined([*events, *reader.end_of_stream(clean=clean)]), reusable


class AnswerTestCase(SynchronousTestCase):
    def expect(
        self, shape: str, data: bytes, method: bytes = b"GET", *, reusable: bool, clean: bool = True
    ) -> list[Event]:
        """Check the events, whole and octet by octet.

        An error is a 502, and the connection is not used again.
        """
        found = respond([data], method, clean=clean)
        self.assertEqual((shape, reusable), (shape_of(found[0]), found[1]), (data[:200], found[0]))
        self.assertEqual(found, respond(single_bytes(data), method, clean=clean), data[:200])
        for event in found[0]:
            if isinstance(event, ErrorResponse):
                self.assertEqual(502, event.status)
        return found[0]


class HostileAnswers(AnswerTestCase):
    def test_heads(self) -> None:
        """A response with a malformed head is a 502, and no part of it is returned."""
        for data in HOSTILE_HEADS:
            self.expect("R", data, reusable=False)

    def test_interim_answers_with_bodies(self) -> None:
        """An interim response with a body is a 502.

        That body would be taken for the next response.
        """
        for data in INTERIM_BODIES:
            for more in (b"", PLAIN):
                found, reusable = respond([data + more])
                self.assertEqual(("R", False), (shape_of(found), reusable), data)
                self.assertEqual("R", shape_of(respond(single_bytes(data + more))[0]), data)

    def test_bodies(self) -> None:
        """A response with a malformed body is cut there."""
        for data in HOSTILE_BODIES:
            whole = shape_of(respond([data])[0])
            self.assertIn(whole, ("HR", "HBR"))
            self.expect(whole, data, reusable=False)

    def test_cut_short(self) -> None:
        """A truncated response is never complete, whether the connection ended cleanly or not."""
        for data in TRUNCATED:
            for clean in (True, False):
                found = self.expect(shape_of(respond([data])[0]), data, reusable=False, clean=clean)
                self.assertEqual(1, shape_of(found).count("R"), data)
                self.assertNotIn(EndOfMessage.END, found)

    def test_no_answer(self) -> None:
        """A missing response and a truncated one have different details."""
        (none,), _ = respond([])
        (short,), _ = respond([b"H"])
        assert isinstance(none, ErrorResponse)
        assert isinstance(short, ErrorResponse)
        self.assertIn("none", none.detail)
        self.assertIn("cut short", short.detail)

    def test_own_error(self) -> None:
        """After an error of the proxy nothing is parsed; the connection's end is a failure."""
        for data in (PLAIN, answer(b"X: y\r\n", body=b"ab")):
            parser = ResponseParser(b"GET", UPSTREAM)
            with patch.object(response_parser, "response_head", side_effect=ZeroDivisionError):
                self.assertRaises(ZeroDivisionError, parser.feed, data)
            self.assertEqual([], parser.feed(PLAIN))
            self.assertEqual("R", shape_of(parser.end_of_stream(clean=True)))
            self.assertEqual([], parser.end_of_stream(clean=True))
        # In a body that ends with the connection.
        parser = ResponseParser(b"GET", UPSTREAM)
        parser.feed(answer(body=b"ab"))
        with patch.object(ResponseParser, "_read_body", side_effect=ZeroDivisionError):
            self.assertRaises(ZeroDivisionError, parser.feed, b"cd")
        self.assertEqual("R", shape_of(parser.end_of_stream(clean=True)))

    def test_after_an_error(self) -> None:
        """After an error there are no more events, neither from octets nor from the end."""
        reader = ResponseParser(b"GET", UPSTREAM)
        self.assertEqual("R", shape_of(reader.feed(b"garbage")))
        self.assertEqual(
            [[], [], []], [reader.feed(PLAIN), reader.feed(b"x"), reader.end_of_stream(clean=True)]
        )

    @given(st.sampled_from((*HOSTILE_HEADS, *HOSTILE_BODIES, *TRUNCATED)), CUTS, st.booleans())
    def test_any_split(self, data: bytes, cuts: Sequence[int], clean: bool) -> None:
        """Wherever a malformed response is cut, the events are the same."""
        found = respond(pieces(data, cuts), clean=clean)
        self.assertEqual(respond([data], clean=clean), found)
        self.assertTrue(shape_of(found[0]).endswith("R"))


class Answers(AnswerTestCase):
    def test_literal(self) -> None:
        """A response is its head, body and end, after which the connection can be used again."""
        found = self.expect(
            "HBE",
            answer(b"Content-Length: 2\r\nX: \xe9 \r\n", b"HTTP/1.1 404 Not Found", b"ab"),
            reusable=True,
        )
        pairs = [(b"Content-Length", b"2"), (b"X", b"\xe9")]
        self.assertEqual(
            [ResponseHead(404, b"Not Found", pairs, Framing.LENGTH, 2), b"ab", EndOfMessage.END],
            found,
        )

    def test_chunked(self) -> None:
        """Chunks become a body, without their trailer fields."""
        found = self.expect(
            "HBE",
            answer(CHUNKED, body=b"1\r\na\r\n1;x=y\r\nb\r\n0\r\nX: evil\r\n\r\n"),
            reusable=True,
        )
        self.assertEqual(b"ab", found[1])
        self.assertNotIn("evil", repr(found))

    def test_until_the_end(self) -> None:
        """A body without framing ends with a clean end of the connection.

        Otherwise it is truncated.
        """
        self.expect("HBE", answer(body=b"ab"), reusable=False)
        self.expect("HE", answer(), reusable=False)
        self.expect("HBR", answer(body=b"ab"), reusable=False, clean=False)

    def test_interim_answers(self) -> None:
        """Interim responses are dropped, with their fields; sixteen of them are permitted."""
        early = answer(b"Link: x\r\n", b"HTTP/1.1 103 Early Hints")
        found = self.expect("HBE", INTERIM * 8 + early * 8 + PLAIN, reusable=True)
        self.assertEqual(
            ResponseHead(200, b"OK", [(b"Content-Length", b"2")], Framing.LENGTH, 2), found[0]
        )
        self.expect(
            "HBE", answer(b"Content-Length: 0\r\n", b"HTTP/1.1 100 X") + PLAIN, reusable=True
        )
        self.expect("HBE", answer(UPGRADE, b"HTTP/1.1 100 X") + PLAIN, reusable=True)
        self.expect("HBE", answer(line=b"HTTP/1.1 199 X") + PLAIN, reusable=True)

    def test_reason(self) -> None:
        """A reason phrase with obs-text is dropped; there may be none, and no space before it."""
        for line, reason in (
            (b" a\tb", b"a\tb"), (b" \xe9", b""), (b"", b""), (b" ", b""), (b"  ~", b" ~"),
        ):  # fmt: skip
            head = self.expect("HBE", answer(LENGTH, b"HTTP/1.1 200" + line, b"ab"), reusable=True)[
                0
            ]
            assert isinstance(head, ResponseHead)
            self.assertEqual(reason, head.reason, line)

    def test_control_characters_in_reason(self) -> None:
        """A reason phrase with a control character is invalid (RFC 9112 section 4)."""
        for octet in {*range(0x20), 0x7F} - {9}:
            line = b"HTTP/1.1 200 a%cb" % octet
            self.expect("R", answer(LENGTH, line, b"ab"), reusable=False)

    def test_connection_ends(self) -> None:
        """After ``Connection: close``, or HTTP/1.0 without keep-alive, there is no reuse."""
        self.expect("HBE", answer(LENGTH + b"Connection: close\r\n", body=b"ab"), reusable=False)
        self.expect("HBE", answer(LENGTH, b"HTTP/1.0 200 OK", b"ab"), reusable=False)
        self.expect(
            "HBE",
            answer(LENGTH + b"Connection: keep-alive\r\n", b"HTTP/1.0 200 OK", b"ab"),
            reusable=True,
        )

    def test_upgrade_that_is_none(self) -> None:
        """Only 101 agrees to an upgrade: in a 200 its fields change nothing."""
        self.expect("HBE", answer(UPGRADE + LENGTH, body=b"ab"), reusable=True)

    def test_no_body(self) -> None:
        """204, 304 and every response to HEAD end with their head and end their connection.

        This holds for any length in the head.
        """
        self.expect("HE", answer(line=b"HTTP/1.1 204 No Content"), reusable=False)
        self.expect("HE", answer(line=b"HTTP/1.1 304 Not Modified"), reusable=False)
        self.expect("HE", answer(b"Content-Length: 0\r\n"), b"HEAD", reusable=False)
        self.expect(
            "HE", answer(b"Content-Length: 0\r\n", b"HTTP/1.1 205 Reset Content"), reusable=False
        )
        for data, method, length in (
            (answer(LENGTH, b"HTTP/1.1 304 Not Modified"), b"GET", 2),
            (answer(LENGTH), b"HEAD", 2),
            (answer(CHUNKED), b"HEAD", -1),
            (answer(LENGTH, b"HTTP/1.1 404 Not Found"), b"HEAD", 2),
        ):
            head = self.expect("HE", data, method, reusable=False)[0]
            assert isinstance(head, ResponseHead)
            self.assertEqual((Framing.NONE, length), (head.body, length), data)
        self.expect("HE", answer(), b"HEAD", reusable=False)

    def test_announced_body(self) -> None:
        """A response that announces a forbidden body costs the connection.

        The body might arrive later, as the next client's response.
        """
        for fields in (LENGTH, CHUNKED):
            for line, method in (
                (b"204 No Content", b"GET"),
                (b"304 Not Modified", b"GET"),
                (b"200 OK", b"HEAD"),
            ):
                self.expect("HE", answer(fields, b"HTTP/1.1 " + line), method, reusable=False)

    def test_body_that_must_not_be(self) -> None:
        """A body after a head like this is never returned, and costs the connection."""
        for data, method in (
            (answer(LENGTH, b"HTTP/1.1 204 No Content", b"ab"), b"GET"),
            (answer(LENGTH, b"HTTP/1.1 304 Not Modified", b"ab"), b"GET"),
            (answer(LENGTH, body=b"ab"), b"HEAD"),
            (answer(CHUNKED, body=CHUNKS), b"HEAD"),
            (answer(CHUNKED, body=b"2"), b"HEAD"),
            (answer(CHUNKED, body=b"0\r\n\r\n"), b"HEAD"),
            (INTERIM + answer(CHUNKED, body=b"2\r"), b"HEAD"),
            (answer(body=b"ab"), b"HEAD"),
        ):
            self.expect("HE", data, method, reusable=False)

    def test_more_than_an_answer(self) -> None:
        """Octets after the end, in this feed or the next, are dropped and cost the connection."""
        for more in (b"x", PLAIN, INTERIM, b"\0", answer(b"X: y\r\n")):
            self.expect("HBE", PLAIN + more, reusable=False)
            self.expect("HBE", answer(CHUNKED, body=CHUNKS) + more, reusable=False)
            self.assertEqual(("HBE", False), self.short(respond([PLAIN, more])))

    def short(self, found: tuple[list[Event], bool]) -> tuple[str, bool]:
        return shape_of(found[0]), found[1]

    @given(st.sampled_from(GOOD_ANSWERS), st.sampled_from([b"GET", b"HEAD"]), CUTS)
    def test_any_split(self, data: bytes, method: bytes, cuts: Sequence[int]) -> None:
        """Wherever a response is cut, it is the same response."""
        self.assertEqual(respond([data], method), respond(pieces(data, cuts), method))
        self.assertEqual(respond([data], method), respond(single_bytes(data), method))


class AnswerLimits(SynchronousTestCase):
    def expect_error(self, data: bytes, settings: UpstreamSettings = UPSTREAM) -> None:
        cut: Callable[[bytes], Iterable[bytes]]
        for cut in (
            lambda data: [data],
            single_bytes,
            lambda data: pieces(data, range(0, len(data), 997)),
        ):
            found, reusable = respond(cut(data), settings=settings)
            self.assertEqual(("R", False), (shape_of(found), reusable))
            self.assertIs(Code.RESPONSE_TOO_LARGE, getattr(found[0], "code", None))

    def test_head(self) -> None:
        """A head of 40 KB is a 502."""
        self.expect_error(answer(b"X: " + b"a" * 40000 + b"\r\n" + LENGTH, body=b"ab"))
        self.expect_error(answer(LENGTH, b"HTTP/1.1 200 " + b"a" * 40000, b"ab"))

    def test_head_exactly(self) -> None:
        """The head has at most ``max_head_bytes``, including its interim responses."""
        for before in (b"", INTERIM * 3):
            whole = before + answer(LENGTH + b"X: " + b"a" * 66 + b"\r\n")
            settings = UpstreamSettings(max_head_bytes=len(whole))
            for feeds in ([whole + b"ab"], single_bytes(whole + b"ab")):
                self.assertEqual("HBE", shape_of(respond(feeds, settings=settings)[0]))
            self.expect_error(
                before + answer(LENGTH + b"X: " + b"a" * 67 + b"\r\n", body=b"ab"), settings
            )

    def test_number_of_fields(self) -> None:
        """Two hundred fields are accepted, one more is a 502, and so are 5000."""
        self.assertEqual(
            "HBE", shape_of(respond([answer(b"X: a\r\n" * 199 + LENGTH, body=b"ab")])[0])
        )
        self.expect_error(answer(b"X: a\r\n" * 200 + LENGTH, body=b"ab"))
        self.expect_error(answer(b"X: a\r\n" * 5000 + LENGTH, body=b"ab"))
        self.expect_error(answer(b"X: a\r\n" * 201)[:-2])

    def test_endless_head(self) -> None:
        """A head without an end is rejected as soon as it exceeds its limit.

        Its interim responses count too.
        """
        line = b"HTTP/1.1 200 OK\r\n"
        for start, more in (
            (line + b"X: ", b"a"),
            (line, b"a"),
            (b"HTTP/1.1 200 ", b"a"),
            (INTERIM + line + b"X: ", b" "),
        ):
            self.assertLessEqual(
                taken(self, ResponseParser(b"GET", UPSTREAM), start, more * 100, 502), 32768 + 100
            )

    def test_interim_flood(self) -> None:
        """A flood of interim responses ends after seventeen."""
        self.assertEqual(
            17 * len(INTERIM), taken(self, ResponseParser(b"GET", UPSTREAM), b"", INTERIM, 502)
        )

    def test_large_interim_answers(self) -> None:
        """Interim responses share the limit of one head."""
        early = answer(b"X: " + b"a" * 10000 + b"\r\n", b"HTTP/1.1 103 X")
        self.expect_error(early * 4 + PLAIN)

    def test_framing(self) -> None:
        """A response that is mostly chunk extensions or trailer fields is cut."""
        reader = ResponseParser(b"GET", UPSTREAM)
        self.assertLess(
            taken(self, reader, answer(CHUNKED), b"1;" + b"x" * 1000 + b"\r\na\r\n", 502), 32768
        )
        reader = ResponseParser(b"GET", UPSTREAM)
        self.assertLess(
            taken(self, reader, answer(CHUNKED, body=b"0\r\n"), b"X: y\r\n" * 20, 502), 32768
        )

    def test_huge_chunks(self) -> None:
        """Chunks that announce 2**63 octets or more, in one or in sum, are an error."""
        for body in (b"8000000000000000\r\n", b"2\r\nok\r\n7ffffffffffffffe\r\n"):
            found = ResponseParser(b"GET", UPSTREAM).feed(answer(CHUNKED, body=body))
            self.assertEqual("HBR" if b"ok" in body else "HR", shape_of(found))
        found = ResponseParser(b"GET", UPSTREAM).feed(
            answer(CHUNKED, body=b"7fffffffffffffff\r\nok")
        )
        self.assertEqual("HB", shape_of(found))

    def test_endless_trailer_after_a_large_body(self) -> None:
        """A trailer field is limited as a head is, however large the body was."""
        reader = ResponseParser(b"GET", UPSTREAM)
        reader.feed(answer(CHUNKED, body=b"10000\r\n" + b"a" * 65536))
        self.assertLess(taken(self, reader, b"\r\n0\r\nX: ", b"y" * 100, 502), 65536)

    def test_body_without_limit(self) -> None:
        """The body of a response has no limit, and nothing of it is kept."""
        reader = ResponseParser(b"GET", UPSTREAM)
        reader.feed(answer(b"Content-Length: 100000000\r\n"))
        for _ in range(99):
            self.assertEqual("B", shape_of(reader.feed(bytes(1000000))))
        self.assertEqual("BE", shape_of(reader.feed(bytes(1000000))))


class AnyBytes(SynchronousTestCase):
    @given(STREAMS, CUTS, st.sampled_from([b"GET", b"HEAD"]), st.booleans())
    def test_answers(self, data: bytes, cuts: Sequence[int], method: bytes, clean: bool) -> None:
        """Any octets, in any pieces, give one response, complete or cut, or one error."""
        found = respond(pieces(data, cuts), method, clean=clean)
        self.assertTrue(re.fullmatch(r"HB?[ER]|R", shape_of(found[0])), found)
        self.assertEqual(respond([data], method, clean=clean), found)
