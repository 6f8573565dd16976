"""Public tests of the assignment "rms_norm_backward": each names the bug that it catches.

What is right is told in two ways. Finite differences in float64 know nothing of the formula: L = Σ dy · y is computed
again with one number a little larger and a little smaller. The formula in float64 is what float32 is held against. The
usual mistakes are formulas, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tinyinfer.course.compare import Failure, same_array
from tinyinfer.units import show

pytest_plugins = ["tinyinfer.course.pytest_plugin"]

U = {"float32": 2.0**-24, "float64": 2.0**-53}  # half of the distance between 1 and the next number
STEP = 1e-5  # of a finite difference, relative to the size of a row: off by about 1e-10, and as much by rounding
NEAR = 1e-7  # relative to the largest number: what a finite difference is right to, with room
EPS = 2.0**-17  # about 1e-5, the same number in float32 and in float64
Usual = list[tuple[np.ndarray, str]]


# What is asked.


def test_gradient_of_the_input(student: Any, part: Any, rng: Any) -> None:
    """Catches a root that is taken for a constant, a sum for the mean, a wrong sign, axis or power."""
    with part("the row of the example"):
        check_differences(student, np.ones((1, 2)), np.array([[1.0, 7.0]]), np.array([1.0, 2.0]), 0.0)
    with part("one row"):
        check_differences(student, *inputs(rng, (1, 6)), EPS)
    with part("several rows"):
        check_differences(student, *inputs(rng, (4, 5)), EPS)
    with part("as many rows as numbers, of different sizes"):
        dy, x, weight = inputs(rng, (5, 5))
        check_differences(student, dy, x * np.geomspace(0.3, 30, 5)[:, None], weight, EPS)


def test_gradient_of_the_weight(student: Any, part: Any, rng: Any) -> None:
    """Catches a gradient that is summed over rows, multiplied by the weight, or not normalized."""
    with part("one row"):
        check_weight_differences(student, *inputs(rng, (1, 6)), EPS)
    with part("several rows"):
        check_weight_differences(student, *inputs(rng, (3, 6)), EPS)


def test_epsilon(student: Any, part: Any, rng: Any) -> None:
    """Catches epsilon that is left out, that stands outside of the root, or that only one of the two terms has."""
    with part("rows in which epsilon counts as much as the numbers"):
        dy, x, weight = inputs(rng, (3, 6))
        check_differences(student, dy, x * 0.125, weight, 2.0**-6)
    with part("rows that are small beside epsilon"):
        dy, x, weight = inputs(rng, (3, 6))
        check_differences(student, dy, x * 2.0**-12, weight, EPS)


def test_rows_of_zeros(student: Any, part: Any, rng: Any) -> None:
    """Catches a division by the mean square of the row itself, which is 0 here: NaN."""
    with part("zeros alone"):
        dy, x, weight = inputs(rng, (2, 4), np.float32)
        check_formula(student, dy, 0 * x, weight, EPS)
    with part("a row of zeros between two others"):
        dy, x, weight = inputs(rng, (3, 4), np.float32)
        x[1] = 0
        check_formula(student, dy, x, weight, EPS)


def test_heads(student: Any, part: Any, rng: Any) -> None:
    """Catches a mean over all heads of a row, and a weight that every head has for itself."""
    with part("heads that share a weight"):
        check_differences(student, *inputs(rng, (2, 3, 4)), EPS)
    with part("a weight for each head"):
        check_differences(student, *inputs(rng, (2, 3, 4), per_head=True), EPS)
    with part("the weights of heads"):
        check_weight_differences(student, *inputs(rng, (2, 3, 4), per_head=True), EPS)


def test_precision(student: Any, part: Any, rng: Any) -> None:
    """Catches results of another type than the inputs': twice the memory, or digits that are lost on the way."""
    for name, dtype in (("float32", np.float32), ("float64", np.float64)):
        with part(name):
            check_formula(student, *inputs(rng, (4, 48), dtype), EPS)


# How it is checked.


def inputs(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float64, per_head: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random dy and x of a shape, and a weight around 1, of the last axis or of all but the first."""
    dy, x = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    weight = rng.uniform(0.5, 2.0, shape[1:] if per_head else shape[-1:]).astype(dtype)
    return dy, x, weight


def called(student: Any, dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float) -> list[Any]:
    """The student's two results. Raises Failure where they are not two."""
    return two(student.rms_norm_adjoint(dy, x, weight, eps, np))


def two(mine: Any) -> list[Any]:
    """A pair of results. Raises Failure for anything else."""
    if not isinstance(mine, tuple) or len(mine) != 2:
        hint = "return two arrays: dx, and what each row adds to the gradient of the weight"
        raise Failure(f"rms_norm_adjoint: the result is {show(mine)}, and a tuple of two arrays is expected.", hint)
    return list(mine)


def forward(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """RMSNorm as it is defined."""
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def differences(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """The gradient of L = Σ dy · y for each number of x, by finite differences."""
    found = np.empty(x.shape)
    steps = STEP * np.sqrt((x * x).mean(axis=-1) + eps)  # how far r keeps nearly its value
    for place in np.ndindex(x.shape):
        sides = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * steps[place[:-1]]
            sides.append((moved[place], dy[place[:-1]] * forward(moved, weight, eps)[place[:-1]]))
        (up, at_up), (down, at_down) = sides
        found[place] = (at_up - at_down).sum() / (up - down)
    return found


def check_differences(student: Any, dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float) -> None:
    """Compares the student's dx with finite differences."""
    mine, right = called(student, dy, x, weight, eps)[0], differences(dy, x, weight, eps)
    atol = NEAR * float(np.abs(right).max())
    what = f"dx of {x.shape}, beside finite differences"
    same_array(mine, right, what, atol=atol, usual=unlike(right, atol, dx_mistakes(dy, x, weight, eps)), axes=axes(x))


def check_weight_differences(student: Any, dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float) -> None:
    """Compares what a row adds to the weight's gradient with finite differences: y is linear in the weight."""
    mine = called(student, dy, x, weight, eps)[1]
    right = dy * (forward(x, weight + 0.5, eps) - forward(x, weight - 0.5, eps))
    atol = NEAR * float(np.abs(right).max())
    what = f"the second result for {x.shape}, beside finite differences"
    same_array(mine, right, what, atol=atol, usual=unlike(right, atol, row_mistakes(dy, x, weight, eps)), axes=axes(x))


def check_formula(student: Any, dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float) -> None:
    """Compares both results with the formula in float64, within the rounding of the inputs' type."""
    mine, wide = called(student, dy, x, weight, eps), (dy.astype(float), x.astype(float), weight.astype(float))
    mistakes = [dx_mistakes(*wide, eps), row_mistakes(*wide, eps)]
    for name, result, right, most, usual in zip(
        ("dx", "the second result"), mine, gradients(*wide, eps), largest_terms(*wide, eps), mistakes, strict=True
    ):
        atol = 2 * (x.shape[-1] + 10) * U[x.dtype.name] * most  # sums of n terms, and some ten operations
        right, what = right.astype(x.dtype), f"{name} for {x.shape} in {x.dtype}"
        same_array(result, right, what, atol=atol, usual=unlike(right, atol, usual), axes=axes(x))


def gradients(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Both results by the chain rule: the derivative of y[i] = x[i] · r · weight[i] needs that of r, -r³ · x[j] / n."""
    r = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    through_r = (dy * weight * x).sum(axis=-1, keepdims=True) * (-(r**3) * x / x.shape[-1])
    return dy * weight * r + through_r, dy * x * r


def largest_terms(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float) -> tuple[float, float]:
    """The largest numbers on the way to each result: what is rounded is as large as they are."""
    r = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    g = np.abs(dy * weight)
    through_r = np.abs(x) * r**3 * (g * np.abs(x)).mean(axis=-1, keepdims=True)
    return float((g * r + through_r).max()), float(np.abs(dy * x * r).max())


def axes(x: np.ndarray) -> tuple[str, ...]:
    """What the axes of x count."""
    return ("row", *("head",) * (x.ndim - 2), "number")


def unlike(right: np.ndarray, atol: float, usual: Iterable[tuple[np.ndarray, str]]) -> Usual:
    """The usual mistakes whose results are not the right ones: with some inputs a mistake changes nothing."""
    with np.errstate(all="ignore"):  # some mistakes divide by 0
        other = [(a.astype(right.dtype), hint) for a, hint in usual]
    return [(a, hint) for a, hint in other if a.shape != right.shape or not np.allclose(a, right, rtol=0, atol=atol)]


# The usual mistakes.


def dx_mistakes(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float) -> Iterator[tuple[np.ndarray, str]]:
    """What usual mistakes give for dx."""
    n, squares = x.shape[-1], mean(x * x)
    r, g = 1 / np.sqrt(squares + eps), dy * weight
    through_r = x * (r * r * mean(g * x))  # what dx has less than r · g, divided by r
    yield r * g, "the second term is missing: r was made of all numbers of the row, so it changes with each of them"
    yield r * (g + through_r), "the second term is subtracted: a larger x makes r smaller"
    yield r * (g - n * through_r), "g · x is summed: its mean is asked for"
    yield r * (g - through_r / r), "r stands once too few in the second term: the derivative of r has r³"
    yield r * (g - through_r * r), "r stands once too often in the second term: the derivative of r has r³"
    yield r * (g - through_r / r**2), "r² is missing in the second term: the derivative of r has r³"
    yield g - through_r, "the factor r is missing: x is divided by the root in y, and so is its gradient"
    hint = "the weight is missing: y was multiplied by it, and so is its gradient, before the mean is taken"
    yield r * (dy - x * (r * r * mean(dy * x))), hint
    yield r * (g - x * (r * r * mean(dy * x))), "the mean is of g · x, with the weight in it, not of dy · x"
    hint = "the weight comes too late: it multiplies dy before the mean is taken, g = dy · weight"
    yield r * (dy - x * (r * r * mean(dy * x))) * weight, hint
    hint = "the mean of a product is not the product of the means: mean(g · x)"
    yield r * (g - x * (r * r * mean(g) * mean(x))), hint
    yield r * (g - g * (r * r * mean(x * x))), "the second term points along x: x · mean(g · x), not g · mean(x²)"
    yield r * (g - mean(g) - through_r), "the mean of g is subtracted, as in LayerNorm's gradient: RMSNorm has no mean"
    yield dy * x * r, "this is the gradient of the weight: dx comes first"
    yield x * r * weight, "this is y itself: its gradient for x is asked for"
    yield -r * (g - through_r), "the sign is the other way round"
    yield from epsilon_mistakes(x, g, eps)
    yield from axis_mistakes(x, g, eps)


def epsilon_mistakes(x: np.ndarray, g: np.ndarray, eps: float) -> Iterator[tuple[np.ndarray, str]]:
    """What dx is with epsilon in a wrong place."""
    squares = mean(x * x)
    right, without, outside = 1 / np.sqrt(squares + eps), 1 / np.sqrt(squares), 1 / (np.sqrt(squares) + eps)
    for r, hint in (
        (without, "epsilon is left out: r = 1 / sqrt(mean(x²) + eps)"),
        (outside, "epsilon stands outside of the root: r = 1 / sqrt(mean(x²) + eps)"),
        (1 / np.sqrt(squares + eps**2), "epsilon is squared: it is added to the mean of the squares as it is"),
    ):
        yield r * (g - x * (r * r * mean(g * x))), hint
    hint = "epsilon is missing in the second term: divide by mean(x²) + eps there, too, which is r² once more"
    yield right * (g - x * (mean(g * x) / squares)), hint
    yield right * g - x * (without**3 * mean(g * x)), hint


def axis_mistakes(x: np.ndarray, g: np.ndarray, eps: float) -> Iterator[tuple[np.ndarray, str]]:
    """What dx is with means along other axes than the last."""
    others: list[tuple[Any, str]] = [(None, "the mean runs over all rows: each row has its own, along the last axis")]
    others += [(0, "the mean runs over the rows: it runs along a row, the last axis")]
    hint = "the mean runs over all heads of a row: each head is normalized by itself, along the last axis"
    others += [(tuple(range(1, x.ndim)), hint), (1, hint)] * (x.ndim > 2)
    right = 1 / np.sqrt(mean(x * x) + eps)
    for axis, hint in others:
        r = 1 / np.sqrt((x * x).mean(axis=axis, keepdims=True) + eps)
        yield r * (g - x * (r * r * (g * x).mean(axis=axis, keepdims=True))), hint
        yield r * (g - x * (r * r * mean(g * x))), hint
        yield right * (g - x * (right * right * (g * x).mean(axis=axis, keepdims=True))), hint


def row_mistakes(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float) -> Iterator[tuple[np.ndarray, str]]:
    """What usual mistakes give for the second result."""
    squares = mean(x * x)
    r = 1 / np.sqrt(squares + eps)
    right = dy * x * r
    summed = "it is summed over rows: give it row by row, since the caller knows which axes share a weight"
    yield from ((right.sum(axis=tuple(range(i))), summed) for i in range(1, x.ndim))
    yield from ((right.sum(axis=tuple(range(i)), keepdims=True), summed) for i in range(1, x.ndim))
    yield right * weight, "the weight is there once too often: y = x · r · weight is linear in it"
    yield dy * x, "r is missing: what the weight multiplies is x · r, not x"
    yield x * r, "dy is missing: this is what the weight multiplies"
    yield dy * weight * r, "this is the first term of dx: the weight's gradient is dy times what the weight multiplies"
    yield dx_of(dy, x, weight, r), "this is dx, which comes first"
    yield dy * x / np.sqrt(squares), "epsilon is left out: r = 1 / sqrt(mean(x²) + eps)"
    yield dy * x / (np.sqrt(squares) + eps), "epsilon stands outside of the root: r = 1 / sqrt(mean(x²) + eps)"
    others: tuple[Any, ...] = (None, 0, 1, tuple(range(1, x.ndim)))
    for axis in others:
        other = 1 / np.sqrt((x * x).mean(axis=axis, keepdims=True) + eps)
        yield dy * x * other, "the mean of r runs along another axis than the last"


def dx_of(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The first result, right."""
    return r * (dy * weight - x * (r * r * mean(dy * weight * x)))


def mean(x: np.ndarray) -> np.ndarray:
    """The mean of each row, which keeps its axis."""
    return x.mean(axis=-1, keepdims=True)
