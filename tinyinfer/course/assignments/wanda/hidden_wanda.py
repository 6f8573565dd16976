"""Hidden tests of the assignment "wanda": the public claims for other matrices, and what no choice may depend on."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from tinyinfer.course.assignments.wanda.test_wanda import (
    check_kept,
    check_lowest,
    check_wanda,
    layer,
    norms_of,
    scores_of,
)
from tinyinfer.course.compare import Failure, same_array

IN_PLACE = "an assignment to `w[...]` or an operator with `=` writes into the caller's array: make a new one"
AXES = ("output", "input")


def test_other_matrices(student: Any, part: Any, rng: Any) -> None:
    """Catches what only one combination of outputs, inputs and pattern breaks."""
    outputs, groups = int(rng.integers(2, 7)), int(rng.integers(2, 6))
    for name, shape, share, kept_of in (
        ("a share of a long row", (outputs, 60 + outputs), 0.7, None),
        ("one output", (1, 10 * groups), 0.3, None),
        ("2:4", (outputs, 4 * groups), 0.5, (2, 4)),
        ("4:8", (outputs, 8 * groups), 0.5, (4, 8)),
    ):
        with part(name):
            check_wanda(student, *layer(rng, *shape, spread=1.5), share, kept_of)


def test_no_choice_costs_less(student: Any, part: Any, rng: Any) -> None:
    """Catches a choice that costs more than another: of inputs that do not hang together, a weight costs w² ‖x‖²."""
    for name, kept_of in (("a share of one half", None), ("2:4", (2, 4))):
        with part(name):
            w, hessian = layer(rng, 3, 8, spread=1.5)
            alone = np.diag(np.diag(hessian))
            mine = matrix(student.wanda(w, alone, student.Pattern(0.5, kept_of)), w)
            costs = (w.astype(np.float64) * norms_of(hessian)) ** 2
            for row, (left, cost) in enumerate(zip(mine, costs, strict=True)):
                check_choice(np.flatnonzero(left == 0).tolist(), cost, kept_of, f"output {row} by {name}")


def check_choice(gone: list[int], cost: np.ndarray, kept_of: tuple[int, int] | None, what: str) -> None:
    """Raises Failure for other than four of eight weights, for groups of another number, and for what costs more."""
    choices = [one for one in combinations(range(8), 4) if kept_of is None or sum(i < 4 for i in one) == 2]
    least, mine = min(cost[list(one)].sum() for one in choices), cost[gone].sum()
    if tuple(gone) not in choices or mine > least * (1 + 1e-5):
        hint = "without the weights that cost least, |w| · ‖x‖, the output moves least"
        raise Failure(f"{what}: the weights {gone} are gone, which cost {mine:.6g}; {least:.6g} is the least.", hint)


def matrix(mine: Any, like: np.ndarray) -> np.ndarray:
    """A result of the right shape and type. Raises Failure for any other."""
    if not isinstance(mine, np.ndarray) or mine.shape != like.shape or mine.dtype != like.dtype:
        hint = "wanda gives the weights that stay, and zeros"
        raise Failure(f"wanda: a matrix of the shape {like.shape} in {like.dtype} is expected.", hint)
    return mine


def test_what_does_not_matter(student: Any, part: Any, rng: Any) -> None:
    """Catches a choice that depends on signs, on the unit of the inputs, on the other outputs, or on their order."""
    w, hessian = layer(rng, 5, 12)
    half, order = student.Pattern(0.5), rng.permutation(5)
    gone = matrix(student.wanda(w, hessian, half), w) == 0
    signs = np.where(rng.random(w.shape) < 0.5, -1, 1).astype(np.float32)
    sizes = 2.0 ** rng.permutation([-8.0, -4.0, 0.0, 4.0, 8.0])[:, None].astype(np.float32)
    for name, other, sums, zeros, hint in (
        ("signs", w * signs, hessian, gone, "a score is made of |w|"),
        ("the unit of the inputs", w, hessian * np.float32(256), gone, "inputs of another unit have the same order"),
        ("the size of an output", (w * sizes).astype(np.float32), hessian, gone, "outputs are not compared"),
        ("the order of outputs", w[order], hessian, gone[order], "an output's choice is its own"),
    ):
        with part(name):
            mine = matrix(student.wanda(other, sums, half), w)
            same_array(mine == 0, zeros, f"the zeros of wanda ({name})", usual=[(mine == 0, hint)], axes=AXES)


def test_inputs_stay_as_they_are(student: Any, part: Any, rng: Any) -> None:
    """Catches weights and sums that are changed in place: a caller may compare what was with what is left."""
    w, hessian = layer(rng, 4, 8)
    for name, kept_of in (("wanda by a share", None), ("wanda by 2:4", (2, 4))):
        with part(name):
            check_wanda(student, w, hessian, 0.5, kept_of)
            _, after = student.after("wanda", w, hessian, student.Pattern(0.5, kept_of))
            untouched(after[0], w, "w after wanda")
            untouched(after[1], hessian, "hessian after wanda")
    scores = scores_of(rng, 4, 8)
    with part("kept"):
        check_kept(student, scores, 0.5, (2, 4))
        _, after = student.after(student.Pattern(0.5, (2, 4)).kept, scores)
        untouched(after[0], scores, "scores after kept")
    with part("lowest"):
        check_lowest(student, scores, 0.5)
        _, after = student.after("lowest", scores, 0.5)
        untouched(after[0], scores, "scores after lowest")


def untouched(after: Any, before: np.ndarray, what: str) -> None:
    """Raises Failure where an argument was changed."""
    if not isinstance(after, np.ndarray) or not np.array_equal(after, before):
        raise Failure(f"{what} is not what it was before.", IN_PLACE)
