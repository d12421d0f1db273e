"""Tests of :mod:`x509proxy.monitoring.prometheus`: names and labels as in handbook and rules."""

from __future__ import annotations

import sys
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from tests.support.exchanges import BACK_END
from tests.support.html import HOSTILE_TEXT
from tests.support.snapshots import DOWN, full_snapshot, snapshot
from x509proxy.monitoring.counters import BOUNDS, Counters
from x509proxy.monitoring.prometheus import exposition
from x509proxy.monitoring.snapshot import (
    CertificateState,
    Snapshot,
)
from x509proxy.settings import SettingsError

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(found: Snapshot) -> Series:
    """Return every series, as Prometheus' own client library reads it.

    A series that is there twice is an error.
    """
    kind, text = exposition(found)
    assert kind.startswith("text/plain"), kind
    series: Series = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in series, key
            series[key] = sample.value
    return series


class Text(SynchronousTestCase):
    def setUp(self) -> None:
        self.series = read(full_snapshot())

    def value(self, name: str, /, **labels: str) -> float:
        return self.series["x509proxy_" + name, tuple(sorted(labels.items()))]

    def test_exchanges(self) -> None:
        """Exchanges by back end, outcome and status; refusals by reason."""
        self.assertEqual(
            2, self.value("requests_total", backend=BACK_END, outcome="completed", code="200")
        )
        self.assertEqual(1, self.value("requests_total", backend="", outcome="aborted", code="0"))
        self.assertEqual(1, self.value("failed_requests_total", reason="queue_full"))
        self.assertEqual(1, self.value("token_checks_total", verdict="BOUND"))
        self.assertEqual(0, self.value("token_checks_total", verdict="REJECTED"))

    def test_tokens(self) -> None:
        """The issuer's keys, and its server; nothing where no tokens are checked."""
        found = [
            self.value(name)
            for name in (
                "token_keys",
                "pending_token_checks",
                "token_server_failures_total",
                "token_server_failed",
            )
        ]
        self.assertEqual([2, 3, 4, 1], found)
        self.assertNotIn(("x509proxy_token_keys", ()), read(snapshot()))

    def test_bytes(self) -> None:
        """Forged and odd fields, and bytes."""
        self.assertEqual(
            (2, 1), (self.value("forged_headers_total"), self.value("invalid_header_names_total"))
        )
        self.assertEqual(
            (116, 240),
            (self.value("request_body_bytes_total"), self.value("response_body_bytes_total")),
        )

    def test_durations(self) -> None:
        """The histogram is cumulative, and has the sum and the count."""
        name = "request_duration_seconds"
        found = [
            self.value(f"{name}_bucket", le=bound) for bound in ("0.0025", "0.005", "0.01", "+Inf")
        ]
        self.assertEqual([0, 1, 2, 2], found)
        self.assertEqual((2, 0.01), (self.value(f"{name}_count"), self.value(f"{name}_sum")))
        self.assertEqual(
            len(BOUNDS) + 1, sum(key[0] == f"x509proxy_{name}_bucket" for key in self.series)
        )

    def test_clients(self) -> None:
        """Connections, handshakes, limits: those of connections and those that refuse a request."""
        self.assertEqual((7, 4096), (self.value("connections"), self.value("connections_limit")))
        self.assertEqual(
            (1, 0),
            (
                self.value("tls_handshakes_total", version="TLSv1.3"),
                self.value("tls_handshakes_total", version="TLSv1.2"),
            ),
        )
        groups = [
            self.value("tls_key_exchanges_total", group=group)
            for group in ("X25519MLKEM768", "x25519")
        ]
        self.assertEqual([1, 0], groups)
        self.assertEqual(1, self.value("tls_handshake_failures_total", reason="no_client_hello"))
        found = [
            self.value("limit_exceeded_total", limit=limit)
            for limit in (
                "client.max-connections",
                "upstream.max-queued-requests",
                "client.max-body-bytes",
            )
        ]
        self.assertEqual([1, 1, 0], found)

    def test_back_ends(self) -> None:
        """The state a back end is in is 1, the others 0."""
        found = [
            self.value("backend_state", backend=DOWN.url, state=state)
            for state in ("up", "slow", "down")
        ]
        self.assertEqual([0, 0, 1], found)

    def test_files(self) -> None:
        """When what was read ends, and how the last reload went."""
        self.assertEqual(
            44200,
            self.value("certificate_expiry_time_seconds", use="certificate", name="localhost"),
        )
        self.assertEqual(
            (1, 1), (self.value("reload_failed"), self.value("reloads_total", result="failure"))
        )
        self.assertEqual(5, self.value("reload_success_time_seconds"))

    def test_process(self) -> None:
        """Version, start, readiness, workers."""
        self.assertEqual(
            (1, 50, 1),
            (
                self.value("build_info", version="1"),
                self.value("start_time_seconds"),
                self.value("ready"),
            ),
        )
        self.assertEqual(
            (1, 0), tuple(self.value("workers", state=state) for state in ("serving", "draining"))
        )

    def test_zeros(self) -> None:
        """A label that is known beforehand is there before it is counted."""
        empty = {name for name, _ in read(snapshot(counts=Counters().counts()))}
        unknown = {
            "requests_total",
            "failed_requests_total",
            "tls_handshake_failures_total",
            "certificate_expiry_time_seconds",
            "token_keys",
            "pending_token_checks",
            "token_server_failures_total",
            "token_server_failed",
        }
        self.assertEqual(
            {f"x509proxy_{name}" for name in unknown}, {name for name, _ in self.series} - empty
        )


class Names(SynchronousTestCase):
    def test_labels(self) -> None:
        """Labels may hold any text of a file or a configuration, and stay unchanged."""
        evil = CertificateState(use="ca[0]", name=f'{HOSTILE_TEXT}\n\\"', ends=0.0)
        series = read(snapshot(certificates=(evil,)))
        self.assertIn(
            ("x509proxy_certificate_expiry_time_seconds", (("name", evil.name), ("use", "ca[0]"))),
            series,
        )

    def test_conventions(self) -> None:
        """Counters end in ``_total``, everything in our name, and has a help text."""
        _, text = exposition(full_snapshot())
        for family in text_string_to_metric_families(text.decode()):
            self.assertTrue(
                family.name.startswith("x509proxy_") and family.documentation.endswith("."), family
            )
            if family.type == "counter":
                self.assertEqual(
                    {f"{family.name}_total"}, {sample.name for sample in family.samples}
                )

    def test_not_installed(self) -> None:
        """Without prometheus-client there is one sentence with the command that installs it."""
        modules: Any = sys.modules
        self.addCleanup(modules.update, {"prometheus_client": modules["prometheus_client"]})
        modules["prometheus_client"] = None
        error = self.assertRaises(SettingsError, exposition, snapshot())
        self.assertIn("pip install prometheus-client", str(error))
