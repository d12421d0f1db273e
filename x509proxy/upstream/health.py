"""Whether a back end is well, as far as its exchanges and its checks tell: frozen values, and a clock that is passed in.

Laws
----
* One failed connection is enough to leave a back end alone; answers that fail have to be ``failure-threshold`` in a row, since a single
  one may be the request's fault.
* What has failed is tried again after a retry-delay that doubles each time: one request does that.
* Where there are checks, these alone say that a back end is down. Clients can cause failed exchanges, and with them would take
  every back end, and ``/readyz``, down: an exchange lowers the share, to nothing during the retry-delay, then by a slow start.
* Only connections that were begun since a back end went down say anything of it: those before may have failed with it, or
  outlived its listener.
"""

from __future__ import annotations

import math

import attrs

from x509proxy.monitoring.backend_status import BackendState
from x509proxy.settings import HealthSettings, UpstreamSettings

__all__ = ["BackendState", "Health"]

# The share that one who is just back has; above zero, since load is divided by it.
_LEAST_SHARE = 0.01
_DOUBLINGS = 16


@attrs.frozen
class Health:
    """What is thought of one back end. Times are seconds of the clock whose ``now`` is passed in.

    ``since``: when it came into its state; of one that is held back, when its share grows again (``SLOW``, in the future);
    ``fell``: when it last went down or was held back; ``reason``: the last failure's sentence; ``until``: when the retry-delay
    ends; ``trial``: until when the outcome of a trial is waited for; ``falls``: how many times it has gone down, or failed a
    trial, without a good exchange in between; ``faults``: of exchanges, in a row; ``good`` and ``bad``: checks in a row;
    ``checked``: whether there has been one.
    """

    since: float
    state: BackendState = BackendState.UP
    fell: float = -math.inf
    reason: str = ""
    until: float = -math.inf
    trial: float = -math.inf
    falls: int = 0
    faults: int = 0
    good: int = 0
    bad: int = 0
    checked: bool = False

    @property
    def spotless(self) -> bool:
        """Whether a good exchange changes nothing."""
        return self.state is BackendState.UP and self.falls == self.faults == 0

    # What a back end is sent.

    def at(self, now: float, settings: UpstreamSettings) -> Health:
        """The same, unless a slow start has ended by now."""
        end = self.since + settings.slow_start
        return (
            attrs.evolve(self, state=BackendState.UP, since=end)
            if self.state is BackendState.SLOW and now >= end
            else self
        )

    def share(self, now: float, settings: UpstreamSettings) -> float:
        """0 when it is down or held back, 1 when it is up, something in between in a slow start."""
        if self.state is BackendState.SLOW:
            if now < self.since:
                return 0.0
            return max(_LEAST_SHARE, min(1.0, (now - self.since) / settings.slow_start))
        return float(self.state is BackendState.UP)

    def due(self, now: float) -> bool:
        """Whether its retry-delay is over, and the next request may try it."""
        return self.state is BackendState.DOWN and now >= self.until and now >= self.trial

    def tried(self, now: float, settings: UpstreamSettings) -> Health:
        """A trial is under way; if its outcome is never known, the next may be made after ``response_timeout``."""
        return attrs.evolve(self, trial=now + settings.response_timeout)

    # What exchanges tell. ``born``: when the connection was begun.

    def served(self, now: float, born: float, checks: HealthSettings | None) -> Health:
        """An exchange went well. Of one that is down, and has checks, these have to say so."""
        if born < self.fell:
            return self
        if self.state is BackendState.DOWN:
            return self if checks else _back(self, now, falls=0)
        return attrs.evolve(self, falls=0, faults=0)

    def faulted(
        self,
        now: float,
        born: float,
        reason: str,
        settings: UpstreamSettings,
        checks: HealthSettings | None = None,
    ) -> Health:
        """An exchange failed after it had been sent."""
        if born < self.fell:
            return self
        if self.state is BackendState.DOWN or self.faults + 1 >= settings.failure_threshold:
            return self.failed(now, born, reason, settings, checks)
        return attrs.evolve(self, faults=self.faults + 1, reason=reason)

    def failed(
        self,
        now: float,
        born: float,
        reason: str,
        settings: UpstreamSettings,
        checks: HealthSettings | None = None,
    ) -> Health:
        """A connection could not be had. While a retry-delay runs that is nothing new."""
        if born < self.fell:
            return self
        if now < self.until or (checks is not None and self.state is BackendState.DOWN):
            return attrs.evolve(self, reason=reason)
        hold = min(
            settings.retry_delay * 2 ** min(self.falls, _DOUBLINGS), settings.max_retry_delay
        )
        fallen = (
            _down(self, now, reason)
            if checks is None
            else _held_back(self, now, now + hold, reason)
        )
        return attrs.evolve(fallen, until=now + hold, falls=self.falls + 1)

    # What checks tell.

    def check_passed(self, now: float, checks: HealthSettings) -> Health:
        """A check got the answer that it should."""
        found = attrs.evolve(self, good=self.good + 1, bad=0, checked=True)
        well = found.state is BackendState.DOWN and found.good >= checks.rise
        # Not the falls: one whose exchanges fail, whatever its checks say, is left alone for longer each time.
        return _back(found, now, falls=found.falls) if well else found

    def check_failed(self, now: float, reason: str, checks: HealthSettings) -> Health:
        """A check got another answer, or none. The first of all decides alone: nobody knows yet that it is well."""
        found = attrs.evolve(self, good=0, bad=self.bad + 1, checked=True)
        if found.state is not BackendState.DOWN and (found.bad >= checks.fall or not self.checked):
            return attrs.evolve(_down(found, now, reason), until=now)
        return attrs.evolve(found, reason=reason)


def _back(health: Health, now: float, falls: int) -> Health:
    return attrs.evolve(health, state=BackendState.SLOW, since=now, falls=falls, faults=0)


def _held_back(health: Health, now: float, until: float, reason: str) -> Health:
    return attrs.evolve(
        health, state=BackendState.SLOW, since=until, fell=now, reason=reason, faults=0
    )


def _down(health: Health, now: float, reason: str) -> Health:
    since, fell = (health.since, health.fell) if health.state is BackendState.DOWN else (now, now)
    return attrs.evolve(
        health, state=BackendState.DOWN, since=since, fell=fell, reason=reason, trial=-math.inf, faults=0, good=0
    )  # fmt: skip
