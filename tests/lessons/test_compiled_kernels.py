"""Lesson 17, compiled: what numba makes of its kernels, and what the judge says to lines that numba cannot compile."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tinyinfer.lessons.kernel_judge import cases, judge_product, numbered
from tinyinfer.lessons.kernel_ladder import block_product, float_rows, in_blocks, in_fours, rounded_rows

pytestmark = pytest.mark.cpu


def test_the_compiled_kernel_gives_the_numbers_of_python() -> None:
    """Catches a judge whose verdict on plain Python says nothing about the compiled kernel."""
    from tinyinfer.lessons.compiling import njit

    compiled = njit(block_product)
    for codes, scale, x in cases():
        python, machine = (np.full((len(codes), 64), np.nan, np.float32) for _ in range(2))
        block_product(codes, scale, x, python)
        compiled(codes, scale, x, machine)
        assert np.array_equal(python, machine)
    assert judge_product(block_product) is None


def test_lines_that_numba_cannot_compile_are_no_answer() -> None:
    """Catches an exercise that is right, and a notebook that ends in the next cell."""

    def by_einsum(codes: Any, scale: Any, x: Any, y: Any) -> None:
        y[:] = np.einsum("jkr,k,jkr->jr", codes, x, np.repeat(scale, len(x) // scale.shape[1], axis=1))

    wrong = judge_product(by_einsum)
    assert wrong is not None
    assert "numba cannot compile it" in wrong.sentence
    assert "einsum" in wrong.sentence
    assert "write loops" in wrong.hint


def whole_numbers(codes: np.ndarray, scale: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The formula of dot_rows for codes (N, M), with the sums of whole numbers as NumPy computes them."""
    words, step, _ = rounded_rows(x, scale.shape[1])
    a = words.view(np.int8).reshape(len(x), scale.shape[1], -1).astype(np.int64)  # (T, G, M/G)
    groups = codes.reshape(len(codes), scale.shape[1], -1).astype(np.int64)  # (N, G, M/G)
    sums = np.einsum("tgk,ngk->tng", a, groups).astype(np.float32)  # (T, N, G)
    return np.einsum("tng,tg,ng->tn", sums, step, scale, dtype=np.float64)


EXACT = """
import numpy as np
from test_compiled_kernels import check_rows
check_rows()
"""


def check_rows() -> None:
    """dot_rows beside its formula, for one row and for several, with codes at both ends of their range."""
    from tinyinfer.lessons.kernel_dots import dot_rows

    codes = numbered(2, 64, np.int8)
    codes[0], codes[1] = -128, 127
    scale = np.random.default_rng(1).uniform(0.5, 1.5, (128, 2)).astype(np.float32)
    x = np.random.default_rng(2).standard_normal((5, 64), dtype=np.float32)
    x[3] = 0
    fours, scales = in_fours(in_blocks(codes)), in_blocks(scale)
    y, one = np.full((5, 2, 64), np.nan, np.float32), np.full((1, 2, 64), np.nan, np.float32)
    dot_rows(fours, scales, rounded_rows(x, 2), y)
    truth = whole_numbers(codes, scale, x)
    assert np.allclose(y.reshape(5, -1), truth, rtol=1e-5, atol=1e-3)
    for row, got in zip(x, y, strict=True):
        dot_rows(fours, scales, rounded_rows(row[None], 2), one)
        assert np.array_equal(one[0], got), "a batch changes a row"


def test_products_of_whole_numbers_are_their_formula() -> None:
    """Catches a shift that is taken off twice, groups that are mixed up, and a batch that changes a text."""
    check_rows()


def test_without_wide_vectors_the_numbers_are_the_same() -> None:
    """Catches a kernel that needs an instruction of one family of processors."""
    environ = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", EXACT], env=os.environ | environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rounded_activations_are_whole_numbers_of_one_byte() -> None:
    """Catches a step of the whole row, and a row of zeros that is divided by zero."""
    x = np.random.default_rng(4).standard_normal((3, 64), dtype=np.float32)
    x[0, :32] *= 100
    x[2] = 0
    words, step, total = rounded_rows(x, 2)
    a = words.view(np.int8)
    assert a.shape == x.shape
    assert np.abs(a.reshape(3, 2, 32)).max(axis=2).tolist() == [[127, 127], [127, 127], [0, 0]]
    assert (np.abs(a * np.repeat(step, 32, axis=1) - x) <= 0.5001 * np.repeat(step, 32, axis=1)).all()
    assert np.array_equal(total, a.reshape(3, 2, 32).sum(axis=2))


def test_a_compiled_kernel_for_rows_is_that_of_python() -> None:
    """Catches a permission to reorder that changes more than the last digits."""
    from tinyinfer.lessons.compiling import njit

    codes, scale, _ = next(cases())
    x = np.random.default_rng(3).standard_normal((4, codes.shape[1]), dtype=np.float32)
    python, machine = (np.empty((4, len(codes), 64), np.float32) for _ in range(2))
    float_rows(codes, scale, x, python)
    njit(fastmath=True)(float_rows)(codes, scale, x, machine)
    assert np.allclose(machine, python, rtol=1e-5, atol=1e-3)
