"""Tests of :mod:`x509proxy.monitoring.reason_codes`: each logged reason has a code."""

from __future__ import annotations

import errno

from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from twisted.internet import error as errors
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.http1.errors import Code
from x509proxy.monitoring.reason_codes import (
    LIMITS,
    connect_reason,
    counted,
    handshake_detail,
    handshake_reason,
)


class Limits(SynchronousTestCase):
    def test_settings(self) -> None:
        """Each code about a limit names its setting."""
        self.assertEqual("client.max-head-bytes", LIMITS["head_too_large"])
        self.assertEqual({code.label for code in Code if code.limit}, set(LIMITS))


class Handshakes(SynchronousTestCase):
    def test_words(self) -> None:
        """OpenSSL's texts, of 3.x and of 4.x, become words."""
        for text, word in (
            ("unsupported protocol", "protocol_version"),
            ("tlsv1 alert protocol version", "protocol_version"),
            ("no shared cipher", "no_shared_parameters"),
            ("no application protocol", "no_application_protocol"),
            ("http request", "not_tls"),
            ("wrong version number", "not_tls"),
            ("tlsv1 alert unknown ca", "client_alert"),
            ("ssl/tls alert bad certificate", "client_alert"),
            ("bad signature", "bad_signature"),
            ("unexpected eof while reading", "client_left"),
            ("something new", "other"),
        ):
            self.assertEqual(word, handshake_reason([[("SSL routines", "", text)]]), text)

    def test_none(self) -> None:
        """An error without arguments, or with others than a list, is counted too."""
        odd: tuple[tuple[object, ...], ...] = ((), ([],), (-1, "Unexpected EOF"))
        for arguments in odd:
            self.assertEqual("other", handshake_reason(arguments))


def tls(text: str) -> SSL.Error:
    """Errors as pyOpenSSL raises them."""
    return SSL.Error([("SSL routines", "", text)])


class Connecting(SynchronousTestCase):
    def test_operating_system(self) -> None:
        """The operating system's errors have its words: a closed port, a missing unix socket."""
        for error, said in (
            (errors.ConnectionRefusedError(errno.ECONNREFUSED, "SECRET"), "Connection refused"),
            (errors.ConnectError(errno.ENOENT, "SECRET"), "No such file or directory"),
            (errors.ConnectError(errno.EACCES, "SECRET"), "Permission denied"),
            (errors.TCPTimedOutError(errno.ETIMEDOUT, "SECRET"), "Connection timed out"),
        ):
            self.assertEqual(said, connect_reason(error))

    def test_twisted(self) -> None:
        """The errors of Twisted and service-identity have a sentence of this project."""
        ended = "it closed the connection during the TLS handshake"
        for error, said in (
            (errors.DNSLookupError("SECRET"), "its name cannot be looked up"),
            (errors.TimeoutError(), "it does not respond"),
            (errors.ConnectionDone("SECRET"), ended),
            (errors.ConnectionLost("SECRET"), ended),
            (VerificationError(errors=[]), "its certificate is for another name"),
            (CertificateError("SECRET"), "its certificate has no name that can be read"),
        ):
            self.assertEqual(said, connect_reason(error))

    def test_handshakes(self) -> None:
        """OpenSSL's errors each have one, and unknown ones are known to be of the handshake."""
        for text, part in (
            (
                "certificate verify failed",
                "its certificate is not valid now, or no authority in upstream.ca",
            ),
            ("wrong version number", "it does not use TLS"),
            ("tlsv1 alert protocol version", "no TLS version"),
            ("no shared cipher", "in common"),
            ("tls alert handshake failure", "it rejected the TLS handshake"),
            ("bad signature", "did not prove"),
            ("unexpected eof while reading", "closed the connection"),
            ("SECRET", "the TLS handshake failed"),
        ):
            self.assertIn(part, connect_reason(tls(text)))
        self.assertEqual("the TLS handshake failed", connect_reason(SSL.SysCallError(-1, "SECRET")))

    def test_table(self) -> None:
        """The sentences name the keys of the table that the server belongs to."""
        for text, key in (
            ("certificate verify failed", ".ca"),
            ("tls alert handshake failure", ".certificate"),
        ):
            for table in ("upstream", "tokens"):
                self.assertIn(table + key, connect_reason(tls(text), table))

    def test_unknown(self) -> None:
        """Of any other error the kind is shown, and not the text."""
        self.assertEqual("ZeroDivisionError", connect_reason(ZeroDivisionError("SECRET")))


class Numbers(SynchronousTestCase):
    def test_counted(self) -> None:
        """One is one thing, and any other number is of things."""
        self.assertEqual(
            ["0 headers", "1 header", "2 headers"],
            [counted(number, "header") for number in range(3)],
        )


class Details(SynchronousTestCase):
    def test_first(self) -> None:
        """The detail is the text of the first error that OpenSSL reports, if there is one."""
        errors = [("SSL routines", "", "no shared cipher"), ("SSL routines", "", "another")]
        self.assertEqual("no shared cipher", handshake_detail([errors]))
        others: tuple[tuple[object, ...], ...] = ((), ([],), (-1, "Unexpected EOF"))
        for arguments in others:
            self.assertEqual("", handshake_detail(arguments))
