"""exp, tanh, sigmoid and erf of vectors are right to a few last bits, from the smallest numbers to infinity."""

from __future__ import annotations

import numpy as np
import pytest

from tinyinfer.backends.cpu_kernels import functions
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.team import Team
from tinyinfer.backends.cpu_kernels.vectors import load, store
from tinyinfer.backends.reference import error_function

pytestmark = pytest.mark.cpu
exp, tanh, sigmoid, erf = functions.exp, functions.tanh, functions.sigmoid, functions.erf


@kernel
def all_four(a, item, thread):
    """x, and the addresses of the results of each function; an item computes 16 numbers."""
    x = load(a[0] + 64 * item)
    store(a[1] + 64 * item, exp(x))
    store(a[2] + 64 * item, tanh(x))
    store(a[3] + 64 * item, sigmoid(x))
    store(a[4] + 64 * item, erf(x))


def computed(x: np.ndarray) -> list[np.ndarray]:
    x = np.ascontiguousarray(np.resize(x, -(-len(x) // 16) * 16), dtype=np.float32)
    out = [np.empty_like(x) for _ in range(4)]
    Team().run(Plan([Launch(all_four, (x, *out), len(x) // 16)]), 1)
    return [x, *out]


def ulps(found: np.ndarray, right: np.ndarray) -> float:
    """The largest error in units of the last bit; of results too small for a full float32, of its smallest one."""
    spacing = np.spacing(np.abs(right).astype(np.float32)).astype(np.float64)
    return float((np.abs(found.astype(np.float64) - right) / spacing).max())


SIZES = np.concatenate([np.geomspace(1e-38, 100, 20001), np.linspace(0, 20, 20001)])
EVERYWHERE = np.concatenate([SIZES, -SIZES]).astype(np.float32)


def test_each_function_is_right_to_a_few_last_bits():
    """A polynomial of one power less, or 1 + e^r - 1 of a small r, would lose digits."""
    x, e, t, s, _ = computed(EVERYWHERE)
    wide = x.astype(np.float64)
    finite = wide < 88.7
    assert ulps(e[finite], np.exp(wide[finite])) <= 1.5
    assert ulps(t, np.tanh(wide)) <= 3
    assert ulps(s[wide > -87], 1 / (1 + np.exp(-wide[wide > -87]))) <= 2.5


def test_erf_is_the_reference_formula():
    """Another formula would be closer to erf and further from what every other backend computes.

    Near 0 a dozen roundings of numbers near 1 remain, in both.
    """
    x, *_, e = computed(EVERYWHERE)
    np.testing.assert_allclose(e, error_function(x, np), rtol=0, atol=5e-7)


def test_ends_of_the_range():
    """A hidden score is -inf, and its weight is 0; NaN must not look like a number."""
    x, e, t, s, r = computed(np.array([-np.inf, np.inf, np.nan, 0.0, -0.0, -1e30, 1e30, -104.0, 89.0]))
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_allclose(e, np.exp(x), rtol=1e-6)
        np.testing.assert_allclose(t, np.tanh(x), rtol=1e-6)
        np.testing.assert_allclose(s, 1 / (1 + np.exp(-x)), rtol=1e-6)
        np.testing.assert_allclose(r, error_function(x, np), rtol=1e-6)
