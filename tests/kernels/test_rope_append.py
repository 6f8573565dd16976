"""What lies between a layer's QKV product and its attention: norms of heads, rotation, the rows' way to the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import ROUNDING, distance
from kernels.cached import LAYERS, CachedSequences, cached_sequences, random
from kernels.harness import SEEDS, Out, run

from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.ledger import Ledger
from tinyinfer.model.weights import NoNorm, RMSNorm, Rotation

EPS = 1e-3  # large, so that a wrong one shows


def formula(
    qkv: np.ndarray, norm: np.ndarray | None, rotation: Rotation, positions: np.ndarray, sets: np.ndarray, keys: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # -> (T, H, E), (T, K, E), (T, K, E)
    """Queries, keys and values as ReferenceOps computes them."""
    ops = ReferenceOps(Ledger())
    qk = ops.norm(qkv[:, :-keys], RMSNorm(norm, EPS) if norm is not None else NoNorm())
    qk = ops.rope(qk, ops.rotation(positions, sets, rotation))
    return qk[:, :-keys], qk[:, -keys:], qkv[:, -keys:]


def appended(
    cache: CachedSequences, layer: int, rows: list[tuple[int, int, int]], queries: int, normed: bool, grid: Any,
    seeds: Any = SEEDS,
) -> float:  # fmt: skip
    """How far q and the cache are off after the rows (slot, position, set) were appended; padded q must be NaN."""
    slots, positions, sets = np.array(rows, np.int32).T.copy()
    keys, size = cache.keys[0][0].shape[1:]
    rng, t = np.random.default_rng(4), len(rows)
    qkv = random(rng, t, queries + 2 * keys, size)
    norm = random(rng, queries + keys, size) if normed else None
    rotation = Rotation(1e4 ** -rng.random((2, size // 2), np.float32), 1 + rng.random((2, size // 2), np.float32))
    constants = {"T": t, "Z": 2, "H": queries, "K": keys, "E": size, **cache.constants}
    args = [qkv, norm, np.float32(EPS), positions, slots, sets, rotation.frequencies, rotation.amplitudes, cache.pools,
            cache.places, np.int32(layer), Out((t, queries, size))]  # fmt: skip
    [q] = run("qk_norm_rope_append", constants, args, grid=grid, seeds=seeds)
    real = positions >= 0
    expected = formula(qkv[real], norm, rotation, positions[real], sets[real], keys)
    assert np.isnan(q[~real]).all(), "a padded row is not computed"
    for slot, position, k, v in zip(slots[real], positions[real], *expected[1:], strict=True):
        cache.keys[layer][slot][position], cache.values[layer][slot][position] = k, v
    return max(distance(q[real], expected[0]), *pools_distances(cache))


def pools_distances(cache: CachedSequences) -> list[float]:
    """How far all pools are from what the sequences say; NaN must be where no position lies."""
    found = [[tuple(x.copy() for x in pair) for pair in layer] for layer in cache.stored]
    cache.write()
    off = []
    for layer in range(LAYERS):
        for slot, pair in enumerate(found[layer]):
            for x, expected in zip(pair, cache.stored[layer][slot], strict=True):
                assert np.array_equal(np.isnan(x), np.isnan(expected)), "rows beside the positions are left alone"
                off.append(distance(np.nan_to_num(x), np.nan_to_num(expected)))
    return off


ROWS = [(0, 0, 0), (1, 4, 1), (0, -1, 0), (2, 37, 0), (2, 38, 0), (2, 39, 1), (0, -1, 1)]


@pytest.mark.parametrize(("block", "normed"), [(4, True), (None, False)])
def test_rows_are_normed_turned_and_appended(block, normed):
    """Several sequences, three rows of one of them, two sets of frequencies, padded rows between.

    Catches values that are normed or turned, a pair of neighbours instead of halves, a wrong layer, set, block or head.
    """
    assert appended(cached_sequences([3, 5, 40], 3, 64, block), 1, ROWS, 9, normed, grid=(1, 7, 27)) < ROUNDING


@pytest.mark.cuda
@pytest.mark.parametrize(("queries", "keys", "size"), [(4, 2, 6), (3, 3, 80), (8, 1, 256), (8, 2, 128), (6, 3, 96)])
@pytest.mark.parametrize("normed", [True, False])
def test_heads_of_any_shape(queries, keys, size, normed):
    """Heads of fewer pairs than a warp has lanes, of more, and of no multiple."""
    cache = cached_sequences([3, 5, 40], keys, size, 1)
    assert appended(cache, 0, ROWS, queries, normed, grid=3, seeds=(1,)) < ROUNDING


@pytest.mark.cuda
def test_late_positions_turn_as_numpy_turns_them():
    """At position 131,071 an angle of float32 is right to 0.004 only; both must be wrong alike.

    Catches sines of the hardware, and an angle that is computed in another precision.
    """
    cache = cached_sequences([1], 1, 8, None)
    rng = np.random.default_rng(5)
    cache.keys, cache.values = ([[random(rng, 131072, 1, 8)] for _ in range(LAYERS)] for _ in range(2))
    cache.stored = [[tuple(np.zeros((1, 131072, 8), np.float32) for _ in range(2))] for _ in range(LAYERS)]
    cache.block_sizes = [131072]
    cache.write()
    rows = [(0, 131071, 0), (0, 131070, 1), (0, 99_999, 0)]
    assert appended(cache, 1, rows, 2, False, grid=2, seeds=(1,)) < ROUNDING
