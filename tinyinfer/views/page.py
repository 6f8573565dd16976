"""What every view shares: one look for light and dark, and one HTML file for several views.

A view is a piece of HTML that stands by itself: in a notebook's output, in a frame of its own (Colab, VS Code) and in a
saved page. So it loads nothing, its styles touch only what lies inside `class="tinyinfer-view"`, and the same view
gives the same bytes each time. Text takes the notebook's colour. What is filled with a colour also sets the colour of
its text, so that it can be read even where the theme of the host is not known.

JupyterLab styles tables and code by two classes; rules that must win name the view's class twice.

A sequence has its own hue, by its id: `hue(id)` in the attribute `style` of an element with the class `fill`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import ClassVar

from tinyinfer.loading.whole import whole

LIGHT = """
  --line: rgba(128, 128, 128, .4); --soft: rgba(128, 128, 128, .13); --ink: #17181c; --paper: #fff;
  --fill: .87 .075; --deep: .52 .13; --accent: oklch(.5 .17 260); --good: oklch(.88 .11 150); --bad: oklch(.87 .08 25);
  --off: #dcdde0;
"""
DARK = """
  --line: rgba(160, 160, 160, .4); --soft: rgba(160, 160, 160, .16); --ink: #f4f4f6; --paper: #18191c;
  --fill: .43 .085; --deep: .76 .12; --accent: oklch(.78 .12 260); --good: oklch(.44 .1 150); --bad: oklch(.44 .11 25);
  --off: #47494f;
"""
DARK_HOSTS = (  # Jupyter, VS Code, Colab
    'body[data-jp-theme-light="false"], body[data-vscode-theme-kind$="dark"], '
    'body[data-vscode-theme-kind="vscode-high-contrast"], html[theme="dark"]'
)
STYLE = f"""
.tinyinfer-view {{{LIGHT}}}
:is({DARK_HOSTS}) .tinyinfer-view {{{DARK}}}
@media (prefers-color-scheme: dark) {{ .tinyinfer-page .tinyinfer-view {{{DARK}}} }}
.tinyinfer-view {{ font: 13px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; margin: 6px 0 14px;
  max-width: 100%; text-align: left; }}
.tinyinfer-view *, .tinyinfer-view *::before {{ box-sizing: border-box; }}
.tinyinfer-view p {{ margin: 4px 0; }}
.tinyinfer-view h4 {{ font-size: 15px; font-weight: 600; margin: 4px 0 8px; color: inherit; }}
.tinyinfer-view h5 {{ font-size: 13px; font-weight: 600; font-style: normal; margin: 14px 0 4px; color: inherit; }}
.tinyinfer-view small, .tinyinfer-view .note {{ font-size: 12px; opacity: .82; }}
.tinyinfer-view .wide {{ overflow-x: auto; max-width: 100%; }}
.tinyinfer-view table {{ border-collapse: collapse; margin: 4px 0; font-size: 13px; }}
.tinyinfer-view.tinyinfer-view tbody tr:nth-child(n) {{ background: none; }}
.tinyinfer-view.tinyinfer-view th, .tinyinfer-view.tinyinfer-view td {{ border: 0;
  border-bottom: 1px solid var(--line); padding: 3px 10px 3px 0; text-align: left; color: inherit;
  vertical-align: baseline; }}
.tinyinfer-view th {{ font-weight: 600; white-space: nowrap; }}
.tinyinfer-view.tinyinfer-view .number {{ text-align: right; white-space: nowrap; }}
.tinyinfer-view .fill {{ background: oklch(var(--fill) var(--h)); color: var(--ink); }}
.tinyinfer-view .good {{ background: var(--good); color: var(--ink); }}
.tinyinfer-view .bad {{ background: var(--bad); color: var(--ink); }}
.tinyinfer-view .hatched {{ background: repeating-linear-gradient(45deg, var(--off) 0 3px, var(--paper) 3px 7px);
  color: var(--ink); }}
.tinyinfer-view .chip {{ display: inline-block; border-radius: 4px; padding: 0 6px; margin: 1px 2px 1px 0;
  border: 1px solid transparent; white-space: pre-wrap; overflow-wrap: anywhere; }}
.tinyinfer-view .plain {{ border-color: var(--line); }}
.tinyinfer-view .legend {{ display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 6px 0; font-size: 12px; }}
.tinyinfer-view .legend i {{ display: inline-block; width: 14px; height: 14px; margin-right: 5px; border-radius: 3px;
  vertical-align: -2px; border: 1px solid var(--line); }}
.tinyinfer-view :focus-visible {{ outline: 2px solid var(--accent); outline-offset: 2px; }}
"""
PAGE_STYLE = """
html { color-scheme: light dark; }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 980px; margin: 0 auto; padding: 16px; color: #1d1e22;
  background: #fff; }
a { color: #1a56c4; }
@media (prefers-color-scheme: dark) { body { color: #e6e6e9; background: #18191c; } a { color: #9dc0ff; } }
h1 { font-size: 24px; line-height: 1.3; }
"""


class View(ABC):
    """Something to look at. A notebook shows its HTML, a terminal its text.

    title: its heading, which also names it for a screen reader. style: rules of CSS that only this kind of view needs;
    each selector begins with .tinyinfer-view.
    """

    style: ClassVar[str] = ""
    title: str = ""

    @abstractmethod
    def body(self) -> str:
        """The HTML inside the view, without its title and styles."""

    @abstractmethod
    def text(self) -> str:
        """The same in plain text."""

    def html(self) -> str:
        """The view without its styles, for a page that has them already."""
        heading = f"<h4>{escape(self.title)}</h4>" if self.title else ""
        label = f' role="group" aria-label="{escape(self.title)}"' if self.title else ""
        return f'<div class="tinyinfer-view"{label}>{heading}{self.body()}</div>'

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}{self.style}</style>{self.html()}"

    def __str__(self) -> str:
        return f"{self.title}\n{self.text()}" if self.title else self.text()


class Paragraphs(View):
    """Paragraphs of text, for a saved page. links: (words, address) of each link in a last line."""

    def __init__(self, *paragraphs: str, links: Iterable[tuple[str, str]] = ()) -> None:
        self.paragraphs, self.links = paragraphs, tuple(links)

    def html(self) -> str:
        """Plain paragraphs, in the page's own size of text."""
        return self.body()

    def body(self) -> str:
        links = " · ".join(f'<a href="{escape(address)}">{escape(words)}</a>' for words, address in self.links)
        lines = [*map(escape, self.paragraphs), *filter(None, [links])]
        return "".join(f"<p>{line}</p>" for line in lines)

    def text(self) -> str:
        return "\n\n".join([*self.paragraphs, *(f"{words}: {address}" for words, address in self.links)])


def save_page(path: Path, title: str, *views: View) -> None:
    """Writes one HTML file that shows the views one below the other and loads nothing; the file is whole or absent.

    Raises OSError when the disk fails.
    """
    styles = "".join(dict.fromkeys([PAGE_STYLE, STYLE, *(view.style for view in views)]))
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{styles}</style>"
    )
    body = f"<h1>{escape(title)}</h1>" + "\n".join(view.html() for view in views)
    page = f'<!DOCTYPE html>\n<html lang="en" class="tinyinfer-page"><head>{head}</head>\n<body>{body}</body></html>\n'
    with whole(path) as place:
        place.write_bytes(page.encode("utf-8", "backslashreplace"))


def hue(id: int) -> str:
    """The hue of a sequence, as CSS for an element of the class `fill`; neighbours differ as much as they can."""
    return f"--h: {(255 + id * 137.508) % 360:.0f}"


def visible(text: str) -> str:
    """Text in which each character can be seen: ends of lines and tabs as signs, other control characters as escapes.

    >>> visible("a\\tb\\n\\x07")
    'a⇥b↵\\\\x07'
    """
    signs = {"\n": "↵", "\t": "⇥"}
    if text.isprintable():
        return text
    return "".join(signs.get(sign) or (sign if sign.isprintable() else ascii(sign)[1:-1]) for sign in text)


def legend(entries: Iterable[tuple[str, str]], style: str = "") -> str:
    """What colours mean, as a line of boxes: (classes of the box, words) each. style: the CSS of every box."""
    boxes = (f'<span><i class="{classes}" style="{style}"></i>{escape(words)}</span>' for classes, words in entries)
    return f'<div class="legend">{" ".join(boxes)}</div>'


def grid(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of cells that are HTML already; the columns whose places are in `numbers` are aligned right."""
    return "".join(grid_pieces(headings, rows, numbers))


def grid_pieces(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> list[str]:
    """`grid` as a piece for each cell: tables of one form have many pieces in common."""
    right = set(numbers)
    kinds = [' class="number"' if i in right else "" for i in range(len(headings))]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(headings, kinds, strict=True))
    pieces = [f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>']
    for row in rows:
        pieces += ["<tr>", *(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)), "</tr>"]
    return [*pieces, "</tbody></table></div>"]
