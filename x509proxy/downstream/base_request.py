"""A request as the record sees it, on whatever connection it came: when it began, what became of it, and who answers it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from twisted.logger import Logger

from x509proxy.exchange import Exchange, Observer, Outcome, TokenVerdict
from x509proxy.forwarding.client import Client
from x509proxy.http1.errors import Code
from x509proxy.http1.messages import RequestHead
from x509proxy.http1.request_id import given_request_id, new_request_id
from x509proxy.settings import RequestIds

__all__ = ["BaseRequest", "ResponseSource"]


# Looked up here, not at the class: that costs four times as much (Python 3.11).
_UNCHECKED = TokenVerdict.UNCHECKED


class ResponseSource(Protocol):
    """Where an answer comes from: it is told when the client reads too slowly, and when it has gone."""

    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...
    def client_gone(self) -> None: ...


class BaseRequest:
    """A request as the record sees it. ``forged``, ``backend``, ``code`` and ``detail`` are for whoever serves it to fill in."""

    _log = Logger()

    __slots__ = (
        "_began", "_clock", "_started", "backend", "begun", "bytes_in", "bytes_out", "client", "code", "detail", "ended", "forged", "head",
        "observe", "request_id", "source", "status", "token",
    )  # fmt: skip

    def __init__(
        self, head: RequestHead, client: Client, observe: Observer, clock: Callable[[], float]
    ) -> None:
        self.head = head
        self.client = client
        self.observe = observe
        self.source: ResponseSource | None = None
        self.begun = False
        self.ended = False
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.forged = 0
        self.token = _UNCHECKED
        self.backend = ""
        self.code: Code | None = None
        self.detail = ""
        self.request_id = new_request_id()
        self._clock = clock
        self._started = time.time()
        self._began = clock()

    def set_request_id(self, ids: RequestIds) -> None:
        """Whose id it is: ours, unless the one that came with the request is to be kept and is one."""
        if ids is RequestIds.TRUST:
            self.request_id = given_request_id(self.head.pairs) or self.request_id

    def record(self, outcome: Outcome, observe: Observer | None = None) -> None:
        """Report the end of the exchange, once, to ``observe`` if it is not the request's own observer."""
        self.ended = True
        try:
            (observe or self.observe)(self.exchange(outcome))
        except Exception:
            # An observer that fails must not change the exchange.
            self._log.failure("an observer failed")

    def lost(self, code: Code, detail: str) -> None:
        """The connection has gone: whoever serves the request is told, once."""
        if not self.ended:
            self.code, self.detail = code, detail
            self.record(Outcome.ABORTED)
            self._leave_source()

    def _leave_source(self) -> None:
        source, self.source = self.source, None
        if source is not None:
            source.client_gone()

    def exchange(self, outcome: Outcome) -> Exchange:
        """Return the record of the exchange as it stands."""
        method, path, version = self.head.words
        return Exchange(
            started=self._started,
            duration=self._clock() - self._began,
            peer=self.client.hop.peer,
            method=method,
            target=path,
            version=version,
            status=self.status,
            outcome=outcome,
            code=self.code,
            detail=self.detail,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            tls_version=self.client.tls_version,
            key_exchange=self.client.key_exchange,
            certificate=self.client.certificate,
            forged=self.forged,
            token=self.token,
            invalid_header_names=self.head.invalid_header_names,
            backend=self.backend,
            request_id=self.request_id.decode("ascii"),
        )
