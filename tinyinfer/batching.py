"""Who runs in the next step: the scheduler turns waiting sequences into a Batch and hands its tokens back to them.

One after another is the simplest order there is, and the baseline that batching is measured against: a sequence is
computed from prefill to its last token before the next one starts. Wins: the shortest time per token for whoever runs.
Loses: every decode step reads all weights for the sake of one row, and everybody else waits.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from tinyinfer.kv_cache import Cache
from tinyinfer.ledger import Ledger
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Sequence, Span


class SequentialScheduler:
    """First come, first served, one sequence at a time."""

    def __init__(self, cache: Cache, ledger: Ledger) -> None:
        self.cache, self.ledger = cache, ledger
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, seq: Sequence) -> None:
        """Queues a sequence."""
        self.waiting.append(seq)

    @property
    def busy(self) -> bool:
        """Whether anything is left to compute."""
        return bool(self.running or self.waiting)

    def next_batch(self, now: float) -> Batch:
        """All rows of the running sequence that the cache does not hold: its prompt first, then a token a step."""
        if not self.running:
            self.running.append(self.waiting.popleft())
            self.running[0].started = now
        seq = self.running[0]
        start = self.cache.length(seq)
        self.cache.reserve(seq, len(seq.tokens) - start)
        self._count(seq, start)
        return make_batch([(seq, start)])

    def update(self, batch: Batch, choices: list[Choice], now: float) -> None:
        """Commits what the step computed, extends its sequences and lets finished ones go."""
        for span, choice in zip(batch.spans, choices, strict=True):
            self.cache.commit(span.seq, span.stop - span.start)
            span.seq.seen = len(span.seq.tokens)
            span.seq.append(choice, now)
            if span.seq.finished:
                self.drop(span.seq)

    def drop(self, seq: Sequence) -> None:
        """Forgets a sequence, wherever it is; its cache comes back."""
        self.cache.free(seq)
        self.running = [other for other in self.running if other is not seq]
        self.waiting = deque(other for other in self.waiting if other is not seq)

    def _count(self, seq: Sequence, start: int) -> None:
        self.ledger.tokens_recomputed += max(0, seq.seen - start)
        self.ledger.tokens_reused += start


def make_batch(work: list[tuple[Sequence, int]]) -> Batch:
    """The batch that computes each (sequence, first position) to the sequence's end; logits of each one's last row."""
    tokens: list[int] = []
    positions: list[int] = []
    spans = []
    for seq, first in work:
        start = len(tokens)
        tokens += seq.tokens[first:]
        positions += range(first, len(seq.tokens))
        spans.append(Span(seq, start, len(tokens), first))
    return Batch(np.array(tokens), np.array(positions), np.array([span.stop - 1 for span in spans]), tuple(spans))
