"""HTML and SVG elements from plain values, with the escaping of all text of the status page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["Markup", "graph", "join", "tag"]

# Elements without an end tag. The "/" closes those of SVG and has no effect in HTML.
_VOID = frozenset({"meta", "line", "path", "rect"})


class Markup(str):
    """Text that is HTML. Only :func:`tag`, :func:`join` and constants make it."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element. Children and attributes are escaped unless they are :class:`Markup`.

    Attributes with an empty value are omitted. A trailing underscore in a name is dropped
    (``class_``), and underscores inside become hyphens.
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
    """Return the concatenation of several children, escaped likewise."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else html.escape(str(child)) for child in children
        )
    )


_WIDTH, _HEIGHT = 240, 40


def graph(values: Sequence[float], length: int, label: str) -> Markup:
    """Return a small graph of the newest values, at most ``length``, the last at the right edge.

    The largest value sets the scale.
    """
    most = max(values, default=0.0)
    shown = values[-length:]
    step = _WIDTH / max(1, length - 1)
    points = [
        (
            _WIDTH - (len(shown) - 1 - index) * step,
            _HEIGHT - 2 - (_HEIGHT - 4) * (value / most if most else 0.0),
        )
        for index, value in enumerate(shown)
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
