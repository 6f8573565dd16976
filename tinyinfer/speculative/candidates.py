"""Several candidates for the same position, verified side by side in one step; the best one is kept.

The other candidates of a sequence (`num_draft_candidates` > 1) become extra rows of the step. Each candidate is a fork
of its sequence: it shares the sequence's KV blocks copy-on-write, and writes only its own drafts (SpecInfer; Miao et
al. 2024, where candidates that begin alike share rows, too; here each candidate has its own).

Wins: rows are free and the second most likely token is often right. Loses: every candidate but one is wasted work.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from itertools import count

from tinyinfer.kv_cache.base import Cache
from tinyinfer.ledger import Ledger
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Draft, Sequence, Span


class ForkedCandidates:
    """The candidates of one step, each with a fork of its sequence's cache."""

    def __init__(self, cache: Cache, ledger: Ledger) -> None:
        self.cache, self.ledger = cache, ledger
        self._ids = count(-1, -1)  # the ids of requests are not negative
        self._step: list[Sequence] = []  # the candidates of the present step

    def add(self, sequences: Iterable[Sequence], rows_left: int) -> list[tuple[Sequence, int]]:
        """Pairs (candidate, rows); a candidate is left out when the step's rows or the cache's blocks do not suffice.

        A sequence that computes more than its last token (after a preemption) has none: each candidate would compute
        all of the sequence again.
        """
        added = []
        for seq in sequences:
            short = len(seq.tokens) - self.cache.length(seq) <= 1
            for drafts in seq.speculation.candidates if short else ():
                rows = 1 + len(drafts)
                if rows <= rows_left and (candidate := self._fork(seq, drafts, rows)):
                    added.append((candidate, rows))
                    rows_left -= rows
        return added

    def _fork(self, seq: Sequence, drafts: list[Draft], rows: int) -> Sequence | None:
        """A fork of the sequence with room for its rows; None when the cache has no room."""
        candidate = seq.candidate(next(self._ids), drafts)
        self._step.append(candidate)  # before it holds blocks, so that they are freed if the step fails here
        self.cache.fork(seq, candidate)
        if self.cache.extend(candidate, rows):
            self.cache.free(candidate)
            return None
        self.cache.reserve(candidate, rows)
        self.ledger.tokens_reused += self.cache.length(candidate)
        return candidate

    def best(self, spans: Seq[Span], choices: list[list[Choice]]) -> dict[Span, list[Choice]]:
        """For each sequence the span with the most new tokens: its drafts were accepted furthest."""
        best: dict[Sequence, tuple[Span, list[Choice]]] = {}
        for span, chosen in zip(spans, choices, strict=True):
            owner = span.seq.owner
            if owner not in best or len(chosen) > len(best[owner][1]):
                best[owner] = span, chosen
        return dict(best.values())

    def adopt(self, seq: Sequence) -> None:
        """Frees the blocks of the sequence and gives it those of its accepted candidate."""
        if seq.owner is not seq:
            self.cache.free(seq.owner)
            self.cache.fork(seq, seq.owner)

    def free(self) -> None:
        """Frees the blocks of all candidates of the step."""
        for candidate in self._step:
            self.cache.free(candidate)
        self._step = []
