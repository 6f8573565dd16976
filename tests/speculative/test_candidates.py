"""Several candidates at once: they share their sequence's blocks, run in the same batch, and the best one is kept."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
from helpers import ALWAYS_DRAFT, check_blocks, finish, make_engine, request, small_config
from hypothesis import given
from hypothesis import strategies as st

from tinyinfer.engine.config import EngineConfig
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.sampling import perturbed
from tinyinfer.sequence import Batch, Draft, Sequence, make_batch
from tinyinfer.speculative.base import DraftCost
from tinyinfer.speculative.draft_cache import OwnCache
from tinyinfer.speculative.draft_length import DraftLengths
from tinyinfer.speculative.draft_model import ModelDrafter
from tinyinfer.speculative.prompt_lookup import PromptLookup
from tinyinfer.speculative.verify import verify

CONFIG = small_config(windows=(7, None))
SECOND = small_config(num_layers=1, num_heads=2, num_kv_heads=1)
PROMPT = [3, 4, 5, 6, 7, 8, 9]
FOUR_CANDIDATES: dict[str, Any] = {"kv_cache": "paged", "speculative": "draft", "draft_model": "x",
                                   "num_draft_candidates": 4, "num_draft_tokens": 3}  # fmt: skip


class Told:
    """A drafter that proposes what it is told: a function from a sequence to its candidates."""

    verify = staticmethod(verify)

    def __init__(self, draft) -> None:
        self.draft = draft

    def propose(self, sequences: list[Sequence]) -> None:
        for seq in sequences:
            drafts = [[Draft(token) for token in tokens] for tokens in self.draft(seq) if tokens]
            seq.set_drafts(*(drafts[:1] or [[]]), drafts[1:])

    def observe(self, batch: Batch) -> None:
        """Learns nothing."""

    def free(self, seq: Sequence) -> None:
        """Nothing is kept."""

    def keep(self, sequences: Collection[Sequence]) -> None:
        """Nothing is kept."""


def told(draft, **switches):
    switches = {"kv_cache": "paged", "block_size": 4, "num_blocks": 16} | switches
    engine = make_engine(CONFIG, speculative="prompt-lookup", num_draft_candidates=4, **switches)
    engine.drafter = engine.scheduler.drafter = Told(draft)
    return engine


def truth(new: int = 12) -> list[int]:
    return finish(make_engine(CONFIG, kv_cache="none"), request(PROMPT, new))[0]


def candidates_of(text: list[int], right: int) -> Callable[[Sequence], list[list[int]]]:
    """Three candidates of three drafts: all wrong, then one with `right` right ones, then all wrong in another way."""

    def draft(seq: Sequence) -> list[list[int]]:
        done = len(seq.new_tokens)
        rest = text[done:][: min(3, seq.request.max_tokens - done - 1)]
        wrong = [[(token + shift) % 31 for token in rest] for shift in (1, 2, 3)]
        return [wrong[0], rest[:right] + wrong[1][right:], wrong[2]]

    return draft


def test_the_accepted_candidate_is_kept_and_the_others_are_freed():
    """7 prompt tokens, then steps of 1 + 3 accepted drafts of a candidate. Catches the keys of `drafts` being kept."""
    right = truth()

    def draft(seq: Sequence) -> list[list[int]]:
        rest = right[len(seq.new_tokens) :][: min(3, seq.request.max_tokens - len(seq.new_tokens) - 1)]
        return [[(token + 1) % 31 for token in rest], rest, [(token + 2) % 31 for token in rest]]

    engine, seq = told(draft), request(PROMPT, 12)
    assert finish(engine, seq) == [right]
    assert engine.ledger.steps == 1 + 3  # 1 token, then 4 + 4 + 3
    assert (engine.ledger.drafts_proposed, engine.ledger.drafts_accepted) == (8, 8)
    assert (seq.speculation.proposed, seq.speculation.accepted) == (8, 8)
    assert engine.ledger.tokens_computed == 7 + 3 * (4 + 4 + 3)
    assert engine.cache.held_bytes == 0


def test_without_room_or_rows_candidates_are_left_out_and_no_sequence_is_preempted():
    """Two blocks of eight: the prompt and the answer fill them. Catches a preemption or an error because of a draft."""
    right = truth(8)

    def draft(seq: Sequence) -> list[list[int]]:
        rest = right[len(seq.new_tokens) :][: min(2, seq.request.max_tokens - len(seq.new_tokens) - 1)]
        return [rest[:1], [(token + 1) % 31 for token in rest]]

    for switches in ({"num_blocks": 2, "block_size": 8}, {"max_num_batched_tokens": 2}):
        engine = told(draft, **switches)
        assert finish(engine, request(PROMPT, 8)) == [right]
        assert engine.ledger.preemptions == 0
        assert engine.cache.held_bytes == 0


def test_a_failed_step_queues_no_candidate():
    """Catches a candidate that is put into the queue as if it were a request, and blocks that it keeps."""
    right = truth()
    engine = told(lambda seq: [[1], right[len(seq.new_tokens) :][:1], [2]])
    broken, forward = [3], engine.forward

    def failing(batch):
        logits = forward(batch)
        broken[0] -= 1
        if not broken[0]:
            raise MemoryError("no room")
        return logits

    engine.forward = failing
    seq = request(PROMPT, 12)
    with pytest.raises(MemoryError):
        finish(engine, seq)
    assert not engine.scheduler.busy
    assert engine.cache.held_bytes == 0
    assert finish(engine, request(PROMPT, 12)) == [right]


@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("block_size", range(1, 6))
@pytest.mark.parametrize("right", range(4))
def test_after_every_step_only_the_accepted_candidate_holds_blocks(right, block_size, prefix_cache):
    """A candidate with `right` of 3 drafts accepted, at every distance from a block's edge; then other requests.

    Catches a block of a rejected candidate or of rejected drafts that is never freed, or is in the prefix cache.
    """
    text = truth(16)
    engine = told(candidates_of(text, right), block_size=block_size, num_blocks=60, prefix_cache=prefix_cache)
    prefixes: Any = engine.scheduler.prefixes
    seq = request(PROMPT, 16)
    for _ in engine.run([seq]):
        check_blocks(engine, prefixes if prefix_cache else None, [seq])
        if not seq.finished:
            length = len(seq.tokens) - 1
            assert (engine.cache.length(seq), len(engine.cache.block_table(seq))) == (length, -(-length // block_size))
    assert seq.new_tokens == text
    assert (seq.speculation.accepted > 0) == (right > 0)
    again = [*PROMPT, *text[:9]]  # among them blocks that were registered in a step that accepted a candidate
    assert finish(engine, request(again, 7)) == [text[9:]]
    assert engine.ledger.tokens_cached == (0 if not prefix_cache else (len(again) - 1) // block_size * block_size)


def test_a_candidate_copies_the_rows_of_its_last_block_and_shares_the_others():
    """7 prompt tokens in blocks of 4, and two candidates of 3 drafts. A position is 96 bytes in each of the two layers.

    One copies the 3 known rows of block 1. The sequence itself holds block 2 by then, so the candidate's block table is
    0, 3, 4: each layer gathers what its queries see, 11 positions and, behind a window of 7, those from 1 on. So does a
    second candidate.
    """
    engine = told(candidates_of(truth(9), 3))
    run = engine.run([request(PROMPT, 9)])
    copied = [next(run).ledger.kv_copied_bytes for _ in range(2)]
    assert copied == [0, 2 * (3 * 2 * 96 + (11 + 10) * 96)]


def test_a_preempted_sequence_computes_itself_again_only_once():
    """Its drafts are kept and verified with the recomputed sequence; catches candidates that each recompute it."""
    pool = {"block_size": 4, "num_blocks": 9}
    engine = make_engine(CONFIG, second=SECOND, draft_cost=ALWAYS_DRAFT, **pool, **FOUR_CANDIDATES)
    sequences, kept, again = [request([i, *PROMPT], 20) for i in range(4)], set(), 0
    for trace in engine.run(sequences):
        candidates = [span for span in trace.batch.spans if span.seq.owner is not span.seq]
        assert all(span.rows == span.wanted for span in candidates)
        again += sum(span.seq in kept and span.wanted > 1 for span in trace.batch.spans)
        kept |= {seq for seq in trace.preempted if seq.speculation.candidates}
        kept -= {span.seq for span in trace.batch.spans}
    assert again > 0


def test_what_a_draft_model_proposes_does_not_depend_on_the_accepted_candidate():
    """Before each step its drafts are those of one that knows nothing yet but the tokens.

    Catches keys of a rejected draft left in the draft model's cache when another candidate was accepted there.
    """
    engine = make_engine(CONFIG, second=SECOND, num_blocks=40, draft_cost=ALWAYS_DRAFT, **FOUR_CANDIDATES)
    drafter: Any = engine.drafter
    propose, sequences = drafter.propose, [request(prompt, 30) for prompt in (PROMPT, [1, 2, 3, 1, 2, 4], [5, 6, 5])]

    def watched(asked: list[Sequence]) -> None:
        propose(asked)
        for seq in asked:
            cache = ContiguousCache(CacheSpec(SECOND.memory, 64), drafter.ops)
            lengths = DraftLengths(3, ALWAYS_DRAFT)
            config = EngineConfig(**FOUR_CANDIDATES)
            fresh = ModelDrafter(drafter.model, OwnCache(cache), drafter.ops, lengths, drafter.vocab_size, config)
            twin = seq.candidate(seq.id, [])
            fresh.propose([twin])
            assert [draft.token for draft in seq.drafts] == [draft.token for draft in twin.drafts][: len(seq.drafts)]
            assert seq.speculation.candidates == twin.speculation.candidates

    drafter.propose, accepted = watched, 0
    for trace in engine.run(sequences):
        for span, new in zip(trace.batch.spans, trace.choices, strict=True):
            accepted += span.seq.owner is not span.seq and len(new) > 1
    assert accepted > 3


def test_a_trace_counts_the_tokens_of_the_accepted_candidate_only():
    """Catches throughput that counts the tokens of all candidates. The accepted one's turn shows the new tokens."""
    text = truth()
    engine, seq = told(candidates_of(text, 2)), request(PROMPT, 12)
    traces = list(engine.run([seq]))
    assert [sum(map(len, trace.choices)) for trace in traces] == [1, 3, 3, 3, 2]
    assert [[turn.phase for turn in trace.turns] for trace in traces] == [["prefill"]] + [
        ["decode", "candidate", "candidate"]
    ] * 4
    own, candidate, rejected = traces[1].turns
    assert (own.id, own.accepted, own.tokens) == (seq.id, 0, tuple(text[1:4]))
    assert (candidate.id, candidate.accepted, candidate.tokens) == (seq.id, 2, tuple(text[1:4]))
    assert (rejected.id, rejected.accepted, rejected.tokens) == (seq.id, 0, ())


@pytest.mark.parametrize("at", range(1, 8))
def test_an_end_inside_a_candidate_is_the_end(at):
    """By a token and by a stop string. Catches tokens behind the end that stay."""
    text = truth()
    first = text.index(text[at])
    end = request(PROMPT, 12, eos=[text[at]])
    stop = request(PROMPT, 12, stop=f" {text[at]} ")
    for seq in (end, stop):
        engine = told(candidates_of(text, 3))
        finish(engine, seq)
        assert seq.progress.finish_reason == "stop"
        assert engine.cache.held_bytes == 0
    plain = request(PROMPT, 12, stop=f" {text[at]} ")
    finish(make_engine(CONFIG), plain)
    assert end.new_tokens == text[: first + 1]
    assert (stop.new_tokens, stop.text.text) == (plain.new_tokens, plain.text.text)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_an_abort_between_steps_leaves_nothing(steps):
    """Catches a candidate that outlives its step."""
    text = truth()
    engine, (one, two) = told(candidates_of(text, 2), num_blocks=30), (request(PROMPT, 12), request(PROMPT, 12))
    run = engine.run([one, two])
    for _ in range(steps):
        next(run)
    engine.abort(one)
    check_blocks(engine, tables=[two])
    for _ in run:
        continue
    assert (one.progress.finish_reason, two.new_tokens) == ("abort", text)
    assert engine.cache.held_bytes == 0


def test_a_candidate_that_finds_no_memory_leaves_nothing():
    """With a quantized cache, a candidate reserves float rows as it is forked; catches its blocks being lost then."""
    text = truth()
    engine = told(candidates_of(text, 2))
    fork, calls = engine.cache.fork, []

    def failing(seq: Sequence, child: Sequence) -> None:
        fork(seq, child)
        calls.append(child)
        raise MemoryError("no room")

    engine.cache.fork = failing  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        finish(engine, request(PROMPT, 12))
    assert len(calls) == 1
    assert engine.cache.held_bytes == 0


@pytest.mark.parametrize("batching", ["continuous", "static"])
@pytest.mark.parametrize("num_blocks", [10, 40])
@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("speculative", ["prompt-lookup", "draft", "self"])
def test_candidates_change_no_token(speculative, prefix_cache, num_blocks, batching):
    """Greedy and drawn, in batches, with a pool that forces preemption, against the plain engine alone."""
    prompts = [[1, 2, 3, 1, 2, 4, 1, 2], [1, 2, 3, 1, 2, 4, 5], [5] * 8, [1, 2, 3, 1, 2, 4, 1, 2]]

    def requests() -> list[Sequence]:
        drawn = {"temperature": 1.0}
        return [request(p, 14, seed=9, **(drawn if i % 2 else {})) for i, p in enumerate(prompts)]

    plain = make_engine(CONFIG, kv_cache="none", max_num_seqs=1)
    expected = [finish(plain, one)[0] for one in requests()]
    more = {"draft_model": "second"} if speculative == "draft" else {}
    engine = make_engine(
        CONFIG, second=SECOND if speculative == "draft" else None, kv_cache="paged", block_size=4,
        num_blocks=num_blocks, prefix_cache=prefix_cache, batching=batching, speculative=speculative,
        num_draft_candidates=3, max_num_batched_tokens=24, draft_cost=ALWAYS_DRAFT, **more,
    )  # fmt: skip
    assert finish(engine, *requests()) == expected
    assert engine.ledger.drafts_proposed > 0
    assert num_blocks == 40 or engine.ledger.preemptions > 0
    held = engine.cache.held_bytes
    while engine.scheduler.prefixes.evict():
        held = engine.cache.held_bytes
    assert held == 0


@pytest.mark.parametrize(("switches", "cure"), [({"kv_cache": "paged"}, "choose prompt-lookup"),
                                                ({"speculative": "self"}, "add kv_cache=paged")])  # fmt: skip
def test_what_candidates_need_is_said(switches, cure):
    """Both halves of the switch alone make no sense."""
    with pytest.raises(ValueError, match=cure):
        EngineConfig(num_draft_candidates=2, **switches)


# Where candidates come from.


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 5), st.integers(1, 4), st.integers(1, 4))
def test_lookup_finds_different_continuations_the_longest_ending_and_the_latest_first(tokens, n, longest, candidates):
    """Against a search written down naively."""
    naive: list[list[int]] = []
    for size in range(min(longest, len(tokens) - 1), 0, -1):
        for start in range(len(tokens) - size - 1, -1, -1):
            after = tokens[start + size :][:n]
            if tokens[start : start + size] == tokens[-size:] and after and after[0] not in [a[0] for a in naive]:
                naive.append(after)
    found = PromptLookup(DraftLengths(9, DraftCost(float)), candidates, longest).lookup(tokens, n)
    assert found == naive[:candidates]


@pytest.mark.parametrize("asked", [{}, {"temperature": 1.0}, {"temperature": 2.0, "top_k": 2}], ids=str)
def test_a_draft_model_s_candidates_are_the_best_of_its_perturbed_scores(asked):
    """The first with more behind it, then the next alone, best first: what the target most likely draws by that noise.

    Catches candidates ranked by probability alone (no noise), and a token that a filter left out.
    """
    engine = make_engine(CONFIG, second=SECOND, draft_cost=ALWAYS_DRAFT, **FOUR_CANDIDATES)
    drafter: Any = engine.drafter
    orders = set()
    for seed in range(20):
        seq = request(PROMPT, 9, seed=seed, **asked)
        [row] = make_engine(SECOND, seed=1, kv_cache="none").forward(make_batch([(seq, 0, len(PROMPT))]))
        s = perturbed(row, *seq.sampling)
        best = [int(token) for token in np.argsort(-s)[: asked.get("top_k", 4)]]
        drafter.propose([seq])
        assert [seq.drafts[0].token, *(one[0].token for one in seq.speculation.candidates)] == best
        assert {len(one) for one in seq.speculation.candidates} == {1}
        assert len(seq.drafts) == 3
        orders.add(tuple(best))
    assert (len(orders) > 1) == bool(asked)
