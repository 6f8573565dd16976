"""Random weight matrices as the kernels take them, and the numbers that they stand for."""

from __future__ import annotations

import re
from typing import NamedTuple

import ml_dtypes
import numpy as np

from tinyinfer.backends.packed_rows import PackedRows
from tinyinfer.model.weights import QuantizedMatrix, QuantScheme

STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


class Given(NamedTuple):
    """A weight's three arguments, and what it holds, exactly (N, M) float64."""

    codes: np.ndarray
    scale: np.ndarray | None
    minimum: np.ndarray | None
    exact: np.ndarray

    @property
    def args(self) -> list[np.ndarray | None]:
        """The arguments as a kernel takes them: halves as their bits."""
        return [None if a is None else a.view(np.uint16) if a.dtype.itemsize == 2 else a for a in self[:3]]


def random_weight(kind: str, outputs: int, inputs: int, rng: np.random.Generator) -> Given:  # -> (N, M)
    """A weight of a type such as Dense<float16> or Packed<4, 32, false>, of numbers around 1 / sqrt(inputs)."""
    if dense := re.fullmatch(r"Dense<(\w+)>", kind):
        numbers = (rng.standard_normal((outputs, inputs)) / inputs**0.5).astype(STORED[dense[1]])  # (N, M)
        return Given(numbers, None, None, numbers.astype(np.float64))
    bits, group, symmetric = re.fullmatch(r"Packed<(\d), (\d+), (\w+)>", kind).groups()  # type: ignore[union-attr]
    scheme = QuantScheme(int(bits), int(group) or None, symmetric == "true")
    codes = rng.integers(scheme.lowest, scheme.highest + 1, (outputs, inputs)).astype(np.int16)
    groups = outputs, scheme.groups(inputs)
    scale = (rng.uniform(0.5, 2, groups) / inputs**0.5 / 2 ** int(bits)).astype(np.float16)  # (N, G)
    minimum = None if scheme.symmetric else (rng.uniform(-1, 0, groups) / inputs**0.5).astype(np.float16)  # (N, G)
    packed = PackedRows.pack(QuantizedMatrix(scheme, codes, scale, minimum), np)
    of = np.arange(inputs) // (scheme.group_size or inputs)  # (M,): each input's group
    exact = codes * scale[:, of].astype(np.float64)  # (N, M)
    return Given(packed.codes, scale, minimum, exact if minimum is None else exact + minimum[:, of].astype(np.float64))
