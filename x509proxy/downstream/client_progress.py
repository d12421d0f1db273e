"""The progress of a client in receiving responses, and the exchanges that are recorded after it.

An exchange is complete when the client can have received its response. A response that fits the
first flight of TCP counts as received at once. For a larger one the kernel reports the progress
(:mod:`x509proxy.transport.delivery`).
"""

from __future__ import annotations

import attrs
import msgspec
from twisted.logger import Logger

from x509proxy.exchange import Exchange, Observer, Outcome
from x509proxy.http1.errors import Code
from x509proxy.transport.deadlines import NEVER, Deadlines
from x509proxy.transport.delivery import Delivery

__all__ = ["FIRST_FLIGHT", "ClientProgress"]

FIRST_FLIGHT = 14600
"""The octets of ten segments (RFC 6928), which TCP sends without an acknowledgement."""

_DETAILS = {
    Code.CLIENT_LEFT: "the client left",
    Code.SEND_TIMEOUT: "the client does not read",
    Code.SHUTDOWN: "the proxy ended",
}


@attrs.define
class _Unconfirmed:
    """An exchange, and the number of acknowledged octets at which it is complete.

    That number is unknown until the kernel has the whole response.
    """

    exchange: Exchange
    needs: int | None = None


class ClientProgress:
    """The progress on one connection.

    ``rate``: the octets a second that count as progress. ``is_blocked``: the kernel has not
    accepted everything that was written.
    """

    _log = Logger()

    def __init__(
        self, delivery: Delivery, deadlines: Deadlines, rate: int, observe: Observer
    ) -> None:
        self.deadline = NEVER
        self.is_blocked = False
        self._delivery = delivery
        self._deadlines = deadlines
        self._rate = rate
        self._observe = observe
        self._unconfirmed: list[_Unconfirmed] = []
        self._mark: tuple[float, int] | None = None

    # The deadline of a client that reads slowly.

    def begin(self) -> None:
        """Measure from now on."""
        acknowledged = self._delivery.acknowledged()
        self._mark = (
            None if acknowledged is None else (self._deadlines.clock.seconds(), acknowledged)
        )

    def continues(self) -> bool:
        """Return true if the client was fast enough since ``begin`` or the last call."""
        before = self._mark
        self.begin()
        if before is None or self._mark is None:
            return False
        (since, then), (now, acknowledged) = before, self._mark
        return acknowledged - then >= max(1, self._rate * (now - since))

    @property
    def is_complete(self) -> bool:
        """True when the client has acknowledged everything."""
        return not self.is_blocked and self._delivery.unsent() == 0

    # The record of large responses.

    def confirm(self, exchange: Exchange) -> None:
        """Report the exchange when the client has acknowledged its response, or when it has left.

        The response is everything that is written in this reactor turn.
        """
        if self._delivery.acknowledged() is None:
            self._report(exchange)
            return
        self.begin()
        self._unconfirmed.append(_Unconfirmed(exchange))
        self.deadline = 0.0
        self._deadlines.watch(self)

    def expired(self) -> None:
        """Read the kernel's counters; this runs at every tick of the deadlines."""
        acknowledged, unsent = self._delivery.acknowledged(), self._delivery.unsent()
        if acknowledged is None or unsent is None or self.is_blocked:
            return
        waiting, self._unconfirmed = self._unconfirmed, []
        for one in waiting:
            if one.needs is None:
                one.needs = acknowledged + unsent
            if acknowledged >= one.needs:
                self._report(one.exchange)
            else:
                self._unconfirmed.append(one)
        self._stop_if_done()

    def end(self, code: Code | None) -> None:
        """Report the remaining exchanges: as complete, or with a code as aborted."""
        waiting, self._unconfirmed = self._unconfirmed, []
        for one in waiting:
            exchange = one.exchange
            if code is not None:
                exchange = msgspec.structs.replace(
                    exchange, outcome=Outcome.ABORTED, code=code, detail=_DETAILS[code]
                )
            self._report(exchange)
        self._stop_if_done()

    def _report(self, exchange: Exchange) -> None:
        try:
            self._observe(exchange)
        except Exception:
            # An observer that fails must not change the connection.
            self._log.failure("an observer failed")

    def _stop_if_done(self) -> None:
        if not self._unconfirmed:
            self.deadline = NEVER
            self._deadlines.forget(self)
