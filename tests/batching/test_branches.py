"""Branches: several answers to one prompt are those of single requests, and the prompt is computed once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from helpers import ALWAYS_DRAFT, branches, check_blocks, finish, longrope, make_engine, request, small_config

from tinyinfer.engine.engine import Engine

CONFIG = small_config()
PROMPT = [3, 9, 4, 1, 5, 8, 2, 6, 5, 3, 5, 8, 9]  # 13 tokens: three blocks of 4 and one of the next
PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 4}
DRAWN: dict[str, Any] = {"temperature": 1.3}
SWITCHES: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "no cache": {"kv_cache": "none"},
    "paged": PAGED,
    "prefixes": {**PAGED, "prefix_cache": True},
    "8 bits": {**PAGED, "kv_bits": 8, "kv_group_size": 3},
    "8 bits, contiguous": {"kv_bits": 8, "block_size": 4, "kv_group_size": 3},
    "chunks": {**PAGED, "max_num_batched_tokens": 3},
    "few slots": {**PAGED, "max_num_seqs": 2, "prefix_cache": True},
    "short of blocks": {**PAGED, "num_blocks": 8},
    "static": {"batching": "static", "max_num_seqs": 3},
    "lookup": {**PAGED, "speculative": "prompt-lookup"},
    "candidates": {**PAGED, "speculative": "prompt-lookup", "num_draft_candidates": 2},
}


def engine_of(**switches: Any) -> Engine:
    return make_engine(CONFIG, draft_cost=ALWAYS_DRAFT, **switches)


def singles(n: int, max_tokens: int, seed: int, **switches: Any) -> list[list[int]]:
    """The answers of single requests with the seeds from `seed` on, one after the other."""
    engine = engine_of(**switches)
    return [finish(engine, request(PROMPT, max_tokens, seed=seed + i, **DRAWN))[0] for i in range(n)]


def check_all_back(engine: Engine) -> None:
    """Nothing is held but by the tree of prefixes."""
    prefixes: Any = engine.scheduler.prefixes
    assert not engine.scheduler.busy
    assert not engine.scheduler.kept
    if engine.cache.num_blocks:
        check_blocks(engine, prefixes if hasattr(prefixes, "roots") else None)
    else:
        assert engine.cache.held_bytes == 0


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_n_answers_are_those_of_n_requests_with_the_seeds_that_follow(switches: dict[str, Any]) -> None:
    """Catches noise that branches share, a block that two of them write, and a fork that is a token off."""
    engine, alone = engine_of(**switches), singles(5, 9, 7, **{**switches, "num_blocks": None})
    assert finish(engine, *branches(PROMPT, 5, 9, seed=7, **DRAWN)) == alone
    assert len({tuple(answer) for answer in alone}) == 5
    check_all_back(engine)


def test_greedy_branches_are_equal() -> None:
    [truth] = finish(engine_of(), request(PROMPT, 8))
    assert finish(engine_of(**PAGED), *branches(PROMPT, 3, 8)) == [truth] * 3


@pytest.mark.parametrize("kind", ["contiguous", "paged", "prefixes", "8 bits", "chunks", "static"])
def test_the_prompt_is_computed_once(kind: str) -> None:
    """By the ledger: 13 rows of the prompt, its last one again for each other branch, and a row for each later token.

    Catches branches that are admitted beside the one that computes the prompt for them.
    """
    engine = engine_of(**SWITCHES[kind])
    finish(engine, *branches(PROMPT, 3, 6, **DRAWN))
    assert engine.ledger.tokens_computed - engine.ledger.tokens_padding == 13 + 2 + 3 * 5
    assert engine.ledger.tokens_recomputed == 0


def test_blocks_of_the_prompt_are_shared_and_the_last_one_is_copied_for_each() -> None:
    """Prompt of 11: two whole blocks, and one of 3 rows, of which two are copied. Catches a copy of the whole prompt,
    and a branch that writes into the others' block.
    """
    engine, three = engine_of(**PAGED), branches(PROMPT[:11], 3, 6, **DRAWN)
    run = engine.run(three)
    next(run)
    assert [engine.cache.length(seq) for seq in three] == [11, 0, 0]
    next(run)
    tables = [engine.cache.block_table(seq) for seq in three]
    assert [table[:2] for table in tables] == [tables[0][:2]] * 3
    assert [engine.cache.holders(block) for block in tables[0][:3]] == [3, 3, 1]
    assert len({table[2] for table in tables}) == 3
    assert [trace.joined for trace in run] == [()] * 5, "all are in by the second step"
    assert engine.ledger.blocks_allocated == (3 + 2) + 3, "and a fourth block of each, from position 12 on"


@pytest.mark.parametrize("n", [2, 5])
def test_branches_that_end_with_their_first_token_still_share(n: int) -> None:
    """All of them in the second step, since the first one's positions wait for them. Catches a prompt that is computed
    for each branch, or branches that wait for each other.
    """
    engine = engine_of(**PAGED)
    finish(engine, *branches(PROMPT, n, 1, **DRAWN))
    assert (engine.ledger.tokens_computed, engine.ledger.steps) == (13 + n - 1, 2)
    check_all_back(engine)


def test_branches_that_wait_for_a_slot_find_the_prompt_computed() -> None:
    """Two slots: when the last of those that run ends, one waits yet. Catches a prompt that goes with its last reader.
    """
    engine, alone = engine_of(**PAGED, max_num_seqs=2), singles(5, 4, 3, **PAGED)
    assert finish(engine, *branches(PROMPT, 5, 4, seed=3, **DRAWN)) == alone
    assert engine.ledger.tokens_computed == 13 + 4 + 5 * 3
    check_all_back(engine)


def test_what_waits_for_branches_is_given_up_for_others() -> None:
    """A pool of 5 blocks, one slot: an older request needs what the first branch has left. Catches one that never ends.
    """
    engine, three = engine_of(**PAGED, num_blocks=5, max_num_seqs=1), branches(PROMPT, 2, 1, seed=3, **DRAWN)
    other = request([7] * 17, 3)
    other.id, three[1].id = three[1].id, other.id  # in order of age between the two
    [truth] = finish(engine_of(), request([7] * 17, 3))
    assert finish(engine, three[0], other, three[1]) == [*singles(1, 1, 3), truth, *singles(1, 1, 4)]
    assert engine.ledger.tokens_computed == 13 + (17 + 2) + 13, "the prompt again, for the second branch"
    check_all_back(engine)


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("gone", range(3))
def test_a_branch_that_leaves_leaves_the_others_alone(gone: int, steps: int) -> None:
    """Before it is admitted, while the prompt is computed for all, and later. Catches branches that wait for one that
    is gone.
    """
    engine, three = engine_of(**PAGED, max_num_batched_tokens=5), branches(PROMPT, 3, 7, seed=7, **DRAWN)
    run = engine.run([seq for n, seq in enumerate(three) if n != gone])
    engine.add(three[gone], 0.0)
    for _ in range(steps):
        next(run)
    engine.abort(three[gone])
    for _ in run:
        continue
    alone = singles(3, 7, 7)
    assert all(seq.new_tokens == alone[n] for n, seq in enumerate(three) if n != gone)
    check_all_back(engine)


def test_a_branch_that_ends_early_leaves_the_others_alone() -> None:
    """At its second token, an end token of its own text. Catches blocks that go with it."""
    alone = singles(3, 9, 7)
    end = next(token for token in alone[1][1:] if token not in alone[0] + alone[2])
    engine = engine_of(**PAGED)
    three = branches(PROMPT, 3, 9, seed=7, stop_token_ids=[end], **DRAWN)
    for seq in three:
        seq.request = replace(seq.request, eos=frozenset([end]))
    finish(engine, *three)
    assert [seq.progress.finish_reason for seq in three] == ["length", "stop", "length"]
    assert [three[0].new_tokens, three[2].new_tokens] == [alone[0], alone[2]]
    check_all_back(engine)


def test_a_long_sequence_has_no_positions_for_a_short_branch() -> None:
    """Two sets of rotations: behind position 14 the first branch has other keys. Catches a fork of those."""
    config = small_config(rope=(longrope(14),) * 2)
    engine = make_engine(config, **PAGED, max_num_seqs=1)
    alone = make_engine(config)
    answers = [finish(alone, request(PROMPT, 5, seed=7 + i, **DRAWN))[0] for i in range(2)]
    assert finish(engine, *branches(PROMPT, 2, 5, seed=7, **DRAWN)) == answers
    check_all_back(engine)
