"""Weights that several threads pack: the same numbers, each in memory of its own."""

from __future__ import annotations

import time

import numpy as np
import pytest
from helpers import checkpoint_of, random_tensors, small_config

from tinyinfer.backends import lanes
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.ledger import Ledger
from tinyinfer.loading.build import build_model
from tinyinfer.loading.export import export
from tinyinfer.model.quantized_matrix import QuantScheme
from tinyinfer.quantization.rtn import round_to_nearest

pytestmark = pytest.mark.cpu


class Slow(np.ndarray):
    """Memory of which no part is to be had at once."""

    def __getitem__(self, part):
        time.sleep(0.001)
        return super().__getitem__(part).view(np.ndarray) if part.start is None else super().__getitem__(part)


def rounded(name, matrix):
    """A conversion: each matrix in 4 bits."""
    return round_to_nearest(np.concatenate([rows for _, rows in matrix.tiles()]), QuantScheme(4, 8, False))


@pytest.mark.parametrize("conversion", [None, rounded])
def test_four_threads_pack_what_the_reference_holds(monkeypatch, conversion):
    """Memory is slow to be handed out, so threads ask at the same time. Catches two weights in one place."""
    from tinyinfer.backends.numba_ops import NumbaOps

    mapping = lanes.mapping
    monkeypatch.setattr(lanes, "mapping", lambda size: mapping(size).view(Slow))
    config = small_config(num_layers=12)
    checkpoint, more = checkpoint_of(config, random_tensors(config)), {"conversion": conversion} if conversion else {}
    ops = NumbaOps(Ledger(), threads=4)
    assert ops.loading_threads == 4
    found, wanted = build_model(checkpoint, ops, **more), build_model(checkpoint, ReferenceOps(Ledger()), **more)
    for mine, yours in zip(export(found), export(wanted), strict=True):
        for a, b in zip(mine.arrays(), yours.arrays(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=mine.name)


@pytest.mark.parametrize("rows", [1, 2, 16, 512])
def test_a_row_is_estimated_no_dearer_than_on_numpy(rows):
    """Too low is soon measured, too high is not. Catches a line that goes on growing where NumPy's table does not."""
    from tinyinfer.backends.numba_ops import NumbaOps
    from tinyinfer.backends.numpy_ops import NumpyOps

    assert 1 <= NumbaOps(Ledger()).relative_cost(rows) <= NumpyOps(Ledger()).relative_cost(rows)
