"""cpu_kernels/transpose.py: rows become lanes as `lanes.write_rows` writes them, bit for bit.

Bugs that these would catch: numbers of a tile that change places wrongly, rows of a second tile of a matrix in the
wrong block, a rest that is written over a neighbour, bfloat16 that is cut off and not rounded.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tinyinfer.backends.cpu_kernels.transpose import NATIVES, rows_to_lanes
from tinyinfer.backends.lanes import padded, write_rows

pytestmark = pytest.mark.cpu


def both(rows: np.ndarray, first: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Blocks that are full of 7, and the rows written into them: compiled, and by the formula."""
    blocks = -(-(first + len(rows)) // 64)
    compiled, formula = (np.full((blocks, padded(rows.shape[1]), 64), 7, dtype) for _ in range(2))
    rows_to_lanes(rows, first, compiled)
    write_rows(rows, first, formula)
    return compiled.view(np.uint8), formula.view(np.uint8)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize(
    ("count", "inputs", "first"), [(64, 64, 0), (130, 70, 0), (1, 5, 63), (200, 33, 28), (16, 16, 56), (77, 576, 1820)]
)
def test_rows_lie_where_the_formula_puts_them_and_nothing_else_changes(dtype, count, inputs, first) -> None:
    rows = np.random.default_rng(0).standard_normal((count, inputs)).astype(np.float32)
    assert_array_equal(*both(rows, first, np.dtype(dtype)))


@pytest.mark.parametrize("count", [16, 3])  # in registers, and number by number
def test_bfloat16_is_rounded_to_the_nearest_and_of_two_to_the_even(count) -> None:
    bits = np.arange(count * 4096, dtype=np.uint32).reshape(count, 4096) * 40503 % (1 << 19) + 0x3F7C0000  # around 1
    rows = np.concatenate((bits, bits | 0x80000000, bits >> 16 << 16 | 0x8000), axis=1).view(np.float32)
    compiled, formula = both(rows, 0, np.dtype(ml_dtypes.bfloat16))
    assert_array_equal(compiled, formula)


def test_rows_that_are_a_view_are_read_by_their_strides() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 100)).astype(np.float32).T[:, ::2]
    assert_array_equal(*both(rows, 0, np.dtype(np.float32)))


def test_float16_is_left_to_numpy_and_no_other_type() -> None:
    assert set(NATIVES) == {np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)}
