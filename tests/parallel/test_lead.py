"""One rank leads, the others follow: with every switch the ranks together say what one process says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
from divided import by_exchange, together
from helpers import (
    ROUNDING,
    branches,
    checkpoint_of,
    distance,
    ends_of_two,
    finish,
    make_engine,
    one_bad_token,
    random_tensors,
    request,
    small_config,
)

from tinyinfer.arrays import FLOAT
from tinyinfer.engine.engine import Engine
from tinyinfer.engine.loop import EngineLoop
from tinyinfer.engine.scoring import Scoring
from tinyinfer.errors import NotFiniteError
from tinyinfer.ledger import Ledger
from tinyinfer.measure.roofline import norm_weights
from tinyinfer.model.config import ModelConfig, MoEConfig
from tinyinfer.parallel import experts, tensor
from tinyinfer.parallel.experts import exchange
from tinyinfer.request import Request

MODEL = small_config(num_layers=3)
PROMPTS = [4, 5, 6, 7, 4, 5, 6, 9, 4, 5], [1, 2] * 6, [3, 9], [4, 5, 6, 7, 4, 5, 6, 9, 4, 5, 8, 8]
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no cache": {"kv_cache": "none"},
    "chunks": {"max_num_batched_tokens": 4},
    "static": {"batching": "static", "max_num_seqs": 2},
    "paged": {"kv_cache": "paged", "block_size": 3},
    "prefixes": {"kv_cache": "paged", "block_size": 3, "prefix_cache": True},
    "short of blocks": {"kv_cache": "paged", "block_size": 2, "num_blocks": 16, "prefix_cache": True},
    "8 bits": {"kv_bits": 8, "kv_group_size": 3},
    "lookup": {"speculative": "prompt-lookup"},
    "candidates": {"speculative": "prompt-lookup", "num_draft_candidates": 2, "kv_cache": "paged", "block_size": 3},
}
SHAPES = (2, 1), (4, 1), (1, 2), (1, 3), (2, 2)  # ranks of a stage, stages
ASKED: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"temperature": 1.0, "seed": 4},
    "filtered": {"temperature": 0.9, "top_p": 0.8, "seed": 4},
    "penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.2},
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_ranks_say_what_one_process_says(switches: dict[str, Any], asked: dict[str, Any]) -> None:
    """Every cache, scheduler and drafter, with every way to choose. Catches a change of the cache that the followers
    miss, blocks that differ, a draw with other noise, and a best token of one rank alone.
    """
    work = [(prompt, 12) for prompt in PROMPTS]
    truth = finish(make_engine(MODEL, **switches), *(request(*w, **asked) for w in work))
    for ranks, stages in SHAPES:
        if stages > 1 and "num_draft_candidates" in switches:
            continue  # refused
        switches = switches | {"stages": stages}
        found = together(ranks, MODEL, lambda engine: finish(engine, *(request(*w, **asked) for w in work)), **switches)
        assert found == truth, f"{ranks} ranks in each of {stages} stages"


@pytest.mark.parametrize(
    ("ranks", "stages", "each", "asked"),
    [(2, 1, 1, "greedy"), (2, 1, 2, "drawn"), (4, 1, 2, "greedy"), (4, 1, 1, "drawn"), (2, 2, 2, "greedy")],
)
def test_ranks_of_a_mixture_say_what_one_process_says(
    ranks: int, stages: int, each: int, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether their terms add up by all-to-all or not, which both happens, and where an exchange is made for each row.
    Catches ranks that do not agree on the way, and steps of fewer rows than ranks.
    """
    config = small_config(num_layers=3, experts=MoEConfig(8, each, 12, shared_size=16, dense_layers=(0,)))
    taken: Counter[int] = Counter()

    def counting(x: np.ndarray, *others: Any) -> Any:
        taken[len(x)] += 1
        return exchange(x, *others)

    def work(engine: Engine) -> list[list[int]]:
        return finish(engine, *(request(prompt, 12, **ASKED[asked]) for prompt in PROMPTS))

    truth = work(make_engine(config))
    monkeypatch.setattr(experts, "SMALL", 0)
    monkeypatch.setattr(experts, "exchange", counting)
    assert together(ranks, config, work, stages=stages) == truth
    assert max(taken) > ranks  # rows of a pass
    monkeypatch.setattr(tensor, "total", by_exchange)
    assert together(ranks, config, work, stages=stages) == truth


@pytest.mark.parametrize(("ranks", "stages"), [(2, 1), (1, 2), (2, 3)])
def test_logits_and_log_probabilities_are_those_of_one_process(ranks: int, stages: int) -> None:
    """Catches the logits of a rank's own tokens alone, and those of a pass that was begun before."""

    def logits(engine: Engine) -> np.ndarray:
        return np.asarray(engine.logits(request(PROMPTS[0], 1), 0, 10))

    assert distance(together(ranks, MODEL, logits, stages=stages), logits(make_engine(MODEL))) < ROUNDING

    def scores(engine: Engine) -> list[float]:
        seq = request(PROMPTS[1], 6, logprobs=2)
        finish(engine, seq)
        return [choice.logprob or 0.0 for choice in seq.progress.choices]

    assert together(ranks, MODEL, scores, stages=stages) == pytest.approx(scores(make_engine(MODEL)), abs=1e-4)

    def between(engine: Engine) -> list[Any]:
        sequences = [request(prompt, 9) for prompt in PROMPTS]
        run = engine.run(sequences)
        for _ in range(3):
            next(run)
        scored = engine.logits(request(PROMPTS[0], 1), 0, 10)  # while passes are under way
        for _ in run:
            continue
        return [scored, [seq.new_tokens for seq in sequences]]

    (scored, tokens), (truth, true_tokens) = together(ranks, MODEL, between, stages=stages), between(make_engine(MODEL))
    assert distance(scored, truth) < ROUNDING
    assert tokens == true_tokens


@pytest.mark.parametrize("switches", ["plain", "prefixes", "8 bits", "chunks"])
def test_branches_of_one_prompt_are_those_of_one_process(switches: str) -> None:
    """Catches a fork that followers miss, and one of a sequence that is in another stage with rows not yet computed."""

    def work(engine: Engine) -> list[list[int]]:
        found = finish(engine, *branches(PROMPTS[3], 4, 9, temperature=1.0, seed=4))
        assert engine.ledger.tokens_cached == 3 * 11
        return found

    truth = work(make_engine(MODEL, **SWITCHES[switches]))
    for ranks, stages in ((2, 1), (1, 3), (2, 2)):
        assert together(ranks, MODEL, work, stages=stages, **SWITCHES[switches]) == truth


@pytest.mark.parametrize(("ranks", "stages"), [(2, 1), (1, 3), (2, 2)])
def test_a_scored_prompt_goes_on_with_what_all_ranks_computed(ranks: int, stages: int) -> None:
    """Catches positions that the leader keeps for the answer, and a follower has freed."""

    def work(engine: Engine) -> tuple[list[float], list[int]]:
        seq, scoring = request(PROMPTS[3], 6, prompt_logprobs=1), Scoring(engine)
        scoring.add(seq, 0.0)
        scoring.step()
        before = engine.ledger.tokens_computed
        while not seq.finished:
            engine.step()
        assert engine.ledger.tokens_computed - before == 6
        return [choice.logprob or 0.0 for choice in seq.progress.scores], seq.new_tokens

    (scores, tokens), (truth, answer) = together(ranks, MODEL, work, stages=stages), work(make_engine(MODEL))
    assert scores == pytest.approx(truth, abs=1e-4)
    assert tokens == answer


@pytest.mark.parametrize("stages", [1, 3])
def test_sequences_that_leave_early_leave_all_caches(stages: int) -> None:
    """Catches followers that hold the blocks of aborted requests, and tokens for a request that left meanwhile."""

    def work(engine: Engine) -> list[list[int]]:
        first, second = request(PROMPTS[0], 20), request(PROMPTS[1], 8)
        run = engine.run([first, second])
        for _ in range(3):
            next(run)
        engine.abort(first)
        for _ in run:
            continue
        return finish(engine, request(PROMPTS[2], 8), request(PROMPTS[3], 8))

    switches = {"kv_cache": "paged", "block_size": 2, "num_blocks": 20, "prefix_cache": True}
    found = together(3 if stages == 1 else 1, MODEL, work, stages=stages, **switches)
    assert found == work(make_engine(MODEL, **switches))


def test_a_sequence_that_is_preempted_while_its_pass_is_under_way_is_computed_again() -> None:
    """Four blocks of two positions, two prompts of four. Catches keys that are read of a sequence that has none, and
    tokens that a sequence gets twice.
    """
    switches: dict[str, Any] = {"kv_cache": "paged", "block_size": 2, "num_blocks": 4}

    def work(engine: Engine) -> list[list[int]]:
        return finish(engine, request([1, 2, 3, 4], 4), request([5, 6, 7, 8], 4))

    for more in ({}, {"kv_bits": 8, "kv_group_size": 3}):
        found = together(1, MODEL, work, stages=2, **switches, **more)
        assert found == work(make_engine(MODEL, **switches, **more))


def test_a_cancelled_request_ends_no_other_with_its_error() -> None:
    """Its numbers overflow in a pass that was under way when it was cancelled. Catches an error that names a request
    which is gone, so that all others end.
    """
    tensors = random_tensors(MODEL)
    tensors["embedding"][30] *= 1e30

    def work(engine: Engine) -> list[Any]:
        loop = EngineLoop(engine)
        good, bad = Request(request([3, 4, 5], 6), loop), Request(request([1, 2, 30], 6), loop)
        step = engine.step

        def cancelling(watch: bool = False) -> Any:
            trace = step(watch)
            if bad.seq in engine.scheduler.in_flight:
                bad.cancel()
            return trace

        engine.step = cancelling  # type: ignore[method-assign]
        loop.submit([good, bad])
        found = [good.result(timeout=20).token_ids, bad.result(timeout=20).finish_reason]
        loop.close()
        return found

    [alone] = finish(make_engine(checkpoint_of(MODEL, tensors)), request([3, 4, 5], 6))
    assert together(1, MODEL, work, stages=2, tensors=tensors) == [alone, "abort"]


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_traces_say_who_came_and_who_went(stages: int) -> None:
    """With so few blocks that sequences are preempted, in flight and before. Catches one that comes and never goes."""
    switches: dict[str, Any] = {"kv_cache": "paged", "block_size": 2}

    def work(engine: Engine) -> tuple[set[int], int, int]:
        rng, inside, preempted = np.random.default_rng(engine.cache.spec.num_blocks), Counter[Any](), 0
        work = [(rng.integers(0, 6, rng.integers(1, 10)).tolist(), int(rng.choice([1, 4, 14]))) for _ in range(7)]
        for trace in engine.run([request(*one) for one in work]):
            inside.update(trace.joined)
            inside.subtract((*trace.left, *trace.preempted))
            preempted += len(trace.preempted)
        return set(inside.values()), preempted, engine.ledger.preemptions

    for blocks in range(15, 22):
        odd, told, counted = together(1, MODEL, work, stages=stages, num_blocks=blocks, **switches)
        assert odd == {0}
        assert told == counted


def test_passes_of_a_run_that_was_left_are_forgotten() -> None:
    """Catches the first step of the next run that waits for them, and tells of them; and caches of engines that are
    gone, which the other ranks keep.
    """

    def work(engine: Engine) -> list[list[int]]:
        run = engine.run([request([1, 2, 3], 9) for _ in range(4)])
        next(run)
        run.close()
        seq = request([4, 5], 2)
        traces = list(engine.run([seq]))
        return [[turn.id - seq.id for turn in trace.turns] for trace in traces]

    assert together(1, MODEL, work, stages=2) == [[0], [0]]


@pytest.mark.parametrize("when", range(1, 9))
def test_a_step_that_fails_is_rolled_back_in_all_stages(when: int) -> None:
    """As it begins, or as it ends, while other passes are under way. Catches results that go to another pass, and
    blocks of a pass that failed in the prefix cache.
    """
    switches = {"kv_cache": "paged", "block_size": 2, "prefix_cache": True, "max_num_batched_tokens": 6}

    def work(engine: Engine, fails: bool = True) -> list[list[int]]:
        calls = count(1)

        def failing(old: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                found = old(*arguments)
                if next(calls) == when:
                    raise MemoryError("no room")
                return found

            return call

        if fails:
            engine.forward = failing(engine.forward)  # type: ignore[method-assign]
            engine.choose = failing(engine.choose)  # type: ignore[method-assign]
        sequences = [request(prompt, 8) for prompt in PROMPTS]
        for seq in sequences:
            engine.add(seq, 0.0)
        while engine.scheduler.busy:
            with suppress(MemoryError):
                engine.step()
        assert not fails or next(calls) > when
        return [seq.new_tokens for seq in sequences] + finish(engine, *(request(prompt, 3) for prompt in PROMPTS))

    truth = work(make_engine(MODEL, **switches), fails=False)
    assert together(1, MODEL, work, stages=3, **switches) == truth


@pytest.mark.parametrize(("ranks", "stages"), [(2, 1), (1, 2), (1, 3), (2, 2)])
@pytest.mark.parametrize("kind", ["logits", "embedding", "attention", "hidden by a norm"])
def test_numbers_that_overflow_end_their_request_with_the_sentence_of_one_process(
    ranks: int, stages: int, kind: str
) -> None:
    """And not the ranks. Catches a leader that looks for the place alone, a place that is counted from the first layer
    of a stage, and an overflow that a norm hides, so that all logits are the same.
    """
    config = replace(MODEL, **{"logits": {"logit_scale": 1e38}, "embedding": {"embedding_scale": 1e38}}.get(kind, {}))
    tensors = random_tensors(config)
    if kind == "attention":
        tensors["layers.1.o"] *= 1e38
    if kind == "hidden by a norm":  # the square of 1e25 is infinite, and what is divided by that is 0
        tensors["layers.2.down"] *= 1e25

    def work(engine: Engine) -> list[str]:
        words = []
        for prompt in PROMPTS[:2]:
            with pytest.raises(NotFiniteError) as caught:
                finish(engine, request(prompt, 5))
            words.append(str(caught.value))
        return words

    truth = work(make_engine(checkpoint_of(config, tensors)))
    assert together(ranks, config, work, stages=stages, tensors=tensors) == truth
    assert ("all the same" in truth[0]) == (kind == "hidden by a norm")


@pytest.mark.parametrize(("ranks", "stages"), [(2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("switches", [{}, {"kv_cache": "paged", "block_size": 3, "prefix_cache": True}])
def test_a_request_that_overflows_ends_alone_and_the_ranks_stay_in_step(
    ranks: int, stages: int, switches: dict[str, Any]
) -> None:
    """By a token of its prompt, beside others that go on. Catches a step that is rolled back for one request, and a
    rank whose cache keeps what the leader's has given back: the same prompts are asked twice.
    """
    config, tensors = one_bad_token(MODEL, bad := 30)

    def work(engine: Engine) -> list[Any]:
        prompts = (PROMPTS[0], [7, 8, bad, 9], PROMPTS[1])
        return ends_of_two(engine, lambda: [request(prompt, 6) for prompt in prompts])

    truth = work(make_engine(checkpoint_of(config, tensors)))
    assert [ended for _, ended, _ in truth[:3]] == ["length", "abort", "length"]
    assert "in the embedding" in truth[1][2]
    assert truth[-1] == 0
    assert together(ranks, config, work, stages=stages, tensors=tensors, **switches) == truth


EXPERTS = replace(MODEL, num_kv_heads=2, experts=MoEConfig(num_experts=4, experts_per_token=2, expert_size=8))


@pytest.mark.parametrize("config", [replace(MODEL, num_kv_heads=2), EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize(("ranks", "stages"), [(2, 1), (1, 2), (1, 3), (2, 2)])
def test_the_ledger_counts_the_work_of_all_ranks(ranks: int, stages: int, config: ModelConfig) -> None:
    """As one process counts it, beside what each rank does for itself: looking up tokens, norms, routers. Catches the
    first rank's part alone, steps and blocks that are counted once a rank, and counts that come with no step.
    """
    switches: dict[str, Any] = {"kv_cache": "paged", "block_size": 3, "max_num_batched_tokens": 6}

    def work(engine: Engine) -> tuple[Ledger, Ledger]:
        before, by_step = engine.ledger.copy(), Ledger()
        for trace in engine.run([request(PROMPTS[0], 9)]):
            by_step.add(trace.ledger)
        return engine.ledger - before, by_step

    found, by_step = together(ranks, config, work, stages=stages, **switches)
    one, _ = work(make_engine(config, **switches))
    assert found == by_step
    assert found.bytes_sent > 0
    routers = config.num_layers * 4 * config.hidden_size if config.experts else 0
    again = FLOAT * (one.steps * (norm_weights(config) + routers) + one.tokens_computed * config.hidden_size)
    one.weight_bytes += (ranks - 1) * again
    one.flops += (ranks - 1) * 2 * routers * one.tokens_computed
    assert replace(found, messages_sent=0, bytes_sent=0) == one
