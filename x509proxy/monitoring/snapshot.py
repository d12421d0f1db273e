"""Everything that there is to see of a running proxy at one moment, as a frozen value that can be sent, added, and shown.

Texts of a client's choosing (subjects, targets) are cut and free of secret names here, once, and escaped where they are shown
(:mod:`x509proxy.monitoring.status_page.html`). Times are seconds since the epoch, 0 for never; sizes are bytes.
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

_LONGEST = 160


class SnapshotPart(msgspec.Struct, frozen=True, kw_only=True):
    """The base: frozen and named."""


class ListenerState(SnapshotPart, frozen=True):
    """One place to listen at. ``asks``: ``optional``, ``required`` or ``none``; ``proxy_protocol``: whether it is expected."""

    endpoint: str
    asks: str
    proxy_protocol: bool = False


class BackendState(SnapshotPart, frozen=True):
    """One back end. ``state``: ``up``, ``slow`` (it has come back, and its share grows) or ``down``, ``since`` when.

    ``due``: it is down, and nobody but the next request finds out whether it still is. ``busy``, ``idle``, ``opening``:
    connections; ``waiting``: requests in the queue; ``connections``, ``queue``: how many there may be. ``failures``: connections
    that could not be had, and exchanges that failed; ``reason``: the last one's, ``failed``: its time; ``checked``: when it was
    last asked how it is.
    """

    url: str
    state: str = "up"
    since: float = 0.0
    due: bool = False
    reason: str = ""
    busy: int = 0
    idle: int = 0
    opening: int = 0
    waiting: int = 0
    connections: int = 0
    queue: int = 0
    failures: int = 0
    checked: float = 0.0
    failed: float = 0.0


class CertificateState(SnapshotPart, frozen=True):
    """A certificate or list that the proxy has read, and when it ends. ``use``: the key that names its file."""

    use: str
    name: str
    ends: float
    begins: float = 0.0
    thumbprint: str = ""


class RefusalState(SnapshotPart, frozen=True):
    """A request that the proxy answered itself."""

    at: float
    status: int
    code: str
    detail: str
    method: str
    target: str
    peer: str
    thumbprint: str = ""
    subject: str = ""


class ClientState(SnapshotPart, frozen=True):
    """A client's certificate that was shown: the client's own words, unless the verdict is ``TRUSTED``."""

    thumbprint: str
    subject: str
    verdict: str
    key: str
    ends: float
    last: float
    requests: int


class ReloadState(SnapshotPart, frozen=True):
    """The times of the last successful and the last failed reload, and their sentences.

    ``error``: the reason why the last one failed, empty after a success; ``note``: a sentence about
    files that it could not read again, so that they need a restart if they have changed.
    """

    loaded: float = 0.0
    failed: float = 0.0
    error: str = ""
    note: str = ""


class TokenState(SnapshotPart, frozen=True):
    """The check of access tokens. ``keys``: of the issuer, ``fetched`` when; ``failures``: of the issuer's server.

    ``error``: the last one's, empty after a response that was good. ``pending``: requests that wait
    for that server.
    """

    level: str
    issuer: str = ""
    keys: int = 0
    fetched: float = 0.0
    failures: int = 0
    error: str = ""
    pending: int = 0


class WorkerState(SnapshotPart, frozen=True):
    """One process that serves. ``state``: ``serving`` or ``draining``."""

    pid: int
    started: float
    state: str = "serving"
    connections: int = 0
    exchanges: int = 0


class Snapshot(SnapshotPart, frozen=True):
    """One proxy at one moment. ``host``: the machine's name; ``connections``: of clients; ``most_connections``: how many there may be."""

    taken: float
    version: str
    started: float
    draining: bool = False
    listeners: tuple[ListenerState, ...] = ()
    backends: tuple[BackendState, ...] = ()
    connections: int = 0
    most_connections: int = 0
    certificates: tuple[CertificateState, ...] = ()
    refusals: tuple[RefusalState, ...] = ()
    clients: tuple[ClientState, ...] = ()
    reload: ReloadState = ReloadState()
    workers: tuple[WorkerState, ...] = ()
    tokens: TokenState | None = None
    counts: Counts = Counts()
    host: str = ""

    @property
    def ready(self) -> bool:
        """Whether it should be sent requests: it accepts connections, and a back end can be asked, or has to be, to be known."""
        can_be_asked = any(backend.state != "down" or backend.due for backend in self.backends)
        return not self.draining and bool(self.listeners) and can_be_asked


class SnapshotSource(Protocol):
    """Whoever has the parts: a process that serves, or the one that others report to."""

    def snapshot(self) -> Snapshot: ...


def refusals_of(counters: Counters, hide: Callable[[str], str] = str) -> tuple[RefusalState, ...]:
    """The latest refusals, newest first. ``hide``: takes secret names out of a text (:func:`x509proxy.forwarding.header_rules.redact`)."""
    return tuple(_refusal(exchange, hide) for exchange in reversed(counters.refused))


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
    """The certificates that came last, newest first."""
    return tuple(
        _client(seen, hide) for seen in sorted(counters.seen.values(), key=lambda seen: -seen.last)
    )


def _client(seen: CertificateUsage, hide: Callable[[str], str]) -> ClientState:
    certificate = seen.certificate
    return ClientState(
        thumbprint=certificate.thumbprint,
        subject=_plain(certificate.subject, hide),
        verdict=seen.verdict,
        key=certificate.key,
        ends=certificate.not_after,
        last=seen.last,
        requests=seen.requests,
    )


def _plain(text: str, hide: Callable[[str], str]) -> str:
    """Printable ASCII, of bounded length, without secrets: names are looked for in the whole text, before it is cut."""
    escaped = text.encode("ascii", "backslashreplace").decode("ascii")
    visible = hide(
        "".join(mark if mark.isprintable() else f"\\x{ord(mark):02x}" for mark in escaped)
    )
    return visible if len(visible) <= _LONGEST else visible[: _LONGEST - 3] + "..."
