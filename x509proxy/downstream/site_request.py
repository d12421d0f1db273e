"""A request of a stock ``twisted.web.server.Site``: buffered, and validated like any other request.

The stock channel has read the request before, so this module cannot change its single deadline, or
where it keeps the body (in memory or on disk). It does the following:

* It validates the head again.
* It does not serve a request that the stock channel has answered with 400. That channel still
  renders one if the rest of its head comes in later TLS records.
* It closes the connection after it has rejected a request.
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
    """Validate the head again, and return it.

    :raises HttpError: as :func:`x509proxy.http1.messages.read_request_head`; 413 or 400 for its
        body; or 400, the channel has rejected it already.
    """
    if getattr(request.channel.transport, "disconnecting", False):
        raise HttpError(ErrorResponse(Code.BAD_REQUEST, "rejected by the stock channel"))
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
    """Check the body, which is complete; over HTTP/2 no field needs to announce one.

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
    # At most one field, of digits alone: the head has been validated.
    if lengths and int(lengths[0]) != size:
        raise bad_request(f"body of {size} bytes, and a different content-length")


def _below_mount(request: Any) -> bytes:
    """Return the target without the path segments above the resource, and otherwise unchanged."""
    depth = len(request.prepath)
    target: bytes = request.uri
    if not depth or not target.startswith(b"/"):
        return target
    path, mark, query = target.partition(b"?")
    return b"/" + b"/".join(path[1:].split(b"/")[depth:]) + mark + query


@implementer(IPushProducer)
class SiteRequest(BaseRequest):
    """A stock request, whose body is complete from the beginning."""

    body_complete = True

    def __init__(self, request: Any, observe: Observer, clock: Callable[[], float]) -> None:
        super().__init__(NO_HEAD, client_of(transport_of(request)), observe, clock)
        self._request = request
        self._producing = self._waits = False
        self.bytes_in = request.content.seek(0, 2)
        request.notifyFinish().addErrback(lambda _: self.lost(Code.CLIENT_LEFT, "the client left"))

    def accept(self) -> None:
        """Call ``request_ready``, but not while the client does not read earlier responses.

        The stock channel serves pipelined requests in the meantime. A producer that is registered
        then is not paused, so all of the responses would be held in memory (L7).
        """
        self._request.registerProducer(self, streaming=True)
        self._producing = True
        # HTTP/2 has no such attribute: each stream has a window.
        self._waits = getattr(self._request.channel, "_waitingForTransport", False)
        if not self._waits:
            assert self.consumer is not None
            self.consumer.request_ready()

    def take_body(self) -> bytes:
        self._request.content.seek(0)
        body: bytes = self._request.content.read()
        return body

    def stream_body(self) -> None:
        """Do nothing: the body has no rest."""

    def pause_body(self) -> None:
        """Do nothing: the body is complete."""

    def resume_body(self) -> None:
        """Do nothing: the body is complete."""

    def answer(self, error: ErrorResponse) -> None:
        self.code, self.detail = error.code, error.detail
        if error.status <= 501:
            self._close_connection()
        self._write_head(error.status, b"", error.pairs, len(error.body))
        self.write(error.body)
        self._finish(Outcome.REJECTED)

    def begin(self, status: int, reason: bytes, pairs: Pairs, body: Framing, length: int) -> None:
        self._write_head(status, reason, pairs, length)

    def write(self, data: bytes) -> None:
        if not self.ended:
            self.bytes_out += len(data)
            self._request.write(data)

    def flush(self) -> None:
        """Do nothing: Twisted has received every piece."""

    def finish(self) -> None:
        self._finish(Outcome.COMPLETED)

    def fail(self, error: ErrorResponse) -> None:
        """Reject the request if no response has begun, else cut the connection."""
        if self.begun:
            self.abort(error.code, error.detail)
        elif not self.ended:
            self._leave_consumer()
            self.answer(error)

    def abort(self, code: Code, detail: str) -> None:
        if not self.ended:
            self.lost(code, detail)
            # HTTP/2 resets the stream. HTTP/1.1 cuts the connection, so that the client does not
            # take the response for complete.
            channel: Any = self._request.channel
            (channel if self._is_stream else channel.transport).abortConnection()

    # Twisted calls.

    def pauseProducing(self) -> None:
        if self.consumer is not None:
            self.consumer.pause_response()

    def resumeProducing(self) -> None:
        if self.consumer is None:
            return
        if not self._waits:
            self.consumer.resume_response()
            return
        self._waits = False
        try:
            self.consumer.request_ready()
        except Exception:
            # Fail closed (L3), as X509ProxyResource.render does.
            self._log.failure("a request could not be served")
            self.fail(ErrorResponse(Code.INTERNAL_ERROR, "internal error"))

    def stopProducing(self) -> None:
        """Do nothing: ``notifyFinish`` reports that the client has left."""

    # Inside.

    @property
    def _is_stream(self) -> bool:
        """True for HTTP/2, where each request of a connection has a channel of its own."""
        return hasattr(self._request.channel, "abortConnection")

    def _close_connection(self) -> None:
        """Close the connection with the response, so that nothing more is served on it (L3).

        The client caused the error. That includes an unknown method (501).
        """
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
