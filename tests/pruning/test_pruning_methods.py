"""Magnitude, Wanda and SparseGPT: each against what its paper says in another way than the code."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tinyinfer.pruning.magnitude import magnitude
from tinyinfer.pruning.patterns import read_pattern
from tinyinfer.pruning.sparsegpt import BLOCK, sparsegpt
from tinyinfer.pruning.wanda import wanda

HALF, TWO_OF_FOUR = read_pattern("0.5"), read_pattern("2:4")


def inputs(count: int, correlated: bool = True, seed: int = 0) -> np.ndarray:  # -> (T, M)
    """Rows of inputs that differ in size by a factor of 20 and, if wanted, hang together."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4 * count, count)) * rng.permutation(np.geomspace(0.2, 4, count))
    mixing = np.eye(count) + (0.4 * rng.standard_normal((count, count)) / np.sqrt(count) if correlated else 0)
    return (x @ mixing).astype(np.float32)


def weights(outputs: int, count: int) -> np.ndarray:  # -> (N, M)
    return np.random.default_rng(9).standard_normal((outputs, count)).astype(np.float32)


def loss(w: np.ndarray, new: np.ndarray, x: np.ndarray) -> float:  # (N, M), (N, M), (T, M) ->
    """How far the outputs move: ‖(W - W') X‖²."""
    return float(((x @ (w - new).T) ** 2).sum())


@pytest.mark.parametrize("pattern", [HALF, TWO_OF_FOUR], ids=["half", "2:4"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_as_many_weights_go_as_the_pattern_says(method, pattern):
    """Catches groups cut at the end of a block of inputs: 300 inputs are more than two blocks, and 2:4 cuts none."""
    w, x = weights(6, 300), inputs(300)
    h = x.T @ x  # (M, M)
    methods = {"magnitude": lambda: magnitude(w, pattern), "wanda": lambda: wanda(w, h, pattern)}
    new = methods.get(method, lambda: sparsegpt(w, h, pattern))()
    assert (new == 0).sum() == w.size // 2
    if pattern is TWO_OF_FOUR:
        assert ((new.reshape(6, -1, 4) != 0).sum(axis=2) == 2).all()
    if method != "sparsegpt":
        np.testing.assert_array_equal(new[new != 0], w[new != 0])


def test_magnitude_removes_the_smallest():
    """Of the whole matrix. Catches a sign that counts."""
    w = np.array([[-4.0, 1, 3, -2], [5, -0.5, 6, 7]], dtype=np.float32)
    np.testing.assert_array_equal(magnitude(w, HALF), [[-4, 0, 0, 0], [5, 0, 6, 7]])


def test_wanda_is_the_best_choice_where_inputs_do_not_hang_together():
    """With a diagonal Hessian no other half of an output's weights costs less: all 70 choices are tried.

    Catches the norm squared twice or not at all, and outputs compared with each other.
    """
    w, x = weights(5, 8), inputs(8, correlated=False)
    h = np.diag((x**2).sum(axis=0))  # (M, M)
    new = wanda(w, h, HALF)
    for row, kept in zip(w, new, strict=True):
        costs = [sum(row[i] ** 2 * h[i, i] for i in gone) for gone in combinations(range(8), 4)]
        assert ((row - kept) ** 2 * np.diag(h)).sum() == pytest.approx(min(costs), rel=1e-5)


def removed_one_by_one(w: np.ndarray, h: np.ndarray, keep: np.ndarray) -> np.ndarray:  # (M,), (M, M), (M,) -> (M,)
    """Hassibi & Stork's update (1993, equation 5) for one output, with the inverse updated by elimination.

    Independent of the code: no factor, no blocks, float64.
    """
    w, inverse = w.astype(np.float64), np.linalg.inv(h.astype(np.float64))
    for j in range(len(w)):
        if not keep[j]:
            w -= w[j] / inverse[j, j] * inverse[:, j]
            w[j] = 0
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j, j] = 1  # done: no later step reads it
    return w


@pytest.mark.parametrize(("count", "pattern"), [(BLOCK, HALF), (2 * BLOCK + 40, HALF), (2 * BLOCK + 40, TWO_OF_FOUR)])
def test_sparsegpt_moves_the_others_as_the_surgeon_does(count, pattern):
    """Given what it removed, each output is what Optimal Brain Surgeon makes of it, one weight after another.

    Catches a wrong factor, errors that do not reach the next block, and weights moved after they were removed.
    """
    w, x = weights(3, count), inputs(count)
    h = x.T @ x  # (M, M)
    new = sparsegpt(w, h, pattern, damp=0.0)
    for row, found in zip(w, new, strict=True):
        right = removed_one_by_one(row, h, found != 0)
        np.testing.assert_allclose(found, right, atol=2e-3 * np.abs(right).max())


def test_sparsegpt_removes_what_costs_least():
    """In one block the first scores are w² / U[j, j]², and U[j, j]² is the inverse's j-th pivot. (Algorithm 1.)

    Catches scores without the pivots, which are Wanda's idea, not this paper's.
    """
    w, x = weights(4, 24), inputs(24)
    h = (x.T @ x).astype(np.float64)  # (M, M)
    inverse, pivots = np.linalg.inv(h), []
    for j in range(24):
        pivots.append(inverse[j, j])
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    scores = w.astype(np.float64) ** 2 / np.array(pivots)
    gone = scores <= np.sort(scores, axis=None)[w.size // 2 - 1]
    np.testing.assert_array_equal(sparsegpt(w, h.astype(np.float32), HALF, damp=0.0) == 0, gone)


@pytest.mark.parametrize("pattern", [HALF, TWO_OF_FOUR], ids=["half", "2:4"])
def test_the_order_of_the_papers(pattern):
    """On inputs that hang together: SparseGPT loses least, Wanda less than magnitude.

    And no weights with SparseGPT's zeros can lose less than the least squares that have these zeros.
    """
    w, x = weights(16, 96), inputs(96)
    h = x.T @ x  # (M, M)
    best, middle, worst = sparsegpt(w, h, pattern), wanda(w, h, pattern), magnitude(w, pattern)
    assert loss(w, best, x) < 0.95 * loss(w, middle, x)
    assert loss(w, middle, x) < 0.95 * loss(w, worst, x)
    floor = 0.0
    for row, found in zip(w, best, strict=True):
        kept = np.flatnonzero(found)
        fitted = np.linalg.lstsq(x[:, kept], x @ row, rcond=None)[0]
        floor += float(((x[:, kept] @ fitted - x @ row) ** 2).sum())
    assert floor < loss(w, best, x) < 1.6 * floor


def test_an_input_that_is_always_zero():
    """Its weights cost nothing and go first; nothing becomes NaN."""
    x = inputs(16)
    x[:, 3] = 0
    new = sparsegpt(weights(4, 16), x.T @ x, TWO_OF_FOUR)
    assert np.isfinite(new).all()
    assert (wanda(weights(4, 16), x.T @ x, HALF)[:, 3] == 0).all()
