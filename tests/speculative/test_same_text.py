"""A seed is a text: alone, in any company, and with any drafter, however its drafts are made and computed.

The promise is exact but for rounding, which differs with the number of rows of a matrix product: it may choose another
token where two scores tie. `assert_same` takes a different text only where both tokens lie within rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from draft_heads import head_of
from helpers import ALWAYS_DRAFT, ROUNDING, finish, flat_batch, make_engine, request, small_config

from tinyinfer.engine.engine import Engine
from tinyinfer.loading import load
from tinyinfer.sampling import perturbed, softmax
from tinyinfer.sequence import Sequence

PROMPTS = [[4, 5, 6, 7, 4, 5, 6, 9], [1, 2] * 6, [4, 5, 6, 7, 4, 5, 1], [8] * 5, [3, 9, 3, 9, 3]]
NEW = 8
ASKED: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.3, "top_k": 12},
    {"temperature": 1.4, "top_p": 0.8, "min_p": 0.02},
    {"temperature": 0.8, "frequency_penalty": 0.7, "repetition_penalty": 1.3, "presence_penalty": 0.2},
]
PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 4}
COMPANY: dict[str, dict[str, Any]] = {
    "batch": {"max_num_seqs": 64},
    "uncached": {"kv_cache": "none"},
    "chunked": {"max_num_batched_tokens": 5},
    "preempted": PAGED | {"num_blocks": 24},
    "preempted, chunked, shared": PAGED | {"num_blocks": 8, "prefix_cache": True, "max_num_batched_tokens": 6},
    "static": {"batching": "static", "max_num_seqs": 3},
}
DRAFTERS: dict[str, dict[str, Any]] = {
    "prompt-lookup": {"speculative": "prompt-lookup"},
    "layers": {"speculative": "self", "draft_layers": 1},
    "int4": {"speculative": "self", "draft_quantize": "int4"},
    "draft": {"speculative": "draft", "draft_model": "second"},
    "head": {"speculative": "draft", "draft_model": "head"},
}
BESIDE = ["batch", "preempted", "preempted, chunked, shared"]
WAYS = {
    **COMPANY,
    **{f"{drafter}, {name}": DRAFTERS[drafter] | COMPANY[name] for drafter in DRAFTERS for name in BESIDE},
    "prompt-lookup, 3 candidates": DRAFTERS["prompt-lookup"] | PAGED | {"num_draft_candidates": 3},
    "layers, 2 candidates": DRAFTERS["layers"] | PAGED | {"num_draft_candidates": 2},
    "layers, 3 candidates, preempted": DRAFTERS["layers"] | COMPANY["preempted"] | {"num_draft_candidates": 3},
    "draft, 3 candidates": DRAFTERS["draft"] | PAGED | {"num_draft_candidates": 3},
}


def sequences(seeds: range) -> list[Sequence]:
    """A request for each seed; prompts, and ways to sample, take turns."""
    return [request(PROMPTS[s % len(PROMPTS)], NEW, seed=s, **ASKED[s % len(ASKED)]) for s in seeds]


def engine_of(model: Any, switches: dict[str, Any]) -> Engine:
    """An engine that proposes two drafts wherever it may; the second model has another vocabulary."""
    small = small_config(vocab_size=model.config.vocab_size - 4)
    second = {"second": small, "head": head_of, None: None}[switches.get("draft_model")]
    drafts = {"num_draft_tokens": 2} if "speculative" in switches else {}
    return make_engine(model, second=second, draft_cost=ALWAYS_DRAFT, **drafts, **switches)


def assert_same(model: Any, found: list[Sequence], plain: list[Sequence]) -> int:
    """How many texts differ; AssertionError for one whose first other token is not within rounding of the right one."""
    different = [(one, two) for one, two in zip(found, plain, strict=True) if one.new_tokens != two.new_tokens]
    for one, two in different:
        pairs = zip(one.new_tokens, two.new_tokens, strict=True)
        at = next(i for i, (token, right) in enumerate(pairs) if token != right)
        assert one.new_tokens[at] in within_rounding(model, two, at), (one.request.seed, at)
    return len(different)


def within_rounding(model: Any, seq: Sequence, at: int) -> set[int]:
    """The tokens that the position draws when its logits are moved at random by what rounding may do."""
    known, engine = request([*seq.prompt, *seq.new_tokens[:at]]), make_engine(model, kv_cache="none")
    logits = engine.forward(flat_batch([(known, 0, len(known.tokens))]))[-1]
    moves = np.random.default_rng(0).uniform(-1, 1, (300, len(logits))) * ROUNDING * np.abs(logits).max()
    params, prompt, new, seed = seq.sampling
    return {int(perturbed(logits + move, params, prompt, new[:at], seed).argmax()) for move in moves}


def check(model: Any, plain: list[Sequence], name: str) -> int:
    """How many texts of a way differ, by rounding, from the plain ones of the same seeds."""
    engine, found = engine_of(model, WAYS[name]), sequences(range(len(plain)))
    finish(engine, *found)
    drafts, accepted = engine.ledger.drafts_proposed, engine.ledger.drafts_accepted
    assert (engine.ledger.preemptions > 0) == ("preempted" in name), name
    assert (drafts > accepted > 0) == ("speculative" in WAYS[name]), name
    return assert_same(model, found, plain)


def alone(model: Any, seeds: range) -> list[Sequence]:
    """The texts of the plain engine: one sequence at a time, without a cache."""
    plain, engine = sequences(seeds), make_engine(model, kv_cache="none")
    for seq in plain:
        finish(engine, seq)
    return plain


@pytest.mark.parametrize("spread", [0.3, 1.5])
def test_the_same_noise_brings_target_and_drafter_together(spread: float) -> None:
    """At least (1 - d)/(1 + d) of the drafts are accepted, d the distance of the distributions (Daliri et al. 2024).

    Within 4 standard deviations. Catches drafts drawn by other noise: they agree with probability sum(p·q), which is
    far less.
    """
    rng, seq = np.random.default_rng(1), request(PROMPTS[0], temperature=1.0)
    s = rng.standard_normal(60)
    t = s + spread * rng.standard_normal(60)
    p, q = softmax(s), softmax(t)
    d = np.abs(p - q).sum() / 2
    params, prompt, new, _ = seq.sampling
    both = [[int(perturbed(x, params, prompt, new, seed).argmax()) for x in (s, t)] for seed in range(800)]
    bound, rate = (1 - d) / (1 + d), np.mean([one == other for one, other in both])
    assert bound - 4 * np.sqrt(bound * (1 - bound) / 800) <= rate <= 1 - d + 4 * np.sqrt(d * (1 - d) / 800)
    assert bound > 3 * (p @ q)


@pytest.mark.parametrize("verification", ["same-text", "best-coupling"])
def test_only_best_coupling_keeps_the_distributions_of_drafts(llama: Any, verification: str) -> None:
    """Catches a row of the vocabulary computed and kept for each draft, where no rule reads it."""
    engine = engine_of(llama, DRAFTERS["layers"] | {"verification": verification})
    [seq], propose, kept = sequences(range(1)), engine.drafter.propose, []

    def watched(asked: list[Sequence]) -> None:
        propose(asked)
        kept.extend(draft.probs is not None for one in asked for draft in one.drafts)

    engine.drafter.propose = watched  # type: ignore[method-assign]
    finish(engine, seq)
    assert set(kept) == {verification == "best-coupling"}


@pytest.fixture(scope="module")
def llama(golden_folder: Callable[[str], Path]) -> Any:
    """The golden model of that name."""
    return load(golden_folder("llama"))


@pytest.fixture(scope="module")
def all_alone(llama: Any) -> list[Sequence]:
    """The plain texts of 2,000 seeds."""
    return alone(llama, range(2000))


def test_another_text_is_told_from_rounding(llama: Any) -> None:
    """The referee itself: a token that rounding could not have chosen is an error; catches a referee that says yes."""
    [plain], [other] = sequences(range(1)), sequences(range(1))
    for seq in (plain, other):
        finish(make_engine(llama), seq)
    assert assert_same(llama, [other], [plain]) == 0
    other.progress.tokens[-3] = (other.progress.tokens[-3] + 1) % 200
    with pytest.raises(AssertionError):
        assert_same(llama, [other], [plain])


def test_a_seed_is_a_text_alone_in_company_and_with_every_drafter(llama: Any) -> None:
    """12 seeds, with filters and penalties and without.

    Catches a draft drawn by other noise than the target's, verified by accept-or-replace, or judged at another
    position; penalties or filters that only one of the models sees; an inverse CDF (bug B4).
    """
    plain = alone(llama, range(12))
    ways = ["chunked", "prompt-lookup, batch", "layers, preempted", "int4, batch", "draft, 3 candidates"]
    assert {name: check(llama, plain, name) for name in ways} == dict.fromkeys(ways, 0)


@pytest.mark.full
@pytest.mark.parametrize("way", WAYS)
def test_2000_seeds_are_2000_texts_in_every_way(llama: Any, all_alone: list[Sequence], way: str) -> None:
    """Batches, chunks, preemptions and all drafters on all caches. Rounding may change a text in a thousand."""
    assert check(llama, all_alone, way) <= 2
