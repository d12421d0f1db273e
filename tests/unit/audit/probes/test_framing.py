"""Tests of :mod:`x509proxy.audit.probes.framing`."""

from __future__ import annotations

from tests.support.audit_lab import AuditTestCase, add_fault_tests
from x509proxy.audit.probes.framing import PROBES


class Terminators(AuditTestCase):
    def test_sound(self) -> None:
        """A terminator that keeps every promise passes every probe that applies."""
        self.sound(*PROBES)


add_fault_tests(Terminators, PROBES)
