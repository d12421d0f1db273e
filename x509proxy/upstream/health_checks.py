"""Health checks of a back end: a GET at intervals, each over a connection of its own.

Facts
-----
* A check takes the same route as requests, with TLS and its verification. It carries no header with
  a client's identity: the back end treats it as a client without a certificate.
* A check is bounded (L7): ``timeout`` covers all of it, and its response must end within 64 KiB.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from msgspec.structs import replace
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint

from x509proxy.http1.errors import ErrorResponse
from x509proxy.http1.messages import ResponseHead
from x509proxy.settings import Backend, HealthSettings, UpstreamSettings
from x509proxy.transport.deadlines import Deadlines
from x509proxy.upstream.connection import Connection

__all__ = ["Checks"]

_MAX_RESPONSE_BYTES = 65536


class Checks:
    """The checks of one back end.

    ``report`` is called with the reason why a check failed, or with an empty text if it passed.
    """

    def __init__(
        self,
        backend: Backend,
        endpoint: IStreamClientEndpoint,
        deadlines: Deadlines,
        settings: HealthSettings,
        report: Callable[[str], None],
    ) -> None:
        self._endpoint = endpoint
        self._deadlines = deadlines
        self._settings = settings
        self._report = report
        target = backend.base + settings.path.encode("ascii")
        self._request = (
            b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: x509proxy\r\nConnection: close\r\n\r\n"
            % (
                target,
                backend.authority,
            )
        )
        self._call: IDelayedCall | None = None
        self._check: _Check | None = None

    def start(self) -> None:
        """Begin; the first check is sent at once."""
        if self._call is None and self._check is None:
            self._call = self._deadlines.clock.callLater(0, self._begin)

    def stop(self) -> None:
        """Stop, and abort a check that is under way."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def _begin(self) -> None:
        self._call = None
        self._check = _Check(self._request, self._deadlines, self._settings, self._ended)
        self._check.begin(self._endpoint)

    def _ended(self, reason: str) -> None:
        self._check = None
        # Not synchronous with other processes and other proxies that check the same back end.
        delay = self._settings.interval * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
        self._call = self._deadlines.clock.callLater(delay, self._begin)
        self._report(reason)


class _Check:
    """One check: owner of its connection, and handler of the response.

    ``ended`` is called once, unless the check is cancelled.
    """

    exchanges = 0

    def __init__(
        self,
        request: bytes,
        deadlines: Deadlines,
        settings: HealthSettings,
        ended: Callable[[str], None],
    ) -> None:
        time = settings.timeout
        self.deadlines = deadlines
        self.deadline = deadlines.clock.seconds() + time
        self.settings = replace(
            UpstreamSettings(), connect_timeout=time, response_timeout=time, read_timeout=time
        )
        self._request = request
        self._expected = settings.status
        self._ended: Callable[[str], None] | None = ended
        self._connection: Connection | None = None
        self._status = self._size = 0

    def begin(self, endpoint: IStreamClientEndpoint) -> None:
        """Connect.

        The check is watched after its connection. If both are late, the connection reports first,
        with the more precise error.
        """
        Connection(self, endpoint).open()
        if self._ended is not None:
            self.deadlines.watch(self)

    def cancel(self) -> None:
        """End without a report. A connection that is being opened ends by its own deadline."""
        self._ended = None
        self.deadlines.forget(self)
        if self._connection is not None:
            self._connection.cancel()
            self._connection = None

    def expired(self) -> None:
        self._end("no response in time")

    def _end(self, reason: str) -> None:
        ended = self._ended
        self.cancel()
        if ended is not None:
            ended(reason)

    # ConnectionOwner.

    def opened(self, connection: Connection) -> None:
        if self._ended is None:
            connection.close()
            return
        self._connection = connection
        connection.send(b"GET", self._request, self)

    def failed(self, connection: Connection, error: ErrorResponse) -> None:
        self._end(error.detail)

    def served(self, connection: Connection) -> None:
        """Do nothing: :meth:`response_end` compares the status."""

    def faulted(self, connection: Connection, error: ErrorResponse) -> None:
        """Do nothing: :meth:`response_failed` is called too."""

    def release(self, connection: Connection) -> None:
        connection.close()

    def lost(self, connection: Connection) -> None:
        """Do nothing: :meth:`response_failed` or :meth:`response_end` is called too."""

    # ResponseHandler.

    def response_head(self, head: ResponseHead) -> None:
        self._status = head.status

    def response_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > _MAX_RESPONSE_BYTES:
            self._end(f"the response is larger than {_MAX_RESPONSE_BYTES} bytes")

    def response_flush(self) -> None:
        """Do nothing: no data is buffered."""

    def response_end(self) -> None:
        self._connection = None
        found = self._status
        self._end(
            "" if found == self._expected else f"found status {found}, expected {self._expected}"
        )

    def response_failed(self, error: ErrorResponse) -> None:
        self._end(error.detail)

    def pause_request(self) -> None:
        """Do nothing: the request has no body."""

    def resume_request(self) -> None:
        """Do nothing: the request has no body."""
