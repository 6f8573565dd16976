"""When the cache is full, a run is left early or a step fails: all blocks are freed, and every answer stays right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers import ALWAYS_DRAFT, check_blocks, finish, make_engine, remade, request, small_config

from tinyinfer.arrays import Array
from tinyinfer.engine.engine import Engine
from tinyinfer.sequence import Batch, Sequence

CONFIG = small_config()
PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 2}


def plain(prompt: Any, max_tokens: int) -> list[int]:
    """What the plain engine answers."""
    return finish(make_engine(CONFIG, kv_cache="none", max_num_seqs=1), request(prompt, max_tokens))[0]


def engine_of(**switches: Any) -> Engine:
    """An engine that proposes as many drafts as it may."""
    return make_engine(CONFIG, draft_cost=ALWAYS_DRAFT, **switches)


def prefixes_of(engine: Engine) -> Any:
    return engine.scheduler.prefixes if hasattr(engine.scheduler.prefixes, "roots") else None


def check_all_back(engine: Engine) -> None:
    """Nothing is held for anybody; what the tree of prefixes keeps can be evicted to the last block."""
    prefixes = prefixes_of(engine)
    assert not engine.scheduler.busy
    check_blocks(engine, prefixes)
    while prefixes and prefixes.evict():
        continue
    assert engine.cache.held_bytes == 0
    assert engine.drafter.cache.held_bytes == 0 if hasattr(engine.drafter, "cache") else True


# Preemption


def test_preemption_by_hand():
    """Five blocks of two positions: in step 3 a needs a third block, so b, the younger, is sent away and comes back.

    a: 3 + 5 tokens, b: 4 + 3. Steps: (3, 4), (1, 1) fill five blocks; then a runs alone to its end, its own 4 blocks
    leaving too few for the 3 that b would need; then b computes its 6 tokens in one chunk, 5 of them again.
    """
    engine = make_engine(CONFIG, **PAGED, num_blocks=5)
    a, b = request([1, 2, 3], 5), request([4, 5, 6, 7], 3)
    traces = list(engine.run([a, b]))
    rows = [[(span.seq, span.first, span.rows) for span in trace.batch.spans] for trace in traces]
    assert rows == [[(a, 0, 3), (b, 0, 4)], [(a, 3, 1), (b, 4, 1)], [(a, 4, 1)], [(a, 5, 1)], [(a, 6, 1)], [(b, 0, 6)]]
    assert [trace.preempted for trace in traces] == [(), (), (b,), (), (), ()]
    assert [trace.joined for trace in traces] == [(a, b), (), (), (), (), (b,)]
    assert (a.progress.preemptions, b.progress.preemptions, engine.ledger.preemptions) == (0, 1, 1)
    assert (engine.ledger.tokens_computed, engine.ledger.tokens_recomputed) == (18, 5)
    assert engine.ledger.tokens_reused == 3 + 4 + 4 + 5 + 6
    assert engine.ledger.blocks_allocated == 4 + 1 + 1 + 1 + 3
    assert [a.new_tokens, b.new_tokens] == [plain([1, 2, 3], 5), plain([4, 5, 6, 7], 3)]
    check_all_back(engine)


def test_preemption_with_a_prefix_cache_by_hand():
    """The same; but b's whole blocks stay in the tree until a needs one: 2 of its 6 tokens are found again.

    Catches nano-vllm's stale count of cached tokens after a preemption (its PR 211, 233).
    """
    engine = make_engine(CONFIG, **PAGED, num_blocks=5, prefix_cache=True)
    a, b = request([1, 2, 3], 5), request([4, 5, 6, 7], 3)
    traces = list(engine.run([a, b]))
    rows = [[(span.seq, span.first, span.rows) for span in trace.batch.spans] for trace in traces]
    assert rows == [[(a, 0, 3), (b, 0, 4)], [(a, 3, 1), (b, 4, 1)], [(a, 4, 1)], [(a, 5, 1)], [(a, 6, 1)], [(b, 2, 4)]]
    assert (engine.ledger.preemptions, engine.ledger.tokens_recomputed) == (1, 3)
    assert (engine.ledger.tokens_cached, b.progress.cached_tokens) == (2, 0), "its first step found nothing"
    assert engine.ledger.blocks_evicted == 2, "b's second block for a, a's last whole one for b"
    assert [a.new_tokens, b.new_tokens] == [plain([1, 2, 3], 5), plain([4, 5, 6, 7], 3)]
    check_all_back(engine)


def test_the_youngest_is_preempted_whichever_needs_the_room():
    """b needs a block: c, which came last, is preempted; not a, which has most blocks, and not b itself."""
    engine = make_engine(CONFIG, **PAGED, num_blocks=7)
    a, b, c = request(range(7), 2), request([1, 2], 5), request([3, 4, 5], 5)
    gone = [trace.preempted for trace in engine.run([a, b, c])]
    assert gone[0] == ()
    assert [who for step in gone for who in step] == [c]
    assert (a.progress.preemptions, b.progress.preemptions) == (0, 0)
    assert [seq.new_tokens for seq in (a, b, c)] == [plain(range(7), 2), plain([1, 2], 5), plain([3, 4, 5], 5)]


def test_the_youngest_preempts_itself_rather_than_an_older_one():
    """b needs the fifth block while a needs none; catches room taken from the next sequence in the list."""
    engine = make_engine(CONFIG, **PAGED, num_blocks=4)
    a, b = request([1, 2, 3], 2), request([4, 5, 6, 7], 4)
    traces = list(engine.run([a, b]))
    assert [trace.preempted for trace in traces] == [(), (b,), (), (), ()]
    assert [len(trace.batch) for trace in traces] == [7, 1, 5, 1, 1]
    assert [a.new_tokens, b.new_tokens] == [plain([1, 2, 3], 2), plain([4, 5, 6, 7], 4)]


def test_a_waiting_prompt_needs_room_for_all_of_it():
    """Blocks for its first chunk alone would only be freed again: no preemption by a sequence that just joined."""
    engine = make_engine(CONFIG, **PAGED, num_blocks=6, max_num_batched_tokens=4)
    a, b = request([1, 2, 3, 4], 5), request(range(5), 1)
    traces = list(engine.run([a, b]))
    assert engine.ledger.preemptions == 0
    assert [who for trace in traces for who in trace.joined] == [a, b]
    assert traces[1].joined == (b,), "4 blocks are free, and b needs 3"
    late = make_engine(CONFIG, **PAGED, num_blocks=5, max_num_batched_tokens=4)
    a, b = request([1, 2, 3, 4], 5), request(range(5), 1)
    assert [trace.joined for trace in late.run([a, b])] == [(a,), (), (), (), (), (b,), ()]
    assert late.ledger.preemptions == 0


def test_padding_makes_way_first():
    """A finished sequence of a static batch keeps its slot only while no other needs its blocks."""
    engine = make_engine(CONFIG, **PAGED, num_blocks=5, batching="static")
    a, b = request([1, 2, 3, 4], 1), request([5, 6, 7, 8], 6)
    left = [who for trace in engine.run([a, b]) for who in trace.left]
    assert left == [a, b]
    assert engine.ledger.preemptions == b.progress.preemptions == 0
    assert engine.ledger.tokens_padding < 5, "it leaves when b needs the last block"
    assert b.new_tokens == plain([5, 6, 7, 8], 6)
    check_all_back(engine)


def test_counts_are_of_what_really_ran():
    """b, served before a, is planned and then preempted in the same step; what it would have done must not count."""
    engine = make_engine(CONFIG, **PAGED, num_blocks=5, prefix_cache=True)
    a, b = request([1, 2, 3, 4], 6), request([5, 6, 7], 6)
    for trace in engine.run([a, b]):
        spans = trace.batch.spans
        assert trace.ledger.tokens_reused == sum(span.first for span in spans)
        assert trace.ledger.tokens_computed == sum(span.rows for span in spans)
        check_blocks(engine, prefixes_of(engine), engine.scheduler.running)
    assert engine.ledger.preemptions > 0
    assert [a.new_tokens, b.new_tokens] == [plain([1, 2, 3, 4], 6), plain([5, 6, 7], 6)]


@pytest.mark.parametrize("switches", [{**PAGED, "num_blocks": 4}, {"max_model_len": 8}])
def test_what_could_never_fit_is_refused_before_any_work(switches):
    """Else it would wait forever for room that cannot be made; exactly full is fine, as its last token needs none."""
    engine = make_engine(CONFIG, **switches)
    a, exact, long = request([1, 2], 3), request(range(5), 4), request(range(5), 5)
    with pytest.raises(ValueError, match="9 positions do not fit into a cache of 8; raise max_model_len or num_blocks"):
        finish(engine, a, long)
    assert (engine.ledger.steps, engine.scheduler.busy, engine.cache.held_bytes) == (0, False, 0)
    assert finish(engine, exact) == [plain(range(5), 4)]


# Leaving

ON: dict[str, Any] = {**PAGED, "prefix_cache": True}
STATES: dict[str, tuple[dict[str, Any], Callable[[Engine, Sequence], Any]]] = {
    "queued": ({**ON, "max_num_seqs": 1}, lambda engine, seq: seq in engine.scheduler.waiting),
    "prefilling": ({**ON, "max_num_batched_tokens": 5}, lambda engine, seq: 0 < engine.cache.length(seq) < 10),
    "preempted": ({**ON, "num_blocks": 9},
                  lambda engine, seq: seq.progress.preemptions and seq in engine.scheduler.waiting),
    "back again": ({**ON, "num_blocks": 9}, lambda engine, seq: seq.progress.preemptions and engine.cache.length(seq)),
    "decoding": (ON, lambda engine, seq: len(seq.new_tokens) == 3),
    "padding": ({**ON, "batching": "static"}, lambda engine, seq: seq.finished and seq in engine.scheduler.running),
    "speculating": ({**ON, "speculative": "self", "draft_layers": 1}, lambda engine, seq: seq.speculation.proposed),
    "with drafts": ({**ON, "speculative": "self", "max_num_batched_tokens": 6, "num_draft_tokens": 4},
                     lambda engine, seq: seq.drafts),
    "contiguous": ({}, lambda engine, seq: len(seq.new_tokens) == 3),
    "none": ({"kv_cache": "none"}, lambda engine, seq: len(seq.new_tokens) == 3),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_a_cancelled_request_gives_everything_back(state):
    """Wherever it is when it is cancelled; the others go on as if it had never been there."""
    switches, reached = STATES[state]
    engine = engine_of(**switches)
    a, gone, c = request(range(8), 9), request([0, 1, 2, 3, *range(20, 26)], 8), request([7, 7, 7], 9)
    run = engine.run([a, gone, c])
    while not reached(engine, gone):
        next(run)
    if state == "padding":
        assert gone.progress.finish_reason == "length"
    engine.abort(gone)
    assert gone.progress.finish_reason == ("length" if state == "padding" else "abort")
    assert engine.cache.length(gone) == 0
    assert gone not in [*engine.scheduler.running, *engine.scheduler.waiting]
    if "prefix_cache" in switches:
        check_blocks(engine, prefixes_of(engine), engine.scheduler.running)
    for trace in run:
        assert gone not in [span.seq for span in trace.batch.spans]
    assert [a.new_tokens, c.new_tokens] == [plain(range(8), 9), plain([7, 7, 7], 9)]
    if "prefix_cache" in switches:
        check_all_back(engine)
    assert not engine.scheduler.busy


@pytest.mark.parametrize("steps", range(1, 12))
def test_leaving_a_run_leaves_nothing(steps):
    """After any number of steps, with everything on: chunks, shared prefixes, preemption, drafts."""
    switches = {**ON, "num_blocks": 12, "max_num_batched_tokens": 6, "speculative": "self", "draft_layers": 1}
    engine = engine_of(**switches)
    run = engine.run([request(range(8), 6), request(range(9), 8), request([7, 7, 7], 9)])
    for _ in range(steps):
        next(run)
    run.close()
    check_all_back(engine)
    assert finish(engine, request(range(8), 6)) == [plain(range(8), 6)]


# Failing


class Failing(Engine):
    """Fails in the steps of these numbers, before anything is computed: what the step reserved stays garbage."""

    failing: frozenset[int] = frozenset()

    def forward(self, batch: Batch) -> Array:
        if self.ledger.steps + 1 in self.failing:
            self.ledger.steps += 1
            raise MemoryError("no room")
        return super().forward(batch)


def failing(steps: set[int], **switches: Any) -> Engine:
    """An engine that fails in these steps."""
    engine = remade(engine_of(**switches), type("Failing", (Failing,), {"failing": frozenset(steps)}))
    if "num_blocks" in switches:
        for array in (array for pool in engine.cache.pools for array in pool):
            array[:] = 1e3  # what was never written would be seen in every score
    return engine


FAILS: dict[str, dict[str, Any]] = {
    "paged": {**PAGED, "num_blocks": 40},
    "prefixes": {**ON, "num_blocks": 40},
    "prefixes, full": {**ON, "num_blocks": 9},
    "prefixes, in chunks": {**ON, "num_blocks": 12, "max_num_batched_tokens": 6},
    "prefixes, drafts": {**ON, "num_blocks": 40, "speculative": "self", "draft_layers": 1},
    "drafts": {"speculative": "prompt-lookup"},
    "static": {**ON, "num_blocks": 40, "batching": "static"},
    "none": {"kv_cache": "none"},
}


@pytest.mark.parametrize("step", range(1, 7))
@pytest.mark.parametrize("name", FAILS)
def test_a_step_that_fails_changes_no_answer(name, step):
    """Two runs that take turns and share a beginning: one meets the error and ends, the other one starts again.

    Catches: blocks registered by the failed step and never computed, which the next one would find and believe.
    """
    engine = failing({step}, **FAILS[name])
    left, right = [request(range(9), 5)], [request(range(9), 5), request([*range(6), 30, 4], 6)]
    runs, errors = [engine.run(left), engine.run(right)], 0
    while runs:
        for run in list(runs):
            try:
                if next(run, None) is None:
                    runs.remove(run)
            except MemoryError:
                errors += 1
                runs.remove(run)
    assert errors == 1
    for seq, prompt, n in ((left[0], range(9), 5), (right[0], range(9), 5), (right[1], [*range(6), 30, 4], 6)):
        assert seq.progress.finish_reason in ("length", "abort")
        assert seq.new_tokens == plain(prompt, n)[: len(seq.new_tokens)]
    assert [seq.progress.finish_reason for seq in (left[0], *right)].count("length") >= 1
    again = [request(range(9), 5), request([*range(6), 30, 4], 6)]
    assert finish(engine, *again) == [plain(range(9), 5), plain([*range(6), 30, 4], 6)]
    if "prefix_cache" in FAILS[name]:
        check_all_back(engine)
    assert not engine.scheduler.busy


def test_drafts_that_fail_leave_a_usable_engine():
    """The draft model fails between two steps: the last step's sequences start again, and nothing is lost."""
    engine = engine_of(**ON, speculative="self", draft_layers=1)
    propose, calls = engine.drafter.propose, []

    def broken(sequences: list[Sequence]) -> None:
        calls.append(len(sequences))
        propose(sequences)
        if len(calls) == 3:
            raise MemoryError("no room")

    engine.drafter.propose = broken
    a, b = request(range(6), 9), request([4, 5], 9)
    run, other = engine.run([a]), engine.run([b])
    next(run)
    next(other)
    with pytest.raises(MemoryError):
        next(run)
    for _ in other:
        continue
    assert (a.progress.finish_reason, b.new_tokens) == ("abort", plain([4, 5], 9))
    check_all_back(engine)
