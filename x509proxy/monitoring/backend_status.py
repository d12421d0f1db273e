"""The state of one back end at one moment, for the status page and the metrics."""

from __future__ import annotations

import enum

import attrs

__all__ = ["BackendState", "PoolStatus"]


class BackendState(enum.Enum):
    """How a back end is thought of."""

    UP = "up"
    SLOW = "slow"
    """It has come back, and its share grows."""
    DOWN = "down"
    """Nothing is sent there but a trial now and then, or everything where all are down."""


@attrs.frozen(kw_only=True)
class PoolStatus:
    """One back end at one moment, for the status page and the metrics; no secrets in it.

    ``since``, ``last_check`` and ``last_failure``: seconds since the epoch; ``last_error``: a sentence, empty if there has been none; ``busy``,
    ``idle``, ``opening``: connections; ``waiting``: requests that have none yet; ``exchanges``: answered whole; ``failures``:
    connections that could not be had, and exchanges that failed; ``due``: it is down, and the next request may try it.
    """

    name: str
    state: BackendState
    since: float
    due: bool = False
    last_error: str = ""
    busy: int = 0
    idle: int = 0
    opening: int = 0
    waiting: int = 0
    exchanges: int = 0
    failures: int = 0
    last_check: float | None = None
    last_failure: float | None = None
