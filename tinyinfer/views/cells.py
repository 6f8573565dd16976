"""A matrix as a table of coloured cells, on which attention, masks and weights are drawn.

Each cell says what it stands for in its `title`. The line below the cells shows that text for the cell under the
pointer, or for the cell that has the focus. The Tab key reaches the cells once, and the arrow keys move from cell to
cell. (A matrix of 20 x 20 cells would otherwise stop the Tab key 400 times.) Below the line the same matrix can be
unfolded as text, which needs neither colours nor scripts.

A colour is mixed with the theme's paper. A cell with text uses only pale colours, on which the theme's ink can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tinyinfer.views.page import DARK_HOSTS

LARGEST = 48  # rows, or columns: more cells are too small to see on a narrow screen
NARROW = 16  # so many labels of columns have room on a narrow screen
HINT = "Point at a cell for its number, or press Tab and the arrow keys."
# Run once for each view of a page, whichever view is the first.
KEYS = """<script>
for (const box of document.querySelectorAll(".tinyinfer-view [data-keys='off']")) {
  box.dataset.keys = "on";
  box.addEventListener("keydown", event => {
    const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    const at = event.target.closest("[tabindex]");
    if (!step || !at) return;
    const rows = [...box.querySelectorAll("[data-row]")].map(row => [...row.querySelectorAll("[tabindex]")]);
    const y = rows.findIndex(row => row.includes(at)), row = rows[y + step[1]];
    const to = row && row[Math.min(rows[y].indexOf(at) + step[0], row.length - 1)];
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    rows.flat().forEach(one => one.tabIndex = -1);
    to.tabIndex = 0;
    to.focus();
  });
}
</script>"""
# What the readout line shows: the title of the element that is pointed at, else of the one that has the focus.
READOUT_STYLE = """
.tinyinfer-view .readout { position: relative; padding-bottom: 24px; }
.tinyinfer-view .readout::after, .tinyinfer-view .readout [tabindex]:is(:hover, :focus)::after { position: absolute;
  left: 0; right: 0; bottom: 0; height: 20px; font: 12px/20px system-ui, sans-serif; font-style: normal;
  text-align: left; white-space: normal; text-decoration: none; overflow: hidden; opacity: 1; pointer-events: none; }
.tinyinfer-view .readout::after { content: attr(data-hint); opacity: .82; }
.tinyinfer-view .readout [tabindex]:is(:hover, :focus)::after { content: attr(title); }
.tinyinfer-view .readout:has([tabindex]:is(:hover, :focus))::after,
.tinyinfer-view .readout:has([tabindex]:hover) [tabindex]:focus:not(:hover)::after { content: none; }
.tinyinfer-view .readout [tabindex]:is(:hover, :focus) { outline: 2px solid var(--accent); outline-offset: 0; }
@container tinyinfer (max-width: 560px) { .tinyinfer-view .readout { padding-bottom: 44px; }
  .tinyinfer-view .readout::after, .tinyinfer-view .readout [tabindex]:is(:hover, :focus)::after { height: 40px; } }
.tinyinfer-view .narrowing { container: tinyinfer / inline-size; }
.tinyinfer-view .keys { display: flex; flex-wrap: wrap; gap: 0 16px; margin: 2px 0 6px; }
.tinyinfer-view .keys .legend { margin: 0; }
.tinyinfer-view summary { cursor: pointer; font-size: 12px; }
.tinyinfer-view details pre { font: 12px/1.5 ui-monospace, monospace; overflow-x: auto; margin: 4px 0; color: inherit;
  background: none; padding: 0; }
"""
STYLE = f"""{READOUT_STYLE}
.tinyinfer-view .cells {{ table-layout: fixed; width: 100%; border-collapse: separate; border-spacing: 1px;
  margin: 0; }}
.tinyinfer-view .cells tr:nth-child(n), .tinyinfer-view .cells tr:nth-child(n):hover {{ background: none; }}
.tinyinfer-view .cells :is(td, th) {{ border: 0; padding: 0; height: var(--tall); line-height: var(--tall);
  font-size: 11px; font-weight: 400; text-align: center; vertical-align: middle; overflow: hidden;
  white-space: nowrap; }}
.tinyinfer-view .cells thead th {{ overflow: visible; }}
.tinyinfer-view .cells td {{ background: color-mix(in oklab, var(--cell, var(--paper)) var(--a, 100%), var(--paper));
  color: var(--ink); cursor: default; }}
.tinyinfer-view .cells .pale {{ --cell: oklch(var(--fill) 255); }}
.tinyinfer-view .cells .empty {{ --cell: var(--soft); }}
.tinyinfer-view .cells tbody th {{ width: var(--labels); text-align: right; padding-right: 5px; white-space: pre;
  text-overflow: ellipsis; }}
.tinyinfer-view .cells tbody th.group, .tinyinfer-view .cells thead th.group {{ color: var(--ink); padding: 0;
  text-align: center; background: oklch(var(--fill) var(--h)); border-radius: 3px; }}
.tinyinfer-view .cells .upright {{ height: auto; vertical-align: bottom; line-height: 1; padding-bottom: 3px; }}
.tinyinfer-view .cells .upright span {{ writing-mode: vertical-rl; transform: rotate(180deg); max-height: 90px;
  overflow: hidden; white-space: pre; text-overflow: ellipsis; display: inline-block; }}
.tinyinfer-view .cells .side {{ text-align: left; padding-left: 6px; white-space: normal; line-height: 1.3;
  background: none; color: inherit; }}
@container tinyinfer (max-width: 560px) {{ .tinyinfer-view .cells .spare span {{ display: none; }}
  .tinyinfer-view .cells td[tabindex] {{ font-size: 0; }} }}
"""


def themed(light: str, dark: str) -> str:
    """CSS of variables with one value in a light theme and another in a dark one."""
    return f"""
.tinyinfer-view {{ {light} }}
:is({DARK_HOSTS}) .tinyinfer-view {{ {dark} }}
@media (prefers-color-scheme: dark) {{ .tinyinfer-page .tinyinfer-view {{ {dark} }} }}
"""


@dataclass(frozen=True)
class Cell:
    """One number of a matrix. says: the number in words. kind: classes. share: how much of its colour, 0 to 1.

    text: what stands in it. css: further variables of its style.
    """

    says: str
    kind: str = ""
    share: float = 1.0
    text: str = ""
    css: str = ""

    def html(self, tab: int) -> str:
        """The cell of a table. tab: 0 for the cell that the Tab key reaches, -1 for the others."""
        css = ";".join(filter(None, [f"--a:{100 * self.share:.0f}%" if self.share < 1 else "", self.css]))
        style = f' style="{css}"' if css else ""
        kind = f' class="{self.kind}"' if self.kind else ""
        return f'<td tabindex="{tab}"{kind}{style} title="{escape(self.says)}">{escape(self.text)}</td>'


@dataclass(frozen=True)
class Axis:
    """The labels along one side of a matrix. groups: (text, how many labels, CSS) of the groups that they form."""

    labels: Sequence[str]
    groups: Sequence[tuple[str, int, str]] = ()


@dataclass(frozen=True)
class Side:
    """A last column of words beside the rows. percent: its part of the whole width."""

    heading: str
    texts: Sequence[str]
    percent: int


def matrix(name: str, cells: Sequence[Sequence[Cell]], down: Axis, across: Axis, side: Side | None = None) -> str:
    """The HTML of a matrix. name: what a screen reader calls it."""
    starts, lines = group_starts(down), []
    for y, (label, row) in enumerate(zip(down.labels, cells, strict=True)):
        tail = f'<td class="side">{escape(side.texts[y])}</td>' if side else ""
        inner = "".join(cell.html(-1 if x or y else 0) for x, cell in enumerate(row))
        head = f'{starts.get(y, "")}<th scope="row" title="{escape(label)}">{escape(label)}</th>'
        lines.append(f"<tr data-row>{head}{inner}{tail}</tr>")
    labels = min(84, 12 + 7 * max(map(len, down.labels), default=0))
    tall = 20 if len(down.labels) <= 32 else 13
    width = "" if side else f";max-width:{labels + 40 * len(across.labels)}px"
    return (
        f'<table class="cells" role="grid" aria-label="{escape(name)}" data-keys="off" '
        f'style="--labels:{labels}px;--tall:{tall}px{width}">{columns(down, across, side, labels)}'
        f"{heads(down, across, side)}<tbody>{''.join(lines)}</tbody></table>"
    )


def columns(down: Axis, across: Axis, side: Side | None, labels: int) -> str:
    """The widths of the columns: labels are fixed, and cells share the rest."""
    group = '<col style="width:26px"/>' if down.groups else ""
    tail = f'<col style="width:{side.percent}%"/>' if side else ""
    return f'<colgroup>{group}<col style="width:{labels}px"/>{"<col/>" * len(across.labels)}{tail}</colgroup>'


def heads(down: Axis, across: Axis, side: Side | None) -> str:
    """The head of the table: groups, if there are any, and the labels of the columns."""
    corner = f'<th colspan="{2 if down.groups else 1}"></th>'
    tail = f'<th class="side">{escape(side.heading)}</th>' if side else ""
    lines = []
    if across.groups:
        groups = (f'<th scope="colgroup" class="group" colspan="{n}" style="{css}">{escape(text)}</th>'
                  for text, n, css in across.groups)  # fmt: skip
        lines.append(f"<tr>{corner}{''.join(groups)}</tr>")
    every = -(-len(across.labels) // NARROW)
    long = " upright" if max(map(len, across.labels), default=0) > 2 else ""
    names = "".join(
        f'<th scope="col" class="{"spare" if x % every else ""}{long}" title="{escape(label)}">'
        f"<span>{escape(label)}</span></th>"
        for x, label in enumerate(across.labels)
    )
    lines.append(f"<tr>{corner}{names}{tail}</tr>")
    return f"<thead>{''.join(lines)}</thead>"


def group_starts(axis: Axis) -> dict[int, str]:
    """The first row of each group -> the cell that names the group, as tall as its rows."""
    found, start = {}, 0
    for text, count, css in axis.groups:
        found[start] = f'<th scope="rowgroup" class="group" rowspan="{count}" style="{css}">{escape(text)}</th>'
        start += count
    return found


def readout(content: str, hint: str = HINT) -> str:
    """The content with a line below it that shows the title of whatever is pointed at, or has the focus."""
    return f'<div class="narrowing"><div class="readout" data-hint="{escape(hint)}">{content}</div></div>{KEYS}'


def keys(*legends: str) -> str:
    """Several legends, whose colours differ, as one."""
    return f'<div class="keys">{"".join(legends)}</div>'


def unfold(text: str, summary: str = "The same as text") -> str:
    """Text that a reader may unfold; it needs neither colours nor scripts."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def check_size(rows: int, columns: int, what: str) -> None:
    """Raises ValueError for a matrix that is too large to be drawn, or has nothing to draw."""
    if not rows or not columns:
        raise ValueError(f"there is nothing to draw; give at least one {what}")
    if max(rows, columns) > LARGEST:
        raise ValueError(f"{rows} x {columns} cells are too many to see; give at most {LARGEST} {what}s")


def aligned(labels: Sequence[str], lines: Sequence[str]) -> str:
    """Lines of text behind their labels."""
    width = max(map(len, labels))
    return "\n".join(f"{label.rjust(width)}  {line}".rstrip() for label, line in zip(labels, lines, strict=True))
