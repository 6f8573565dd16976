"""A model whose layers remember different amounts: every cache stores each layer by its own heads and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import flat_batch, request

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.kv_cache.base import CacheSpec, NoCache
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.kv_cache.memory import group_size, position_bytes
from tinyinfer.kv_cache.paged import PagedCache
from tinyinfer.kv_cache.quantized import QuantizedContiguousCache, QuantizedPagedCache
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import Rows

MEMORY = (Rows(heads=1, key_size=6, value_size=4), Rows(heads=3, key_size=2, value_size=8))
ROW = (1 * (6 + 4) + 3 * (2 + 8)) * 4  # bytes of a position in float32
LAYER_ROWS = (1 * (6 + 4) * 4, 3 * (2 + 8) * 4)
SIZE = 4  # positions of a block
# A block at 8 bits: codes of 4 keys and 4 values, and two float16 for each key channel and each group of 4 of a value.
LAYER_BLOCKS = (1 * (4 * (6 + 4) + 4 * (6 + 4 * 1)), 3 * (4 * (2 + 8) + 4 * (2 + 4 * 2)))
FLOAT, QUANTIZED = (ContiguousCache, PagedCache), (QuantizedContiguousCache, QuantizedPagedCache)


def make(kind: Any, num_blocks: int = 12) -> Any:
    bits = 8 if kind in QUANTIZED else "off"
    return kind(CacheSpec(MEMORY, 20, SIZE, num_blocks, bits), NumpyOps(Ledger()))


@pytest.fixture(params=[*FLOAT, *QUANTIZED])
def cache(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


def rows_of(seq: Any, layer: int, first: int, stop: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Keys (n, K, Ek) and values (n, K, Ev) that no other sequence, layer, position, head or channel has."""
    rows, found = MEMORY[layer], []
    for kind, size in enumerate((rows.key_size, rows.value_size)):
        position, head, channel = np.ogrid[first:stop, : rows.heads, :size]
        found.append(np.sin(shift + seq.id + 50 * layer + 20 * kind + 3.0 * position + 7 * head + 0.3 * channel))
    return found[0].astype(np.float32), found[1].astype(np.float32)


def step(cache: Any, *work: tuple[Any, int], shift: float = 0.0, keep: int | None = None) -> None:
    """Positions up to `stop` of each (seq, stop) in one batch; commits them, or the first `keep` of them."""
    spans = [(seq, cache.length(seq), stop) for seq, stop in work]
    for seq, first, stop in spans:
        cache.reserve(seq, stop - first)
    for layer in range(len(MEMORY)):
        parts = [rows_of(seq, layer, first, stop, shift) for seq, first, stop in spans]
        k, v = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        cache.append(layer, k, v, flat_batch(spans))
    for seq, first, stop in spans:
        cache.commit(seq, stop - first if keep is None else keep)


def check(cache: Any, seq: Any, like: Any = None, start: int = 0, until: int | None = None, shift: float = 0.0) -> None:
    """What the sequence reads in each layer, up to `until`; packed numbers are within half of their scale."""
    near = 2 / 255 / 2 * 1.01 if isinstance(cache, QUANTIZED) else 0
    for layer in (1, 0):
        until = cache.length(seq) if until is None else until
        found, expected = cache.read(layer, seq, start, until), rows_of(like or seq, layer, start, until, shift)
        for x, wanted in zip(found, expected, strict=True):
            assert x.shape == wanted.shape
            assert np.abs(x - wanted).max(initial=0) <= near


def test_steps_of_several_sequences_are_read_back(cache):
    """Catches: a layer's heads or sizes taken for another's, the values' size for the keys', views that overlap."""
    a, b = request(range(20)), request(range(20))
    for stops in ((5, 3), (9, 4), (10, 13), (17, 14)):
        step(cache, *zip((a, b), stops, strict=True))  # blocks of the two lie in turn: a paged cache gathers
        for seq in (a, b):
            check(cache, seq)
            check(cache, seq, start=2)
    assert cache.ledger.kv_written_bytes >= 31 * ROW


def test_commit_of_fewer_truncate_fork_and_free(cache):
    """What happens to a sequence between steps, in every layer."""
    a, b = request(range(20)), request(range(20))
    step(cache, (a, 6))
    step(cache, (a, 12), shift=0.5, keep=0)
    step(cache, (a, 10))
    check(cache, a)
    cache.truncate(a, 9)
    cache.fork(a, b)
    assert cache.length(b) == 9
    check(cache, b, like=a)
    step(cache, (b, 11), shift=0.25)  # into the block that both share
    step(cache, (a, 13))
    check(cache, a)
    check(cache, b, like=a, until=9)
    check(cache, b, start=9, shift=0.25)
    cache.free(a)
    check(cache, b, like=a, until=9)
    cache.free(b)
    assert cache.held_bytes == cache.wasted_bytes == 0


def test_a_copied_block_has_every_layer():
    """Copy-on-write of two filled rows."""
    cache, a, b = make(PagedCache), request(range(20)), request(range(20))
    step(cache, (a, 6))
    cache.fork(a, b)
    step(cache, (b, 7))
    assert cache.ledger.kv_copied_bytes == 2 * ROW
    check(cache, b, like=a, until=6)


def test_bytes_are_sums_over_layers():
    """By hand; and the arrays have the sizes that are claimed."""
    assert position_bytes(MEMORY) == sum(LAYER_ROWS) == ROW
    assert position_bytes(MEMORY, 8, SIZE) * SIZE == sum(LAYER_BLOCKS)
    a = request(range(20))
    held = {ContiguousCache: 20 * ROW, PagedCache: 2 * SIZE * ROW, NoCache: 0}
    held[QuantizedContiguousCache] = 5 * sum(LAYER_BLOCKS) + SIZE * ROW
    held[QuantizedPagedCache] = 2 * sum(LAYER_BLOCKS) + SIZE * ROW
    for kind, expected in held.items():
        cache = make(kind)
        step(cache, (a, 6))
        assert cache.held_bytes == expected
    contiguous = make(ContiguousCache)
    step(contiguous, (a, 6))
    assert contiguous.read(0, a, 0)[0].base.nbytes == 20 * ROW
    assert sum(array.nbytes for pool in make(PagedCache).pools for array in pool) == 12 * SIZE * ROW
    assert make(QuantizedPagedCache).packed.nbytes == 12 * sum(LAYER_BLOCKS)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_ledger_counts_each_layer_by_its_own_size(cache, layer):
    """A read of 5 positions: one packed block and one float row, or 5 float rows."""
    a = request(range(20))
    step(cache, (a, 5))
    before = cache.ledger.copy()
    cache.read(layer, a, 0, 5)
    float_rows = 1 if isinstance(cache, QUANTIZED) else 5
    packed = LAYER_BLOCKS[layer] if isinstance(cache, QUANTIZED) else 0
    assert (cache.ledger - before).kv_read_bytes == packed + float_rows * LAYER_ROWS[layer]


def test_pools_are_laid_out_as_kernels_are_told():
    """`pools` and `block_table`: position p of a head is row block_table[p // size] * size + p % size of its pool."""
    cache, a, b = make(PagedCache), request(range(20)), request(range(20))
    for stop in (3, 6, 11):
        step(cache, (a, stop), (b, stop))
    for layer, (keys, values) in enumerate(cache.pools):
        k, v = rows_of(b, layer, 0, 11)
        slots = [cache.block_table(b)[p // SIZE] * SIZE + p % SIZE for p in range(11)]
        assert np.array_equal(keys[:, slots], k.transpose(1, 0, 2))
        assert np.array_equal(values[:, slots], v.transpose(1, 0, 2))


def test_one_group_size_divides_the_values_of_all_layers():
    """Layers whose values have 4 and 6 numbers share groups of 2; catches the first layer's size taken for all."""
    memory = (Rows(1, 6, 4), Rows(1, 2, 6))
    assert group_size(memory, None) == 2
    with pytest.raises(ValueError, match="choose one of 1, 2"):
        group_size(memory, 4)
