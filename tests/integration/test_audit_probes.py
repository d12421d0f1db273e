"""The probes of the audit together: each has a fault that it must find."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.support.audit_lab import ELSEWHERE, FINDS
from tests.support.broken_terminator import Fault
from x509proxy.audit.probes import PROBES


class Probes(SynchronousTestCase):
    def test_complete(self) -> None:
        """Each probe has a unique id and a failure class that it finds."""
        ids = [probe.id for probe in PROBES]
        self.assertEqual(len(ids), len(set(ids)))
        self.assertGreaterEqual(len(ids), 80)
        found = [name for names in FINDS.values() for name in names]
        self.assertEqual(sorted(ids), sorted([*found, *ELSEWHERE]))
        self.assertEqual(set(Fault), set(FINDS))
