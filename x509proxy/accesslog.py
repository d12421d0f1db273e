"""From an exchange to one line of the access log: pure, and the only place where its fields are escaped."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from x509proxy.exchange import Exchange

__all__ = ["access_line"]


_LONGEST_SUBJECT = 256
# Visible ASCII but the quote, the backslash and the sign that separates a name from its value.
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")


def access_line(exchange: Exchange) -> str:
    """One line, without its end: ``name=value`` separated by spaces; a value that needs it is quoted, ``-`` stands for none."""
    certificate = exchange.certificate
    fields = (
        ("time", datetime.fromtimestamp(exchange.started, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")),
        ("peer", exchange.peer),
        ("method", exchange.method),
        ("target", exchange.target),
        ("version", exchange.version),
        ("status", str(exchange.status or "")),
        ("outcome", exchange.outcome.value),
        ("in", str(exchange.bytes_in)),
        ("out", str(exchange.bytes_out)),
        ("ms", f"{exchange.duration * 1000:.1f}"),
        ("tls", exchange.tls_version),
        ("verdict", exchange.verdict.value),
        ("x5t#S256", certificate.thumbprint if certificate else ""),
        ("subject", _shorten(certificate.subject) if certificate else ""),
        ("forged", str(exchange.forged)),
        ("backend", exchange.backend),
        ("reason", exchange.reason),
    )
    return " ".join(f"{name}={_quote(value)}" for name, value in fields)


def _shorten(subject: str) -> str:
    """A client may have 6 KB of subject written out at each of its requests, four times as long when it is escaped."""
    return subject if len(subject) <= _LONGEST_SUBJECT else subject[:_LONGEST_SUBJECT] + "..."


def _quote(value: str) -> str:
    """Printable ASCII only: a client chooses its subject and target, and a log is read in terminals and by line."""
    if not value:
        return "-"
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(mark if " " <= mark <= "~" else _escape(mark) for mark in escaped) + '"'


def _escape(mark: str) -> str:
    return "".join(f"\\x{octet:02x}" for octet in mark.encode("utf-8", "surrogateescape"))
