"""Formatting of numbers and times for people, with three significant digits and a unit."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["ago", "count", "number", "rate", "seconds", "size", "span", "time_of_day", "until"]

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def count(value: int) -> str:
    """Return an integer in groups of three digits."""
    return f"{value:,}"


def number(value: float) -> str:
    """Return a measured value, such as ``0``, ``0.25``, ``3.1``, ``42`` or ``1,250``."""
    if value == 0 or value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def rate(value: float) -> tuple[str, str]:
    """Return a rate per second and its unit."""
    return number(value), "/s"


def size(value: float) -> tuple[str, str]:
    """Return a number of bytes in a larger unit (powers of 1000), and the unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return number(value), unit
        value /= 1000
    return number(value), "TB"


def seconds(value: float | None) -> tuple[str, str]:
    """Return a duration and its unit, or a dash if it is unknown."""
    if value is None:
        return "–", ""
    return (number(value), "s") if value >= 0.9995 else (number(value * 1000), "ms")


def span(value: float) -> str:
    """Return a time span in its largest unit and the next, such as ``3 d 4 h`` or ``8 s``."""
    whole = max(0, int(value))
    if whole >= 2 * _DAY:
        days, rest = divmod(whole, _DAY)
        return f"{days} d {rest // _HOUR} h" if days < 100 and rest >= _HOUR else f"{days:,} d"
    if whole >= _HOUR:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _MINUTE} min" if whole >= _MINUTE else f"{whole} s"


def ago(then: float, now: float) -> str:
    """Return the time since an event, or a dash if there was none (0)."""
    if not then:
        return "–"
    return "now" if now - then < 1 else f"{span(now - then)} ago"


def until(then: float, now: float) -> str:
    """Return the time until an event, or since it."""
    return f"in {span(then - now)}" if then > now else f"{span(now - then)} ago"


def time_of_day(then: float) -> str:
    """Return the time of day in UTC."""
    return datetime.fromtimestamp(then, UTC).strftime("%H:%M:%S")
