"""The builder of snapshots from the counters, pools and settings of a process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Protocol

from x509proxy.config.loader import Configuration
from x509proxy.forwarding.header_rules import redact
from x509proxy.monitoring.backend_status import PoolStatus
from x509proxy.monitoring.certificate_expiry import certificate_states
from x509proxy.monitoring.counters import Counters
from x509proxy.monitoring.snapshot import (
    BackendState,
    ListenerState,
    ReloadState,
    Snapshot,
    TokenState,
    WorkerState,
    clients_of,
    refusals_of,
)
from x509proxy.redaction import without_secrets
from x509proxy.settings import ClientSettings, ListenerSettings, UpstreamSettings

__all__ = ["SnapshotBuilder", "installed_version"]


def installed_version() -> str:
    """Return the version of the installed package, or ``unknown`` if it is not installed."""
    try:
        return version_of("x509proxy")
    except PackageNotFoundError:
        return "unknown"


class _Pool(Protocol):
    """A :class:`x509proxy.upstream.pool.Pool`."""

    settings: UpstreamSettings

    def status(self) -> PoolStatus: ...


class _Factory(Protocol):
    """A :class:`x509proxy.downstream.factory.ProxyFactory`."""

    settings: ClientSettings
    draining: bool

    @property
    def connections(self) -> int: ...


class SnapshotBuilder:
    """A source of snapshots of this process.

    ``configuration``, ``pools`` and ``tokens`` return the current values. ``factory`` is that of
    clients' connections. The parent of workers has no pools and no factory.
    """

    def __init__(
        self,
        counters: Counters,
        configuration: Callable[[], Configuration],
        pools: Callable[[], Sequence[_Pool]] = tuple,
        factory: _Factory | None = None,
        now: Callable[[], float] = time.time,
        tokens: Callable[[], TokenState | None] = lambda: None,
    ) -> None:
        self._counters = counters
        self._configuration = configuration
        self._pools = pools
        self._factory = factory
        self._now = now
        self._tokens = tokens
        self._version = installed_version()
        self._host = without_secrets(socket.gethostname())
        self._started = now()

    def snapshot(self) -> Snapshot:
        """Return the current state."""
        configuration, now = self._configuration(), self._now()
        counters, factory = self._counters, self._factory
        counts = counters.counts()
        draining, connections = (factory.draining, factory.connections) if factory else (False, 0)
        worker = WorkerState(
            pid=os.getpid(),
            started=self._started,
            state="draining" if draining else "serving",
            connections=connections,
            exchanges=counts.total(),
        )

        def hide(text: str) -> str:
            return redact(text, configuration.rules)

        return Snapshot(
            taken=now,
            version=self._version,
            host=self._host,
            started=self._started,
            draining=draining,
            listeners=tuple(
                _listener(settings, configuration)
                for settings in configuration.settings.all_listeners
            ),
            backends=tuple(_backend(pool) for pool in self._pools()),
            connections=connections,
            most_connections=factory.settings.max_connections if factory else 0,
            certificates=certificate_states(configuration),
            refusals=refusals_of(counters, hide),
            clients=clients_of(counters, hide),
            reload=ReloadState(
                loaded=counters.loaded_at,
                failed=counters.reload_failed_at,
                error=counters.reload_error,
                note=counters.reload_note,
            ),
            workers=(worker,) if factory else (),
            tokens=self._tokens(),
            counts=counts,
        )


def _listener(settings: ListenerSettings, configuration: Configuration) -> ListenerState:
    client_auth = settings.client_certificate or configuration.settings.client_certificate
    return ListenerState(
        endpoint=without_secrets(settings.endpoint),
        asks=client_auth.value,
        proxy_protocol=settings.is_proxied,
    )


def _backend(pool: _Pool) -> BackendState:
    status = pool.status()
    return BackendState(
        url=without_secrets(status.name),
        state=status.state.value,
        since=status.since,
        due=status.due,
        reason=without_secrets(status.last_error),
        busy=status.busy,
        idle=status.idle,
        opening=status.opening,
        waiting=status.waiting,
        connections=pool.settings.max_connections,
        queue=pool.settings.max_queued_requests,
        failures=status.failures,
        checked=status.last_check or 0.0,
        failed=status.last_failure or 0.0,
    )
