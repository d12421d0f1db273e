"""Tests of :mod:`x509proxy.monitoring.access_log_format`."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from tests.support.exchanges import EXCHANGE, fields
from x509proxy.exchange import Outcome, TokenVerdict
from x509proxy.monitoring.access_log_format import WRITERS, access_json, access_line
from x509proxy.settings import LogFormat


def line(**changes: Any) -> str:
    return access_line(structs.replace(EXCHANGE, **changes))


# Published in this order: programs read the text by its columns. A new field is not added here.
PUBLISHED = (
    "time", "request_id", "client_address", "method", "target", "version", "status", "outcome",
    "request_bytes", "response_bytes", "duration_ms", "tls_version", "key_exchange", "verdict",
    "x5t_s256", "subject", "forged_headers", "token_verdict", "backend", "code", "detail",
)  # fmt: skip


class Line(SynchronousTestCase):
    def test_new_fields_are_last(self) -> None:
        """The published fields keep their places: a new field stands behind all of them."""
        self.assertEqual(PUBLISHED, tuple(fields(line()))[: len(PUBLISHED)])

    def test_without_certificate(self) -> None:
        """A request without a certificate is one line of plain words, with ``-`` for no value."""
        self.assertEqual(
            "time=2026-07-13T12:00:00.250Z request_id=00c0ffee client_address=192.0.2.7 "
            "method=POST target=/token version=HTTP/1.1 status=200 outcome=completed "
            "request_bytes=29 response_bytes=512 duration_ms=12.3 tls_version=TLSv1.3 "
            "key_exchange=X25519MLKEM768 verdict=NONE x5t_s256=- subject=- forged_headers=0 "
            "token_verdict=- backend=http://127.0.0.1:8080 code=- detail=-",
            line(),
        )

    def test_with_certificate(self) -> None:
        """A certificate is there by its thumbprint and subject, and nothing else (invariant L4)."""
        certificate = samples.client("CN=client,O=Example")
        found = fields(line(certificate=certificate))
        self.assertEqual("SELF_SIGNED", found["verdict"])
        self.assertEqual(certificate.thumbprint, found["x5t_s256"])
        self.assertEqual('"CN=client,O=Example"', found["subject"])

    def test_nothing_was_sent(self) -> None:
        """An exchange without an answer has no status, not the status 0."""
        self.assertEqual("-", fields(line(status=0, outcome=Outcome.ABORTED))["status"])

    def test_forged(self) -> None:
        """Forged headers show in the log, by their number."""
        self.assertEqual("2", fields(line(forged=2))["forged_headers"])

    def test_token(self) -> None:
        """The verdict on an access token is there, ``-`` where none was checked."""
        self.assertEqual("-", fields(line())["token_verdict"])
        self.assertEqual("BOUND", fields(line(token=TokenVerdict.BOUND))["token_verdict"])


class Kept(SynchronousTestCase):
    def test_large(self) -> None:
        """Large certificates do not stay in memory after their lines (invariant L7)."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(300):
            # A new string each time: equal ones would be held once.
            subject = str(number) + "x" * 8000
            large = attrs.evolve(
                samples.client(), der=bytes(30000), thumbprint=str(number), subject=subject
            )
            line(certificate=large)
        self.assertLess(tracemalloc.get_traced_memory()[0], 2**20)


class Escapes(SynchronousTestCase):
    def expect(self, written: str, value: str) -> None:
        self.assertEqual(written, fields(line(detail=value))["detail"])

    def test_plain(self) -> None:
        """A value that needs no quotes has none."""
        self.expect("/a?b+c%20d;e", "/a?b+c%20d;e")

    def test_quotes(self) -> None:
        """Spaces, equals signs, quotes and backslashes make a value quoted.

        The last two are escaped inside.
        """
        self.expect('"a b"', "a b")
        self.expect('"a=b"', "a=b")
        self.expect('"a\\"b"', 'a"b')
        self.expect('"a\\\\b"', "a\\b")

    def test_line_ends(self) -> None:
        """No line end of any alphabet passes: VT, NEL and LS are escaped, as octets of UTF-8."""
        self.expect('"a\\x0d\\x0ab"', "a\r\nb")
        self.expect('"\\x0b\\xc2\\x85\\xe2\\x80\\xa8"', "\x0b\x85\u2028")

    def test_terminal(self) -> None:
        """The escape character of terminals is escaped, and so is DEL."""
        self.expect('"\\x1b[2J\\x7f"', "\x1b[2J\x7f")

    def test_other_alphabets(self) -> None:
        """Other alphabets are written as octets, and so is a byte that is no text at all."""
        self.expect('"\\xc3\\xa9"', "é")
        self.expect('"\\xff"', "\udcff")

    @given(st.text(), st.text(), st.text())
    def test_one_line_that_reads_back(self, target: str, method: str, detail: str) -> None:
        """For any client's values the line is printable ASCII with the same fields in order."""
        text = line(target=target, method=method, detail=detail)
        self.assertTrue(text.isascii() and text.isprintable(), text)
        self.assertEqual(list(fields(line())), list(fields(text)))

    @given(st.text(), st.text())
    def test_two_values_two_writings(self, one: str, other: str) -> None:
        """Two different values never look the same, except for none and ``-``."""
        if one != other and {one, other} != {"", "-"}:
            self.assertNotEqual(line(detail=one), line(detail=other))


class Json(SynchronousTestCase):
    def read(self, **changes: Any) -> dict[str, Any]:
        text = access_json(structs.replace(EXCHANGE, **changes))
        self.assertTrue(text.isascii() and text.isprintable(), text)
        found: dict[str, Any] = json.loads(text)
        return found

    def test_formats(self) -> None:
        """Each format of the settings has its writer."""
        self.assertEqual({LogFormat.TEXT: access_line, LogFormat.JSON: access_json}, WRITERS)

    def test_without_certificate(self) -> None:
        """Numbers are numbers, words are words, and ``null`` stands for no value."""
        expected = {
            "time": "2026-07-13T12:00:00.250Z", "request_id": "00c0ffee",
            "client_address": "192.0.2.7",
            "method": "POST", "target": "/token",
            "version": "HTTP/1.1", "status": 200, "outcome": "completed", "request_bytes": 29,
            "response_bytes": 512,
            "duration_ms": 12.3, "tls_version": "TLSv1.3", "key_exchange": "X25519MLKEM768",
            "verdict": "NONE", "x5t_s256": None, "subject": None, "forged_headers": 0,
            "token_verdict": None, "backend": "http://127.0.0.1:8080", "code": None, "detail": None,
        }  # fmt: skip
        self.assertEqual(expected, self.read())

    def test_with_certificate(self) -> None:
        """A certificate is there by verdict, thumbprint and subject alone (invariant L4)."""
        certificate = samples.client("CN=client,O=Example")
        found = self.read(certificate=certificate)
        self.assertEqual(
            ("SELF_SIGNED", certificate.thumbprint), (found["verdict"], found["x5t_s256"])
        )
        self.assertEqual("CN=client,O=Example", found["subject"])

    def test_long_subject(self) -> None:
        """A long subject is cut, as in text."""
        found = self.read(certificate=attrs.evolve(samples.client(), subject="CN=" + "x" * 6000))
        self.assertEqual("CN=" + "x" * 253 + "...", found["subject"])

    def test_same_fields(self) -> None:
        """Both formats have the same fields, in the same order."""
        self.assertEqual(list(fields(line())), list(self.read()))

    def test_nothing_was_sent(self) -> None:
        """An exchange without an answer has no status, not the status 0.

        What is empty is ``null``.
        """
        found = self.read(
            status=0, backend="", request_id="", tls_version="", outcome=Outcome.ABORTED
        )
        self.assertEqual(
            [None] * 4, [found[name] for name in ("status", "backend", "request_id", "tls_version")]
        )

    @given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
    def test_one_line_that_reads_back(self, target: str, method: str, detail: str) -> None:
        """For any client's values the line is visible ASCII, and reads back unchanged."""
        found = self.read(target=target, method=method, detail=detail)
        self.assertEqual(
            [target, method, detail], [found[name] for name in ("target", "method", "detail")]
        )

    def test_escapes(self) -> None:
        """Quotes, line ends, escapes, DEL and characters beyond UTF-16 are escaped as in JSON."""
        self.assertIn(r'"a\u007f"', access_json(structs.replace(EXCHANGE, detail="a\x7f")))
        text = 'a"b\\c\r\n\x1b\x7f\u2028é😀'
        self.assertIn(
            r"a\"b\\c\r\n\u001b\u007f\u2028\u00e9\ud83d\ude00",
            access_json(structs.replace(EXCHANGE, detail=text)),
        )
