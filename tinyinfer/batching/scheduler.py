"""The scheduler: which sequences run in the next step, with how many rows each, and room in the cache for all of them.

A step holds at most `max_num_batched_tokens` rows: decodes first, then chunks of prompts (chunked prefill; Sarathi,
Agrawal et al. 2023), so that a long prompt delays no running sequence by more than one step of that size. When room is
missing, the cache grows if it may. When it is full, blocks that only the prefix cache holds are evicted first. Then the
youngest sequence is preempted: its cache is freed and the sequence is computed again later, with the same result
(PagedAttention; Kwon et al. 2023, section 4.5). The oldest sequence is never preempted for another one, so each step
makes progress and none starves. A sequence that does not fit even alone is an error, not a reason to wait. A sequence
that its newest token makes long (rotation_sets.py) is queued and computed again, too.

Wins: throughput, nearly for free while decode waits for memory. Loses: a step with more rows takes longer, so the time
per token of each sequence grows a little. When a batch starts and who may be admitted is a Policy (policies.py).
"""

from __future__ import annotations

from bisect import insort
from heapq import nlargest
from itertools import compress
from math import inf
from operator import attrgetter

from tinyinfer.batching.bookkeeping import BY_AGE, Bookkeeping
from tinyinfer.batching.branches import fork_prompt, must_wait, source_of
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Sequence, Span, make_batch
from tinyinfer.speculative.base import count_drafts

BY_LENGTH = attrgetter("most_positions")


class Scheduler(Bookkeeping):
    """Plans each step, makes room for it, and takes what it brought."""

    @property
    def decoding(self) -> list[Sequence]:
        """The sequences with a new token, also those that wait to be computed again.

        A first token is never drafted: with verification=best-coupling, the number of chunks of its prompt would change
        the text. For the same reason a sequence that waits gets its drafts before it is computed again, in chunks.
        """
        known = (*self.running, *self.waiting)
        return [seq for seq in known if seq.progress.choices and not (seq.finished or seq in self.in_flight)]

    def ready_at(self) -> float:
        """The time from which on a step has rows to compute: at once while a sequence runs, never without any."""
        return -inf if self.running or self._changing else self.policy.starts_at(self.waiting) if self.waiting else inf

    # Before the forward pass: admission, room, preemption.

    def next_batch(self, now: float) -> Batch:
        """The rows of the next step, with room for all of them in the cache.

        Raises RoomError, which names its request, for a sequence that does not fit even alone. It waits until it is
        dropped.
        """
        self.joined, self.left, self.preempted, self.plan = [], [], [], {}
        self._most = self._share(now)
        for seq in sorted(self.running, key=self._priority):
            if seq in self.in_flight or len(self.plan) == self._most:
                continue
            rows = self._rows_of(seq) if seq in self._last_turn else 0  # else preempted for one before it in this loop
            if rows and self.make_room(seq, rows):
                self.plan[seq], self._last_turn[seq] = rows, next(self._turns)
        for seq, rows in self.plan.items():
            self._confirm(seq, rows)
        self._admit(now)
        work = [*self.plan.items(), *self.candidates.add(self.plan, self._rows_left())]
        batch = make_batch(((seq, self.cache.length(seq), rows) for seq, rows in work), self.cache.spec.sets)
        if batch.spans:
            self.prefixes.seal()
            self.computing.append(batch)
            self.in_flight.update((span.seq.owner, batch) for span in batch.spans)
        return batch

    def _share(self, now: float) -> int:
        """How many sequences the step takes at most: an even part of all, where several steps are computed at once."""
        if self.stages == 1:
            return self.limits.max_num_seqs
        known = len(self.running) + len(self.policy.admissible(self.waiting, self.running, now))
        return -(-known // self.stages)

    def _admit(self, now: float) -> None:
        """Admits waiting sequences in order of age, while rows are left and the cache has room for whole prompts."""
        admissible = self.policy.admissible(self.waiting, self.running, now)
        if admissible and not self.running:
            self.cache.prepare(nlargest(self.limits.max_num_seqs, self.waiting, key=BY_LENGTH))
        for seq in admissible:
            if len(self.plan) == self._most:
                return
            if must_wait(seq, self.running, self.kept, self.cache):
                continue
            cached = self._begin(seq) if self._rows_left() else 0
            rows = self._rows_of(seq)
            if not rows or not self.fits(seq, self._pending(seq) + len(seq.drafts)):
                self.prefixes.free(seq)
                if seq not in self.kept:
                    self.cache.free(seq)
                if rows and not self.running:  # nothing else will free memory
                    if not self.prefixes.evict_all():
                        raise self.cache.no_room(seq, self._pending(seq))
                    self._admit(now)
                return
            seq.start(now, cached)
            self.ledger.tokens_cached += cached
            self.waiting.remove(seq)
            self.kept = [other for other in self.kept if other is not seq]
            insort(self.running, seq, key=BY_AGE)
            self.joined.append(seq)
            self.make_room(seq, rows)
            self.plan[seq], self._last_turn[seq] = rows, next(self._turns)
            self._confirm(seq, rows)

    def _begin(self, seq: Sequence) -> int:
        """Gives a sequence what is computed of its tokens, by branches of its prompt or by others; how many positions.

        One whose prompt was scored has its own. Without blocks a fork copies all positions, into room for them.
        """
        own, source = self.cache.length(seq), source_of(seq, (*self.running, *self.kept), self.cache)
        if source and not own and (self.cache.num_blocks or self.fits(seq, self.cache.length(source))):
            fork_prompt(source, seq, self.cache)
        self.prefixes.match(seq)
        return self.cache.length(seq) - own

    def admit_scored(self, seq: Sequence) -> None:
        """Lists a sequence that is computed beside the batches; while nothing runs, memory is made for all of it."""
        if seq in self.kept:
            return
        self.kept.append(seq)
        self.cache.prepare([seq])
        if not self.running and not self.fits(seq, len(seq.tokens)) and self.prefixes.evict_all():
            self.fits(seq, len(seq.tokens))  # grows the pool anew

    def fits(self, seq: Sequence, rows: int) -> bool:
        """Whether the cache has room for so many rows, grown if need be, or will have after evictions."""
        if self.cache.extend(seq, rows) <= self.prefixes.evictable:
            return True
        # What others hold between steps, or what was allocated for them, may be what is missing.
        while not self.running and self.evict_kept(seq):
            continue
        self.cache.shrink()
        return self.cache.extend(seq, rows) <= self.prefixes.evictable

    def make_room(self, seq: Sequence, rows: int) -> bool:
        """Grows the cache, evicts and preempts until it has room for so many rows; False if `seq` was preempted.

        Raises RoomError when nothing is left to preempt.
        """
        while self.cache.extend(seq, rows):
            if self.prefixes.evict() or self.evict_kept(seq):
                continue
            if not self.running:
                break  # the rows can never fit: `reserve` raises the error
            victim = next((other for other in self.running if other.finished), self.running[-1])
            self.preempt(victim)
            if victim is seq:
                return False
        self.cache.reserve(seq, rows)
        return True

    def preempt(self, seq: Sequence) -> None:
        """Frees the cache of a running sequence and returns the sequence to the waiting queue, to be computed again.

        A finished sequence leaves instead. Drafts are kept (see Sequence.record_preemption).
        """
        self.plan.pop(seq, None)
        if seq.finished:
            self.drop(seq)
            self.left.append(seq)
            return
        self._queue_again(seq)
        self._count_preemption(seq)
        self.preempted.append(seq)

    def _queue_again(self, seq: Sequence) -> None:
        """A running sequence waits for its admission again, with nothing computed."""
        self._free(seq)
        insort(self.waiting, seq, key=BY_AGE)

    def _priority(self, seq: Sequence) -> tuple[bool, bool, int, tuple[float, int]]:
        """Sort key: decodes before prompts, padding last; of decodes, the one first that has waited longest."""
        prompt = self._pending(seq) > 1
        return seq.finished, prompt, 0 if prompt else self._last_turn[seq], seq.age

    def _pending(self, seq: Sequence) -> int:
        """How many tokens of a sequence are not computed."""
        return len(seq.tokens) - self.cache.length(seq)

    def _rows_left(self) -> int:
        """How many rows the step has left."""
        return self.limits.max_num_batched_tokens - sum(self.plan.values())

    def _rows_of(self, seq: Sequence) -> int:
        """How many rows of a sequence the step takes: all that are pending if they fit, else a chunk of the prompt."""
        if seq.finished:  # padding takes only a row and a block that are left over
            return 0 if self.cache.missing(seq, 1) else min(1, self._rows_left())
        wanted, left = self._pending(seq) + len(seq.drafts), self._rows_left()
        if wanted <= left or not (self.plan or self.cache.can_chunk):
            return wanted
        # Drafts are verified in one step with the last token, so a chunk before drafts ends before that token.
        return min(left, self._pending(seq) - bool(seq.drafts)) if self.cache.can_chunk else 0

    def _confirm(self, seq: Sequence, rows: int) -> None:
        """The sequence can no longer be preempted in this step: counts its rows and registers its full blocks."""
        first = self.cache.length(seq)
        self.ledger.tokens_reused += first
        if seq.finished:
            self.ledger.tokens_padding += rows
        else:
            self.ledger.tokens_recomputed += max(0, min(seq.progress.computed, first + rows) - first)
            self.prefixes.register(seq, min(first + rows, len(seq.tokens)))

    # After the forward pass.

    def update(self, batch: Batch, choices: list[list[Choice]], now: float) -> list[list[Choice]]:
        """Commits what the step computed, appends new tokens, removes finished sequences; the accepted choices."""
        self._computed(batch)
        lives = self.lives(batch)
        accepted = self.candidates.best([*compress(batch.spans, lives)], [*compress(choices, lives)])
        for span, chosen in accepted.items():
            del self.in_flight[span.seq.owner]
            self._extend(span, chosen, now)
        self.candidates.free()
        for seq in self.policy.leaving(self.running):
            self.leave(seq)
            self.left.append(seq)
        return [accepted.get(span, []) for span in batch.spans]

    def _extend(self, span: Span, chosen: list[Choice], now: float) -> None:
        """Appends new tokens to the sequence of a span, and commits the rows of tokens that the sequence then has."""
        seq, padding, drafts = span.seq.owner, span.seq.finished, len(span.seq.drafts)
        new = seq.extend(chosen, now)
        computed = min(span.rows, span.rows - span.wanted + max(new, 1))  # the last token's row counts in a dead end
        kept = 0 if padding else computed  # rows behind a rejected draft are rolled back
        self.cache.commit(span.seq, kept)
        self.candidates.adopt(span.seq)
        seq.record_computed(span.first + kept)
        if chosen and drafts:
            count_drafts(seq, drafts, min(new, len(chosen) - 1), self.ledger)
        if self.cache.length(seq) and self.cache.rotation_set(seq) != span.rotation_set and not seq.finished:
            self._queue_again(seq)  # its rows get another set of rotations from now on (rotation_sets.py)
