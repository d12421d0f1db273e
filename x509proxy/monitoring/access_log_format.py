"""From an exchange to one line of the access log: pure, and the only place where its fields are escaped.

``docs/operations/logs.rst`` tells what each field says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from x509proxy.certificates.client_certificate import ClientCertificate, Verdict
from x509proxy.exchange import Exchange, Outcome
from x509proxy.settings import LogFormat

__all__ = ["WRITERS", "access_json", "access_line"]


_ANSWERED = Outcome.ANSWERED
_LONGEST_SUBJECT = 256
# Visible ASCII but the quote, the backslash and the sign that separates a name from its value.
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")


def access_line(exchange: Exchange) -> str:
    """One line, without its end: ``name=value`` separated by spaces; a value that needs it is quoted, ``-`` stands for none."""
    # One template: what can only be plain is not looked at, and what comes again is not written again, since this is done for
    # each request.
    outcome = "answered" if exchange.outcome is _ANSWERED else exchange.outcome.value
    return (
        f"time={_time(exchange.started)} id={exchange.request_id or '-'}"
        f" {_what(exchange.peer, exchange.method, exchange.target, exchange.version)}"
        f" status={exchange.status or '-'} outcome={outcome} in={exchange.bytes_in} out={exchange.bytes_out}"
        f" ms={exchange.duration * 1000:.1f} tls={exchange.tls_version or '-'} {_who(exchange.certificate)}"
        f" forged={exchange.forged} {_why(exchange.backend, exchange.reason)}"
    )


def access_json(exchange: Exchange) -> str:
    """The same as one JSON object in ASCII, without the line's end: numbers are numbers, ``null`` stands for none."""
    certificate = exchange.certificate
    fields = {
        "time": _time(exchange.started),
        "id": exchange.request_id or None,
        "peer": exchange.peer or None,
        "method": exchange.method or None,
        "target": exchange.target or None,
        "version": exchange.version,
        "status": exchange.status or None,
        "outcome": exchange.outcome.value,
        "in": exchange.bytes_in,
        "out": exchange.bytes_out,
        "ms": round(exchange.duration * 1000, 1),
        "tls": exchange.tls_version or None,
        "verdict": exchange.verdict.value,
        "x5t#S256": certificate and certificate.thumbprint,
        "subject": certificate and _shorten(certificate.subject),
        "forged": exchange.forged,
        "backend": exchange.backend or None,
        "reason": exchange.reason or None,
    }
    line = _encode(fields).decode("utf-8")
    # What is no visible ASCII can only stand inside of a string.
    return line if line.isascii() and line.isprintable() else _ODD.sub(_escape_json, line)


WRITERS: dict[LogFormat, Callable[[Exchange], str]] = {
    LogFormat.TEXT: access_line,
    LogFormat.JSON: access_json,
}
"""How each format is written."""

_encode = msgspec.json.Encoder().encode
_ODD = re.compile(r"[^ -~]")


def _escape_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(
        f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2)
    )


def _time(started: float) -> str:
    return f"{_second(int(started))}.{int(started % 1 * 1000):03}Z"


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# A target may have 8 KB, and twice as many when it is escaped.
@lru_cache(maxsize=128)
def _what(peer: str, method: str, target: str, version: str) -> str:
    return f"peer={_quote(peer)} method={_quote(method)} target={_quote(target)} version={version}"


@lru_cache(maxsize=128)
def _why(backend: str, reason: str) -> str:
    return f"backend={_quote(backend)} reason={_quote(reason)}"


@lru_cache(maxsize=1024)
def _who(certificate: ClientCertificate | None) -> str:
    if certificate is None:
        return f"verdict={Verdict.NONE.value} x5t#S256=- subject=-"
    subject = _quote(_shorten(certificate.subject))
    return (
        f"verdict={certificate.verdict.value} x5t#S256={certificate.thumbprint} subject={subject}"
    )


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
