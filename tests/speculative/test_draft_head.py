"""A draft head: what it reads of the target's cache, and that its drafts change no text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from draft_heads import assert_by_the_formulas, head_of
from helpers import ALWAYS_DRAFT, check_blocks, finish, make_engine, request, small_config

from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine, build_engine
from tinyinfer.errors import SwitchError
from tinyinfer.pruning.layers import keep_layers
from tinyinfer.speculative.base import DraftCost
from tinyinfer.speculative.draft_head import HeadDrafter

MODEL = small_config()
PROMPTS = [4, 5, 6, 7, 4, 5, 6, 9, 4, 5], [1, 2] * 6, [3, 9]
CACHES: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "paged": {"kv_cache": "paged", "block_size": 3},
    "prefixes": {"kv_cache": "paged", "block_size": 3, "prefix_cache": True},
    "candidates": {"kv_cache": "paged", "block_size": 3, "num_draft_candidates": 3},
    "8 bits": {"kv_bits": 8, "kv_group_size": 3},
    "chunks": {"max_num_batched_tokens": 4},
}


def drafting(cost: DraftCost = ALWAYS_DRAFT, **switches: Any) -> Engine:
    """An engine whose drafts come from a head."""
    draft: dict[str, Any] = {"speculative": "draft", "draft_model": "head", "second": head_of}
    return make_engine(MODEL, draft_cost=cost, **draft, **switches)


@pytest.mark.parametrize("switches", CACHES.values(), ids=CACHES)
def test_drafts_are_those_of_the_formulas(switches: dict[str, Any]) -> None:
    """From the values of the newest computed position and the token chosen since. Catches a position beside it, a
    state of another sequence or of an earlier draft, and the values of other layers."""
    assert_by_the_formulas(drafting(**switches), PROMPTS)


@pytest.mark.parametrize("asked", [{}, {"temperature": 1.0, "seed": 4}], ids=["greedy", "drawn"])
@pytest.mark.parametrize("switches", CACHES.values(), ids=CACHES)
def test_the_text_is_that_of_no_drafts(switches: dict[str, Any], asked: dict[str, Any]) -> None:
    """On every cache, drafts accepted and rejected."""
    plain = {name: value for name, value in switches.items() if name != "num_draft_candidates"}
    truth = [finish(make_engine(MODEL, **plain), request(prompt, 16, **asked))[0] for prompt in PROMPTS]
    engine = drafting(**switches)
    assert finish(engine, *(request(prompt, 16, **asked) for prompt in PROMPTS)) == truth
    assert engine.ledger.drafts_proposed > 20
    assert engine.cache.held_bytes == 0 or switches.get("prefix_cache")


def test_after_a_preemption_it_waits_until_the_target_has_computed_again() -> None:
    """Catches values of a position that the cache does not hold."""
    work = [(PROMPTS[0], 14), (PROMPTS[1], 14)]
    truth = [finish(make_engine(MODEL), request(*w))[0] for w in work]
    engine = drafting(kv_cache="paged", block_size=2, num_blocks=16)
    assert finish(engine, *(request(*w) for w in work)) == truth
    assert engine.ledger.preemptions > 0
    check_blocks(engine)


@pytest.mark.parametrize("backend", ["numpy", pytest.param("numba", marks=pytest.mark.cpu)])
@pytest.mark.parametrize(
    ("sharpness", "asked", "wanted"),
    [(1e4, {}, 4), (1e-4, {}, 0), (1e4, {"temperature": 1.0}, 2), (1e4, {"repetition_penalty": 2.0}, 2)],
    ids=["sure", "unlikely", "sure, but drawn", "sure, but with a penalty"],
)
def test_a_head_goes_on_behind_a_sure_draft_and_drops_an_unlikely_one(
    sharpness: float, asked: dict[str, float], wanted: int, backend: str
) -> None:
    """By the rate that is assumed at first, two drafts pay. Catches a probability of another token, and one that is
    asked of drafts that are drawn, or that penalties have changed.
    """
    engine = drafting(backend=backend, cost=DraftCost(lambda rows: 1 + 0.4 * (rows - 1), 0.05))
    drafter: Any = engine.drafter
    drafter.head.final_norm.weight[:] *= sharpness
    seq = request(PROMPTS[0], 9, seed=2, **asked)
    engine.add(seq, 0.0)
    engine.step()
    drafter.propose([seq])
    assert len(seq.drafts) == wanted


def test_several_candidates_and_drafts_that_are_drawn() -> None:
    """Neither changes a greedy text; a drawn draft keeps the distribution (test_same_text.py)."""
    [truth] = finish(make_engine(MODEL), request(PROMPTS[0], 16))
    for more in ({"kv_cache": "paged", "num_draft_candidates": 3}, {"verification": "best-coupling"}):
        engine = drafting(**more)
        assert finish(engine, request(PROMPTS[0], 16)) == [truth]
        assert engine.ledger.drafts_proposed > 5


def test_a_head_whose_numbers_overflow_proposes_nothing() -> None:
    """Catches NaN taken for a token."""
    engine = drafting()
    engine.drafter.head.mlp.down.weight.array[:] = np.inf  # type: ignore[attr-defined]
    [truth] = finish(make_engine(MODEL), request(PROMPTS[0], 8))
    assert finish(engine, request(PROMPTS[0], 8)) == [truth]
    assert engine.ledger.drafts_proposed == 0


def test_without_a_cache_it_is_refused() -> None:
    with pytest.raises(SwitchError, match=r"kv_cache=none keeps no values, which the draft head reads; choose another"):
        drafting(kv_cache="none")


def test_a_target_that_was_cut_since_is_refused() -> None:
    """`with_engine(model=)` gives an engine another model. Catches layers that are not there, and other layers' values.
    """
    engine = drafting()
    cut, head = keep_layers(engine.model, range(1)), engine.drafter.head  # type: ignore[attr-defined]
    config = EngineConfig(speculative="draft")
    with pytest.raises(SwitchError, match=r"made for 2 layers of width 20, here are 1 of 20\); name a smaller model"):
        build_engine(cut, engine.ops, config, engine.clock, head)


def test_an_interrupted_proposal_leaves_nothing() -> None:
    """Catches states of sequences that have left, after Ctrl-C between two drafts."""
    engine, seq = drafting(), request(PROMPTS[0], 9)
    finish(engine, seq)
    engine.drafter._states[seq] = np.zeros(3)  # type: ignore[attr-defined]
    engine.drafter.keep([])
    assert engine.drafter._states == {}  # type: ignore[attr-defined]


def test_nothing_is_kept_between_steps() -> None:
    """Catches states of sequences that have left."""
    engine = drafting()
    finish(engine, *(request(prompt, 9) for prompt in PROMPTS))
    assert isinstance(engine.drafter, HeadDrafter)
    assert engine.drafter._states == {}
    assert len(engine.drafter.lengths) == 0
