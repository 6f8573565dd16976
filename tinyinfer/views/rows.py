"""The rows of a step's batch by sequence, as a bar and as a table; and its drafts, accepted and rejected, as text."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from tinyinfer.engine.trace import Turn
from tinyinfer.views.page import grid_pieces, hue, visible
from tinyinfer.views.recording import Recording, Step
from tinyinfer.views.sentence import counted

STYLE = """
.tinyinfer-view .batch { display: flex; gap: 2px; max-width: 960px; height: 24px; margin: 4px 0; }
.tinyinfer-view .batch span { flex: 1 1 0; min-width: 0; overflow: hidden; padding-left: 4px; border-radius: 3px;
  font-size: 12px; line-height: 24px; white-space: nowrap; }
.tinyinfer-view .drafts { margin: 4px 0; }
.tinyinfer-view del.chip { text-decoration: line-through; }
.tinyinfer-view ins.chip { text-decoration: none; }
"""


def row_pieces(recording: Recording, step: Step) -> list[str]:
    """The HTML of a step's rows: a bar as wide as each sequence's part of the batch, and a line for each sequence."""
    if not step.turns:
        return ["<p>No row was computed.</p>"]
    headings = ["sequence", "phase", "positions", "rows", "reused", "new tokens"] + ["block table"] * bool(step.blocks)
    lines = [cells(recording, turn)[: len(headings)] for turn in step.turns]
    return ['<div class="batch">', *map(bar, step.turns), "</div>", *grid_pieces(headings, lines, numbers=(3, 4))]


def bar(turn: Turn) -> str:
    """A sequence's part of the batch."""
    words = f"sequence {turn.id}: {counted(turn.rows, 'row')}"
    kind = "hatched" if turn.phase == "padding" else "fill"
    return f'<span class="{kind}" style="{hue(turn.id)}; flex-grow: {turn.rows}" title="{words}">{turn.id}</span>'


def cells(recording: Recording, turn: Turn) -> list[str]:
    """What the table says of a sequence."""
    text = visible("".join(map(recording.word, turn.tokens)))
    ended = f' <span class="note">ended: {escape(turn.ended)}</span>' if turn.ended else ""
    again = f" ({turn.again} again)" if turn.again else ""
    return [
        f'<span class="chip fill" style="{hue(turn.id)}">{turn.id}</span>',
        turn.phase,
        turn.positions,
        f"{turn.rows}{again}",
        f"{turn.first}" + " (prefix cache)" * bool(turn.cached),
        f'<span class="chip plain">{escape(text)}</span>{ended}' if text else ended or "-",
        " ".join(str(block.number) for block in turn.blocks),
    ]


def draft_pieces(recording: Recording, step: Step) -> list[str]:
    """The HTML of a step's drafts: a line for each sequence that had some."""
    drafted = [turn for turn in step.turns if turn.drafts]
    if not drafted:
        return ["<p>No draft was verified.</p>"]
    return [piece for turn in drafted for piece in draft_line(recording, turn)]


def draft_line(recording: Recording, turn: Turn) -> Iterator[str]:
    """The drafts of one sequence, those that were accepted first."""
    yield f'<div class="drafts"><span class="chip fill" style="{hue(turn.id)}">{turn.id}</span> '
    for i, token in enumerate(turn.drafts):
        tag, kind = ("ins", "good") if i < turn.accepted else ("del", "bad")
        yield f'<{tag} class="chip {kind}">{escape(visible(recording.word(token)))}</{tag}>'
    yield f' <span class="note">{turn.accepted} of {len(turn.drafts)} accepted</span></div>'
