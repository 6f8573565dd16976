"""Reads the HTML of a view as a strict parser would: what is open, what is named twice, what is loaded."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "input", "br", "hr", "img", "link", "path", "rect", "line", "circle"}  # of SVG: written with />
LOADING = {"src", "srcset", "data", "poster", "xlink:href", "background"}


class Markup(HTMLParser):
    """The elements of a piece of HTML, and its text outside scripts and styles. Raises AssertionError for faults."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids)), "an id is there twice"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open[-1:] == [tag], f"</{tag}> where {self.open[-1:]} is open"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open and data.strip():
            self.words.append(data.strip())

    def named(self, tag: str) -> list[dict[str, str]]:
        """The attributes of each element of that name."""
        return [attributes for name, attributes in self.elements if name == tag]


def read(html: str) -> Markup:
    """The elements of a view that stands by itself. Raises AssertionError for one that loads something."""
    found = Markup(html)
    assert not re.search(r"url\(|@import|\bfetch\(|\beval\(|\bimport\(", html)
    for tag, attributes in found.elements:
        loaded = set(attributes) & LOADING or tag in ("link", "iframe", "img", "object", "embed")
        assert not loaded, f"<{tag}> loads something: {attributes}"
        assert not [name for name in attributes if name.startswith("on")], f"<{tag}> has a script in an attribute"
    assert not re.search(r"https?://(?!www\.w3\.org/)", re.sub(r'<a href="[^"]*"', "<a", html))
    return found
