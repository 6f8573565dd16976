"""Batching: who runs in the next step, and which of their rows.

Decode reads every weight for the sake of one row, so rows of several sequences should share that read. Three policies:
`static` waits for a full batch and runs it to its end, finished sequences keeping their seats as padding; `dynamic` is
static, but a deadline also starts it; `continuous` lets sequences join and leave at every step (Orca; Yu et al. 2022,
section 3). All admit in order of arrival. Wins: throughput, nearly for free until the arithmetic binds. Loses: each
step takes longer, so everybody's time per token grows a little.

A step holds at most `max_num_batched_tokens` rows: decodes first, then pieces of prompts (chunked prefill; Sarathi,
Agrawal et al. 2023), so that a long prompt delays no running sequence by more than one step of that size. When the
cache is full, blocks that only the prefix cache holds are evicted first; then the youngest sequence is preempted: it
gives its cache back and is computed again later, with the same result (PagedAttention; Kwon et al. 2023, section 4.5).
The oldest one is never preempted for another, so something always finishes and nobody starves.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import Cache
from tinyinfer.ledger import Ledger
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Draft, Sequence, Span, make_batch

if TYPE_CHECKING:
    from tinyinfer.kv_cache.base import Prefixes
    from tinyinfer.speculative.base import Drafter


@dataclass(frozen=True)
class Limits:
    """Of one step: sequences, rows, and (dynamic batching) seconds that the first of a batch waits for the others."""

    max_num_seqs: int = 16
    max_num_batched_tokens: int = 2048
    batch_timeout: float = 0.05


class ContinuousScheduler:
    """Sequences join as soon as there is a seat and room in the cache, and leave when they are finished."""

    def __init__(self, cache: Cache, prefixes: Prefixes, drafter: Drafter, ledger: Ledger, limits: Limits) -> None:
        self.cache, self.prefixes, self.drafter, self.ledger, self.limits = cache, prefixes, drafter, ledger, limits
        self.waiting: list[Sequence] = []  # both lists are in order of age, the oldest first
        self.running: list[Sequence] = []
        self.joined: list[Sequence] = []  # in the newest step
        self.left: list[Sequence] = []  # finished, and gone
        self.preempted: list[Sequence] = []
        self._plan: dict[Sequence, int] = {}  # the step being put together: how many rows of whom
        self._served: dict[Sequence, int] = {}  # a number that grows: when each running sequence last had rows
        self._turns = count()
        self._branch_ids = count(-1, -1)  # sequences have others

    # Coming and going.

    def add(self, seq: Sequence) -> None:
        """Queues a sequence; ValueError for one that the cache could not hold even alone."""
        n, most = len(seq.prompt) + seq.max_tokens - 1, self.cache.capacity  # the last token is never computed
        if n > most:
            reason = "{value} positions do not fit into a cache of {most}"
            raise SwitchError("", n, reason, "raise {max_model_len} or {num_blocks}", most=most)
        insort(self.waiting, seq, key=lambda other: other.age)

    @property
    def busy(self) -> bool:
        """Whether anything is left to compute."""
        return bool(self.running or self.waiting)

    @property
    def decoding(self) -> list[Sequence]:
        """The running sequences that have begun to answer. A first token is never guessed, however it was computed."""
        return [seq for seq in self.running if seq.choices and not seq.finished]

    def ready_at(self) -> float:
        """The time from which on a step has something to do: at once while anybody runs."""
        return -inf if self.running else self.start_time() if self.waiting else inf

    def start_time(self) -> float:
        """When the next of the waiting may start, seats provided."""
        return self.waiting[0].arrival

    def drop(self, seq: Sequence) -> None:
        """Forgets a sequence, wherever it is; all that is kept for it comes back."""
        for keeper in (self.prefixes, self.cache, self.drafter):
            keeper.free(seq)
        self.running = [other for other in self.running if other is not seq]
        self.waiting = [other for other in self.waiting if other is not seq]
        self._served.pop(seq, None)

    def preempt(self, seq: Sequence) -> None:
        """Takes a running sequence's cache and puts it back into the queue; a finished one just leaves.

        Its guesses stay: were they lost, a sampled text would depend on who took its place.
        """
        self._plan.pop(seq, None)
        self.drop(seq)
        if seq.finished:
            self.left.append(seq)
        else:
            seq.preemptions += 1
            self.ledger.preemptions += 1
            self.preempted.append(seq)
            self.add(seq)

    # Before the forward pass.

    def next_batch(self, now: float) -> Batch:
        """The rows of the next step, with room for all of them in the cache."""
        self.joined, self.left, self.preempted, self._plan = [], [], [], {}
        for seq in sorted(self.running, key=self._turn):
            if seq in self._served:  # else it was preempted for somebody before it
                self._continue(seq)
        for seq, rows in self._plan.items():
            self._announce(seq, rows)
        self.admit(now)
        for seq in list(self._plan):
            self._branch(seq)
        return make_batch([(seq, self.cache.length(seq), rows) for seq, rows in self._plan.items()])

    def admit(self, now: float) -> None:
        """Lets the waiting in, in order of age, while there are seats, rows and room for their whole prompts."""
        while self.waiting and len(self.running) < self.limits.max_num_seqs and self._rows_left():
            if not (self.may_join(self.waiting[0], now) and self._join(self.waiting[0], now)):
                return

    def may_join(self, seq: Sequence, now: float) -> bool:
        """Whether the oldest of the waiting may run beside those who do."""
        return seq.arrival <= now

    def make_room(self, seq: Sequence, rows: int) -> bool:
        """Evicts and preempts until the cache has room for so many rows; False if `seq` itself had to go."""
        while self.cache.missing(seq, rows):
            if self.prefixes.evict():
                continue
            if not self.running:
                break  # reserve will say that it can never fit
            victim = next((other for other in self.running if other.finished), self.running[-1])
            self.preempt(victim)
            if victim is seq:
                return False
        self.cache.reserve(seq, rows)
        return True

    def _turn(self, seq: Sequence) -> tuple[bool, bool, int, tuple[float, int]]:
        """Decodes before prompts, padding behind both; whoever has waited longest for rows first."""
        prompt = self._pending(seq) > 1
        return seq.finished, prompt, 0 if prompt else self._served[seq], seq.age

    def _pending(self, seq: Sequence) -> int:
        """How many of its tokens are not computed."""
        return len(seq.tokens) - self.cache.length(seq)

    def _rows_left(self) -> int:
        """Rows that the step still has room for."""
        return self.limits.max_num_batched_tokens - sum(self._plan.values())

    def _rows(self, seq: Sequence) -> int:
        """How many rows of a sequence the step takes: what is pending if it fits, else a piece of the prompt."""
        if seq.finished:
            return min(1, self._rows_left())
        wanted, left = self._pending(seq) + len(seq.drafts), self._rows_left()
        if wanted <= left or not (self._plan or self.cache.can_chunk):
            return wanted
        # Guesses are verified all in one step, with the token before them.
        return min(left, self._pending(seq) - bool(seq.drafts)) if self.cache.can_chunk else 0

    def _continue(self, seq: Sequence) -> None:
        """Plans the next rows of a running sequence. Padding is worth no preemption."""
        rows = self._rows(seq)
        if not rows or (seq.finished and self.cache.missing(seq, rows)):
            return
        if self.make_room(seq, rows):
            self._plan[seq], self._served[seq] = rows, next(self._turns)

    def _join(self, seq: Sequence, now: float) -> bool:
        """Lets a waiting sequence in, with whatever the prefix cache has of it; False if there is no room yet."""
        cached = self.prefixes.match(seq)
        rows = self._rows(seq)
        if not rows or self.cache.missing(seq, self._pending(seq) + len(seq.drafts)) > self.prefixes.evictable:
            self.prefixes.free(seq)
            self.cache.free(seq)
            return False
        if not seq.preemptions:
            seq.started, seq.cached_tokens = now, cached
        self.ledger.tokens_cached += cached
        self.waiting.remove(seq)
        insort(self.running, seq, key=lambda other: other.age)
        self.joined.append(seq)
        self.make_room(seq, rows)
        self._plan[seq], self._served[seq] = rows, next(self._turns)
        self._announce(seq, rows)
        return True

    def _announce(self, seq: Sequence, rows: int) -> None:
        """Its rows are sure to run, nobody can preempt it any more: they count, and others may share their blocks."""
        first = self.cache.length(seq)
        self.ledger.tokens_reused += first
        if seq.finished:
            self.ledger.tokens_padding += rows
        else:
            self.ledger.tokens_recomputed += max(0, min(seq.seen, first + rows) - first)
            self.prefixes.register(seq, min(first + rows, len(seq.tokens)))

    def _branch(self, seq: Sequence) -> None:
        """Lets a sequence's rivals ride along: branches that share its blocks, as far as there are rows and room.

        Not after a preemption: each of them would compute the whole sequence again.
        """
        if self._pending(seq) > 1:
            return
        for drafts in seq.rivals:
            branch, rows = seq.branch(next(self._branch_ids), drafts), 1 + len(drafts)
            if rows > self._rows_left():
                continue
            self._plan[branch] = rows  # before it holds anything: a step that fails here must find it
            self.cache.fork(seq, branch)
            if self.cache.missing(branch, rows):
                self.cache.free(branch)
                del self._plan[branch]
            else:
                self.cache.reserve(branch, rows)
                self.ledger.tokens_reused += self.cache.length(branch)

    # After it.

    def update(self, batch: Batch, choices: list[list[Choice]], now: float) -> list[list[Choice]]:
        """Commits what the step computed, extends its sequences and lets finished ones go; the choices that count.

        Of a sequence's branches the one whose guesses went furthest stays, and nothing counts of the others.
        """
        self.prefixes.commit()
        best: dict[Sequence, tuple[Span, list[Choice]]] = {}
        for span, chosen in zip(batch.spans, choices, strict=True):
            seq = span.seq.parent or span.seq
            if seq not in best or len(chosen) > len(best[seq][1]):
                best[seq] = span, chosen
        for seq, (span, chosen) in best.items():
            self._extend(seq, span, chosen, now)
        for branch in (span.seq for span in batch.spans if span.seq.parent):
            self.cache.free(branch)
        self.retire()
        stayed = {span for span, _ in best.values()}
        return [chosen if span in stayed else [] for span, chosen in zip(batch.spans, choices, strict=True)]

    def undo(self) -> None:
        """After a step that failed: whoever was in it starts again, and nobody shares what it did not compute."""
        for seq in {*self._plan, *self.joined}:
            self.cache.free(seq) if seq.parent else self.preempt(seq)
        self.prefixes.rollback()

    def retire(self) -> None:
        """Lets the finished go."""
        for seq in [seq for seq in self.running if seq.finished]:
            self.drop(seq)
            self.left.append(seq)

    def _extend(self, seq: Sequence, span: Span, chosen: list[Choice], now: float) -> None:
        """Appends a sequence's new tokens one at a time and keeps the rows of those that were guessed right."""
        new = 0
        if seq.finished:  # padding
            self.cache.commit(seq, 0)
            return
        while new < len(chosen) and not seq.finished:
            seq.append(chosen[new], now)
            new += 1
        self.cache.commit(span.seq, span.rows - span.wanted + new)
        if span.seq is not seq:  # a branch went further: what it computed becomes the sequence's
            self.cache.free(seq)
            self.cache.fork(span.seq, seq)
        seq.seen = max(seq.seen, span.first + span.rows - span.wanted + new)
        if chosen and seq.drafts:
            self._count_drafts(seq, span.seq.drafts, accepted=min(new, len(chosen) - 1))

    def _count_drafts(self, seq: Sequence, drafts: list[Draft], accepted: int) -> None:
        """Counts the guesses of the branch that stayed; those of its rivals are among tokens_computed."""
        seq.proposed += len(drafts)
        seq.accepted += accepted
        self.ledger.drafts_proposed += len(drafts)
        self.ledger.drafts_accepted += accepted
        seq.drafts, seq.rivals = [], []


class StaticScheduler(ContinuousScheduler):
    """Waits until a batch is full (or nobody else will come), and admits nobody else before all of it are finished."""

    _batch: frozenset[Sequence] = frozenset()  # whose seats these are

    def start_time(self) -> float:
        """When the last one of the next batch arrives; at once while some of this one have not been let in."""
        if self.waiting[0] in self._batch:
            return -inf
        return self.waiting[min(self.limits.max_num_seqs, len(self.waiting)) - 1].arrival

    def admit(self, now: float) -> None:
        """Gives the seats to a new batch when all are free."""
        if not self.running and self.waiting and self.waiting[0] not in self._batch and self.start_time() <= now:
            arrived = [seq for seq in self.waiting if seq.arrival <= now]
            self._batch = frozenset(arrived[: self.limits.max_num_seqs])
        super().admit(now)

    def may_join(self, seq: Sequence, now: float) -> bool:
        """Whether a seat is its own: in a long first step, or after a preemption, it may take it later."""
        return seq in self._batch

    def retire(self) -> None:
        """Lets all go together."""
        if all(seq.finished for seq in self.running):
            super().retire()


class DynamicScheduler(StaticScheduler):
    """Static, but the first of a batch waits at most `batch_timeout` seconds for the others."""

    def start_time(self) -> float:
        """The deadline, if it comes before the batch is full."""
        return min(super().start_time(), self.waiting[0].arrival + self.limits.batch_timeout)
