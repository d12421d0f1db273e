"""Tests of :mod:`x509proxy.exchange`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.support import certificates as samples
from x509proxy.certificates.client_certificate import ClientCertificate, Verdict
from x509proxy.exchange import Exchange, Observer, Outcome


def exchange(certificate: ClientCertificate | None = None) -> Exchange:
    return Exchange(
        started=0.0,
        duration=0.0,
        peer="192.0.2.1",
        method="GET",
        target="/",
        outcome=Outcome.COMPLETED,
        certificate=certificate,
    )


class BackendHealth(SynchronousTestCase):
    def test_verdict_without_certificate(self) -> None:
        """A request without a certificate has the verdict ``NONE``."""
        self.assertEqual(Verdict.NONE, exchange().verdict)

    def test_verdict_of_the_certificate(self) -> None:
        """The record's verdict is its certificate's."""
        self.assertEqual(Verdict.SELF_SIGNED, exchange(samples.client()).verdict)

    def test_frozen(self) -> None:
        """An observer cannot change the record for the next observer."""
        with self.assertRaises(AttributeError):
            exchange().status = 200  # type: ignore[misc]

    def test_repr_holds_no_certificate(self) -> None:
        """The repr of a record has a thumbprint, never the certificate's bytes (invariant L4)."""
        self.assertNotIn("der=", repr(exchange(samples.client())))

    def test_a_list_is_an_observer(self) -> None:
        """``list.append`` is a sufficient observer in a test."""
        seen: list[Exchange] = []
        observer: Observer = seen.append
        observer(exchange())
        self.assertEqual([exchange()], seen)

    def test_outcomes(self) -> None:
        """Logs and metrics have exactly these three outcomes."""
        self.assertEqual(
            ["completed", "rejected", "aborted"], [outcome.value for outcome in Outcome]
        )
