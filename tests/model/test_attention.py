"""Attention: both forms equal an oracle written head by head in float64; the tiled one needs no square of memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyinfer.backends import flash
from tinyinfer.model import attention
from tinyinfer.model.heads import Heads, NoCap, NoSinks, Sinks, SoftCap

SETTINGS = settings(max_examples=150)


@st.composite
def problems(draw: st.DrawFn) -> dict:
    """Queries at positions first ... first+T over keys at positions start ... first+T."""
    rows, groups, keys = draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    first, window = draw(st.integers(0, 20)), draw(st.none() | st.integers(1, 25))
    oldest = 0 if window is None else max(0, first - window + 1)
    start = draw(st.integers(0, oldest))  # a cache may hand over more than the window
    cap = draw(st.just(NoCap()) | st.builds(SoftCap, st.sampled_from([0.5, 20.0])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sinks = draw(st.booleans())
    size, stored = draw(st.integers(1, 7)), first + rows - start
    q = rng.standard_normal((rows, keys * groups, size)) * draw(st.sampled_from([1, 30]))  # 30: nearly one-hot
    k, v = rng.standard_normal((2, stored, keys, size))
    arrays = {"q": q, "k": k, "v": v}
    scores = (draw(st.sampled_from([1, 30])) * rng.standard_normal((keys, groups, 1))).astype(np.float32)
    scale = draw(st.sampled_from([1.0, 0.3]))
    heads = Heads(keys * groups, keys, size, scale, window, cap, Sinks(scores) if sinks else NoSinks())
    return {name: a.astype(np.float32) for name, a in arrays.items()} | {"first": first, "start": start, "heads": heads}


def plain(scale: float = 1.0, window: int | None = None) -> Heads:
    """Heads without cap and sinks; the numbers of heads come from the arrays."""
    return Heads(1, 1, 1, scale, window)


def oracle(q, k, v, first, start, heads):
    """softmax(scale · q kᵀ) v, one query of one head at a time, over the keys it may see, in float64.

    The sink is one key more, whose value is zero.
    """
    scale, window = heads.scale, heads.window
    group = q.shape[1] // k.shape[1]
    out = np.zeros(q.shape)
    for t in range(q.shape[0]):
        here = first + t
        seen = [s for s in range(len(k)) if start + s <= here and (window is None or here - (start + s) < window)]
        for h in range(q.shape[1]):
            keys, values = k[seen, h // group].astype(np.float64), v[seen, h // group].astype(np.float64)
            scores = scale * keys @ q[t, h].astype(np.float64)
            if isinstance(heads.cap, SoftCap):
                scores = heads.cap.limit * np.tanh(scores / heads.cap.limit)
            if isinstance(heads.sinks, Sinks):
                scores, values = np.append(scores, heads.sinks.scores.ravel()[h]), np.append(values, 0 * values[:1], 0)
            out[t, h] = scipy.special.softmax(scores) @ values
    return out


@SETTINGS
@given(problems())
def test_full_attention_is_the_formula(p):
    """Catches: a mask off by one, a wrong head grouping, a missing scale, a softmax over the wrong axis.

    And: a cap after the mask or before the scale, a sink of another head, a sink with a value.
    """
    np.testing.assert_allclose(attention.full_attention(**p, xp=np), oracle(**p), atol=2e-5)


@SETTINGS
@given(problems(), st.integers(0, 9))
def test_tiles_of_any_size_give_the_same(p, extra):
    """Catches: a running maximum or sum that is not rescaled, a tile skipped or read twice, NaN from a masked tile.

    And: sinks that are added in each tile, or not rescaled by a later one.
    """
    tile = len(p["q"]) + extra  # the smallest that attend_tile allows, and a little more
    np.testing.assert_allclose(flash.attend_tile(**p, xp=np, key_tile=tile), oracle(**p), atol=2e-5)


@pytest.mark.parametrize("window", [None, 1, 100, 127, 128, 129, 600])
@pytest.mark.parametrize("first", [0, 700])
def test_prompts_longer_than_a_tile(window, first):
    """Several tiles of queries and of keys at their real sizes; catches a query tile given the wrong position."""
    rows = 2 * flash.QUERY_TILE + 3
    start = 0 if window is None else max(0, first - window + 1)
    rng = np.random.default_rng(3)
    q = rng.standard_normal((rows, 4, 6)).astype(np.float32)
    k, v = rng.standard_normal((2, first + rows - start, 2, 6)).astype(np.float32)
    sinks = Sinks(rng.standard_normal((2, 2, 1)).astype(np.float32))
    place = (first, start, Heads(4, 2, 6, 0.5, window, SoftCap(3.0), sinks), np)
    full = attention.full_attention(q, k, v, *place)
    np.testing.assert_allclose(flash.tiled_attention(q, k, v, *place), full, atol=1e-5)


def test_values_of_keys_that_nobody_sees_do_not_matter():
    """Future keys of a shared cache may hold anything: a mask by adding -1e9, or 0 · NaN, would let them through."""
    rng = np.random.default_rng(4)
    q = rng.standard_normal((3, 2, 4)).astype(np.float32)
    k, v = rng.standard_normal((2, 9, 2, 4)).astype(np.float32)
    expected = oracle(q, k[:5], v[:5], 2, 0, plain())
    k[5:], v[5:] = np.nan, np.nan
    np.testing.assert_allclose(flash.tiled_attention(q, k, v, 2, 0, plain(), np), expected, atol=1e-5)


def test_a_sink_of_minus_infinity_is_no_sink_and_a_large_one_takes_all():
    """The two ends; a sink far above all scores must not overflow, one far below must change no bit."""
    rng = np.random.default_rng(5)
    q, (k, v) = rng.standard_normal((3, 2, 4)).astype(np.float32), rng.standard_normal((2, 7, 1, 4)).astype(np.float32)
    none = flash.tiled_attention(q, k, v, 4, 0, plain(), np)
    for scores, expected in ((-np.inf, none), (-1e4, none), (1e4, np.zeros_like(none))):
        heads = Heads(2, 1, 4, 1.0, None, sinks=Sinks(np.full((1, 2, 1), scores, np.float32)))
        with np.errstate(over="raise", invalid="raise"):
            assert np.array_equal(flash.tiled_attention(q, k, v, 4, 0, heads, np), expected)


def test_a_soft_cap_bounds_large_numbers_and_leaves_small_ones():
    """limit · tanh(x / limit): catches a limit on one side only, or applied as a clip."""
    x = np.array([-1e6, -50.0, -0.01, 0.0, 0.01, 50.0, 1e6], np.float32)
    found = SoftCap(50.0)(x, np)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 50 * np.tanh(x.astype(np.float64) / 50), rtol=1e-6)
    assert NoCap()(x, np) is x


def test_large_scores_do_not_overflow():
    """exp of a score without its maximum taken off first overflows from 89 on."""
    q, k = np.full((1, 1, 1), 300, np.float32), np.array([[[1]], [[0.99]]], np.float32)
    v = np.array([[[2]], [[5]]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        out = flash.tiled_attention(q, k, v, 1, 0, plain(), np)
    np.testing.assert_allclose(out, oracle(q, k, v, 1, 0, plain()), rtol=1e-5)


def peak_bytes(form, rows: int) -> int:
    """The most memory that attention over a prompt of `rows` needs beyond its arguments and its result."""
    q = np.ones((rows, 2, 8), np.float32)
    k = v = np.ones((rows, 1, 8), np.float32)
    tracemalloc.start()
    out = form(q, k, v, 0, 0, plain(), np)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - out.nbytes


def test_memory_of_tiles_does_not_grow_with_the_prompt():
    """The point of tiles; and the full form, its opposite, shows that the measurement sees a square."""
    small, large = (peak_bytes(flash.tiled_attention, rows) for rows in (1024, 2048))
    assert large < 1.1 * small
    full_small, full_large = (peak_bytes(attention.full_attention, rows) for rows in (512, 1024))
    assert full_large > 3.5 * full_small


@SETTINGS
@given(st.integers(1, 30), st.integers(0, 30), st.none() | st.integers(1, 40))
def test_visible_pairs_counts_the_mask(rows, first, window):
    """FLOPs of attention are counted by a formula; it must agree with the mask that is really applied."""
    keys = first + rows
    mask = [[s <= t and (window is None or t - s < window) for s in range(keys)] for t in range(first, keys)]
    assert attention.visible_pairs(rows, first, window) == np.sum(mask)
    assert np.array_equal(attention.visible(rows, keys, first, 0, window, np), mask)
