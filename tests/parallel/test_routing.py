"""Routing: by load, and by the prefixes that replicas have; a conversation goes back to its keys and values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import checkpoint_of, finish, random_tensors, small_config
from replicated import asked, fronted

from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.scoring import Scoring
from tinyinfer.errors import SwitchError
from tinyinfer.parallel.switches import ROUTERS
from tinyinfer.replicas.routing import LeastOutstanding, Load, RoundRobin, SharedPrefix, chain
from tinyinfer.switches import resolve

IDLE = {0: Load(), 1: Load(), 2: Load()}
PROMPT = list(range(20))


def test_round_robin_goes_on_behind_a_replica_that_is_full_or_gone() -> None:
    """Catches a turn that counts positions of a list which has become shorter."""
    router = RoundRobin(None, 0)
    assert [router.choose(PROMPT, IDLE) for _ in range(4)] == [0, 1, 2, 0]
    assert [router.choose(PROMPT, {0: Load(), 2: Load()}) for _ in range(3)] == [2, 0, 2]


def test_tokens_are_counted_and_not_requests() -> None:
    """Catches a long prompt that counts as much as a short one."""
    router = LeastOutstanding(None, 0)
    assert router.choose(PROMPT, {0: Load(1, 500), 1: Load(9, 90), 2: Load(2, 91)}) == 1


def test_equal_loads_are_given_one_after_the_other() -> None:
    """Catches idle replicas of which only the first one is ever used."""
    router = LeastOutstanding(None, 0)
    assert sorted(router.choose(PROMPT, IDLE) for _ in range(3)) == [0, 1, 2]


def test_a_prompt_goes_to_its_prefix() -> None:
    """Catches a hash of a block without those before it, and one that is of another replica."""
    router = SharedPrefix(4, 100)
    router.learn(2, PROMPT)
    other = [9, 9, 9, 9, *PROMPT[4:]]
    router.learn(1, other)
    assert router.cached(2, [*PROMPT, 5]) == 20
    assert router.cached(2, other) == 0, "equal blocks behind another beginning"
    assert router.choose([*PROMPT, 1, 1, 1, 1], IDLE) == 2
    assert router.choose([*other, 1, 1, 1, 1], IDLE) == 1


def test_whole_blocks_match_and_the_last_token_never_does() -> None:
    """As in the prefix tree. Catches a saving that the replica does not have."""
    router = SharedPrefix(4, 100)
    router.learn(0, PROMPT)
    for n, cached in ((3, 0), (4, 0), (5, 4), (8, 4), (19, 16), (20, 16)):
        assert router.cached(0, PROMPT[:n]) == cached


def test_a_prefix_is_worth_the_tokens_that_it_saves() -> None:
    """Catches one replica that gets all requests of a popular beginning, however long its queue is."""
    router = SharedPrefix(4, 100)
    router.learn(2, PROMPT)
    prompt = [*PROMPT, 1]
    assert router.choose(prompt, {0: Load(1, 100), 2: Load(1, 119)}) == 2
    assert router.choose(prompt, {0: Load(1, 100), 2: Load(1, 121)}) == 0


def test_without_a_prefix_cache_the_load_decides() -> None:
    router = SharedPrefix(None, 100)
    router.learn(2, PROMPT)
    assert router.choose(PROMPT, {0: Load(1, 5), 2: Load(1, 6)}) == 0


def test_what_was_used_least_recently_is_forgotten_from_its_end() -> None:
    """Catches a memory that grows for ever, and a parent that is forgotten before its children, which then match
    nothing.
    """
    router = SharedPrefix(4, 6)
    router.learn(0, PROMPT)  # 5 blocks
    router.learn(0, [7] * 12)  # 3 blocks
    assert router.cached(0, [*PROMPT, 1]) == 12
    assert router.cached(0, [*[7] * 12, 1]) == 12
    router.forget()
    assert router.cached(0, [*PROMPT, 1]) == 0


def test_a_prompt_of_another_salt_is_known_nowhere() -> None:
    """Catches a front that sends a caller where another one's prefix is, and counts tokens that nothing saves."""
    router = SharedPrefix(4, 100)
    router.learn(2, PROMPT, "a")
    prompt = [*PROMPT, 1]
    assert [router.cached(2, prompt, salt) for salt in ("a", "b", None)] == [20, 0, 0]
    assert router.choose(prompt, IDLE, "a") == 2
    assert router.choose(prompt, {0: Load(1, 5), 2: Load(1, 6)}, "b") == 0


def test_a_chain_is_the_same_for_equal_beginnings() -> None:
    assert list(chain(PROMPT, 4))[:3] == list(chain(PROMPT[:13], 4))
    assert len(set(chain([1] * 20, 4))) == 5


@pytest.mark.parametrize(("name", "value"), [("routing", "round-robin"), ("rank_timeout", 5.0)])
def test_what_one_process_has_no_use_for_is_refused(name: str, value: Any) -> None:
    with pytest.raises(SwitchError, match=rf"{name}={value} is for several \w+, and data_parallel_size=1 has one"):
        EngineConfig(**{name: value})
    assert EngineConfig(data_parallel_size=2, **{name: value})


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), True, "3"])
def test_a_timeout_is_a_number_of_seconds(seconds: Any) -> None:
    with pytest.raises(SwitchError, match="must be a number of seconds above 0"):
        EngineConfig(data_parallel_size=2, rank_timeout=seconds)


def test_routers_are_built_alike() -> None:
    for name in ROUTERS:
        assert resolve(ROUTERS, name)(4, 10).choose(PROMPT, {3: Load()}) == 3


@pytest.mark.parametrize("routing", ["round-robin", "prefix"])
def test_a_replica_computes_a_prompt_once_for_its_branches(routing: str) -> None:
    """Catches a branch that waits in one replica for what another one computes."""
    first = asked(PROMPT, 6, n=4, temperature=1.2, seed=7)
    first.request = replace(first.request, group=first.id)
    four = [first, *(first.another_branch(first.id + 1000 * number, number) for number in range(1, 4))]
    with fronted(2, routing=routing, kv_cache="paged", block_size=4) as front:
        answers, alone = finish(front, *four), asked(PROMPT, 6, temperature=1.2, seed=9)
        assert front.ledger.tokens_computed == 2 * 20 + 2 + 4 * 5, "each has two of them"
        assert answers[2] == finish(front, alone)[0]


def test_a_prompt_that_the_front_has_scored_is_answered_by_any_replica() -> None:
    """Catches its positions that stay in the front's own cache when another replica answers."""
    four, alone = [asked(PROMPT, 5, prompt_logprobs=1) for _ in range(4)], asked(PROMPT, 5)
    with fronted(2, routing="round-robin", kv_cache="paged", block_size=4) as front:
        scoring = Scoring(front)
        for seq in four:
            scoring.add(seq, front.clock())
            scoring.step()
        while any(not seq.finished for seq in four):
            if front.wait():
                front.step()
        assert [seq.new_tokens for seq in four] == finish(front, alone) * 4
        assert front.own.cache.blocks_in_use == 0


def computed(routing: str) -> tuple[int, list[list[int]]]:
    """Prompt tokens that four replicas compute for eight conversations of six turns, and the answers.

    Each turn's prompt is all that was said before it and a new question; conversations take their turns together, in
    another order each time, as users do.
    """
    rng, answers = np.random.default_rng(0), []
    said = [rng.integers(0, 31, 16).tolist() for _ in range(8)]
    config = small_config(max_position=256)
    switches: dict[str, Any] = {"kv_cache": "paged", "block_size": 4, "prefix_cache": True, "num_blocks": 800}
    with fronted(4, checkpoint=checkpoint_of(config, random_tensors(config)), routing=routing, **switches) as front:
        total = 0
        for _ in range(6):
            order = rng.permutation(8).tolist()
            turns = {i: asked(said[i], 16) for i in order}
            for _ in front.run(list(turns.values())):
                continue
            for i, seq in turns.items():
                total += len(seq.prompt) - seq.progress.cached_tokens
                said[i] = [*seq.tokens, *rng.integers(0, 31, 16).tolist()]
                answers.append(seq.new_tokens)
    return total, answers


def test_conversations_that_find_their_prefixes_compute_half_of_their_prompts_at_most() -> None:
    """Beside round-robin, with the same answers. Catches routing that forgets the answers, which are part of the next
    prompt.
    """
    prefix, answers = computed("prefix")
    one_after_the_other, same = computed("round-robin")
    assert answers == same
    assert prefix <= 0.5 * one_after_the_other, (prefix, one_after_the_other)
