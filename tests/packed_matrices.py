"""A quantized matrix of random codes, and what every packed layout of it must give back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinyinfer.model.quantized_matrix import Nested, QuantizedMatrix, QuantScheme


def random_matrix(n: int, m: int, scheme: QuantScheme, seed: int = 0) -> QuantizedMatrix:
    """Codes of every size with scales and minimums that are all different."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(scheme.lowest, scheme.highest + 1, (n, m)).astype(np.int16)
    scale = random_scales(rng, 0.001, n, scheme.groups(m), scheme.nested)
    minimum = None if scheme.symmetric else random_scales(rng, -1, n, scheme.groups(m), scheme.nested)
    return QuantizedMatrix(scheme, codes, scale, minimum)


def random_scales(rng: np.random.Generator, low: float, n: int, groups: int, nested: int | None) -> Any:
    """Scales from `low` to 1, or nested ones, whose codes are of every size."""
    numbers = rng.uniform(low, 1, (n, groups // (nested or 1))).astype(np.float16)
    return Nested(numbers, rng.integers(-128, 128, (n, groups)).astype(np.int8)) if nested else numbers


def nested_at_times(scheme: QuantScheme, m: int, data: st.DataObject) -> QuantScheme:
    """The scheme, or the same with nested scales: so many groups share a step as divide those of m inputs."""
    groups = scheme.groups(m)
    shared = data.draw(st.sampled_from([None, *(n for n in (1, 2, 3, 8) if groups % n == 0)]))
    return replace(scheme, nested=shared)


def gives_back(weight: Any, matrix: QuantizedMatrix, w: np.ndarray, data: st.DataObject) -> None:
    """Asserts that a packed weight has all codes of its matrix, and rows in any order and tiles of its numbers w."""
    n, again = len(w), weight.matrix()
    assert again.scheme == weight.scheme == matrix.scheme
    np.testing.assert_array_equal(again.codes, matrix.codes)
    assert (again.minimum is None) == (matrix.minimum is None) == matrix.scheme.symmetric
    same_scales(again.scale, matrix.scale)
    if again.minimum is not None:
        same_scales(again.minimum, matrix.minimum)
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n + 70))  # a last tile may reach beyond the end, as slices may
    np.testing.assert_array_equal(weight.dequantize(slice(start, stop)), w[start:stop].T)
    ids = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=9)))
    np.testing.assert_array_equal(weight.rows(ids), w[ids])


def same_scales(found: Any, expected: Any) -> None:
    """Asserts that scales are the same, and nested ones in the same two parts."""
    assert isinstance(found, Nested) == isinstance(expected, Nested)
    for name in ("step", "codes") if isinstance(expected, Nested) else ("T",):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
