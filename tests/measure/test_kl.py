"""divergence.py: the Kullback-Leibler divergence against SciPy's, on logits of every size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tinyinfer.llm
from tinyinfer import LLM
from tinyinfer.measure import kl as divergence
from tinyinfer.measure.kl import divergences, kl_divergence
from tinyinfer.measure.perplexity import perplexities

ROWS = arrays(np.float32, (2, 9), elements=st.floats(-30, 30, width=32))


@settings(max_examples=200)
@given(expected=ROWS, logits=ROWS)
def test_kl_divergence_is_scipys(expected: np.ndarray, logits: np.ndarray) -> None:
    """Catches p and q exchanged, a base other than e, and rows that reach into one another."""
    p, q = (scipy.special.softmax(rows.astype(np.float64), axis=1) for rows in (expected, logits))
    np.testing.assert_allclose(
        kl_divergence(expected, logits), scipy.special.rel_entr(p, q).sum(axis=1), rtol=1e-4, atol=2e-5
    )


def test_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2), whatever is added to all logits of a row."""
    expected, logits = np.log(np.array([[3, 1]], np.float32)), np.zeros((1, 2), np.float32)
    by_hand = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert kl_divergence(expected, logits)[0] == pytest.approx(by_hand, rel=1e-6)
    assert kl_divergence(expected + np.float32(80), logits - np.float32(80))[0] == pytest.approx(by_hand, abs=2e-5)


@settings(max_examples=100)
@given(logits=ROWS)
def test_the_same_logits_are_no_distance_apart(logits: np.ndarray) -> None:
    """Exactly: rounding must not look like a loss."""
    assert (kl_divergence(logits, logits) == 0).all()


def test_small_distances_are_not_lost_in_rounding() -> None:
    """Logits that differ by 1% of noise are 5e-5 nats apart; that must not drown in the rounding of the logits."""
    rng = np.random.default_rng(0)
    expected = (3 * rng.standard_normal((4, 5000))).astype(np.float32)
    logits = (expected + 1e-2 * rng.standard_normal((4, 5000))).astype(np.float32)
    p, q = (scipy.special.softmax(rows.astype(np.float64), axis=1) for rows in (expected, logits))
    np.testing.assert_allclose(kl_divergence(expected, logits), scipy.special.rel_entr(p, q).sum(axis=1), rtol=0.01)


@pytest.mark.parametrize(
    ("switches", "beginning"),
    [({}, []), ({}, [0] * 12), ({"kv_cache": "none"}, [0]), ({"kv_cache": "paged", "block_size": 4}, [0])],
    ids=str,
)
def test_perplexity_on_the_way_is_the_one_of_perplexity_py(
    switches: dict[str, Any], beginning: list[int], golden_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, after every window, whatever the cache: a table and a single run must agree.

    Catches beginning tokens that shift what is scored, also where they fill more than one piece of logits.
    """
    monkeypatch.setattr(tinyinfer.llm, "SCORE_ROWS", 5)
    folder: Path = golden_folder("qwen2")
    llm, reference = LLM(str(folder), quantize="int4", **switches), LLM(str(folder), **switches)
    tokens = np.random.default_rng(0).integers(3, 200, 75).tolist()
    pairs = list(divergences(llm, reference, tokens, 16, beginning))
    assert [found for found, _ in pairs] == list(perplexities(llm, tokens, 16, beginning))
    assert all(0 < distance.kl < 2 and 0 <= distance.agreement <= 1 for _, distance in pairs)
    *_, (_, none) = divergences(reference, reference, tokens, 16, beginning)
    assert (none.kl, none.agreement) == (0, 1)


def test_the_mean_is_not_negative(golden_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding can leave a sum of nearly nothing below 0, which a table would show as -0.0000."""
    llm = LLM(str(golden_folder("llama")))
    monkeypatch.setattr(divergence, "kl_divergence", lambda expected, logits: np.full(len(logits), -1e-9))
    assert [repr(distance.kl) for _, distance in divergences(llm, llm, [1, 2, 3, 4], 2)] == ["0.0", "0.0"]


def test_a_model_that_overflows_is_told(golden_folder: Any) -> None:
    """As by perplexity.py: NaN in a table would be no number. Catches an overflow in the reference that is overlooked.
    """
    llm, broken = LLM(str(golden_folder("llama"))), LLM(str(golden_folder("llama")))
    broken.model.final_norm.weight[:] = np.inf  # type: ignore[union-attr]
    for pair in ((llm, broken), (broken, llm), (broken, broken)):
        with pytest.raises(FloatingPointError, match="in the output head"):
            list(divergences(*pair, [1, 2, 3], 2))
