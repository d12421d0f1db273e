"""The status page: one document out of a snapshot and the last minutes' history, with nothing that is fetched from elsewhere.

The server draws everything, graphs too, so that the page says all without a script; the script only puts in what has been drawn
anew (``status.js``). So there is one place that knows what a row looks like, and one that escapes (:mod:`x509proxy.monitoring.status_page.html`).
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
"""This style and this script, by their hashes, and nothing else: what should get past the escaping would not run."""


def status_json(snapshot: Snapshot, history: History) -> bytes:
    """The same as the page, for programs: docs/operations/status-page.rst has the fields."""
    ready = {"ready": snapshot.ready, "p50": history.quantile(0.5), "p95": history.quantile(0.95)}
    return msgspec.json.encode(
        {**msgspec.structs.asdict(snapshot), **ready, "history": [*history.samples]}
    )


def status_page(snapshot: Snapshot, history: History) -> bytes:
    """The whole document, UTF-8."""
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
            f"The reload at {at} failed; what was loaded before serves on. {snapshot.reload.error}",
            class_="notice",
        )
    elif snapshot.reload.note:
        yield tag("p", f"Last reload: {snapshot.reload.note}", class_="notice")
    yield tiles(snapshot, history)
    yield from tables(snapshot)
    yield lists(snapshot)


def _title(snapshot: Snapshot) -> str:
    """Return the title, which several proxies' pages side by side differ by."""
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
    """What a balancer is told, in words."""
    if snapshot.ready:
        down = sum(backend.state == "down" for backend in snapshot.backends)
        word, mood = (
            (f"serving, {down} back end{'s' * (down > 1)} down", "warn")
            if down
            else ("serving", "good")
        )
    else:
        word, mood = ("draining", "warn") if snapshot.draining else ("no back end is up", "bad")
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
        "span", "The proxy does not answer; this is what it said last.", id="stale", role="status"
    )
    return tag(
        "footer",
        *links,
        tag("span", "Times are UTC, rates those of the last 10 s, graphs the last 5 min."),
        stale,
    )
