"""The proxy's error responses: a stable code, a detail for the operator, JSON for the client.

Codes are stable, because dashboards and log queries depend on them: metrics, the status page and
the access log use them. The sentences beside them may change. ``docs/error-codes.rst`` lists them.
"""

from __future__ import annotations

import enum
import json
from http import HTTPStatus

import attrs

__all__ = ["Code", "ErrorResponse", "HttpError", "bad_request"]


@attrs.frozen
class _Facts:
    """The facts about one code.

    ``status``: the HTTP status, or 0 if no response can be sent. ``meaning``: a sentence for the
    documentation. ``limit``: the setting that was exceeded, if the code is about one. ``bearer``:
    the error of RFC 6750 section 3.1, if the code is about an access token.
    """

    status: int
    meaning: str
    limit: str = ""
    bearer: str = ""


class Code(enum.Enum):
    """The reason for an error response, or for an exchange that was cut short."""

    BAD_REQUEST = _Facts(400, "The request is malformed, or ambiguous to some server.")
    AMBIGUOUS_PATH = _Facts(
        400, "Servers read the path in different ways, and `[[rules]]` depend on it."
    )
    CONTRADICTORY_RULES = _Facts(
        400,
        "By one reading of the path a certificate is required, by another one it is ignored.",
    )
    CERTIFICATE_TOO_LARGE = _Facts(
        400,
        "The certificate, or its header, is larger than is allowed.",
        "max-certificate-bytes",
    )
    NO_CERTIFICATE = _Facts(401, "The request needs a client certificate, and there is none.")
    UNTRUSTED = _Facts(401, "The certificate's verdict is not one that `trust` accepts.")
    WRONG_USAGE = _Facts(
        401, "An authority issued the certificate for other uses than TLS clients (`usage`)."
    )
    EXPIRED = _Facts(401, "The certificate is past its validity period.")
    NOT_YET_VALID = _Facts(401, "The certificate's validity period has not begun.")
    WEAK_KEY = _Facts(401, "The certificate's key or signature is too weak.")
    UNSUPPORTED_KEY = _Facts(
        401, "The certificate's key is of an unknown type, or of one that is not supported."
    )
    KEY_TYPE_NOT_ALLOWED = _Facts(401, "`key-types` or `minimum-rsa-bits` excludes the key.")
    REVOKED = _Facts(401, "The certificate, or one of its issuers, has been revoked.")
    UNREADABLE_CERTIFICATE = _Facts(401, "The certificate cannot be parsed.")
    TOKEN_MALFORMED = _Facts(
        400,
        "The access token is malformed, or the request has one in its query.",
        bearer="invalid_request",
    )
    TOKEN_TOO_LARGE = _Facts(
        400,
        "The access token is larger than is allowed.",
        "tokens.max-token-bytes",
        bearer="invalid_request",
    )
    TOKEN_CLAIMS_TOO_LARGE = _Facts(
        400,
        "The claims of the access token are larger than their header to the back end may be.",
        "headers.max-value-bytes",
        bearer="invalid_request",
    )
    TOKEN_MISSING = _Facts(
        401, "The request needs an access token, and has none.", bearer="invalid_token"
    )
    TOKEN_INVALID = _Facts(401, "The access token cannot be accepted.", bearer="invalid_token")
    TOKEN_NOT_BOUND = _Facts(
        401,
        "The access token is bound to no certificate, or is used with the wrong scheme.",
        bearer="invalid_token",
    )
    TOKEN_MISMATCH = _Facts(
        401,
        "The access token is bound to a certificate that this client has not shown.",
        bearer="invalid_token",
    )
    TOKEN_EXPIRED = _Facts(
        401, "The access token is past its lifetime, or before it.", bearer="invalid_token"
    )
    METHOD_NOT_ALLOWED = _Facts(405, "TRACE, CONNECT, or a method this listener never serves.")
    HEAD_TIMEOUT = _Facts(408, "The head was not complete in time.", "client.head-timeout")
    BODY_TIMEOUT = _Facts(408, "The body stopped, or came too slowly.", "client.body-timeout")
    BODY_TOO_LARGE = _Facts(413, "The body is larger than is allowed.", "client.max-body-bytes")
    TARGET_TOO_LONG = _Facts(
        414, "The request target is longer than is allowed.", "client.max-target-bytes"
    )
    EXPECTATION_FAILED = _Facts(417, "`Expect` has another value than 100-continue.")
    MISDIRECTED = _Facts(421, "`Host` is not among the allowed hosts.")
    HEAD_TOO_LARGE = _Facts(
        431,
        "The head, one of its lines or the number of its fields is too large.",
        "client.max-head-bytes",
    )
    NOT_IMPLEMENTED = _Facts(501, "The method is unknown.")
    CONNECT_FAILED = _Facts(502, "No connection to the back end could be made.")
    INVALID_RESPONSE = _Facts(502, "The back end's response is malformed or cut short.")
    RESPONSE_TOO_LARGE = _Facts(
        502,
        "The head of the back end's response, or the number of its fields, is too large.",
        "upstream.max-head-bytes",
    )
    INTERNAL_ERROR = _Facts(502, "An error of the proxy's own; the log has a traceback.")
    QUEUE_FULL = _Facts(
        503,
        "As many requests wait for the back end as are allowed.",
        "upstream.max-queued-requests",
    )
    OUT_OF_RESOURCES = _Facts(
        503, "The proxy has no descriptor, port or memory left for a connection to the back end."
    )
    UPLOADS_FULL = _Facts(
        503,
        "Streamed uploads use their share of the connections to the back end.",
        "upstream.max-connections",
    )
    QUEUE_TIMEOUT = _Facts(
        503, "No connection to the back end became free in time.", "upstream.queue-timeout"
    )
    TOKEN_UNVERIFIABLE = _Facts(
        503, "The access token cannot be verified now: the authorization server does not respond."
    )
    TOKEN_CHECKS_FULL = _Facts(
        503,
        "As many requests wait for the authorization server as are allowed.",
        "tokens.max-pending-checks",
    )
    TOKEN_ADDRESS_FULL = _Facts(
        503,
        "As many requests of this address wait for the authorization server as are allowed.",
        "tokens.max-pending-checks-per-address",
    )
    CONNECT_TIMEOUT = _Facts(
        504, "The connection to the back end took too long.", "upstream.connect-timeout"
    )
    BACKEND_TIMEOUT = _Facts(
        504, "The back end did not respond in time.", "upstream.response-timeout"
    )
    LOOP = _Facts(508, "The request comes from the proxy itself, which is its own back end.")
    SEND_TIMEOUT = _Facts(
        0, "The client stopped reading its response, or read too slowly.", "client.send-timeout"
    )
    SLOW_CLIENT = _Facts(
        0,
        "The client did not read its response while another request needed the connection.",
        "upstream.max-connections",
    )
    CLIENT_LEFT = _Facts(0, "The client closed its connection before the response was complete.")
    SHUTDOWN = _Facts(0, "The proxy closed the connection before the response was complete.")

    @property
    def label(self) -> str:
        """The code in logs and metrics, such as ``no_certificate``."""
        return self.name.lower()

    @property
    def status(self) -> int:
        """The HTTP status; 0 where no response can be sent."""
        return self.value.status

    @property
    def bearer(self) -> str:
        """The error of RFC 6750 section 3.1, or ``""`` for a code that is not about a token."""
        return self.value.bearer

    @property
    def limit(self) -> str:
        """The setting that was exceeded, or ``""``."""
        return self.value.limit


# RFC 6749 section 5.2 for the token endpoint, and section 4.1.2.1 for a server that has failed.
_ERRORS = {
    401: "invalid_client",
    403: "access_denied",
    502: "server_error",
    503: "temporarily_unavailable",
    504: "server_error",
    508: "server_error",
}


@attrs.frozen
class ErrorResponse:
    """One error response of the proxy.

    ``detail``: for the operator's log, without secrets. ``description``: for the client, in ASCII,
    without facts about the back end. ``error``: the error of RFC 6749; the default depends on the
    status. ``scheme``: the one of the challenge, if the code is about an access token.
    """

    code: Code
    detail: str
    description: str = ""
    error: str = ""
    scheme: str = "Bearer"

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return self.code.status

    @property
    def body(self) -> bytes:
        """``{"error": …, "error_description": …}`` as in RFC 6749 section 5.2."""
        error = self.error or self.code.bearer or _ERRORS.get(self.status, "invalid_request")
        table = {"error": error, "error_description": self._description}
        return json.dumps(table).encode("ascii") + b"\n"

    @property
    def _description(self) -> str:
        return self.description or HTTPStatus(self.status).phrase

    @property
    def pairs(self) -> tuple[tuple[bytes, bytes], ...]:
        """The header fields, without framing, ``Date`` and ``Connection``."""
        fields = [(b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")]
        if self.code.bearer:
            fields.append((b"WWW-Authenticate", self._token_challenge))
        elif self.status == 401:
            # RFC 9110 section 15.5.2 requires a challenge, and some clients fail without one. None
            # is registered for TLS.
            fields.append((b"WWW-Authenticate", b"ClientCertificate"))
        if self.status == 503:
            fields.append((b"Retry-After", b"1"))
        if self.status == 405:
            fields.append((b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))
        return tuple(fields)

    @property
    def _token_challenge(self) -> bytes:
        """The challenge of RFC 6750 section 3, or of RFC 9449 section 7.1.

        A request without a token gets no error (RFC 6750 section 3.1). ``Bearer`` needs a
        parameter all the same, so there is a realm.
        """
        if self.code is Code.TOKEN_MISSING:
            return b'Bearer realm="api"'
        error = f'error="{self.code.bearer}", error_description="{self._description}"'
        return f"{self.scheme} {error}".encode("ascii")


class HttpError(Exception):
    """A request, or a response of a back end, that is rejected with an :class:`ErrorResponse`."""

    def __init__(self, response: ErrorResponse) -> None:
        super().__init__(response.detail)
        self.response = response


def bad_request(detail: str) -> HttpError:
    """Make the error for a malformed or ambiguous request; the caller raises it."""
    return HttpError(ErrorResponse(Code.BAD_REQUEST, detail, "Malformed request"))
