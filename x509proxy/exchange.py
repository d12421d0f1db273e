"""One request and its answer, as a frozen record: what the access log, the metrics and an application's observer see."""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

from x509proxy.certificates.client_certificate import ClientCertificate, Verdict
from x509proxy.http1.errors import Code

__all__ = ["Exchange", "Observer", "Outcome", "TokenVerdict", "unobserved"]


class Outcome(enum.Enum):
    """How an exchange ended."""

    COMPLETED = "completed"
    """The back end's answer was handed on, whole."""
    REJECTED = "rejected"
    """The proxy itself answered; the back end heard nothing of it, or its answer was not fit to hand on."""
    ABORTED = "aborted"
    """The answer was not handed on whole: the client or the back end left before its end."""


class TokenVerdict(enum.Enum):
    """The result of the check of a request's access token (:mod:`x509proxy.authorization`)."""

    UNCHECKED = "UNCHECKED"
    """No rule asks for a check."""
    ABSENT = "ABSENT"
    """There was no token, and none is needed."""
    BOUND = "BOUND"
    """The token is bound to the certificate of this connection."""
    UNBOUND = "UNBOUND"
    """The token has no binding that can be read here, and needs none."""
    DPOP = "DPOP"
    """The token is bound to a DPoP key (RFC 9449), which the back end checks."""
    REJECTED = "REJECTED"
    """The token was not accepted; ``code`` has the reason."""


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One request and its answer.

    ``started``: seconds since the epoch; ``duration``: seconds; ``target``: path without query, which may hold OAuth codes;
    ``status``: 0 if none was sent; ``bytes_in``, ``bytes_out``: of the bodies; ``forged``: how many fields were removed that
    pretended to be the certificate header; ``invalid_header_names``: fields dropped for their names;
    ``code``: the reason for an error response, or for an exchange that was cut short; ``detail``: the
    same as a sentence for the operator. ``backend``: the one that was asked last, if any was, be it
    that it could not be reached; ``request_id``: what the client and the back end know it by (:mod:`x509proxy.http1.request_id`).
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
    """The observer of one who does not observe."""


Observer = Callable[[Exchange], None]
"""Whatever wants to know of exchanges: called once for each, after its end. It must not raise."""
