"""Labels and sentences for exceeded limits, failed handshakes and failed connections."""

from __future__ import annotations

import os
from collections.abc import Sequence

from OpenSSL import SSL

from x509proxy.http1.errors import Code

__all__ = ["LIMITS", "connect_reason", "counted", "handshake_detail", "handshake_reason"]

LIMITS = {code.label: code.limit for code in Code if code.limit}
"""The codes about a limit, each with its setting.

``client.max-head-bytes`` stands for the limits of lines and fields too.
"""


# Parts of OpenSSL's texts (ssl/ssl_err.c), each with a label. The first match counts, so the
# generic "alert" comes late.
_HANDSHAKE_LABELS = (
    ("protocol version", "protocol_version"),
    ("unsupported protocol", "protocol_version"),
    ("version too low", "protocol_version"),
    ("unknown protocol", "protocol_version"),
    ("wrong version number", "not_tls"),
    ("http", "not_tls"),
    ("packet length", "not_tls"),
    ("no shared cipher", "no_shared_parameters"),
    ("no application protocol", "no_application_protocol"),
    ("no suitable", "no_shared_parameters"),
    ("no shared", "no_shared_parameters"),
    ("alert", "client_alert"),
    ("signature", "bad_signature"),
    ("decrypt", "bad_signature"),
    ("eof", "client_left"),
)


def handshake_reason(arguments: Sequence[object]) -> str:
    """Return the label of a failed handshake.

    ``arguments`` are those of an ``OpenSSL.SSL.Error``: a list of (library, function, text).
    """
    texts = _texts(arguments)
    return next((label for part, label in _HANDSHAKE_LABELS if part in texts), "other")


def handshake_detail(arguments: Sequence[object]) -> str:
    """Return OpenSSL's text for the first of its errors, a constant, or ``""``."""
    errors = arguments[0] if arguments and isinstance(arguments[0], list) else []
    return str(errors[0][-1]) if errors else ""


def _texts(arguments: Sequence[object]) -> str:
    errors = arguments[0] if arguments and isinstance(arguments[0], list) else []
    return " ".join(str(error[-1]).lower() for error in errors)


# Sentences for the labels above, about a handshake with a server of the settings' table {table}.
_SERVER_HANDSHAKES = {
    "protocol_version": "it supports no TLS version of this proxy (1.2 and 1.3)",
    "not_tls": "it does not use TLS",
    "no_shared_parameters": "it has no cipher or signature algorithm in common with this proxy",
    "client_alert": "it rejected the TLS handshake; it may require another {table}.certificate",
    "bad_signature": "it did not prove that it has its certificate's private key",
    "client_left": "it closed the connection during the TLS handshake",
}
# By class name, since this package does not import Twisted.
_CONNECT_ERRORS = {
    "VerificationError": "its certificate is for another name",
    "CertificateError": "its certificate has no name that can be read",
    "DNSLookupError": "its name cannot be looked up",
    "TimeoutError": "it does not respond",
    "ConnectionDone": _SERVER_HANDSHAKES["client_left"],
    "ConnectionLost": _SERVER_HANDSHAKES["client_left"],
}


def connect_reason(error: BaseException | None, table: str = "upstream") -> str:
    """Return the reason for a failed connection to a server, for the operator.

    ``table`` has the settings of its TLS: ``upstream`` of a back end, ``tokens`` of an issuer.
    The error's own text is not used, because a library may put certificates or addresses into it.
    """
    number = getattr(error, "osError", None)
    if isinstance(number, int):
        return os.strerror(number)
    if isinstance(error, SSL.Error):
        return _server_handshake(error).format(table=table)
    name = type(error).__name__
    return _CONNECT_ERRORS.get(name, name)


def _server_handshake(error: SSL.Error) -> str:
    if "certificate verify failed" in _texts(error.args):
        return "its certificate is not valid now, or no authority in {table}.ca has issued it"
    return _SERVER_HANDSHAKES.get(handshake_reason(error.args), "the TLS handshake failed")


def counted(count: int, thing: str) -> str:
    """Return ``1 header`` or ``2 headers``, for a sentence of the log."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
