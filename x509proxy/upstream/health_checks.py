"""Whether a back end answers as it should when nobody needs it: a plain GET now and then, over a connection of its own.

Facts
-----
* It goes the way that requests go, TLS and its verification included, and carries no header that tells of a client: whatever
  the path is, it is asked as one who has shown no certificate.
* A check is bounded as everything is: all of it has ``timeout``, and its answer has to end within 64 KiB.
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

_LONGEST_ANSWER = 65536


class Checks:
    """The checks of one back end. ``report`` is told why the last one was no good; of a good one, nothing: an empty text."""

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
        """Begin, with the first check at once."""
        if self._call is None and self._check is None:
            self._call = self._deadlines.clock.callLater(0, self._begin)

    def stop(self) -> None:
        """No more; what is under way is cut."""
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
        # Not in step with the other processes, and the other proxies, that ask the same back end.
        wait = self._settings.interval * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
        self._call = self._deadlines.clock.callLater(wait, self._begin)
        self._report(reason)


class _Check:
    """One check: whose connection it is, and who takes the answer. ``ended`` is called once, unless it is cancelled."""

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
        """Connect. It is watched after its connection, whose words are the better ones if both are late."""
        Connection(self, endpoint).open()
        if self._ended is not None:
            self.deadlines.watch(self)

    def cancel(self) -> None:
        """Nobody wants to know any more. A connection that is being opened ends by its own deadline."""
        self._ended = None
        self.deadlines.forget(self)
        if self._connection is not None:
            self._connection.cancel()
            self._connection = None

    def expired(self) -> None:
        self._end("no answer in time")

    def _end(self, reason: str) -> None:
        ended = self._ended
        self.cancel()
        if ended is not None:
            ended(reason)

    # The connection's calls, to its keeper.

    def opened(self, connection: Connection) -> None:
        if self._ended is None:
            connection.close()
            return
        self._connection = connection
        connection.send(b"GET", self._request, self)

    def failed(self, connection: Connection, error: ErrorResponse) -> None:
        self._end(error.detail)

    def served(self, connection: Connection) -> None:
        """It is the status that says so."""

    def faulted(self, connection: Connection, error: ErrorResponse) -> None:
        """:meth:`response_failed` is told too."""

    def release(self, connection: Connection) -> None:
        connection.close()

    def lost(self, connection: Connection) -> None:
        """Likewise."""

    # The connection's calls, to the taker.

    def response_head(self, head: ResponseHead) -> None:
        self._status = head.status

    def response_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > _LONGEST_ANSWER:
            self._end(f"the answer is larger than {_LONGEST_ANSWER} bytes")

    def response_flush(self) -> None:
        """Nothing is kept back here."""

    def response_end(self) -> None:
        self._connection = None
        found = self._status
        self._end(
            "" if found == self._expected else f"found status {found}, expected {self._expected}"
        )

    def response_failed(self, error: ErrorResponse) -> None:
        self._end(error.detail)

    def pause_request(self) -> None:
        """There is no body."""

    def resume_request(self) -> None:
        """There is none."""
