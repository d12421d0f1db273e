"""Promises of :mod:`x509proxy.http1.errors`."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.http1.errors import ErrorResponse, HttpError, bad_request

STATUSES = (400, 401, 403, 405, 408, 413, 414, 417, 421, 431, 501, 502, 503, 504)


class Body(SynchronousTestCase):
    def test_literal(self) -> None:
        """The answer to a refused certificate is RFC 6749 section 5.2's, byte for byte."""
        found = ErrorResponse(
            401, "expired certificate", "The client certificate expired at 2026-01-01T00:00:00Z"
        )
        self.assertEqual(
            b'{"error": "invalid_client", "error_description": "The client certificate expired at 2026-01-01T00:00:00Z"}\n',
            found.body,
        )

    def test_every_status(self) -> None:
        """Every status that the proxy answers has an error of OAuth's and a description."""
        errors = {
            status: json.loads(ErrorResponse(status, "reason").body)["error"] for status in STATUSES
        }
        special = {
            401: "invalid_client",
            403: "access_denied",
            502: "server_error",
            503: "temporarily_unavailable",
        }
        special[504] = "server_error"
        self.assertEqual(
            {status: special.get(status, "invalid_request") for status in STATUSES}, errors
        )
        for status in STATUSES:
            self.assertTrue(
                json.loads(ErrorResponse(status, "reason").body)["error_description"], status
            )

    def test_description_by_default(self) -> None:
        """Without a description the status's own phrase stands there."""
        self.assertEqual(
            "Bad Gateway",
            json.loads(ErrorResponse(502, "connection refused").body)["error_description"],
        )

    def test_error_given(self) -> None:
        """A given error word wins over the status's."""
        self.assertEqual(
            "invalid_client",
            json.loads(ErrorResponse(400, "too large", "", "invalid_client").body)["error"],
        )

    def test_reason_stays_inside(self) -> None:
        """The operator's reason is not in the answer: a client learns nothing of what is behind the proxy."""
        refusal = ErrorResponse(502, "back end 10.0.0.7:8080: connection refused")
        self.assertNotIn(
            b"10.0.0.7", refusal.body + b"".join(name + value for name, value in refusal.pairs)
        )


class Fields(SynchronousTestCase):
    def test_every_answer(self) -> None:
        """Every answer is JSON and no cache keeps it."""
        for status in STATUSES:
            pairs = ErrorResponse(status, "reason").pairs
            self.assertEqual(
                ((b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")),
                pairs[:2],
                status,
            )

    def test_retry_after(self) -> None:
        """503, and only 503, says when to come back."""
        saying = [
            status
            for status in STATUSES
            if b"Retry-After" in dict(ErrorResponse(status, "reason").pairs)
        ]
        self.assertEqual([503], saying)

    def test_challenge(self) -> None:
        """401, and only 401, has a challenge (RFC 9110 section 15.5.2)."""
        challenging = {
            status: dict(ErrorResponse(status, "reason").pairs).get(b"WWW-Authenticate")
            for status in STATUSES
        }
        self.assertEqual(
            {401: b"ClientCertificate"},
            {status: value for status, value in challenging.items() if value},
        )

    def test_allow(self) -> None:
        """405, and only 405, says which methods there are (RFC 9110 section 15.5.6)."""
        allowing = {
            status: dict(ErrorResponse(status, "reason").pairs).get(b"Allow") for status in STATUSES
        }
        expected: dict[int, bytes | None] = dict.fromkeys(STATUSES)
        expected[405] = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
        self.assertEqual(expected, allowing)


class Raised(SynchronousTestCase):
    def test_carries_the_refusal(self) -> None:
        """The exception carries the answer, and its text is the operator's reason."""
        refusal = ErrorResponse(400, "no host field", "Malformed request")
        self.assertIs(refusal, HttpError(refusal).refusal)
        self.assertEqual("no host field", str(HttpError(refusal)))

    def test_malformed(self) -> None:
        """What is malformed is 400, and the client is told no more than that."""
        refusal = bad_request("no host field").refusal
        self.assertEqual(
            (400, "no host field", "Malformed request"),
            (refusal.status, refusal.reason, refusal.description),
        )
