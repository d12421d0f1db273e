"""Tests of :mod:`x509proxy.http1.grammar`: what is a head, octet by octet, and at what cost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.http1.body import _FIRST_SIZE, _NEXT_SIZE, _TRAILER
from x509proxy.http1.grammar import (
    REQUEST,
    RESPONSE,
    TOKEN,
    Grammar,
    Malformed,
    check_lines,
    split_fields,
)
from x509proxy.http1.request_parser import _EMPTY_LINES

# RFC 9110 section 5.6.2, written another way than in the grammar.
TCHARS = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
VCHARS = frozenset(range(0x21, 0x7F))
TEXT = VCHARS | {0x20, 0x09}
OBS_TEXT = frozenset(range(0x80, 0x100))
EVERY = range(256)


def accepted(grammar: Grammar, head: bytes) -> frozenset[int]:
    """Return the octets that are accepted in the place of ``@``."""
    return frozenset(
        octet for octet in EVERY if grammar.head.fullmatch(head.replace(b"@", bytes([octet])))
    )


class RequestHeads(SynchronousTestCase):
    def test_method(self) -> None:
        """A method is a token (RFC 9112 section 3.1)."""
        self.assertEqual(TCHARS, accepted(REQUEST, b"A@B / HTTP/1.1\r\n\r\n"))
        self.assertIsNone(REQUEST.head.fullmatch(b" / HTTP/1.1\r\n\r\n"))

    def test_target(self) -> None:
        """A target is visible ASCII, and not empty (RFC 9112 section 3.2)."""
        self.assertEqual(VCHARS, accepted(REQUEST, b"GET /@ HTTP/1.1\r\n\r\n"))
        self.assertIsNone(REQUEST.head.fullmatch(b"GET  HTTP/1.1\r\n\r\n"))

    def test_version(self) -> None:
        """The version is HTTP/1.1 or HTTP/1.0, in capitals (RFC 9112 section 2.3)."""
        self.assertEqual(frozenset(b"01"), accepted(REQUEST, b"GET / HTTP/1.@\r\n\r\n"))
        for template in (
            b"GET / HTTP/@.1",
            b"GET / @TTP/1.1",
            b"GET / HTTP@1.1",
            b"GET / HTTP/1@1",
        ):
            self.assertEqual(1, len(accepted(REQUEST, template + b"\r\n\r\n")), template)

    def test_spaces(self) -> None:
        """One space on each side of the target, and none elsewhere (RFC 9112 section 3)."""
        for template in (b"GET@/ HTTP/1.1", b"GET /@HTTP/1.1"):
            self.assertEqual(frozenset(b" "), accepted(REQUEST, template + b"\r\n\r\n"))
        for line in (
            b" GET / HTTP/1.1",
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b"GET / HTTP/1.1 ",
        ):
            self.assertIsNone(REQUEST.head.fullmatch(line + b"\r\n\r\n"), line)

    def test_line_ends(self) -> None:
        """A line ends in CRLF, the head in one more (RFC 9112 sections 2.1 and 2.2)."""
        whole = b"GET / HTTP/1.1\r\nX: y\r\n\r\n"
        self.assertTrue(REQUEST.head.fullmatch(whole))
        for place, octet in enumerate(whole):
            if octet in b"\r\n":
                self.assertIsNone(REQUEST.head.fullmatch(whole[:place] + whole[place + 1 :]))
                for other in (b"\r", b"\n", b"\0", b"\x0b", b"\x0c", b"\x85", b" ", b""):
                    changed = whole[:place] + other + whole[place + 1 :]
                    if changed != whole:
                        self.assertIsNone(REQUEST.head.fullmatch(changed), changed)
        for more in (b"\r", b"\n", b"\r\n", b" "):
            self.assertIsNone(REQUEST.head.fullmatch(whole + more))

    def test_name(self) -> None:
        """A field name is a token, not empty, with the colon next to it (RFC 9112 section 5.1)."""
        self.assertEqual(
            TCHARS | {ord(":")}, accepted(REQUEST, b"GET / HTTP/1.1\r\nX@Y: y\r\n\r\n")
        )
        self.assertEqual(TCHARS, accepted(REQUEST, b"GET / HTTP/1.1\r\n@X: y\r\n\r\n"))
        self.assertEqual(TCHARS | {ord(":")}, accepted(REQUEST, b"GET / HTTP/1.1\r\nX@: y\r\n\r\n"))
        for field in (b": y", b"X", b"X : y", b"X\t: y", b" X: y", b"\tX: y"):
            self.assertIsNone(REQUEST.head.fullmatch(b"GET / HTTP/1.1\r\n" + field + b"\r\n\r\n"))

    def test_value(self) -> None:
        """A value is visible ASCII, space and tab; it may be empty (RFC 9110 section 5.5)."""
        for template in (b"X: a@b", b"X:@", b"X: a@"):
            self.assertEqual(
                TEXT, accepted(REQUEST, b"GET / HTTP/1.1\r\n" + template + b"\r\n\r\n")
            )
        self.assertTrue(REQUEST.head.fullmatch(b"GET / HTTP/1.1\r\nX:\r\n\r\n"))

    def test_folds(self) -> None:
        """A folded line is malformed (RFC 9112 section 5.2)."""
        for fold in (b"\r\n b", b"\r\n\tb", b"\r\n \r\n", b"\r\n "):
            head = b"GET / HTTP/1.1\r\nX: a" + fold + b"\r\n\r\n"
            self.assertIsNone(REQUEST.head.fullmatch(head), head)


class ResponseHeads(SynchronousTestCase):
    def test_status(self) -> None:
        """A status is three digits, the first from 1 to 5 (RFC 9110 section 15)."""
        digits = frozenset(b"0123456789")
        self.assertEqual(frozenset(b"12345"), accepted(RESPONSE, b"HTTP/1.1 @00 OK\r\n\r\n"))
        self.assertEqual(digits, accepted(RESPONSE, b"HTTP/1.1 2@0 OK\r\n\r\n"))
        self.assertEqual(digits, accepted(RESPONSE, b"HTTP/1.1 20@ OK\r\n\r\n"))
        for line in (
            b"HTTP/1.1 20 OK",
            b"HTTP/1.1 2000 OK",
            b"HTTP/1.1  200 OK",
            b"HTTP/1.1200 OK",
        ):
            self.assertIsNone(RESPONSE.head.fullmatch(line + b"\r\n\r\n"), line)

    def test_version(self) -> None:
        """The version is as that of a request."""
        self.assertEqual(frozenset(b"01"), accepted(RESPONSE, b"HTTP/1.@ 200 OK\r\n\r\n"))
        for template in (
            b"HTTP/@.1 200 OK",
            b"@TTP/1.1 200 OK",
            b"HTTP@1.1 200 OK",
            b"HTTP/1@1 200 OK",
        ):
            self.assertEqual(1, len(accepted(RESPONSE, template + b"\r\n\r\n")), template)

    def test_reason(self) -> None:
        """A reason phrase is text, may be empty, and may be omitted with its space.

        See RFC 9112 section 4.
        """
        self.assertEqual(TEXT | OBS_TEXT, accepted(RESPONSE, b"HTTP/1.1 200 a@b\r\n\r\n"))
        self.assertEqual(frozenset(b" "), accepted(RESPONSE, b"HTTP/1.1 200@OK\r\n\r\n"))
        for line in (b"HTTP/1.1 200 ", b"HTTP/1.1 200"):
            self.assertTrue(RESPONSE.head.fullmatch(line + b"\r\n\r\n"), line)

    def test_fields(self) -> None:
        """Fields are as those of a request, with obs-text in values (RFC 9110 section 5.5)."""
        start = b"HTTP/1.1 200 OK\r\n"
        self.assertEqual(TEXT | OBS_TEXT, accepted(RESPONSE, start + b"X: a@b\r\n\r\n"))
        self.assertEqual(TCHARS, accepted(RESPONSE, start + b"@X: y\r\n\r\n"))
        self.assertIsNone(RESPONSE.head.fullmatch(start + b"X: a\r\n b\r\n\r\n"))


NAMES = st.text("aB-_1", min_size=1, max_size=4).map(str.encode)
VALUES = st.text('aB :,\t"', max_size=8).map(str.encode)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=5)


class Splitting(SynchronousTestCase):
    @given(FIELDS, st.sampled_from([b"", b" ", b"\t ", b"  "]))
    def test_split(self, fields: list[tuple[bytes, bytes]], space: bytes) -> None:
        """Fields come out in order, without the white space around their values."""
        block = b"".join(name + b":" + space + value + space + b"\r\n" for name, value in fields)
        expected = [(name, value.strip(b" \t")) for name, value in fields]
        self.assertTrue(REQUEST.fields.fullmatch(block))
        self.assertEqual(expected, split_fields(block))

    def test_tabs(self) -> None:
        """A tab behind a length or a coding stays, and makes it malformed; spaces go."""
        for name in (b"Content-Length", b"transfer-encoding"):
            for space, expected in (
                (b"", b"5"),
                (b" ", b"5"),
                (b"  ", b"5"),
                (b"\t", b"5\t"),
                (b"\t ", b"5\t"),
            ):
                self.assertEqual(
                    [(name, expected)], split_fields(name + b": \t5" + space + b"\r\n")
                )

    def test_colons(self) -> None:
        """A name ends at the first colon."""
        self.assertEqual([(b"X", b"a:b: c")], split_fields(b"X: a:b: c\r\n"))


def steps(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the data as it comes octet by octet, and where each begins."""
    return ((data[: place + 1], place) for place in range(len(data)))


class Checking(SynchronousTestCase):
    def check(self, grammar: Grammar, line: bytes, rest: bytes) -> int:
        """Check octet by octet; return where the first incomplete line begins."""
        data, start = line + rest, len(line)
        for part, new in steps(data):
            if len(part) > len(line):
                start = check_lines(grammar, part, start, new)
        return start

    def test_lines(self) -> None:
        """Complete lines are passed once, and the last, incomplete one is kept."""
        line = b"GET / HTTP/1.1\r\n"
        self.assertEqual(len(line), self.check(REQUEST, line, b"X: y"))
        self.assertEqual(len(line) + 6, self.check(REQUEST, line, b"X: y\r\nZ"))
        self.assertEqual(len(line) + 6, self.check(REQUEST, line, b"X: y\r\n\r"))

    def test_malformed(self) -> None:
        """A malformed line is found at its end, a character that no head has at once."""
        line = b"GET / HTTP/1.1\r\n"
        for rest in (
            b"X: y\n", b"X: y\rz", b"X\0", b"X: \x7f", b"X: \x80", b" X: y\r\n", b"X : y\r\n",
            b"X\r\n", b"\n", b"\r\r",
            b"X: y\r\n z\r\n", b"X: y\r\n\n",
        ):  # fmt: skip
            self.assertRaises(Malformed, self.check, REQUEST, line, rest)
            self.assertEqual(len(line), check_lines(REQUEST, line, len(line), len(line)))
            # All that comes before the last octet is a beginning.
            self.check(REQUEST, line, rest[:-1])

    def test_start_line(self) -> None:
        """An incomplete start line has no octet, and no bare line end, that no head has."""
        for part in (b"G\0", b"GET /\n", b"GET\r ", b"\x16\x03"):
            self.assertRaises(Malformed, check_lines, REQUEST, part, 0, 0)
        self.assertEqual(0, check_lines(REQUEST, b"GET /\r", 0, 0))

    @given(FIELDS, st.sampled_from([REQUEST, RESPONSE]))
    def test_prefixes(self, fields: list[tuple[bytes, bytes]], grammar: Grammar) -> None:
        """No beginning of a well-formed head is rejected."""
        line = b"GET / HTTP/1.1\r\n" if grammar is REQUEST else b"HTTP/1.1 200 OK\r\n"
        block = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        self.assertTrue(grammar.head.fullmatch(line + block + b"\r\n"))
        self.check(grammar, line, block + b"\r")


def cost(pattern: re.Pattern[bytes], data: bytes) -> float:
    """Return the CPU time of one attempt, the least of several."""
    times = []
    for _ in range(5):
        start = time.process_time()
        pattern.fullmatch(data)
        times.append(time.process_time() - start)
    return min(times)


def _repeated(start: bytes, piece: bytes, end: bytes, count: int) -> bytes:
    return start + piece * count + end


class Cost(SynchronousTestCase):
    def expect_linear(
        self, pattern: re.Pattern[bytes], make: Callable[[int], bytes], few: int = 20_000
    ) -> None:
        """Eight times the input takes about eight times as long.

        Quadratic time would be 64 times as long.
        """
        once, more = (cost(pattern, make(count)) for count in (few, 8 * few))
        self.assertLess(more, 24 * max(once, 0.0005), (pattern.pattern, make(3)))

    def test_heads(self) -> None:
        """Matching is linear, also where it fails at the very end."""
        for grammar, line in ((REQUEST, b"GET / HTTP/1.1\r\n"), (RESPONSE, b"HTTP/1.1 200 OK\r\n")):
            for piece in (b"a", b"a:b\r\n", b"a: \t \r\n", b"a:\r\n", b":", b" ", b"\r\n"):
                for end in (b"", b"\0", b"\r\n", b"\r\n\r\n", b"\r\n\r\n\0"):
                    for start in (line, line + b"X: ", b""):
                        self.expect_linear(grammar.head, partial(_repeated, start, piece, end))

    def test_chunks(self) -> None:
        """So is matching what stands between chunks; no line of it is longer than 4 KiB."""
        ends = (b"", b"\0", b'"\0', b"\r\n", b"\r\n\0")
        for line in (_FIRST_SIZE, _NEXT_SIZE, _TRAILER):
            for piece in (
                b"a",
                b";a",
                b";a=b",
                b';a="b"',
                b'"',
                b"\\\\",
                b'\\"',
                b"0",
                b"\r\n",
                b"a:",
            ):
                for start in (b"1;a=", b'1;a="', b"\r\n1;a", b"X: "):
                    for end in ends:
                        make = partial(_repeated, start, piece, end)
                        self.expect_linear(line.whole, make, 2_000)
                        self.expect_linear(line.part, make, 2_000)

    def test_possessive(self) -> None:
        """No repetition of octets gives back what it has taken: giving back makes matching slow."""
        for grammar in (REQUEST, RESPONSE):
            pattern = grammar.head.pattern.replace(TOKEN, b"T")
            plain = rb"(?<![)?*+])[*+?](?![+:])|(?<=[*+?])\?"
            self.assertEqual([], re.findall(plain, pattern))

    def test_groups(self) -> None:
        """No repeated group is possessive: Python before 3.11.5 matches such ones wrongly.

        Debian 12 has 3.11.2; see python/cpython#106052.
        """
        lines = [
            line for one in (_FIRST_SIZE, _NEXT_SIZE, _TRAILER) for line in (one.whole, one.part)
        ]
        heads = [one for grammar in (REQUEST, RESPONSE) for one in (grammar.head, grammar.fields)]
        for pattern in (*heads, *lines, _EMPTY_LINES):
            self.assertNotRegex(pattern.pattern, rb"\)(?:[*+?]|\{[0-9,]+\})\+")
