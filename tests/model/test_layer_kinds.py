"""Layers: what is added to the rows, and by which scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import ROUNDING, distance

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.ledger import Ledger
from tinyinfer.model.layers import ParallelLayer, SerialLayer
from tinyinfer.model.weights import NoNorm

NONE: Any = None
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def triple(x: Any, *_: Any) -> Any:
    return 3 * x


def square(x: Any, *_: Any) -> Any:
    return x * x


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_both_changes_of_a_layer_are_scaled(scale):
    """Attention triples here, the MLP squares. Catches a scale on one of the changes: no family with parallel layers
    has another than 1.
    """
    no: Any = NoNorm()
    ops = NumpyOps(Ledger())
    after = X + scale * 3 * X
    serial = SerialLayer(no, triple, no, no, square, no, scale)(X.copy(), [], 0, NONE, NONE, ops)
    parallel = ParallelLayer(no, triple, no, square, scale)(X.copy(), [], 0, NONE, NONE, ops)
    assert distance(serial, after + scale * after * after) < ROUNDING
    assert distance(parallel, after + scale * X * X) < ROUNDING
