"""longrope: a sequence's length decides which frequencies turn its rows, whatever else is on.

The oracle knows no cache, no batch and no draft: for each token it computes all tokens anew, with the set that their
number asks for (transformers does the same). Each text here crosses the boundary, and would be another one with keys
that another set has turned.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from golden import load_golden
from helpers import (
    ALWAYS_DRAFT,
    ROUNDING,
    TOLERANCE,
    check_blocks,
    distance,
    finish,
    longrope,
    make_engine,
    request,
    small_config,
)

from tinyinfer.engine import overflow
from tinyinfer.engine.engine import Engine
from tinyinfer.kv_cache.base import CacheSpec, NoCache
from tinyinfer.loading import load
from tinyinfer.model.config import RopeConfig
from tinyinfer.model.transformer import transformer
from tinyinfer.quantization import calibration
from tinyinfer.rotation_sets import RotationSets
from tinyinfer.sampling import choose
from tinyinfer.sequence import Batch, Sequence, Span
from tinyinfer.speculative import draft_model
from tinyinfer.views import matrices
from tinyinfer.views.recording import tree_nodes

BOUNDARY, SEED = 12, 1  # weights of this seed say something else with other rotations
MARGIN = 1e-3  # between the best and the second best log-probability: no tie decides a text


MODEL = small_config(rope=(longrope(BOUNDARY),) * 2, windows=(None, 7))
SECOND = small_config(rope=(longrope(BOUNDARY - 3),) * 2)  # a draft model that becomes long before its target does
PLAIN = small_config(rope=(RopeConfig(divisors=(1.0, 1.3, 1.5), amplitude=1.2),) * 2, windows=(None, 7))  # always short
A, B = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0, 4, 5]
WORK = [(A[:7], 12), (B[:9], 9), (A[:12], 6), (A[:13], 6), (A, 5), (B[:3], 5), (A[:7], 9)]
SEEDED: dict[str, Any] = {"temperature": 1.0, "seed": 11, "top_k": 9}
PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 2}
SHARED: dict[str, Any] = {**PAGED, "prefix_cache": True}
DRAFT: dict[str, Any] = {"speculative": "draft", "draft_model": "second", "second": SECOND}
SELF: dict[str, Any] = {"speculative": "self", "draft_layers": 1}
LOOKUP: dict[str, Any] = {"speculative": "prompt-lookup"}


def engine_of(**switches: Any) -> Engine:
    """An engine that proposes as many drafts as it may."""
    return make_engine(MODEL, seed=SEED, draft_cost=ALWAYS_DRAFT, **switches)


def all_rows(seq: Sequence, which: int) -> Batch:
    """All tokens of a sequence, turned by this set; the logits of the last one."""
    n = len(seq.tokens)
    return Batch(np.array(seq.tokens), np.arange(n), np.array([n - 1]), (Span(seq, 0, n, 0, 1, which),))


@cache
def _oracle(prompt: tuple[int, ...], n: int, params: tuple[tuple[str, Any], ...]) -> list[int]:
    engine, seq = engine_of(), request(prompt, n, logprobs=2, **dict(params))
    while not seq.finished:
        batch, cache = all_rows(seq, int(len(seq.tokens) > BOUNDARY)), NoCache(CacheSpec(MODEL.memory, 64), engine.ops)
        [row] = transformer(engine.model, batch, cache, engine.ops)
        seq.append(choice := choose(row, *seq.sampling), 0.0)
        best, second = choice.top.values()
        assert seq.request.params.temperature or best - second > MARGIN
    return seq.new_tokens


def oracle(prompt: list[int], n: int, **params: Any) -> list[int]:
    """What the rule says, computed without any part of the engine."""
    return _oracle(tuple(prompt), n, tuple(params.items()))


def asked(work: list[tuple[list[int], int]], **params: Any) -> list[Sequence]:
    return [request(prompt, n, **params) for prompt, n in work]


def check(engine: Engine, work: list[tuple[list[int], int]], **params: Any) -> list[Sequence]:
    """Runs the work: each text is the oracle's, and nothing is left behind."""
    sequences = asked(work, **params)
    assert finish(engine, *sequences) == [oracle(prompt, n, **params) for prompt, n in work]
    prefixes: Any = engine.scheduler.prefixes
    if engine.cache.num_blocks:
        check_blocks(engine, prefixes if hasattr(prefixes, "roots") else None)
    return sequences


# The rule


def test_a_sequence_is_short_up_to_the_boundary():
    """Catches a boundary that is off by one, and a model without longrope that has one."""
    assert [RotationSets(4).of(n) for n in (1, 4, 5, 99)] == [0, 0, 1, 1]
    assert [RotationSets().of(n) for n in (1, 10**9)] == [0, 0]
    assert (RotationSets(4).count, RotationSets().count) == (2, 1)


def test_drafts_end_at_the_boundary_and_those_of_a_long_sequence_nowhere():
    """With the last one, all tokens are as many as a short sequence has. Catches a draft that needs other rows."""
    assert [RotationSets(4).most_drafts(n) for n in (1, 4, 5)] == [3, 0, np.inf]
    assert RotationSets().most_drafts(3) == np.inf


def test_the_texts_of_this_file_tell_the_sets_apart():
    """Were the long set never used, or short keys kept at the crossing, each of these texts would be another one."""
    for prompt, n in WORK[:3]:
        always_short = make_engine(PLAIN, seed=SEED)
        stale = engine_of()
        stale.scheduler._queue_again = lambda seq: None
        for wrong in (always_short, stale):
            [text] = finish(wrong, request(prompt, n))
            crossed = BOUNDARY + 1 - len(prompt)
            assert text[:crossed] == oracle(prompt, n)[:crossed]
            assert text[crossed:] != oracle(prompt, n)[crossed:]


# The engine


@pytest.mark.parametrize("params", [{}, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize(
    "switches",
    [
        {"kv_cache": "none"}, {}, PAGED, SHARED, {**SHARED, "num_blocks": 14}, {"batching": "static"},
        {"batching": "dynamic", "max_num_seqs": 2}, {"max_num_batched_tokens": 3, **SHARED},
        {"max_num_batched_tokens": 5}, {**SHARED, **LOOKUP}, {**SHARED, **LOOKUP, "num_draft_candidates": 3},
        {**SHARED, **SELF, "num_blocks": 20}, DRAFT, {**PAGED, **DRAFT, "num_draft_candidates": 2},
        {**SHARED, **DRAFT, "max_num_batched_tokens": 6},
    ],
    ids=lambda switches: "-".join(str(value) for value in switches.values() if not isinstance(value, type(MODEL))),
)  # fmt: skip
def test_every_way_to_compute_a_text_keeps_the_rule(switches, params):
    """Two waves: the second one finds what the first has left in the prefix cache."""
    engine = engine_of(**switches)
    check(engine, WORK, **params)
    check(engine, WORK[::-1], **params)


@pytest.mark.parametrize("kv_cache", ["contiguous", "paged"])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_keys_are_those_of_the_set_too(bits, kv_cache):
    """Catches packed blocks, or float rows of the last one, that outlive the crossing.

    Which numbers are packed depends on positions alone: a prompt of all tokens so far gives the same next one.
    """
    switches = {"kv_bits": bits, "block_size": 3, "kv_cache": kv_cache}
    engine, prompt, wanted = engine_of(**switches), A[:7], []
    for _ in range(10):
        wanted += finish(engine, request([*prompt, *wanted], 1))[0]
    assert finish(engine, request(prompt, 10), request(prompt, 10)) == [wanted, wanted]
    assert finish(engine_of(**switches, max_num_batched_tokens=4), request(prompt, 10)) == [wanted]


def spans_of(engine: Engine, *sequences: Sequence) -> list[tuple[int, int, int, int]]:
    """Of each span: the number of its sequence, its first position, its rows and its set."""
    order = list(sequences)
    return [
        (order.index(span.seq.owner), span.first, span.rows, span.rotation_set)
        for trace in engine.run(order)
        for span in trace.batch.spans
    ]


def test_a_crossing_by_hand():
    """A prompt of 10 and 5 new tokens, four rows a step: from 13 tokens on, all of them anew, in chunks of four.

    Twelve rows are computed a second time, and no preemption is counted.
    """
    engine, seq = engine_of(**PAGED, max_num_batched_tokens=4), request(A[:10], 5)
    short = [(0, 0, 4, 0), (0, 4, 4, 0), (0, 8, 2, 0), (0, 10, 1, 0), (0, 11, 1, 0)]
    long = [(0, 0, 4, 1), (0, 4, 4, 1), (0, 8, 4, 1), (0, 12, 1, 1), (0, 13, 1, 1)]
    assert spans_of(engine, seq) == short + long
    assert seq.new_tokens == oracle(A[:10], 5)
    assert (engine.ledger.tokens_recomputed, engine.ledger.tokens_computed) == (12, 26)
    assert (engine.ledger.preemptions, seq.progress.preemptions) == (0, 0)


def test_the_trace_says_that_rows_are_computed_again():
    """Catches a second prefill in the middle of an answer without a word."""
    engine = engine_of()
    turns = [turn for trace in engine.run([request(A[:11], 4)]) for turn in trace.turns]
    assert [(turn.phase, turn.rows, turn.again) for turn in turns] == [
        ("prefill", 11, 0), ("decode", 1, 0), ("recompute", 13, 12), ("decode", 1, 0),
    ]  # fmt: skip


def test_a_crossing_is_no_second_beginning():
    """Catches a request whose wait and whose cached tokens are those of its second admission."""
    engine = engine_of(**SHARED, clock=count().__next__)
    check(engine, [(A[:10], 1)])
    [seq] = check(engine, [(A[:10], 5)])
    assert seq.progress.cached_tokens == 8
    assert seq.timing.started < seq.timing.times[0]


def test_without_a_cache_there_is_nothing_to_drop():
    """Every step computes all tokens anyway. Catches a sequence that is sent away for keys that it does not hold."""
    engine, seq = engine_of(kv_cache="none"), request(A[:10], 5)
    assert [trace.joined for trace in engine.run([seq])] == [(seq,), (), (), (), ()]


def test_a_prompt_beyond_the_boundary_is_long_from_its_first_chunk():
    """Catches chunks that count only the rows so far. No row is computed twice."""
    for rows in (1, 5, 12, 13):
        engine = engine_of(max_num_batched_tokens=rows)
        seq = request(A[:13], 3)
        assert {which for *_, which in spans_of(engine, seq)} == {1}
        assert seq.new_tokens == oracle(A[:13], 3)
        assert engine.ledger.tokens_recomputed == 0


def test_an_answer_that_ends_at_the_boundary_is_never_long():
    """The last token is never computed. Catches a sequence that is computed again only to leave."""
    engine = engine_of()
    assert {which for *_, which in spans_of(engine, request(A[:10], 3))} == {0}
    assert engine.ledger.tokens_recomputed == 0


def test_several_sequences_cross_in_one_step():
    """Catches a crossing that voids one sequence of a step, or all of them."""
    engine, sequences = engine_of(**SHARED), asked([(A[:8], 9), (B[:8], 9), (A[4:13], 2), (B[:8], 9)])
    spans = spans_of(engine, *sequences)
    again = [span for span in spans if span[1:] == (0, 13, 1)]
    assert [seq for seq, *_ in again] == [0, 1], "3 shares the blocks of its twin, in the same step"
    assert [seq.new_tokens for seq in sequences] == [oracle(seq.prompt, seq.request.max_tokens) for seq in sequences]


def test_a_static_batch_pads_beside_a_crossing():
    """The finished one keeps its slot, just beyond the boundary. Catches padding that is computed again."""
    engine = engine_of(batching="static")
    check(engine, [(A[:10], 3), (B[:10], 7), (B[:3], 8)])
    assert engine.ledger.tokens_recomputed == 12
    assert engine.ledger.tokens_padding == 5 + 1


@pytest.mark.parametrize("other", [None, RopeConfig()], ids=["no rotation", "one set"])
def test_layers_of_one_set_or_none_cross_with_the_others(other):
    """Only one kind of layer has longrope. Catches a set that the other kind does not have."""
    model = small_config(rope=(other, longrope(BOUNDARY)))
    [text] = finish(make_engine(model), request(A[:10], 6))
    assert finish(make_engine(model), *(request([*A[:10], *text[:n]], 1) for n in range(6))) == [[t] for t in text]


# Against transformers


@pytest.mark.parametrize(
    "switches",
    [{"kv_cache": "none"}, {}, {**SHARED, "max_num_batched_tokens": 7}, SELF],
    ids=["none", "one", "7", "self"],
)
def test_transformers_generates_the_same_text_across_the_boundary(switches, golden_folder):
    """A Phi-3 of random weights with a boundary of 24, twice: its prompt has 17 tokens, its answer 28."""
    golden = load_golden("phi3_long")
    engine = make_engine(load(golden_folder("phi3_long")), draft_cost=ALWAYS_DRAFT, **switches)
    assert engine.cache.spec.sets.boundary == 24
    for _ in range(2):
        assert finish(engine, request(golden.prompt, len(golden.greedy))) == [golden.greedy]


@pytest.mark.parametrize("n", [23, 24, 25, 41])
def test_transformers_has_the_same_logits_around_the_boundary(n, golden_folder):
    """In two pieces, the first of them short. Catches a boundary that is off by one."""
    golden, engine = load_golden("phi3_long"), make_engine(load(golden_folder("phi3_long")))
    seq = request(golden.tokens[:n].tolist())
    found = np.concatenate([engine.logits(seq, 0, 15), engine.logits(seq, 15, n)])
    assert distance(found, golden.first_logits(n)) < TOLERANCE


# Preemption


@pytest.mark.parametrize("blocks", range(8, 17))
@pytest.mark.parametrize("switches", [PAGED, SHARED], ids=["paged", "shared"])
def test_a_pool_that_is_too_small_around_the_crossing(switches, blocks):
    """Sequences are preempted before, at and behind the boundary, and come back short or long by their tokens."""
    engine = engine_of(**switches, num_blocks=blocks, max_num_batched_tokens=8)
    check(engine, [(A[:9], 7), (B[:10], 6), (A[:6], 8)])
    assert engine.ledger.preemptions > 0 or blocks > 11


# Prefixes


def cached(engine: Engine, prompt: list[int], n: int) -> int:
    """How many tokens of a prompt its request finds."""
    [seq] = check(engine, [(prompt, n)])
    return seq.progress.cached_tokens


def test_short_and_long_share_no_prefix():
    """One of each, in both orders. Catches keys of one set under the queries of the other."""
    for first, second in ((A[:9], A[:15]), (A[:15], A[:9])):
        engine = engine_of(**SHARED)
        assert cached(engine, first, 1) == 0
        assert cached(engine, second, 1) == 0
        assert cached(engine, second, 1) == (len(second) - 1) // 2 * 2
        assert cached(engine, first, 1) == (len(first) - 1) // 2 * 2


def test_short_and_long_share_no_prefix_within_a_step():
    """Both join in the first step, where sequences share blocks that are not even computed."""
    engine = engine_of(**SHARED)
    sequences = check(engine, [(A[:9], 2), (A[:15], 2), (A[:9], 2), (A[:15], 2)])
    assert [seq.progress.cached_tokens for seq in sequences] == [0, 0, 8, 14]


def test_a_conversation_finds_what_it_said_when_it_was_long():
    """The answer crosses; the next prompt continues it. Catches blocks under the root of the set that was left."""
    engine, prompt = engine_of(**SHARED), A[:9]
    said = oracle(prompt, 8)
    cached(engine, prompt, 8)
    assert cached(engine, [*prompt, *said, 1], 3) == 16, "17 tokens, the last of them never computed"
    assert cached(engine, [*prompt, *said[:2], 1], 1) == 10, "its short beginning is there as well"


def test_the_tree_of_both_sets_survives_a_repair_and_is_drawn():
    """Catches blocks of long sequences that belong to nothing after Ctrl-C, and are not in the picture of the tree."""
    engine = engine_of(**SHARED)
    check(engine, [(A[:9], 8)])
    prefixes: Any = engine.scheduler.prefixes
    blocks = [node.block for _, node in tree_nodes(prefixes)]
    assert len(blocks) == BOUNDARY // 2 + 16 // 2
    with suppress(KeyboardInterrupt), engine.scheduler.change():
        raise KeyboardInterrupt
    check_blocks(engine, prefixes)
    assert prefixes.evictable == len(blocks)
    assert cached(engine, A[:9], 8) == 8
    assert engine.ledger.tokens_recomputed == BOUNDARY


def test_a_sequence_that_crosses_finds_a_long_prefix():
    """An earlier request was long from the start. Catches a crossing that computes what the cache holds."""
    engine, said = engine_of(**SHARED), oracle(A[:9], 8)
    check(engine, [([*A[:9], *said], 1)])
    found = engine.ledger.tokens_cached
    check(engine, [(A[:9], 8)])
    assert engine.ledger.tokens_cached - found == 12
    assert engine.ledger.tokens_recomputed == 0


# Drafts


@pytest.mark.parametrize("switches", [LOOKUP, SELF, DRAFT], ids=["prompt-lookup", "self", "draft"])
def test_no_draft_of_a_short_sequence_lies_behind_the_boundary(switches):
    """Up to the boundary they are proposed. Catches a draft that is judged by rows of the wrong set."""
    engine, seq = engine_of(**switches, num_draft_tokens=5), request([1, 26, 19, 15, 8, 9, 1, 2], 14)
    spans = [span for trace in engine.run([seq]) for span in trace.batch.spans]
    short, long = ([span for span in spans if span.rotation_set == which] for which in (0, 1))
    ends = [span.first + span.rows for span in short]
    assert max(ends) == BOUNDARY
    assert any(span.wanted > 1 for span in short)
    assert any(span.wanted > 1 for span in long)
    assert seq.new_tokens == oracle(seq.prompt, 14)


def test_the_keys_of_a_draft_model_are_of_its_own_set():
    """It becomes long at 10 tokens, its target at 13. Catches drafts of keys that another set has turned.

    Each draft is the one that the draft model has for all tokens before it, computed anew; and its last row is as long.
    """
    engine, compared = engine_of(**DRAFT, num_draft_tokens=4), []
    drafter: Any = engine.drafter
    propose = drafter.propose

    def watched(sequences: list[Sequence]) -> None:
        propose(sequences)
        for seq in sequences:
            long = int(len(seq.tokens) > BOUNDARY - 3)
            assert long or len(seq.tokens) + len(seq.drafts) <= BOUNDARY - 3
            for i, draft in enumerate(seq.drafts):
                before = request([*seq.tokens, *(d.token for d in seq.drafts[:i])])
                cache = NoCache(CacheSpec(SECOND.memory, 64), engine.ops)
                [row] = transformer(drafter.model, all_rows(before, long), cache, engine.ops)
                compared.append(long)
                assert draft.token == row.argmax()

    drafter.propose = watched
    check(engine, [(A[:5], 20), (B[:7], 15)])
    assert compared.count(0) > 3
    assert compared.count(1) > 10


def test_a_draft_model_computes_again_only_at_a_crossing(monkeypatch):
    """All tokens before the first draft, beyond its own boundary, and when its target is queued again; else new ones.
    Catches a draft cache that is emptied before every draft: the text stays the same.
    """
    rows: list[int] = []

    def counted(model: Any, batch: Batch, *more: Any) -> Any:
        rows.append(len(batch))
        return transformer(model, batch, *more)

    monkeypatch.setattr(draft_model, "transformer", counted)
    check(engine_of(**DRAFT, num_draft_tokens=2), [(A[:5], 20)])
    assert [n for n in rows if n > 2] == [6, BOUNDARY - 3 + 1, BOUNDARY + 1]
    assert len(rows) > 12


@pytest.mark.parametrize("switches", [SELF, DRAFT], ids=["self", "draft"])
def test_best_coupling_is_the_same_text_in_company_and_after_a_preemption(switches):
    """Its text depends on the drafts. Catches a draft cache whose set depends on what happened to the sequence."""
    coupled = {**switches, **PAGED, "verification": "best-coupling", "num_draft_tokens": 3}
    alone = [finish(engine_of(**coupled), seq)[0] for seq in asked(WORK, **SEEDED)]
    for more in ({}, {"num_blocks": 12}, {"max_num_batched_tokens": 7}):
        assert finish(engine_of(**coupled, **more), *asked(WORK, **SEEDED)) == alone


# Beside the batches


@pytest.mark.parametrize("most", [3, 5, 64])
@pytest.mark.parametrize("n", [BOUNDARY - 1, BOUNDARY, BOUNDARY + 1, 19])
@pytest.mark.parametrize("kv_cache", ["none", "contiguous", "paged"])
def test_the_logits_of_a_text_are_those_of_its_whole_length(kv_cache, n, most):
    """In pieces, the first of them short by itself. Catches `logits(ids)` by the length of the piece."""
    engine, seq = engine_of(kv_cache=kv_cache), request(A[:n], 1)
    found: list[np.ndarray] = []
    while len(found) < n:
        found += list(engine.logits(seq, len(found), most))
    batch = all_rows(seq, int(n > BOUNDARY))
    batch = Batch(batch.tokens, batch.positions, np.arange(n), batch.spans)
    expected = transformer(engine.model, batch, NoCache(CacheSpec(MODEL.memory, 64), engine.ops), engine.ops)
    assert distance(np.array(found), expected) < ROUNDING


@pytest.mark.parametrize(("n", "sets"), [(BOUNDARY, {0}), (BOUNDARY + 1, {1})])
def test_an_overflow_is_looked_for_with_the_set_of_the_sequence(n, sets, monkeypatch):
    """Catches a search that computes another text than the one that failed."""
    seen = []
    monkeypatch.setattr(overflow, "transformer", lambda model, batch, *_: seen.append(batch) or np.zeros((1, 31)))
    engine, seq = engine_of(), request(A[:n], 1)
    overflow.first_overflow(engine.model, engine.ops, Span(seq, 0, 4, n - 4, 1))
    assert set(seen[0].rotation_sets.tolist()) == sets


@pytest.mark.parametrize(("n", "sets"), [(BOUNDARY, {0}), (BOUNDARY + 1, {1})])
def test_a_window_of_calibration_is_as_long_as_its_text(n, sets, monkeypatch):
    """Catches weights that are fitted to inputs which the model will never have."""
    seen: list[Batch] = []
    monkeypatch.setattr(calibration, "transformer", lambda model, batch, *_: seen.append(batch))
    engine, windows = engine_of(), np.array([A[:n], A[:n]])
    calibration.calibrate(engine.model, windows, engine.ops, lambda name, linear, inputs: (linear, None))
    assert set(seen[0].rotation_sets.tolist()) == sets


@pytest.mark.parametrize(("n", "which"), [(BOUNDARY, 0), (BOUNDARY + 1, 1)])
def test_the_picture_of_a_text_is_of_its_set(n, which, monkeypatch):
    """Catches attention weights of a model that is always short."""
    engine, seen = engine_of(), []
    llm: Any = SimpleNamespace(config=MODEL, model=engine.model, ops=engine.ops, sequences=lambda *_: [request(A[:n])])
    monkeypatch.setattr(matrices, "transformer", lambda model, batch, *_: seen.append(batch))
    monkeypatch.setattr(matrices.AttentionProbe, "weights", None, raising=False)
    matrices.attention_weights(llm, A[:n])
    assert seen[0].rotation_sets.tolist() == [which] * n
