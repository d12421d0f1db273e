"""Snapshots of the counters."""

from __future__ import annotations

from tests.support.exchanges import exchange, refused
from x509proxy.exchange import Outcome, TokenVerdict
from x509proxy.http1.errors import Code
from x509proxy.monitoring.counters import Counters
from x509proxy.monitoring.snapshot import (
    BackendState,
    CertificateState,
    ListenerState,
    ReloadState,
    Snapshot,
    TokenState,
    WorkerState,
)

UP = BackendState(url="http://a", state="up")


DOWN = BackendState(url="http://b", state="down")


LISTENER = ListenerState(endpoint="tcp:8443", asks="optional")


def snapshot(**changes: object) -> Snapshot:
    """Return a snapshot of a ready proxy, with these changes."""
    found: dict[str, object] = {
        "taken": 100.0,
        "version": "1",
        "started": 50.0,
        "listeners": (LISTENER,),
        "backends": (UP,),
    }
    return Snapshot(**{**found, **changes})  # type: ignore[arg-type]


def full_snapshot() -> Snapshot:
    """Return a snapshot in which every family has a series."""
    counters = Counters()
    counters.exchange(exchange(duration=0.004))
    counters.exchange(
        exchange(duration=0.006, forged=2, invalid_header_names=1, token=TokenVerdict.BOUND)
    )
    counters.exchange(refused(status=503, code=Code.QUEUE_FULL))
    counters.exchange(refused(status=0, code=Code.CLIENT_LEFT, outcome=Outcome.ABORTED))
    counters.handshake_succeeded(0x0304, "X25519MLKEM768")
    counters.handshake_failed("no_client_hello")
    counters.limited("client.max-connections")
    counters.reloaded("broken")
    return snapshot(
        taken=1000.0, backends=(UP, DOWN), counts=counters.counts(), connections=7,
        most_connections=4096,
        certificates=(CertificateState(use="certificate", name="localhost", ends=1000.0 + 43200),),
        tokens=TokenState(level="jwt", keys=2, pending=3, failures=4, error="no"),
        reload=ReloadState(loaded=5.0, error="broken"), workers=(WorkerState(pid=1, started=1.0),),
    )  # fmt: skip
