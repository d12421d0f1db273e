"""The figures of the status page: six tiles with a graph, and the lists of counters."""

from __future__ import annotations

from collections.abc import Mapping

from x509proxy.http1.errors import Code
from x509proxy.monitoring.counters import Counts
from x509proxy.monitoring.snapshot import Snapshot
from x509proxy.monitoring.status_page.history import History
from x509proxy.monitoring.status_page.html import Markup, graph, join, tag
from x509proxy.monitoring.status_page.units import count, number, rate, seconds, size

__all__ = ["lists", "tiles"]

_MEAN_SAMPLES = 5  # a figure is their mean, since a single sample varies too much


def tiles(snapshot: Snapshot, history: History) -> Markup:
    """Return six figures, each with a graph of the last minutes."""
    counts, recent = snapshot.counts, _Recent(history)
    rejected, total = counts.total("rejected"), counts.total()
    share = f"{number(100 * rejected / total if total else 0)} %"
    p95 = " ".join(seconds(history.quantile(0.95))).rstrip()
    failed = recent.rate("failures")
    sent, unit = size(recent.mean("bytes_out"))
    received = " ".join(size(recent.mean("bytes_in")))
    return tag(
        "div",
        recent.tile("Requests", recent.rate("exchanges"), f"{count(total)} in all", "exchanges"),
        recent.tile(
            "Error responses",
            recent.rate("refused"),
            f"{count(rejected)} in all, {share}",
            "refused",
            alarm=True,
        ),
        recent.tile(
            "Duration, median",
            seconds(history.quantile(0.5)),
            f"95 % within {p95}",
            "milliseconds",
        ),
        recent.tile(
            "Handshakes",
            recent.rate("handshakes"),
            "none failed" if failed[0] == "0" else f"{' '.join(failed)} failed",
            "handshakes",
        ),
        recent.tile(
            "Connections",
            (count(snapshot.connections), ""),
            f"of {count(snapshot.most_connections)}",
            "connections",
        ),
        recent.tile("Bodies sent", (sent, f"{unit}/s"), f"{received}/s received", "bytes_out"),
        class_="tiles",
    )


class _Recent:
    """The samples of a history, with their means and graphs."""

    def __init__(self, history: History) -> None:
        self._samples = [*history.samples]
        self._length = history.samples.maxlen or 1

    def _values(self, field: str) -> list[float]:
        return [getattr(sample, field) for sample in self._samples]

    def mean(self, field: str) -> float:
        latest = self._values(field)[-_MEAN_SAMPLES:]
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
    """Return the counters since the start."""
    counts = snapshot.counts
    without_status = {code.label for code in Code if not code.status}
    errors = {key: n for key, n in counts.refusals.items() if key not in without_status}
    aborted = {key: n for key, n in counts.refusals.items() if key in without_status}
    groups = (
        ("Responses", _status_classes(counts)),
        ("Certificates", counts.verdicts),
        ("Handshakes", {**counts.handshakes, **_in_words(counts.handshake_failures)}),
        ("Error responses", _in_words(errors)),
        ("Aborted requests", _in_words(aborted)),
        ("Limits and forgeries", _limits(counts)),
    )
    inside = [tag("div", tag("h3", name), _list(rows), class_="list") for name, rows in groups]
    title = tag("h2", "Counters", tag("small", "since the start"))
    return tag("section", title, tag("div", *inside, class_="lists"), class_="wide")


def _limits(counts: Counts) -> dict[str, int]:
    dropped = {
        f"dropped lines, {log} log": lines
        for log, lines in counts.log_lines_dropped.items()
        if lines
    }
    return {
        "forged headers": counts.forged,
        "invalid header names": counts.invalid_header_names,
        **counts.exceeded_limits(),
        **dropped,
    }


def _list(rows: Mapping[str, int]) -> Markup:
    pairs = (
        join((tag("dt", name, title=name), tag("dd", count(value)))) for name, value in rows.items()
    )
    return tag("dl", *pairs)


def _status_classes(counts: Counts) -> dict[str, int]:
    """Return the number of responses by the first digit of the status."""
    table = dict.fromkeys(("2xx", "3xx", "4xx", "5xx"), 0)
    for outcomes in counts.exchanges.values():
        for statuses in outcomes.values():
            for status, found in statuses.items():
                name = f"{status // 100}xx" if status else "no response"
                table[name] = table.get(name, 0) + found
    return table


def _in_words(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts with spaces in the labels, the largest first."""
    by_count = sorted(counts, key=lambda name: -counts[name])
    return {name.replace("_", " "): counts[name] for name in by_count}
