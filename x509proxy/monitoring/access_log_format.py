"""The formats of the access log, text and JSON, with the escaping of all fields.

``docs/operations/logs.rst`` has the meaning of each field.
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
_MAX_SUBJECT_CHARS = 256
# Visible ASCII without the quote, the backslash and the equals sign.
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")


def access_line(exchange: Exchange) -> str:
    """Return a line without its end, with fields ``name=value`` separated by spaces.

    Values are quoted as needed, and ``-`` stands for a missing one.
    """
    # This runs for each request: fields without special characters are not escaped, and parts that
    # repeat are cached.
    outcome = "completed" if exchange.outcome is _COMPLETED else exchange.outcome.value
    return (
        f"time={_time(exchange.started)} request_id={exchange.request_id or '-'}"
        f" {_request(exchange.peer, exchange.method, exchange.target, exchange.version)}"
        f" status={exchange.status or '-'} outcome={outcome}"
        f" request_bytes={exchange.bytes_in} response_bytes={exchange.bytes_out}"
        f" duration_ms={exchange.duration * 1000:.1f} tls_version={exchange.tls_version or '-'}"
        f" key_exchange={exchange.key_exchange or '-'} {_certificate(exchange.certificate)}"
        f" forged_headers={exchange.forged} token_verdict={_token(exchange.token)}"
        f" {_reason(exchange.backend, exchange.code, exchange.detail)}"
    )


def access_json(exchange: Exchange) -> str:
    """Return a line without its end: a JSON object in ASCII, with ``null`` for missing values."""
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
    # Only strings contain other characters than visible ASCII.
    return line if line.isascii() and line.isprintable() else _NOT_ASCII.sub(_escape_json, line)


WRITERS: dict[LogFormat, Callable[[Exchange], str]] = {
    LogFormat.TEXT: access_line,
    LogFormat.JSON: access_json,
}
"""The writer of each format."""

_encode = msgspec.json.Encoder().encode
_NOT_ASCII = re.compile(r"[^ -~]")


def _escape_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(
        f"\\u{units[index]:02x}{units[index + 1]:02x}" for index in range(0, len(units), 2)
    )


def _time(started: float) -> str:
    return f"{_second(int(started))}.{int(started % 1 * 1000):03}Z"


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# A small cache: a target may have 8 KB, and twice as many when it is escaped.
@lru_cache(maxsize=128)
def _request(peer: str, method: str, target: str, version: str) -> str:
    return (
        f"client_address={quoted(peer)} method={quoted(method)} "
        f"target={quoted(target)} version={version}"
    )


@lru_cache(maxsize=128)
def _reason(backend: str, code: Code | None, detail: str) -> str:
    label = code.label if code else "-"
    return f"backend={quoted(backend)} code={label} detail={quoted(detail)}"


def _certificate(certificate: ClientCertificate | None) -> str:
    if certificate is None:
        return f"verdict={Verdict.NONE.value} x5t_s256=- subject=-"
    # One character more shows that the subject is too long.
    subject = certificate.subject[: _MAX_SUBJECT_CHARS + 1]
    return _client(certificate.verdict, certificate.thumbprint, subject)


# By the parts that are written: a certificate may have 30 KB, and its client may come once.
@lru_cache(maxsize=1024)
def _client(verdict: Verdict, thumbprint: str, subject: str) -> str:
    return f"verdict={verdict.value} x5t_s256={thumbprint} subject={quoted(_shorten(subject))}"


def _token(verdict: TokenVerdict) -> str:
    return "-" if verdict is _UNCHECKED else verdict.value


def _shorten(subject: str) -> str:
    """Limit the length of a subject, of which a client could otherwise log 24 KB per request."""
    if len(subject) <= _MAX_SUBJECT_CHARS:
        return subject
    return subject[:_MAX_SUBJECT_CHARS] + "..."


def quoted(value: str) -> str:
    """Return a value in printable ASCII, quoted as needed, or ``-`` if it is empty.

    Clients choose subjects and targets, which must not act on a terminal or begin a new line.
    """
    if not value:
        return "-"
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(mark if " " <= mark <= "~" else _escape(mark) for mark in escaped) + '"'


def _escape(mark: str) -> str:
    return "".join(f"\\x{octet:02x}" for octet in mark.encode("utf-8", "surrogateescape"))
