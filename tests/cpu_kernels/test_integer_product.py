"""Products of whole numbers equal the reference bit for bit, in every format, for any number of rows and threads."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed_matrices import random_matrix
from processes import printed

from tinyinfer.backends.cpu_kernels.buffers import Buffers
from tinyinfer.backends.cpu_kernels.integer_product import ITEMS, MOST_ROWS, rows_of_item, whole_blocks
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.products import product
from tinyinfer.backends.cpu_kernels.team import team
from tinyinfer.backends.lanes import Arena, PackedA8Lanes, PackedLanes, W8A8Lanes
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.ledger import Ledger
from tinyinfer.model.quantized_matrix import W8A8_SCHEME, QuantizedMatrix, QuantScheme
from tinyinfer.model.weights import Linear

pytestmark = pytest.mark.cpu
TESTS = Path(__file__).parents[1]
FORMATS = {
    "int8": QuantScheme(8, 32, True), "int8 per channel": QuantScheme(8, None, False),
    "int4": QuantScheme(4, 64, False), "int4 per channel": QuantScheme(4, None, True),
    "int3": QuantScheme(3, 32, False), "int3 g16": QuantScheme(3, 16, True), "int2": QuantScheme(2, 128, False),
    "Q5_0": QuantScheme(5, 32, True), "Q5_1": QuantScheme(5, 32, False),
    "Q4_K": QuantScheme(4, 32, False, nested=8), "Q5_K": QuantScheme(5, 32, False, nested=8),
    "Q6_K": QuantScheme(6, 16, True, nested=16),
}  # fmt: skip
SHAPES = [(64, 256), (150, 512), (7, 768)]  # whole groups, of nested scales, too


def rows(t: int, m: int, seed: int = 0) -> np.ndarray:  # -> (t, m)
    """Activations of which some are a thousand times as large as others, and some exactly zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((t, m)) * 10.0 ** rng.integers(-2, 2, (t, m))
    return (x * (rng.random((t, m)) > 0.1)).astype(np.float32)


def packed(matrix: QuantizedMatrix) -> PackedLanes:
    return (W8A8Lanes if matrix.scheme.integer_inputs else PackedA8Lanes).pack(matrix, Arena())


def multiply(x: np.ndarray, weight: PackedLanes, threads: int = 2, **how: Any) -> np.ndarray:  # (T, M) -> (T, N)
    """x Wᵀ by the kernels; y: what is there before."""
    buffers, (outputs, inputs) = Buffers(len(x), threads), weight.shape
    source, y = buffers.rows("x", inputs), buffers.rows("y", outputs)
    source.array[:, :inputs], y.array[:, :outputs] = x, how.pop("y", 0)
    team().run(Plan(product(weight, source, y, buffers, **how)), threads)
    assert not y.array[:, outputs:].any(), "what lies behind the outputs stays zero: the next product reads it"
    return y.array[:, :outputs]


def wanted(x: np.ndarray, matrix: QuantizedMatrix) -> np.ndarray:
    reference = ReferenceOps(Ledger(), activations="int8")
    return reference.linear(x, Linear(reference.take(matrix)))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_references_bits(name):
    """One row up to a prompt. Catches codes without their offset, a minimum of another group, a fourth row that is
    taken for one, and floats that are added in another order."""
    for n, m in SHAPES:
        matrix = random_matrix(n, m, FORMATS[name], seed=n)
        weight, x = packed(matrix), rows(2 * MOST_ROWS + 5, m)
        right = wanted(x, matrix)
        for t in (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 64, len(x)):
            np.testing.assert_array_equal(multiply(x[:t], weight), right[:t], err_msg=f"{name} {n}x{m}, {t} rows")


@pytest.mark.parametrize("name", [name for name, scheme in FORMATS.items() if not scheme.nested])
def test_inputs_that_fill_no_word_and_no_group(name):
    """Their places are zeros. Catches a last group that is taken for a whole one, and codes of padding."""
    for n, m in ((1, 1), (65, 33), (130, 150), (20, 577)):
        matrix, x = random_matrix(n, m, FORMATS[name], seed=m), rows(5, m)
        np.testing.assert_array_equal(multiply(x, packed(matrix)), wanted(x, matrix))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_groups_that_end_inside_a_word(bits):
    """A group has zeros where a neighbour shares its words. Catches a group that begins with the neighbour's codes."""
    for group, m in ((1, 20), (5, 33), (12, 150), (40, 100)):
        matrix, x = random_matrix(70, m, QuantScheme(bits, group, bits == 8), seed=m), rows(13, m)
        np.testing.assert_array_equal(multiply(x, packed(matrix)), wanted(x, matrix))


def test_w8a8_equals_its_formula():
    """All inputs are one group, and a row's scale comes after the output's. Catches codes that are not clipped."""
    for t, n, m in ((1, 64, 576), (3, 70, 150), (9, 130, 1000), (70, 64, 64)):
        matrix, x = random_matrix(n, m, W8A8_SCHEME, seed=t), rows(t, m)
        np.testing.assert_array_equal(multiply(x, packed(matrix)), wanted(x, matrix))


def test_the_largest_sums_are_exact():
    """No instruction on the way saturates: all codes at one end, and all inputs."""
    for code, sign in ((127, 1), (127, -1), (-128, 1), (-128, -1)):
        codes = np.full((64, 4096), code, np.int16)
        matrix = QuantizedMatrix(QuantScheme(8, None, True), codes, np.ones((64, 1), np.float16), None)
        x = np.full((5, 4096), sign * 127, np.float32)
        np.testing.assert_array_equal(multiply(x, packed(matrix)), np.float32(code) * sign * 127 * 4096)


def test_a_row_does_not_depend_on_its_company():
    """Else a batch, or a draft that is verified, would change a text."""
    matrix, x = random_matrix(200, 512, QuantScheme(3, 32, False)), rows(2 * MOST_ROWS + 5, 512)
    weight = packed(matrix)
    together = multiply(x, weight)
    for row in (0, 3, 63, 64, len(x) - 1):
        np.testing.assert_array_equal(multiply(x[row : row + 1], weight)[0], together[row])


def test_threads_do_not_change_the_result():
    """Each has memory of its own for sums and unpacked codes, and rows are divided by the number of threads."""
    matrix, x = random_matrix(300, 512, QuantScheme(5, 32, False)), rows(21, 512)
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(multiply(x, packed(matrix), threads), wanted(x, matrix))


def test_the_bias_is_added_and_the_whole_to_what_was_there():
    """As the residual stream wants it, each operation rounded as in ReferenceOps.add."""
    matrix, x, bias = random_matrix(100, 64, QuantScheme(4, 32, False)), rows(3, 64), rows(1, 100)[0]
    weight, before = packed(matrix), rows(3, 100, seed=1)
    with_bias = wanted(x, matrix) + bias
    np.testing.assert_array_equal(multiply(x, weight, bias=bias, y=7), with_bias)
    np.testing.assert_array_equal(multiply(x, weight, bias=bias, y=before, add=1.0), before + with_bias)
    found = multiply(x, weight, bias=bias, y=before, add=0.3)
    np.testing.assert_array_equal(found, before + with_bias * np.float32(0.3))
    assert whole_blocks(bias).tolist() == [*bias, *[0] * 28]


def test_a_number_that_is_not_finite_shows_in_its_row_only():
    """Else the engine would not tell that the model's numbers overflow. Behind the outputs there are zeros, still:
    numbers that stay there would spoil the residual stream of all later passes."""
    matrix, x = random_matrix(70, 64, QuantScheme(8, 32, True)), rows(6, 64)
    right = wanted(x, matrix)
    for wrong, add in ((np.nan, None), (np.inf, 1.0), (-np.inf, None)):
        x[4, 40] = wrong
        y = multiply(x, packed(matrix), add=add)
        assert not np.isfinite(y[4]).any()
        np.testing.assert_array_equal(np.delete(y, 4, axis=0), np.delete(right, 4, axis=0))


def test_threads_get_even_shares():
    """9 blocks are 5 and 4 for two threads: rows are divided, too, where there are many."""
    assert rows_of_item(512, 9, 2) == MOST_ROWS
    for count, blocks, threads in ((16, 9, 2), (64, 9, 2), (64, 15, 4), (512, 9, 16)):
        assert blocks * -(-count // rows_of_item(count, blocks, threads)) >= min(ITEMS * threads, blocks * count // 4)
    assert rows_of_item(64, 768, 2) == MOST_ROWS, "else weights would be read twice for nothing"


def test_a_cpu_without_the_instruction_gives_the_same_bits():
    """In a process of its own, since a process compiles for one CPU: for one of 2013 here, without AVX-512."""
    script = (
        "import test_integer_product as t, tinyinfer.backends.cpu_kernels.dot as d\n"
        "for scheme in (t.QuantScheme(8, 32, True), t.QuantScheme(5, 32, False)):\n"
        "    matrix, x = t.random_matrix(70, 96, scheme), t.rows(13, 96)\n"
        "    t.np.testing.assert_array_equal(t.multiply(x, t.packed(matrix)), t.wanted(x, matrix))\n"
        "assert d.dot_bits() == 0"
    )
    older = {"x86_64": ("haswell", "+avx2,+fma,+f16c"), "AMD64": ("haswell", "+avx2,+fma,+f16c")}
    name, features = older.get(platform.machine(), ("generic", ""))
    printed(script, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features)
