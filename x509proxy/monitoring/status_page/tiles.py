"""The status page's figures: six with a graph, at its head, and the counters at its foot."""

from __future__ import annotations

from collections.abc import Mapping

from x509proxy.http1.errors import Code
from x509proxy.monitoring.counters import Counts
from x509proxy.monitoring.snapshot import Snapshot
from x509proxy.monitoring.status_page.history import History
from x509proxy.monitoring.status_page.html import Markup, graph, join, tag
from x509proxy.monitoring.status_page.units import count, number, rate, seconds, size

__all__ = ["lists", "tiles"]

_RECENT = 5  # samples, of which a figure is the mean: one alone would flicker


def tiles(snapshot: Snapshot, history: History) -> Markup:
    """Six figures, each with the last minutes."""
    counts, last = snapshot.counts, _Recent(history)
    refused, total = counts.total("rejected"), counts.total()
    requests, handshake_succeeded, failed = (
        last.rate(name) for name in ("exchanges", "handshakes", "failures")
    )
    (sent, unit), received = size(last.mean("bytes_out")), " ".join(size(last.mean("bytes_in")))
    p50, p95 = seconds(history.quantile(0.5)), " ".join(seconds(history.quantile(0.95))).rstrip()
    connections, most = count(snapshot.connections), count(snapshot.most_connections)
    of_all = f"{number(100 * refused / total if total else 0)} %"
    drawn = (
        last.tile("Requests", requests, f"{count(total)} in all", "exchanges"),
        last.tile(
            "Error responses",
            last.rate("refused"),
            f"{count(refused)} in all, {of_all}",
            "refused",
            alarm=True,
        ),
        last.tile("Duration, median", p50, f"95 % within {p95}", "milliseconds"),
        last.tile(
            "Handshakes",
            handshake_succeeded,
            "none failed" if failed[0] == "0" else f"{' '.join(failed)} failed",
            "handshakes",
        ),
        last.tile("Connections", (connections, ""), f"of {most}", "connections"),
        last.tile("Bodies sent", (sent, f"{unit}/s"), f"{received}/s received", "bytes_out"),
    )
    return tag("div", *drawn, class_="tiles")


class _Recent:
    """The samples, and what is made of them."""

    def __init__(self, history: History) -> None:
        self._samples = [*history.samples]
        self._length = history.samples.maxlen or 1

    def _values(self, field: str) -> list[float]:
        return [getattr(sample, field) for sample in self._samples]

    def mean(self, field: str) -> float:
        latest = self._values(field)[-_RECENT:]
        return sum(latest) / len(latest) if latest else 0.0

    def rate(self, field: str) -> tuple[str, str]:
        return rate(self.mean(field))

    def tile(
        self, name: str, figure: tuple[str, str], note: str, field: str, *, alarm: bool = False
    ) -> Markup:
        values = self._values(field)
        value = tag("div", figure[0], tag("small", figure[1]), class_="value")
        drawn = graph(values, self._length, f"{name}, the last minutes")
        mood = "tile alarm" if alarm and any(values) else "tile"
        return tag(
            "div", tag("h2", name), value, tag("div", note, class_="note"), drawn, class_=mood
        )


def lists(snapshot: Snapshot) -> Markup:
    """What has been counted since the start."""
    counts = snapshot.counts
    groups = (
        ("Answers", _classes(counts)),
        ("Certificates", counts.verdicts),
        ("Handshakes", {**counts.handshakes, **_worded(counts.handshake_failures)}),
        ("Error responses", _worded(_refusals(counts, answered=True))),
        ("Not answered", _worded(_refusals(counts, answered=False))),
        (
            "Limits and forgeries",
            {
                "forged headers": counts.forged,
                "odd header names": counts.invalid_header_names,
                **counts.limits_met(),
                **{
                    f"dropped lines, {log} log": lines
                    for log, lines in counts.log_lines_dropped.items()
                    if lines
                },
            },
        ),
    )
    inside = [tag("div", tag("h3", name), _list(rows), class_="list") for name, rows in groups]
    title = tag("h2", "Counters", tag("small", "since the start"))
    return tag("section", title, tag("div", *inside, class_="lists"), class_="wide")


def _refusals(counts: Counts, *, answered: bool) -> dict[str, int]:
    """Return the codes that clients were answered with, or those of exchanges that were cut short."""
    cut = {code.label for code in Code if not code.status}
    return {
        label: found for label, found in counts.refusals.items() if (label in cut) is not answered
    }


def _list(rows: Mapping[str, int]) -> Markup:
    pairs = (
        join((tag("dt", name, title=name), tag("dd", count(value)))) for name, value in rows.items()
    )
    return tag("dl", *pairs)


def _classes(counts: Counts) -> dict[str, int]:
    """By the first digit, whoever answered; those that nobody answered apart."""
    table = dict.fromkeys(("2xx", "3xx", "4xx", "5xx"), 0)
    for outcomes in counts.exchanges.values():
        for statuses in outcomes.values():
            for status, number_ in statuses.items():
                name = f"{status // 100}xx" if status else "no answer"
                table[name] = table.get(name, 0) + number_
    return table


def _worded(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent first, in words."""
    return {
        name.replace("_", " "): counts[name]
        for name in sorted(counts, key=lambda name: -counts[name])
    }
