"""Sentences of the log, and errors of OpenSSL's, as words that can be counted: few, fixed, and none of a client's choosing."""

from __future__ import annotations

import os
from collections.abc import Sequence

from OpenSSL import SSL

__all__ = ["LIMITS", "connect_reason", "counted", "handshake_reason", "refusal_reason"]

# How the reason of a refusal begins (x509proxy.http1.errors), and its word; what is not here goes by its status.
_REASONS = (
    ("no client certificate", "no_certificate"),
    ("verdict ", "untrusted"),
    ("expired certificate", "expired"),
    ("certificate not yet valid", "not_yet_valid"),
    ("weak certificate", "weak_key"),
    ("unwanted key", "unwanted_key"),
    ("revoked certificate", "revoked"),
    ("unreadable certificate", "unreadable_certificate"),
    ("certificate of ", "certificate_too_large"),
    ("certificate header of ", "certificate_too_large"),
    ("the queue for the back end is full", "queue_full"),
    ("as many uploads", "uploads_full"),
    ("no connection to the back end became free", "queue_timeout"),
    ("the back end could not be connected to in time", "connect_timeout"),
    ("the back end could not be connected to", "connect_failed"),
    ("the back end did not go on in time", "backend_timeout"),
    ("back end's answer", "bad_answer"),
    ("the head did not come in time", "head_timeout"),
    ("the body did not come in time", "body_timeout"),
    ("the client does not read", "send_timeout"),
    ("the client left", "client_left"),
    ("the proxy ended", "proxy_ended"),
    ("internal error", "internal_error"),
)
_STATUSES = {
    400: "bad_request", 405: "method", 413: "body_too_large", 414: "target_too_long", 417: "expectation", 421: "wrong_host",
    431: "head_too_large", 501: "method", 502: "backend_failed", 503: "unavailable", 504: "backend_timeout",
}  # fmt: skip

LIMITS = {
    "certificate_too_large": "max-certificate-bytes",
    "queue_full": "upstream.max-queued-requests",
    "uploads_full": "upstream.max-connections",
    "queue_timeout": "upstream.queue-timeout",
    "connect_timeout": "upstream.connect-timeout",
    "backend_timeout": "upstream.response-timeout",
    "head_timeout": "client.head-timeout",
    "body_timeout": "client.body-timeout",
    "send_timeout": "client.send-timeout",
    "body_too_large": "client.max-body-bytes",
    "target_too_long": "client.max-target-bytes",
    "head_too_large": "client.max-head-bytes",
}
"""The words that tell of a limit, and the setting that has it; ``client.max-head-bytes`` stands for the lines and fields too."""


def refusal_reason(status: int, reason: str) -> str:
    """The word for an exchange that was not answered, by its status and its reason."""
    for beginning, word in _REASONS:
        if reason.startswith(beginning):
            return word
    return _STATUSES.get(status, "other")


# Parts of OpenSSL's texts (ssl/ssl_err.c), and the word for each. The first that fits; what the client said in an alert is last.
_HANDSHAKES = (
    ("protocol version", "protocol_version"),
    ("unsupported protocol", "protocol_version"),
    ("version too low", "protocol_version"),
    ("unknown protocol", "protocol_version"),
    ("wrong version number", "not_tls"),
    ("http", "not_tls"),
    ("packet length", "not_tls"),
    ("no shared cipher", "nothing_in_common"),
    ("no suitable", "nothing_in_common"),
    ("no shared", "nothing_in_common"),
    ("alert", "refused_by_client"),
    ("signature", "bad_proof"),
    ("decrypt", "bad_proof"),
    ("eof", "client_left"),
)


def handshake_reason(arguments: Sequence[object]) -> str:
    """The word for a failed handshake, by the arguments of an ``OpenSSL.SSL.Error``: a list of (library, function, text)."""
    texts = _texts(arguments)
    return next((word for part, word in _HANDSHAKES if part in texts), "other")


def _texts(arguments: Sequence[object]) -> str:
    errors = arguments[0] if arguments and isinstance(arguments[0], list) else []
    return " ".join(str(error[-1]).lower() for error in errors)


# What the words above mean where the back end is the other one.
_BACK_ENDS = {
    "protocol_version": "it has no version of TLS that is spoken here (1.2 and 1.3)",
    "not_tls": "it does not speak TLS",
    "nothing_in_common": "it has no cipher or signature in common with us",
    "refused_by_client": "it refuses the TLS handshake, as one does that wants another certificate of ours, or one at all",
    "bad_proof": "it has not proved that it has its certificate's key",
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
