"""HTML and SVG out of plain values: the only place where the status page's texts are escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["Markup", "graph", "join", "tag"]

# Without an end of their own; the stroke closes those of SVG, and means nothing in HTML.
_VOID = frozenset({"meta", "line", "path", "rect"})


class Markup(str):
    """Text that is HTML already: only :func:`tag`, and what is ours, makes it."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element. Whatever is not :class:`Markup` is escaped, in it and in its attributes; empty attributes are left out.

    A name that Python has taken is written with a line behind it (``class_``), and lines inside stand for hyphens.
    """
    fields = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value != ""
    )
    if name in _VOID:
        return Markup(f"<{name}{fields}/>")
    return Markup(f"<{name}{fields}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """Several, one behind the other."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else html.escape(str(child)) for child in children
        )
    )


_WIDTH, _HEIGHT = 240, 40


def graph(values: Sequence[float], length: int, label: str) -> Markup:
    """A small graph of the newest values, the last of ``length`` at the right edge; its scale is that of the largest."""
    most = max(values, default=0.0)
    shown = values[-length:]
    step = _WIDTH / max(1, length - 1)
    points = [
        (
            _WIDTH - (len(shown) - 1 - place) * step,
            _HEIGHT - 2 - (_HEIGHT - 4) * (value / most if most else 0.0),
        )
        for place, value in enumerate(shown)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    drawn = [tag("line", class_="base", x1=0, x2=_WIDTH, y1=_HEIGHT - 1, y2=_HEIGHT - 1)]
    if len(points) > 1:
        area = f"M{points[0][0]:.1f},{_HEIGHT} L{line.replace(' ', ' L')} L{_WIDTH},{_HEIGHT} Z"
        drawn += [
            tag("path", class_="area", d=area),
            tag("path", class_="curve", d=f"M{line.replace(' ', ' L')}"),
        ]
    box = f"0 0 {_WIDTH} {_HEIGHT}"
    return tag("svg", *drawn, viewBox=box, preserveAspectRatio="none", role="img", aria_label=label)
