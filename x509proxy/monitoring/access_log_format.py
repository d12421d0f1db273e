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
from x509proxy.exchange import Exchange, Outcome, TokenVerdict
from x509proxy.http1.errors import Code
from x509proxy.settings import LogFormat

__all__ = ["WRITERS", "access_json", "access_line", "quoted"]


_COMPLETED, _UNCHECKED = Outcome.COMPLETED, TokenVerdict.UNCHECKED
_LONGEST_SUBJECT = 256
# Visible ASCII but the quote, the backslash and the sign that separates a name from its value.
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")


def access_line(exchange: Exchange) -> str:
    """One line, without its end: ``name=value`` separated by spaces; a value that needs it is quoted, ``-`` stands for none."""
    # One template: what can only be plain is not looked at, and what comes again is not written again, since this is done for
    # each request.
    outcome = "completed" if exchange.outcome is _COMPLETED else exchange.outcome.value
    return (
        f"time={_time(exchange.started)} request_id={exchange.request_id or '-'}"
        f" {_what(exchange.peer, exchange.method, exchange.target, exchange.version)}"
        f" status={exchange.status or '-'} outcome={outcome} request_bytes={exchange.bytes_in} response_bytes={exchange.bytes_out}"
        f" duration_ms={exchange.duration * 1000:.1f} tls_version={exchange.tls_version or '-'}"
        f" key_exchange={exchange.key_exchange or '-'} {_who(exchange.certificate)}"
        f" forged_headers={exchange.forged} token_verdict={_token(exchange.token)}"
        f" {_why(exchange.backend, exchange.code, exchange.detail)}"
    )


def access_json(exchange: Exchange) -> str:
    """The same as one JSON object in ASCII, without the line's end: numbers are numbers, ``null`` stands for none."""
    certificate = exchange.certificate
    fields = {
        "time": _time(exchange.started),
        "request_id": exchange.request_id or None,
        "client_address": exchange.peer or None,
        "method": exchange.method or None,
        "target": exchange.target or None,
        "version": exchange.version,
        "status": exchange.status or None,
        "outcome": exchange.outcome.value,
        "request_bytes": exchange.bytes_in,
        "response_bytes": exchange.bytes_out,
        "duration_ms": round(exchange.duration * 1000, 1),
        "tls_version": exchange.tls_version or None,
        "key_exchange": exchange.key_exchange or None,
        "verdict": exchange.verdict.value,
        "x5t_s256": certificate and certificate.thumbprint,
        "subject": certificate and _shorten(certificate.subject),
        "forged_headers": exchange.forged,
        "token_verdict": None if exchange.token is _UNCHECKED else exchange.token.value,
        "backend": exchange.backend or None,
        "code": exchange.code and exchange.code.label,
        "detail": exchange.detail or None,
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
    return f"client_address={quoted(peer)} method={quoted(method)} target={quoted(target)} version={version}"


@lru_cache(maxsize=128)
def _why(backend: str, code: Code | None, detail: str) -> str:
    label = code.label if code else "-"
    return f"backend={quoted(backend)} code={label} detail={quoted(detail)}"


@lru_cache(maxsize=1024)
def _who(certificate: ClientCertificate | None) -> str:
    if certificate is None:
        return f"verdict={Verdict.NONE.value} x5t_s256=- subject=-"
    subject = quoted(_shorten(certificate.subject))
    return (
        f"verdict={certificate.verdict.value} x5t_s256={certificate.thumbprint} subject={subject}"
    )


def _token(verdict: TokenVerdict) -> str:
    return "-" if verdict is _UNCHECKED else verdict.value


def _shorten(subject: str) -> str:
    """A client may have 6 KB of subject written out at each of its requests, four times as long when it is escaped."""
    return subject if len(subject) <= _LONGEST_SUBJECT else subject[:_LONGEST_SUBJECT] + "..."


def quoted(value: str) -> str:
    """Return a value in printable ASCII: a client chooses its subject and target, and a log is read in terminals and by line."""
    if not value:
        return "-"
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(mark if " " <= mark <= "~" else _escape(mark) for mark in escaped) + '"'


def _escape(mark: str) -> str:
    return "".join(f"\\x{octet:02x}" for octet in mark.encode("utf-8", "surrogateescape"))
