"""Promises of :mod:`x509proxy.monitoring.reason_codes`: whatever the log says can be counted by a word of ours."""

from __future__ import annotations

import ast
import errno
from collections.abc import Iterator
from pathlib import Path

from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from twisted.internet import error as errors
from twisted.trial.unittest import SynchronousTestCase

from x509proxy.monitoring.reason_codes import (
    LIMITS,
    connect_reason,
    counted,
    handshake_reason,
    refusal_reason,
)

HOUSE = Path(__file__).parents[3] / "x509proxy"


def literal(node: ast.expr) -> str | None:
    """A text, or the part of one that is there before anything is put in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            return text
    return None


def refusals() -> Iterator[tuple[str, int, str]]:
    """Every refusal that is written in the package: room, status, reason as far as it is known there."""
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ErrorResponse":
                match node.args:
                    case [ast.Constant(value=int(status)), reason, *_] if text := literal(reason):
                        yield path.stem, status, text


class Refusals(SynchronousTestCase):
    def test_words(self) -> None:
        """A reason has its word by how it begins, or else by its status."""
        for status, reason, word in (
            (401, "no client certificate", "no_certificate"),
            (401, "verdict UNTRUSTED", "untrusted"),
            (400, "certificate of 9000 bytes", "certificate_too_large"),
            (503, "the queue for the back end is full", "queue_full"),
            (504, "the back end could not be connected to in time", "connect_timeout"),
            (502, "the back end could not be connected to: DNSLookupError", "connect_failed"),
            (400, "malformed request: whatever", "bad_request"),
            (413, "body of 7 bytes", "body_too_large"),
            (0, "the client left", "client_left"),
            (0, "the proxy ended", "proxy_ended"),
            (503, "as many uploads to the back end as there may be", "uploads_full"),
            (0, "", "other"),
        ):
            self.assertEqual(word, refusal_reason(status, reason), reason)

    def test_all(self) -> None:
        """Every refusal in the package has a word of its own."""
        found = [*refusals()]
        self.assertGreater(len(found), 30)
        self.assertEqual([], [one for one in found if refusal_reason(*one[1:]) == "other"])

    def test_limits(self) -> None:
        """Each word that tells of a limit is one that a refusal can have."""
        words = {refusal_reason(status, reason) for _, status, reason in refusals()} | {
            "send_timeout"
        }
        self.assertEqual(set(), set(LIMITS) - words)


class Handshakes(SynchronousTestCase):
    def test_words(self) -> None:
        """OpenSSL's texts, of 3.x and of 4.x, become words."""
        for text, word in (
            ("unsupported protocol", "protocol_version"),
            ("tlsv1 alert protocol version", "protocol_version"),
            ("no shared cipher", "nothing_in_common"),
            ("http request", "not_tls"),
            ("wrong version number", "not_tls"),
            ("tlsv1 alert unknown ca", "refused_by_client"),
            ("ssl/tls alert bad certificate", "refused_by_client"),
            ("bad signature", "bad_proof"),
            ("unexpected eof while reading", "client_left"),
            ("something new", "other"),
        ):
            self.assertEqual(word, handshake_reason([[("SSL routines", "", text)]]), text)

    def test_none(self) -> None:
        """An error that says nothing, or something else than a list, is counted too."""
        odd: tuple[tuple[object, ...], ...] = ((), ([],), (-1, "Unexpected EOF"))
        for arguments in odd:
            self.assertEqual("other", handshake_reason(arguments))


def tls(text: str) -> SSL.Error:
    """What pyOpenSSL raises."""
    return SSL.Error([("SSL routines", "", text)])


class Connecting(SynchronousTestCase):
    def test_operating_system(self) -> None:
        """What the operating system says is said in its words: a port that is closed, a unix socket that is not there."""
        for error, said in (
            (errors.ConnectionRefusedError(errno.ECONNREFUSED, "SECRET"), "Connection refused"),
            (errors.ConnectError(errno.ENOENT, "SECRET"), "No such file or directory"),
            (errors.ConnectError(errno.EACCES, "SECRET"), "Permission denied"),
            (errors.TCPTimedOutError(errno.ETIMEDOUT, "SECRET"), "Connection timed out"),
        ):
            self.assertEqual(said, connect_reason(error))

    def test_twisted(self) -> None:
        """What Twisted and service-identity raise has a sentence of ours."""
        ended = "it ended the connection before the TLS handshake was over"
        for error, said in (
            (errors.DNSLookupError("SECRET"), "its name cannot be looked up"),
            (errors.TimeoutError(), "it does not answer"),
            (errors.ConnectionDone("SECRET"), ended),
            (errors.ConnectionLost("SECRET"), ended),
            (VerificationError(errors=[]), "its certificate is for another name"),
            (CertificateError("SECRET"), "its certificate is for no name that can be read"),
        ):
            self.assertEqual(said, connect_reason(error))

    def test_handshakes(self) -> None:
        """Of OpenSSL's errors each kind has one, and those that are not known are seen to be of the handshake."""
        for text, part in (
            (
                "certificate verify failed",
                "its certificate is not valid now, or no authority that is trusted here",
            ),
            ("wrong version number", "it does not speak TLS"),
            ("tlsv1 alert protocol version", "no version of TLS"),
            ("no shared cipher", "in common"),
            ("tls alert handshake failure", "refuses the TLS handshake"),
            ("bad signature", "not proved"),
            ("unexpected eof while reading", "ended the connection"),
            ("SECRET", "the TLS handshake failed"),
        ):
            self.assertIn(part, connect_reason(tls(text)))
        self.assertEqual("the TLS handshake failed", connect_reason(SSL.SysCallError(-1, "SECRET")))

    def test_unknown(self) -> None:
        """Of any other error its kind is told, and not its text."""
        self.assertEqual("ZeroDivisionError", connect_reason(ZeroDivisionError("SECRET")))


class Numbers(SynchronousTestCase):
    def test_counted(self) -> None:
        """One is one thing, and any other number is of things."""
        self.assertEqual(
            ["0 headers", "1 header", "2 headers"],
            [counted(number, "header") for number in range(3)],
        )
