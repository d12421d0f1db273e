"""The exposition of a snapshot for Prometheus, by ``prometheus-client`` (the extra ``metrics``).

Names follow https://prometheus.io/docs/practices/naming/: ``x509proxy_``, the base unit, and
``_total`` for counters. A series with constant labels exists from the start, with the value 0,
since a rate needs a first value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from x509proxy.monitoring.counters import BOUNDS, KEY_EXCHANGES, Counts
from x509proxy.monitoring.reason_codes import LIMITS
from x509proxy.monitoring.snapshot import BackendState, Snapshot, TokenState
from x509proxy.settings import SettingsError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["exposition"]

_STATES = ("up", "slow", "down")
_CONNECTION_LIMITS = (
    "client.max-connections",
    "client.max-connections-per-address",
    "client.handshake-rate-per-address",
)
_NO_LIMITS_EXCEEDED = dict.fromkeys((*_CONNECTION_LIMITS, *LIMITS.values()), 0)


def exposition(snapshot: Snapshot) -> tuple[str, bytes]:
    """Return the content type and the text.

    :raises SettingsError: ``prometheus-client`` is not installed.
    """
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    except ImportError:
        raise SettingsError(
            "metrics: found no prometheus-client, expected it: pip install prometheus-client"
        ) from None
    registry = CollectorRegistry()
    registry.register(_Collector(snapshot))
    return CONTENT_TYPE_LATEST, generate_latest(registry)


class _Collector:
    """A collector for ``prometheus-client``."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Return nothing, since the registry would otherwise collect to find duplicate names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, in the order of ``docs/operations/metrics.rst``."""
        yield from _process(self._snapshot)
        yield from _clients(self._snapshot)
        yield from _exchanges(self._snapshot.counts)
        yield from _backends(self._snapshot.backends)
        yield from _tokens(self._snapshot.tokens)
        yield from _files(self._snapshot)


def _process(snapshot: Snapshot) -> Iterator[Metric]:
    yield _gauge(
        "build_info",
        "Constant 1, with the version as a label.",
        [({"version": snapshot.version}, 1)],
    )
    yield _gauge(
        "start_time_seconds",
        "Start time of the proxy, in seconds since the epoch.",
        [({}, snapshot.started)],
    )
    yield _gauge(
        "ready",
        "1 if the proxy accepts connections and a back end is available, as for /readyz.",
        [({}, snapshot.ready)],
    )
    states = {
        state: sum(worker.state == state for worker in snapshot.workers)
        for state in ("serving", "draining")
    }
    yield _gauge("workers", "Serving processes, by state.", _by("state", states))


def _clients(snapshot: Snapshot) -> Iterator[Metric]:
    counts = snapshot.counts
    yield _gauge("connections", "Open connections of clients.", [({}, snapshot.connections)])
    yield _gauge(
        "connections_limit",
        "Limit of connections of clients (client.max-connections).",
        [({}, snapshot.most_connections)],
    )
    versions = {"TLSv1.2": 0, "TLSv1.3": 0} | counts.handshakes
    yield _counter(
        "tls_handshakes", "Successful TLS handshakes, by TLS version.", _by("version", versions)
    )
    yield _counter(
        "tls_key_exchanges",
        "Successful TLS handshakes, by key exchange group.",
        _by("group", dict.fromkeys(KEY_EXCHANGES, 0) | counts.key_exchanges),
    )
    yield _counter(
        "tls_handshake_failures",
        "Failed TLS handshakes, by reason.",
        _by("reason", counts.handshake_failures),
    )
    yield _counter(
        "limit_exceeded",
        "Connections and requests rejected because a limit was reached, by setting.",
        _by("limit", _NO_LIMITS_EXCEEDED | counts.exceeded_limits()),
    )


def _exchanges(counts: Counts) -> Iterator[Metric]:
    rows = (
        ({"backend": backend, "outcome": outcome, "code": str(status)}, count)
        for backend, outcomes in counts.exchanges.items()
        for outcome, statuses in outcomes.items()
        for status, count in statuses.items()
    )
    yield _counter(
        "requests",
        "Requests, by back end, outcome and status of the response (0: none was sent).",
        rows,
    )
    yield _counter(
        "failed_requests",
        "Requests without a complete response of a back end, by code.",
        _by("reason", counts.refusals),
    )
    yield _counter(
        "client_certificates",
        "Requests, by the verdict of the client's certificate.",
        _by("verdict", counts.verdicts),
    )
    yield _counter(
        "token_checks",
        "Requests with a checked access token, by verdict.",
        _by("verdict", counts.tokens),
    )
    yield _counter(
        "forged_headers",
        "Forged headers that were removed: only the proxy may send fields of their names.",
        [({}, counts.forged)],
    )
    yield _counter(
        "invalid_header_names",
        "Header fields dropped for the characters in their names.",
        [({}, counts.invalid_header_names)],
    )
    yield _counter(
        "log_lines_dropped",
        "Log lines lost because of a full disk or a stopped reader, by log.",
        _by("log", counts.log_lines_dropped),
    )
    yield _counter("request_body_bytes", "Bytes of request bodies.", [({}, counts.bytes_in)])
    yield _counter("response_body_bytes", "Bytes of response bodies.", [({}, counts.bytes_out)])
    yield _durations(counts)


def _durations(counts: Counts) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    added, buckets = 0, []
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), counts.durations, strict=True):
        added += count
        buckets.append((bound, float(added)))
    name = "x509proxy_request_duration_seconds"
    text = "Time from a request's head to the end of a back end's complete response."
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=counts.seconds)


def _backends(backends: Iterable[BackendState]) -> Iterator[Metric]:
    backends = [*backends]
    rows = [
        ({"backend": row.url, "state": state}, row.state == state)
        for row in backends
        for state in _STATES
    ]
    yield _gauge("backend_state", "1 for the current state of the back end.", rows)
    states = ("busy", "idle", "opening")
    rows = [
        ({"backend": row.url, "state": state}, getattr(row, state))
        for row in backends
        for state in states
    ]
    yield _gauge("backend_connections", "Connections to the back end, by state.", rows)
    for name, text in (
        ("connections", "Limit of connections to the back end (upstream.max-connections)."),
        ("queue", "Limit of queued requests (upstream.max-queued-requests)."),
    ):
        yield _gauge(
            f"backend_{name}_limit",
            text,
            [({"backend": row.url}, getattr(row, name)) for row in backends],
        )
    yield _gauge(
        "backend_queued_requests",
        "Requests that wait for a connection to the back end.",
        [({"backend": row.url}, row.waiting) for row in backends],
    )
    text = "Failed connections to the back end, and failed exchanges with it."
    yield _counter(
        "backend_failures", text, [({"backend": row.url}, row.failures) for row in backends]
    )


def _tokens(state: TokenState | None) -> Iterator[Metric]:
    def rows(value: float) -> _Rows:
        return [] if state is None else [({}, value)]

    found = state or TokenState(level="")
    yield _gauge("token_keys", "Keys of the issuer of access tokens.", rows(found.keys))
    yield _gauge(
        "pending_token_checks",
        "Requests that wait for the authorization server.",
        rows(found.pending),
    )
    yield _counter(
        "token_server_failures",
        "Requests to the authorization server that failed.",
        rows(found.failures),
    )
    yield _gauge(
        "token_server_failed",
        "1 if the last request to the authorization server failed.",
        rows(bool(found.error)),
    )


def _files(snapshot: Snapshot) -> Iterator[Metric]:
    ends = [({"use": row.use, "name": row.name}, row.ends) for row in snapshot.certificates]
    yield _gauge(
        "certificate_expiry_time_seconds",
        "End of the validity of a certificate or revocation list, in seconds since the epoch.",
        ends,
    )
    yield _counter(
        "reloads",
        "Reloads of the configuration, by result.",
        _by("result", snapshot.counts.reloads),
    )
    yield _gauge(
        "reload_success_time_seconds",
        "Time at which the current configuration was read, in seconds since the epoch.",
        [({}, snapshot.reload.loaded)],
    )
    failed = bool(snapshot.reload.error)
    yield _gauge(
        "reload_failed",
        "1 if the last reload failed, so that an older configuration is in use.",
        [({}, failed)],
    )


_Rows = Iterable[tuple[dict[str, str], float]]


def _by(label: str, counts: Mapping[str, int]) -> _Rows:
    return [({label: key}, count) for key, count in counts.items()]


def _gauge(name: str, text: str, rows: _Rows) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"x509proxy_{name}", text), rows, f"x509proxy_{name}")


def _counter(name: str, text: str, rows: _Rows) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(f"x509proxy_{name}", text), rows, f"x509proxy_{name}_total")


def _filled(family: Metric, rows: _Rows, name: str) -> Metric:
    for labels, value in rows:
        family.add_sample(name, labels, float(value))
    return family
