"""Diagrams of the documentation: SVG from the text sources beside this file.

``python docs/diagrams/render.py`` writes each ``NAME.svg`` anew: from ``NAME.toml``, and
``packages.svg`` from the layers in ``.importlinter``. ``tests/docs/test_site.py`` fails where a
picture differs from its source.

A source has ``title``, ``description`` and ``unit``, the pixels of one column and one row. Its
``[boxes.NAME]`` have ``at``, ``size``, ``text`` and ``style``. Its ``[[arrows]]`` have ``from``,
``to``, ``text`` and ``along``, from 0 to 1: the place on the side that both boxes share.
"""

from __future__ import annotations

import configparser
import tomllib
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CONTRACT = HERE.parents[1] / ".importlinter"

# Fill and border of each style; the shades stay apart when printed in grey.
STYLES = {
    "area": ("none", "#8a94a3"),
    "note": ("none", "none"),
    "plain": ("#ffffff", "#4a5568"),
    "pure": ("#e3eefb", "#2b6cb0"),
    "proxy": ("#e3eefb", "#2b6cb0"),
    "outside": ("#fdeeda", "#b7791f"),
    "inside": ("#e4f3e6", "#2f855a"),
    "stop": ("#fbe3e3", "#c53030"),
}
_FONT = "font-family='DejaVu Sans, Verdana, sans-serif'"
_MARGIN, _GAP, _LINE = 16, 7, 18

Box = tuple[float, float, float, float]  # left, top, right, bottom


def main() -> None:
    """Write every picture."""
    for name, text in pictures():
        (HERE / name).write_text(text, "utf-8")


def pictures() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each SVG file."""
    yield "packages.svg", render(packages(CONTRACT.read_text("utf-8")))
    for path in sorted(HERE.glob("*.toml")):
        yield f"{path.stem}.svg", render(tomllib.loads(path.read_text("utf-8")))


def packages(contract: str) -> dict[str, Any]:
    """Return the diagram of the layers that import-linter enforces, the highest first."""
    parser = configparser.ConfigParser()
    parser.read_string(contract)
    layers = parser["importlinter:contract:layers"]["layers"].strip().splitlines()
    listed = parser["importlinter:contract:pure"]["source_modules"].split()
    pure = {name.removeprefix("x509proxy.") for name in listed}
    boxes: dict[str, dict[str, Any]] = {}
    for row, layer in enumerate(layers):
        names = [name.strip() for name in layer.split("|")]
        width = 6 / len(names)
        for column, name in enumerate(names):
            style = "pure" if name in pure else "plain"
            place = {"at": [column * width, row], "size": [width, 1]}
            boxes[name] = {"text": [name], "style": style, **place}
    description = "Each row imports only from the rows below it. Blue: no Twisted."
    return {
        "title": "Order of the packages",
        "description": description,
        "unit": [96, 42],
        "boxes": boxes,
        "arrows": [],
    }


def render(diagram: Mapping[str, Any]) -> str:
    """Return a diagram as SVG."""
    unit = diagram["unit"]
    boxes = {name: _place(box, unit) for name, box in diagram["boxes"].items()}
    width = max(right for _, _, right, _ in boxes.values()) + _GAP + _MARGIN
    height = max(bottom for *_, bottom in boxes.values()) + _GAP + _MARGIN
    size = f"width='{width:g}' height='{height:g}' viewBox='0 0 {width:g} {height:g}'"
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img'>",
        f"<title>{escape(diagram['title'])}</title>",
        f"<desc>{escape(diagram['description'])}</desc>",
        "<defs><marker id='tip' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='8' "
        "markerHeight='8' orient='auto'><path d='M0,0 L10,5 L0,10 z' fill='#2d3748'/>"
        "</marker></defs>",
        # A background of its own: a page in dark colours shows the picture as it is.
        f"<rect width='{width:g}' height='{height:g}' rx='8' fill='#fbfcfd' stroke='#cbd5e0'/>",
    ]
    for name, box in diagram["boxes"].items():
        parts.extend(_box(boxes[name], box))
    for arrow in diagram["arrows"]:
        parts.extend(_arrow(boxes[arrow["from"]], boxes[arrow["to"]], arrow))
    return "\n".join([*parts, "</svg>", ""])


def _place(box: Mapping[str, Any], unit: list[int]) -> Box:
    (x, y), (width, height) = box["at"], box.get("size", [1, 1])
    inset = 0 if box.get("style") == "area" else _GAP
    return (
        _MARGIN + x * unit[0] + inset,
        _MARGIN + y * unit[1] + inset,
        _MARGIN + (x + width) * unit[0] - inset,
        _MARGIN + (y + height) * unit[1] - inset,
    )


def _box(place: Box, box: Mapping[str, Any]) -> Iterator[str]:
    left, top, right, bottom = place
    style = box.get("style", "plain")
    fill, border = STYLES[style]
    dashes = " stroke-dasharray='6 4'" if style == "area" else ""
    yield (
        f"<rect x='{left:g}' y='{top:g}' width='{right - left:g}' height='{bottom - top:g}' rx='5' "
        f"fill='{fill}' stroke='{border}' stroke-width='1.4'{dashes}/>"
    )
    lines = box["text"]
    if style == "area":
        yield _text(left + 10, top + 18, lines[0], "font-weight='bold' fill='#4a5568'")
        return
    first = (top + bottom) / 2 - (len(lines) - 1) * _LINE / 2 + 4
    for number, line in enumerate(lines):
        weight = "font-weight='bold' " if number == 0 else ""
        middle = f"{weight}text-anchor='middle' fill='#1a202c'"
        yield _text((left + right) / 2, first + number * _LINE, line, middle)


def _text(x: float, y: float, text: str, look: str) -> str:
    return f"<text x='{x:g}' y='{y:g}' font-size='14' {_FONT} {look}>{escape(text)}</text>"


def _arrow(start: Box, end: Box, arrow: Mapping[str, Any]) -> Iterator[str]:
    x1, y1, x2, y2 = _line(start, end, arrow.get("along", 0.5))
    dashes = " stroke-dasharray='5 4'" if arrow.get("dashed") else ""
    yield (
        f"<line x1='{x1:g}' y1='{y1:g}' x2='{x2:g}' y2='{y2:g}' stroke='#2d3748' "
        f"stroke-width='1.5' marker-end='url(#tip)'{dashes}/>"
    )
    lines = arrow.get("text", [])
    horizontal = y1 == y2
    middle = (x1 + x2) / 2 if horizontal else (x1 + x2) / 2 + 7
    first = y1 - 7 - (len(lines) - 1) * _LINE if horizontal else (y1 + y2) / 2 + 4
    first -= 0 if horizontal else (len(lines) - 1) * _LINE / 2
    anchor = "middle" if horizontal else "start"
    for number, line in enumerate(lines):
        look = f"text-anchor='{anchor}' fill='#2d3748' font-style='italic'"
        yield _text(middle, first + number * _LINE, line, look)


def _line(start: Box, end: Box, along: float) -> tuple[float, float, float, float]:
    """Return a vertical or horizontal line between two boxes that face each other."""
    left, right = max(start[0], end[0]), min(start[2], end[2])
    top, bottom = max(start[1], end[1]), min(start[3], end[3])
    if left < right:
        x = left + (right - left) * along
        down = start[3] <= end[1]
        return (x, start[3], x, end[1]) if down else (x, start[1], x, end[3])
    if top < bottom:
        y = top + (bottom - top) * along
        forward = start[2] <= end[0]
        return (start[2], y, end[0], y) if forward else (start[0], y, end[2], y)
    raise ValueError("arrow: found boxes that share no row and no column, expected one of both")


if __name__ == "__main__":
    main()
