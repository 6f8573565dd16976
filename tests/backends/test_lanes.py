"""Weights in lanes: nothing lost between codes and words, and the bytes that the reference counts."""

from __future__ import annotations

import gc
import pickle
import re
import weakref
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_matrices import gives_back, nested_at_times, random_matrix

from tinyinfer.backends.lanes import Arena, DenseLanes, PackedLanes, W8A8Lanes, mapping
from tinyinfer.backends.packed import W8A8, Packed
from tinyinfer.errors import ModelError
from tinyinfer.model.quantized_matrix import W8A8_SCHEME, QuantScheme
from tinyinfer.model.weights import Dense, Floats

BITS = [2, 3, 4, 5, 6, 8]


@settings(max_examples=40)
@given(
    bits=st.sampled_from(BITS), group=st.sampled_from([None, 1, 5, 32]), symmetric=st.booleans(),
    n=st.integers(1, 150), m=st.integers(1, 70), data=st.data(),
)  # fmt: skip
def test_a_packed_matrix_is_its_codes(bits, group, symmetric, n, m, data):
    """Rows in any order, tiles that begin and end inside blocks, all codes and the bytes, as the reference has them."""
    matrix = random_matrix(n, m, nested_at_times(QuantScheme(bits, group, symmetric), m, data))
    weight, reference = PackedLanes.pack(matrix, Arena()), Packed.pack(matrix, np)
    assert (weight.shape, weight.nbytes, weight.row_bytes) == (reference.shape, reference.nbytes, reference.row_bytes)
    gives_back(weight, matrix, matrix.dequantize(), data)


@pytest.mark.parametrize("bits", BITS)
def test_where_codes_lie(bits):
    """The layout that kernels read: input k of a word at bit 8·(k mod 4) + p·(k div 4). Catches another order."""
    matrix = random_matrix(130, 70, QuantScheme(bits, 32, symmetric=True))
    weight = PackedLanes.pack(matrix, Arena())
    low, high = {3: (2, 1), 5: (4, 1), 6: (4, 2)}.get(bits, (bits, 0))
    code = int(matrix.codes[64 + 7, 37]) - matrix.scheme.lowest
    for words, p, value in ((weight.words, low, code & (1 << low) - 1), (weight.high, high, code >> low)):
        if p:
            word, k = divmod(37, 32 // p)
            assert words.shape == (3, 96 * p // 32, 64)
            assert int(words[1, word, 7]) >> 8 * (k % 4) + p * (k // 4) & (1 << p) - 1 == value
    assert weight.scale[2, 1, 1] == matrix.scale[129, 1]


def test_what_is_padding_is_zero():
    """Outputs behind the last one have no scale and no code. Catches results that depend on what memory held before."""
    matrix = random_matrix(70, 40, QuantScheme(4, 32, symmetric=False))
    weight = PackedLanes.pack(matrix, Arena())
    for array in (weight.words, weight.scale, weight.minimum):
        assert not array[1, :, 6:].any()
        assert array[1, :, 5].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_dense_matrix_comes_back(dtype):
    """From tiles that begin and end inside blocks. Catches a piece of a tile that goes to its neighbour's lanes."""
    w = np.random.default_rng(0).standard_normal((150, 70)).astype(dtype)

    class Tiled(Floats):
        def tiles(self):
            for first in (0, 10, 74, 75):
                yield first, self.array[first : {0: 10, 10: 74, 74: 75, 75: 150}[first]].astype(np.float32)

    weight, reference = DenseLanes.pack(Tiled("w", w), dtype, Arena()), Dense(w.T)
    assert (weight.shape, weight.nbytes, weight.row_bytes) == (reference.shape, reference.nbytes, reference.row_bytes)
    np.testing.assert_array_equal(weight.matrix().array, w)
    np.testing.assert_array_equal(weight.dequantize(slice(60, 140)), w[60:140].T.astype(np.float32))
    np.testing.assert_array_equal(weight.rows(np.array([149, 3, 64])), w[[149, 3, 64]].astype(np.float32))
    assert not weight.array[:, 70:].any()
    assert not weight.array[2, :, 22:].any()


def test_a_number_too_large_is_refused():
    """As the reference does. Catches an infinity that is packed silently."""
    with pytest.raises(ModelError, match="big holds 100000, too large for float16"):
        DenseLanes.pack(Floats("big", np.full((3, 4), 1e5, np.float32)), np.dtype(np.float16), Arena())


def test_w8a8_has_the_reference_s_codes_and_bytes():
    """No code is -128, so that a product of codes is at most 127². Catches padding that is counted."""
    matrix = random_matrix(70, 40, W8A8_SCHEME)
    weight, reference = W8A8Lanes.pack(matrix, Arena()), W8A8.pack(matrix, np)
    assert (weight.shape, weight.nbytes, weight.row_bytes) == (reference.shape, reference.nbytes, reference.row_bytes)
    np.testing.assert_array_equal(weight.matrix().codes, reference.matrix().codes)
    np.testing.assert_array_equal(weight.dequantize(slice(0, 70)), reference.dequantize(slice(0, 70)))


def test_a_copied_arena_begins_anew():
    """Catches a model that cannot be pickled, and a copy that writes where the first one does."""
    arena = Arena()
    first, other = arena.empty((8,), np.uint8), pickle.loads(pickle.dumps(arena)).empty((8,), np.uint8)
    other[...] = 1
    assert not first.any()
    assert not arena.empty((8,), np.uint8).any()


def test_an_arena_gives_its_memory_back():
    """Arrays lie side by side at cache lines; the mapping goes with the last of them. Catches a model that stays."""
    arena = Arena()
    a, b = arena.empty((3, 5), np.float32), arena.empty((7,), np.uint8)
    assert [x.ctypes.data % 64 for x in (a, b)] == [0, 0]
    assert b.ctypes.data - a.ctypes.data == 64
    a[...], b[...] = 1, 2
    assert (a == 1).all()
    gone = weakref.ref(a.base)
    del a, b, arena
    gc.collect()
    assert gone() is None


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_weights_lie_on_huge_pages_where_the_system_has_them():
    """Catches memory that forked processes would share, to which Linux gives no huge pages."""
    modes = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    memory, areas = mapping(4 << 20), Path("/proc/self/smaps").read_text()
    found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*?^THPeligible: +([01])$", areas, re.MULTILINE | re.DOTALL)
    [eligible] = [kind for first, last, kind in found if int(first, 16) <= memory.ctypes.data < int(last, 16)]
    assert (eligible == "1") == (modes.exists() and "[never]" not in modes.read_text())


def test_an_array_larger_than_a_mapping_gets_its_own():
    """Catches a head of 200 MB that does not fit; a mapping begins at a huge page."""
    assert Arena().empty((80 << 20,), np.uint8).nbytes == 80 << 20
    assert mapping(100).ctypes.data % (2 << 20) == 0
