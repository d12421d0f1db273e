"""One request on its way: certificate to policy to header pairs to back end, and the answer back; what can go wrong on each leg.

Everything that may refuse the request is done before a back end hears of it, and the head is written before a connection is
asked for: any doubt or exception until then is an answer of ours, and not one byte to the back end (invariant L3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from x509proxy.authorization.token_check import TokenChecker
from x509proxy.downstream.base_request import ResponseSource
from x509proxy.downstream.request import BodySink
from x509proxy.exchange import TokenVerdict
from x509proxy.forwarding.client import Client
from x509proxy.forwarding.forwarded_fields import forward
from x509proxy.forwarding.header_rules import HeaderRules
from x509proxy.forwarding.metadata_rewriter import ResponseSink, response_sink
from x509proxy.forwarding.sanitizer import sanitize_request, sanitize_response
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

# A look into an enumeration takes four times as long as one at a name of this module's (Python 3.11).
_IGNORED = TokenRequirement.IGNORED


class ProxiedRequest(ResponseSink, Protocol):
    """A request, over our channel or over a stock ``Site``, and the way to answer it (:mod:`x509proxy.downstream.request`)."""

    head: RequestHead
    client: Client
    source: ResponseSource | None
    body_complete: bool
    begun: bool
    forged: int
    token: TokenVerdict
    backend: str
    request_id: bytes

    @property
    def held(self) -> int: ...
    def accept(self, ready: Callable[[], None]) -> None: ...
    def flush(self) -> None: ...
    def stream_to(self, sink: BodySink) -> None: ...
    def pause_body(self) -> None: ...
    def resume_body(self) -> None: ...
    def answer(self, refusal: ErrorResponse) -> None: ...
    def abort(self, code: Code, detail: str) -> None: ...


class Relay:
    """One exchange: asks a pool for a connection, sends the request on it, hands the answer on."""

    _log = Logger()

    __slots__ = (
        "_body", "_candidates", "_check", "_connection", "_fields", "_policy", "_pool", "_pools", "_request", "_rules", "_sink", "_start",
        "_tokens", "streams",
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
        self._check: Deferred[TokenVerdict] | None = None
        self._fields = b""
        self._pool: Pool | None = None
        self._connection: Connection | None = None
        self._body = (Framing.NONE, 0)
        self.streams = False
        self._start = b""

    def start(self) -> None:
        """Judge the request; if it may go on, wait for its body."""
        request = self._request
        try:
            self._sanitise()
        except HttpError as error:
            request.answer(error.response)
        else:
            request.source = self
            if self._check is None:
                request.accept(self._choose)
            else:
                checked = self._check.addCallbacks(self._accepted, self._not_accepted)
                checked.addErrback(self._not_served)

    # The token check's calls, if it has to wait.

    def _accepted(self, verdict: TokenVerdict) -> None:
        self._check = None
        self._request.token = verdict
        self._request.accept(self._choose)

    def _not_accepted(self, failure: Failure) -> Failure | None:
        self._check = None
        if isinstance(failure.value, HttpError):
            self._request.answer(failure.value.response)
            return None
        return None if failure.check(CancelledError) is not None else failure

    def _not_served(self, failure: Failure) -> None:
        # Fail closed (L3).
        self._log.failure("a request with an access token could not be served", failure)
        self.response_failed(ErrorResponse(Code.INTERNAL_ERROR, "internal error"))

    def _sanitise(self) -> None:
        request = self._request
        head = (
            request.head
            if request.head.host
            else attrs.evolve(request.head, host=self._pools[0].backend.authority)
        )
        cleaned, request.forged = sanitize_request(head, self._rules)
        now = time.time()
        found = forward(cleaned, head, request.client, self._rules, self._policy, now)
        self._fields = found.fields
        if found.token is not _IGNORED:
            # Until the check accepts it. Without one, any token is an error of ours (L3).
            request.token = TokenVerdict.REJECTED
            assert self._tokens is not None
            checked = self._tokens.check(head, found.certificate, found.token, now)
            if isinstance(checked, Deferred):
                self._check = checked
            else:
                request.token = checked

    def _choose(self) -> None:
        """The body is there, or so much of it that it has to be streamed: ask the next back end."""
        request = self._request
        takes_body = request.head.method in METHODS_WITH_BODY
        if not takes_body and (request.held or not request.body_complete):
            # The last look (L3): the parser, or read_stock_head, has rejected it before.
            raise bad_request("body on a method that takes none")
        if not request.body_complete:
            self._body = (request.head.body, request.head.length)
            self.streams = True
        elif takes_body:
            self._body = (Framing.LENGTH, request.held)
        self._ask(next(self._candidates))

    def _ask(self, pool: Pool) -> None:
        self._pool = pool
        self._request.backend = pool.name
        target = self._request.head.target
        base = b"" if target == b"*" else pool.backend.base
        line = b"%b %b%b HTTP/1.1" % (self._request.head.method, base, target)
        self._start = write_head(
            line, ((REQUEST_ID, self._request.request_id),), *self._body, self._fields
        )
        pool.acquire(self)

    # The pool's calls.

    def connected(self, connection: Connection) -> None:
        self._connection = connection
        try:
            request = self._request
            if request.head.binds_connection:
                connection.retire()
            connection.send(request.head.method, self._start, self, request.body_complete)
            if request.held:
                request.stream_to(self)
            else:
                # It was to be complete, or to have begun: so it is, and has no body.
                self.body_end()
        except Exception:
            # Fail closed (L3): whoever opened the connection in a later turn has nobody to tell.
            self._log.failure("a request could not be sent")
            connection.cancel()
            self.response_failed(ErrorResponse(Code.INTERNAL_ERROR, "internal error"))

    def not_connected(self, refusal: ErrorResponse) -> None:
        """Not one byte has been sent, so another back end may be asked."""
        self._pool = None
        if pool := next(self._candidates, None):
            self._ask(pool)
        else:
            self._request.answer(refusal)

    # The body's way in.

    def body_data(self, data: bytes) -> None:
        assert self._connection is not None
        chunked = self._body[0] is Framing.CHUNKED
        self._connection.body_data(write_chunk(data) if chunked else data)

    def body_end(self) -> None:
        assert self._connection is not None
        if self._body[0] is Framing.CHUNKED:
            self._connection.body_data(LAST_CHUNK)
        self._connection.body_end()
        if self.streams and self._pool is not None:
            self._pool.uploaded(self._connection)

    def pause_request(self) -> None:
        self._request.pause_body()

    def resume_request(self) -> None:
        self._request.resume_body()

    # The answer's way out.

    def response_head(self, head: ResponseHead) -> None:
        self._sink.begin(head.status, *sanitize_response(head, self._rules), head.body, head.length)

    def response_data(self, data: bytes) -> None:
        self._sink.write(data)

    def response_flush(self) -> None:
        self._request.flush()

    def response_end(self) -> None:
        self._connection = None
        self._sink.finish()

    def response_failed(self, refusal: ErrorResponse) -> None:
        self._connection = None
        try:
            if self._request.begun:
                self._request.abort(refusal.code, refusal.detail)
            else:
                self._request.answer(refusal)
        except Exception:
            self._log.failure("a request could not be refused")
            self._request.abort(Code.INTERNAL_ERROR, "internal error")

    # The client's calls.

    def pause_response(self) -> None:
        if self._connection is not None:
            self._connection.pause_response()

    def resume_response(self) -> None:
        if self._connection is not None:
            self._connection.resume_response()

    def client_gone(self) -> None:
        if self._check is not None:
            self._check.cancel()
        elif self._connection is not None:
            self._connection.cancel()
        elif self._pool is not None:
            self._pool.cancel(self)
