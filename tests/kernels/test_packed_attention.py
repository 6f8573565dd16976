"""Quantized caches on the device against the host's: the same codes, the same scales, the same mixture of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import ROUNDING, distance
from kernels.cached import random
from kernels.harness import SEEDS, Counters, Out, Scratch, run
from kernels.quantized import Quantized
from kernels.test_attention_kernels import heads_of, options
from kernels.test_rope_append import EPS, formula

from tinyinfer.model.weights import Rotation

# Bits, queries, keys, size, group, block.
SHAPES = [
    (8, 1, 1, 80, None, 16), (4, 4, 1, 256, 8, 4), (2, 4, 2, 6, 3, 4), (4, 2, 1, 128, None, 1), (2, 4, 2, 10, 5, 2),
    (2, 2, 2, 6, 2, 1),
]  # fmt: skip


def packing_is_off(cache: Quantized, grid: Any, seeds: Any = SEEDS) -> list[str]:
    """Lets the host pack the step's blocks, destroys them, and packs again by kernel: what differs then."""
    cache.step()
    positions, slots = cache.rows()
    arrays = {id(x): x for slot in range(len(cache.seqs)) for x in cache.packed(slot)}
    expected = {key: x.copy() for key, x in arrays.items()}
    for slot, seq in enumerate(cache.seqs):
        first, stop = (p // cache.block for p in cache.steps[slot])
        for block in range(first, stop):
            ids = cache.cache.block_ids(seq, block, block + 1)
            for x in cache.packed(slot)[:2]:
                x[:, ids] = 255
            for x in cache.packed(slot)[2:]:
                x[:, :, ids] = np.nan
    constants = {"T": len(positions), **cache.constants, "H": cache.keys}
    run("pack_block", constants, [positions, slots, cache.stores, cache.places, np.int32(1)], grid=grid, seeds=seeds)
    return [str(x) for key, x in arrays.items() if not np.array_equal(x, expected[key])]


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_block_is_packed_as_the_host_packs_it(bits):
    """Every code, scale and minimum, to the last bit; other blocks stay.

    Catches a scale that is rounded down, a code half a step off, planes in another order, a block that is packed early.
    """
    assert not packing_is_off(Quantized("paged", bits, 2, 64), grid=(1, 7))


@pytest.mark.cuda
@pytest.mark.parametrize(("bits", "queries", "keys", "size", "group", "block"), SHAPES)
def test_blocks_of_any_shape_are_packed(bits, queries, keys, size, group, block):
    """Blocks of one position, codes that do not fill their last byte, groups of 3 and 5 channels."""
    for kind in ("paged", "contiguous"):
        cache = Quantized(kind, bits, keys, size, group=group, block=block)
        assert not packing_is_off(cache, grid=5, seeds=(1,))


def decode(
    cache: Quantized, queries: int, window: int, sinks: bool, *, splits: int, grid: Any, seeds: Any = SEEDS
) -> tuple[np.ndarray, np.ndarray]:  # -> (T, H, E), (T, H, E)
    """What attention_decode_packed makes of the step's rows in layer 1, and what the formula says."""
    positions, slots = cache.rows()
    t, keys, size = len(positions), cache.keys, cache.size
    heads = heads_of(queries, keys, size, window, 2.0, sinks)
    q = random(np.random.default_rng(9), t, queries, size)
    constants = {"T": t, "H": queries, "SPLITS": splits, **cache.constants}
    scratch = Scratch((t * queries * splits * (size + 2),)), Counters(np.zeros(t * keys, np.int32))
    args = [q, positions, slots, cache.stores, cache.places, np.int32(1), *options(heads), *scratch]
    [out] = run("attention_decode_packed", constants, [*args, Out(q.shape)], grid=grid, seeds=seeds)
    return out, cache.attention(q, heads)


@pytest.mark.parametrize(("kind", "bits"), [("paged", 8), ("contiguous", 4), ("paged", 2)])
def test_rows_read_full_blocks_packed_and_their_own_as_floats(kind, bits):
    """Also drafts that fill a block and go on behind it: the rows behind it read it packed, those in it as floats.

    Catches codes of another plane, a key's scale taken for a value's, and a row that reads its own block packed.
    """
    cache = Quantized(kind, bits, 2, 64)
    cache.step()
    found, expected = decode(cache, 6, 0, True, splits=3, grid=(1, 20))
    assert distance(found, expected) < ROUNDING


@pytest.mark.cuda
@pytest.mark.parametrize(("bits", "queries", "keys", "size", "group", "block"), SHAPES)
def test_packed_attention_of_any_shape(bits, queries, keys, size, group, block):
    """Windows that begin within a packed block; chunks that are no four neighbouring bytes."""
    for kind, window, splits in (("paged", 7, 1), ("contiguous", 0, 2)):
        cache = Quantized(kind, bits, keys, size, group=group, block=block)
        cache.step()
        found, expected = decode(cache, queries, window, False, splits=splits, grid=11, seeds=(1,))
        assert distance(found, expected) < ROUNDING


@pytest.mark.parametrize("normed", [True, False])
def test_new_keys_and_values_go_to_float_rows(normed):
    """Into the columns of their layer, at the position's place in the unfinished block; all else stays as it is."""
    cache = Quantized("paged", 8, 3, 64)
    positions, slots = cache.rows()
    real, rng, heads = positions >= 0, np.random.default_rng(4), 6
    qkv, norm = random(rng, len(positions), heads + 6, 64), random(rng, heads + 3, 64) if normed else None
    rotation = Rotation(rng.random((1, 32), np.float32), 1 + rng.random((1, 32), np.float32))
    expected = [cache.floats(slot).copy() for slot in range(len(cache.seqs))]
    q, keys, values = formula(qkv[real], norm, rotation, positions[real], np.zeros(real.sum(), int), 3)
    for slot, position, k, v in zip(slots[real], positions[real], keys, values, strict=True):
        row = expected[slot][position - cache.places[slot, 1]]
        row[row.size // 2 :] = np.concatenate([k.reshape(-1), v.reshape(-1)])  # the second of two layers
    constants = {"T": len(positions), "Z": 1, "H": heads, **cache.constants}
    args = [qkv, norm, np.float32(EPS), positions, slots, np.zeros_like(slots), rotation.frequencies,
            rotation.amplitudes, cache.stores, cache.places, np.int32(1), Out((len(positions), heads, 64))]  # fmt: skip
    [found] = run("append_float_rows", constants, args, grid=(1, 9))
    assert distance(found[real], q) < ROUNDING
    for slot, rows in enumerate(expected):
        np.testing.assert_allclose(cache.floats(slot), rows, rtol=ROUNDING, atol=ROUNDING)
