"""Perplexity: against transformers' logits and SciPy, and windows that score every token once."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import scipy.special
from golden import FAMILIES, load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer import LLM
from tinyinfer.measure import perplexity
from tinyinfer.measure.perplexity import Perplexity, begun, perplexities, windows


@pytest.mark.parametrize("name", FAMILIES)
def test_perplexity_equals_the_one_of_transformers_logits(name, golden_folder):
    """Catches: each token scored by the logits after it instead of before it, the first one scored, a missing exp."""
    golden = load_golden(name)
    logprobs = scipy.special.log_softmax(golden.logits.astype(np.float64), axis=1)
    expected = -np.mean([logprobs[i, token] for i, token in enumerate(golden.tokens[1:])])
    *_, found = perplexities(LLM(str(golden_folder(name))), golden.tokens.tolist(), len(golden.tokens) - 1)
    assert found.tokens == len(golden.tokens) - 1
    assert found.nll == pytest.approx(expected, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(expected), rel=1e-4)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(n=st.integers(2, 60), window=st.integers(1, 70))
def test_every_token_but_the_first_is_scored_once(n, window):
    """Catches: windows that do not meet, that overlap by two, or a last one of a single token."""
    pieces = list(windows(range(n), window))
    assert [token for piece in pieces for token in piece[1:]] == list(range(1, n))
    assert [piece[0] for piece in pieces] == list(range(0, n - 1, window))
    assert all(2 <= len(piece) <= window + 1 for piece in pieces)


@pytest.mark.parametrize("beginning", [[0], [5, 0, 5]])
@pytest.mark.parametrize("window", [1, 4, 60])
def test_beginning_tokens_condition_and_are_not_scored(beginning, window, golden_folder):
    """Catches bug B5, a beginning token that is scored, one before the first window only, a first token left out."""
    llm, tokens = LLM(str(golden_folder("llama"))), np.random.default_rng(0).integers(3, 200, 42).tolist()
    scores = []
    for start in range(0, 41, window):
        piece = tokens[start : start + window + 1]
        rows = llm.logits([*beginning, *piece[:-1]])[len(beginning) :].astype(np.float64)
        scores += scipy.special.log_softmax(rows, axis=1)[range(len(piece) - 1), piece[1:]].tolist()
    *_, found = perplexities(llm, tokens, window, beginning)
    assert found.tokens == len(scores) == 41
    assert found.nll == pytest.approx(-np.mean(scores), rel=1e-6)


def test_a_window_that_has_the_beginning_tokens_gets_them_once(golden_folder):
    """Catches two beginning tokens in a row, which no model was trained with, where the text itself holds one."""
    assert [begun(piece, [0, 1]) for piece in ([0, 1, 7], [0, 7], [1])] == [[0, 1, 7], [0, 1, 0, 7], [0, 1, 1]]
    llm, text = LLM(str(golden_folder("llama"))), [0, 5, 6, 7, 8]
    assert list(perplexities(llm, text, 8, [0])) == list(perplexities(llm, text, 8))


def test_the_examples_are_true():
    assert doctest.testmod(perplexity) == (0, 2)


def test_a_perplexity_beyond_all_floats_is_infinite():
    """exp raises OverflowError there."""
    assert Perplexity(nll=1e4, tokens=1).perplexity == math.inf
    assert Perplexity(nll=math.log(20), tokens=1).perplexity == pytest.approx(20)
