"""Promises of :mod:`x509proxy.audit.probes.hostile`."""

from __future__ import annotations

from tests.support.scripted_lab import (
    FakeConnection,
    ScriptTestCase,
)


class Hostile(ScriptTestCase):
    def test_ended_while_open(self) -> None:
        """A connection that ends with the last request has a limit."""
        lab = self.lab()
        lab.fake = FakeConnection(*[b"x"] * 3)
        self.assertEqual([], self.faults("many-requests", lab))
