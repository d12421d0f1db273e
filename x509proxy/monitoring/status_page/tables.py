"""The tables of the status page, from back ends and listeners to clients and workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from x509proxy.monitoring.snapshot import (
    BackendState,
    CertificateState,
    ClientState,
    RefusalState,
    Snapshot,
    TokenState,
    WorkerState,
)
from x509proxy.monitoring.status_page.html import Markup, join, tag
from x509proxy.monitoring.status_page.units import ago, count, span, time_of_day, until

__all__ = ["tables"]

_Head = tuple[str, str]
"""Name and CSS classes of a column.

``main`` is the title of a row on a phone. ``clip`` is truncated if there is too little space.
"""
_DAY = 86400.0
_EXPIRES_SOON = 14 * _DAY
_MAX_ROWS = 15  # of error responses and clients; the JSON has all


def tables(snapshot: Snapshot) -> Iterator[Markup]:
    """Yield all tables, in the order of the page."""
    now = snapshot.taken
    yield _section(
        "Back ends", "", _BACKEND, [_backend(row, snapshot) for row in snapshot.backends], "wide"
    )
    listeners = [
        (row.endpoint, row.asks, "required" if row.proxy_protocol else "no")
        for row in snapshot.listeners
    ]
    yield _section("Listeners", "", _LISTENER, listeners)
    if snapshot.tokens is not None:
        yield _section("Access tokens", "", _TOKENS, [_tokens(snapshot.tokens, now)], "wide")
    several = len(snapshot.workers) > 1
    if several:
        yield _section("Workers", "", _WORKER, [_worker(row, now) for row in snapshot.workers])
    yield _section(
        "Certificates",
        "",
        _EXPIRY,
        [_expiry(row, now) for row in snapshot.certificates],
        "wide" if several else "",
    )
    yield _section(
        "Latest error responses",
        "grouped by status and reason, newest first",
        _REFUSAL,
        [_refusal(same) for same in _grouped(snapshot.refusals)[:_MAX_ROWS]],
        "wide",
    )
    note = "as presented by clients, newest first"
    yield _section(
        "Client certificates",
        note,
        _CLIENT,
        [_client(row, now) for row in snapshot.clients[:_MAX_ROWS]],
        "wide",
    )


def _section(
    title: str,
    note: str,
    heads: Sequence[_Head],
    rows: Sequence[Sequence[object]],
    class_: str = "",
) -> Markup:
    heading = tag("h2", title, tag("small", note))
    if not rows:
        return tag("section", heading, tag("p", "None so far.", class_="none"), class_=class_)
    head = tag(
        "thead", tag("tr", *(tag("th", name, class_=style, scope="col") for name, style in heads))
    )
    body = tag("tbody", *(tag("tr", *map(_cell, heads, row)) for row in rows))
    return tag("section", heading, tag("table", head, body), class_=class_)


def _cell(head: _Head, content: object) -> Markup:
    name, style = head
    whole = content if "clip" in style and not isinstance(content, Markup) else ""
    return tag("td", tag("span", content), class_=style, data_label=name, title=whole)


def _pill(word: str, mood: str) -> Markup:
    return tag("span", word, class_=f"pill {mood}".rstrip())


def _bar(part: int, whole: int) -> Markup:
    """Return a bar for a share. The number beside it has the same meaning for screen readers."""
    share = min(1.0, part / whole) if whole else 0.0
    drawn = tag("rect", width=round(72 * share, 1), height=6)
    return tag(
        "svg",
        drawn,
        class_="bar full" if share > 0.8 else "bar",
        viewBox="0 0 72 6",
        aria_hidden="true",
    )


_BACKEND = (
    ("Back end", "main clip fifth"),
    ("State", "short"),
    ("Busy", "number"),
    ("Idle", "number"),
    ("Waiting", "number"),
    ("Requests", "number"),
    ("5xx", "number"),
    ("Failures", "number"),
    ("Checked", "short"),
    ("Last failure", "third"),
)
_STATES = {"up": "good", "slow": "warn", "down": "bad"}


def _backend(row: BackendState, snapshot: Snapshot) -> Sequence[object]:
    outcomes = snapshot.counts.exchanges.get(row.url, {})
    statuses = [pair for by_status in outcomes.values() for pair in by_status.items()]
    busy = tag("span", f"{count(row.busy)} of {count(row.connections)}", class_="of")
    word = "slow start" if row.state == "slow" else row.state
    since = tag("span", f" {span(snapshot.taken - row.since)}", class_="since")
    failure = row.reason or "–"
    if row.failed and row.reason:
        failure = f"{time_of_day(row.failed)} {row.reason}"
    return (
        row.url,
        join((_pill(word, _STATES[row.state]), since)),
        join((_bar(row.busy, row.connections), busy)),
        count(row.idle + row.opening),
        f"{count(row.waiting)} of {count(row.queue)}",
        count(sum(number for _, number in statuses)),
        count(sum(number for status, number in statuses if status >= 500)),
        count(row.failures),
        ago(row.checked, snapshot.taken),
        failure,
    )


_LISTENER = (("Endpoint", "main clip half"), ("Certificate", "short"), ("PROXY header", "short"))
_TOKENS = (
    ("Issuer", "main clip half"),
    ("Level", "short"),
    ("Keys", "number"),
    ("Fetched", "short"),
    ("Pending", "number"),
    ("Failed", "number"),
    ("Last error", "clip third"),
)


def _tokens(row: TokenState, now: float) -> Sequence[object]:
    return (
        row.issuer or "–",
        row.level,
        count(row.keys),
        ago(row.fetched, now),
        count(row.pending),
        count(row.failures),
        _pill(row.error, "warn") if row.error else "–",
    )


_EXPIRY = (
    ("Certificate", "main clip half"),
    ("Setting", "short line"),
    ("Ends", "short line"),
)


def _expiry(row: CertificateState, now: float) -> Sequence[object]:
    # A quarter of the validity, since some revocation lists are valid for a day only.
    soon = min(_EXPIRES_SOON, (row.ends - row.begins) / 4)
    mood = "bad" if row.ends <= now else "warn" if row.ends - now < soon else ""
    return row.name, row.use, _pill(until(row.ends, now), mood) if mood else until(row.ends, now)


_REFUSAL = (
    ("Time", "short"),
    ("Times", "number"),
    ("Status", "short"),
    ("Reason", "main clip third"),
    ("Request", "clip third"),
    ("Client", "short line"),
    ("Certificate", "clip fifth"),
)


def _grouped(rows: Sequence[RefusalState]) -> list[list[RefusalState]]:
    """Return groups with the same status and reason, in the order of their newest rows."""
    groups: dict[tuple[int, str, str], list[RefusalState]] = {}
    for row in rows:
        groups.setdefault((row.status, row.code, row.detail), []).append(row)
    return [*groups.values()]


def _refusal(same: Sequence[RefusalState]) -> Sequence[object]:
    newest = same[0]
    return (
        time_of_day(newest.at),
        count(len(same)),
        _pill(str(newest.status), "bad" if newest.status >= 500 else ""),
        newest.detail,
        _of_several([_request(row) for row in same]),
        _of_several([row.peer for row in same]),
        _of_several([row.subject or row.thumbprint or "–" for row in same]),
    )


def _request(row: RefusalState) -> str:
    return "–" if row.target == "-" else f"{row.method} {row.target}"


def _of_several(values: Sequence[str]) -> str:
    """Return the newest value and the number of different ones."""
    others = len(set(values)) - 1
    return f"{values[0]} and {others} more" if others else values[0]


_CLIENT = (
    ("Subject", "main clip third"),
    ("Verdict", "short"),
    ("Key", "short"),
    ("Thumbprint (x5t#S256)", "clip third"),
    ("Ends", "short"),
    ("Requests", "number"),
    ("Last seen", "short"),
)
_VERDICTS = {"TRUSTED": "good", "SELF_SIGNED": "", "UNTRUSTED": "warn"}


def _client(row: ClientState, now: float) -> Sequence[object]:
    verdict = row.verdict.replace("_", " ").lower()
    return (
        row.subject or "(no subject)",
        _pill(verdict, _VERDICTS.get(row.verdict, "")),
        row.key or "–",
        tag("code", row.thumbprint, title=row.thumbprint),
        until(row.ends, now) if row.ends else "–",
        count(row.requests),
        ago(row.last, now),
    )


_WORKER = (
    ("Process", "main short"),
    ("State", "short"),
    ("Up for", "short"),
    ("Connections", "number"),
    ("Requests", "number"),
)


def _worker(row: WorkerState, now: float) -> Sequence[object]:
    pill = _pill(row.state, "good" if row.state == "serving" else "warn")
    return row.pid, pill, span(now - row.started), count(row.connections), count(row.exchanges)
