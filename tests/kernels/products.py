"""Weights and inputs for the tests of kernels that multiply: a weight as a kernel gets it, and its floats."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from tinyinfer.backends.packed_rows import PackedRows
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme

NUMBERS = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
DENSE = ["Dense<float32>", "Dense<bfloat16>", "Dense<float16>"]
PACKED = [
    f"Packed<{bits}, {group}, {symmetric}>"
    for bits in (8, 4, 3, 2) for group, symmetric in ((32, "true"), (32, "false"), (0, "false"))
]  # fmt: skip


@dataclass(frozen=True)
class KernelWeight:
    """A matrix (N, M) as the kernel's three pointers, and as the float32 numbers that those stand for."""

    kind: str
    pointers: tuple[Any, Any, Any]
    floats: np.ndarray


def make_weight(kind: str, n: int, m: int, seed: int = 0) -> KernelWeight:
    """Random numbers of a spread that keeps sums of M products near 1."""
    rng = np.random.default_rng(seed)
    if kind.startswith("Dense"):
        numbers = (rng.standard_normal((n, m)) * m**-0.5).astype(NUMBERS[kind[6:-1]])
        stored = numbers.view(np.uint16) if numbers.itemsize == 2 else numbers  # bits, as an array of CuPy's holds them
        return KernelWeight(kind, (stored, None, None), numbers.astype(np.float32))
    bits, group, symmetric = re.fullmatch(r"Packed<(\d+), (\d+), (\w+)>", kind).groups()  # type: ignore[union-attr]
    scheme = QuantScheme(int(bits), int(group) or None, symmetric == "true")
    codes = rng.integers(scheme.lowest, scheme.highest + 1, (n, m)).astype(np.int16)
    scale = (rng.uniform(0.5, 1.5, (n, scheme.groups(m))) * m**-0.5 / 2**scheme.bits).astype(np.float16)
    minimum = None if scheme.symmetric else (-scale * rng.uniform(0, 2**scheme.bits, scale.shape)).astype(np.float16)
    matrix = QuantizedMatrix(scheme, codes, scale, minimum)
    packed = PackedRows.pack(matrix, np)
    return KernelWeight(kind, (packed.codes, packed.scale, packed.minimum), matrix.dequantize())


def random_rows(*shape: int, seed: int = 1) -> np.ndarray:
    """Activations whose rows differ in size, so that a norm of the wrong row shows."""
    rows = np.random.default_rng(seed).standard_normal(shape)
    return (rows.T * np.arange(1, shape[0] + 1)).T.astype(np.float32)


def shared_bytes(rows: int, inputs: int) -> int:
    """Dynamic shared memory of a product, as product.cuh says."""
    return 4 * min(rows * -(-inputs // 8) * 8, 16384)


def assert_near(found: np.ndarray, expected: np.ndarray, rounding: float) -> None:
    """Equal up to rounding, relative to the largest value. NaN, which outputs are full of before, is never near."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= rounding * np.abs(expected).max()
