"""Traces as HTML: a step as a table, and a whole run as a timeline that shows batching at a glance.

>>> show_steps(llm.steps(prompts))                                                  # doctest: +SKIP

A trace of a step that was run shows itself in a notebook (NotebookTrace). There is one block of styles and no script,
so that a saved notebook shows it too. Colours are half transparent and text takes the notebook's colour, which suits
light and dark themes alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from tinyinfer.engine.trace import BLOCKS, DRAFTS, Block, StepTrace, Turn

STYLE = """<style>
.tinyinfer { font: 13px/1.5 system-ui, sans-serif; overflow-x: auto; margin: 4px 0 12px; }
.tinyinfer p { margin: 2px 0; }
.tinyinfer small { opacity: .75; }
.tinyinfer span { white-space: nowrap; }
.tinyinfer table { border-collapse: collapse; margin: 4px 0; }
.tinyinfer tr, .tinyinfer tr:nth-child(even), .tinyinfer tr:hover { background: none; }
.tinyinfer th, .tinyinfer td { border: 0; border-bottom: 1px solid rgba(128, 128, 128, .3); padding: 2px 10px;
  text-align: left; white-space: nowrap; color: inherit; }
.tinyinfer th { font-weight: 600; }
.tinyinfer .run th, .tinyinfer .run td { border: 1px solid rgba(128, 128, 128, .2); padding: 1px 4px; min-width: 22px;
  text-align: center; }
.tinyinfer i { font-style: normal; display: inline-block; min-width: 14px; margin: 1px; padding: 0 4px;
  border: 1px solid rgba(128, 128, 128, .6); border-radius: 3px; text-align: center; }
.tinyinfer .prefill { background: rgba(66, 133, 244, .45); }
.tinyinfer .recompute { background: rgba(245, 124, 0, .55); }
.tinyinfer .decode { background: rgba(52, 168, 83, .45); }
.tinyinfer .drafted { background: rgba(0, 172, 193, .55); }
.tinyinfer .padding { background: repeating-linear-gradient(45deg, rgba(128, 128, 128, .5) 0 3px, transparent 0 6px); }
.tinyinfer .preempted { background: rgba(219, 50, 54, .6); }
.tinyinfer .waiting, .tinyinfer .idle { opacity: .6; }
.tinyinfer .run .ended { border-right: 3px solid; }
.tinyinfer ins { text-decoration: none; padding: 0 3px; background: rgba(52, 168, 83, .45); }
.tinyinfer del { padding: 0 3px; background: rgba(219, 50, 54, .35); }
.tinyinfer .own { --color: rgba(128, 128, 128, .3); }
.tinyinfer .kept { --color: rgba(66, 133, 244, .4); }
.tinyinfer .shared { --color: rgba(156, 39, 176, .45); }
.tinyinfer .new { border: 2px dashed; }
.tinyinfer .block { background: linear-gradient(90deg, var(--color) var(--fill), transparent var(--fill)); }
</style>"""

BLOCK_LEGEND = {
    "own": "of one sequence",
    "kept": "in the prefix cache, too",
    "shared": "shared by several sequences",
    "own new": "allocated in this step",
}
CELL_LEGEND = {
    "prefill": "prompt: rows computed",
    "decode": "decode: new tokens",
    "drafted": "with drafts: accepted/all",
    "recompute": "computed again: its cache was freed",
    "preempted": "preempted",
    "padding": "finished, still in its slot",
}
SIGNS = {"preempted": "×", "idle": "○", "waiting": "…"}


# One step.


class NotebookTrace(StepTrace):
    """A StepTrace that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        return step_page(self)


def step_page(trace: StepTrace) -> str:
    """A step as a table with a line for each sequence that ran."""
    [names, *rows] = trace.table()
    lines = [f"<tr>{''.join(f'<th>{escape(heading(name))}</th>' for name in names)}</tr>"]
    for turn, row in zip(trace.turns, rows, strict=True):
        cells = "".join(f"<td>{turn_cell(turn, name, text)}</td>" for name, text in zip(names, row, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    return page(
        f"<p><b>{escape(trace.title())}</b>: {escape(trace.totals())}</p><p>{escape(trace.events())}</p>"
        f"<table>{''.join(lines)}</table>" + (block_legend() if BLOCKS in names else "")
    )


def heading(name: str) -> str:
    """The heading of a column: colours say in HTML what the text form needs marks for."""
    return {BLOCKS: "blocks", DRAFTS: "drafts"}.get(name, name)


def turn_cell(turn: Turn, name: str, text: str) -> str:
    """The HTML inside a cell of a step's table."""
    if name == BLOCKS:
        return "".join(map(block_cell, turn.blocks))
    if name == DRAFTS:
        tags = ["ins"] * turn.accepted + ["del"] * (len(turn.drafts) - turn.accepted)
        return " ".join(f"<{tag}>{token}</{tag}>" for tag, token in zip(tags, turn.drafts, strict=True))
    if name == "phase":
        return f'<i class="{escape(turn.phase)}">{escape(text)}</i>'
    return escape(text)


def block_cell(block: Block) -> str:
    """A block as a box, coloured in proportion to its filled positions."""
    kind = "shared" if block.sequences > 1 else "kept" if block.kept else "own"
    fill = f"{100 * block.filled / block.size:.0f}%"
    part = f" <small>{block.filled}/{block.size}</small>" if block.filled < block.size else ""
    title = f"block {block.number}: {block.filled} of {block.size} positions, in {block.sequences} table(s)"
    title += ", in the prefix cache" * block.kept + ", allocated in this step" * block.new
    kind += " new" * block.new
    return f'<i class="block {kind}" style="--fill: {fill}" title="{title}">{block.number}{part}</i>'


def block_legend() -> str:
    """What the colours of blocks mean."""
    boxes = [f'<i class="block {name}" style="--fill: 100%">&nbsp;</i> {text}' for name, text in BLOCK_LEGEND.items()]
    return legend(["blocks:", *boxes])


# A run.


@dataclass(frozen=True)
class Timeline:
    """A run: a row for each sequence, a column for each step, and totals of each step below."""

    traces: tuple[StepTrace, ...]

    def ids(self) -> list[int]:
        """The id of every sequence that ran or waited, in order."""
        ids: set[int] = set()
        for trace in self.traces:
            ids.update(turn.id for turn in trace.turns)
            ids.update(trace.waiting)
        return sorted(ids)

    def _repr_html_(self) -> str:
        columns = [run_column(trace) for trace in self.traces]
        lines = [f"<th>step</th>{''.join(f'<th>{i}</th>' for i in range(1, len(columns) + 1))}"]
        for id in self.ids():
            cells = "".join(column.get(id, "<td></td>") for column in columns)
            lines.append(f"<th>sequence {id}</th>{cells}")
        lines.append(f"<th>rows</th>{''.join(f'<td>{len(trace.batch)}</td>' for trace in self.traces)}")
        if any(trace.pool for trace in self.traces):
            lines.append(f"<th>blocks held</th>{''.join(f'<td>{held(trace)}</td>' for trace in self.traces)}")
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return page(f'<table class="run">{body}</table>{cell_legend()}')


def show_steps(traces: Iterable[StepTrace]) -> Timeline:
    """A whole run on one page, for a notebook. The traces may come from an iterator that runs the steps only now."""
    return Timeline(tuple(traces))


def run_column(trace: StepTrace) -> dict[int, str]:
    """Maps each sequence id to the sequence's cell in the timeline."""
    cells = {turn.id: run_cell(turn) for turn in trace.turns if turn.phase != "candidate"}
    absent = {"idle": trace.idle, "waiting": trace.waiting, "preempted": [seq.id for seq in trace.preempted]}
    for name, ids in absent.items():
        cells |= dict.fromkeys(ids, f'<td class="{name}" title="{name}">{SIGNS[name]}</td>')
    return cells


def run_cell(turn: Turn) -> str:
    """What a sequence did, in a number: rows of a prompt, or new tokens of a decode with accepted and all drafts."""
    text = str(len(turn.tokens)) if turn.phase == "decode" else str(turn.rows)
    drafts = f" <small>{turn.accepted}/{len(turn.drafts)}</small>" if turn.drafts else ""
    title = "; ".join(f"{heading(name)}: {value}" for name, value in turn.cells().items() if value)
    kind = ("drafted" if turn.drafts and turn.phase == "decode" else turn.phase) + " ended" * bool(turn.ended)
    return f'<td class="{escape(kind)}" title="{escape(title)}">{text}{drafts}</td>'


def held(trace: StepTrace) -> str:
    """The number of blocks that are not free after the step."""
    return str(trace.pool[1] - trace.pool[0]) if trace.pool else ""


def cell_legend() -> str:
    """What the colours of a timeline mean."""
    boxes = [f'<i class="{name}">{SIGNS.get(name, "&nbsp;")}</i> {text}' for name, text in CELL_LEGEND.items()]
    signs = [f"{SIGNS['waiting']} waits for a slot", f"{SIGNS['idle']} running without rows", "bold edge: ended"]
    return legend([*boxes, *signs])


def legend(entries: list[str]) -> str:
    """Entries that explain colours and signs, as a line below a table."""
    spans = " &ensp; ".join(f"<span>{entry}</span>" for entry in entries)
    return f"<p><small>{spans}</small></p>"


def page(body: str) -> str:
    """A complete piece of HTML: the styles, then the body."""
    return f'{STYLE}<div class="tinyinfer">{body}</div>'
