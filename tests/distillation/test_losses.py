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
    merged,
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
    np.testing.assert_allclose(log_softmax(STUDENT, 1.0, np)[1], scipy_log_softmax(STUDENT, axis=1), rtol=1e-12)
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
    assert found[2] == pytest.approx(4 * divergence(softmax(TEACHER / 2, axis=1), student, 8))


def divergence(p: np.ndarray, q: np.ndarray, k: int) -> float:  # (R, V), (R, V) ->
    """The divergence with all but p's k likeliest tokens as one outcome."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        best, others = np.argsort(-a)[:k], np.argsort(-a)[k:]
        total += rel_entr([*a[best], a[others].sum()], [*b[best], b[others].sum()]).sum()
    return total / len(p)


def test_equal_logits_are_kept_once_each():
    """The first of them first, and all tokens once. Catches a token that is kept twice, and a rest below 0."""
    said = top_k(np.array([[1.0, 3, 1, 3, 1], [0, 0, 0, 0, 0]]), 4, 1.0, np)
    assert said.tokens.tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    np.testing.assert_allclose(said.rest, softmax([[1.0, 3, 1, 3, 1], [0, 0, 0, 0, 0]], axis=1)[:, 4])
    whole = top_k(np.zeros((3, 7), np.float32), 7, 1.0, np)
    assert np.sort(whole.tokens, axis=1).tolist() == [list(range(7))] * 3
    assert (whole.rest >= 0).all()
    assert (whole.rest < 1e-6).all()


def test_merged_logits_are_those_of_fewer_outcomes():
    """The last token has the probability of all that are not known. Catches a maximum in the place of a sum."""
    p, q = softmax(TEACHER, axis=1), softmax(merged(TEACHER, 6, np), axis=1)
    np.testing.assert_allclose(q[:, :5], p[:, :5])
    np.testing.assert_allclose(q[:, 5], p[:, 5:].sum(axis=1))
    assert merged(TEACHER, 11, np) is TEACHER
    before = TEACHER.copy()
    merged(TEACHER, 6, np)
    np.testing.assert_array_equal(TEACHER, before)


def test_merging_can_only_lessen_a_divergence():
    """Of a student that knows them all, too. At one token all are the same."""
    found = [forward_kl(merged(STUDENT, k, np), merged(TEACHER, k, np), 1.0, np)[0] for k in (1, 3, 6, 11)]
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert found == sorted(found)


def test_merged_large_logits_stay_finite():
    """Catches an exponential that overflows, in float32 beyond 88."""
    large = np.array([[0.0, 500.0, 499.0, -500.0], [-900.0, -900.0, -900.0, -900.0]], dtype=np.float32)
    few = merged(large, 2, np)
    assert few.dtype == np.float32
    np.testing.assert_allclose(few, [[0, 500 + np.log1p(np.exp(-1))], [-900, -900 + np.log(3)]], rtol=1e-6)


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


def test_a_student_that_is_sure_has_a_small_gradient():
    """Its k tokens have all of its probability but what float32 rounds away. Catches a rest of 1 - sum, which is then 0
    or below: its logarithm ended a run after 1,200 steps, whose gradient was infinite.
    """
    logits = np.full((3, 50), -9.0, np.float32)
    logits[:, :4] = 9.0
    said = top_k((logits * 0.5).astype(np.float64), 4, 1.0, np)
    loss, gradient = top_k_kl(logits, said, 1.0, np)
    assert 0 < loss < 1
    assert np.linalg.norm(gradient) < 1
    assert gradient.sum(axis=1) == pytest.approx(np.zeros(3), abs=1e-6)
