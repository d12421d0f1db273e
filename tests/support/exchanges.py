"""Exchanges, and the fields of their lines in the access log."""

from __future__ import annotations

import re
from typing import Any

from tests.support import certificates as samples
from x509proxy.exchange import Exchange, Outcome
from x509proxy.http1.errors import Code

EXCHANGE = Exchange(
    started=samples.NOON + 0.25,
    duration=0.0123,
    peer="192.0.2.7",
    method="POST",
    target="/token",
    status=200,
    outcome=Outcome.COMPLETED,
    bytes_in=29,
    bytes_out=512,
    tls_version="TLSv1.3",
    key_exchange="X25519MLKEM768",
    backend="http://127.0.0.1:8080",
    request_id="00c0ffee",
)


_FIELD = re.compile(r'([a-z0-9_]+)=("(?:[^"\\]|\\.)*"|[^ "]+)(?: |\Z)')


def fields(text: str) -> dict[str, str]:
    """Parse a line like a reader of logs: no quote, space or line end may mislead it."""
    found, at = {}, 0
    while at < len(text):
        match = _FIELD.match(text, at)
        assert match, text[at:]
        found[match[1]] = match[2]
        at = match.end()
    return found


BACK_END = "http://127.0.0.1:8080"


def exchange(**changes: Any) -> Exchange:
    """Return a completed exchange with these changes."""
    found = {
        "started": 1000.0, "duration": 0.004, "peer": "192.0.2.7", "method": "POST",
        "target": "/token", "status": 200,
        "outcome": Outcome.COMPLETED, "bytes_in": 29, "bytes_out": 60, "backend": BACK_END,
    }  # fmt: skip
    return Exchange(**{**found, **changes})


def refused(**changes: Any) -> Exchange:
    """Return an exchange that the proxy rejected, with these changes."""
    found = {
        "status": 401,
        "outcome": Outcome.REJECTED,
        "code": Code.NO_CERTIFICATE,
        "detail": "no client certificate",
        "backend": "",
    }
    return exchange(**{**found, **changes})
