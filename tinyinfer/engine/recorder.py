"""Writes down what a step does, while it does it.

A step changes its sequences, so some facts must be read between planning and computing (which positions are computed
again, which blocks the sequences hold) and some at its end (new tokens, what the cache holds). The recorder is wrapped
around the step and around its forward pass, so that neither mentions it. Block tables and the waiting queue cost time
to copy: they are copied only for a step that is watched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tinyinfer.batching.scheduler import Scheduler
from tinyinfer.engine.clock import Clock
from tinyinfer.engine.trace import Block, StepTrace, Turn
from tinyinfer.engine.trace_html import NotebookTrace
from tinyinfer.kv_cache.base import Cache
from tinyinfer.ledger import Ledger
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Sequence, Span, make_batch


class Moved(NamedTuple):
    """The sequences that were admitted, finished or preempted in a step."""

    joined: list[Sequence]
    left: list[Sequence]
    preempted: list[Sequence]


class StepRecorder:
    """Records the running step: batch, times, cost and tables, from which `trace` is made."""

    def __init__(self, cache: Cache, scheduler: Scheduler) -> None:
        self.cache, self.scheduler = cache, scheduler
        self.begin(0.0, watch=False)
        self.plan(make_batch([]))

    def begin(self, now: float, watch: bool) -> None:
        """Begins the record of a new step."""
        self.started = self.computed = now
        self.watch = watch

    @contextmanager
    def forward(self, batch: Batch, clock: Clock) -> Iterator[None]:
        """Wraps the forward pass: what is planned before it, and the time after it."""
        self.plan(batch)
        yield
        self.computed = clock()

    def plan(self, batch: Batch) -> None:
        """Records what the scheduler planned, before the sequences change."""
        self.batch = batch
        tables = self.read_tables(batch) if self.watch else {}
        joined = self.scheduler.joined
        self.joined, self.preempted = tuple(joined), tuple(self.scheduler.preempted)
        self.turns = tuple(
            start_turn(span, span.seq in joined, tables.get(span.seq, ()), self.cache.can_chunk) for span in batch.spans
        )
        running, queue = (self.scheduler.running, self.scheduler.waiting) if self.watch else ([], [])
        ran = {turn.id for turn in self.turns}
        self.idle = tuple(seq.id for seq in running if seq.id not in ran)
        self.waiting = tuple(seq.id for seq in queue if seq.timing.arrival <= self.started)

    def trace(self, accepted: list[list[Choice]], counted: Ledger, now: float, moved: Moved) -> StepTrace:
        """What the step did, and what the cache holds after it. accepted: the new tokens of each span. moved: what
        else has moved, in passes that the step has begun.
        """
        cache = self.cache
        turns = tuple(map(finish_turn, self.turns, self.batch.spans))
        return NotebookTrace(
            self.batch, accepted, (self.started, self.computed, now), counted,
            cache.held_bytes, cache.wasted_bytes, pool=count_blocks(cache), turns=turns,
            joined=(*self.joined, *moved.joined), left=(*moved.left, *self.scheduler.left),
            preempted=tuple(moved.preempted),
            idle=self.idle, waiting=self.waiting, blocks_held=self.scheduler.blocks_held,
        )  # fmt: skip

    def read_tables(self, batch: Batch) -> dict[Sequence, tuple[Block, ...]]:
        """The blocks of each sequence of the batch, while the step holds all of them; none of a cache without blocks.
        """
        cache = self.cache
        if not cache.num_blocks:
            return {}
        holders = {*self.scheduler.running, *(span.seq for span in batch.spans)}
        tables = {seq: cache.block_table(seq) for seq in holders}
        sequences = Counter(block for table in tables.values() for block in table)
        return {span.seq: read_blocks(cache, tables[span.seq], span, sequences) for span in batch.spans}


def start_turn(span: Span, joined: bool, blocks: tuple[Block, ...], kept: bool) -> Turn:
    """Describes what the running step computes for a sequence; `finish_turn` adds the new tokens.

    kept: whether the cache keeps what is computed, so that rows are computed again only where they were dropped.
    """
    seq, stop = span.seq, span.first + span.rows
    again = 0 if seq.finished else max(0, min(seq.progress.computed, stop) - span.first)
    phase = "prefill" if stop <= len(seq.prompt) else "decode"
    if seq.finished:
        phase = "padding"
    elif kept and again:
        phase = "recompute"
    elif seq.owner is not seq:
        phase = "candidate"
    drafts = tuple(draft.token for draft in seq.drafts) if span.wanted else ()  # else they are for a later step
    return Turn(seq.owner.id, phase, span.first, span.rows, again, span.first if joined else 0, drafts, blocks)


def finish_turn(turn: Turn, span: Span) -> Turn:
    """The turn with the new tokens of its sequence: those behind the tokens that it had before the step.

    A chunk of a prompt, padding, a rejected candidate and all candidates of a dead end have none.
    """
    had, tokens = turn.first + turn.rows - len(turn.drafts), span.seq.tokens
    if not span.wanted:
        return turn
    if turn.phase == "candidate":
        taken = len(tokens) > had and tokens[had] == turn.drafts[0]
        return Turn(*turn[:-2], tuple(tokens[had:])) if taken else turn
    return Turn(*turn[:-2], tuple(tokens[had:]), span.seq.progress.finish_reason or "")


def read_blocks(cache: Cache, table: tuple[int, ...], span: Span, sequences: Counter[int]) -> tuple[Block, ...]:
    """The blocks of one sequence. Blocks behind the positions that it had were allocated for this step."""
    size, blocks = cache.spec.block_size, []
    for i, number in enumerate(table):
        filled = min(size, span.first + span.rows - i * size)
        kept = cache.holders(number) > sequences[number]  # the prefix cache is the only other holder
        blocks.append(Block(number, filled, size, sequences[number], kept, new=i * size >= span.first))
    return tuple(blocks)


def count_blocks(cache: Cache) -> tuple[int, int] | None:
    """Free blocks, and all blocks; None for a cache without blocks."""
    return (cache.num_blocks - cache.blocks_in_use, cache.num_blocks) if cache.num_blocks else None
