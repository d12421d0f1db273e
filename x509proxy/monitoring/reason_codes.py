"""Reasons as labels of metrics: of exceeded limits, of failed handshakes and of failed connections."""

from __future__ import annotations

import os
from collections.abc import Sequence

from OpenSSL import SSL

from x509proxy.http1.errors import Code

__all__ = ["LIMITS", "connect_reason", "counted", "handshake_detail", "handshake_reason"]

LIMITS = {code.label: code.limit for code in Code if code.limit}
"""The codes about a limit, and the setting that was exceeded; ``client.max-head-bytes`` stands for lines and fields too."""


# Parts of OpenSSL's texts (ssl/ssl_err.c), and the word for each. The first that fits; what the client said in an alert is last.
_HANDSHAKES = (
    ("protocol version", "protocol_version"),
    ("unsupported protocol", "protocol_version"),
    ("version too low", "protocol_version"),
    ("unknown protocol", "protocol_version"),
    ("wrong version number", "not_tls"),
    ("http", "not_tls"),
    ("packet length", "not_tls"),
    ("no shared cipher", "no_shared_parameters"),
    ("no suitable", "no_shared_parameters"),
    ("no shared", "no_shared_parameters"),
    ("alert", "client_alert"),
    ("signature", "bad_signature"),
    ("decrypt", "bad_signature"),
    ("eof", "client_left"),
)


def handshake_reason(arguments: Sequence[object]) -> str:
    """The word for a failed handshake, by the arguments of an ``OpenSSL.SSL.Error``: a list of (library, function, text)."""
    texts = _texts(arguments)
    return next((word for part, word in _HANDSHAKES if part in texts), "other")


def handshake_detail(arguments: Sequence[object]) -> str:
    """Return OpenSSL's own words for the first of its errors, which are among its constants, or ``""``."""
    errors = arguments[0] if arguments and isinstance(arguments[0], list) else []
    return str(errors[0][-1]) if errors else ""


def _texts(arguments: Sequence[object]) -> str:
    errors = arguments[0] if arguments and isinstance(arguments[0], list) else []
    return " ".join(str(error[-1]).lower() for error in errors)


# What the words above mean where the back end is the other one.
_BACK_ENDS = {
    "protocol_version": "it has no version of TLS that is spoken here (1.2 and 1.3)",
    "not_tls": "it does not speak TLS",
    "no_shared_parameters": "it has no cipher or signature in common with us",
    "client_alert": "it refuses the TLS handshake, as one does that wants another certificate of ours, or one at all",
    "bad_signature": "it has not proved that it has its certificate's key",
    "client_left": "it ended the connection before the TLS handshake was over",
}
# By their classes' names, since this room knows nothing of Twisted.
_ERRORS = {
    "VerificationError": "its certificate is for another name",
    "CertificateError": "its certificate is for no name that can be read",
    "DNSLookupError": "its name cannot be looked up",
    "TimeoutError": "it does not answer",
    "ConnectionDone": _BACK_ENDS["client_left"],
    "ConnectionLost": _BACK_ENDS["client_left"],
}


def connect_reason(error: BaseException | None) -> str:
    """Why a back end could not be connected to, for the operator, in words of ours or of the operating system's.

    Not the error's text: a library's words about a certificate or an address are not ours to log.
    """
    number = getattr(error, "osError", None)
    if isinstance(number, int):
        return os.strerror(number)
    if isinstance(error, SSL.Error):
        return _no_handshake(error)
    name = type(error).__name__
    return _ERRORS.get(name, name)


def _no_handshake(error: SSL.Error) -> str:
    if "certificate verify failed" in _texts(error.args):
        return "its certificate is not valid now, or no authority that is trusted here (ca) has issued it"
    return _BACK_ENDS.get(handshake_reason(error.args), "the TLS handshake failed")


def counted(count: int, thing: str) -> str:
    """``1 header``, ``2 headers``: for a sentence of the log."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
