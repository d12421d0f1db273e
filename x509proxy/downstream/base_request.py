"""One request without its connection: its head, its client, and the record of its exchange."""

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

__all__ = ["BaseRequest", "RequestConsumer"]


# A module name: a look into an enumeration takes four times as long (Python 3.11).
_UNCHECKED = TokenVerdict.UNCHECKED


class RequestConsumer(Protocol):
    """The receiver of one request (:class:`x509proxy.relay.Relay`).

    ``request_ready``: the body is complete, or large enough to be streamed. ``body_data`` and
    ``body_end``: the rest of a streamed body. ``pause_response``, ``resume_response``: the client
    does not read, or reads again. ``client_gone``: the client has left, so the response is of no
    use.
    """

    def request_ready(self) -> None: ...
    def body_data(self, data: bytes) -> None: ...
    def body_end(self) -> None: ...
    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...
    def client_gone(self) -> None: ...


class BaseRequest:
    """One request.

    Its handler sets ``consumer``, ``forged``, ``token``, ``backend``, ``code`` and ``detail``.
    ``begun``: the head of a response has been written. ``ended``: the exchange is recorded.
    """

    _log = Logger()

    __slots__ = (
        "_began", "_clock", "_started", "backend", "begun", "bytes_in", "bytes_out", "client",
        "code", "consumer", "detail", "ended", "forged", "head", "observe", "request_id", "status",
        "token",
    )  # fmt: skip

    def __init__(
        self, head: RequestHead, client: Client, observe: Observer, clock: Callable[[], float]
    ) -> None:
        self.head = head
        self.client = client
        self.observe = observe
        self.consumer: RequestConsumer | None = None
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
        """Take the id that came with the request, if those are trusted and it is valid."""
        if ids is RequestIds.TRUST:
            self.request_id = given_request_id(self.head.pairs) or self.request_id

    def record(self, outcome: Outcome, observe: Observer | None = None) -> None:
        """Report the end of the exchange, once, to ``observe`` or to the request's own observer."""
        self.ended = True
        try:
            (observe or self.observe)(self.exchange(outcome))
        except Exception:
            # An observer that fails must not change the exchange.
            self._log.failure("an observer failed")

    def lost(self, code: Code, detail: str) -> None:
        """Record that the connection ended before the response, and report it to the consumer."""
        if not self.ended:
            self.code, self.detail = code, detail
            self.record(Outcome.ABORTED)
            self._leave_consumer()

    def _leave_consumer(self) -> None:
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            consumer.client_gone()

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
