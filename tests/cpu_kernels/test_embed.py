"""The embedding kernels: the numbers of a table, bit for bit, wherever they lie in its blocks."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from packed_matrices import random_matrix

from tinyinfer.backends.lanes import PLANES, Arena, DenseLanes, PackedLanes
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.model.weights import Embedding, Floats

pytestmark = pytest.mark.cpu
IDS = np.array([149, 3, 64, 0, 3], dtype=np.int64)


def look_up(weight, scale, positions=None):  # -> (T, M)
    """The vectors of IDS times scale, at positions 0, 1 ..."""
    from tinyinfer.backends.cpu_kernels.buffers import Buffers
    from tinyinfer.backends.cpu_kernels.embed import embed
    from tinyinfer.backends.cpu_kernels.plan import Plan
    from tinyinfer.backends.cpu_kernels.team import team

    x = Buffers(len(IDS), 2).rows("x", weight.shape[1])
    team().run(Plan(embed(Embedding(weight, positions, scale), IDS, np.arange(len(IDS)), x)), 2)
    return x.array[:, : x.width]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_floats_are_looked_up(dtype):
    """With learned positions. Catches a lane of another block, and a position counted from 1."""
    w = np.random.default_rng(0).standard_normal((150, 70)).astype(dtype)
    positions = np.random.default_rng(1).standard_normal((9, 70)).astype(np.float32)
    weight = DenseLanes.pack(Floats("w", w), np.dtype(dtype), Arena())
    expected = w[IDS].astype(np.float32) * np.float32(3) + positions[: len(IDS)]
    np.testing.assert_array_equal(look_up(weight, 3.0, positions), expected)


@pytest.mark.parametrize("bits", PLANES)
def test_codes_are_looked_up(bits):
    """With all kinds of scales. Catches a scale of another group, and nested scales whose codes lose their sign."""
    schemes = (32, None, True), (5, None, False), (None, None, True), (32, 3, False), (16, 1, True)
    for group, nested, symmetric in schemes:
        matrix = random_matrix(150, 96, replace(QuantScheme(bits, group, symmetric), nested=nested))
        found = look_up(PackedLanes.pack(matrix, Arena()), 2.0)
        np.testing.assert_array_equal(found, 2 * matrix.dequantize()[IDS])
