"""For how long a connection to a back end waits, by what it waits for."""

from __future__ import annotations

import enum

from x509proxy.settings import UpstreamSettings
from x509proxy.transport.deadlines import NEVER

__all__ = [
    "ANSWERING",
    "AWAITING",
    "CLOSED",
    "IDLE",
    "OPENING",
    "SENDING",
    "ConnectionState",
    "timeout_for",
]


class ConnectionState(enum.Enum):
    """Where a connection's exchange stands."""

    OPENING = "opening"
    IDLE = "idle"
    SENDING = "sending"
    AWAITING = "awaiting"
    ANSWERING = "answering"
    CLOSED = "closed"


# A look into an enumeration takes four times as long as one at a module's name (Python 3.11).
OPENING, IDLE, SENDING, AWAITING, ANSWERING, CLOSED = ConnectionState


def timeout_for(
    state: ConnectionState, settings: UpstreamSettings, request_paused: bool, answer_paused: bool
) -> float:
    """Seconds, from now on. ``request_paused``: the back end reads too slowly; ``answer_paused``: the client does."""
    if state is IDLE:
        return settings.idle_timeout
    if state is OPENING:
        return settings.connect_timeout
    if state is CLOSED or request_paused:
        return settings.read_timeout
    if answer_paused or state is SENDING:
        # It is the client who is waited for.
        return NEVER
    return settings.response_timeout if state is AWAITING else settings.read_timeout
