"""A quantized matrix of random codes, and what every packed layout of it must give back."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinyinfer.model.weights import QuantizedMatrix, QuantScheme


def random_matrix(n: int, m: int, scheme: QuantScheme, seed: int = 0) -> QuantizedMatrix:
    """Codes of every size with scales and minimums that are all different."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(scheme.lowest, scheme.highest + 1, (n, m)).astype(np.int16)
    scale = rng.uniform(0.001, 1, (n, scheme.groups(m))).astype(np.float16)
    minimum = None if scheme.symmetric else rng.uniform(-1, 1, scale.shape).astype(np.float16)
    return QuantizedMatrix(scheme, codes, scale, minimum)


def gives_back(weight: Any, matrix: QuantizedMatrix, w: np.ndarray, data: st.DataObject) -> None:
    """Asserts that a packed weight has all codes of its matrix, and rows in any order and tiles of its numbers w."""
    n, again = len(w), weight.matrix()
    assert again.scheme == weight.scheme == matrix.scheme
    np.testing.assert_array_equal(again.codes, matrix.codes)
    np.testing.assert_array_equal(again.scale, matrix.scale)
    assert (again.minimum is None) == (matrix.minimum is None) == matrix.scheme.symmetric
    if again.minimum is not None:
        np.testing.assert_array_equal(again.minimum, matrix.minimum)
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n + 70))  # a last tile may reach beyond the end, as slices may
    np.testing.assert_array_equal(weight.dequantize(slice(start, stop)), w[start:stop].T)
    ids = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=9)))
    np.testing.assert_array_equal(weight.rows(ids), w[ids])
