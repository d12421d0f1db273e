"""The status page as a single document, from a snapshot and the history of the last minutes.

The server renders everything, with the graphs, so that the page is complete without a script. The
script ``status.js`` only replaces it by newly rendered HTML.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from importlib.resources import files

import msgspec

from x509proxy.monitoring.snapshot import Snapshot
from x509proxy.monitoring.status_page.history import History
from x509proxy.monitoring.status_page.html import Markup, join, tag
from x509proxy.monitoring.status_page.tables import tables
from x509proxy.monitoring.status_page.tiles import lists, tiles
from x509proxy.monitoring.status_page.units import span, time_of_day

__all__ = ["CONTENT_SECURITY_POLICY", "status_json", "status_page"]


def _asset(name: str) -> str:
    return files("x509proxy.monitoring.status_page").joinpath(name).read_text("utf-8")


_STYLE, _SCRIPT = _asset("status.css"), _asset("status.js")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash(_STYLE)}",
        f"script-src {_hash(_SCRIPT)}",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Only this style and this script, by their hashes: injected HTML could not run a script."""


def status_json(snapshot: Snapshot, history: History) -> bytes:
    """Return the page's content as JSON. ``docs/operations/status-page.rst`` has the fields."""
    ready = {"ready": snapshot.ready, "p50": history.quantile(0.5), "p95": history.quantile(0.95)}
    return msgspec.json.encode(
        {**msgspec.structs.asdict(snapshot), **ready, "history": [*history.samples]}
    )


def status_page(snapshot: Snapshot, history: History) -> bytes:
    """Return the HTML document in UTF-8."""
    head = join(
        (
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("title", _title(snapshot)),
            tag("noscript", tag("meta", http_equiv="refresh", content="5")),
            tag("style", Markup(_STYLE)),
        )
    )
    body = join(
        (tag("main", *_sections(snapshot, history)), _footer(), tag("script", Markup(_SCRIPT)))
    )
    return f"<!DOCTYPE html>{tag('html', tag('head', head), tag('body', body), lang='en')}".encode()


def _sections(snapshot: Snapshot, history: History) -> Iterator[Markup]:
    yield _header(snapshot)
    if snapshot.reload.error:
        at = time_of_day(snapshot.reload.failed)
        yield tag(
            "p",
            f"The reload at {at} failed; the old configuration stays in use. "
            f"{snapshot.reload.error}",
            class_="notice",
        )
    elif snapshot.reload.note:
        yield tag("p", f"Last reload: {snapshot.reload.note}", class_="notice")
    yield tiles(snapshot, history)
    yield from tables(snapshot)
    yield lists(snapshot)


def _title(snapshot: Snapshot) -> str:
    """Return the title, with the host's name to distinguish the pages of several proxies."""
    return f"{snapshot.host} – x509proxy" if snapshot.host else "x509proxy"


def _header(snapshot: Snapshot) -> Markup:
    facts = (
        ("host", snapshot.host or "–"),
        ("version", snapshot.version),
        ("up for", span(snapshot.taken - snapshot.started)),
        ("loaded", f"{span(snapshot.taken - snapshot.reload.loaded)} ago"),
        ("as of", f"{time_of_day(snapshot.taken)} UTC"),
    )
    about = tag(
        "div", *(tag("span", f"{name} ", tag("b", value)) for name, value in facts), class_="about"
    )
    return tag("header", tag("h1", "x509proxy"), _state(snapshot), about)


def _state(snapshot: Snapshot) -> Markup:
    """Return the state that ``/readyz`` reports, with more detail."""
    if not snapshot.ready:
        word, mood = ("draining", "warn") if snapshot.draining else ("no back end is up", "bad")
    elif down := sum(backend.state == "down" for backend in snapshot.backends):
        word, mood = f"serving, {down} back end{'s' * (down > 1)} down", "warn"
    else:
        word, mood = "serving", "good"
    return tag("span", word, class_=f"pill {mood}")


def _footer() -> Markup:
    paths = (
        ("JSON", "/status.json"),
        ("Prometheus", "/metrics"),
        ("healthz", "/healthz"),
        ("readyz", "/readyz"),
    )
    links = [tag("a", name, href=path) for name, path in paths]
    stale = tag(
        "span", "The proxy does not respond; this is its last state.", id="stale", role="status"
    )
    return tag(
        "footer",
        *links,
        tag("span", "Times are UTC, rates those of the last 10 s, graphs the last 5 min."),
        stale,
    )
