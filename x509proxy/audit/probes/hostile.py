"""Probes for denial of service. Each looks for a limit, and stops when it is found."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from x509proxy.audit import remedies as fix
from x509proxy.audit.client import Ending
from x509proxy.audit.lab import Lab, get
from x509proxy.audit.probe import Group, Probe, Script, Severity

__all__ = ["PROBES"]


def _slow_head(lab: Lab) -> Iterator[str]:
    """Send a head byte by byte. A deadline must end the connection."""
    with lab.connect(lab.tls()) as connection:
        end = time.monotonic() + lab.slow_seconds
        connection.send(b"GET / HTTP/1.1\r\nX-A: ")
        while time.monotonic() < end:
            connection.send(b"a")
            connection.read(min(0.5, lab.slow_seconds / 4))
            if connection.ending is not Ending.OPEN:
                return
        yield f"found a head still awaited after {lab.slow_seconds:g} seconds, expected a deadline"


def _many_fields(lab: Lab) -> Iterator[str]:
    """Send ten thousand fields in one head."""
    lines = [b"X-A: a"] * 10_000
    exchange = lab.send(get(*lines))
    if exchange.arrived:
        yield "found a head of 10000 fields at the back end, expected a limit"


def _long_head(lab: Lab) -> Iterator[str]:
    """Send a head of one megabyte."""
    exchange = lab.send(get(b"X-A: " + b"a" * (1 << 20)))
    if exchange.arrived:
        yield "found a head of 1 MiB at the back end, expected a limit"


def _many_requests(lab: Lab) -> Iterator[str]:
    """Send many requests on one connection."""
    request = b"GET / HTTP/1.1\r\nHost: {host}\r\nX-Audit: {token}\r\n\r\n"
    token = lab.token()
    filled = lab.fill(request, token=token)
    with lab.connect(lab.tls()) as connection, contextlib.suppress(OSError):
        for _ in range(lab.many_requests):
            connection.send(filled)
            if not connection.read(lab.pace.response_seconds):
                break
        else:
            if connection.ending is Ending.OPEN:
                yield f"found {lab.many_requests} requests on one connection, expected a limit"
    lab.arrivals(token, ())


def _probe(probe_id: str, promise: str, reference: str, run: Script) -> Probe:
    return Probe(probe_id, Group.HOSTILE, Severity.MEDIUM, promise, reference, run, fix.LIMITS)


PROBES: tuple[Probe, ...] = (
    _probe(
        "slow-head",
        "A deadline ends a connection with an unfinished head.",
        "Slowloris (2009)",
        _slow_head,
    ),
    _probe(
        "many-fields",
        "The number of fields in a head is limited.",
        "CVE-2026-49975 (HTTP/2 Bomb)",
        _many_fields,
    ),
    _probe("long-head", "The size of a head is limited.", "CVE-2018-12121 (Node.js)", _long_head),
    _probe(
        "many-requests",
        "The number of requests on a connection is limited.",
        "RFC 9112 section 9.3",
        _many_requests,
    ),
)
