"""A failed TLS handshake as a frozen value, and as a line of the service's log."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from x509proxy.monitoring.access_log_format import quoted

__all__ = ["HandshakeFailure", "HandshakeObserver", "failure_line", "unlogged"]

_MAX_CHARS = 256


@attrs.frozen
class HandshakeFailure:
    """A failed handshake.

    ``tls_version`` and ``server_name`` (SNI) are empty if no first message was received.
    """

    client_address: str
    reason: str
    """A label of :func:`x509proxy.monitoring.reason_codes.handshake_reason`."""
    detail: str = ""
    """OpenSSL's text for its first error."""
    tls_version: str = ""
    server_name: str = ""


HandshakeObserver = Callable[[HandshakeFailure], None]


def unlogged(failure: HandshakeFailure) -> None:
    """Log nothing."""


def failure_line(failure: HandshakeFailure) -> str:
    """Return the line in ASCII, with fields ``name=value``, quoted as needed. ``-`` is no value."""
    fields = (
        ("client_address", failure.client_address),
        ("reason", failure.reason),
        ("detail", failure.detail),
        ("tls_version", failure.tls_version),
        # The client chooses the name, so its length is limited.
        ("server_name", failure.server_name[:_MAX_CHARS]),
    )
    return " ".join(f"{name}={quoted(value)}" for name, value in fields)
