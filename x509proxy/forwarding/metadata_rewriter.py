"""What stands between an answer and its request when the request is for metadata: the answer is gathered, then added to.

Everything else that is asked never comes here. What is gathered is bounded by ``max-body-bytes``; the client sees nothing of it until
it is complete, so an answer that is cut short before is a refusal, and one that fails afterwards is cut, as ever.
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

__all__ = ["ResponseSink", "Rewriting", "response_sink"]

_METHODS = (b"GET", b"HEAD")


class ResponseSink(Protocol):
    """Where an answer goes (:class:`x509proxy.downstream.request.Request`)."""

    def begin(
        self, status: int, reason: bytes, pairs: Pairs, body: Framing, length: int
    ) -> None: ...
    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...


class _Asking(ResponseSink, Protocol):
    head: RequestHead


def response_sink(request: _Asking, settings: DiscoverySettings) -> ResponseSink:
    """Where the answer to ``request`` has to go: to itself, or, if it asks for metadata, through a :class:`Rewriting`.

    Then its head is changed, so that the whole document is asked for.
    """
    head = request.head
    if head.method not in _METHODS or not is_metadata(head.target):
        return request
    request.head = attrs.evolve(head, pairs=for_whole_document(head.pairs))
    return Rewriting(request, settings)


class Rewriting:
    """Hands one answer on to ``sink``: a metadata document with its aliases, anything else as it comes."""

    __slots__ = ("_gathered", "_held", "_settings", "_sink")

    def __init__(self, sink: ResponseSink, settings: DiscoverySettings) -> None:
        self._sink = sink
        self._settings = settings
        self._held: tuple[int, bytes, Pairs, Framing, int] | None = None
        # Not a list of pieces: an answer may come byte by byte.
        self._gathered = bytearray()

    def begin(self, status: int, reason: bytes, pairs: Pairs, body: Framing, length: int) -> None:
        is_document = may_be_document(status, pairs) and length <= self._settings.max_body_bytes
        if is_document and body is not Framing.NONE:
            self._held = status, reason, pairs, body, length
            return
        if is_document:
            pairs = without_validators(pairs)
        if is_document or status == 304:
            # To HEAD, or a 304. RFC 9110 section 8.6: no length may be told but what a GET would have, and nobody knows it here.
            length = -1
        self._sink.begin(status, reason, pairs, body, length)

    def write(self, data: bytes) -> None:
        if self._held is None:
            self._sink.write(data)
            return
        self._gathered += data
        if len(self._gathered) > self._settings.max_body_bytes:
            self._hand_on()

    def finish(self) -> None:
        if self._held is not None:
            document = with_aliases(bytes(self._gathered), self._settings.mtls)
            if document is not None:
                status, reason, pairs, _, _ = self._held
                self._held = (
                    status,
                    reason,
                    without_validators(pairs),
                    Framing.LENGTH,
                    len(document),
                )
                self._gathered = bytearray(document)
            self._hand_on()
        self._sink.finish()

    def _hand_on(self) -> None:
        """What was held goes first; from now on nothing is."""
        assert self._held is not None
        held, gathered = self._held, bytes(self._gathered)
        self._held, self._gathered = None, bytearray()
        self._sink.begin(*held)
        if gathered:
            self._sink.write(gathered)
