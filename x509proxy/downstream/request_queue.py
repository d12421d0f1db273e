"""The requests of one connection, in order, each as far as it has arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from x509proxy.downstream.request import Request
from x509proxy.http1.errors import ErrorResponse
from x509proxy.http1.messages import END, RequestHead, rejected_head
from x509proxy.http1.request_parser import RequestParser
from x509proxy.settings import ClientSettings

if TYPE_CHECKING:
    from x509proxy.downstream.channel import Channel

__all__ = ["RequestQueue"]


class RequestQueue:
    """A queue from octets to requests. ``parser`` holds the message that is being received."""

    __slots__ = ("_channel", "_queue", "_receiving", "_settings", "parser")

    def __init__(self, channel: Channel, settings: ClientSettings) -> None:
        self._channel = channel
        self._settings = settings
        self.parser = RequestParser(settings)
        # At most one request is read ahead: a list is as fast as a deque, and smaller.
        self._queue: list[Request] = []
        self._receiving: Request | None = None

    @property
    def has_unserved(self) -> bool:
        """True if something has arrived that has not been served."""
        return bool(self._queue or self.parser.rest)

    def feed(self, data: bytes) -> None:
        """Take octets from the client."""
        for event in self.parser.feed(data):
            if event is END:
                assert self._receiving is not None
                self._receiving.receive_end()
                self._receiving = None
            elif isinstance(event, bytes):
                assert self._receiving is not None
                self._receiving.receive(event)
            elif isinstance(event, RequestHead):
                self._receiving = Request(event, self._channel, self._settings.request_buffer_bytes)
                self._receiving.set_request_id(self._settings.request_id)
                self._queue.append(self._receiving)
            else:
                self.reject(event)

    def next(self) -> Request | None:
        """Return the next request, and parse it first if it arrived together with another one."""
        if not self._queue and self.parser.rest:
            self.feed(b"")
        return self._queue.pop(0) if self._queue else None

    def clear(self) -> None:
        """Forget the requests that have not been served."""
        self._queue.clear()

    def end(self) -> None:
        """Drop the reference to the connection: a cycle would wait for the garbage collector."""
        self.clear()
        self._receiving = None
        del self._channel

    def reject(self, error: ErrorResponse) -> None:
        """Reject the request that is being received, or one whose head is not complete."""
        request, self._receiving = self._receiving, None
        if request is None:
            head = rejected_head(self.parser.line, self._settings.max_target_bytes)
            request = Request(head, self._channel, 0)
            request.body_complete = True
            self._queue.append(request)
        if request in self._queue:
            request.error = error
        else:
            # It is being served.
            request.fail(error)
