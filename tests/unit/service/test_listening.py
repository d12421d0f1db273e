"""Promises of :mod:`x509proxy.service.listening` about what is not bound; what is stands in ``test_service``."""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.unit.certificates.test_pem_files import NAME
from x509proxy.service.listening import ListeningEndpoint, check_kinds
from x509proxy.settings import AdminSettings, ListenerSettings, ProxySettings, SettingsError


class Kinds(SynchronousTestCase):
    def refusal(self, settings: ProxySettings) -> str:
        """What is said before anything is opened."""
        return str(self.assertRaises(SettingsError, check_kinds, settings))

    def test_known(self) -> None:
        """Those of Twisted's own, and of its plug-ins."""
        listeners = (
            ListenerSettings(endpoint="haproxy:tcp:1"),
            ListenerSettings(endpoint="systemd:domain=INET:index=0"),
        )
        admin = AdminSettings(listen="unix:/a")
        check_kinds(
            ProxySettings(listen=("tcp:8443", "tcp6:8444"), listeners=listeners, admin=admin)
        )

    def test_unknown(self) -> None:
        """Any other is one sentence, with its key, at the start too."""
        sentence = self.refusal(ProxySettings(listen=("tcp:1", "tpc:2")))
        self.assertTrue(
            sentence.startswith(
                "listen: found 'tpc:2', of a kind that there is not, expected tcp:8443, "
            ),
            sentence,
        )
        start = self.assertRaises(SettingsError, ListeningEndpoint, MemoryReactorClock(), "tpc:2")
        self.assertEqual(sentence, str(start))

    def test_silent(self) -> None:
        """A secret name that was pasted there is not told, whoever finds it out."""
        self.assertNotIn(NAME, self.refusal(ProxySettings(listen=(NAME,))))
        for description in (
            NAME,
            f"tcp:1:interface={NAME}:{NAME}:{NAME}",
            f"systemd:domain=INET:name={NAME}",
        ):
            start = self.assertRaises(
                SettingsError, ListeningEndpoint, MemoryReactorClock(), description
            )
            self.assertNotIn(NAME, str(start))
            self.assertIn("…", str(start))
