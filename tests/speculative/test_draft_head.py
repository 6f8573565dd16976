"""A draft head: what it reads of the target's cache, and that its drafts change no text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from draft_heads import head_of
from helpers import ALWAYS_DRAFT, check_blocks, finish, make_engine, request, small_config

from tinyinfer.engine.config import EngineConfig
from tinyinfer.engine.engine import Engine, build_engine
from tinyinfer.errors import SwitchError
from tinyinfer.ledger import Ledger
from tinyinfer.model.draft_head import DraftHead
from tinyinfer.pruning.layers import keep_layers
from tinyinfer.speculative.draft_head import HeadDrafter

MODEL = small_config()
LAYERS = (0, MODEL.num_layers - 1)
PROMPTS = [4, 5, 6, 7, 4, 5, 6, 9, 4, 5], [1, 2] * 6, [3, 9]
CACHES: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "paged": {"kv_cache": "paged", "block_size": 3},
    "prefixes": {"kv_cache": "paged", "block_size": 3, "prefix_cache": True},
    "8 bits": {"kv_bits": 8, "kv_group_size": 3},
    "chunks": {"max_num_batched_tokens": 4},
}


def drafting(**switches: Any) -> Engine:
    """An engine whose drafts come from a head."""
    draft: dict[str, Any] = {"speculative": "draft", "draft_model": "head", "second": head_of}
    return make_engine(MODEL, draft_cost=ALWAYS_DRAFT, **draft, **switches)


def watched(engine: Engine, seen: list[tuple[list[int], np.ndarray, list[int]]]) -> Engine:
    """Notes of each proposal: the known tokens, the values of the newest computed position, and the drafts."""
    drafter, propose = engine.drafter, engine.drafter.propose

    def look(sequences: list[Any]) -> None:
        before = [seq for seq in sequences if not seq.drafts]
        propose(sequences)
        cache = engine.cache.counting(Ledger())  # a copy, whose arrays are those of now
        for seq in before:
            if seq.drafts:
                at = len(seq.tokens) - 2
                values = [cache.read(layer, seq, at, at + 1)[1].flatten() for layer in LAYERS]
                seen.append((list(seq.tokens), np.concatenate(values), [draft.token for draft in seq.drafts]))

    drafter.propose = look  # type: ignore[method-assign]
    return engine


def naive(head: DraftHead, table: np.ndarray, values: np.ndarray, newest: int, n: int) -> list[int]:
    """The drafts by the formulas, in float64, one number after the other."""

    def normed(x: np.ndarray, norm: Any) -> np.ndarray:
        return x / np.sqrt((x * x).mean() + norm.eps) * norm.weight

    def times(x: np.ndarray, linear: Any) -> np.ndarray:
        return x @ linear.weight.array.astype(np.float64)

    state, found = values.astype(np.float64), []
    for i in range(n):
        part = head.state if i else head.values
        x = times(normed(state, part.norm), part.linear)
        x = x + times(normed(table[found[-1] if found else newest], head.token.norm), head.token.linear)
        gate, up = np.split(times(normed(x, head.mlp_norm), head.mlp.gate_up), 2)
        state = x + times(gate / (1 + np.exp(-gate)) * up, head.mlp.down)
        found.append(int(times(normed(state, head.final_norm), head.head).argmax()))
    return found


@pytest.mark.parametrize("switches", CACHES.values(), ids=CACHES)
def test_drafts_are_those_of_the_formulas(switches: dict[str, Any]) -> None:
    """From the values of the newest computed position and the token chosen since. Catches a position beside it, a
    state of another sequence or of an earlier draft, and the values of other layers."""
    seen: list[tuple[list[int], np.ndarray, list[int]]] = []
    engine = watched(drafting(**switches), seen)
    finish(engine, *(request(prompt, 12) for prompt in PROMPTS))
    head, m = engine.drafter.head, engine.model  # type: ignore[attr-defined]
    table = m.embedding.table.dequantize(slice(0, MODEL.vocab_size)).T.astype(np.float64) * m.embedding.scale
    assert len(seen) > 10
    assert max(len(drafts) for *_, drafts in seen) > 2
    for tokens, values, drafts in seen:
        assert drafts == naive(head, table, values, tokens[-1], len(drafts))


@pytest.mark.parametrize("asked", [{}, {"temperature": 1.0, "seed": 4}], ids=["greedy", "drawn"])
@pytest.mark.parametrize("switches", CACHES.values(), ids=CACHES)
def test_the_text_is_that_of_no_drafts(switches: dict[str, Any], asked: dict[str, Any]) -> None:
    """On every cache, drafts accepted and rejected."""
    truth = [finish(make_engine(MODEL, **switches), request(prompt, 16, **asked))[0] for prompt in PROMPTS]
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
