"""Attention kernels against full_attention: any lengths, blocks, windows, caps, sinks, splits, grids, thread orders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import ROUNDING, distance
from kernels.cached import CachedSequences, cached_sequences, random
from kernels.harness import SEEDS, Counters, Out, Scratch, run

from tinyinfer.model.heads import Heads, NoCap, NoSinks, Sinks, SoftCap

SINKS = np.array([4, -3, 0, 9, 1, 200, -200, 2, 5, 0, 1, 3], np.float32)


def heads_of(queries: int, keys: int, size: int, window: int = 0, cap: float = 0, sinks: bool = False) -> Heads:
    """A layer's attention; the scale makes scores of some size, so that caps and maxima matter."""
    scores = Sinks(SINKS[:queries].astype(np.float64).reshape(keys, queries // keys, 1)) if sinks else NoSinks()
    return Heads(queries, keys, size, 2 * size**-0.5, window or None, SoftCap(cap) if cap else NoCap(), scores)


def options(heads: Heads) -> list[Any]:
    """Window, scale, cap and sinks as the kernels take them."""
    cap = heads.cap.limit if isinstance(heads.cap, SoftCap) else 0
    sinks = SINKS[: heads.queries] if isinstance(heads.sinks, Sinks) else None
    return [np.int32(heads.window or 0), np.float32(heads.scale), np.float32(cap), sinks]


def decode(
    cache: CachedSequences, heads: Heads, rows: list[tuple[int, int]], *, splits: int, grid: Any, seeds: Any = SEEDS
) -> tuple[np.ndarray, np.ndarray]:  # -> (T, H, E), (T, H, E)
    """What attention_decode makes of rows (slot, position) in layer 1, and what the formula says."""
    slots, positions = np.array(rows, np.int32).T.copy()
    t, h, k, e = len(rows), heads.queries, heads.keys, heads.size
    q = random(np.random.default_rng(9), t, h, e)
    constants = {"T": t, "H": h, "K": k, "E": e, "SPLITS": splits, **cache.constants}
    scratch = Scratch((t * h * splits * (e + 2),)), Counters(np.zeros(t * k, np.int32))
    args = [q, positions, slots, cache.pools, cache.places, np.int32(1), *options(heads), *scratch, Out((t, h, e))]
    [out] = run("attention_decode", constants, args, grid=grid, seeds=seeds)
    return out, cache.attention(q, positions, slots, 1, heads)


@pytest.mark.parametrize(
    ("block", "window", "cap", "sinks"), [(4, 0, 0, False), (16, 7, 1.5, True), (None, 0, 0, True)]
)
def test_decode_is_the_formula_for_rows_of_any_length(block, window, cap, sinks):
    """Sequences of 1, 5, 40 and 100 positions, a draft of three rows, and a padded row, in one launch.

    Catches a share of keys left out or counted twice, a wrong block, a mask after the cap, a sink in each share.
    """
    cache = cached_sequences([1, 5, 40, 100], 3, 64, block)
    rows = [(0, 0), (1, 4), (0, -1), (2, 37), (2, 38), (2, 39), (3, 99)]
    found, expected = decode(cache, heads_of(9, 3, 64, window, cap, sinks), rows, splits=4, grid=(1, 5, 84))
    assert distance(found, expected) < ROUNDING
    assert not found[2].any(), "a padded row gets zeros"


SHAPES = [  # queries, keys, size: every H/K of 1, 3, 4 and 8, one shared key head, and every way to load a row
    (3, 3, 80), (9, 3, 64), (8, 2, 128), (8, 1, 256), (4, 2, 6), (8, 1, 96), (2, 1, 9),
]  # fmt: skip


@pytest.mark.cuda
@pytest.mark.parametrize(("queries", "keys", "size"), SHAPES)
@pytest.mark.parametrize("splits", [1, 7])
def test_decode_of_heads_of_any_shape(queries, keys, size, splits):
    """E of 6, 9, 64, 80, 96, 128 and 256. Catches lanes without a chunk that add something, and unaligned loads."""
    cache = cached_sequences([1, 5, 100], keys, size, 4)
    heads = heads_of(queries, keys, size, 50, 2.0, True)
    rows = [(0, 0), (2, 99), (0, -1), (1, 4)]
    found, expected = decode(cache, heads, rows, splits=splits, grid=(2, 70), seeds=(1,))
    assert distance(found, expected) < ROUNDING


@pytest.mark.cuda
@pytest.mark.parametrize("block", [1, 16])
def test_decode_over_a_long_context(block):
    """1024 positions, with windows that begin inside a part; many keys for each lane."""
    cache = cached_sequences([1024, 700], 1, 64, block)
    for window in (0, 1, 333):
        heads = heads_of(3, 1, 64, window, sinks=True)
        found, expected = decode(cache, heads, [(0, 1023), (1, 699)], splits=5, grid=10, seeds=(2,))
        assert distance(found, expected) < ROUNDING


# Prompts


def tiles_of(spans: list[tuple[int, int, int]], tile: int) -> np.ndarray:  # -> (num_tiles, 3)
    """Tiles of spans (first row, rows, slot), in an order of their own."""
    tiles = [
        (row, min(tile, first + rows - row), slot)
        for first, rows, slot in spans
        for row in range(first, first + rows, tile)
    ]
    return np.random.default_rng(3).permutation(np.array(tiles, np.int32))


def prefill(
    cache: CachedSequences, heads: Heads, spans: list[tuple[int, int, int]], *, tile: int, grid: Any, seeds: Any = SEEDS
) -> tuple[np.ndarray, np.ndarray]:  # -> (T, H, E), (T, H, E)
    """What attention_prefill makes of spans (slot, first position, rows) in layer 1, and what the formula says."""
    slots = np.repeat(*np.array([(slot, rows) for slot, _, rows in spans]).T).astype(np.int32)
    positions = np.concatenate([np.arange(first, first + rows) for _, first, rows in spans]).astype(np.int32)
    starts = np.cumsum([0, *(rows for _, _, rows in spans)])
    tiles = tiles_of([(int(a), rows, slot) for a, (slot, _, rows) in zip(starts, spans, strict=False)], tile)
    h, k, e = heads.queries, heads.keys, heads.size
    q = random(np.random.default_rng(9), len(slots), h, e)
    out, rounded = Out((len(slots), h, e)), -(-e // 4) * 4
    args = [q, positions, slots, tiles, cache.pools, cache.places, np.int32(1), *options(heads), out,
            np.int32(len(tiles))]  # fmt: skip
    [found] = run("attention_prefill", {"H": h, "K": k, "E": e, "TILE": tile, **cache.constants}, args, grid=grid,
                  shared=4 * ((tile + 64) * (rounded + 4) + tile * 36), seeds=seeds)  # fmt: skip
    return found, cache.attention(q, positions, slots, 1, heads)


@pytest.mark.parametrize(
    ("block", "window", "cap", "sinks"), [(4, 0, 0, False), (16, 7, 1.5, True), (None, 40, 0, True)]
)
def test_prefill_is_the_formula_for_tiles_of_several_sequences(block, window, cap, sinks):
    """A whole prompt, one that goes on in the middle, and a single row, in one launch.

    Catches a tile that looks into the future, a window's edge off by one, keys of the last tile that do not exist, and
    a tile of 16 whose last rows belong to the next sequence.
    """
    cache = cached_sequences([1, 50, 70], 1, 64, block)
    spans = [(2, 0, 50), (0, 0, 1), (1, 37, 13)]
    found, expected = prefill(cache, heads_of(3, 1, 64, window, cap, sinks), spans, tile=16, grid=(1, 4, 18))
    assert distance(found, expected) < ROUNDING


@pytest.mark.cuda
@pytest.mark.parametrize(("queries", "keys", "size"), SHAPES)
def test_prefill_of_heads_of_any_shape(queries, keys, size):
    """Tiles of 32 rows for small heads, of 16 for others, with a window."""
    cache, heads = cached_sequences([40, 70], keys, size, 4), heads_of(queries, keys, size, 25, 2.0, True)
    tile = 32 if size < 80 else 16
    found, expected = prefill(cache, heads, [(0, 5, 35), (1, 50, 20)], tile=tile, grid=5, seeds=(1,))
    assert distance(found, expected) < ROUNDING


@pytest.mark.cuda
@pytest.mark.parametrize(("block", "tile"), [(1, 48), (16, 64)])
def test_prefill_of_a_long_prompt(block, tile):
    """1024 positions: rows at the end meet 32 tiles of keys, in a window fewer."""
    cache = cached_sequences([1024, 512], 1, 64, block)
    for window in (0, 333):
        heads = heads_of(1, 1, 64, window, sinks=True)
        found, expected = prefill(cache, heads, [(0, 950, 74), (1, 511, 1)], tile=tile, grid=3, seeds=(2,))
        assert distance(found, expected) < ROUNDING
