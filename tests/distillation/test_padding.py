"""Padding: sequences side by side as more heads. Against each sequence by itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from distilling import reading_of

from tinyinfer.distillation.padding import Padding, PassCache
from tinyinfer.model.attention import full_attention
from tinyinfer.model.heads import Heads

SIZES = [6, 2, 9, 4]  # tokens, each document one row less


def arrays(rows: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((rows, heads, 6)).astype(np.float32) for heads in (4, 2, 2)]


@pytest.mark.parametrize("window", [None, 3])
def test_attention_of_all_is_that_of_each_alone(window: int | None) -> None:
    """Catches a row that sees another document or the filling, and heads that read another sequence's keys."""
    one, heads = reading_of(SIZES), Heads(4, 2, 6, 0.4, window)
    q, k, v = arrays(len(one))
    padding = Padding.of(one.batch, np)
    wide = full_attention(*map(padding.spread, (q, k, v)), 0, 0, padding.heads(heads), np)
    alone = [full_attention(q[s], k[s], v[s], 0, 0, heads, np) for s in rows_of_documents()]
    np.testing.assert_allclose(padding.collect(wide), np.concatenate(alone), atol=1e-6)
    assert (padding.heads(heads).queries, padding.heads(heads).keys) == (16, 8)


def rows_of_documents() -> list[slice]:
    ends = np.cumsum([0, *(size - 1 for size in SIZES)]).tolist()
    return [slice(a, b) for a, b in pairwise(ends)]


@pytest.mark.parametrize("sizes", [SIZES, [5], [4, 4, 4]])
def test_collect_undoes_spread(sizes: list[int]) -> None:
    one = reading_of(sizes)
    x, padding = arrays(len(one))[0], Padding.of(one.batch, np)
    assert padding.spread(x).shape == (max(sizes) - 1, len(sizes) * 4, 6)
    np.testing.assert_array_equal(padding.collect(padding.spread(x)), x)
    np.testing.assert_array_equal(padding.collect(padding.spread_gradient(x)), x)


def test_the_fillings_gradient_is_zero() -> None:
    """Catches a last row whose gradient counts once for each row of filling. float64 stays float64."""
    one = reading_of(SIZES)
    dy = np.ones((len(one), 4, 6))
    wide = Padding.of(one.batch, np).spread_gradient(dy)
    assert wide.sum() == dy.size
    assert wide.dtype == dy.dtype


def test_the_cache_hands_out_what_it_was_given() -> None:
    """Views, of each sequence its own rows, and of the last layer only. Catches a copy, whose gradient is lost."""
    one, cache = reading_of(SIZES), PassCache()
    _, k, v = arrays(len(one))
    for layer in range(2):
        cache.append(layer, k + layer, v + layer, one.batch)
    cache.append(2, k, v, one.batch)
    for span, rows in zip(one.batch.spans, rows_of_documents(), strict=True):
        assert cache.split(span) == (span,)
        for found, right in zip(cache.read(2, span.seq, 0, span.rows), (k, v), strict=True):
            assert found.base is right
            np.testing.assert_array_equal(found, right[rows])
        np.testing.assert_array_equal(cache.read(2, span.seq, 1)[0], k[rows][1:])
