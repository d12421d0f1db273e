"""The visible state of a running proxy at one moment, as a frozen value that workers can send.

Texts that clients choose (subjects, targets) are truncated and redacted here, and escaped by
:mod:`x509proxy.monitoring.status_page.html`. Times are in seconds since the epoch, 0 for never.
Sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from x509proxy.exchange import Exchange
from x509proxy.monitoring.counters import CertificateUsage, Counters, Counts

__all__ = [
    "BackendState",
    "CertificateState",
    "ClientState",
    "ListenerState",
    "RefusalState",
    "ReloadState",
    "Snapshot",
    "SnapshotSource",
    "TokenState",
    "WorkerState",
    "clients_of",
    "refusals_of",
]

_MAX_CHARS = 160


class SnapshotPart(msgspec.Struct, frozen=True, kw_only=True):
    """Base class: frozen, with named fields."""


class ListenerState(SnapshotPart, frozen=True):
    """A listener."""

    endpoint: str
    asks: str
    """Its ``client-certificate``: ``optional``, ``required`` or ``none``."""
    proxy_protocol: bool = False
    """True if connections must begin with a PROXY header."""


class BackendState(SnapshotPart, frozen=True):
    """A back end."""

    url: str
    state: str = "up"
    """``up``, ``slow`` (recovered, and its share of requests grows) or ``down``."""
    since: float = 0.0
    """Time of the last change of ``state``."""
    due: bool = False
    """True if it is down and the next request will try it."""
    reason: str = ""
    """Reason for the last failure."""
    busy: int = 0
    """Number of connections with a request."""
    idle: int = 0
    opening: int = 0
    waiting: int = 0
    """Number of queued requests."""
    connections: int = 0
    """Limit of connections."""
    queue: int = 0
    """Limit of queued requests."""
    failures: int = 0
    """Number of failed connections and exchanges."""
    checked: float = 0.0
    """Time of the last health check."""
    failed: float = 0.0
    """Time of the last failure."""


class CertificateState(SnapshotPart, frozen=True):
    """A certificate or revocation list of the configuration."""

    use: str
    """The key that names its file, with an index where there are several."""
    name: str
    ends: float
    """End of its validity."""
    begins: float = 0.0
    """Begin of its validity."""
    thumbprint: str = ""


class RefusalState(SnapshotPart, frozen=True):
    """A request to which the proxy sent an error response."""

    at: float
    """Time of the response."""
    status: int
    code: str
    detail: str
    method: str
    target: str
    peer: str
    thumbprint: str = ""
    subject: str = ""


class ClientState(SnapshotPart, frozen=True):
    """A client certificate. Its contents are unverified unless the verdict is ``TRUSTED``."""

    thumbprint: str
    subject: str
    verdict: str
    key: str
    """Type of the key, such as ``EC P-256``."""
    ends: float
    """End of its validity."""
    last: float
    """Time of the last request."""
    requests: int


class ReloadState(SnapshotPart, frozen=True):
    """The result of the last reload."""

    loaded: float = 0.0
    """Time at which the current configuration was read."""
    failed: float = 0.0
    """Time of the last failed reload."""
    error: str = ""
    """Reason for its failure. Empty if the last reload succeeded."""
    note: str = ""
    """Sentence about files that it could not read again. They need a restart if they changed."""


class TokenState(SnapshotPart, frozen=True):
    """The state of the check of access tokens."""

    level: str
    issuer: str = ""
    keys: int = 0
    """Number of the issuer's keys."""
    fetched: float = 0.0
    """Time at which the keys were downloaded."""
    failures: int = 0
    """Number of failed requests to the issuer's server."""
    error: str = ""
    """Reason for the last failure. Empty after a good response."""
    pending: int = 0
    """Number of requests that wait for the issuer's server."""


class WorkerState(SnapshotPart, frozen=True):
    """A serving process."""

    pid: int
    started: float
    state: str = "serving"
    """``serving`` or ``draining``."""
    connections: int = 0
    exchanges: int = 0


class Snapshot(SnapshotPart, frozen=True):
    """A proxy at one moment."""

    taken: float
    """Time of the snapshot."""
    version: str
    started: float
    draining: bool = False
    listeners: tuple[ListenerState, ...] = ()
    backends: tuple[BackendState, ...] = ()
    connections: int = 0
    """Number of connections of clients."""
    most_connections: int = 0
    """Limit of connections of clients."""
    certificates: tuple[CertificateState, ...] = ()
    refusals: tuple[RefusalState, ...] = ()
    clients: tuple[ClientState, ...] = ()
    reload: ReloadState = ReloadState()
    workers: tuple[WorkerState, ...] = ()
    tokens: TokenState | None = None
    counts: Counts = Counts()
    host: str = ""
    """Name of the machine."""

    @property
    def ready(self) -> bool:
        """Return True if a balancer should send requests to this proxy.

        It must accept connections, and a back end must be up or due for a trial request.
        """
        has_backend = any(backend.state != "down" or backend.due for backend in self.backends)
        return not self.draining and bool(self.listeners) and has_backend


class SnapshotSource(Protocol):
    """A source of snapshots: a serving process, or the parent of workers."""

    def snapshot(self) -> Snapshot: ...


def refusals_of(counters: Counters, hide: Callable[[str], str] = str) -> tuple[RefusalState, ...]:
    """Return the latest error responses, newest first.

    ``hide`` redacts secret names (:func:`x509proxy.forwarding.header_rules.redact`).
    """
    return tuple(_refusal(exchange, hide) for exchange in reversed(counters.rejected))


def _refusal(exchange: Exchange, hide: Callable[[str], str]) -> RefusalState:
    certificate = exchange.certificate
    return RefusalState(
        at=exchange.started + exchange.duration,
        status=exchange.status,
        code=exchange.code.label if exchange.code else "",
        detail=_plain(exchange.detail, hide),
        method=_plain(exchange.method, hide),
        target=_plain(exchange.target, hide),
        peer=exchange.peer,
        thumbprint=certificate.thumbprint if certificate else "",
        subject=_plain(certificate.subject, hide) if certificate else "",
    )


def clients_of(counters: Counters, hide: Callable[[str], str] = str) -> tuple[ClientState, ...]:
    """Return the latest client certificates, newest first."""
    newest_first = sorted(counters.certificates.values(), key=lambda usage: -usage.last)
    return tuple(_client(usage, hide) for usage in newest_first)


def _client(usage: CertificateUsage, hide: Callable[[str], str]) -> ClientState:
    certificate = usage.certificate
    return ClientState(
        thumbprint=certificate.thumbprint,
        subject=_plain(certificate.subject, hide),
        verdict=usage.verdict,
        key=certificate.key,
        ends=certificate.not_after,
        last=usage.last,
        requests=usage.requests,
    )


def _plain(text: str, hide: Callable[[str], str]) -> str:
    """Return printable ASCII of limited length, redacted before it is truncated."""
    escaped = text.encode("ascii", "backslashreplace").decode("ascii")
    visible = hide(
        "".join(mark if mark.isprintable() else f"\\x{ord(mark):02x}" for mark in escaped)
    )
    return visible if len(visible) <= _MAX_CHARS else visible[: _MAX_CHARS - 3] + "..."
