"""What one step did, for people: which sequences ran, what was computed, reused, drafted and shared, and what it cost.

Step through `LLM.steps(...)` and print each trace, or let a notebook show it (trace_html.py). Sequences move on, so a
trace keeps copies of all that changes and shows what was true in its step whenever it is looked at. Each of its numbers
is a count that exists anyway. Only blocks and the waiting queue cost something to write down, and are written down only
when the run is watched (recorder.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from tinyinfer.ledger import Ledger
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Sequence
from tinyinfer.units import amount

BLOCKS = "blocks (* shared, ' in prefix cache, + new)"  # the heading of a column
DRAFTS = "drafts accepted | rejected"


@dataclass(frozen=True)
class Block:
    """A block of a sequence's block table while its step runs.

    filled: how many of its `size` positions are computed then, drafts included. sequences: how many sequences hold the
    block. kept: whether the prefix cache holds it, too. new: whether it was allocated for this step.
    """

    number: int
    filled: int
    size: int
    sequences: int
    kept: bool
    new: bool

    def __str__(self) -> str:
        marks = "*" * (self.sequences > 1) + "'" * self.kept + "+" * self.new
        return f"{self.number}{marks}" + (f"({self.filled}/{self.size})" if self.filled < self.size else "")


class Turn(NamedTuple):
    """What one sequence did in a step.

    phase: "prefill", "decode", "candidate" (decode with other drafts), "recompute" (after a preemption, or when the
    rows get another set of rotations from now on) or "padding" (finished, but still in its slot). The sequence computed
    `rows` positions from `first` on, `again` of them not for the first time, and reused those before. cached: how many
    positions the prefix cache had when the sequence was admitted, in this step. drafts: the drafts that were verified.
    tokens: the sequence's new ones; a rejected candidate has none. ended: why the sequence ended, if it did.
    """

    id: int
    phase: str
    first: int
    rows: int
    again: int
    cached: int
    drafts: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    tokens: tuple[int, ...] = ()
    ended: str = ""

    @property
    def accepted(self) -> int:
        """How many of the drafts were accepted and used."""
        return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(self.drafts, self.tokens, strict=False))))

    @property
    def positions(self) -> str:
        """The computed positions as text, such as 5 or 0-15."""
        return f"{self.first}-{self.first + self.rows - 1}" if self.rows > 1 else str(self.first)

    def cells(self) -> dict[str, str]:
        """Column heading -> what the text form shows there."""
        accepted, rejected = self.drafts[: self.accepted], self.drafts[self.accepted :]
        ended = f"ended: {self.ended}" if self.ended else ""
        return {
            "sequence": str(self.id),
            "phase": self.phase,
            "positions": self.positions,
            "computed": f"{self.rows} ({self.again} again)" if self.again else str(self.rows),
            "reused": f"{self.first} (prefix cache)" if self.cached else str(self.first),
            DRAFTS: f"{words(accepted)} | {words(rejected)}".strip() if self.drafts else "",
            "new tokens": ", ".join(filter(None, [words(self.tokens), ended])) or "-",
            BLOCKS: words(self.blocks),
        }


@dataclass(frozen=True)
class StepTrace:
    """One engine step. times: when it began, when the logits were there, when it ended (seconds).

    ledger: what this step alone counted. cache_bytes, wasted_bytes: what the cache holds after the step, and the unused
    part; pool: its free blocks and all blocks, None for a cache without blocks; blocks_held: those that sequences hold,
    and not the prefix cache alone. turns: what each span of the batch did.
    joined, left, preempted: the sequences that were admitted, finished, or preempted. When the run is watched, idle and
    waiting: the ids of running sequences without rows, and of sequences that have arrived and wait for a slot.
    replica: the number of the replica that took the step, if there are several (replicas/).
    """

    batch: Batch
    choices: list[list[Choice]]
    times: tuple[float, float, float]
    ledger: Ledger
    cache_bytes: int
    wasted_bytes: int
    pool: tuple[int, int] | None = None
    turns: tuple[Turn, ...] = ()
    joined: tuple[Sequence, ...] = ()
    left: tuple[Sequence, ...] = ()
    preempted: tuple[Sequence, ...] = ()
    idle: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    replica: int | None = None
    blocks_held: int = 0

    @property
    def seconds(self) -> float:
        """Duration of the whole step."""
        return self.times[2] - self.times[0]

    @property
    def seconds_outside(self) -> float:
        """The part of the step after the forward pass: choosing tokens, text, bookkeeping."""
        return self.times[2] - self.times[1]

    def table(self) -> list[list[str]]:
        """Headings, then a line of cells for each sequence that ran; drafts and blocks only if there are any."""
        rows = [turn.cells() for turn in self.turns]
        optional = (DRAFTS, BLOCKS)
        names = [name for name in (rows[0] if rows else ()) if name not in optional or any(row[name] for row in rows)]
        return [names, *([row[name] for name in names] for row in rows)]

    def title(self) -> str:
        """The size of the step, in words, and where it was, if there are several replicas."""
        place = "" if self.replica is None else f"replica {self.replica}, "
        return place + self._size()

    def _size(self) -> str:
        if not len(self.batch):
            return "idle step, no sequence was ready to run"
        return f"step of {len(self.batch)} row" + "s" * (len(self.batch) != 1)

    def totals(self) -> str:
        """What the step cost, and what the cache holds after it."""
        c = self.ledger
        return (
            f"{self.seconds * 1e3:.1f} ms, {amount(c.flops, 'FLOP')}, {amount(c.weight_bytes, 'B')} of weights, "
            f"KV {amount(c.kv_read_bytes, 'B')} read + {amount(c.kv_written_bytes, 'B')} written, "
            f"cache {amount(self.cache_bytes, 'B')} ({amount(self.wasted_bytes, 'B')} unused)"
            + (f", {self.pool[0]} of {self.pool[1]} blocks free" if self.pool else "")
        )

    def events(self) -> str:
        """Which sequences came, left and wait; empty when none did."""
        groups = {
            "joined": [str(seq.id) for seq in self.joined],
            "left": [f"{seq.id} ({seq.progress.finish_reason})" for seq in self.left],
            "preempted": [str(seq.id) for seq in self.preempted],
            "without rows": [str(id) for id in self.idle],
            "waiting": [str(id) for id in self.waiting],
        }
        return "; ".join(f"{name}: {', '.join(group)}" for name, group in groups.items() if group)

    def __str__(self) -> str:
        lines = [f"{self.title()}: {self.totals()}"]
        if self.events():
            lines.append(f"  {self.events()}")
        table = self.table() if self.turns else []
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append(("  " + "  ".join(cells)).rstrip())
        return "\n".join(lines)


def words(values: Iterable[object]) -> str:
    """The values as text, separated by spaces."""
    return " ".join(map(str, values))
