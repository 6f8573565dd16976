"""Losses: against SciPy's numbers, and their gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import rel_entr, softmax
from scipy.stats import entropy

from tinyinfer.distillation.losses import (
    cross_entropy,
    forward_kl,
    hidden_states,
    log_softmax,
    reverse_kl,
    top_k,
    top_k_kl,
)

RNG = np.random.default_rng(0)
STUDENT, TEACHER = 3 * RNG.standard_normal((5, 11)), 3 * RNG.standard_normal((5, 11))
TOKENS = RNG.integers(0, 11, 5)
KEPT = top_k(TEACHER, 4, 2.0, np)
LOSSES: dict[str, Callable[[np.ndarray], tuple[float, np.ndarray]]] = {
    "cross entropy": lambda x: cross_entropy(x, TOKENS, np),
    "forward": lambda x: forward_kl(x, TEACHER, 2.0, np),
    "reverse": lambda x: reverse_kl(x, TEACHER, 0.7, np),
    "top k": lambda x: top_k_kl(x, KEPT, 2.0, np),
    "hidden states": lambda x: hidden_states(x, TEACHER, np),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_differences(name):
    """Of every single number. Catches a mean that is a sum, and a temperature that is forgotten."""
    _, gradient = LOSSES[name](STUDENT)
    for place in np.ndindex(STUDENT.shape):
        moved = np.zeros_like(STUDENT)
        moved[place] = 1e-6
        right = (LOSSES[name](STUDENT + moved)[0] - LOSSES[name](STUDENT - moved)[0]) / 2e-6
        assert gradient[place] == pytest.approx(right, abs=1e-8)


def test_the_numbers_are_scipys():
    p, q = softmax(TEACHER / 2, axis=1), softmax(STUDENT / 2, axis=1)
    np.testing.assert_allclose(log_softmax(STUDENT, np), scipy_log_softmax(STUDENT, axis=1), rtol=1e-12)
    right = -scipy_log_softmax(STUDENT, axis=1)[np.arange(5), TOKENS].mean()
    assert cross_entropy(STUDENT, TOKENS, np)[0] == pytest.approx(right)
    assert forward_kl(STUDENT, TEACHER, 2.0, np)[0] == pytest.approx(4 * entropy(p, q, axis=1).mean())
    assert reverse_kl(STUDENT, TEACHER, 2.0, np)[0] == pytest.approx(4 * rel_entr(q, p).sum(axis=1).mean())


def test_a_high_temperature_compares_logits():
    """Hinton et al., equation 4: the gradient tends to (z - v) / (N · V), logits that are centered.

    Catches a factor t instead of t².
    """
    z, v = STUDENT - STUDENT.mean(axis=1, keepdims=True), TEACHER - TEACHER.mean(axis=1, keepdims=True)
    _, gradient = forward_kl(z, v, 10000.0, np)
    np.testing.assert_allclose(gradient, (z - v) / z.size, atol=1e-3 * np.abs(gradient).max())


def test_top_k_keeps_the_likeliest_and_the_rest():
    p = softmax(TEACHER / 2, axis=1)
    for row, tokens, log_p, rest in zip(p, KEPT.tokens, KEPT.log_p, KEPT.rest, strict=True):
        assert tokens.tolist() == np.argsort(-row)[:4].tolist()
        np.testing.assert_allclose(np.exp(log_p), np.sort(row)[::-1][:4])
        assert rest == pytest.approx(np.sort(row)[:-4].sum())


def test_the_kept_top_k_bounds_the_whole_divergence_from_below():
    """With all tokens it is the whole divergence. Catches a rest that is left out, which would not bound anything."""
    whole = forward_kl(STUDENT, TEACHER, 2.0, np)[0]
    found = [top_k_kl(STUDENT, top_k(TEACHER, k, 2.0, np), 2.0, np)[0] for k in (1, 4, 8, 11)]
    assert found == sorted(found)
    assert found[0] > 0
    assert found[-1] == pytest.approx(whole)
    student = softmax(STUDENT / 2, axis=1)
    assert found[2] == pytest.approx(4 * merged(softmax(TEACHER / 2, axis=1), student, 8))


def merged(p: np.ndarray, q: np.ndarray, k: int) -> float:  # (R, V), (R, V) ->
    """The divergence with all but p's k likeliest tokens as one outcome."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        best, others = np.argsort(-a)[:k], np.argsort(-a)[k:]
        total += rel_entr([*a[best], a[others].sum()], [*b[best], b[others].sum()]).sum()
    return total / len(p)


def test_equal_distributions_have_no_gradient():
    for loss in (forward_kl, reverse_kl):
        value, gradient = loss(STUDENT, STUDENT + 7.0, 2.0, np)
        assert value == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_large_logits_stay_finite():
    """Catches an exponential that overflows, in float32 beyond 88."""
    large = np.array([[500.0, -500.0, 0.0]], dtype=np.float32)
    for value, gradient in (cross_entropy(large, np.array([1]), np), reverse_kl(large, -large, 1.0, np),
                            top_k_kl(large, top_k(-large, 1, 1.0, np), 1.0, np)):  # fmt: skip
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
