"""The state of a back end as a frozen value, for the status page and the metrics."""

from __future__ import annotations

import enum

import attrs

__all__ = ["HealthState", "PoolStatus"]


class HealthState(enum.Enum):
    """The health state of a back end."""

    UP = "up"
    SLOW = "slow"
    """It has recovered, and its share of requests grows."""
    DOWN = "down"
    """It gets a trial request now and then. If all are down, requests are sent to all."""


@attrs.frozen(kw_only=True)
class PoolStatus:
    """A back end and its connection pool at one moment, without secrets.

    Times are in seconds since the epoch.
    """

    name: str
    state: HealthState
    since: float
    """Time of the last change of ``state``."""
    due: bool = False
    """True if it is down and the next request may try it."""
    last_error: str = ""
    """The last failure as a sentence, or ``""``."""
    busy: int = 0
    """Number of connections with a request."""
    idle: int = 0
    opening: int = 0
    waiting: int = 0
    """Number of queued requests."""
    exchanges: int = 0
    """Number of complete responses."""
    failures: int = 0
    """Number of failed connections and exchanges."""
    last_check: float | None = None
    last_failure: float | None = None
