"""One request and its response: a frozen record for the access log, metrics and observers."""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

from x509proxy.certificates.client_certificate import ClientCertificate, Verdict
from x509proxy.http1.errors import Code

__all__ = ["Exchange", "Observer", "Outcome", "TokenVerdict", "unobserved"]


class Outcome(enum.Enum):
    """The end of an exchange."""

    COMPLETED = "completed"
    """The client received the complete response of the back end."""
    REJECTED = "rejected"
    """The proxy sent an error response of its own.

    The back end received no request, or its response could not be forwarded.
    """
    ABORTED = "aborted"
    """The response ended early: a connection was lost or cut before the end, or was too slow."""


class TokenVerdict(enum.Enum):
    """The result of the check of a request's access token (:mod:`x509proxy.authorization`)."""

    UNCHECKED = "UNCHECKED"
    """No rule requires a check."""
    ABSENT = "ABSENT"
    """There was no token, and none is needed."""
    BOUND = "BOUND"
    """The token is bound to the certificate of this connection."""
    UNBOUND = "UNBOUND"
    """The token has no binding that can be read here, and needs none."""
    DPOP = "DPOP"
    """The token is bound to a DPoP key (RFC 9449), which the back end checks."""
    REJECTED = "REJECTED"
    """The token was rejected; ``code`` is the reason."""


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One request and its response.

    ``started``: seconds since the epoch. ``duration``: seconds. ``peer``: the client's address.
    ``target``: the path without the query, which may hold OAuth codes. ``status``: 0 if none was
    sent. ``bytes_in``, ``bytes_out``: octets of the two bodies. ``forged``: the number of removed
    fields of the client that had a name of the proxy's own headers. ``invalid_header_names``: the
    number of fields dropped for their names. ``code``: the reason for an error response, or for a
    response that ended early. ``detail``: the same as a sentence for the operator. ``backend``: the
    last one that was tried, also if no connection to it could be made. ``request_id``: the id that
    the client and the back end receive (:mod:`x509proxy.http1.request_id`).
    """

    started: float
    duration: float
    peer: str
    method: str
    target: str
    version: str = "HTTP/1.1"
    status: int = 0
    outcome: Outcome
    code: Code | None = None
    detail: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    tls_version: str = ""
    key_exchange: str = ""
    certificate: ClientCertificate | None = None
    forged: int = 0
    token: TokenVerdict = TokenVerdict.UNCHECKED
    invalid_header_names: int = 0
    backend: str = ""
    request_id: str = ""

    @property
    def verdict(self) -> Verdict:
        """The certificate's verdict, ``NONE`` without one."""
        return self.certificate.verdict if self.certificate else Verdict.NONE


def unobserved(exchange: Exchange) -> None:
    """Ignore an exchange."""


Observer = Callable[[Exchange], None]
"""A function that is called once for each exchange, after its end. It must not raise."""
