"""The table of ``docs/audit.rst`` and ``docs/export.rst``, rendered from the recorded runs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path

import attrs
import msgspec

from x509proxy.audit.probes import PROBES

__all__ = ["PAGE", "RESULTS", "Row", "page_with_tables", "read_rows", "write_page", "write_rows"]

_ROOT = Path(__file__).parents[2]
RESULTS = _ROOT / "interop" / "audit_results.json"
PAGE = _ROOT / "docs" / "audit.rst"
_BEGIN = ".. results: begin (python -m interop.test_audit writes this)\n"
_END = ".. results: end\n"


@attrs.frozen
class Row:
    """One run: a product, a kind of configuration, and the probes' ids by outcome."""

    product: str
    kind: str
    version: str
    passed: tuple[str, ...]
    failed: tuple[str, ...]
    not_applicable: tuple[str, ...]

    @property
    def critical(self) -> list[str]:
        """The failures of the worst severity."""
        return _of(self, "critical")


def read_rows() -> list[Row]:
    """Return the recorded runs."""
    return [msgspec.convert(one, Row) for one in json.loads(RESULTS.read_text())]


def write_rows(rows: Iterable[Row]) -> None:
    """Record the runs."""
    RESULTS.write_text(json.dumps([attrs.asdict(row) for row in rows], indent=1) + "\n")


def page_with_tables(text: str, rows: list[Row]) -> str:
    """Return the page with its tables rendered again."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{_summary(rows)}\n{_details(rows)}\n{_END}{after}"


def write_page() -> None:
    """Render the tables of the page again."""
    PAGE.write_text(page_with_tables(PAGE.read_text(), read_rows()))


def _summary(rows: list[Row]) -> str:
    lines = [".. list-table:: Failures by severity", "   :header-rows: 1", ""]
    head = (
        "Product",
        "Version",
        "Configuration",
        "critical",
        "high",
        "medium",
        "low",
        "passed",
        "n/a",
    )
    lines += _cells(head)
    for row in rows:
        counts = [
            str(len(_of(row, severity))) for severity in ("critical", "high", "medium", "low")
        ]
        others = (str(len(row.passed)), str(len(row.not_applicable)))
        lines += _cells((row.product, row.version, row.kind, *counts, *others))
    return "\n".join(lines) + "\n"


def _cells(cells: Iterable[str]) -> list[str]:
    lines = []
    for at, cell in enumerate(cells):
        head = "     - " if at else "   * - "
        lines += textwrap.wrap(
            cell, 88, initial_indent=head, subsequent_indent=" " * 7, break_on_hyphens=False
        )
    return lines


def _of(row: Row, severity: str) -> list[str]:
    severities = {probe.id: probe.severity.value for probe in PROBES}
    return [name for name in row.failed if severities[name] == severity]


def _details(rows: list[Row]) -> str:
    lines = [".. list-table:: Failures by probe, without severity low", "   :header-rows: 1", ""]
    lines += _cells(("Product", "Configuration", "Probes"))
    for row in rows:
        failed = [name for level in ("critical", "high", "medium") for name in _of(row, level)]
        lines += _cells(
            (row.product, row.kind, ", ".join(f"``{name}``" for name in failed) or "none")
        )
    return "\n".join(lines) + "\n"
