"""What the weights that stay can make up for, of lesson 18, and the judges of a student's lines about it.

The oracle of all three is the output itself: of a row w of weights and H = X Xᵀ, ‖(w - w') X‖² = (w - w') H (w - w')ᵀ.
Each usual slip is computed beside the answer, so that a hint names the slip and not only the place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyinfer.lessons.exercise import Wrong, as_number
from tinyinfer.units import show

Row = tuple[np.ndarray, np.ndarray, np.ndarray]  # w (M,), hessian (M, M), kept (M,)
NO_FUNCTION = "keep the line that begins with `def`"


# Our solutions.


def refit(w: np.ndarray, hessian: np.ndarray, kept: np.ndarray) -> np.ndarray:  # (M,), (M, M), (M,) -> (M,)
    """The row with zeros where nothing is kept, and the other weights where the output error is least."""
    new = np.zeros_like(w)
    new[kept] = np.linalg.solve(hessian[kept][:, kept], hessian[kept] @ w)
    return new


def cheapest(w: np.ndarray, hessian: np.ndarray) -> int:  # (M,), (M, M) ->
    """The weight whose removal leaves the least output error, once the others have made up for it."""
    return int(np.argmin(w**2 / np.diag(np.linalg.inv(hessian))))


def influence(before: np.ndarray, after: np.ndarray) -> float:  # (T, M), (T, M) ->
    """How far a layer turns its rows: 1 minus the mean cosine of a row before and after it."""
    cosines = (before * after).sum(axis=1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    return float(1 - cosines.mean())


# Rows that are unlike each other.


def examples(count: int = 8, inputs: int = 8) -> list[Row]:
    """Rows of M weights with correlated inputs, each with another choice of those that stay."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=(40, 3)) @ rng.normal(size=(3, inputs))  # (T, M)
        x = (shared + 0.5 * rng.normal(size=(40, inputs))) * rng.uniform(0.3, 3, inputs)  # (T, M)
        kept = rng.permutation(inputs) >= (1 if seed == 0 else inputs // 2)  # (M,)
        found.append((rng.normal(size=inputs), x.T @ x, kept))
    return found


def squared_error(w: np.ndarray, new: np.ndarray, hessian: np.ndarray) -> float:  # (M,), (M,), (M, M) ->
    """‖(w - w') X‖², for the X whose X Xᵀ is given."""
    return float((w - new) @ hessian @ (w - new))


# The judge of `refit`.


def judge_refit(answer: Any) -> Wrong | None:
    """The student's weights beside the exact least squares, and beside those of each usual slip."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", NO_FUNCTION)
    for row in examples():
        if wrong := _refit_of(answer, row):
            return wrong
    return None


def _refit_of(answer: Any, row: Row) -> Wrong | None:
    w, hessian, kept = row
    given = answer(w.copy(), hessian.copy(), kept.copy())
    if given is None:
        return Wrong("The function returned None.", "end it with `return new`")
    if not isinstance(given, np.ndarray) or given.shape != w.shape or given.dtype.kind != "f":
        shape = f"an array of shape {given.shape}" if isinstance(given, np.ndarray) else show(given)[:60]
        return Wrong(f"The function returned {shape}.", "return all weights of the row, with zeros among them")
    if _same(given, refit(*row)):
        return None
    for made, sentence, hint in REFITS:
        if _same(given, made(*row)):
            return Wrong(sentence, hint)
    if np.abs(given[~kept]).max() > 0:
        i = int(np.flatnonzero(~kept)[np.abs(given[~kept]).argmax()])
        return Wrong(f"Weight {i} is gone, but it is {given[i]:.3g}.", "begin with zeros, and write to `new[kept]`")
    if not np.isfinite(given).all():
        return Wrong("Some weights are not finite.", "solve the equations of the weights that stay, and no others")
    mine, least = (squared_error(w, new, hessian) for new in (given, refit(*row)))
    hint = "where the error is least, `hessian[kept] @ (new - w)` is zero: check yours"
    return Wrong(f"Its squared output error is {mine:.4g}; the least is {least:.4g}.", hint)


def _same(a: np.ndarray, b: np.ndarray) -> bool:  # (M,), (M,) ->
    """Whether two rows are the same weights, whichever solver they come from; NaN is like nothing."""
    return bool(np.abs(a - b).max() <= 1e-4 * np.abs(b).max())


def _wrong_way(w: np.ndarray, hessian: np.ndarray, kept: np.ndarray) -> np.ndarray:  # (M,), (M, M), (M,) -> (M,)
    return 2 * w * kept - refit(w, hessian, kept)


def _alone(w: np.ndarray, hessian: np.ndarray, kept: np.ndarray) -> np.ndarray:  # (M,), (M, M), (M,) -> (M,)
    return hessian @ w / np.diag(hessian) * kept


def _one_by_one(w: np.ndarray, hessian: np.ndarray, kept: np.ndarray) -> np.ndarray:  # (M,), (M, M), (M,) -> (M,)
    inverse = np.linalg.inv(hessian)  # (M, M)
    return (w - inverse[:, ~kept] @ (w / np.diag(inverse))[~kept]) * kept


def _of_the_gone(w: np.ndarray, hessian: np.ndarray, kept: np.ndarray) -> np.ndarray:  # (M,), (M, M), (M,) -> (M,)
    new = np.zeros_like(w)
    new[kept] = np.linalg.solve(hessian[kept][:, kept], hessian[kept][:, ~kept] @ w[~kept])
    return new


REFITS: tuple[tuple[Callable[..., np.ndarray], str, str], ...] = (
    (
        lambda w, hessian, kept: w * kept,
        "The weights that stay have not moved.",
        "aim at the outputs of the whole row: `hessian[kept] @ w`, with the weights that go still in `w`",
    ),
    (
        _wrong_way,
        "The weights that stay have moved the wrong way.",
        "they take over what the others did, and do not take it away once more: mind the sign",
    ),
    (
        _alone,
        "Each weight was fitted by itself, as if no other stayed.",
        "the weights that stay share the work: solve their equations together, `hessian[kept][:, kept]`",
    ),
    (
        _one_by_one,
        "Each removal was made up for as if it were the only one.",
        "some of the weights that make up for it go, too: solve for the weights that stay, all at once",
    ),
    (
        _of_the_gone,
        "The weights that stay do the work of those that go, and no longer their own.",
        "add the result to `w[kept]`, or aim at all outputs: `hessian[kept] @ w`",
    ),
)


# The judge of `cheapest`.


def judge_cheapest(answer: Any) -> Wrong | None:
    """The student's choices in several rows beside those of the exact costs, and beside those of each usual slip."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", NO_FUNCTION)
    rows = [(w, hessian) for w, hessian, _ in examples()]
    answers = [as_number(answer(w.copy(), hessian.copy())) for w, hessian in rows]
    given = [one for one in answers if one is not None]
    if len(given) < len(rows):
        return Wrong("The function returned no number.", "return the number of one weight, from 0 on")
    if given == [cheapest(*row) for row in rows]:
        return None
    for made, sentence, hint in CHOICES:
        if given == [int(np.argmin(made(*row))) for row in rows]:
            return Wrong(sentence, hint)
    i = next(i for i, row in enumerate(rows) if given[i] != cheapest(*row))
    mine, least = given[i], cheapest(*rows[i])
    if mine not in range(len(rows[i][0])):
        return Wrong(f"{mine:g} is the number of no weight.", "of M weights the first one is 0, the last one M - 1")
    hint = "remove each weight alone, let the others make up for it, and compare the errors that are left"
    costs = [_cost(*rows[i], int(one)) for one in (mine, least)]
    return Wrong(f"In one row you chose weight {mine:g}, which costs {costs[0]:.3g}; one costs {costs[1]:.3g}.", hint)


def _cost(w: np.ndarray, hessian: np.ndarray, i: int) -> float:  # (M,), (M, M) ->
    """What removing a weight costs, once the others have made up for it."""
    return squared_error(w, refit(w, hessian, np.arange(len(w)) != i), hessian)


CHOICES: tuple[tuple[Callable[..., np.ndarray], str, str], ...] = (
    (
        lambda w, hessian: np.abs(w),
        "That is the smallest weight.",
        "a small weight of a large input may cost much: look at `hessian`, too",
    ),
    (
        lambda w, hessian: w**2 * np.diag(hessian),
        "That is Wanda's choice: what a removal costs while all others stay as they are.",
        "here the others make up for it: call `mine` with one weight gone, and look at the error that is left",
    ),
    (
        lambda w, hessian: w**2 * np.diag(np.linalg.inv(hessian)),
        "That multiplies by the inverse's diagonal.",
        "does a removal cost more or less where the others can make up for it? the inverse's diagonal is large there",
    ),
    (
        lambda w, hessian: -(w**2) / np.diag(np.linalg.inv(hessian)),
        "That is the weight that costs most.",
        "the least: `np.argmin`",
    ),
)


# The judge of `influence`.


def judge_influence(answer: Any) -> Wrong | None:
    """The student's numbers for rows that turn by known angles, and those of each usual slip."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", NO_FUNCTION)
    for before, after in turned():
        given, truth = as_number(answer(before.copy(), after.copy())), influence(before, after)
        if given is None:
            return Wrong("The function returned no number.", "return one number for all rows: a mean")
        if abs(given - truth) <= 1e-4:
            continue
        for made, sentence, hint in INFLUENCES:
            if abs(given - made(before, after)) <= 1e-4 * max(1, abs(given)):
                return Wrong(sentence, hint)
        hint = "the cosine of two rows: their product, over the lengths of both"
        return Wrong(f"For {len(before)} rows it is {given:.4g}, not {truth:.4g}.", hint)
    return None


def turned() -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows (T, M) before and after a layer: one that turns them and makes some longer, one that does not."""
    rng = np.random.default_rng(1)
    before = rng.normal(size=(5, 7)) * np.array([[1], [2], [0.5], [3], [30]])  # (T, M)
    change = rng.normal(size=(5, 7)) * np.array([[1], [4], [0.1], [2], [0.3]])  # (T, M)
    change[3] -= 2.5 * before[3]  # a row that turns back
    return [(before, before + change), (before, 2 * before)]


def _cosines(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:  # (T, M), (T, M) -> (...,)
    return (a * b).sum(axis=axis) / np.linalg.norm(a, axis=axis) / np.linalg.norm(b, axis=axis)


def _lengths(rows: np.ndarray) -> np.ndarray:  # (T, M) -> (T,)
    return np.linalg.norm(rows, axis=1)


INFLUENCES: tuple[tuple[Callable[[np.ndarray, np.ndarray], float], str, str], ...] = (
    (
        lambda a, b: _cosines(a, b, 1).mean(),
        "That is the mean cosine itself: large where a layer changes little.",
        "a layer that turns nothing has the influence 0: subtract from 1",
    ),
    (
        lambda a, b: 1 - _cosines(a, b, 0).mean(),
        "The cosines are those of columns.",
        "a row is one token: sum along the last axis, `axis=1`",
    ),
    (
        lambda a, b: 1 - _cosines(a.ravel()[None], b.ravel()[None], 1)[0],
        "That is one cosine of all rows together, in which long rows count most.",
        "a cosine for each row first, then their mean",
    ),
    (
        lambda a, b: 1 - np.abs(_cosines(a, b, 1)).mean(),
        "A row that turns back counts like one that stays.",
        "the cosine is negative there: leave its sign as it is",
    ),
    (
        lambda a, b: (1 - _cosines(a, b, 1)).sum(),
        "That is a sum over the rows.",
        "the mean: else a longer text has more influence",
    ),
    (
        lambda a, b: 1 - (a * b).sum(axis=1).mean(),
        "The product is not divided by the lengths.",
        "divide each row's product by the lengths of both rows: `np.linalg.norm(before, axis=1)`",
    ),
    (
        lambda a, b: (_lengths(b - a) / _lengths(a)).mean(),
        "That is the length of the change, not the angle.",
        "a layer that makes a row twice as long has not turned it: use the cosine",
    ),
)
