"""Current health of one back end, its failure counter, and the log lines of its changes."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from x509proxy.monitoring.backend_status import HealthState, PoolStatus
from x509proxy.settings import Backend, HealthSettings, UpstreamSettings
from x509proxy.upstream.health import Health

__all__ = ["BackendHealth"]


class BackendHealth:
    """Current health of one back end, updated by its pool and its checks.

    ``spotless``: true while a good exchange would change nothing, so that nothing is computed.
    """

    _log = Logger()

    __slots__ = (
        "_backend",
        "_checked",
        "_checks",
        "_clock",
        "_failed_at",
        "_settings",
        "failures",
        "health",
        "spotless",
    )

    def __init__(
        self,
        backend: Backend,
        clock: IReactorTime,
        settings: UpstreamSettings,
        checks: HealthSettings | None,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._settings = settings
        self._checks = checks
        self._checked: float | None = None
        self._failed_at: float | None = None
        self.failures = 0
        self.health = Health(clock.seconds())
        self.spotless = True

    # For load balancing.

    def share(self) -> float:
        """Return 0 when it is down or held back, 1 when up, between them in a slow start."""
        if self.spotless:
            return 1.0
        now = self._clock.seconds()
        self._change(self.health.at(now, self._settings))
        return self.health.share(now, self._settings)

    def due(self) -> bool:
        """Return true if one request should try it; with checks, none should."""
        return self._checks is None and self.health.due(self._clock.seconds())

    def tried(self) -> None:
        """Record that a request tries it."""
        self._change(self.health.tried(self._clock.seconds(), self._settings))

    # Outcomes. ``begun_at``: the time when the connection was begun.

    def served(self, begun_at: float) -> None:
        """Record a good exchange."""
        self._change(self.health.served(self._clock.seconds(), begun_at, self._checks))

    def faulted(self, begun_at: float, reason: str) -> None:
        """Record an exchange that failed after its request was sent."""
        self.failures += 1
        now = self._failed_at = self._clock.seconds()
        self._change(self.health.faulted(now, begun_at, reason, self._settings, self._checks))

    def failed(self, begun_at: float, reason: str) -> None:
        """Record a failed connection."""
        self.failures += 1
        now = self._failed_at = self._clock.seconds()
        self._change(self.health.failed(now, begun_at, reason, self._settings, self._checks))

    def checked(self, reason: str) -> None:
        """Record a check; ``reason``: why it failed, or empty if it passed."""
        assert self._checks is not None
        now = self._checked = self._clock.seconds()
        if reason:
            self._failed_at = now
            self._change(self.health.check_failed(now, f"check: {reason}", self._checks))
        else:
            self._change(self.health.check_passed(now, self._checks))

    def status(self, wall: float) -> PoolStatus:
        """Return the status without the pool's numbers.

        ``wall`` is the current time, in seconds since the epoch.
        """
        self.share()
        offset = wall - self._clock.seconds()
        return PoolStatus(
            name=str(self._backend),
            state=self.health.state,
            since=self.health.since + offset,
            due=self.due(),
            last_error=self.health.reason,
            failures=self.failures,
            last_check=None if self._checked is None else self._checked + offset,
            last_failure=None if self._failed_at is None else self._failed_at + offset,
        )

    def _change(self, health: Health) -> None:
        before, self.health = self.health, health
        self.spotless = health.spotless
        was_down, is_down = before.state is HealthState.DOWN, health.state is HealthState.DOWN
        if is_down and not was_down:
            self._log.warn(
                "back end {backend} is down: {reason}", backend=self._backend, reason=health.reason
            )
        elif was_down and not is_down:
            after = self._clock.seconds() - before.since
            self._log.info(
                "back end {backend} is back after {after:.1f} s", backend=self._backend, after=after
            )
        elif before.state is HealthState.UP and health.state is HealthState.SLOW:
            message = "back end {backend} gets fewer requests: {reason}"
            self._log.warn(message, backend=self._backend, reason=health.reason)
