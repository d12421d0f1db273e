"""Tests of :mod:`x509proxy.http1.fields`.

Names are folded, and every parser reads a written head in the same way.
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.cgi_names import as_others_read
from x509proxy.http1.fields import (
    Framing,
    Pairs,
    alphanumerics,
    fold,
    write_fields,
    write_head,
)


class Fold(SynchronousTestCase):
    def test_literals(self) -> None:
        """Case and everything but letters and digits is folded away."""
        for name in (
            b"X-Cert",
            b"x_cert",
            b"X.CERT",
            b"x~cert",
            b"X\xffCert",
            b"X Cert",
            b"x:cert",
        ):
            self.assertEqual(b"x-cert", fold(name))
        self.assertEqual(b"x-cert9", fold(b"X-Cert9"))

    @given(st.binary())
    def test_one_for_one(self, name: bytes) -> None:
        """A folded name has the same length, folds to itself, and has a small alphabet.

        That is lower case, digits and hyphens.
        """
        self.assertEqual(len(name), len(fold(name)))
        self.assertEqual(fold(name), fold(fold(name)))
        self.assertRegex(fold(name), rb"\A[a-z0-9-]*\Z")

    def test_alphanumerics(self) -> None:
        """Without all that a fold turns into hyphens."""
        self.assertEqual(b"xcert9", alphanumerics(b"X_.Cert\xff-9"))


class Written(SynchronousTestCase):
    def test_literal(self) -> None:
        """A head is its start line, its fields, one framing and an empty line."""
        self.assertEqual(
            b"POST /token HTTP/1.1\r\nHost: as.example\r\nContent-Length: 5\r\n\r\n",
            write_head(b"POST /token HTTP/1.1", [(b"Host", b"as.example")], Framing.LENGTH, 5),
        )

    def test_framing(self) -> None:
        """Each way to end a body has its one field, or none."""
        for body, field in (
            (Framing.LENGTH, b"Content-Length: 0\r\n"),
            (Framing.CHUNKED, b"Transfer-Encoding: chunked\r\n"),
            (Framing.NONE, b""),
            (Framing.CLOSE, b""),
        ):
            self.assertEqual(
                b"HTTP/1.1 200 OK\r\n" + field + b"\r\n",
                write_head(b"HTTP/1.1 200 OK", [], body, 0),
            )

    def test_line_ends(self) -> None:
        """Any line end, half of one, or a NUL, wherever it stands, is an error and not a head."""
        for odd in (b"\r\n", b"\n", b"\r", b"\0", b"\r\nX: y", b"\n\r"):
            for start, pair in (
                (b"GET /" + odd, (b"Host", b"as.example")),
                (b"GET /", (b"X" + odd, b"y")),
                (b"GET /", (b"X", b"y" + odd)),
            ):
                self.assertRaises(ValueError, write_head, start, [pair], Framing.NONE, 0)

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(
            st.tuples(
                st.text("ABCxyz019-", min_size=1).map(str.encode),
                st.text([chr(octet) for octet in range(0x21, 0x7F)] + [" ", "\t"]).map(
                    lambda text: text.strip(" \t").encode()
                ),
            ),
            max_size=8,
        )
    )
    def test_reads_back(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """Three parsers read the written fields as they were: no field more, none less."""
        pairs = [
            pair
            for pair in pairs
            if pair[0].lower() not in (b"connection", b"upgrade", b"content-length")
        ]
        self.assertEqual([*pairs, (b"Content-Length", b"0")], as_others_read(pairs))

    @given(st.lists(st.tuples(st.binary(), st.binary()), max_size=6))
    def test_lines(self, pairs: Pairs) -> None:
        """A written head has one line for each pair, and nothing else."""
        try:
            data = write_head(b"GET / HTTP/1.1", pairs, Framing.CHUNKED, 0)
        except ValueError:
            return
        lines = [
            b"GET / HTTP/1.1",
            *(name + b": " + value for name, value in pairs),
            b"Transfer-Encoding: chunked",
            b"",
            b"",
        ]
        self.assertEqual(lines, data.split(b"\r\n"))

    def test_fields(self) -> None:
        """Fields alone are written under the same guard, and a head may take them as they are."""
        written = write_fields([(b"A", b"b")])
        self.assertEqual(b"A: b\r\n", written)
        self.assertRaises(ValueError, write_fields, [(b"A", b"b\nC: d")])
        self.assertEqual(
            b"GET / HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n",
            write_head(b"GET / HTTP/1.1", [(b"C", b"d")], Framing.NONE, 0, written),
        )
