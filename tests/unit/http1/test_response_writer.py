"""Tests of :mod:`x509proxy.http1.response_writer`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.http1.messages import Framing
from x509proxy.http1.response_writer import date_value, status_line, write_response_head


class Lines(SynchronousTestCase):
    def test_status(self) -> None:
        """The given phrase is used, else the usual one, else none.

        The space before it is always there (RFC 9112 section 4).
        """
        for status, reason, expected in (
            (200, b"", b"HTTP/1.1 200 OK"),
            (200, b"Fine", b"HTTP/1.1 200 Fine"),
            (599, b"", b"HTTP/1.1 599 "),
        ):
            self.assertEqual(expected, status_line(status, reason))

    def test_date(self) -> None:
        """A date is an IMF-fixdate (RFC 9110 section 5.6.7)."""
        self.assertEqual(b"Sun, 06 Nov 1994 08:49:37 GMT", date_value(784111777))


class Heads(SynchronousTestCase):
    def head(self, *pairs: tuple[bytes, bytes]) -> bytes:
        """Write a head with these fields of the back end's."""
        own = [(b"X-Request-Id", b"7")]
        return write_response_head(
            200, b"", list(pairs), own, Framing.LENGTH, 2, lambda: 784111777.5
        )

    def test_date(self) -> None:
        """A date is added, to the second, unless the back end has sent one in any spelling."""
        added = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        self.assertEqual(
            b"HTTP/1.1 200 OK\r\n" + added + b"X-Request-Id: 7\r\nContent-Length: 2\r\n\r\n",
            self.head(),
        )
        for name in (b"Date", b"date", b"DATE"):
            self.assertNotIn(added, self.head((name, b"x")))

    def test_line_end(self) -> None:
        """A line end inside a field is an error, and nothing is written."""
        self.assertRaises(ValueError, self.head, (b"X", b"a\r\nb"))
