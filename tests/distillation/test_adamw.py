"""AdamW against its algorithm written for one number, and its schedule at known points."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinyinfer.distillation.adamw import PIECE, AdamW, clip_factor, pieces, rate_at


def one_number(w: float, gradients: list[float], rate: float, decay: float) -> float:
    """Loshchilov & Hutter 2019, algorithm 2, line by line, for one weight."""
    m = v = 0.0
    for n, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        w -= rate * (m / (1 - 0.9**n) / (math.sqrt(v / (1 - 0.95**n)) + 1e-8) + decay * w)
    return w


def test_every_number_follows_the_algorithm():
    """In matrices and vectors, over several pieces. Catches a bias not corrected, and a number updated twice."""
    rng = np.random.default_rng(0)
    starts = [rng.standard_normal((70, 1000)), rng.standard_normal((1000, 70)).T, rng.standard_normal(9)]
    parameters = [start.copy(order="K") for start in starts]
    steps = [[rng.standard_normal(start.shape) for start in starts] for _ in range(3)]
    optimizer = AdamW(decay=0.1)
    for gradients in steps:
        optimizer.step(parameters, [2 * g for g in gradients], 0.01, 0.5, np)
    for i, place in ((0, (0, 0)), (0, (69, 999)), (0, (40, 3)), (1, (0, 0)), (1, (69, 999)), (2, (8,))):
        right = one_number(starts[i][place], [g[i][place] for g in steps], 0.01, 0.1 if starts[i].ndim > 1 else 0.0)
        assert parameters[i][place] == pytest.approx(right, rel=1e-12)


def test_pieces_cover_every_number_once():
    """Also of a matrix that lies the other way round in memory."""
    for shape, turned in (((70, 1000), False), ((1000, 70), True), ((5,), False), ((3, PIECE + 1), False)):
        x = np.zeros(shape).T if turned else np.zeros(shape)
        for (part,) in pieces(x):
            part += 1
        assert (x == 1).all()


def test_float32_stays_float32():
    """Catches a silent float64, which doubles the memory."""
    w = np.ones((4, 4), np.float32)
    optimizer = AdamW()
    optimizer.step([w], [w.copy()], 0.1, 1.0, np)
    assert {w.dtype, optimizer.means[0].dtype, optimizer.squares[0].dtype} == {np.dtype(np.float32)}


def test_a_long_gradient_is_made_short():
    """All parameters are one vector. Catches a clip of each by itself."""
    length, factor = clip_factor([np.full(4, 3.0), np.full((2, 2), 4.0)], 2.0)
    assert (length, factor) == (10.0, 0.2)
    assert clip_factor([np.full(4, 0.1)], 2.0)[1] == 1.0
    assert clip_factor([np.zeros(4)], 2.0) == (0.0, 1.0)


def test_the_rate_rises_and_falls():
    rates = [rate_at(step, 100, 10, 2.0) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert rate_at(0, 1, 0, 1.0) == 1.0
