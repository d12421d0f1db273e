"""From an exchange to one line of the access log: pure, and the only place where its fields are escaped."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from x509proxy.certificate import ClientCertificate, Verdict
from x509proxy.exchange import Exchange

__all__ = ["access_line"]


_LONGEST_SUBJECT = 256
# Visible ASCII but the quote, the backslash and the sign that separates a name from its value.
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")


def access_line(exchange: Exchange) -> str:
    """One line, without its end: ``name=value`` separated by spaces; a value that needs it is quoted, ``-`` stands for none."""
    second, fraction = divmod(exchange.started, 1)
    # One template: what can only be plain is not looked at, since this is done for each request.
    return (
        f"time={_second(int(second))}.{int(fraction * 1000):03}Z peer={_quote(exchange.peer)} method={_quote(exchange.method)}"
        f" target={_quote(exchange.target)} version={exchange.version} status={exchange.status or '-'}"
        f" outcome={exchange.outcome.value} in={exchange.bytes_in} out={exchange.bytes_out} ms={exchange.duration * 1000:.1f}"
        f" tls={exchange.tls_version or '-'} {_who(exchange.certificate)}"
        f" forged={exchange.forged} backend={_quote(exchange.backend)} reason={_quote(exchange.reason)}"
    )


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1024)
def _who(certificate: ClientCertificate | None) -> str:
    if certificate is None:
        return f"verdict={Verdict.NONE.value} x5t#S256=- subject=-"
    subject = _quote(_shorten(certificate.subject))
    return f"verdict={certificate.verdict.value} x5t#S256={certificate.thumbprint} subject={subject}"


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
