"""Numbers and times as people read them: three digits that matter, and a unit."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["ago", "count", "number", "rate", "seconds", "size", "span", "time_of_day", "until"]

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def count(value: int) -> str:
    """A whole number, in groups of three."""
    return f"{value:,}"


def number(value: float) -> str:
    """Something that is measured: ``0``, ``0.25``, ``3.1``, ``42``, ``1,250``."""
    if value == 0 or value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def rate(value: float) -> tuple[str, str]:
    """So many a second: the number, and its unit."""
    return number(value), "/s"


def size(value: float) -> tuple[str, str]:
    """Bytes: the number, and its unit (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return number(value), unit
        value /= 1000
    return number(value), "TB"


def seconds(value: float | None) -> tuple[str, str]:
    """How long an exchange takes: the number, and its unit; a stroke for nothing known."""
    if value is None:
        return "–", ""
    return (number(value), "s") if value >= 0.9995 else (number(value * 1000), "ms")


def span(value: float) -> str:
    """A time that passes, by its largest unit and the next: ``3 d 4 h``, ``12 min``, ``8 s``."""
    whole = max(0, int(value))
    if whole >= 2 * _DAY:
        days, rest = divmod(whole, _DAY)
        return f"{days} d {rest // _HOUR} h" if days < 100 and rest >= _HOUR else f"{days:,} d"
    if whole >= _HOUR:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _MINUTE} min" if whole >= _MINUTE else f"{whole} s"


def ago(then: float, now: float) -> str:
    """How long something is past; a stroke if it never was."""
    if not then:
        return "–"
    return "now" if now - then < 1 else f"{span(now - then)} ago"


def until(then: float, now: float) -> str:
    """How long something is to come, or past."""
    return f"in {span(then - now)}" if then > now else f"{span(now - then)} ago"


def time_of_day(then: float) -> str:
    """In UTC, as the logs have it."""
    return datetime.fromtimestamp(then, UTC).strftime("%H:%M:%S")
