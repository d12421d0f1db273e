"""HTML pages, parsed by the standard library, and text that must be escaped in them."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE_TEXT = "</td><script>alert(1)</script><img src=x onerror='alert(1)'>\"&amp;"


class HtmlReader(HTMLParser):
    """The elements of a document, parsed by the standard library."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data
