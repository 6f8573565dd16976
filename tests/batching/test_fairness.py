"""No sequence starves and none is disturbed: random traffic over tiny caches, compared with one sequence at a time.

Requests that share beginnings arrive at any time, in a pool of a few blocks that forces preemption and eviction, with
budgets of a few rows a step. What must hold whatever happens is asserted in every step.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

from helpers import ALWAYS_DRAFT, check_blocks, finish, make_engine, remade, request, small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.arrays import Array
from tinyinfer.engine.engine import Engine
from tinyinfer.sequence import Batch, Sequence

CONFIG = small_config(windows=(7, None))
LONGEST = 20  # positions of a prompt and its answer
TEXTS = ([3] * LONGEST, list(range(LONGEST)), [*range(9), *range(20, 31)])  # the last two begin alike

lengths = st.tuples(st.sampled_from(range(len(TEXTS))), st.integers(1, 12), st.integers(1, 8))
traffic = st.lists(st.tuples(lengths, st.integers(0, 12)), min_size=1, max_size=7)
switches = st.fixed_dictionaries(
    {
        "batching": st.sampled_from(["continuous", "continuous", "dynamic", "static"]),
        "max_num_seqs": st.integers(1, 4),
        "max_num_batched_tokens": st.one_of(st.integers(1, 9), st.just(2048)),
        "block_size": st.sampled_from([1, 2, 4]),
        "prefix_cache": st.booleans(),
        "speculative": st.sampled_from(["off", "prompt-lookup", "self"]),
    }
)


@cache
def plain_tokens(text: int, n: int) -> list[int]:
    """What the plain engine says to the first n tokens of a text: no cache, alone."""
    [tokens] = finish(make_engine(CONFIG, kv_cache="none", max_num_seqs=1), request(TEXTS[text][:n], 8))
    return tokens


class StepClock:
    """Every reading is a second; waiting jumps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now

    def wait_until(self, moment: float, woken: object = None) -> None:
        self.now = max(self.now, moment)


class Checked(Engine):
    """Looks at every step before it is computed, and counts rows in its own way."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.done: dict[Sequence, int] = {}  # how many of a sequence's tokens were ever computed
        self.counted: Counter[str] = Counter()

    def forward(self, batch: Batch) -> Array:
        assert 0 < len(batch) <= self.scheduler.limits.max_num_batched_tokens
        assert len(self.scheduler.running) <= self.scheduler.limits.max_num_seqs
        written = []
        for span in batch.spans:
            table, size = self.cache.block_table(span.seq), self.cache.block_size
            assert span.first == self.cache.length(span.seq)
            assert len(table) * size >= span.first + span.rows, "rows without room"
            again = max(0, min(self.done.get(span.seq, 0), span.first + span.rows) - span.first)
            self.counted["tokens_padding" if span.seq.finished else "tokens_recomputed"] += (
                span.rows if span.seq.finished else again
            )
            self.counted["tokens_reused"] += span.first
            written += [(table[p // size], p % size) for p in range(span.first, span.first + span.rows)]
        assert len(set(written)) == len(written), "two sequences write to the same place"
        return super().forward(batch)


def oldest_of(sequences: list[Sequence], now: float) -> Sequence | None:
    """The one that has waited longest and is not done."""
    arrived = [seq for seq in sequences if not seq.finished and seq.timing.arrival <= now]
    return min(arrived, key=lambda seq: seq.age, default=None)


@settings(max_examples=150)
@given(traffic=traffic, switches=switches, spare=st.integers(0, 6))
def test_every_request_ends_as_if_it_were_alone(traffic, switches, spare):
    """In a bounded number of steps, with the plain engine's tokens, and leaving nothing behind."""
    work = [(text, n, new) for (text, n, new), _ in traffic]
    sequences = [request(TEXTS[text][:n], new, delay=delay) for ((text, n, new), delay) in traffic]
    longest = max(n + new for _, n, new in work)
    num_blocks = -(-longest // switches["block_size"]) + spare
    engine = make_engine(CONFIG, kv_cache="paged", num_blocks=num_blocks, draft_cost=ALWAYS_DRAFT, **switches)
    engine = remade(engine, Checked, StepClock())
    prefixes = engine.scheduler.prefixes if switches["prefix_cache"] else None
    most, run, steps, oldest = len(work) * sum(n + new for _, n, new in work), engine.run(sequences), 0, None
    while next(run, None) is not None:
        check_blocks(engine, prefixes, engine.scheduler.running)
        engine.done = {seq: max(engine.done.get(seq, 0), engine.cache.length(seq)) for seq in sequences}
        if oldest and switches["batching"] == "continuous":
            assert oldest in engine.scheduler.running or oldest.finished, "the oldest was sent away for a younger one"
        steps, oldest = steps + 1, oldest_of(sequences, engine.clock.now)
        assert steps <= most, "it never ends"
    assert [seq.new_tokens for seq in sequences] == [plain_tokens(text, n)[:new] for text, n, new in work]
    assert all(getattr(engine.ledger, name) == count for name, count in engine.counted.items())
    assert not engine.scheduler.busy
    check_blocks(engine, prefixes)
    while prefixes and prefixes.evict():
        continue
    assert engine.cache.held_bytes == 0
