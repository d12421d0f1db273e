"""Tests of :mod:`x509proxy.audit.probes.identity`."""

from __future__ import annotations

from tests.support.audit_lab import AuditTestCase, add_fault_tests
from tests.support.audit_requests import arrival
from tests.support.broken_terminator import HEADER
from tests.support.ports import free_port
from tests.support.scripted_lab import ScriptTestCase
from x509proxy.audit.client import Address
from x509proxy.audit.lab import Echoes, Lab, Target
from x509proxy.audit.probes.identity import PROBES
from x509proxy.audit.run import Outcome


class Identity(ScriptTestCase):
    def test_missing_options(self) -> None:
        """Without its option a probe does not apply."""
        for probe in ("direct", "plain-forged"):
            self.inapplicable(probe, self.lab())

    def test_closed_port(self) -> None:
        """An unencrypted port that is closed passes nothing."""
        place = Address("127.0.0.1", free_port(), "localhost")
        target = Target(self.target.address, self.target.fields, plain=place)
        self.assertEqual([], self.faults("plain-forged", Lab(target, Echoes(), self.store)))

    def test_other_values(self) -> None:
        """Each probe of a missing certificate finds its own value alone."""
        lab = self.lab(arrival((HEADER, b"(null)")))
        self.assertEqual([], self.faults("absent-dash", lab))
        self.assertEqual([], self.faults("absent-placeholder", lab))
        self.assertEqual([], self.faults("absent-after-other", lab))


class Terminators(AuditTestCase):
    def test_sound(self) -> None:
        """A terminator that keeps every promise passes every probe that applies."""
        self.sound(*PROBES)

    def test_direct(self) -> None:
        """A back end that can be reached past the terminator is found."""
        (probe,) = (probe for probe in PROBES if probe.id == "direct")
        result = self.play(self.lab(direct=True), probe)["direct"]
        self.assertIs(Outcome.FAILED, result.outcome)
        self.assertIn("the forged value", " ".join(result.faults))


add_fault_tests(Terminators, PROBES)
