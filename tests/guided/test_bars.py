"""guided/bars.py: a barred token has no chance, whatever chooses; behind drafts, too; and an answer ends where it must.

Steps (guided_steps.py) is the grammar here, so that what a matcher is told is checked token by token.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from guided_steps import STEPS, Steps, guided, in_step
from helpers import ALWAYS_DRAFT, finish, make_engine, request, small_config
from hypothesis import given
from hypothesis import strategies as st

from tinyinfer.engine.engine import Engine
from tinyinfer.errors import GrammarError
from tinyinfer.guided.bars import Bars
from tinyinfer.sampling import Choice, SamplingParams, choose, distribution
from tinyinfer.sequence import Draft, Sequence

MODEL = small_config()
SIZE = MODEL.vocab_size - 2  # the last two rows of the head are padding
PROMPTS = [[3, 4, 5, 6] * 4, [1, 2], [9, 8, 7, 9, 8, 7, 9, 8]]
LOGITS = np.linspace(3.0, -3.0, 12, dtype=np.float32)


def follows(tokens: list[int], before: int) -> bool:
    """Whether tokens are a text of Steps."""
    return all((b - a) % SIZE in STEPS for a, b in zip([before % SIZE, *tokens], tokens, strict=False))


# --- one row ---


def test_nothing_barred_is_the_same_array() -> None:
    """Catches a copy of the logits for every request that wants nothing of this."""
    rows = LOGITS[None]
    assert Bars(ends=frozenset([1])).over(rows, 0, [], 1).rows is rows


@given(st.integers(0, 6), st.integers(0, 6))
def test_min_tokens_bars_the_ends_before_so_many_tokens_and_no_later(new: int, least: int) -> None:
    """Catches a count that is off by one: the token number min_tokens + 1 is the first that may be an end."""
    [row] = Bars(frozenset([0, 99]), least).over(LOGITS[None], new, [], 1).rows
    assert (row[0] == -np.inf) == (new < least)
    assert row[1:].tolist() == LOGITS[1:].tolist()


def test_a_bias_is_added_before_all_filters_and_the_backends_own_logits_stay() -> None:
    """Catches a bias behind top-k, where a token that the filter dropped cannot come back."""
    before = LOGITS.copy()
    [row] = Bars(bias=((11, 100.0), (0, -100.0))).over(LOGITS[None], 0, [], 1).rows
    assert LOGITS.tolist() == before.tolist()
    for params in (SamplingParams(), SamplingParams(temperature=1.0, top_k=1), SamplingParams(temperature=1.0)):
        assert choose(row, params, [1], [], 5).token == 11
    assert distribution(row, SamplingParams(temperature=1.0), [1], [])[0] < 1e-40


@pytest.mark.parametrize("settings", [{}, {"top_k": 9}, {"top_p": 0.99}, {"min_p": 1e-9}, {"repetition_penalty": 2.0}])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 50.0])
def test_a_barred_token_is_never_chosen(settings: dict[str, Any], temperature: float) -> None:
    """Catches -infinity that a filter or a penalty turns into a number. Right: only 4, 5 and 8 follow 3."""
    [row] = Bars(matcher=Steps(10, 3)).over(LOGITS[None], 0, [], 1).rows
    params = SamplingParams(temperature=temperature, **settings)
    chosen = {choose(row, params, [3], [4, 5], seed).token for seed in range(40)}
    assert chosen <= {4, 5, 8}
    assert len(chosen) == (1 if temperature == 0 else 3)


def test_rows_behind_the_vocabulary_are_barred_with_a_grammar() -> None:
    """A head is padded to a round number of rows; such an id is no text. Catches a mask that is as wide as itself."""
    [row] = Bars(matcher=Steps(10, 9)).over(LOGITS[None], 0, [], 1).rows
    assert np.flatnonzero(row > -np.inf).tolist() == [0, 1, 4]
    [narrow] = Bars(matcher=Steps(20, 9)).over(LOGITS[None], 0, [], 1).rows  # a vocabulary that is wider than the head
    assert np.flatnonzero(narrow > -np.inf).tolist() == [10, 11]


def test_an_end_token_may_come_where_the_answer_may_end_and_only_there() -> None:
    ends = frozenset([11])
    for least, may in ((0, True), (1, False)):
        [row] = Bars(ends, matcher=Steps(10, 3, least=least)).over(LOGITS[None], 0, [], 1).rows
        assert (row[11] == LOGITS[11]) == may
    [row] = Bars(ends, matcher=Steps(10, 3, most=0)).over(LOGITS[None], 0, [], 1).rows
    assert np.flatnonzero(row > -np.inf).tolist() == [11]


@pytest.mark.parametrize(("asked", "left"), [(frozenset[int](), [4, 8]), (frozenset([5]), [4, 5, 8])])
def test_an_end_token_of_the_model_is_no_text_of_the_grammar(asked: frozenset[int], left: list[int]) -> None:
    """Some models end by a token with letters. Catches JSON that ends in its middle; a caller may want that."""
    [row] = Bars(frozenset([5]), matcher=Steps(10, 3, least=9), asked=asked).over(LOGITS[None], 0, [], 1).rows
    assert np.flatnonzero(row > -np.inf).tolist() == left


def test_a_grammar_that_is_at_its_end_ends_the_answer_before_min_tokens() -> None:
    """Catches a row of nothing but -infinity: nothing but the end may come, and min_tokens bars the end."""
    [row] = Bars(frozenset([11]), 5, matcher=Steps(10, 3, most=0)).over(LOGITS[None], 0, [], 1).rows
    assert row.argmax() == 11


def test_a_dead_end_names_its_request() -> None:
    """Catches argmax of a row of -infinity, which is token 0."""
    with pytest.raises(GrammarError, match="no token of the vocabulary goes on") as caught:
        Bars(frozenset([11]), matcher=Steps(10, 3, least=5, most=0)).over(LOGITS[None], 0, [], 77)
    assert caught.value.request_id == 77


# --- rows behind drafts ---


def drafted(drafts: list[int], **limits: int) -> tuple[Steps, list[list[int]]]:
    """The matcher, and the tokens that are left in each row behind its drafts."""
    steps = Steps(10, 3, **limits)
    rows = np.tile(LOGITS, (len(drafts) + 1, 1))
    found = Bars(frozenset([11]), 2, matcher=steps).over(rows, 0, drafts, 1)
    return steps, [np.flatnonzero(row > -np.inf).tolist() for row in found.rows[: found.good]]


def test_each_row_stands_behind_its_drafts() -> None:
    """Catches the mask of the first row on all rows, and min_tokens counted without drafts."""
    _, left = drafted([4, 6, 8])
    assert left == [[4, 5, 8], [5, 6, 9], [1, 7, 8, 11], [0, 3, 9, 11]]


@pytest.mark.parametrize("drafts", [[], [4], [4, 6, 8], [4, 7], [9], [4, 6, 11]])
def test_drafts_are_taken_back(drafts: list[int]) -> None:
    """Catches a matcher that stays advanced by drafts, accepted, rejected or barred."""
    steps, _ = drafted(drafts)
    assert steps.tokens == []


def test_drafts_are_taken_back_after_a_fault_too() -> None:
    """Catches a matcher of a request that goes on, some drafts ahead."""
    steps = Steps(10, 3, fails_at=2)
    assert Bars(matcher=steps).over(np.tile(LOGITS, (4, 1)), 0, [4, 5, 6], 1).good == 2
    assert steps.tokens == []


@pytest.mark.parametrize("limits", [{"least": 9, "most": 2}, {"fails_at": 2}])
def test_a_dead_end_behind_a_draft_ends_the_step_and_not_the_request(limits: dict[str, int]) -> None:
    """The draft may be rejected. Catches a request that ends by a draft, and a token chosen where none is left."""
    steps, left = drafted([4, 6, 8], **limits)
    assert left == [[4, 5, 8], [5, 6, 9]]
    assert steps.tokens == []


def test_a_draft_that_ends_the_text_ends_the_rows() -> None:
    """Without an end token a closed grammar ends the text. Catches the row behind that draft taken for a dead end."""
    found = Bars(matcher=Steps(10, 3, most=2)).over(np.tile(LOGITS, (4, 1)), 0, [4, 5, 6], 1)
    assert found.good == 2


def test_a_candidate_leaves_the_matcher_of_its_sequence_where_it_is() -> None:
    seq = guided([3], 9, 10, limits={"most": 9})
    candidate = seq.candidate(-1, [Draft(4), Draft(5)])
    candidate.open(np.tile(LOGITS, (3, 1)))
    assert in_step(seq)


# --- a sequence ---


def test_a_closed_grammar_ends_a_text_without_end_tokens() -> None:
    """ignore_eos, or a model that has none: catches a text that goes on behind its grammar to max_tokens."""
    seq = guided([3], 9, 10, limits={"most": 2})
    for token in (4, 6):
        assert not seq.finished
        seq.append(Choice(token), 0.0)
    assert seq.progress.finish_reason == "stop"


def test_a_fault_is_no_end() -> None:
    """Catches an answer that is called complete where its grammar could not be followed."""
    seq = guided([3], 9, 10, limits={"fails_at": 1})
    seq.append(Choice(4), 0.0)
    assert not seq.finished
    assert seq.open(LOGITS[None]).good == 0
    assert "too large" in str(seq.progress.error)


def test_repair_leads_the_matcher_where_the_choices_are() -> None:
    """Ctrl-C may leave it anywhere: behind drafts, or a token ahead of the choices."""
    seq = guided([3], 9, 10, limits={"most": 9})
    for token in (4, 6, 7):
        seq.append(Choice(token), 0.0)
    seq.bars.follow(8)
    assert not in_step(seq)
    seq.repair()
    assert in_step(seq)


# --- every way to choose ---


DEAD_ENDS: dict[str, dict[str, Any]] = {
    "contiguous": {}, "paged": {"kv_cache": "paged", "block_size": 4, "prefix_cache": True},
    "static": {"batching": "static"}, "dynamic": {"batching": "dynamic", "batch_timeout": 0.0},
    "drafts": {"speculative": "prompt-lookup", "draft_cost": ALWAYS_DRAFT},
    "8 bits": {"kv_cache": "paged", "block_size": 4, "kv_bits": 8, "prefix_cache": True},
    "candidates": {"speculative": "self", "num_draft_candidates": 3, "kv_cache": "paged", "draft_cost": ALWAYS_DRAFT},
}  # fmt: skip


@pytest.mark.parametrize("switches", DEAD_ENDS.values(), ids=DEAD_ENDS)
def test_a_dead_end_costs_the_others_of_its_step_nothing(switches: dict[str, Any]) -> None:
    """Catches a step that is rolled back for one request: all others would be preempted, and computed again."""
    alone, other = (request(PROMPTS[0], 12) for _ in range(2))
    finish(make_engine(small_config(), **switches), alone)
    engine, stuck = make_engine(small_config(), **switches), guided(PROMPTS[1], 9, SIZE, [], {"fails_at": 3})
    for seq in (other, stuck):
        engine.add(seq, 0.0)
    while engine.busy:
        engine.step()
    assert (other.new_tokens, other.progress.preemptions) == (alone.new_tokens, 0)
    assert (engine.ledger.preemptions, engine.ledger.tokens_recomputed) == (0, 0)
    assert (len(stuck.new_tokens), stuck.progress.finish_reason) == (3, "abort")
    assert "too large" in str(stuck.progress.error)
    assert engine.scheduler.blocks_held == 0


@pytest.mark.parametrize("switches", DEAD_ENDS.values(), ids=DEAD_ENDS)
def test_a_branch_in_a_dead_end_leaves_the_others_of_its_prompt(switches: dict[str, Any]) -> None:
    """One has a text of the grammar to its end, another meets the dead end. Catches n answers that end as one."""
    def asked() -> list[Sequence]:
        first = guided(PROMPTS[1], 9, SIZE, [SIZE + 1], {"least": 2, "fails_at": 4}, temperature=1.5, seed=3)
        first.request = replace(first.request, group=first.id)
        return [first, *(first.another_branch(10**6 + number, number) for number in range(1, 6))]

    found, alone = asked(), asked()
    engine, plain = make_engine(MODEL, **switches), make_engine(MODEL, kv_cache="none", max_num_seqs=1)
    for one, sequences in ((engine, found), (plain, alone)):
        for seq in sequences:
            one.add(seq, 0.0)
        while one.busy:
            one.step()
    ends = [(seq.new_tokens, seq.progress.finish_reason) for seq in found]
    assert ends == [(seq.new_tokens, seq.progress.finish_reason) for seq in alone]
    assert {reason for _, reason in ends} == {"stop", "abort"}
    assert engine.ledger.preemptions == 0
    assert engine.scheduler.blocks_held == 0


def test_what_a_dead_end_leaves_in_the_prefix_tree_is_whole() -> None:
    """Catches a block that the tree offers, and whose last row was rolled back with the request that computed it."""
    switches = DEAD_ENDS["8 bits"]
    engine, plain = make_engine(small_config(), **switches), make_engine(small_config(), **switches)
    stuck = guided(PROMPTS[0], 9, SIZE, [], {"fails_at": 8 - len(PROMPTS[0]) % 4})
    with pytest.raises(GrammarError):
        finish(engine, stuck)
    again, anew = (request([*stuck.tokens, 5], 6) for _ in range(2))
    finish(engine, again), finish(plain, anew)
    assert again.progress.cached_tokens == len(stuck.tokens) // 4 * 4
    assert again.new_tokens == anew.new_tokens


def asked(**params: Any) -> list[Sequence]:
    """Guided and free requests side by side: some closed by their grammar, some by an end token, some by length."""
    limits = [{"most": 12}, {"least": 3}, {"most": 30}]
    sequences = [guided(prompt, 14, SIZE, [SIZE + 1] if n == 1 else [], limits[n], seed=n, **params)
                 for n, prompt in enumerate(PROMPTS)]  # fmt: skip
    biased = {"min_tokens": 4, "logit_bias": {5: 30.0, 7: -100.0}}
    return [*sequences, guided(PROMPTS[0], 9, SIZE, [5], seed=8, **biased, **params),
            request(PROMPTS[1], 8, seed=9, **params)]  # fmt: skip


def answers(engine: Engine, **params: Any) -> list[tuple[list[int], str | None]]:
    """The tokens and ends; every matcher stands where its sequence does, after each step."""
    sequences = asked(**params)
    for _ in engine.run(sequences):
        assert all(map(in_step, sequences[:3]))
    return [(seq.new_tokens, seq.progress.finish_reason) for seq in sequences]


WAYS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "one at a time": {"max_num_seqs": 1},
    "static": {"batching": "static"},
    "preempted": {"kv_cache": "paged", "block_size": 4, "num_blocks": 12},
    "prefix": {"kv_cache": "paged", "block_size": 4, "prefix_cache": True, "max_num_batched_tokens": 7},
    "prompt lookup": {"speculative": "prompt-lookup", "draft_cost": ALWAYS_DRAFT},
    "self": {"speculative": "self", "draft_cost": ALWAYS_DRAFT},
    "candidates": {"speculative": "self", "num_draft_candidates": 3, "kv_cache": "paged", "draft_cost": ALWAYS_DRAFT},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_guided_text_is_the_same_under_every_lossless_switch(way: str, temperature: float) -> None:
    """Catches a path that does not honour what bars tokens, and a matcher left advanced by rejected drafts."""
    plain = answers(make_engine(MODEL, kv_cache="none", max_num_seqs=1), temperature=temperature)
    engine = make_engine(MODEL, **WAYS[way])
    assert answers(engine, temperature=temperature) == plain
    for (tokens, _), prompt in zip(plain[:3], PROMPTS, strict=True):
        assert follows([token for token in tokens if token != SIZE + 1], prompt[-1])
    assert plain[0][1] == "stop"
    biased = plain[3][0]
    assert (len(biased), biased[4]) == (5, 5)
    assert not {5, 7} & {*biased[:4]}
    if "speculative" in WAYS[way]:
        assert engine.ledger.drafts_proposed > engine.ledger.drafts_accepted > 0
    if way == "preempted":
        assert engine.ledger.tokens_recomputed > 0


def test_drafts_that_are_drawn_by_themselves_are_replaced_by_what_may_come() -> None:
    """verification=best-coupling: a draft is judged by its probability, which is 0 where it is barred."""
    c = {"speculative": "draft", "draft_model": "random", "verification": "best-coupling"}
    engine = make_engine(MODEL, second=MODEL, draft_cost=ALWAYS_DRAFT, **c)
    found = answers(engine, temperature=1.5)
    for (tokens, _), prompt in zip(found[:3], PROMPTS, strict=True):
        assert follows([token for token in tokens if token != SIZE + 1], prompt[-1])
    assert engine.ledger.drafts_proposed > engine.ledger.drafts_accepted > 0
