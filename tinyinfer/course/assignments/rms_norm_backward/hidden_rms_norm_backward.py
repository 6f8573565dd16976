"""Hidden tests of the assignment "rms_norm_backward": the public claims for other inputs, and calculus' promises."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyinfer.course.assignments.rms_norm_backward.test_rms_norm_backward import (
    EPS,
    U,
    called,
    check_differences,
    check_formula,
    inputs,
    largest_terms,
    two,
)
from tinyinfer.course.compare import Failure, same_array

IN_PLACE = "an operator with `=`, such as `x *= 2`, writes into its operand: make a new array, x = x * 2"
SHAPES = "the second result is not summed over rows: the caller knows which axes share a weight"


def test_other_shapes(student: Any, part: Any, rng: Any) -> None:
    """Catches what only rows of some other length or number break."""
    few, many = int(rng.integers(2, 5)), int(rng.integers(30, 60))
    for name, shape, per_head in (
        ("rows of one number", (few, 1), False),
        ("many short rows", (many, few), False),
        ("a long row", (1, 576), False),
        ("heads", (few, 5, 16), False),
        ("a weight for each head", (few, 7, 8), True),
    ):
        with part(name):
            check_formula(student, *inputs(rng, shape, np.float32, per_head), EPS)


def test_finite_differences_of_random_rows(student: Any, part: Any, rng: Any) -> None:
    """Catches a gradient that is right for the public tests' numbers alone."""
    rows, size = int(rng.integers(2, 5)), int(rng.integers(6, 10))
    with part("rows of random sizes"):
        dy, x, weight = inputs(rng, (rows, size))
        sizes, eps = 10 ** rng.uniform(-2, 2, (rows, 1)), 2.0 ** -int(rng.integers(8, 14))
        check_differences(student, dy, x * sizes, weight, eps)
    with part("negative weights"):
        dy, x, weight = inputs(rng, (rows, 2, size), per_head=True)
        check_differences(student, dy, x, weight * np.where(rng.random(weight.shape) < 0.5, -1, 1), EPS)


def test_what_calculus_says(student: Any, part: Any, rng: Any) -> None:
    """Catches a gradient that is not linear in dy, that mixes rows, or that grows along its own row."""
    dy, x, weight = inputs(rng, (4, 7))
    given = numbers(student, dy, x, weight, EPS)
    most = [200 * U["float64"] * size for size in largest_terms(dy, x, weight, EPS)]
    with part("twice the gradient"):
        other = inputs(rng, (4, 7))[0]
        sums, others = (numbers(student, d, x, weight, EPS) for d in (2 * dy + other, other))
        right = [2 * one + more for one, more in zip(given, others, strict=True)]
        check_promise(sums, right, "for 2 · dy + another", [8 * atol for atol in most], "both results are linear in dy")
    with part("rows alone"):
        hint = "a row's gradient depends on the rows beside it: every mean runs along the last axis"
        for i in range(4):
            alone = numbers(student, dy[i : i + 1], x[i : i + 1], weight, EPS)
            check_promise(alone, [one[i : i + 1] for one in given], f"of row {i} alone", most, hint)
    with part("along the row"):
        # y has the same numbers for a longer row, but for epsilon: x · dx = r · mean(g · x) · n · eps · r².
        r = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 0.25)
        mine = (x * numbers(student, dy, x, weight, 0.25)[0]).sum(axis=-1, keepdims=True)
        right = r**3 * 0.25 * (dy * weight * x).sum(axis=-1, keepdims=True)
        hint = "a longer row has nearly the same y, so dx has nearly no part along x: dx · x is what epsilon leaves"
        check_promise([mine], [right], "along x, with eps = 0.25,", most[:1], hint)
    with part("eight times the row"):
        hint = "a row of 8 times the size has an eighth of the gradient, and the same share in the weight's"
        right = [given[0] / 8, given[1]]
        check_promise(numbers(student, dy, 8 * x, weight, 64 * EPS), right, "for 8 · x and 64 · eps", most, hint)


def numbers(student: Any, dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float) -> list[np.ndarray]:
    """The student's two results. Raises Failure unless both are floats of the right shape."""
    found = called(student, dy, x, weight, eps)
    for one in found:
        if not isinstance(one, np.ndarray) or one.shape != x.shape or one.dtype.kind != "f":
            raise Failure(f"rms_norm_adjoint: both results have the shape of x, {x.shape}, and are floats.", SHAPES)
    return found


def check_promise(mine: list[np.ndarray], right: list[np.ndarray], what: str, atol: list[float], hint: str) -> None:
    """Compares results with what other calls promise of them; the hint is the promise."""
    for name, one, other, most in zip(("dx", "the second result"), mine, right, atol, strict=False):
        same_array(one, other, f"{name} {what}", atol=most, usual=[(one, hint)], axes=("row", "number"))


def test_rows_of_a_real_model(student: Any, part: Any, rng: Any) -> None:
    """Catches too little precision where one number of a row is a thousand times the others (Sun et al. 2024)."""
    for name, size in (("a massive activation", 3000.0), ("small numbers, as behind an embedding", 0.01)):
        with part(name):
            dy, x, weight = inputs(rng, (3, 64), np.float32)
            x[:, int(rng.integers(64))] *= np.float32(size)
            check_formula(student, dy, x if size > 1 else x * np.float32(size), weight, EPS)


def test_inputs_stay_as_they_are(student: Any, part: Any, rng: Any) -> None:
    """Catches arithmetic in place: the residual stream and the weight are needed again."""
    given = inputs(rng, (3, 8), np.float32)
    with part("both results"):
        check_formula(student, *given, EPS)
    result, after = student.after("rms_norm_adjoint", *given, EPS, np)
    two(result)
    for name, before, now in zip(("dy", "x", "weight"), given, after, strict=False):
        with part(name):
            if not isinstance(now, np.ndarray) or not np.array_equal(now, before):
                raise Failure(f"{name} is not what it was before.", IN_PLACE)
