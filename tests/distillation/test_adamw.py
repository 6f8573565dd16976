"""AdamW against its algorithm written for one number, and its schedule at known points."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinyinfer.distillation.adamw import PIECE, AdamW, clip_factor, length_of, rate_at


def one_number(w: float, gradients: list[float], rate: float, decay: float) -> float:
    """Loshchilov & Hutter 2019, algorithm 2, line by line, for one weight."""
    m = v = 0.0
    for n, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        w -= rate * (m / (1 - 0.9**n) / (math.sqrt(v / (1 - 0.95**n)) + 1e-8) + decay * w)
    return w


def test_every_number_follows_the_algorithm():
    """Over several pieces. Catches a bias not corrected, a number updated twice, and a decay of vectors."""
    rng, decayed = np.random.default_rng(0), 2 * PIECE + 5
    start = rng.standard_normal(decayed + PIECE)
    values, steps = start.copy(), [rng.standard_normal(start.shape) for _ in range(3)]
    optimizer = AdamW.of(values, decayed, 0.1, np)
    for gradients in steps:
        optimizer.step(values, 2 * gradients, 0.01, 0.5, np)
    for i in (0, PIECE - 1, PIECE, decayed - 1, decayed, len(start) - 1):
        right = one_number(start[i], [g[i] for g in steps], 0.01, 0.1 if i < decayed else 0.0)
        assert values[i] == pytest.approx(right, rel=1e-12)


def test_float32_stays_float32():
    """Catches a silent float64, which doubles the memory."""
    w = np.ones(16, np.float32)
    optimizer = AdamW.of(w, 16, 0.1, np)
    optimizer.step(w, w.copy(), 0.1, 1.0, np)
    assert {w.dtype, optimizer.means.dtype, optimizer.squares.dtype} == {np.dtype(np.float32)}


def test_a_long_gradient_is_made_short():
    """Also one of several pieces. Catches a clip of each by itself."""
    assert length_of(np.full(4 * PIECE, 0.5), np) == pytest.approx(PIECE**0.5)
    assert clip_factor(10.0, 2.0) == 0.2
    assert clip_factor(0.1, 2.0) == 1.0
    assert clip_factor(0.0, 2.0) == 1.0


def test_the_rate_rises_and_falls():
    rates = [rate_at(step, 100, 10, 2.0) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert rate_at(0, 1, 0, 1.0) == 1.0
