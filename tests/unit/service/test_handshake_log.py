"""Tests of :mod:`x509proxy.service.handshake_log`."""

from __future__ import annotations

from typing import Any

from msgspec import structs
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.support.memory import HEADER, RULES
from x509proxy.monitoring.handshake_log_format import HandshakeFailure
from x509proxy.service.handshake_log import HandshakeLog
from x509proxy.settings import ProxySettings

FAILURE = HandshakeFailure("192.0.2.7", "client_alert", "tlsv1 alert unknown ca", "TLSv1.3", "as")


class Configured:
    """As much of a configuration as the log looks at."""

    def __init__(self, rate: int) -> None:
        self.settings = structs.replace(ProxySettings(), max_logged_errors_per_second=rate)
        self.rules = RULES


class Lines(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        configuration: Any = Configured(2)
        self.log = HandshakeLog(configuration, self.clock)

    def lines(self, *failures: HandshakeFailure, seconds: float = 0.0) -> list[str]:
        with capturedLogs() as events:
            for failure in failures:
                self.log.failed(failure)
            self.clock.advance(seconds)
        return [str(formatEvent(event)) for event in events]

    def test_line(self) -> None:
        """One failure is one line."""
        self.assertEqual(
            [
                "TLS handshake failed: client_address=192.0.2.7 reason=client_alert "
                'detail="tlsv1 alert unknown ca" tls_version=TLSv1.3 server_name=as'
            ],
            self.lines(FAILURE),
        )

    def test_flood(self) -> None:
        """Beyond the limit they are counted, and the number is logged once a second."""
        self.assertEqual(2, len(self.lines(*[FAILURE] * 5)))
        self.assertEqual(["3 more failed TLS handshakes are not logged"], self.lines(seconds=1.0))
        self.assertEqual(2, len(self.lines(*[FAILURE] * 2)))

    def test_reload(self) -> None:
        """A reload changes the limit."""
        configuration: Any = Configured(1)
        self.log.use(configuration)
        self.assertEqual(1, len(self.lines(FAILURE, FAILURE)))
        with capturedLogs() as events:
            self.log.close()
        self.assertEqual(1, events[0]["count"])

    def test_silent_connections(self) -> None:
        """A connection without a first message, such as a check, has no line and takes no place."""
        silent = HandshakeFailure("192.0.2.7", "no_client_hello")
        self.assertEqual(2, len(self.lines(silent, silent, FAILURE, silent, FAILURE)))

    def test_secret(self) -> None:
        """The secret header name, sent as a server's name, is masked (invariant L4)."""
        [line] = self.lines(HandshakeFailure("a", "b", server_name=f"{HEADER.decode()}.example"))
        self.assertNotIn(HEADER.decode().lower(), line.lower())
        self.assertIn("...", line)
