"""Tests of :mod:`x509proxy.audit.probes.forgery`."""

from __future__ import annotations

from tests.support.audit_lab import AuditTestCase, add_fault_tests
from tests.support.audit_requests import arrival, echo
from tests.support.broken_terminator import Fault, Terminator
from tests.support.scripted_lab import (
    ScriptTestCase,
)
from x509proxy.audit.client import Address
from x509proxy.audit.lab import Echoes, Lab, Target
from x509proxy.audit.probes.forgery import PROBES
from x509proxy.audit.recorder import Listener, Recorder


class Forgery(ScriptTestCase):
    def test_removed_characters(self) -> None:
        """A terminator may remove control characters."""
        self.assertEqual([], self.faults("syntax-splitters", self.lab(arrival((b"X-A", b"a")))))

    def test_echo(self) -> None:
        """Behind an echo the requests are read from the responses, and some probes do not apply."""
        recorder = Recorder(Listener(host="127.0.0.1"))
        self.addCleanup(recorder.stop)
        recorder.responder = echo
        terminator = Terminator(recorder.port, Fault.UNDERSCORES)
        self.addCleanup(terminator.stop)
        target = Target(Address("127.0.0.1", terminator.port, "localhost"), self.target.fields)
        lab = Lab(target, Echoes(), self.store)
        self.assertEqual([], self.faults("name-same", lab))
        self.assertEqual([], self.faults("encoding-exact", lab))
        self.assertTrue(self.faults("twin-underscores", lab))
        self.inapplicable("encoding-folded", lab)


class Terminators(AuditTestCase):
    def test_sound(self) -> None:
        """A terminator that keeps every promise passes every probe that applies."""
        self.sound(*PROBES)


add_fault_tests(Terminators, PROBES)
