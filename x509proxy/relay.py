"""One exchange: decide, acquire a connection to a back end, send the request, pipe the response.

``start`` decides (:func:`x509proxy.forwarding.decision.decide`); ``request_ready`` writes the
head and acquires a connection from a pool; ``connected`` sends; the ``response_…`` methods pipe.
Until the head is written, any doubt or exception is an error response, and nothing reaches a back
end (invariant L3).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from x509proxy.authorization.token_check import TokenChecker
from x509proxy.downstream.base_request import RequestConsumer
from x509proxy.exchange import TokenVerdict
from x509proxy.forwarding.bound_tokens import name_scheme
from x509proxy.forwarding.client import Client
from x509proxy.forwarding.decision import Decision, decide
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.forwarding.metadata_rewriter import ResponseSink, response_sink
from x509proxy.forwarding.sanitizer import sanitize_response
from x509proxy.forwarding.token_claims import CheckedToken, claims_fields
from x509proxy.http1.body import LAST_CHUNK, write_chunk
from x509proxy.http1.errors import Code, ErrorResponse, HttpError, bad_request
from x509proxy.http1.fields import Framing, write_head
from x509proxy.http1.messages import METHODS_WITH_BODY, RequestHead, ResponseHead
from x509proxy.http1.request_id import REQUEST_ID
from x509proxy.settings import DiscoverySettings, PolicySettings, TokenRequirement
from x509proxy.upstream.connection import Connection
from x509proxy.upstream.load_balancing import candidates
from x509proxy.upstream.pool import Pool

__all__ = ["ProxiedRequest", "Relay"]

# Module names: a look into an enumeration takes four times as long (Python 3.11).
_IGNORED = TokenRequirement.IGNORED
_CHUNKED = Framing.CHUNKED
_INTERNAL_ERROR = ErrorResponse(Code.INTERNAL_ERROR, "internal error")


class ProxiedRequest(ResponseSink, Protocol):
    """A request on a connection of the proxy, or of a stock ``Site``.

    ``accept`` calls the consumer's ``request_ready``, now or later. ``take_body`` returns the part
    of the body that has arrived; ``stream_body`` lets the rest go to the consumer. ``begin``,
    ``write`` and ``finish`` send a response. ``answer`` sends a complete error response. ``abort``
    cuts a response that has begun.
    """

    head: RequestHead
    client: Client
    consumer: RequestConsumer | None
    body_complete: bool
    begun: bool
    forged: int
    token: TokenVerdict
    backend: str
    request_id: bytes

    def accept(self) -> None: ...
    def take_body(self) -> bytes: ...
    def stream_body(self) -> None: ...
    def pause_body(self) -> None: ...
    def resume_body(self) -> None: ...
    def flush(self) -> None: ...
    def answer(self, error: ErrorResponse) -> None: ...
    def abort(self, code: Code, detail: str) -> None: ...


class Relay:
    """One exchange. ``streams``: the client is still sending the request's body."""

    _log = Logger()

    __slots__ = (
        "_body", "_candidates", "_check", "_connection", "_content", "_fields", "_head", "_policy",
        "_pool", "_pools", "_request", "_rules", "_sink", "_tokens", "streams",
    )  # fmt: skip

    def __init__(
        self,
        request: ProxiedRequest,
        pools: Sequence[Pool],
        rules: HeaderRules,
        policy: PolicySettings,
        discovery: DiscoverySettings | None = None,
        tokens: TokenChecker | None = None,
    ) -> None:
        self._request = request
        self._sink: ResponseSink = (
            request if discovery is None else response_sink(request, discovery)
        )
        self._pools = pools
        self._candidates = candidates(pools, self)
        self._rules = rules
        self._policy = policy
        self._tokens = tokens
        self._check: Deferred[CheckedToken] | None = None
        self._fields = self._head = self._content = b""
        self._body = (Framing.NONE, 0)
        self._pool: Pool | None = None
        self._connection: Connection | None = None
        self.streams = False

    # Decide.

    def start(self) -> None:
        """Decide about the request; reject it, or wait for its body and its token's check."""
        request = self._request
        head, now = request.head, time.time()
        if not head.host:
            head = attrs.evolve(head, host=self._pools[0].backend.authority)
        decision = decide(head, request.client, self._rules, self._policy, now)
        request.forged = decision.forged
        if decision.error is not None:
            request.answer(decision.error)
            return
        self._fields = decision.fields
        request.consumer = self
        if decision.token is _IGNORED:
            request.accept()
        else:
            self._check_token(head, decision, now)

    def _check_token(self, head: RequestHead, decision: Decision, now: float) -> None:
        # The token counts as rejected until the check accepts it (L3).
        self._request.token = TokenVerdict.REJECTED
        assert self._tokens is not None
        try:
            checked = self._tokens.check(
                head, decision.certificate, decision.token, now, self._request.client.hop.peer
            )
            if not isinstance(checked, Deferred):
                self._use_token(checked)
        except HttpError as rejected:
            self._reject(rejected.response)
            return
        if isinstance(checked, Deferred):
            self._check = checked
            judged = checked.addCallback(self._use_token)
            judged.addCallbacks(self._accepted, self._not_accepted).addErrback(self._check_failed)
        else:
            self._request.accept()

    def _use_token(self, checked: CheckedToken) -> None:
        """Add the fields with the token's claims.

        :raises HttpError: 400, they are too large.
        """
        self._fields += claims_fields(checked.claims, self._rules)
        self._request.token = checked.verdict

    def _accepted(self, _: None) -> None:
        self._check = None
        self._request.accept()

    def _not_accepted(self, failure: Failure) -> Failure | None:
        self._check = None
        if isinstance(failure.value, HttpError):
            self._reject(failure.value.response)
            return None
        return None if failure.check(CancelledError) is not None else failure

    def _check_failed(self, failure: Failure) -> None:
        # Fail closed (L3).
        self._log.failure("a request with an access token could not be served", failure)
        self.response_failed(_INTERNAL_ERROR)

    def _reject(self, error: ErrorResponse) -> None:
        self._request.consumer = None
        self._request.answer(name_scheme(error, self._request.head))

    # Acquire.

    def request_ready(self) -> None:
        """Acquire a connection: the body is complete, or so large that it has to be streamed."""
        request = self._request
        head = request.head
        takes_body = head.method in METHODS_WITH_BODY
        if not request.body_complete:
            self.streams = True
            self._body = (head.body, head.length)
        else:
            self._content = request.take_body()
            if takes_body:
                self._body = (Framing.LENGTH, len(self._content))
        if not takes_body and (self.streams or self._content):
            # A last check (L3): the parser, or read_stock_head, has rejected it before.
            raise bad_request("body on a method that takes none")
        self._acquire(next(self._candidates))

    def _acquire(self, pool: Pool) -> None:
        self._pool = pool
        request = self._request
        request.backend = pool.name
        target = request.head.target
        base = b"" if target == b"*" else pool.backend.base
        line = b"%b %b%b HTTP/1.1" % (request.head.method, base, target)
        own = [(REQUEST_ID, request.request_id)]
        if not pool.settings.keep_alive:
            own.append((b"Connection", b"close"))
        self._head = write_head(line, own, *self._body, self._fields)
        pool.acquire(self)

    def connected(self, connection: Connection) -> None:
        """Send the request on a connection that a pool lends."""
        self._connection = connection
        try:
            request, pool = self._request, self._pool
            if request.head.binds_connection or (pool and not pool.settings.keep_alive):
                connection.retire()
            if self.streams:
                self._send_streamed(connection)
            else:
                connection.send(request.head.method, self._head + self._content, self)
        except Exception:
            # Fail closed (L3): a connection that was opened in a later turn has no other caller.
            self._log.failure("a request could not be sent")
            connection.cancel()
            self.response_failed(_INTERNAL_ERROR)

    def not_connected(self, error: ErrorResponse) -> None:
        """Try another back end: nothing has been sent. If there is none, reject the request."""
        self._pool = None
        try:
            if self._connection is None and (pool := next(self._candidates, None)):
                self._acquire(pool)
            else:
                self._reject(error)
        except Exception:
            # Fail closed (L3), and take no connection any more.
            self._log.failure("a request could not be sent")
            if self._pool is not None:
                self._pool.cancel(self)
            self.response_failed(_INTERNAL_ERROR)

    # Send.

    def _send_streamed(self, connection: Connection) -> None:
        request = self._request
        begun = self._head + self._framed(request.take_body())
        connection.send_head(request.head.method, begun, self)
        # After the head (L2): over TLS this call itself may deliver more of the body, and its end.
        request.stream_body()

    def _framed(self, data: bytes) -> bytes:
        return write_chunk(data) if data and self._body[0] is _CHUNKED else data

    def body_data(self, data: bytes) -> None:
        """Send a piece of a streamed body."""
        assert self._connection is not None
        self._connection.body_data(self._framed(data))

    def body_end(self) -> None:
        """Send the end of a streamed body."""
        assert self._connection is not None and self._pool is not None
        if self._body[0] is _CHUNKED:
            self._connection.body_data(LAST_CHUNK)
        self._connection.body_end()
        self._pool.uploaded(self._connection)

    def pause_request(self) -> None:
        """Pause the body: the back end is slow."""
        self._request.pause_body()

    def resume_request(self) -> None:
        """Resume the body."""
        self._request.resume_body()

    # Pipe.

    def response_head(self, head: ResponseHead) -> None:
        """Begin the response to the client."""
        reason, pairs = sanitize_response(head, self._rules)
        self._sink.begin(head.status, reason, pairs, head.body, head.length)

    def response_data(self, data: bytes) -> None:
        """Forward a piece of the response's body."""
        self._sink.write(data)

    def response_flush(self) -> None:
        """Send what has been forwarded so far."""
        self._request.flush()

    def response_end(self) -> None:
        """End the response."""
        self._connection = None
        self._sink.finish()

    def response_failed(self, error: ErrorResponse) -> None:
        """Reject the request; cut the connection if a response has begun, or none is possible."""
        self._connection = None
        try:
            # A client that does not read has no status: it is cut.
            if self._request.begun or not error.status:
                self._request.abort(error.code, error.detail)
            else:
                self._request.answer(error)
        except Exception:
            self._log.failure("a request could not be rejected")
            self._request.abort(Code.INTERNAL_ERROR, "internal error")

    def pause_response(self) -> None:
        """Pause the response: the client is slow."""
        if self._connection is not None:
            self._connection.pause_response()

    def resume_response(self) -> None:
        """Resume the response."""
        if self._connection is not None:
            self._connection.resume_response()

    def client_gone(self) -> None:
        """Cancel the work for a client that has left."""
        if self._check is not None:
            self._check.cancel()
        elif self._connection is not None:
            self._connection.cancel()
        elif self._pool is not None:
            self._pool.cancel(self)
