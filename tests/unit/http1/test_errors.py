"""Tests of :mod:`x509proxy.http1.errors`."""

from __future__ import annotations

import json
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.http1.errors import Code, ErrorResponse, HttpError, bad_request

PAGE = Path(__file__).parents[3] / "docs" / "error-codes.rst"
SENT = [ErrorResponse(code, "detail") for code in Code if code.status]


def with_field(name: bytes) -> dict[int, bytes]:
    """Return the value of a field by status, for the responses that have it."""
    found = {response.status: dict(response.pairs).get(name) for response in SENT}
    return {status: value for status, value in found.items() if value}


class Codes(SynchronousTestCase):
    def test_stable(self) -> None:
        """Labels and statuses are stable for dashboards: operators depend on them."""
        statuses: dict[int, list[str]] = {}
        for code in Code:
            statuses.setdefault(code.status, []).append(code.label)
        self.assertEqual(
            {
                0: ["send_timeout", "slow_client", "client_left", "shutdown"],
                400: [
                    "bad_request", "ambiguous_path", "contradictory_rules", "certificate_too_large",
                    "token_malformed", "token_too_large",
                    "token_claims_too_large",
                ],
                401: [
                    "no_certificate", "untrusted", "wrong_usage", "expired", "not_yet_valid",
                    "weak_key",
                    "unsupported_key", "key_type_not_allowed", "revoked", "unreadable_certificate",
                    "token_missing", "token_invalid", "token_not_bound",
                    "token_mismatch", "token_expired",
                ],
                405: ["method_not_allowed"],
                408: ["head_timeout", "body_timeout"],
                413: ["body_too_large"],
                414: ["target_too_long"],
                417: ["expectation_failed"],
                421: ["misdirected"],
                431: ["head_too_large"],
                501: ["not_implemented"],
                502: ["connect_failed", "invalid_response", "response_too_large", "internal_error"],
                503: [
                    "queue_full", "out_of_resources", "uploads_full", "queue_timeout",
                    "token_unverifiable", "token_checks_full", "token_address_full",
                ],
                504: ["connect_timeout", "backend_timeout"],
                508: ["loop"],
            },
            statuses,
        )  # fmt: skip

    def test_documented(self) -> None:
        """Each code is on the page, with its status, its meaning and its setting."""
        page = " ".join(PAGE.read_text("utf-8").split())
        for code in Code:
            facts = code.value
            status = str(code.status or "none")
            row = f"* - ``{code.label}`` - {status} - {facts.meaning.replace('`', '``')}"
            if code.limit:
                row += f" (``{code.limit}``)"
            self.assertIn(row, page)


class Body(SynchronousTestCase):
    def test_literal(self) -> None:
        """The response to an expired certificate follows RFC 6749 section 5.2, byte for byte."""
        description = "The client certificate expired at 2026-01-01T00:00:00Z"
        found = ErrorResponse(Code.EXPIRED, "expired certificate", description)
        self.assertEqual(
            b'{"error": "invalid_client", "error_description": "%b"}\n' % description.encode(),
            found.body,
        )

    def test_every_status(self) -> None:
        """Every status that the proxy sends has an OAuth error and a description."""
        special = {401: "invalid_client", 503: "temporarily_unavailable"}
        special |= dict.fromkeys((502, 504, 508), "server_error")
        for response in SENT:
            body = json.loads(response.body)
            expected = response.code.bearer or special.get(response.status, "invalid_request")
            self.assertEqual(expected, body["error"])
            self.assertTrue(body["error_description"], response.code)

    def test_tokens(self) -> None:
        """An access token's errors are those of RFC 6750 section 3.1."""
        found = {code.label: (code.status, code.bearer) for code in Code if code.bearer}
        self.assertEqual(
            {
                "token_malformed": (400, "invalid_request"),
                "token_too_large": (400, "invalid_request"),
                "token_claims_too_large": (400, "invalid_request"),
                "token_missing": (401, "invalid_token"),
                "token_invalid": (401, "invalid_token"),
                "token_not_bound": (401, "invalid_token"),
                "token_mismatch": (401, "invalid_token"),
                "token_expired": (401, "invalid_token"),
            },
            found,
        )

    def test_description_by_default(self) -> None:
        """Without a description the body has the phrase of the status."""
        body = json.loads(ErrorResponse(Code.INVALID_RESPONSE, "connection refused").body)
        self.assertEqual("Bad Gateway", body["error_description"])

    def test_error_given(self) -> None:
        """A given error wins over that of the status."""
        body = json.loads(ErrorResponse(Code.BAD_REQUEST, "large", "", "invalid_client").body)
        self.assertEqual("invalid_client", body["error"])

    def test_detail_stays_inside(self) -> None:
        """The operator's detail is not in the response: it may describe the back end."""
        response = ErrorResponse(Code.INVALID_RESPONSE, "back end 10.0.0.7:8080: refused")
        sent = response.body + b"".join(name + value for name, value in response.pairs)
        self.assertNotIn(b"10.0.0.7", sent)


class Fields(SynchronousTestCase):
    def test_every_response(self) -> None:
        """Every error response is JSON, and no cache stores it."""
        expected = ((b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store"))
        for response in SENT:
            self.assertEqual(expected, response.pairs[:2], response.code)

    def test_retry_after(self) -> None:
        """503, and only 503, has ``Retry-After``."""
        self.assertEqual({503: b"1"}, with_field(b"Retry-After"))

    def test_challenge(self) -> None:
        """401, and only 401, has a challenge (RFC 9110 section 15.5.2), but for access tokens."""
        others = [response for response in SENT if not response.code.bearer]
        found = {
            response.status: dict(response.pairs).get(b"WWW-Authenticate") for response in others
        }
        self.assertEqual({401: b"ClientCertificate"}, {k: v for k, v in found.items() if v})

    def test_bearer_challenge(self) -> None:
        """The challenge for an access token has error and description, exactly.

        See RFC 6750 section 3.
        """
        description = "The access token is malformed"
        for code, challenge in (
            (Code.TOKEN_MALFORMED, b'Bearer error="invalid_request", error_description="%b"'),
            (Code.TOKEN_MISMATCH, b'Bearer error="invalid_token", error_description="%b"'),
        ):
            found = dict(ErrorResponse(code, "detail", description).pairs)[b"WWW-Authenticate"]
            self.assertEqual(challenge % description.encode(), found)

    def test_no_token(self) -> None:
        """A request without a token gets no error in the challenge (RFC 6750 section 3.1).

        The challenge has a parameter all the same (section 3).
        """
        found = dict(ErrorResponse(Code.TOKEN_MISSING, "detail").pairs)[b"WWW-Authenticate"]
        self.assertEqual(b'Bearer realm="api"', found)

    def test_dpop(self) -> None:
        """The challenge for a DPoP token has the scheme ``DPoP`` (RFC 9449 section 7.1)."""
        response = ErrorResponse(Code.TOKEN_INVALID, "detail", "text", scheme="DPoP")
        self.assertEqual(
            b'DPoP error="invalid_token", error_description="text"',
            dict(response.pairs)[b"WWW-Authenticate"],
        )

    def test_allow(self) -> None:
        """405, and only 405, lists the methods (RFC 9110 section 15.5.6)."""
        methods = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
        self.assertEqual({405: methods}, with_field(b"Allow"))


class Raised(SynchronousTestCase):
    def test_carries_the_response(self) -> None:
        """The exception carries the response, and its text is the operator's detail."""
        response = ErrorResponse(Code.BAD_REQUEST, "no host field", "Malformed request")
        self.assertIs(response, HttpError(response).response)
        self.assertEqual("no host field", str(HttpError(response)))

    def test_bad_request(self) -> None:
        """A malformed request is 400, and the client learns no more than that."""
        response = bad_request("no host field").response
        self.assertEqual(
            (400, "no host field", "Malformed request"),
            (response.status, response.detail, response.description),
        )
