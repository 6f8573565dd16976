"""What one step did, for people: who ran, what was computed, reused, guessed and shared, what came out, what it cost.

Step through `LLM.steps(...)` and print each one, or let a notebook show it (trace_html.py). Sequences move on, so a
trace keeps copies of all that changes and shows what was true in its step whenever it is looked at. Each of its numbers
is a count that exists anyway; only blocks and the queue cost something to write down, and are when the run is watched.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tinyinfer.ledger import Ledger
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Sequence, Span
from tinyinfer.units import amount

if TYPE_CHECKING:
    from tinyinfer.batching.scheduler import ContinuousScheduler
    from tinyinfer.kv_cache.base import Cache
    from tinyinfer.kv_cache.blocks import BlockPool

BLOCKS = "blocks (* shared, ' in prefix cache, + new)"  # the heading of a column
GUESSES = "guesses right | wrong"


@dataclass(frozen=True)
class Block:
    """A block of a sequence's table while its step runs.

    filled: how many of its `size` positions are computed then, guesses included. sequences: how many hold it.
    kept: whether the prefix cache holds it, too. new: whether it was taken for this step.
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


@dataclass(frozen=True)
class Turn:
    """What one sequence did in a step.

    phase: "prefill", "decode", "rival" (decode in another branch), "recompute" (after a preemption) or "padding"
    (finished, but keeps its seat). It computed `rows` positions from `first` on, `again` of them not for the first
    time, and reused those before. cached: how many the prefix cache had when it was admitted, in this step. drafts: the
    guesses that it verified. tokens: the sequence's new ones; a rival that was wrong has none. ended: why, if it ended.
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
        """How many of its guesses were right and used."""
        return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(self.drafts, self.tokens, strict=False))))

    @property
    def positions(self) -> str:
        """The computed ones."""
        return f"{self.first}-{self.first + self.rows - 1}" if self.rows > 1 else str(self.first)

    def cells(self) -> dict[str, str]:
        """Column heading -> what the text form shows there."""
        right, wrong = self.drafts[: self.accepted], self.drafts[self.accepted :]
        ended = f"ended: {self.ended}" if self.ended else ""
        return {
            "sequence": str(self.id),
            "phase": self.phase,
            "positions": self.positions,
            "computed": f"{self.rows} ({self.again} again)" if self.again else str(self.rows),
            "reused": f"{self.first} (prefix cache)" if self.cached else str(self.first),
            GUESSES: f"{words(right)} | {words(wrong)}".strip() if self.drafts else "",
            "new tokens": ", ".join(filter(None, [words(self.tokens), ended])) or "-",
            BLOCKS: words(self.blocks),
        }


@dataclass(frozen=True)
class Plan:
    """A step that is put together and not yet computed: what its trace could not find out afterwards."""

    batch: Batch
    turns: tuple[Turn, ...]
    idle: tuple[int, ...]
    waiting: tuple[int, ...]

    def done(self) -> tuple[Turn, ...]:
        """The turns with what came of them."""
        return tuple(finish_turn(*pair) for pair in zip(self.turns, self.batch.spans, strict=True))


@dataclass(frozen=True)
class StepTrace:
    """One engine step. times: when it began, when the logits were there, when it ended (seconds).

    ledger: what this step alone counted. cache_bytes, wasted_bytes: what the cache holds after it, and the unused part;
    pool: its free blocks and all blocks, None without any. turns: what each span of the batch did. joined, left,
    preempted: who was admitted for it, was finished and went, or had to give its cache back. When the run is watched,
    idle and waiting: the ids of those who had a seat and got no rows, and of those who had arrived and got no seat.
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

    @property
    def seconds(self) -> float:
        """Duration of the whole step."""
        return self.times[2] - self.times[0]

    @property
    def seconds_outside(self) -> float:
        """The part of it not spent in the forward pass: choosing tokens, text, bookkeeping."""
        return self.times[2] - self.times[1]

    def table(self) -> list[list[str]]:
        """Headings, then a line of cells for each sequence that ran; guesses and blocks only if there are any."""
        rows = [turn.cells() for turn in self.turns]
        optional = (GUESSES, BLOCKS)
        names = [name for name in (rows[0] if rows else ()) if name not in optional or any(row[name] for row in rows)]
        return [names, *([row[name] for name in names] for row in rows)]

    def title(self) -> str:
        """How big it was."""
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
        """Who came and went, and who waits; empty when nobody does."""
        groups = {
            "joined": [str(seq.id) for seq in self.joined],
            "left": [f"{seq.id} ({seq.finish_reason})" for seq in self.left],
            "preempted": [str(seq.id) for seq in self.preempted],
            "without rows": [str(id) for id in self.idle],
            "waiting": [str(id) for id in self.waiting],
        }
        return "; ".join(f"{name}: {', '.join(group)}" for name, group in groups.items() if group)

    def __str__(self) -> str:
        lines = [f"{self.title()}: {self.totals()}"]
        if self.events():
            lines.append(f"  {self.events()}")
        table = self.table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append(("  " + "  ".join(cells)).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        from tinyinfer.engine.trace_html import step_page

        return step_page(self)


# Writing a step down, in two halves.


@runtime_checkable
class Paged(Protocol):
    """A cache that has blocks to show."""

    blocks: BlockPool
    block_size: int


def make_plan(batch: Batch, scheduler: ContinuousScheduler, now: float, watch: bool) -> Plan:
    """What the scheduler decided. watch: with the blocks of each sequence, and who waits."""
    tables = read_tables(batch, scheduler) if watch else {}
    turns = tuple(start_turn(span, span.seq in scheduler.joined, tables.get(span.seq, ())) for span in batch.spans)
    if not watch:
        return Plan(batch, turns, (), ())
    ran = {turn.id for turn in turns}
    idle = tuple(seq.id for seq in scheduler.running if seq.id not in ran)
    return Plan(batch, turns, idle, tuple(seq.id for seq in scheduler.waiting if seq.arrival <= now))


def start_turn(span: Span, joined: bool, blocks: tuple[Block, ...]) -> Turn:
    """What a sequence is about to do."""
    seq, stop = span.seq, span.first + span.rows
    again = 0 if seq.finished else max(0, min(seq.seen, stop) - span.first)
    phase = "prefill" if stop <= len(seq.prompt) else "decode"
    if seq.finished:
        phase = "padding"
    elif seq.preemptions and again:
        phase = "recompute"
    elif seq.parent:
        phase = "rival"
    drafts = tuple(draft.token for draft in seq.drafts) if span.wanted else ()  # else they are for a later step
    own = seq.parent or seq
    return Turn(own.id, phase, span.first, span.rows, again, span.first if joined else 0, drafts, blocks)


def finish_turn(turn: Turn, span: Span) -> Turn:
    """The turn with its new tokens, those behind what was known; `wanted` is 0 for a piece of a prompt and padding.

    A rival that was wrong has none.
    """
    known = turn.first + turn.rows - len(turn.drafts)
    if not span.wanted or (turn.phase == "rival" and span.seq.tokens[known] != turn.drafts[0]):
        return turn
    return replace(turn, tokens=tuple(span.seq.tokens[known:]), ended=span.seq.finish_reason or "")


def read_tables(batch: Batch, scheduler: ContinuousScheduler) -> dict[Sequence, tuple[Block, ...]]:
    """The blocks of each sequence of the batch, while the step has them all; empty for a cache without blocks."""
    cache = scheduler.cache
    if not isinstance(cache, Paged):
        return {}
    tables = {seq: cache.block_table(seq) for seq in {*scheduler.running, *(span.seq for span in batch.spans)}}
    sequences = Counter(block for table in tables.values() for block in table)
    return {span.seq: read_blocks(cache, tables[span.seq], span, sequences) for span in batch.spans}


def read_blocks(cache: Paged, table: tuple[int, ...], span: Span, sequences: Counter[int]) -> tuple[Block, ...]:
    """The blocks of one sequence. Those behind the positions that it had were taken for this step."""
    size, blocks = cache.block_size, []
    for i, number in enumerate(table):
        filled = min(size, span.first + span.rows - i * size)
        kept = cache.blocks.holders[number] > sequences[number]
        blocks.append(Block(number, filled, size, sequences[number], kept, new=i * size >= span.first))
    return tuple(blocks)


def count_blocks(cache: Cache) -> tuple[int, int] | None:
    """Free blocks, and all; None for a cache without blocks."""
    return (len(cache.blocks.free), cache.blocks.num_blocks) if isinstance(cache, Paged) else None


def words(values: tuple[object, ...]) -> str:
    """One behind the other."""
    return " ".join(map(str, values))
