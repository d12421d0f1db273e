"""For how long a connection to a back end waits, by what it waits for."""

from __future__ import annotations

import enum

from x509proxy.deadline import NEVER
from x509proxy.settings import UpstreamSettings

__all__ = ["State", "patience"]


class State(enum.Enum):
    """Where a connection's exchange stands."""

    OPENING = "opening"
    IDLE = "idle"
    SENDING = "sending"
    AWAITING = "awaiting"
    ANSWERING = "answering"
    CLOSED = "closed"


def patience(state: State, settings: UpstreamSettings, request_paused: bool, answer_paused: bool) -> float:
    """Seconds, from now on. ``request_paused``: the back end reads too slowly; ``answer_paused``: the client does."""
    if state is State.IDLE:
        return settings.idle_timeout
    if state is State.OPENING:
        return settings.connect_timeout
    if state is State.CLOSED or request_paused:
        return settings.read_timeout
    if answer_paused or state is State.SENDING:
        # It is the client who is waited for.
        return NEVER
    return settings.response_timeout if state is State.AWAITING else settings.read_timeout
