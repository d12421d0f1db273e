"""What a client has sent on its connection: requests in order, each as far as it has come."""

from __future__ import annotations

from x509proxy.downstream.request import Request, RequestTransport
from x509proxy.http1.errors import ErrorResponse
from x509proxy.http1.messages import END, RequestHead, refused_head
from x509proxy.http1.request_parser import RequestParser
from x509proxy.settings import ClientSettings

__all__ = ["RequestQueue"]


class RequestQueue:
    """Bytes in, requests out. ``wire``: the connection that they come on; ``reader`` knows where in a message the client is."""

    __slots__ = ("_queue", "_receiving", "_settings", "_wire", "reader")

    def __init__(self, wire: RequestTransport, settings: ClientSettings) -> None:
        self._wire = wire
        self._settings = settings
        self.reader = RequestParser(settings)
        # One at the most is read ahead, so a list is as good as a deque, and smaller.
        self._queue: list[Request] = []
        self._receiving: Request | None = None

    @property
    def waits(self) -> bool:
        """Whether there is something that has not been served."""
        return bool(self._queue or self.reader.rest)

    def feed(self, data: bytes) -> None:
        """What has come."""
        for event in self.reader.feed(data):
            if isinstance(event, RequestHead):
                self._receiving = Request(event, self._wire, self._settings.request_buffer_bytes)
                self._receiving.set_request_id(self._settings.request_id)
                self._queue.append(self._receiving)
            elif isinstance(event, bytes):
                assert self._receiving is not None
                self._receiving.receive(event)
            elif event is END:
                assert self._receiving is not None
                self._receiving.receive_end()
                self._receiving = None
            else:
                self.refuse(event)

    def next(self) -> Request | None:
        """The request whose turn it is; one that has come behind another in the same piece is read only now."""
        if not self._queue and self.reader.rest:
            self.feed(b"")
        return self._queue.pop(0) if self._queue else None

    def clear(self) -> None:
        """What waits is not served any more."""
        self._queue.clear()

    def end(self) -> None:
        """The connection has gone. Whatever holds on to it, and is held by it, only the collector would find."""
        self.clear()
        self._receiving = None
        del self._wire

    def refuse(self, refusal: ErrorResponse) -> None:
        """What has been received so far is unfit: the request it belongs to, or one of which there is no head."""
        request, self._receiving = self._receiving, None
        if request is None:
            request = Request(
                refused_head(self.reader.line, self._settings.max_target_bytes), self._wire, 0
            )
            request.body_complete = True
            self._queue.append(request)
        if request in self._queue:
            request.refusal = refusal
        else:
            # It is being served.
            request.fail(refusal)
