"""Tests of :mod:`x509proxy.audit.probes.hostile`."""

from __future__ import annotations

from tests.support.audit_lab import AuditTestCase, add_fault_tests
from tests.support.scripted_lab import (
    FakeConnection,
    ScriptTestCase,
)
from x509proxy.audit.probes.hostile import PROBES


class Hostile(ScriptTestCase):
    def test_ended_while_open(self) -> None:
        """A connection that ends with the last request has a limit."""
        lab = self.lab()
        lab.fake = FakeConnection(*[b"x"] * 3)
        self.assertEqual([], self.faults("many-requests", lab))


class Terminators(AuditTestCase):
    def test_sound(self) -> None:
        """A terminator that keeps every promise passes every probe that applies."""
        self.sound(*PROBES)


add_fault_tests(Terminators, PROBES)
