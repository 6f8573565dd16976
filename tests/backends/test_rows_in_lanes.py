"""Lanes: every number of a row is where a kernel looks for it, and nothing else is there."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tinyinfer.backends.packing import LANES
from tinyinfer.backends.rows_in_lanes import from_lanes, to_lanes


@given(rows=st.integers(1, 200), columns=st.integers(1, 9), dtype=st.sampled_from(["int8", "uint8", "float16"]))
def test_row_n_is_lane_n_of_its_block(rows, columns, dtype):
    """Catches rows that are dealt out over the blocks, columns behind lanes, and another type."""
    array = np.arange(1, rows * columns + 1).reshape(rows, columns).astype(dtype)
    blocks = to_lanes(array)
    assert blocks.shape == (-(-rows // LANES), columns, LANES)
    assert blocks.dtype == dtype
    assert blocks.flags.c_contiguous
    for n in (0, rows // 2, rows - 1):
        np.testing.assert_array_equal(blocks[n // LANES, :, n % LANES], array[n])
    np.testing.assert_array_equal(from_lanes(blocks, rows), array)


def test_what_the_last_block_lacks_is_zero():
    """Catches memory that was never written: a kernel multiplies it."""
    assert not to_lanes(np.ones((70, 3), np.int8))[1, :, 6:].any()
