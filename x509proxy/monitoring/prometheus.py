"""A snapshot as Prometheus reads it, written by ``prometheus-client`` (the extra ``metrics``).

Names follow https://prometheus.io/docs/practices/naming/: ``x509proxy_``, the base unit, ``_total`` for what only grows. A
series whose labels are known beforehand is written from the start, with 0: a rate can only be taken of what is there.
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
_OF_CONNECTIONS = (
    "client.max-connections",
    "client.max-connections-per-address",
    "client.handshake-rate-per-address",
)
_NONE_MET = dict.fromkeys((*_OF_CONNECTIONS, *LIMITS.values()), 0)


def exposition(snapshot: Snapshot) -> tuple[str, bytes]:
    """The content type, and the text.

    :raises SettingsError: ``prometheus-client`` is not installed.
    """
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    except ImportError:
        raise SettingsError(
            "metrics: found no prometheus-client, expected it: pip install 'x509proxy[metrics]'"
        ) from None
    registry = CollectorRegistry()
    registry.register(_Collector(snapshot))
    return CONTENT_TYPE_LATEST, generate_latest(registry)


class _Collector:
    """What ``prometheus-client`` asks."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise collect, to look for names that are there twice."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Each family of series, in the order of the handbook's page."""
        yield from _process(self._snapshot)
        yield from _clients(self._snapshot)
        yield from _exchanges(self._snapshot.counts)
        yield from _backends(self._snapshot.backends)
        yield from _tokens(self._snapshot.tokens)
        yield from _files(self._snapshot)


def _process(snapshot: Snapshot) -> Iterator[Metric]:
    yield _gauge(
        "build_info", "Always 1; the version is in the label.", [({"version": snapshot.version}, 1)]
    )
    yield _gauge(
        "start_time_seconds",
        "When the proxy was started, since the epoch.",
        [({}, snapshot.started)],
    )
    yield _gauge(
        "ready",
        "Whether it accepts connections and a back end can be asked, as /readyz says.",
        [({}, snapshot.ready)],
    )
    states = {
        state: sum(worker.state == state for worker in snapshot.workers)
        for state in ("serving", "draining")
    }
    yield _gauge("workers", "Processes that serve, by state.", _by("state", states))


def _clients(snapshot: Snapshot) -> Iterator[Metric]:
    counts = snapshot.counts
    yield _gauge("connections", "Open connections of clients.", [({}, snapshot.connections)])
    yield _gauge(
        "connections_limit",
        "How many of them there may be (client.max-connections).",
        [({}, snapshot.most_connections)],
    )
    versions = {"TLSv1.2": 0, "TLSv1.3": 0} | counts.handshakes
    yield _counter(
        "tls_handshakes", "Handshakes that went well, by TLS version.", _by("version", versions)
    )
    yield _counter(
        "tls_key_exchanges",
        "Successful TLS handshakes, by key exchange group.",
        _by("group", dict.fromkeys(KEY_EXCHANGES, 0) | counts.key_exchanges),
    )
    yield _counter(
        "tls_handshake_failures",
        "Handshakes that did not, by reason.",
        _by("reason", counts.handshake_failures),
    )
    met = _NONE_MET | counts.limits_met()
    yield _counter(
        "limit_exceeded",
        "How often a limit was met, by the setting that has it.",
        _by("limit", met),
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
        "Requests, by back end, outcome and the status of the answer (0: none was sent).",
        rows,
    )
    yield _counter(
        "failed_requests",
        "Requests that no back end answered, or not whole, by reason.",
        _by("reason", counts.refusals),
    )
    yield _counter(
        "client_certificates",
        "Requests, by what was said of the client's certificate.",
        _by("verdict", counts.verdicts),
    )
    yield _counter(
        "token_checks",
        "Requests whose access token was checked, by verdict.",
        _by("verdict", counts.tokens),
    )
    yield _counter(
        "forged_headers", "Header fields removed that pretended to be ours.", [({}, counts.forged)]
    )
    yield _counter(
        "invalid_header_names",
        "Header fields dropped for the characters in their names.",
        [({}, counts.invalid_header_names)],
    )
    yield _counter(
        "log_lines_dropped",
        "Lines that were not written: a full disk, or a reader that has stopped.",
        _by("log", counts.log_lines_dropped),
    )
    yield _counter("request_body_bytes", "Bytes of the requests' bodies.", [({}, counts.bytes_in)])
    yield _counter("response_body_bytes", "Bytes of the answers' bodies.", [({}, counts.bytes_out)])
    yield _durations(counts)


def _durations(counts: Counts) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    added, buckets = 0, []
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), counts.durations, strict=True):
        added += count
        buckets.append((bound, float(added)))
    name, text = (
        "x509proxy_request_duration_seconds",
        "From a request's head to its answer's end, where a back end answered.",
    )
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=counts.seconds)


def _backends(backends: Iterable[BackendState]) -> Iterator[Metric]:
    backends = [*backends]
    rows = [
        ({"backend": row.url, "state": state}, row.state == state)
        for row in backends
        for state in _STATES
    ]
    yield _gauge("backend_state", "1 for the state that the back end is in.", rows)
    states = ("busy", "idle", "opening")
    rows = [
        ({"backend": row.url, "state": state}, getattr(row, state))
        for row in backends
        for state in states
    ]
    yield _gauge("backend_connections", "Connections to the back end, by state.", rows)
    for name, text in (
        (
            "connections",
            "How many connections to the back end there may be (upstream.max-connections).",
        ),
        ("queue", "How many requests may wait for a connection (upstream.max-queued-requests)."),
    ):
        yield _gauge(
            f"backend_{name}_limit",
            text,
            [({"backend": row.url}, getattr(row, name)) for row in backends],
        )
    yield _gauge(
        "backend_queued_requests",
        "Requests that wait for one.",
        [({"backend": row.url}, row.waiting) for row in backends],
    )
    text = "Connections to the back end that could not be had, and exchanges with it that failed."
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
        "Whether the last request to the authorization server failed.",
        rows(bool(found.error)),
    )


def _files(snapshot: Snapshot) -> Iterator[Metric]:
    ends = [({"use": row.use, "name": row.name}, row.ends) for row in snapshot.certificates]
    yield _gauge(
        "certificate_expiry_time_seconds",
        "When a certificate or revocation list ends, since the epoch.",
        ends,
    )
    yield _counter(
        "reloads",
        "Reloads of the configuration, by result.",
        _by("result", snapshot.counts.reloads),
    )
    yield _gauge(
        "reload_success_time_seconds",
        "When what serves was read, since the epoch.",
        [({}, snapshot.reload.loaded)],
    )
    failed = bool(snapshot.reload.error)
    yield _gauge(
        "reload_failed",
        "Whether the last reload failed, so that an older configuration serves.",
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
