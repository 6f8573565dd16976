"""The plain kernels of int8 codes: the reference's products, exact whole numbers, and bytes as they are counted."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from shapes import PACKAGE, Inspector, signatures

from tinyinfer.backends.packed import round_groups
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.backends.rows_in_lanes import to_lanes
from tinyinfer.ledger import Ledger
from tinyinfer.model.weights import Linear, QuantScheme
from tinyinfer.quantization.rtn import round_to_nearest

pytestmark = pytest.mark.cpu  # numba's compiler takes seconds, and is no part of the test extra
SIZES = [(64, 32, 32), (100, 70, 32), (5, 3, 8), (192, 96, 96)]  # outputs, inputs, group


@pytest.fixture(scope="module")
def kernels() -> Any:
    """The module, which imports numba."""
    return import_module("tinyinfer.backends.int8_kernel")


def case(n: int, m: int, group: int) -> tuple[Any, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """A matrix of 8-bit codes, the same in lanes, and a row of inputs."""
    rng = np.random.default_rng(n * m)
    matrix = round_to_nearest(rng.normal(size=(n, m)).astype(np.float32), QuantScheme(8, group, symmetric=True))
    lanes = to_lanes(matrix.codes.astype(np.int8)), to_lanes(matrix.scale.astype(np.float32))
    return matrix, lanes, rng.normal(size=m).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("activations", ["float", "int8"])
def test_a_kernel_is_the_reference_s_product(kernels, activations, size):
    """Catches a kernel whose formula is another one than that of the engine, with float and with rounded inputs."""
    matrix, lanes, x = case(*size)
    ops = ReferenceOps(Ledger(), activations=activations)
    right = ops.linear(x[None], Linear(ops.take(matrix)))[0]
    y = np.full(size[0], np.nan, np.float32)
    if activations == "float":
        kernels.multiply(*lanes, x, size[2], y)
    else:
        codes, scale = round_groups(x[None], size[2], np)
        kernels.multiply_codes(*lanes, codes[0].astype(np.int8), scale[0], size[2], y)
    np.testing.assert_allclose(y, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_bytes_are_those_of_the_arrays(kernels, size):
    """Catches a formula without the zeros of the last block, or with other scales than are there."""
    _, lanes, _ = case(*size)
    assert kernels.weight_bytes(*size) == sum(array.nbytes for array in lanes)


def test_the_signatures_are_true(kernels):
    """Catches a stale comment: test_shapes.py cannot look into compiled functions, so Python runs them here."""
    known = [s for s in signatures(PACKAGE / "backends" / "int8_kernel.py") if s.compiled]
    inspector, (_, lanes, x), y = Inspector(known), case(100, 70, 32), np.empty(100, np.float32)

    def work() -> None:
        kernels.multiply.py_func(*lanes, x, 32, y)
        kernels.multiply_codes.py_func(*lanes, np.ones(70, np.int8), np.ones(3, np.float32), 32, y)

    inspector.watch({}, work)
    assert not inspector.faults
    assert len(inspector.exercised) == len(known) == 2
