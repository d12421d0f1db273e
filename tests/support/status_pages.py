"""The status page of a snapshot, and the cells and marks on it."""

from __future__ import annotations

import re

from x509proxy.monitoring.snapshot import (
    Snapshot,
)
from x509proxy.monitoring.status_page.history import History
from x509proxy.monitoring.status_page.page import status_page

_DAY = 86400.0


NOW = 100 * _DAY


def page(found: Snapshot, history: History | None = None) -> str:
    return status_page(found, history or History()).decode()


def cells(document: str, label: str) -> list[str]:
    """Return the text of a column's cells, by the label that small screens show."""
    found = re.findall(f'<td[^>]* data-label="{re.escape(label)}"[^>]*>(.*?)</td>', document)
    return [re.sub("<[^>]*>", "", cell) for cell in found]


def pills(document: str) -> list[tuple[str, str]]:
    """Return each marked word, with its status class."""
    return [
        (word, mood.strip())
        for mood, word in re.findall(r'<span class="pill([^"]*)">([^<]*)</span>', document)
    ]
