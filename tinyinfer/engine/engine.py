"""The engine: one turn of it is one step, short enough to read aloud.

It knows nothing about text, nor which optimizations are on: it was given a scheduler, a cache and a drafter, and they
know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tinyinfer.arrays import Array
from tinyinfer.batching.scheduler import ContinuousScheduler, Limits
from tinyinfer.batching.switches import SCHEDULERS
from tinyinfer.engine.clock import Clock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.trace import Plan, StepTrace, count_blocks, make_plan
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import Cache, CacheSpec, default_num_blocks, position_bytes
from tinyinfer.kv_cache.switches import KV_BITS, PREFIX_CACHES
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Sequence
from tinyinfer.speculative.base import Drafter
from tinyinfer.speculative.switches import DRAFTERS
from tinyinfer.switches import resolve


class Engine:
    """A model, where it runs, what it remembers, who is next, and who guesses ahead."""

    def __init__(
        self, model: Model, ops: Ops, cache: Cache, scheduler: ContinuousScheduler, drafter: Drafter, clock: Clock
    ) -> None:
        self.model, self.ops, self.cache, self.clock = model, ops, cache, clock
        self.scheduler, self.drafter = scheduler, drafter
        self.ledger = ops.ledger

    def step(self, watch: bool = False) -> StepTrace:
        """One forward pass over whatever the scheduler puts together, and new tokens for each sequence in it."""
        started, before = self.clock(), self.ledger.copy()
        with self.undone_on_error():
            self.drafter.propose(self.scheduler.decoding)
            batch = self.scheduler.next_batch(started)
            plan = make_plan(batch, self.scheduler, started, watch)
            logits = self.forward(batch)
            computed = self.clock()
            choices = [self.drafter.verify(rows, seq) for seq, rows in batch.split(logits)]
            choices = self.scheduler.update(batch, choices, self.clock())
        return self.trace(plan, choices, (started, computed, self.clock()), self.ledger - before)

    def forward(self, batch: Batch) -> Array:  # (T,) -> (R, V)
        """The model over a batch: the logits of its logit_rows."""
        self.ledger.steps += 1
        self.ledger.tokens_computed += len(batch)
        self.ledger.logit_rows += len(batch.logit_rows)
        return transformer(self.model, batch, self.cache, self.ops)

    def run(self, sequences: list[Sequence], watch: bool = False) -> Iterator[StepTrace]:
        """Steps until all of `sequences` are finished; leaving early drops what is not, and gives its cache back.

        Raises ValueError, before any work, for one that could never fit into the cache.
        watch: whether the traces hold block tables and the queue, too.
        """
        now = self.clock()
        try:
            for seq in sequences:
                seq.arrival = now + seq.delay
                self.scheduler.add(seq)
            while any(not seq.finished for seq in sequences):
                if self.scheduler.ready_at() > self.clock():
                    self.clock.wait_until(self.scheduler.ready_at())
                yield self.step(watch)
        finally:
            for seq in sequences:
                self.abort(seq)

    def abort(self, seq: Sequence) -> None:
        """Ends a sequence that is not finished, wherever it is; what is kept for it comes back."""
        if not seq.finished:
            seq.abort()
        self.scheduler.drop(seq)

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """A step that fails, or is interrupted, leaves no trace: its sequences start again when they next run."""
        try:
            yield
        except BaseException:
            self.scheduler.undo()
            raise

    def trace(
        self, plan: Plan, choices: list[list[Choice]], times: tuple[float, float, float], ledger: Ledger
    ) -> StepTrace:
        """What the step did, and what the cache holds after it."""
        cache, scheduler = self.cache, self.scheduler
        return StepTrace(
            plan.batch, choices, times, ledger, cache.held_bytes, cache.wasted_bytes, pool=count_blocks(cache),
            turns=plan.done(), joined=tuple(scheduler.joined), left=tuple(scheduler.left),
            preempted=tuple(scheduler.preempted), idle=plan.idle, waiting=plan.waiting,
        )  # fmt: skip


def build_engine(model: Model, ops: Ops, c: EngineConfig, clock: Clock, second: Model | None = None) -> Engine:
    """An engine with the optimizations of `c`, each taken by its name. second: the draft model of speculative=draft.

    Raises ValueError for a switch that does not suit the model.
    """
    longest = context_length(model.config, c.max_model_len)
    memory = model.config.memory
    nbytes = position_bytes(memory, c.kv_bits, c.block_size, c.kv_group_size)
    num_blocks = c.num_blocks or default_num_blocks(nbytes, longest, c.block_size, c.max_num_seqs)
    spec = CacheSpec(memory, longest, c.block_size, num_blocks, c.kv_bits, c.kv_group_size)
    cache = resolve(KV_BITS[c.kv_bits], c.kv_cache)(spec, ops)
    prefixes = resolve(PREFIX_CACHES, "on" if c.prefix_cache else "off")(cache, ops.ledger)
    drafter = resolve(DRAFTERS, c.speculative)(model, second, ops, c, cache.capacity)
    limits = Limits(c.max_num_seqs, c.max_num_batched_tokens, c.batch_timeout)
    scheduler = resolve(SCHEDULERS, c.batching)(cache, prefixes, drafter, ops.ledger, limits)
    return Engine(model, ops, cache, scheduler, drafter, clock)


def context_length(config: ModelConfig, asked: int | None) -> int:
    """The longest sequence: what is asked for, or all that the model was made for. ValueError when it is more."""
    own = config.max_position
    if asked is not None and asked > own:
        reason = "{field}={value} is more than the {own} positions that this model was made for"
        raise SwitchError("max_model_len", asked, reason, own=own)
    return asked or own
