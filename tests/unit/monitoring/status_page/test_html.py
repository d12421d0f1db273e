"""Tests of :mod:`x509proxy.monitoring.status_page.html`: no foreign element comes out."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.support.html import HOSTILE_TEXT, HtmlReader
from x509proxy.monitoring.status_page.html import Markup, graph, join, tag


class Elements(SynchronousTestCase):
    def test_escaped(self) -> None:
        """A text stays one, in an element and in an attribute."""
        found = HtmlReader(tag("td", HOSTILE_TEXT, title=HOSTILE_TEXT))
        self.assertEqual(
            ([("td", {"title": HOSTILE_TEXT})], HOSTILE_TEXT), (found.elements, found.text)
        )

    def test_nested(self) -> None:
        """Markup is not escaped again, and only markup is not."""
        self.assertEqual("<p><b>1 &lt; 2</b> &amp;</p>", tag("p", tag("b", "1 < 2"), " &"))
        self.assertEqual("3&lt;b&gt;", join([3, "<b>"]))
        self.assertIsInstance(join(["a"]), Markup)

    def test_attributes(self) -> None:
        """Names that Python has taken, hyphens, and none for what is empty."""
        self.assertEqual(
            '<td class="a" data-label="b"></td>', tag("td", class_="a", data_label="b", title="")
        )

    def test_void(self) -> None:
        """An element without content is closed, which SVG needs."""
        self.assertEqual('<line x1="0"/>', tag("line", x1=0))


class Graphs(SynchronousTestCase):
    def curve(self, *values: float) -> list[str]:
        found = HtmlReader(graph(values, 3, "label"))
        paths = [fields["d"] or "" for name, fields in found.elements if name == "path"]
        return paths[-1].removeprefix("M").split(" L") if paths else []

    def test_scale(self) -> None:
        """The largest value is at the top, nothing at the bottom, the newest at the right edge."""
        self.assertEqual(["0.0,38.0", "120.0,2.0", "240.0,20.0"], self.curve(0, 10, 5))
        self.assertEqual(["120.0,38.0", "240.0,2.0"], self.curve(0, 7))
        self.assertEqual(["0.0,38.0", "120.0,38.0", "240.0,38.0"], self.curve(0, 0, 0))

    def test_few(self) -> None:
        """One value, or none, is no curve."""
        self.assertEqual(([], []), (self.curve(), self.curve(4)))

    def test_label(self) -> None:
        """It has a name, for those who do not see it."""
        name, fields = HtmlReader(graph((), 3, "label")).elements[0]
        self.assertEqual(("svg", "label"), (name, fields["aria-label"]))
