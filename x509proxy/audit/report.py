"""Reports of an audit: a table, JSON, JUnit, SARIF and HTML.

:class:`Redactor` removes a secret header name from a report, in every spelling. The separators stay
visible, since they are the subject of some probes.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

import attrs

from x509proxy.audit.lab import Exchange
from x509proxy.audit.run import Outcome, Result, failures
from x509proxy.redaction import is_random

__all__ = [
    "Redactor",
    "Report",
    "progress_line",
    "summary",
    "to_html",
    "to_json",
    "to_junit",
    "to_sarif",
    "to_table",
]

_LONG = re.compile(r"[A-Za-z0-9+/%=]{60,}")


@attrs.frozen
class Redactor:
    """A function that removes secret names from text and shortens long values."""

    names: tuple[bytes, ...] = attrs.field(repr=False)

    def __call__(self, text: str) -> str:
        for name in self.names:
            if is_random(name.decode("ascii")):
                parts = re.split(r"[^A-Za-z0-9]+", name.decode("ascii"))
                pattern = r"([^A-Za-z0-9]{1,3})".join(map(re.escape, parts))
                text = re.sub(pattern, _covered, text, flags=re.IGNORECASE)
        return _LONG.sub(_shortened, text)

    def wire(self, data: bytes) -> str:
        """Return bytes as printable text, line by line, with long values shortened."""
        shown = data.decode("latin-1").encode("unicode_escape").decode("ascii")
        lines = shown.replace("\\r\\n", "\n").split("\n")
        return "\n".join(map(self, lines)).strip("\n")


def _covered(found: re.Match[str]) -> str:
    return "SECRET" + "".join(f"{separator}…" for separator in found.groups())


def _shortened(found: re.Match[str]) -> str:
    return f"{found[0][:20]}…{found[0][-8:]}"


@attrs.frozen
class Report:
    """The results of an audit, with its target and duration."""

    target: str
    results: tuple[Result, ...]
    redact: Redactor
    version: str = ""
    seconds: float = 0.0


def summary(report: Report) -> str:
    """Return the counts in one sentence."""
    counts = dict.fromkeys(Outcome, 0)
    for result in report.results:
        counts[result.outcome] += 1
    return (
        f"{report.target}: {counts[Outcome.FAILED]} failed, {counts[Outcome.PASSED]} passed, "
        f"{counts[Outcome.NOT_APPLICABLE]} not applicable, in {report.seconds:.1f} s"
    )


def progress_line(done: int, total: int, result: Result) -> str:
    """Return the line that is shown while the audit runs."""
    return f"[{done}/{total}] {result.outcome.value:4} {result.probe.id}"


# For people.


def to_table(report: Report, *, verbose: bool = False) -> str:
    """Return the failures by severity with their details, and every probe in one line."""
    lines = [_row(report, result) for result in sorted(report.results, key=_order)]
    failed = failures(report.results)
    if failed:
        lines += ["", "Failures", "========"]
    if any(result.probe.id == "name-same" for result in failed):
        lines += ["", "name-same failed: fix it first, since most others depend on it."]
    for result in failed:
        lines += ["", *_details(report, result, verbose=verbose)]
    return "\n".join([*lines, "", summary(report)]) + "\n"


def _order(result: Result) -> tuple[int, str]:
    return result.probe.severity.rank, result.probe.group.value


def _row(report: Report, result: Result) -> str:
    probe = result.probe
    text = result.reason or probe.promise
    return (
        f"{result.outcome.value:4}  {probe.severity.value:8}  {probe.id:28} {report.redact(text)}"
    )


def _details(report: Report, result: Result, *, verbose: bool) -> Iterator[str]:
    probe = result.probe
    yield f"{probe.id} ({probe.severity.value}): {probe.promise}"
    yield f"  see: {probe.reference}"
    yield from (f"  {report.redact(fault)}" for fault in result.faults)
    for exchange in result.evidence:
        for title, text in _evidence(report, exchange, limit=0 if verbose else 14):
            yield f"  {title}:"
            yield from (f"    {line}" for line in text.split("\n"))
    for product, remedy in probe.remedies:
        yield f"  {product.value}: {remedy}"


def _evidence(report: Report, exchange: Exchange, limit: int) -> Iterator[tuple[str, str]]:
    yield "sent", _limited(report.redact.wire(exchange.sent), limit)
    for arrival in exchange.arrived:
        raw = arrival.raw or b"(only its response was seen)"
        yield "arrived", _limited(report.redact.wire(raw), limit)
    reply = report.redact.wire(exchange.reply) or exchange.alert or exchange.ending.value
    yield "response", _limited(reply, limit)


def _limited(text: str, limit: int) -> str:
    lines = text.split("\n")
    if not limit or len(lines) <= limit:
        return text
    return "\n".join([*lines[:limit], f"… {len(lines) - limit} more lines (--verbose)"])


# For machines.


def _plain(report: Report, result: Result) -> dict[str, object]:
    probe = result.probe
    return {
        "id": probe.id,
        "group": probe.group.value,
        "severity": probe.severity.value,
        "outcome": result.outcome.name.lower(),
        "promise": probe.promise,
        "reference": probe.reference,
        "faults": [report.redact(fault) for fault in result.faults],
        "reason": result.reason,
        "seconds": round(result.seconds, 3),
        "remedies": {product.value: remedy for product, remedy in probe.remedies},
        "evidence": [dict(_pairs(report, each)) for each in result.evidence],
    }


def _pairs(report: Report, exchange: Exchange) -> Iterator[tuple[str, object]]:
    parts = list(_evidence(report, exchange, limit=0))
    yield "sent", parts[0][1]
    yield "arrived", [text for title, text in parts if title == "arrived"]
    yield "response", parts[-1][1]


def to_json(report: Report) -> str:
    """Return the report as JSON."""
    document = {
        "target": report.target,
        "version": report.version,
        "seconds": round(report.seconds, 1),
        "results": [_plain(report, result) for result in report.results],
    }
    return json.dumps(document, indent=2) + "\n"


def to_junit(report: Report) -> str:
    """Return the report as JUnit XML, a test case for each probe."""
    failed = len(failures(report.results))
    skipped = sum(result.outcome is Outcome.NOT_APPLICABLE for result in report.results)
    head = (
        f'<testsuite name="x509proxy audit" tests="{len(report.results)}" failures="{failed}" '
        f'errors="0" skipped="{skipped}" time="{report.seconds:.3f}">'
    )
    cases = "\n".join(_case(report, result) for result in report.results)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}\n{cases}\n</testsuite>\n'


def _case(report: Report, result: Result) -> str:
    probe = result.probe
    inner = ""
    if result.outcome is Outcome.FAILED:
        text = escape("\n".join(_details(report, result, verbose=True)))
        words = f"message={quoteattr(probe.promise)} type={quoteattr(probe.severity.value)}"
        inner = f"<failure {words}>{text}</failure>"
    elif result.outcome is Outcome.NOT_APPLICABLE:
        inner = f"<skipped message={quoteattr(result.reason)}/>"
    names = f"classname={quoteattr(probe.group.value)} name={quoteattr(probe.id)}"
    return f'  <testcase {names} time="{result.seconds:.3f}">{inner}</testcase>'


_LEVELS = ("error", "error", "warning", "note")


def to_sarif(report: Report) -> str:
    """Return the failures as SARIF 2.1.0, for code scanning."""
    rules = [_rule(result) for result in report.results]
    found = [_finding(report, result) for result in failures(report.results)]
    driver = {"name": "x509proxy audit", "version": report.version, "rules": rules}
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": found}],
    }
    return json.dumps(document, indent=2) + "\n"


def _rule(result: Result) -> dict[str, object]:
    probe = result.probe
    fixes = "\n".join(f"{product.value}: {remedy}" for product, remedy in probe.remedies)
    return {
        "id": probe.id,
        "shortDescription": {"text": probe.promise},
        "help": {"text": f"{probe.reference}\n{fixes}"},
        "defaultConfiguration": {"level": _LEVELS[probe.severity.rank]},
    }


def _finding(report: Report, result: Result) -> dict[str, object]:
    text = "; ".join(report.redact(fault) for fault in result.faults)
    place = {"physicalLocation": {"artifactLocation": {"uri": report.target}}}
    level = _LEVELS[result.probe.severity.rank]
    return {
        "ruleId": result.probe.id,
        "level": level,
        "message": {"text": text},
        "locations": [place],
    }


# For readers.

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;
color:#222;background:#fff}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #ddd;
vertical-align:top}
pre{background:#f5f5f5;padding:.6rem;overflow-x:auto;font-size:13px}
.FAIL{color:#b00020;font-weight:600}.pass{color:#0a7a32}
.na{color:#777}
details{border:1px solid #ddd;
border-radius:4px;padding:.5rem .8rem;margin:.5rem 0}summary{cursor:pointer}
@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}
pre{background:#222}td,th,details{border-color:#444}
.FAIL{color:#ff6b81}.pass{color:#5fd38d}}
"""


def to_html(report: Report) -> str:
    """Return the report as one page of HTML, without scripts and without other files."""
    failed = "\n".join(_html_failure(report, result) for result in failures(report.results))
    rows = "\n".join(_html_row(report, result) for result in sorted(report.results, key=_order))
    title = f"Audit of {html.escape(report.target)}"
    head = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    return (
        f"{head}<title>{title}</title><style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        f"<p>{html.escape(summary(report))}</p>\n<h2>Failures</h2>\n{failed or '<p>None.</p>'}\n"
        "<h2>All probes</h2>\n<table><tr><th>Result</th><th>Severity</th><th>Group</th>"
        f"<th>Probe</th><th>Promise</th></tr>\n{rows}\n</table>\n</body></html>\n"
    )


def _html_row(report: Report, result: Result) -> str:
    probe = result.probe
    cells: Sequence[str] = (
        probe.severity.value,
        probe.group.value,
        probe.id,
        probe.promise + (f" ({report.redact(result.reason)})" if result.reason else ""),
    )
    style = result.outcome.value.replace("/", "")
    columns = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    return f'<tr><td class="{style}">{result.outcome.value}</td>{columns}</tr>'


def _html_failure(report: Report, result: Result) -> str:
    title, *lines = _details(report, result, verbose=True)
    text = html.escape("\n".join(line.removeprefix("  ") for line in lines))
    return (
        f'<details><summary class="FAIL">{html.escape(title)}</summary><pre>{text}</pre></details>'
    )
