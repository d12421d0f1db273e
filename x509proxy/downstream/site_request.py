"""A request of a stock ``twisted.web.server.Site``, as the proxy sees it: buffered, and by the rules of the proxy's own channel.

What this cannot mend is what the stock channel has done before: no deadlines but its one, and the body in memory or on disk.
What it does mend: the head is validated again, and a request that the stock channel has answered 400 and still renders
(the rest of its head came in later TLS records) is not served; after a refusal of ours the connection ends with the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from x509proxy.downstream.base_request import BaseRequest
from x509proxy.exchange import Observer, Outcome
from x509proxy.http1.errors import Code, ErrorResponse, HttpError, bad_request
from x509proxy.http1.fields import Pairs
from x509proxy.http1.messages import (
    METHODS_WITH_BODY,
    NO_HEAD,
    Framing,
    RequestHead,
    read_request_head,
)
from x509proxy.http1.request_id import REQUEST_ID
from x509proxy.settings import ClientSettings
from x509proxy.transport.peer import client_of
from x509proxy.transport.tls_context import transport_of

__all__ = ["SiteRequest", "read_stock_head"]


def read_stock_head(request: Any, settings: ClientSettings) -> RequestHead:
    """The head, validated anew.

    :raises HttpError: as :func:`x509proxy.http1.messages.read_request_head`; 413 or 400 for its
        body; or 400, the channel has refused it already.
    """
    if getattr(request.channel.transport, "disconnecting", False):
        raise HttpError(ErrorResponse(Code.BAD_REQUEST, "refused by the stock channel"))
    pairs = [
        (name, value)
        for name, values in request.requestHeaders.getAllRawHeaders()
        for value in values
    ]
    version = {b"HTTP/1.0": "1.0"}.get(request.clientproto, "1.1")
    head = read_request_head(request.method, _below_mount(request), version, pairs, settings)
    _check_body(request, settings.max_body_bytes)
    return head


def _check_body(request: Any, limit: int) -> None:
    """Judge the body that has arrived; over HTTP/2 no field needs to announce one.

    See RFC 9113 section 8.1.1. A server that ignores a body of GET reads it as the next request.
    """
    size = request.content.seek(0, 2)
    if size > limit:
        raise HttpError(
            ErrorResponse(
                Code.BODY_TOO_LARGE, f"body of {size} bytes", f"The body may have {limit} bytes"
            )
        )
    if size and request.method not in METHODS_WITH_BODY:
        raise bad_request(f"body on {request.method.decode('ascii')}")
    lengths = request.requestHeaders.getRawHeaders(b"Content-Length")
    # One at the most, and of digits: the head has been read.
    if lengths and int(lengths[0]) != size:
        raise bad_request(f"body of {size} bytes, and another length announced")


def _below_mount(request: Any) -> bytes:
    """The target without the path segments that led to the resource, byte for byte otherwise."""
    depth = len(request.prepath)
    target: bytes = request.uri
    if not depth or not target.startswith(b"/"):
        return target
    path, mark, query = target.partition(b"?")
    return b"/" + b"/".join(path[1:].split(b"/")[depth:]) + mark + query


@implementer(IPushProducer)
class SiteRequest(BaseRequest):
    """A stock request. Its body is complete before anybody sees it."""

    body_complete = True

    def __init__(self, request: Any, observe: Observer, clock: Callable[[], float]) -> None:
        super().__init__(NO_HEAD, client_of(transport_of(request)), observe, clock)
        self._request = request
        self._producing = False
        self.bytes_in = request.content.seek(0, 2)
        request.notifyFinish().addErrback(lambda _: self.lost(Code.CLIENT_LEFT, "the client left"))

    def accept(self) -> None:
        assert self.consumer is not None
        self.consumer.request_ready()

    def take_body(self) -> bytes:
        self._request.content.seek(0)
        body: bytes = self._request.content.read()
        return body

    def stream_body(self) -> None:
        """There is no rest."""

    def pause_body(self) -> None:
        """There is nothing to hold up."""

    def resume_body(self) -> None:
        """There is nothing to hold up."""

    def answer(self, refusal: ErrorResponse) -> None:
        self.code, self.detail = refusal.code, refusal.detail
        if refusal.status <= 501:
            self._hear_no_more()
        self._write_head(refusal.status, b"", refusal.pairs, len(refusal.body))
        self.write(refusal.body)
        self._finish(Outcome.REJECTED)

    def begin(self, status: int, reason: bytes, pairs: Pairs, body: Framing, length: int) -> None:
        self._write_head(status, reason, pairs, length)
        self._request.registerProducer(self, streaming=True)
        self._producing = True

    def write(self, data: bytes) -> None:
        if not self.ended:
            self.bytes_out += len(data)
            self._request.write(data)

    def flush(self) -> None:
        """What is said is with Twisted already."""

    def finish(self) -> None:
        self._finish(Outcome.COMPLETED)

    def fail(self, refusal: ErrorResponse) -> None:
        """Something failed: refuse the request if that can still be said, else cut it."""
        if self.begun:
            self.abort(refusal.code, refusal.detail)
        elif not self.ended:
            self._leave_consumer()
            self.answer(refusal)

    def abort(self, code: Code, detail: str) -> None:
        if not self.ended:
            self.lost(code, detail)
            # An HTTP/2 stream is reset by its own method; a connection is cut, so that nobody takes the answer for whole.
            channel: Any = self._request.channel
            (channel if self._is_stream else channel.transport).abortConnection()

    # Twisted calls.

    def pauseProducing(self) -> None:
        if self.consumer is not None:
            self.consumer.pause_response()

    def resumeProducing(self) -> None:
        if self.consumer is not None:
            self.consumer.resume_response()

    def stopProducing(self) -> None:
        """The client has gone; ``notifyFinish`` says so."""

    # Inside.

    @property
    def _is_stream(self) -> bool:
        """Whether it came over HTTP/2, where a connection has many requests at once, each with a channel of its own."""
        return hasattr(self._request.channel, "abortConnection")

    def _hear_no_more(self) -> None:
        """What was refused is the client's doing, an unknown method (501) too: nothing that it still sends is served (L3)."""
        if not self._is_stream:
            self._request.channel.persistent = False
            self._request.responseHeaders.setRawHeaders(b"Connection", [b"close"])

    def _write_head(self, status: int, reason: bytes, pairs: Pairs, length: int) -> None:
        request = self._request
        request.setResponseCode(status, reason or None)
        request.defaultContentType = None
        headers = request.responseHeaders
        headers.removeHeader(b"Server")
        for name, _ in pairs:
            headers.removeHeader(name)
        for name, value in pairs:
            headers.addRawHeader(name, value)
        headers.setRawHeaders(REQUEST_ID, [self.request_id])
        if length >= 0:
            headers.setRawHeaders(b"Content-Length", [b"%d" % length])
        self.begun, self.status = True, status

    def _finish(self, outcome: Outcome) -> None:
        if not self.ended:
            self.consumer = None
            self.record(outcome)
            if self._producing:
                self._request.unregisterProducer()
            self._request.finish()
