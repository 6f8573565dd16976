"""The compiled pass of a draft head gives the head's own numbers, and its drafts change no text."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from draft_heads import assert_by_the_formulas, head_of
from helpers import ALWAYS_DRAFT, TOLERANCE, distance, finish, make_engine, request, small_config

from tinyinfer.backends.cpu_kernels import step
from tinyinfer.backends.numba_ops import NumbaOps
from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.engine import Engine
from tinyinfer.ledger import Ledger

pytestmark = pytest.mark.cpu
MODELS = {
    "llama": small_config(vocab_size=70, hidden_size=33),
    "learned positions": small_config(norm="layer", gated=False, learned_positions=True, rope=(None, None)),
}
PROMPTS = [4, 5, 6, 7, 4, 5, 6, 9, 4, 5], [1, 2] * 6, [3, 9]


def engine_on(ops: Any, name: str, **switches: Any) -> Engine:
    """An engine that drafts by a head."""
    return make_engine(MODELS[name], ops=ops, second=head_of, draft_cost=ALWAYS_DRAFT, speculative="draft",
                       draft_model="head", **switches)  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3, 5])
@pytest.mark.parametrize("name", MODELS)
def test_states_logits_and_counts_are_those_of_the_operations(name: str, rows: int) -> None:
    """Twice each, the second time in the arrays of the first. Catches rows of an earlier pass, a state written over
    while it is read, and bytes that are not counted."""
    engine, rng = engine_on(NumbaOps(Ledger(), threads=2), name), np.random.default_rng(rows)
    passes, head, ops = engine.drafter.compiled, engine.drafter.head, engine.ops  # type: ignore[attr-defined]
    for first in (True, False, True, False):
        size = head.values.linear.weight.shape[1] if first else MODELS[name].hidden_size
        before = rng.normal(size=(rows, size)).astype(np.float32)
        tokens, positions = rng.integers(0, 30, rows), rng.integers(0, 20, rows)
        start = engine.ledger.copy()
        state, logits = passes.draft(before, tokens, positions, first)
        told = passes.sample(logits, [request([1], 1).sampling] * rows)
        middle = engine.ledger.copy()
        wanted = (head.first if first else head.next)(before, ops.embed(tokens, positions, engine.model.embedding), ops)
        scores = head.logits(wanted, ops)
        assert distance(state, wanted) <= TOLERANCE
        assert distance(logits, scores) <= TOLERANCE
        assert told.tokens.tolist() == scores.argmax(axis=1).tolist()
        assert middle - start == engine.ledger - middle


@pytest.mark.parametrize("asked", [{}, {"temperature": 1.0, "seed": 4}], ids=["greedy", "drawn"])
@pytest.mark.parametrize(
    "switches", [{}, {"kv_cache": "paged", "block_size": 3}, {"kv_bits": 8, "kv_group_size": 3}], ids=str
)
def test_texts_are_those_of_numpy(switches: dict[str, Any], asked: dict[str, Any]) -> None:
    """Catches drafts that change a text. (They are others: numba holds the head's rows in 8 bits.)"""
    found = []
    for ops in (NumbaOps(Ledger(), threads=2), NumpyOps(Ledger())):
        engine = engine_on(ops, "llama", **switches)
        found.append(finish(engine, *(request(prompt, 12, **asked) for prompt in PROMPTS)))
        assert engine.ledger.drafts_proposed > 20
    assert found[0] == found[1]


@pytest.mark.parametrize("switches", [{}, {"kv_cache": "paged", "block_size": 3}, {"kv_bits": 8, "kv_group_size": 3}])
def test_drafts_are_those_of_the_formulas(switches: dict[str, Any]) -> None:
    """Catches values of another position or sequence, which change no text."""
    assert_by_the_formulas(engine_on(NumbaOps(Ledger(), threads=2), "llama", **switches), PROMPTS)


def test_a_copy_plans_anew() -> None:
    """Catches addresses of the first one's arrays."""
    engine = engine_on(NumbaOps(Ledger(), threads=2), "llama")
    passes = copy.deepcopy(engine.drafter.compiled)  # type: ignore[attr-defined]
    before = np.ones((1, MODELS["llama"].hidden_size), np.float32)
    one, other = (p.draft(before, np.array([5]), np.array([3]), False) for p in (engine.drafter.compiled, passes))  # type: ignore[attr-defined]
    assert passes.head is not engine.drafter.head  # type: ignore[attr-defined]
    assert np.array_equal(one[0], other[0])


def test_passes_are_kept_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a server in which every number of sequences leaves a pass behind."""
    monkeypatch.setattr(step, "KEPT", 40_000)
    passes = engine_on(NumbaOps(Ledger(), threads=1), "llama").drafter.compiled  # type: ignore[attr-defined]
    for rows in range(1, 30):
        before = np.ones((rows, MODELS["llama"].hidden_size), np.float32)
        passes.draft(before, np.ones(rows, np.int64), np.ones(rows, np.int64), False)
    assert 1 <= len(passes._passes) < 10
