"""The step player: a recorded run under a slider, with all that each step did and found.

Python draws every step. A step's drawing is cut into pieces (a block, a cell of a table, a box of the tree), and steps
have most of their pieces in common. So the page holds each piece once and, for each step, the numbers of its pieces.
The script joins them: it draws nothing itself, and without it the page shows the last step and a table of all steps.

Loses: a run of thousands of steps becomes megabytes of numbers; record a shorter one.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator
from html import escape

from tinyinfer.units import amount
from tinyinfer.views import costs, pool, rows, seats, tree
from tinyinfer.views.costs import duration
from tinyinfer.views.page import View, grid, hue, visible
from tinyinfer.views.pool import Pool
from tinyinfer.views.recording import Recording, Step
from tinyinfer.views.seats import Seats, across
from tinyinfer.views.sentence import described, sentence
from tinyinfer.views.tree import PrefixTree

PARTS = ("rows", "seats", "pool", "tree", "drafts", "cost")
HEADINGS = {"rows": "Rows of the batch", "pool": "Pool of blocks", "tree": "Prefix tree", "drafts": "Drafts"}
MANY = 12  # prompts that are folded
LONGEST = 48  # characters of a prompt that are shown
STYLE = """
.tinyinfer-view .controls { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; max-width: 960px; }
.tinyinfer-page .controls { position: sticky; top: 0; z-index: 1; padding: 6px 0; background: var(--paper); }
.tinyinfer-view [hidden] { display: none; }
.tinyinfer-view button { font: inherit; color: inherit; background: var(--soft); border: 1px solid var(--line);
  border-radius: 4px; padding: 3px 10px; min-width: 52px; cursor: pointer; }
.tinyinfer-view input[type=range] { flex: 1 1 240px; margin: 4px; accent-color: var(--accent); }
.tinyinfer-view .sentence { font-size: 14px; min-height: 42px; max-width: 960px; margin: 8px 0; }
.tinyinfer-view .lane { cursor: default; }
.tinyinfer-view .now { position: absolute; top: 0; bottom: 0; min-width: 4px; border: 2px solid var(--accent);
  border-radius: 2px; pointer-events: none; }
.tinyinfer-view summary { cursor: pointer; margin: 12px 0 4px; }
"""
SCRIPT = """
(() => {
  const data = DATA, last = data.steps - 1;
  const slow = matchMedia("(prefers-reduced-motion: reduce)").matches;
  for (const root of document.querySelectorAll('[data-player="KEY"]:not([data-ready])')) {
    root.setAttribute("data-ready", "");
    const all = name => [...root.querySelectorAll(name)];
    const [box] = all(".controls");
    box.innerHTML = data.controls;
    for (const control of box.children) control.setAttribute("data-lm-suppress-shortcuts", "true");  // of JupyterLab
    const [range] = all("input"), [play] = all("[data-go=play]"), [said] = all("[data-part=sentence]");
    let timer = 0;
    const show = step => {
      range.value = step;
      range.setAttribute("aria-valuetext", `step ${step + 1} of ${data.steps}`);
      for (const part of all("[data-part]")) {
        part.innerHTML = data.parts[part.dataset.part][step].map(piece => data.pieces[piece]).join("");
        part.style.minHeight = `${part.offsetHeight}px`;  // what stands below does not jump
      }
      for (const mark of all(".now")) mark.style.left = `${100 * step / data.columns}%`;
    };
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      play.textContent = "play";
      said.setAttribute("aria-live", "polite");
    };
    const start = () => {
      if (+range.value === last) show(0);
      play.textContent = "pause";
      said.setAttribute("aria-live", "off");
      timer = setInterval(() => +range.value < last && root.isConnected ? show(+range.value + 1) : stop(),
        slow ? 2000 : 900);
    };
    const go = { first: () => 0, back: at => at - 1, next: at => at + 1, last: () => last };
    for (const button of all("[data-go]")) button.addEventListener("click", () => {
      const playing = timer;
      stop();
      const move = go[button.dataset.go];
      if (move) show(Math.min(last, Math.max(0, move(+range.value))));
      else if (!playing) start();
    });
    range.addEventListener("input", () => { stop(); show(+range.value); });
    for (const lane of all(".lane")) lane.addEventListener("click", event => {
      const { left, width } = lane.getBoundingClientRect();
      stop();
      show(Math.min(last, Math.max(0, Math.floor((event.clientX - left) / width * data.columns))));
    });
    addEventListener("resize", () => all("[data-part]").forEach(part => part.style.minHeight = ""));
    for (const note of all("[data-still]")) note.hidden = true;
    show(0);
  }
})();
"""


class StepPlayer(View):
    """A recorded run under a slider. parts: which of PARTS are shown, in order. title: its heading. columns: see Seats.

    A part that the run has nothing of (no blocks, no prefix tree, no drafts) is left out. Raises ValueError for a part
    that does not exist.
    """

    style = "".join((pool.STYLE, tree.OWN_STYLE, seats.STYLE, rows.STYLE, costs.STYLE, STYLE))

    def __init__(self, recording: Recording, parts: Collection[str] = PARTS, title: str = "", columns: int = 0) -> None:
        if unknown := [part for part in parts if part not in PARTS]:
            raise ValueError(f"the player has no part {unknown[0]!r}; its parts are {', '.join(PARTS)}")
        self.recording, self.title = recording, title
        steps = recording.steps
        self.columns = max(columns, len(steps))
        there = {
            "pool": any(step.num_blocks for step in steps),
            "tree": any(step.tree for step in steps),
            "drafts": any(turn.drafts for step in steps for turn in step.turns),
        }
        self.parts = [part for part in parts if there.get(part, True)]
        self.blocks = pool.drawn_blocks(steps)

    def text(self) -> str:
        return "\n".join(sentence(self.recording, i) for i in range(len(self.recording.steps)))

    def html(self) -> str:
        if not self.recording.steps:
            return super().html()
        data = self.data()
        key = f"{zlib.crc32(data.encode()):08x}"
        script = SCRIPT.replace("KEY", key).replace("DATA", data)
        opened = '<div class="tinyinfer-view"'
        return super().html().replace(opened, f'{opened} data-player="{key}"', 1) + f"<script>{script}</script>"

    def body(self) -> str:
        if not self.recording.steps:
            return "<p>No step was run.</p>"
        return "".join([*self._head(), *map(self._part, self.parts), self._table()])

    # What changes with the step.

    def data(self) -> str:
        """The pieces of all drawings and, for each part and step, the numbers of its pieces; safe inside a script."""
        numbers: dict[str, int] = {}
        parts: dict[str, list[list[int]]] = {}
        for i in range(len(self.recording.steps)):
            for name, pieces in self.drawings(i).items():
                places = [numbers.setdefault(piece, len(numbers)) for piece in pieces]
                parts.setdefault(name, []).append(places)
        steps = len(self.recording.steps)
        data = {
            "steps": steps,
            "columns": self.columns,
            "controls": controls(steps),
            "parts": parts,
            "pieces": list(numbers),
        }
        text = json.dumps(data, separators=(",", ":"))
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")

    def drawings(self, i: int) -> dict[str, list[str]]:
        """The pieces of each changing part of step i, by its name in the page."""
        recording, step = self.recording, self.recording.steps[i]
        drawn = {"sentence": [escape(sentence(recording, i))]}
        if "rows" in self.parts:
            drawn["rows"] = rows.row_pieces(recording, step)
        if "seats" in self.parts:
            drawn["waiting"] = waiting_pieces(step)
        if "pool" in self.parts:
            drawn["pool"] = Pool(step, most=self.blocks).pieces()
        if "tree" in self.parts:
            drawn["tree"] = PrefixTree(step).pieces()
        if "drafts" in self.parts:
            drawn["drafts"] = rows.draft_pieces(recording, step)
        if "cost" in self.parts:
            drawn |= {f"cost-{one.key}": [one.shown(one.value(step))] for one in costs.measures(recording)}
        return drawn

    # The page, at the last step.

    def _head(self) -> Iterator[str]:
        switches = ", ".join(f"{name}={value}" for name, value in self.recording.switches.items())
        yield f'<p class="note">{escape(switches)}</p>' if switches else ""
        yield '<div class="controls"></div>'
        last = self._changing("sentence")
        yield last.replace("<div", '<div class="sentence" aria-live="polite"', 1)
        yield (
            '<p class="note" data-still>This is the last step. Where scripts may run, a slider leads through all '
            "steps; the table below lists them.</p>"
        )
        chips = " ".join(prompt_chip(id, text) for id, text in enumerate(self.recording.prompts))
        many = len(self.recording.prompts)
        yield f"<details><summary>The prompts of {many} sequences</summary>{chips}</details>" if many > MANY else chips

    def _changing(self, name: str) -> str:
        """The place of a changing part, filled with the last step's drawing."""
        pieces = self.drawings(len(self.recording.steps) - 1)[name]
        return f'<div data-part="{name}">{"".join(pieces)}</div>'

    def _part(self, name: str) -> str:
        if name == "seats":
            drawn = Seats(self.recording, columns=self.columns)
            return f"<h5>Seats</h5>{drawn.drawn(self._mark())}{self._changing('waiting')}{drawn.legend()}"
        if name == "cost":
            return f"<h5>What each step costs</h5>{self._costs()}"
        legends = {"pool": lambda: pool.pool_legend(self.recording.steps), "tree": tree.tree_legend}
        legend = legends[name]() if name in legends else ""
        return f"<h5>{HEADINGS[name]}</h5>{self._changing(name)}{legend}"

    def _costs(self) -> str:
        last = self.drawings(len(self.recording.steps) - 1)
        lanes = "".join(
            f'<div>{one.name}<b data-part="cost-{one.key}">{last[f"cost-{one.key}"][0]}</b></div>'
            f'<div class="lane tall">{costs.bars(self.recording, one, self.columns)}{self._mark()}</div>'
            for one in costs.measures(self.recording)
        )
        return f'<div class="lanes">{lanes}</div>'

    def _mark(self) -> str:
        """The frame around the step that is looked at, in a lane of all steps."""
        return f'<i class="now" style="{across(len(self.recording.steps) - 1, 1, self.columns)}"></i>'

    def _table(self) -> str:
        lines = [
            [
                str(i), escape(described(step)), str(step.rows), duration(step.end - step.begin),
                amount(step.ledger.flops, "FLOP"), amount(step.ledger.bytes_moved, "B"),
            ]
            for i, step in enumerate(self.recording.steps, 1)
        ]  # fmt: skip
        table = grid(["step", "what it did", "rows", "time", "arithmetic", "bytes moved"], lines, numbers=(2, 3, 4, 5))
        return f"<details><summary>All {len(lines)} steps as a table</summary>{table}</details>"


def controls(steps: int) -> str:
    """The slider and its buttons, which the script puts into the page: without it they would do nothing."""
    buttons = {"first": "first step", "back": "step back", "play": "play or pause", "next": "next step",
               "last": "last step"}  # fmt: skip
    drawn = "".join(
        f'<button type="button" data-go="{go}" aria-label="{label}">{go}</button>' for go, label in buttons.items()
    )
    slider = f'<input type="range" min="0" max="{steps - 1}" step="1" value="{steps - 1}" aria-label="step">'
    return f"{drawn}{slider}"


def waiting_pieces(step: Step) -> list[str]:
    """The HTML of a step's waiting queue."""
    chips = [f'<span class="chip fill" style="{hue(id)}">{id}</span>' for id in step.waiting]
    return ["Waiting in this step: ", *(chips or ["no sequence"])]


def prompt_chip(id: int, text: str) -> str:
    """A sequence with the beginning of its prompt."""
    short = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return f'<span class="chip fill" style="{hue(id)}">{id}: {escape(visible(short))}</span>'
