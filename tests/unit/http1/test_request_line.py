"""Promises of :mod:`x509proxy.http1.request_line`: what a request's first line must be, and what of it goes into the record."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.http1.errors import HttpError
from x509proxy.http1.request_line import check_request_line, loggable


class Judged(SynchronousTestCase):
    def test_form(self) -> None:
        """A request line is method, target and version, one space between, and nothing else."""
        for method in (b"GET", b"OPTIONS"):
            check_request_line(method + b" /a?b HTTP/1.1")
        for line in (
            b"GET  / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b" GET / HTTP/1.1",
            b"GET /",
            b"GET / HTTP/2.0",
            b"GET / RTSP/1.0",
            b"",
        ):
            error = self.assertRaises(HttpError, check_request_line, line)
            self.assertEqual(400, error.response.status, line)

    def test_methods(self) -> None:
        """Methods that are not served are answered before anything else is read."""
        for status, method in ((405, b"TRACE"), (405, b"CONNECT"), (501, b"BREW"), (501, b"get")):
            error = self.assertRaises(HttpError, check_request_line, method + b" / HTTP/1.1")
            self.assertEqual(status, error.response.status, method)


class Told(SynchronousTestCase):
    def test_well_formed(self) -> None:
        """A line in order is told as it is, of a target in absolute-form what follows the authority; an unknown method too."""
        for line, expected in (
            (b"POST /token HTTP/1.1", (b"POST", b"/token", "1.1")),
            (b"BREW /pot?a HTTP/1.0", (b"BREW", b"/pot?a", "1.0")),
            (b"OPTIONS * HTTP/1.1", (b"OPTIONS", b"*", "1.1")),
            (b"GET https://as.example:8443/jwks HTTP/1.1", (b"GET", b"/jwks", "1.1")),
        ):
            self.assertEqual(expected, loggable(line, 8192))

    def test_malformed(self) -> None:
        """Of what is no request line nothing is told."""
        for line in (
            b"",
            b"GET  / HTTP/1.1",
            b"GET /\xff HTTP/1.1",
            b"\x16\x03\x01",
            b"GET / HTTP/2.0",
        ):
            self.assertEqual((b"-", b"-", "1.1"), loggable(line, 8192), line)

    def test_secrets(self) -> None:
        """A target that is not fit to be served is not told: there may be a password or a token in it."""
        for target in (
            b"https://me:SECRET@as.example/",
            b"/cb#access_token=SECRET",
            b"as.example:443",
            b"SECRET",
        ):
            self.assertEqual(
                (b"GET", b"-", "1.1"), loggable(b"GET " + target + b" HTTP/1.1", 8192), target
            )

    def test_too_long(self) -> None:
        """Nor is one that is longer than targets may be, or a method as long as a sentence: a record is bounded (law L7)."""
        self.assertEqual(
            (b"GET", b"/" + b"a" * 7, "1.1"), loggable(b"GET /" + b"a" * 7 + b" HTTP/1.1", 8)
        )
        self.assertEqual((b"GET", b"-", "1.1"), loggable(b"GET /" + b"a" * 8 + b" HTTP/1.1", 8))
        self.assertEqual((b"-", b"/", "1.1"), loggable(b"A" * 33 + b" / HTTP/1.1", 8))
