"""The rewriter of metadata responses, which buffers a document and adds the mTLS aliases.

Only responses to requests for metadata pass it. ``max-body-bytes`` limits the buffer. The client
receives nothing until the document is complete, so a response that is truncated before that becomes
an error response. One that fails later is aborted, like any other.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from x509proxy.forwarding.oauth_metadata import (
    for_whole_document,
    is_metadata,
    may_be_document,
    with_aliases,
    without_validators,
)
from x509proxy.http1.fields import Pairs
from x509proxy.http1.messages import Framing, RequestHead
from x509proxy.settings import DiscoverySettings

__all__ = ["MetadataRewriter", "ResponseSink", "response_sink"]

_METHODS = (b"GET", b"HEAD")


class ResponseSink(Protocol):
    """The receiver of a response (:class:`x509proxy.downstream.request.Request`)."""

    def begin(
        self, status: int, reason: bytes, pairs: Pairs, body: Framing, length: int
    ) -> None: ...
    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...


class _Request(ResponseSink, Protocol):
    head: RequestHead


def response_sink(request: _Request, settings: DiscoverySettings) -> ResponseSink:
    """Return the receiver of the response to ``request``.

    That is the request itself, or a :class:`MetadataRewriter` if it is for metadata. In that case
    the head of the request is changed to request the complete document.
    """
    head = request.head
    if head.method not in _METHODS or not is_metadata(head.target):
        return request
    request.head = attrs.evolve(head, pairs=for_whole_document(head.pairs))
    return MetadataRewriter(request, settings)


class MetadataRewriter:
    """A receiver that adds aliases to a metadata document, and passes other responses unchanged."""

    __slots__ = ("_body", "_head", "_settings", "_sink")

    def __init__(self, sink: ResponseSink, settings: DiscoverySettings) -> None:
        self._sink = sink
        self._settings = settings
        # The head of a buffered document.
        self._head: tuple[int, bytes, Pairs, Framing, int] | None = None
        # A bytearray, since a list of pieces takes more memory if a response comes byte by byte.
        self._body = bytearray()

    def begin(self, status: int, reason: bytes, pairs: Pairs, body: Framing, length: int) -> None:
        is_document = may_be_document(status, pairs) and length <= self._settings.max_body_bytes
        if is_document and body is not Framing.NONE:
            self._head = status, reason, pairs, body, length
            return
        if is_document:
            pairs = without_validators(pairs)
        if is_document or status == 304:
            # A response to HEAD, or a 304. RFC 9110 section 8.6 permits no other length than that
            # of the response to GET, which is unknown here.
            length = -1
        self._sink.begin(status, reason, pairs, body, length)

    def write(self, data: bytes) -> None:
        if self._head is None:
            self._sink.write(data)
            return
        self._body += data
        if len(self._body) > self._settings.max_body_bytes:
            self._flush()

    def finish(self) -> None:
        if self._head is not None:
            document = with_aliases(bytes(self._body), self._settings.mtls)
            if document is not None:
                status, reason, pairs, _, _ = self._head
                pairs = without_validators(pairs)
                self._head = status, reason, pairs, Framing.LENGTH, len(document)
                self._body = bytearray(document)
            self._flush()
        self._sink.finish()

    def _flush(self) -> None:
        """Send the buffered head and body, and buffer nothing more."""
        assert self._head is not None
        head, body = self._head, bytes(self._body)
        self._head, self._body = None, bytearray()
        self._sink.begin(*head)
        if body:
            self._sink.write(body)
