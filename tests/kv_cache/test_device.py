"""Caches touch arrays through `device.xp` only: they run on an array module that refuses NumPy (fake_cupy.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_cupy import DeviceArray, fake_cupy
from helpers import flat_batch, request

from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.switches import CACHES, KV_BITS
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import Rows
from tinyinfer.switches import resolve

KINDS = [("off", kind) for kind in sorted(CACHES)] + [(4, kind) for kind in sorted(KV_BITS[4])]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("bits", "kind"), KINDS)
def test_a_cache_runs_on_a_device_that_is_not_numpys(bits, kind, whole):
    """Steps, scattered blocks, growth, a rollback, a fork with copy-on-write; read back on the host."""
    spec = CacheSpec((Rows(2, 6, 6), Rows(2, 6, 6)), 40, 4, 20, bits, reserve_all=whole)
    cache = resolve(KV_BITS[bits], kind)(spec, ReferenceOps(Ledger(), xp=fake_cupy))
    a, b, child = (request(range(8), 1) for _ in range(3))  # they go on beyond what was asked for
    for seq in (a, b, child):
        seq.tokens.extend(range(32))

    def step(seq: Any, stop: int, keep: int | None = None) -> None:
        first = cache.length(seq)
        cache.reserve(seq, stop - first)
        for layer in range(2):
            rows = np.random.default_rng(layer).standard_normal((40, 2, 6), np.float32)[first:stop]
            x = fake_cupy.asarray(rows)
            batch = flat_batch([(seq, first, stop)])
            cache.append(layer, x, -x, batch)
            for part in cache.split(batch.spans[0]):
                k, v = cache.read(layer, seq, 0, part.first + part.rows)
                assert isinstance(k, DeviceArray)
                assert np.allclose(k.get()[-1], rows[part.first + part.rows - 1 - first])
                assert len(v) == part.first + part.rows
        cache.commit(seq, stop - first if keep is None else keep)

    for stop in (6, 9, 17):
        step(a, stop)
        step(b, stop)
    assert bool(cache.ledger.kv_copied_bytes) == (kind == "paged" or (not whole and kind == "contiguous"))
    if cache.can_chunk:
        step(a, 23, keep=2)
        cache.truncate(a, 18)
        cache.fork(a, child)
        step(child, 25)
        step(a, 20)


@pytest.mark.parametrize(("bits", "kind"), KINDS)
def test_what_a_kernel_writes_in_place_is_what_the_cache_reads(bits, kind):
    """By the block table alone. Catches a table in another order than the positions, arrays from before the cache grew,
    and rows that are not counted. A cache that keeps nothing says so."""
    spec = CacheSpec((Rows(2, 6, 6), Rows(2, 6, 6)), 40, 4, 20, bits, reserve_all=False)
    cache = resolve(KV_BITS[bits], kind)(spec, ReferenceOps(Ledger()))
    seq, other = request(range(5), 1), request(range(5), 1)
    seq.tokens.extend(range(32))
    rows = np.random.default_rng(0).standard_normal((2, 2, 30, 2, 6), np.float32)  # layers, keys and values, positions
    for first, stop in ((0, 3), (3, 6), (6, 30)):
        for some in (seq, other):  # their blocks take turns in the pool
            cache.reserve(some, stop - first)
        pools = cache.pools_of(seq)
        if kind == "none":
            assert pools is None
            return
        if bits != "off":
            assert (pools.first, len(pools.floats)) == (0, 4), "kernels have tests of their own"
            return
        assert pools is not None
        for layer, arrays in enumerate(pools.layers):
            for array, new in zip(arrays, rows[layer], strict=True):
                for p in range(first, stop):
                    array[:, pools.blocks[p // pools.block_size] * pools.block_size + p % pools.block_size] = new[p]
        cache.record_written(flat_batch([(seq, first, stop)]))
        cache.commit(seq, stop - first)
        cache.commit(other, stop - first)
    for layer in range(2):
        for array, new in zip(cache.read(layer, seq, 0), rows[layer], strict=True):
            assert (array == new).all()
    assert cache.ledger.kv_written_bytes == 30 * cache.position_bytes
