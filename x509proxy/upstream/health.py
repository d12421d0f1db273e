"""Health of a back end, derived from its exchanges and checks: frozen values, time passed in.

Rules
-----
* One failed connection takes a back end down. Failed exchanges do so after ``failure-threshold`` in
  a row, since a single one may be the request's fault.
* After a retry delay, which doubles each time, one request tries a failed back end again.
* With health checks, only these take a back end down. Clients can cause failed exchanges, and could
  otherwise take every back end, and ``/readyz``, down. A failed exchange only lowers the share: to
  zero during the retry delay, then by a slow start.
* Only connections begun since a back end went down count. Older ones may have failed with it, or
  outlived its listener.
"""

from __future__ import annotations

import math

import attrs

from x509proxy.monitoring.backend_status import HealthState
from x509proxy.settings import HealthSettings, UpstreamSettings

__all__ = ["Health"]

# The share at the beginning of a slow start; above zero, since load is divided by it.
_MIN_SHARE = 0.01
_MAX_DOUBLINGS = 16


@attrs.frozen
class Health:
    """Health of one back end. Times are seconds of the clock whose ``now`` is passed in.

    * ``since``: the time of the last change of state. Of a back end that is held back, the time
      when its share begins to grow again (``SLOW``, in the future).
    * ``fell``: the time when it last went down or was held back.
    * ``reason``: the sentence of the last failure.
    * ``until``: the end of the retry delay.
    * ``trial``: the end of the wait for a trial's outcome.
    * ``falls``: how many times it went down, or failed a trial, since the last good exchange.
    * ``faults``: the number of failed exchanges in a row.
    * ``good`` and ``bad``: the number of passed and failed checks in a row.
    * ``checked``: true after the first check.
    """

    since: float
    state: HealthState = HealthState.UP
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
        """Return true if a good exchange would change nothing."""
        return self.state is HealthState.UP and self.falls == self.faults == 0

    # For load balancing.

    def at(self, now: float, settings: UpstreamSettings) -> Health:
        """Return the health at ``now``: the same, unless a slow start has ended."""
        end = self.since + settings.slow_start
        return (
            attrs.evolve(self, state=HealthState.UP, since=end)
            if self.state is HealthState.SLOW and now >= end
            else self
        )

    def share(self, now: float, settings: UpstreamSettings) -> float:
        """Return 0 when it is down or held back, 1 when up, between them in a slow start."""
        if self.state is HealthState.SLOW:
            if now < self.since:
                return 0.0
            return max(_MIN_SHARE, min(1.0, (now - self.since) / settings.slow_start))
        return float(self.state is HealthState.UP)

    def due(self, now: float) -> bool:
        """Return true if its retry delay is over, and the next request may try it."""
        return self.state is HealthState.DOWN and now >= self.until and now >= self.trial

    def tried(self, now: float, settings: UpstreamSettings) -> Health:
        """Record that a request tries it.

        If no outcome is reported, the next may try after ``response_timeout``.
        """
        return attrs.evolve(self, trial=now + settings.response_timeout)

    # Outcomes of exchanges. ``begun_at``: the time when the connection was begun.

    def served(self, now: float, begun_at: float, checks: HealthSettings | None) -> Health:
        """Record a good exchange.

        A back end that is down and has checks is brought back only by them.
        """
        if begun_at < self.fell:
            return self
        if self.state is HealthState.DOWN:
            return self if checks else _recovering(self, now, falls=0)
        return attrs.evolve(self, falls=0, faults=0)

    def faulted(
        self,
        now: float,
        begun_at: float,
        reason: str,
        settings: UpstreamSettings,
        checks: HealthSettings | None = None,
    ) -> Health:
        """Record an exchange that failed after its request was sent."""
        if begun_at < self.fell:
            return self
        if self.state is HealthState.DOWN or self.faults + 1 >= settings.failure_threshold:
            return self.failed(now, begun_at, reason, settings, checks)
        return attrs.evolve(self, faults=self.faults + 1, reason=reason)

    def failed(
        self,
        now: float,
        begun_at: float,
        reason: str,
        settings: UpstreamSettings,
        checks: HealthSettings | None = None,
    ) -> Health:
        """Record a failed connection; during a retry delay, only its reason is kept."""
        if begun_at < self.fell:
            return self
        if now < self.until or (checks is not None and self.state is HealthState.DOWN):
            return attrs.evolve(self, reason=reason)
        delay = min(
            settings.retry_delay * 2 ** min(self.falls, _MAX_DOUBLINGS), settings.max_retry_delay
        )
        fallen = (
            _down(self, now, reason)
            if checks is None
            else _held_back(self, now, now + delay, reason)
        )
        return attrs.evolve(fallen, until=now + delay, falls=self.falls + 1)

    # Outcomes of checks.

    def check_passed(self, now: float, checks: HealthSettings) -> Health:
        """Record a check with the expected response."""
        found = attrs.evolve(self, good=self.good + 1, bad=0, checked=True)
        recovers = found.state is HealthState.DOWN and found.good >= checks.rise
        # The falls are kept: a back end whose checks pass while its exchanges fail is left alone
        # for longer each time.
        return _recovering(found, now, falls=found.falls) if recovers else found

    def check_failed(self, now: float, reason: str, checks: HealthSettings) -> Health:
        """Record a check with another response, or none.

        The very first check decides alone: nothing shows yet that the back end works.
        """
        found = attrs.evolve(self, good=0, bad=self.bad + 1, checked=True)
        if found.state is not HealthState.DOWN and (found.bad >= checks.fall or not self.checked):
            return attrs.evolve(_down(found, now, reason), until=now)
        return attrs.evolve(found, reason=reason)


def _recovering(health: Health, now: float, falls: int) -> Health:
    return attrs.evolve(health, state=HealthState.SLOW, since=now, falls=falls, faults=0)


def _held_back(health: Health, now: float, until: float, reason: str) -> Health:
    return attrs.evolve(
        health, state=HealthState.SLOW, since=until, fell=now, reason=reason, faults=0
    )


def _down(health: Health, now: float, reason: str) -> Health:
    since, fell = (health.since, health.fell) if health.state is HealthState.DOWN else (now, now)
    return attrs.evolve(
        health,
        state=HealthState.DOWN,
        since=since,
        fell=fell,
        reason=reason,
        trial=-math.inf,
        faults=0,
        good=0,
    )
