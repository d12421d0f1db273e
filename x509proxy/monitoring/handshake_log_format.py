"""A failed TLS handshake as a frozen value, and as one line of the service's log."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from x509proxy.monitoring.access_log_format import quoted

__all__ = ["HandshakeFailure", "HandshakeObserver", "failure_line", "unlogged"]

_MAX_CHARS = 256


@attrs.frozen
class HandshakeFailure:
    """One handshake that failed.

    ``reason``: a label of :func:`x509proxy.monitoring.reason_codes.handshake_reason`; ``detail``: OpenSSL's words. ``tls_version`` and
    ``server_name`` (SNI) are empty if the client's first message did not come.
    """

    client_address: str
    reason: str
    detail: str = ""
    tls_version: str = ""
    server_name: str = ""


HandshakeObserver = Callable[[HandshakeFailure], None]


def unlogged(failure: HandshakeFailure) -> None:
    """Log nothing."""


def failure_line(failure: HandshakeFailure) -> str:
    """Return the line, in ASCII: ``name=value``, quoted where it is needed; ``-`` stands for none."""
    fields = (
        ("client_address", failure.client_address),
        ("reason", failure.reason),
        ("detail", failure.detail),
        ("tls_version", failure.tls_version),
        # The client chooses it.
        ("server_name", failure.server_name[:_MAX_CHARS]),
    )
    return " ".join(f"{name}={quoted(value)}" for name, value in fields)
