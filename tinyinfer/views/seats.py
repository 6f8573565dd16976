"""The seats of an engine as a timeline: a line for each seat, and on it the sequence that sat there, step by step.

White is an empty seat, hatched one that a finished sequence keeps (static batching). Fewer white and hatched places
mean fewer steps for the same tokens.

>>> print(Seats.of_schedule([[0, 1], [0, None], [2, None]]))
seat 0  0 0 2
seat 1  1 . .
3 steps on 2 seats: 4 of 6 places busy, 2 empty
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

from tinyinfer.views.page import View, hue, legend
from tinyinfer.views.recording import Recording, Step

PROMPT = ("prefill", "recompute")
STYLE = """
.tinyinfer-view .lanes { display: grid; grid-template-columns: 92px 1fr; gap: 3px 10px;
  align-items: center; max-width: 960px; margin: 4px 0; }
.tinyinfer-view .lane { position: relative; height: 24px; border: 1px solid var(--line); border-radius: 3px;
  overflow: hidden; }
.tinyinfer-view .lane > span { position: absolute; top: 0; bottom: 0; overflow: hidden; padding-left: 4px;
  font-size: 12px; line-height: 22px; white-space: nowrap; border-right: 1px solid var(--paper); }
.tinyinfer-view .prompt { border-bottom: 5px solid oklch(var(--deep) var(--h)); }
.tinyinfer-view .legend .prompt { border-width: 1px 1px 5px; }
.tinyinfer-view .lane > .hatched, .tinyinfer-view .lane > .fill { border-radius: 2px; }
.tinyinfer-view .queue { background: var(--soft); }
.tinyinfer-view .ends { display: flex; justify-content: space-between; font-size: 12px; opacity: .82; }
"""


@dataclass(frozen=True)
class Place:
    """A seat in a step. kind: "prompt" (rows of a prompt), "decode", "idle" (no rows), "padding" or "empty"."""

    id: int | None
    kind: str

    def __str__(self) -> str:
        return {"empty": ".", "padding": "/"}.get(self.kind, str(self.id))


EMPTY = Place(None, "empty")


class Seats(View):
    """The timeline of a recorded run, or of the places of a schedule (by step and seat).

    title: its heading. columns: how many steps are as wide as the view, if more than the run has: two runs that are
    compared have one scale.
    """

    style = STYLE

    def __init__(self, run: Recording | Sequence[Sequence[Place]], title: str = "", columns: int = 0) -> None:
        steps = recorded_places(run) if isinstance(run, Recording) else run
        self.lanes = [list(lane) for lane in zip(*steps, strict=True)]
        self.waiting = [len(step.waiting) for step in run.steps] if isinstance(run, Recording) else []
        self.title, self.num_steps = title, len(steps)
        self.columns = max(columns, self.num_steps)

    @classmethod
    def of_schedule(
        cls,
        schedule: Sequence[Sequence[int | None]],
        title: str = "",
        padding: Collection[tuple[int, int]] = (),
        columns: int = 0,
    ) -> Seats:
        """The timeline of a schedule: for each step the sequence in each seat, None for an empty seat.

        padding: (step, seat) of each place that a finished sequence keeps. Raises ValueError for steps of unequal
        numbers of seats.
        """
        if len({len(seats) for seats in schedule}) > 1:
            raise ValueError("each step of a schedule has the same number of seats; write None for an empty one")
        kinds = {True: "padding", False: "decode"}
        return cls(
            [
                [EMPTY if id is None else Place(id, kinds[(i, j) in padding]) for j, id in enumerate(seats)]
                for i, seats in enumerate(schedule)
            ],
            title,
            columns,
        )

    def count(self, *kinds: str) -> int:
        """How many places are of these kinds."""
        return sum(place.kind in kinds for lane in self.lanes for place in lane)

    def summary(self) -> str:
        """What the timeline shows, in one line."""
        empty, padding, idle = map(self.count, ("empty", "padding", "idle"))
        places = self.num_steps * len(self.lanes)
        rest = f", {padding} padding" * bool(padding) + f", {idle} without rows" * bool(idle)
        busy = places - empty - padding - idle
        return f"{self.num_steps} steps on {len(self.lanes)} seats: {busy} of {places} places busy, {empty} empty{rest}"

    def drawn(self, mark: str = "") -> str:
        """The HTML of the lanes alone. mark: what each lane shows on top, such as the step that is looked at."""
        label = f' role="img" aria-label="{self.summary()}"'
        lanes = [(f"seat {i}", places(lane, self.columns)) for i, lane in enumerate(self.lanes)]
        if any(self.waiting):
            lanes.append(("waiting", queue(self.waiting, self.columns)))
        cells = "".join(f'<div>{name}</div><div class="lane">{inner}{mark}</div>' for name, inner in lanes)
        ends = f'<div>step</div><div class="ends"><span>1</span> <span>{self.columns}</span></div>'
        return f'<div class="lanes"{label}>{cells}{ends}</div>'

    def body(self) -> str:
        return f"{self.drawn()}<p>{self.summary()}.</p>{self.legend()}"

    def legend(self) -> str:
        """What the colours mean, as far as this timeline has them."""
        entries = [("prompt", "fill prompt", "thick edge: rows of its prompt"), ("padding", "hatched", "padding")]
        entries += [("idle", "plain", "in its seat, without rows")]
        shown = [(classes, words) for kind, classes, words in entries if self.count(kind)]
        return legend([("fill", "the sequence in the seat"), *shown, ("", "empty")], "--h: 255")

    def text(self) -> str:
        width = max((len(str(place)) for lane in self.lanes for place in lane), default=1)
        lines = [
            f"seat {i}  " + " ".join(str(place).rjust(width) for place in lane) for i, lane in enumerate(self.lanes)
        ]
        return "\n".join([*lines, self.summary()])


def recorded_places(recording: Recording) -> list[list[Place]]:
    """What each seat did in each step; seats behind the last one that was ever used are left out."""
    steps = recording.steps
    used = max((i + 1 for step in steps for i, id in enumerate(step.seats) if id is not None), default=1)
    return [[place(step, id) for id in step.seats[:used]] for step in steps]


def place(step: Step, id: int | None) -> Place:
    """What the sequence in a seat did in a step."""
    if id is None:
        return EMPTY
    phases = {turn.id: turn.phase for turn in step.turns if turn.phase != "candidate"}
    phase = phases.get(id, "idle")
    return Place(id, "prompt" if phase in PROMPT else phase)


def places(lane: Sequence[Place], columns: int) -> str:
    """A seat's line: a bar for each stretch of steps in which the same sequence did the same."""
    bars, start = [], 0
    classes = {"prompt": "fill prompt", "decode": "fill", "padding": "hatched", "idle": "plain"}
    shown = None
    for one, group in groupby(lane):
        length = len(list(group))
        if one.id is not None:
            words = f"sequence {one.id}: {one.kind}, steps {start + 1} to {start + length}"
            label = one.id if one.id != shown else ""
            style = f"{hue(one.id)}; {across(start, length, columns)}"
            bars.append(f'<span class="{classes[one.kind]}" style="{style}" title="{words}">{label}</span>')
        shown, start = one.id, start + length
    return " ".join(bars)


def queue(waiting: Sequence[int], columns: int) -> str:
    """The line of the waiting queue: how many sequences wait, for each stretch of steps."""
    bars, start = [], 0
    for number, group in groupby(waiting):
        length = len(list(group))
        style = across(start, length, columns)
        bars.append(f'<span class="queue" style="{style}" title="{number} waiting">{number}</span>' if number else "")
        start += length
    return " ".join(bars)


def across(start: int, length: int, columns: int) -> str:
    """The CSS that places something over some of the steps."""
    return f"left: {100 * start / columns:.3f}%; width: {100 * length / columns:.3f}%"
