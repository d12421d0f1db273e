"""Tests of :mod:`x509proxy.audit.probes.handshakes`."""

from __future__ import annotations

from tests.support.audit_lab import AuditTestCase, ImpatientLab, add_fault_tests
from tests.support.broken_terminator import Fault, Terminator
from tests.support.scripted_lab import (
    ScriptTestCase,
)
from x509proxy.audit.certificates import Credentials
from x509proxy.audit.client import Address, Ending
from x509proxy.audit.lab import Lab, Pace, Recording, Target
from x509proxy.audit.probes.handshakes import PROBES
from x509proxy.audit.recorder import Listener, Recorder
from x509proxy.audit.run import Outcome


class Handshakes(ScriptTestCase):
    def test_missing_options(self) -> None:
        """Without its option a probe does not apply."""
        for probe in ("host-given",):
            self.inapplicable(probe, self.lab())

    def test_refused(self) -> None:
        """A terminator that does not offer a version, or rejects pieces, has nothing to test."""
        for probe in ("hello-segments", "tls-1.2"):
            self.inapplicable(probe, self.lab(ending=Ending.REFUSED))
        self.inapplicable("renegotiation", self.lab())

    def test_no_session(self) -> None:
        """Where there is no session there is nothing to resume."""
        lab = self.lab()
        lab.exchange = lambda *_: None  # type: ignore[method-assign,assignment]
        self.assertEqual([], self.faults("resumption-keeps", lab))

    def test_anonymous_resumption(self) -> None:
        """A resumed session without an identity proves nothing, and claims nothing."""
        recorder = Recorder(Listener(host="127.0.0.1"))
        self.addCleanup(recorder.stop)
        terminator = Terminator(recorder.port, Fault.RESUMES_ANONYMOUS)
        self.addCleanup(terminator.stop)
        target = Target(Address("127.0.0.1", terminator.port, "localhost"), self.target.fields)
        lab = Lab(target, Recording(recorder), self.store, Pace(quiet=0.01))
        self.assertEqual([], self.faults("resumption-proves", lab))


class Terminators(AuditTestCase):
    def test_sound(self) -> None:
        """A terminator that keeps every promise passes every probe that applies."""
        self.sound(*PROBES)

    def test_possession(self) -> None:
        """A terminator that does not check the proof of possession would be found."""
        lab = self.lab()

        class Trusting(ImpatientLab):
            def stolen(self) -> Credentials:
                # As if the terminator had accepted the key that is not the certificate's own.
                return self.store.get("victim")

        fooled = Trusting(lab.target, Recording(self.recorder), self.store, lab.pace)
        (probe,) = (probe for probe in PROBES if probe.id == "certificate-possession")
        self.assertIs(Outcome.FAILED, self.play(fooled, probe)[probe.id].outcome)
        self.assertIs(Outcome.PASSED, self.play(lab, probe)[probe.id].outcome)


add_fault_tests(Terminators, PROBES)
