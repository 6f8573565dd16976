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
from tinyinfer.measure.perplexity import Perplexity, perplexities, windows


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


def test_the_example_of_windows_is_true():
    assert doctest.testmod(perplexity) == (0, 1)


def test_a_perplexity_beyond_all_floats_is_infinite():
    """exp raises OverflowError there."""
    assert Perplexity(nll=1e4, tokens=1).perplexity == math.inf
    assert Perplexity(nll=math.log(20), tokens=1).perplexity == pytest.approx(20)
