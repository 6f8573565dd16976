"""Products with float inputs: the numbers of the reference, for every format, size and number of rows."""

from __future__ import annotations

import platform
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from packed_matrices import random_matrix
from processes import printed

from tinyinfer.backends.lanes import PLANES, Arena, DenseLanes, PackedLanes
from tinyinfer.model.quantized_matrix import QuantizedMatrix, QuantScheme
from tinyinfer.model.weights import Floats

pytestmark = pytest.mark.cpu
ROWS = [*range(1, 10), 17, 64, 200]
SHAPES = [(130, 70), (64, 300), (577, 129), (5, 33)]  # N, M: no multiples of 64 and 32
THREADS = 2
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def multiply(weight, x, bias=None, add=None, before=None, has_dot=True):  # (T, M) -> (T, N)
    """x Wᵀ + bias as a plan computes it, or `before` with that added; checks that padded outputs stay zero.

    has_dot: codes are multiplied as on a CPU that has instructions for products of bytes.
    """
    from tinyinfer.backends.cpu_kernels.buffers import Buffers
    from tinyinfer.backends.cpu_kernels.plan import Plan
    from tinyinfer.backends.cpu_kernels.products import DIGIT_ROWS, builder_of_codes, product
    from tinyinfer.backends.cpu_kernels.team import team

    buffers = Buffers(len(x), THREADS)
    rows, y = buffers.rows("x", x.shape[1]), buffers.rows("y", weight.shape[0])
    rows.array[:, : x.shape[1]] = x
    y.array[:, : y.width] = 7 if before is None else before  # what an earlier pass has left
    build = product if weight.scheme is None else builder_of_codes(weight, len(x), DIGIT_ROWS * has_dot)
    team().run(Plan(build(weight, rows, y, buffers, bias, add)), THREADS)
    assert not y.array[:, y.width :].any(), "padded outputs have come out as something else than zero"
    return y.array[:, : y.width].copy()


def close(y, x, w, bias, add=1.0, before=0.0):
    """Asserts that y is before + add · (x Wᵀ + bias), up to float32's rounding of what was added."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    size = np.abs(before) + add * (np.abs(x) @ np.abs(w).T + np.abs(bias))  # (T, N)
    assert (np.abs(y - (before + add * (x @ w.T + bias))) <= 1e-6 * size).all()


def inputs(rows, width, seed=0):  # -> (rows, width)
    """Activations as they are: of both signs, a few of them large."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, width)) * rng.exponential(1, width)).astype(np.float32)


def dense(n, m, name="float32"):
    """A float matrix of random numbers, and its weight."""
    w = np.random.default_rng(1).standard_normal((n, m)).astype(DTYPES[name])
    return w, DenseLanes.pack(Floats("w", w), np.dtype(DTYPES[name]), Arena())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DTYPES)
def test_a_product_with_floats_is_the_reference_s(name, shape):
    """Catches inputs or outputs left out at the end of a tile, and rows that get another tile's sums."""
    w, weight = dense(*shape, name)
    bias = np.arange(shape[0], dtype=np.float32)
    for rows in ROWS:
        x = inputs(rows, shape[1])
        close(multiply(weight, x, bias), x, w, bias)


def groups(bits):
    """Schemes with groups of every kind: usual, shorter at the end, all inputs, ending inside a word, nested."""
    for group, nested, symmetric in (
        (32, None, False), (64, None, True), (None, None, True), (16, None, False), (5, None, False), (96, None, True),
        (1000, None, False), (320, None, True), (32, 1, False), (16, 5, True),
    ):  # fmt: skip
        yield replace(QuantScheme(bits, group, symmetric), nested=nested)


@pytest.mark.parametrize("has_dot", [True, False])
@pytest.mark.parametrize("bits", PLANES)
def test_a_product_with_codes_is_the_reference_s(bits, has_dot):
    """Catches a field of another input or plane, a scale of another group, and a minimum counted for padding."""
    for shape in SHAPES:
        compare_codes(bits, shape, has_dot)


def compare_codes(bits, shape, has_dot):
    """Products of all schemes and many numbers of rows, against the dequantized matrix."""
    n, m = shape
    bias = np.arange(n, dtype=np.float32)
    for number, scheme in enumerate(groups(bits)):
        if scheme.groups(m) % (scheme.nested or 1):
            continue
        matrix = random_matrix(n, m, scheme, seed=number)
        weight, w = PackedLanes.pack(matrix, Arena()), matrix.dequantize()
        for rows in ROWS[number % 3 :: 3]:  # each number of rows with a third of the schemes
            x = inputs(rows, m, seed=number)
            close(multiply(weight, x, bias, has_dot=has_dot), x, w, bias)


@pytest.mark.parametrize("rows", [1, 6, 20])
def test_a_change_is_added_to_what_was_there(rows):
    """y += add · (x Wᵀ + bias). Catches a factor that the bias or the minimum does not get."""
    matrix = random_matrix(130, 70, QuantScheme(4, 32, symmetric=False))
    w, weight = dense(130, 70)
    x, bias, before = inputs(rows, 70), np.linspace(-3, 3, 130, dtype=np.float32), inputs(rows, 130, seed=2)
    for holder, numbers in ((weight, w), (PackedLanes.pack(matrix, Arena()), matrix.dequantize())):
        close(multiply(holder, x, bias, 0.25, before), x, numbers, bias, 0.25, before)


@pytest.mark.parametrize("name", DTYPES)
def test_a_row_of_floats_has_the_same_bits_whatever_its_company(name):
    """A head of floats must not let a batch change a text. Catches another order of additions for other tiles."""
    x, (_, weight) = inputs(200, 300), dense(130, 300, name)
    y = multiply(weight, x)
    for first, rows in ((0, 1), (3, 1), (0, 2), (1, 4), (5, 5), (7, 7), (150, 17)):
        np.testing.assert_array_equal(multiply(weight, x[first : first + rows]), y[first : first + rows])


@pytest.mark.parametrize("has_dot", [True, False])
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row(bad, rows, has_dot):
    """And does not look finite. Catches padding that becomes NaN and is read by every later pass."""
    x = inputs(rows, 70)
    x[-1, 3] = bad
    for weight in (dense(130, 70)[1], PackedLanes.pack(random_matrix(130, 70, QuantScheme(4, 32, False)), Arena())):
        y = multiply(weight, x, np.ones(130, np.float32), 1.0, np.ones((rows, 130)), has_dot)
        assert not np.isfinite(y[-1]).any()
        assert np.isfinite(y[:-1]).all()


def test_a_float_is_three_bytes():
    """As near as float32 is to the largest number of its group. Catches a remainder in steps of the wrong size."""
    from tinyinfer.backends.cpu_kernels.buffers import Buffers
    from tinyinfer.backends.cpu_kernels.plan import Plan
    from tinyinfer.backends.cpu_kernels.team import team
    from tinyinfer.backends.cpu_kernels.three_bytes import FINER, split_rows

    x = inputs(3, 96) * np.float32([[1], [1e-20], [1e20]])
    x[1, 32:64] = 0
    buffers = Buffers(3, THREADS)
    rows = buffers.rows("x", 96)
    rows.array[:, :96] = x
    (digits, scale, sums), launch = split_rows(rows, 96, 32, buffers)
    team().run(Plan([launch]), THREADS)
    steps = scale.repeat(32, axis=1)[:, None] * np.float64(FINER) ** np.arange(3)[:, None]  # (T, 3, M)
    again = (digits[..., :96] * steps).sum(axis=1)
    largest = np.abs(x).reshape(3, 3, 32).max(axis=2).repeat(32, axis=1)
    assert (np.abs(again - x) <= 2.0**-23 * largest).all()
    np.testing.assert_allclose(sums, x.reshape(3, 3, 32).sum(axis=2), rtol=1e-4)
    assert not sums[1, 1]
    assert not digits[..., 96:].any()


def test_items_are_enough_for_all_threads_and_even():
    """Nine blocks on two threads leave one waiting for a ninth of the time. Catches rows that are not divided."""
    from tinyinfer.backends.cpu_kernels.outputs import row_parts

    for blocks, rows, threads in ((9, 512, 2), (15, 512, 2), (48, 512, 2), (9, 64, 2), (9, 2048, 16), (1, 2048, 4)):
        parts = row_parts(blocks, rows, threads)
        assert -(-blocks * parts // threads) * threads <= 1.05 * blocks * parts
        assert rows / parts <= 128
    assert row_parts(9, 5, 2) == 1


def test_the_largest_codes_and_inputs_do_not_wrap():
    """All codes at their largest, all digits at 127 or -127. Catches 16 bits that do not hold what is added in them."""
    compare_the_largest()
    script = "import test_product_kernels as t, tinyinfer.backends.cpu_kernels.dot as d\nt.compare_the_largest()\n"
    if platform.machine() in ("x86_64", "AMD64"):  # in a process of its own: a CPU of 2013, without AVX-512
        of_pairs = "assert d.dot_bits() == 0 and d.adds_pairs(6)"
        printed(script + of_pairs, NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES="+avx2,+fma,+f16c")


def compare_the_largest():
    """Products by bytes with the largest codes, against the dequantized matrix in float64."""
    for bits in PLANES:
        scheme = QuantScheme(bits, 32, symmetric=False)
        codes = np.full((64, 96), scheme.highest, np.int16)
        scale = np.full((64, 3), 0.5, np.float16)
        matrix = QuantizedMatrix(scheme, codes, scale, np.zeros_like(scale))
        weight, w = PackedLanes.pack(matrix, Arena()), matrix.dequantize()
        for rows in (1, 2):
            x = np.full((rows, 96), 1 - 2.0**-23, np.float32) * np.array([[1], [-1]], np.float32)[:rows]
            close(multiply(weight, x), x, w, np.zeros(64, np.float32))
