"""Timeouts of a connection to a back end, by its state."""

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
    """State of a connection and its exchange."""

    OPENING = "opening"
    IDLE = "idle"
    SENDING = "sending"
    AWAITING = "awaiting"
    ANSWERING = "answering"
    CLOSED = "closed"


# A lookup in an enumeration takes four times as long as one of a module's name (Python 3.11).
OPENING, IDLE, SENDING, AWAITING, ANSWERING, CLOSED = ConnectionState


def timeout_for(
    state: ConnectionState, settings: UpstreamSettings, request_paused: bool, response_paused: bool
) -> float:
    """Return the timeout in seconds.

    :param request_paused: the back end reads too slowly.
    :param response_paused: the client reads too slowly.
    """
    if state is IDLE:
        return settings.idle_timeout
    if state is OPENING:
        return settings.connect_timeout
    if state is CLOSED or request_paused:
        return settings.read_timeout
    if response_paused or state is SENDING:
        # The back end is not late: the proxy waits for the client.
        return NEVER
    return settings.response_timeout if state is AWAITING else settings.read_timeout
