"""What the proxy itself answers: a status, a reason for the operator, and JSON that a client's developer understands."""

from __future__ import annotations

import json
from http import HTTPStatus

import attrs

__all__ = ["ErrorResponse", "HttpError", "bad_request"]

# RFC 6749 section 5.2 for the token end point; section 4.1.2.1 has the two for a server that is out of order.
_ERRORS = {
    401: "invalid_client",
    403: "access_denied",
    502: "server_error",
    503: "temporarily_unavailable",
    504: "server_error",
}


@attrs.frozen
class ErrorResponse:
    """One answer of the proxy's own.

    ``status``: HTTP status; ``reason``: for the operator's log, never holds a secret; ``description``: for the client, plain
    ASCII, says nothing of what is behind the proxy; ``error``: RFC 6749's word, chosen by the status unless given.
    """

    status: int
    reason: str
    description: str = ""
    error: str = ""

    @property
    def body(self) -> bytes:
        """``{"error": …, "error_description": …}`` as RFC 6749 section 5.2 has it."""
        error = self.error or _ERRORS.get(self.status, "invalid_request")
        description = self.description or HTTPStatus(self.status).phrase
        return (
            json.dumps({"error": error, "error_description": description}).encode("ascii") + b"\n"
        )

    @property
    def pairs(self) -> tuple[tuple[bytes, bytes], ...]:
        """The answer's own fields; framing, ``Date`` and ``Connection`` are the channel's business."""
        fields = [(b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")]
        if self.status == 401:
            # RFC 9110 section 15.5.2 wants a challenge, and there are clients that fail without one; none is registered for TLS.
            fields.append((b"WWW-Authenticate", b"ClientCertificate"))
        if self.status == 503:
            fields.append((b"Retry-After", b"1"))
        if self.status == 405:
            fields.append((b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))
        return tuple(fields)


class HttpError(Exception):
    """Raised where a request, or a back end's answer, turns out unfit; carries the :class:`ErrorResponse`."""

    def __init__(self, refusal: ErrorResponse) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def bad_request(reason: str) -> HttpError:
    """To be raised for a request that no reader should have to make sense of."""
    return HttpError(ErrorResponse(400, reason, "Malformed request"))
