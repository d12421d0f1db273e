"""Tests of :mod:`x509proxy.monitoring.handshake_log_format`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from x509proxy.monitoring.handshake_log_format import HandshakeFailure, failure_line, unlogged


class Lines(SynchronousTestCase):
    def test_fields(self) -> None:
        """Each field has its name; one that is not known is a hyphen."""
        failure = HandshakeFailure(
            "192.0.2.7", "no_shared_parameters", "no shared cipher", "TLSv1.2", "as.example"
        )
        self.assertEqual(
            'client_address=192.0.2.7 reason=no_shared_parameters detail="no shared cipher" '
            "tls_version=TLSv1.2 server_name=as.example",
            failure_line(failure),
        )
        self.assertEqual(
            "client_address=::1 reason=not_tls detail=- tls_version=- server_name=-",
            failure_line(HandshakeFailure("::1", "not_tls")),
        )

    def test_hostile_name(self) -> None:
        """A name of the client's choosing is quoted, escaped and cut: it makes no line or field."""
        line = failure_line(
            HandshakeFailure("a", "b", server_name='x\n" reason=c\xff' + "y" * 9999)
        )
        self.assertIn(r'server_name="x\x0a\" reason=c\xc3\xbfyyy', line)
        self.assertLess(len(line), 400)
        self.assertTrue(line.isascii() and line.isprintable())

    def test_unlogged(self) -> None:
        """Without a log nothing happens."""
        unlogged(HandshakeFailure("a", "b"))
