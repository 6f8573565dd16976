"""The look that all views share, and the page that holds several of them."""

from __future__ import annotations

import re

import pytest
from markup import read

from tinyinfer.views.page import STYLE, Paragraphs, View, grid, hue, legend, save_page, visible

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


class Sample(View):
    """A view with a rule of its own."""

    style = ".tinyinfer-view .sample { color: inherit; }"

    def __init__(self, title: str, words: str) -> None:
        self.title, self.words = title, words

    def body(self) -> str:
        return grid(["word"], [[self.words]])

    def text(self) -> str:
        return self.words


def test_a_view_stands_by_itself_and_says_its_title_once_to_the_eye_and_once_to_a_reader():
    """Catches a title that is not escaped, and a view without its styles."""
    html = Sample(HOSTILE, "seat")._repr_html_()
    found = read(html)
    assert [name for name, _ in found.elements][:3] == ["style", "div", "h4"]
    assert found.elements[1][1]["aria-label"] == HOSTILE
    assert found.words == [HOSTILE, "word", "seat"]
    assert str(Sample("Seats", "seat")) == "Seats\nseat"


def test_styles_touch_nothing_outside_the_view():
    """Catches a rule that would restyle the notebook around the view."""
    selectors = re.findall(r"([^{}]+)\{", re.sub(r"@media[^{]*\{", "", STYLE))
    assert len(selectors) > 10
    parts = [part for selector in selectors for part in re.sub(r"\(.*?\) ", "", selector).split(",")]
    assert not [part for part in parts if ".tinyinfer-view" not in part]


def test_light_and_dark_name_the_same_colours():
    """Catches a colour that one of the themes lacks: what uses it would be transparent there."""
    themes = re.findall(r"\.tinyinfer-view \{\n(.*?)\}", STYLE, re.DOTALL)
    names = [set(re.findall(r"--\w+(?=:)", theme)) for theme in themes]
    assert len(names) == 3
    assert names[0] == names[1] == names[2]
    assert set(re.findall(r"var\((--\w+)", STYLE)) <= names[0] | {"--h"}


def test_a_page_holds_each_style_once_and_is_the_same_each_time(tmp_path):
    """Catches a page that changes when it is built again, and one that repeats the styles for each view."""
    views = [
        Sample("one", "a"),
        Paragraphs("Look at <one>.", links=[("the lesson", "../notebooks/04.ipynb"), ("all", ".")]),
    ]
    for name in ("a.html", "b.html"):
        save_page(tmp_path / name, HOSTILE, *views, Sample("two", "b"))
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert (tmp_path / "b.html").read_text(encoding="utf-8") == page
    assert page.count(Sample.style) == page.count(STYLE) == 1
    found = read(page)
    assert found.words[:2] == [HOSTILE, HOSTILE]
    assert "Look at <one>." in found.words
    assert found.named("a") == [{"href": "../notebooks/04.ipynb"}, {"href": "."}]
    assert found.words[-6:-3] == ["the lesson", "·", "all"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_a_page_takes_text_that_is_no_text(tmp_path):
    """Catches half a character from a byte-level token, which no file can hold."""
    save_page(tmp_path / "a.html", "title", Paragraphs("\ud83d"))
    assert "\\ud83d" in (tmp_path / "a.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [(" a b", " a b"), ("\n\n", "↵↵"), ("\x00\x7f", "\\x00\\x7f"), ("\u200b\ud83d", "\\u200b\\ud83d"), ("é😀", "é😀")],
)
def test_each_character_of_a_token_can_be_seen(text, shown):
    """Catches a token that looks empty."""
    assert visible(text) == shown


def test_neighbours_have_hues_far_apart():
    """Catches two running sequences of nearly one colour: eight in a row differ by 20 degrees at least."""
    hues = [int(hue(id).removeprefix("--h: ")) for id in range(64)]
    for start in range(56):
        group = sorted(hues[start : start + 8])
        gaps = [b - a for a, b in zip(group, [*group[1:], group[0] + 360], strict=True)]
        assert min(gaps) >= 20


def test_a_legend_names_what_its_boxes_mean():
    """Catches words of a legend that are read as HTML."""
    found = read(legend([("fill", "<own>")], hue(0)))
    assert found.words == ["<own>"]
    assert found.named("i") == [{"class": "fill", "style": "--h: 255"}]
