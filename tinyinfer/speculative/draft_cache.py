"""Where a draft model's keys and values lie: in a cache of its own, or in the target's.

Any second model has its own cache, which follows the accepted tokens: before drafts it is cut back to the tokens that
the sequence really has, and what is missing is computed, a whole prompt at first.

A draft of the target itself (its first layers, or a copy in fewer bits) has keys and values of the same shape, and
those of every known position are in the target's cache already. So it reads them there and appends its own behind the
committed length, one row for each draft. Those rows never count: the target computes the same positions when it
verifies the drafts, and writes over them. (First layers share the cache in LayerSkip; Elhoushi et al. 2024, section
4.3. A draft in fewer bits of the same context: QuantSpec; Tiwari et al. 2025.)

Wins: no second cache, no prompt to be read before the first draft, nothing to catch up with after accepted drafts; and
a copy in fewer bits sees the exact keys of all known positions, so more of its drafts are accepted. Loses: drafts are
proposed only where the target's cache has room and holds all tokens but the newest, so none right after a preemption.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Protocol

from tinyinfer.kv_cache.base import Cache, Prefixes
from tinyinfer.sequence import Sequence


class DraftCache(Protocol):
    """What a draft model asks of the cache that it computes with. cache: where its passes append and read."""

    cache: Cache

    def behind(self, seq: Sequence) -> int:
        """How many rows the draft model has to compute for the first draft; no rejected draft is held any longer."""

    def make_room(self, seq: Sequence, n: int) -> int:
        """For how many of n drafts there is room, which is kept until `leave`."""

    def first(self, seq: Sequence) -> int:
        """The first position of the sequence that the draft model has to compute."""

    def reserve(self, seq: Sequence, rows: int) -> None:
        """Before a pass over so many rows."""

    def commit(self, seq: Sequence, rows: int) -> None:
        """Counts the rows after a pass."""

    def leave(self, sequences: Seq[Sequence]) -> None:
        """The drafts of these sequences are proposed."""

    def free(self, seq: Sequence) -> None:
        """Frees what is held for a sequence that has left or was preempted."""

    def clear(self) -> None:
        """Frees what is held for all sequences."""


class OwnCache:
    """A cache of the draft model's own. follows: whether drafts stay in it in case that they are accepted."""

    def __init__(self, cache: Cache, follows: bool = True) -> None:
        self.cache, self.follows = cache, follows
        self.free, self.clear = cache.free, cache.clear
        self.reserve, self.commit, self.first = cache.reserve, cache.commit, cache.length

    def behind(self, seq: Sequence) -> int:
        """The draft model may have a boundary of its own (rotation_sets.py): beyond it, all is computed again.

        Only before it was timed does it compute chunks; else its cache holds more positions than the boundary as soon
        as its keys are those of a long sequence. A chunk in front of the boundary is computed again.
        """
        held, known, sets = self.cache.length(seq), len(seq.tokens), self.cache.spec.sets
        self.cache.truncate(seq, min(held, known - 1) if sets.of(held) == sets.of(known) else 0)
        return known - self.cache.length(seq)

    def make_room(self, seq: Sequence, n: int) -> int:
        """As far as the draft model's context goes; memory is taken pass by pass. No draft crosses its boundary."""
        known = len(seq.tokens)
        return int(min(n, self.cache.capacity - known, self.cache.spec.sets.most_drafts(known)))

    def leave(self, sequences: Seq[Sequence]) -> None:
        for seq in () if self.follows else sequences:
            self.cache.truncate(seq, min(self.cache.length(seq), len(seq.tokens)))


class TargetCache:
    """The target's own cache, in which a draft's rows lie behind the committed ones. prefixes: what may be evicted."""

    def __init__(self, cache: Cache, prefixes: Prefixes) -> None:
        self.cache, self.prefixes = cache, prefixes

    def behind(self, seq: Sequence) -> int:
        return 1  # the newest token, whose keys the target, too, does not have yet

    def make_room(self, seq: Sequence, n: int) -> int:
        """Room for the target's step over them, too: for fewer drafts where that lacks, and nothing is preempted here.

        There is none where the target has to compute more than the newest token.
        """
        n = n if self.cache.length(seq) == len(seq.tokens) - 1 else 0
        while n > 0 and self.cache.extend(seq, 1 + n) > self.prefixes.evictable:
            n -= 1
        while n > 0 and self.cache.extend(seq, 1 + n):
            n -= not self.prefixes.evict()  # what was evicted is not free where another branch of the prompt holds it
        if n > 0:
            self.cache.reserve(seq, 1 + n)
        return n

    def first(self, seq: Sequence) -> int:
        return len(seq.tokens) + len(seq.drafts) - 1

    def reserve(self, seq: Sequence, rows: int) -> None:
        """The room of `make_room`, as far as this pass writes, so that the cache knows which rows those are."""
        self.cache.reserve(seq, self.first(seq) + rows - self.cache.length(seq))

    def commit(self, seq: Sequence, rows: int) -> None:
        """Nothing that a draft model computes counts."""

    def leave(self, sequences: Seq[Sequence]) -> None:
        """The room is free again, in the order in which the target's step takes it."""
        for seq in reversed(sequences):
            self.cache.truncate(seq, self.cache.length(seq))

    def free(self, seq: Sequence) -> None:
        """The scheduler frees the target's cache."""

    def clear(self) -> None:
        """The scheduler clears the target's cache."""
