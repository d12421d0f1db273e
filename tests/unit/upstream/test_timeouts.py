"""Tests of :mod:`x509proxy.upstream.timeouts`: one setting for each state."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.settings import UpstreamSettings
from x509proxy.transport.deadlines import NEVER
from x509proxy.upstream.timeouts import (
    ANSWERING,
    AWAITING,
    CLOSED,
    IDLE,
    OPENING,
    SENDING,
    ConnectionState,
    timeout_for,
)

CONNECT, READ, RESPONSE, UNUSED = 1.0, 2.0, 3.0, 4.0
SETTINGS = UpstreamSettings(
    connect_timeout=CONNECT, read_timeout=READ, response_timeout=RESPONSE, idle_timeout=UNUSED
)
# By state: the seconds without a pause, with a paused request, with a paused response.
EXPECTED = {
    OPENING: (CONNECT, CONNECT, CONNECT),
    IDLE: (UNUSED, UNUSED, UNUSED),
    SENDING: (NEVER, READ, NEVER),
    AWAITING: (RESPONSE, READ, NEVER),
    ANSWERING: (READ, READ, NEVER),
    CLOSED: (READ, READ, READ),
}


class TimeoutFor(SynchronousTestCase):
    def test_each_state(self) -> None:
        """Each state has its setting; only a wait for the client has no timeout here."""
        self.assertEqual(set(ConnectionState), set(EXPECTED))
        for state, expected in EXPECTED.items():
            found = (
                timeout_for(state, SETTINGS, False, False),
                timeout_for(state, SETTINGS, True, False),
                timeout_for(state, SETTINGS, False, True),
            )
            self.assertEqual(expected, found, state)

    def test_both_paused(self) -> None:
        """A back end that does not read times out though the client does not read either."""
        for state in (SENDING, AWAITING, ANSWERING):
            self.assertEqual(READ, timeout_for(state, SETTINGS, True, True))
