"""From an exchange to one line of the access log: pure, and the only place where its fields are escaped.

``docs/operations/logs.rst`` tells what each field says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from x509proxy.certificate import ClientCertificate, Verdict
from x509proxy.exchange import Exchange
from x509proxy.settings import LogFormat

__all__ = ["WRITERS", "access_json", "access_line"]


_LONGEST_SUBJECT = 256
# Visible ASCII but the quote, the backslash and the sign that separates a name from its value.
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")


def access_line(exchange: Exchange) -> str:
    """One line, without its end: ``name=value`` separated by spaces; a value that needs it is quoted, ``-`` stands for none."""
    # One template: what can only be plain is not looked at, since this is done for each request.
    return (
        f"time={_time(exchange.started)} id={exchange.request_id or '-'} peer={_quote(exchange.peer)}"
        f" method={_quote(exchange.method)} target={_quote(exchange.target)} version={exchange.version}"
        f" status={exchange.status or '-'} outcome={exchange.outcome.value} in={exchange.bytes_in} out={exchange.bytes_out}"
        f" ms={exchange.duration * 1000:.1f} tls={exchange.tls_version or '-'} {_who(exchange.certificate)}"
        f" forged={exchange.forged} backend={_quote(exchange.backend)} reason={_quote(exchange.reason)}"
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


WRITERS: dict[LogFormat, Callable[[Exchange], str]] = {LogFormat.TEXT: access_line, LogFormat.JSON: access_json}
"""How each format is written."""

_encode = msgspec.json.Encoder().encode
_ODD = re.compile(r"[^ -~]")


def _escape_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))


def _time(started: float) -> str:
    second, fraction = divmod(started, 1)
    return f"{_second(int(second))}.{int(fraction * 1000):03}Z"


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
