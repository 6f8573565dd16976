"""The engine: one turn of it is one step, short enough to read aloud.

The engine knows nothing about text, nor which optimizations are on: those are in the scheduler, the cache and the
drafter that the engine is built from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from time import sleep

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.batching.policies import Limits
from tinyinfer.batching.scheduler import Scheduler
from tinyinfer.batching.switches import SCHEDULERS
from tinyinfer.engine.choosing import choose_tokens, living
from tinyinfer.engine.clock import Clock
from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.overflow import DAMAGED, cure_of, overflows
from tinyinfer.engine.recorder import Moved, StepRecorder
from tinyinfer.engine.room import ends_youngest
from tinyinfer.engine.trace import StepTrace
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import Cache, CacheSpec
from tinyinfer.kv_cache.memory import most_blocks, position_bytes
from tinyinfer.kv_cache.switches import KV_BITS, PREFIX_CACHES
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.draft_head import DraftHead
from tinyinfer.model.interfaces import Ops, Sampled
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.parallel.switches import MIRRORS
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Sequence, Span
from tinyinfer.speculative.base import DraftCost, Drafter, Target
from tinyinfer.speculative.switches import CANDIDATES, DRAFTERS
from tinyinfer.switches import resolve


class Engine:
    """Owns the model, its operations, the KV cache, the scheduler, the drafter and the clock.

    cure: what to do when the model's numbers overflow, as a template of NotFiniteError.
    """

    def __init__(
        self, model: Model, ops: Ops, cache: Cache, scheduler: Scheduler, drafter: Drafter, clock: Clock,
        cure: str = DAMAGED,
    ) -> None:  # fmt: skip
        self.model, self.ops, self.cache, self.clock = model, ops, cache, clock
        self.scheduler, self.drafter, self.cure = scheduler, drafter, cure
        self.ledger = ops.ledger
        self.recorder = StepRecorder(cache, scheduler)
        self.moved = Moved([], [], [])  # in the newest step, beside what its pass and its end have moved
        self.passes: deque[tuple[StepRecorder, Batch, Array]] = deque()  # begun, the oldest first, with their logits
        self.compiled = ops.compile(model, cache, 1 + drafter.most)  # None: the backend runs `transformer` as it is

    def step(self, watch: bool = False) -> StepTrace:
        """One forward pass over what the scheduler puts together, and new tokens for each sequence in it.

        Where a model's stages compute several passes at once, a step begins as many as there may be, and ends one.
        """
        before = self.ledger.copy()
        with self.scheduler.change():
            record, batch, logits = self.oldest_pass(watch)
            choices = self.choose(logits, batch)
            accepted = self.scheduler.update(batch, choices, self.clock())
            self.drafter.observe(batch)
        return record.trace(accepted, self.ledger - before, self.clock(), self.moved)

    def oldest_pass(self, watch: bool) -> tuple[StepRecorder, Batch, Array]:
        """Begins as many passes as there may be; the record, the batch and the logits of the oldest."""
        self.moved = Moved([], [], [])
        while self.begin(watch):
            continue
        record, batch, logits = self.passes.popleft()
        self.scheduler.recall(record.joined, record.preempted)
        return record, batch, logits

    def begin(self, watch: bool = False) -> bool:
        """Begins one more forward pass; False when there are as many as there may be, or no rows for another one."""
        scheduler = self.scheduler
        while self.passes and not any(scheduler.lives(self.passes[0][1])):
            record, batch, _ = self.passes.popleft()
            self.moved.joined.extend(record.joined if scheduler.forget(batch) else ())
        if len(self.passes) == scheduler.stages:
            return False
        self.recorder.begin(self.clock(), watch)
        self.drafter.propose(self.scheduler.decoding)
        batch = self.scheduler.next_batch(self.recorder.started)
        self.moved.left.extend(scheduler.left)
        self.moved.preempted.extend(scheduler.preempted)
        if batch.spans or not self.passes:
            logits = self.forward(batch)
            self.passes.append((copy(self.recorder), batch, logits))
        else:
            self.moved.joined.extend(scheduler.joined)  # and were preempted again, at once
        return bool(batch.spans)

    def forward(self, batch: Batch) -> Array:  # (T,) -> (R, V)
        """The model over a batch: the logits of its logit_rows, where the backend computes."""
        quiet = np.errstate(over="ignore", invalid="ignore")
        with self.recorder.forward(batch, self.clock), quiet, ends_youngest(batch):
            if not batch.spans:  # an idle engine needs no forward pass
                return np.empty((0, self.model.config.vocab_size), dtype=np.float32)
            self.ledger.steps += 1
            self.ledger.tokens_computed += len(batch)
            self.ledger.logit_rows += len(batch.logit_rows)
            if self.compiled:
                return self.compiled.forward(batch)
            return transformer(self.model, batch, self.cache, self.ops)

    def choose(self, logits: Array, batch: Batch) -> list[list[Choice]]:  # (R, V) ->
        """The new tokens of each span of the batch. On a device of its own, the backend is waited for here, once.

        A sequence that has left the batch while it was computed gets none, nor does one whose numbers are not finite:
        it ends. Raises NotFiniteError, which names its request, where the step cannot stand.
        """
        with ends_youngest(batch):
            sampled = (self.compiled or self.ops).sample(logits, batch.wanted)
        lives = self.scheduler.lives(batch)
        rest, sampled = living(batch, sampled, lives)
        errors = overflows(sampled, rest, self.cache, self.model, self.ops, self.cure)
        for seq, error in errors.items():
            if not self.scheduler.prefixes.withdraw(seq):
                raise error
        for seq, error in errors.items():
            seq.fail(error)
        found = iter(choose_tokens(logits, sampled, rest, self.drafter, self.ops))
        return [next(found) if one else [] for one in lives]

    def run(self, sequences: list[Sequence], watch: bool = False) -> Iterator[StepTrace]:
        """Steps until all of `sequences` are finished; leaving early aborts the others and frees their cache.

        For a caller who alone uses the engine, on one thread; EngineLoop (loop.py) is for several. Raises
        ValueError, before any work, for a sequence that could never fit into the cache, and the error of a sequence
        that has ended with one.
        watch: whether the traces hold block tables and the waiting queue, too.
        """
        now = self.clock()
        try:
            try:
                for seq in sequences:
                    self.add(seq, now)
                while any(not seq.finished for seq in sequences):
                    if self.wait():
                        yield self.step(watch)
                        for error in filter(None, (seq.progress.error for seq in sequences)):
                            raise error
            finally:
                self.abort(*sequences)
        finally:  # once more: Ctrl-C may have come just before the sequences were aborted
            self.abort(*sequences)

    @property
    def busy(self) -> bool:
        """Whether a sequence is waiting or running."""
        return self.scheduler.busy

    @property
    def blocks_held(self) -> dict[int, int]:
        """Replica -> blocks that sequences hold there. An engine alone is replica 0."""
        return {0: self.scheduler.blocks_held}

    def add(self, seq: Sequence, begun: float) -> None:
        """Queues a sequence of a run that began at `begun`. Raises ValueError for one that could never fit."""
        seq.arrive(begun)
        self.scheduler.add(seq)

    def wait(self, woken: Callable[[float], object] = sleep) -> bool:
        """Waits until a sequence is ready to run; False when `woken` ended the wait early (Clock.wait_until)."""
        ready = self.scheduler.ready_at()
        if ready <= self.clock():
            return True
        self.clock.wait_until(ready, woken)
        return self.scheduler.ready_at() <= self.clock()

    def abort(self, *sequences: Sequence) -> None:
        """Ends sequences that are not finished, waiting or running, and frees what is kept for them."""
        with self.scheduler.change():
            for seq in sequences:
                if not seq.finished:
                    seq.abort()
                self.scheduler.drop(seq)

    def forget_prefixes(self) -> None:
        """Empties the prefix cache of all that no running sequence uses."""
        self.scheduler.prefixes.evict_all()

    def logits(self, seq: Sequence, start: int, most: int) -> np.ndarray:
        """Computes the logits of at most `most` positions from `start` on, (R, V); earlier positions stay in the cache.

        If other sequences needed their room, they are computed again.
        """
        cache, n = self.cache, len(seq.tokens)
        with self.scheduler.change():
            self.scheduler.admit_scored(seq)
            done, stop = cache.length(seq), min(n, start + most) if cache.can_chunk else n
            self.scheduler.make_room(seq, stop - done)
            span = Span(seq, 0, stop - done, done, stop - start, cache.rotation_set(seq))
            rows = np.arange(start - done, stop - done)
            batch = Batch(np.array(seq.tokens[done:stop]), np.arange(done, stop), rows, (span,), scored=True)
            logits = self.ops.whole(self.forward(batch))  # (R, V)
            ends = Sampled(rows, logits.min(axis=1), logits.max(axis=1))
            for error in overflows(ends, batch, cache, self.model, self.ops, self.cure).values():
                raise error
            cache.commit(seq, stop - done)
        return logits


def build_engine(
    model: Model, ops: Ops, c: EngineConfig, clock: Clock, second: Model | DraftHead | None = None,
    draft_cost: DraftCost | None = None,
) -> Engine:  # fmt: skip
    """An engine with the optimizations of `c`, each taken by its name.

    second: the draft model, or the head, of speculative=draft. draft_cost: what drafts are assumed to cost; None: what
    is measured.
    Raises ValueError for a switch that does not suit the model.
    """
    cache: Cache = resolve(MIRRORS, c.ranks)(build_cache(model.config, ops, c))
    prefixes = resolve(PREFIX_CACHES, "on" if c.prefix_cache else "off")(cache, ops.ledger)
    drafter = resolve(DRAFTERS, c.speculative)(Target(model, cache, prefixes), second, ops, c, clock, draft_cost)
    candidates = resolve(CANDIDATES, "on" if c.num_draft_candidates > 1 else "off")(cache, ops.ledger)
    policy = resolve(SCHEDULERS, c.batching)(Limits(c.max_num_seqs, c.max_num_batched_tokens, c.batch_timeout))
    stages = c.pipeline_parallel_size if cache.can_chunk else 1  # no cache holds the rows of one step at a time
    scheduler = Scheduler(cache, prefixes, drafter, candidates, policy, ops.ledger, stages)
    return Engine(model, ops, cache, scheduler, drafter, clock, cure_of(c))


def build_cache(config: ModelConfig, ops: Ops, c: EngineConfig) -> Cache:
    """The KV cache of `c`: of the size that is asked for, or one that grows with what sequences need."""
    longest, asked = context_length(config, c.max_model_len), c.num_blocks if c.kv_cache == "paged" else c.max_model_len
    nbytes = position_bytes(config.memory, c.kv_bits, c.block_size, c.kv_group_size)
    most = c.num_blocks or most_blocks(nbytes, longest, c.block_size, c.max_num_seqs, ops.available_memory())
    fewer = {"off": 8, 8: 4, 4: 2}.get(c.kv_bits)
    smaller = f"add {{kv_bits}}={fewer}" if fewer else "use a model with fewer layers"
    spec = CacheSpec(
        config.memory, longest, c.block_size, most, c.kv_bits, c.kv_group_size, asked is not None, smaller,
        config.rotation_sets,
    )  # fmt: skip
    return resolve(KV_BITS[c.kv_bits], c.kv_cache)(spec, ops)


def context_length(config: ModelConfig, asked: int | None) -> int:
    """Positions of the longest sequence: as asked, else all that the model was made for. ValueError for more."""
    longest = config.max_position
    if asked is not None and asked > longest:
        reason = "{field}={value} is more than the {longest} positions that this model was made for"
        raise SwitchError("max_model_len", asked, reason, "choose a smaller number", longest=longest)
    return asked or longest
