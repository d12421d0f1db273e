"""Promises of :mod:`x509proxy.http1.response_writer`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.http1.response_writer import date_value, status_line


class Lines(SynchronousTestCase):
    def test_status(self) -> None:
        """The given phrase, else the usual one, else none; the space before it is always there (RFC 9112 section 4)."""
        for status, reason, expected in (
            (200, b"", b"HTTP/1.1 200 OK"),
            (200, b"Fine", b"HTTP/1.1 200 Fine"),
            (599, b"", b"HTTP/1.1 599 "),
        ):
            self.assertEqual(expected, status_line(status, reason))

    def test_date(self) -> None:
        """A date is an IMF-fixdate (RFC 9110 section 5.6.7)."""
        self.assertEqual(b"Sun, 06 Nov 1994 08:49:37 GMT", date_value(784111777))
