"""The engine: one turn of it is one step, short enough to read aloud.

It knows nothing about text, nor which optimizations are on: it was given a scheduler and a cache, and they know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.batching import SequentialScheduler
from tinyinfer.kv_cache import Cache
from tinyinfer.sampling import Choice, choose
from tinyinfer.sequence import Batch, Sequence
from tinyinfer.trace import StepTrace
from tinyinfer.transformer import Model, transformer
from tinyinfer.weights import Array


class Engine:
    """A model, where it runs, what it remembers, and who is next. clock: seconds, from any fixed moment."""

    def __init__(
        self, model: Model, ops: NumpyOps, cache: Cache, scheduler: SequentialScheduler, clock: Callable[[], float]
    ) -> None:
        self.model, self.ops, self.cache, self.scheduler, self.clock = model, ops, cache, scheduler, clock
        self.ledger = ops.ledger

    def step(self) -> StepTrace:
        """One forward pass over whatever the scheduler puts together, and a token for each sequence in it."""
        started, before = self.clock(), self.ledger.copy()
        batch = self.scheduler.next_batch(started)
        logits = self.forward(batch)
        computed = self.clock()
        choices = choose_all(logits, batch)
        self.scheduler.update(batch, choices, self.clock())
        times = (started, computed, self.clock())
        return StepTrace(batch, choices, times, self.ledger - before, self.cache.held_bytes, self.cache.wasted_bytes)

    def forward(self, batch: Batch) -> Array:  # (T,) -> (R, V)
        """The model over a batch: the logits of its logit_rows."""
        self.ledger.steps += 1
        self.ledger.tokens_computed += len(batch)
        self.ledger.logit_rows += len(batch.logit_rows)
        return transformer(self.model, batch, self.cache, self.ops)

    def run(self, sequences: list[Sequence]) -> Iterator[StepTrace]:
        """Steps until all of `sequences` are finished; leaving early drops what is not, and gives its cache back."""
        for seq in sequences:
            seq.arrival = self.clock()
            self.scheduler.add(seq)
        try:
            while any(not seq.finished for seq in sequences):
                yield self.step()
        finally:
            for seq in sequences:
                if not seq.finished:
                    seq.abort()
                    self.scheduler.drop(seq)


def choose_all(logits: Array, batch: Batch) -> list[Choice]:  # (R, V) ->
    """A token for each sequence of the batch, from its row of logits."""
    seqs = [span.seq for span in batch.spans]
    return [
        choose(row, seq.params, seq.prompt, seq.new_tokens, seq.seed) for seq, row in zip(seqs, logits, strict=True)
    ]
