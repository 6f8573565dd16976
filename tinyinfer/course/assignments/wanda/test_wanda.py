"""Public tests of the assignment "wanda": each names the bug that it catches.

Scores are made so that no two of an output, or of a group, are nearer than some percent, except where a test is about
equal ones. So another order of operations changes no choice, and zeros are compared exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tinyinfer.course.compare import Failure, same_array
from tinyinfer.course.student import StudentError, hinting
from tinyinfer.units import show

pytest_plugins = ["tinyinfer.course.pytest_plugin"]

Usual = Iterable[tuple[np.ndarray, str]]
AXES = ("output", "input")
APART = 1.07  # quotient of neighbouring scores


# The lowest scores.


def test_lowest(student: Any, part: Any, rng: Any) -> None:
    """Catches the highest in place of the lowest, another axis than the last, and a share that is rounded wrongly."""
    with part("one row"):
        for share, count in ((0.5, 10), (0.29, 100), (0.57, 100), (0.29, 10), (0.05, 10), (0.999, 10), (0.3, 7)):
            check_lowest(student, rng.permutation(count).astype(np.float64), share)
    with part("several rows"):
        check_lowest(student, rng.permutation(24).reshape(4, 6).astype(np.float64), 0.5)
    with part("rows of groups"):
        check_lowest(student, rng.permutation(48).reshape(2, 6, 4).astype(np.float32), 0.75)


def test_equal_scores(student: Any, part: Any, rng: Any) -> None:
    """Catches a threshold, which takes all equal scores together."""
    with part("all equal"):
        check_lowest(student, np.ones(64), 0.5)
    with part("some equal at the border"):
        scores = np.full((3, 40), 2.0)
        scores[:, rng.permutation(40)[:8]] = 1.0
        scores[:, rng.permutation(40)[:8]] = 3.0
        check_lowest(student, scores, 0.5)


def check_lowest(student: Any, scores: np.ndarray, share: float) -> None:
    """Compares the student's `lowest` with the right mask."""
    count, places = count_of(scores.shape[-1], share), tuple(f"axis {i}, place" for i in range(scores.ndim))
    mine, right = student.lowest(scores, share), chosen(scores, count)
    what = f"lowest of {scores.shape}, share {share}"
    same_array(mine, right, what, usual=unlike(right, lowest_mistakes(scores, share, count)), axes=places)


def count_of(length: int, share: float) -> int:
    """How many scores of a row a share is: by whole thousandths, which have no rounding."""
    return length * round(share * 1000) // 1000


def chosen(scores: np.ndarray, count: int) -> np.ndarray:
    """True for the `count` lowest scores of each row; of equal ones for the first. One row at a time."""
    found = np.zeros(scores.shape, bool)
    for place in np.ndindex(scores.shape[:-1]):
        ranked = sorted(range(scores.shape[-1]), key=lambda i: (scores[place][i], i))
        found[place][ranked[:count]] = True
    return found


def lowest_mistakes(scores: np.ndarray, share: float, count: int) -> Iterator[tuple[np.ndarray, str]]:
    """The masks that usual mistakes of `lowest` give."""
    length, right = scores.shape[-1], chosen(scores, count)
    yield ~right, "True stands for the scores that go, the lowest"
    yield chosen(-scores, count), "these are the highest scores: the lowest are asked for"
    edge = np.sort(scores, axis=-1)
    threshold = "a threshold takes equal scores together: take as many as the share says, by their places"
    yield scores <= edge[..., max(0, count - 1), None], threshold
    yield scores < edge[..., min(count, length - 1), None], threshold
    hint = "of equal scores the first ones go: argsort has kind='stable'"
    yield chosen(scores[..., ::-1], count)[..., ::-1], hint
    yield np.argsort(scores, axis=-1, kind="stable") < count, "argsort gives places, not ranks: write True at these"
    yield np.sort(right, axis=-1)[..., ::-1], "the mask lies in sorted order: argsort tells which place each rank has"
    hint = "a last bit is missing: 0.29 · 100 is a little less than 29 in a computer, and 29 are meant"
    yield chosen(scores, int(length * share)), hint
    yield chosen(scores, round(length * share)), "the share is rounded down, not to the nearest"
    yield chosen(scores, count + 1), "one too many: the share is rounded down"
    everywhere = chosen(scores.reshape(1, -1), count_of(scores.size, share)).reshape(scores.shape)
    yield everywhere, "all scores are compared: only those along the last axis are"
    if scores.ndim > 1:
        moved = np.swapaxes(scores, 0, -1)
        other = np.swapaxes(chosen(moved, count_of(moved.shape[-1], share)), 0, -1)
        yield other, "the scores are compared along the first axis, not along the last"


def unlike(right: np.ndarray, usual: Usual) -> Usual:
    """The usual mistakes whose results are not the right ones: with some inputs a mistake changes nothing."""
    return [(value, hint) for value, hint in usual if not np.array_equal(value, right)]


# The pattern.


def test_share_of_a_matrix(student: Any, part: Any, rng: Any) -> None:
    """Catches a share that is taken of each output, where all weights of the matrix are compared."""
    with part("outputs of different sizes"):
        scores = scores_of(rng, 4, 8) * np.array([[1.0], [1e3], [1e-3], [1.0]])
        check_kept(student, scores, 0.5, None)
    with part("a share that leaves few"):
        check_kept(student, rng.permutation(60).reshape(6, 10) + 1.0, 0.9, None)


def test_two_of_four(student: Any, part: Any, rng: Any) -> None:
    """Catches groups down the outputs, groups of every other input, and 1:4 of which 1 goes."""
    with part("2:4"):
        check_kept(student, scores_of(rng, 4, 16), 0.5, (2, 4))
    with part("1:4 and 3:8"):
        check_kept(student, scores_of(rng, 8, 16), 0.75, (1, 4))
        check_kept(student, scores_of(rng, 8, 24), 0.625, (3, 8))
    with part("a pattern that does not divide"):
        pattern = student.Pattern(0.5, (2, 4))
        try:
            with hinting("AttributeError", "raise ValueError where self.divides(...) is False"):
                mine = pattern.kept(scores_of(rng, 4, 6))
        except StudentError as error:
            if error.kind != "ValueError":
                raise
        else:
            hint = "raise ValueError where self.divides(...) is False: 6 inputs of an output are no groups of 4"
            raise Failure(f"kept of (4, 6) by 2:4: the result is {show(mine)}, and a ValueError is expected.", hint)
        check_kept(student, scores_of(rng, 6, 4), 0.5, (2, 4))


def check_kept(student: Any, scores: np.ndarray, share: float, kept_of: tuple[int, int] | None) -> None:
    """Compares the student's `kept` with the right mask."""
    mine, right = student.Pattern(share, kept_of).kept(scores), right_kept(scores, share, kept_of)
    what = f"kept of {scores.shape} by {named(share, kept_of)}"
    same_array(mine, right, what, usual=unlike(right, kept_mistakes(scores, share, kept_of)), axes=AXES)


def named(share: float, kept_of: tuple[int, int] | None) -> str:
    """A pattern in words."""
    return f"{kept_of[0]}:{kept_of[1]}" if kept_of else f"a share of {share}"


def right_kept(scores: np.ndarray, share: float, kept_of: tuple[int, int] | None) -> np.ndarray:
    """Which weights stay: of all of a matrix, or of every group of an output."""
    if kept_of is None:
        return ~chosen(scores.reshape(1, -1), count_of(scores.size, share)).reshape(scores.shape)
    keep, group = kept_of
    kept = [~chosen(scores[:, i : i + group], group - keep) for i in range(0, scores.shape[1], group)]
    return np.concatenate(kept, axis=1)


def kept_mistakes(
    scores: np.ndarray, share: float, kept_of: tuple[int, int] | None
) -> Iterator[tuple[np.ndarray, str]]:
    """The masks that usual mistakes of `kept` give."""
    yield ~right_kept(scores, share, kept_of), "True stands for the weights that stay: those that score high"
    yield right_kept(-scores, share, kept_of), "the weights that score high stay, and the low ones go"
    by_output = ~chosen(scores, count_of(scores.shape[1], share))
    if kept_of is None:
        yield by_output, "each output loses the same share: here all weights of the matrix are compared"
        by_input = ~chosen(scores.T, count_of(len(scores), share)).T
        yield by_input, "each input loses the same share: here all weights of the matrix are compared"
        return
    yield from group_mistakes(scores, kept_of)
    hint = "the pattern is ignored: so many stay of every group, not of a whole output or matrix"
    yield by_output, hint
    yield right_kept(scores, share, None), hint


def group_mistakes(scores: np.ndarray, kept_of: tuple[int, int]) -> Iterator[tuple[np.ndarray, str]]:
    """The masks of groups that lie elsewhere, or that keep another number."""
    (outputs, inputs), (keep, group) = scores.shape, kept_of
    yield right_kept(scores, 0.0, (group - keep, group)), f"{keep}:{group} keeps {keep} of {group}: here so many go"
    every = inputs // group
    apart = scores.reshape(outputs, group, every).swapaxes(1, 2).reshape(outputs, -1)
    kept = right_kept(apart, 0.0, kept_of).reshape(outputs, every, group).swapaxes(1, 2).reshape(outputs, -1)
    yield kept, "a group is neighbouring inputs: reshape to (N, M/group, group), the group on the last axis"
    if outputs % group == 0:
        down = right_kept(np.ascontiguousarray(scores.T), 0.0, kept_of).T
        yield down, "the groups run down the outputs: a group is inputs of one output"


def scores_of(rng: np.random.Generator, outputs: int, inputs: int) -> np.ndarray:
    """Positive scores, of which no two of an output are near each other."""
    return APART ** np.array([rng.permutation(inputs) + rng.random() for _ in range(outputs)])


# Wanda.


def test_wanda_by_share(student: Any, part: Any, rng: Any) -> None:
    """Catches the weight's size alone, the norm squared, norms of outputs, and outputs compared with each other."""
    with part("a few outputs"):
        check_wanda(student, *layer(rng, 3, 8), 0.5, None)
    with part("outputs of different sizes"):
        w, hessian = layer(rng, 4, 10)
        check_wanda(student, w * np.array([[1], [100], [0.01], [10]], np.float32), hessian, 0.3, None)
    with part("as many outputs as inputs"):
        check_wanda(student, *layer(rng, 8, 8), 0.5, None)
    with part("an input that is always zero"):
        w, hessian = layer(rng, 3, 8)
        place = int(rng.integers(8))
        hessian[place] = hessian[:, place] = 0
        check_wanda(student, w, hessian, 0.5, None)


def test_wanda_by_pattern(student: Any, part: Any, rng: Any) -> None:
    """Catches a pattern that is ignored, and one whose groups lie elsewhere."""
    with part("2:4"):
        check_wanda(student, *layer(rng, 8, 16), 0.5, (2, 4))
    with part("1:4"):
        check_wanda(student, *layer(rng, 4, 12), 0.75, (1, 4))


def layer(
    rng: np.random.Generator, outputs: int, inputs: int, spread: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A matrix and the sum of x xᵀ of its inputs, which differ in size by a factor of a hundred and hang together.

    spread: by which power of ten outputs are larger and smaller than others.
    """
    sizes = rng.permutation(np.geomspace(0.1, 10, inputs))
    x = (rng.standard_normal((3 * inputs, inputs)) + rng.standard_normal((3 * inputs, 1))) * sizes  # (T, M)
    hessian = (x.T @ x).astype(np.float32)
    norms = np.sqrt(np.diag(hessian).astype(np.float64))
    signs = np.where(rng.random((outputs, inputs)) < 0.5, -1, 1)
    scale = 10 ** rng.uniform(-spread, spread, (outputs, 1))
    return (signs * scores_of(rng, outputs, inputs) * scale / norms).astype(np.float32), hessian


def check_wanda(
    student: Any, w: np.ndarray, hessian: np.ndarray, share: float, kept_of: tuple[int, int] | None
) -> None:
    """Compares the student's `wanda` with the right matrix."""
    right = right_wanda(w, hessian, share, kept_of)
    mine = student.wanda(w, hessian, student.Pattern(share, kept_of))
    what = f"wanda of {w.shape} by {named(share, kept_of)}"
    same_array(mine, right, what, usual=unlike(right, wanda_mistakes(w, hessian, share, kept_of)), axes=AXES)


def right_wanda(w: np.ndarray, hessian: np.ndarray, share: float, kept_of: tuple[int, int] | None) -> np.ndarray:
    """The matrix without the weights of the lowest scores."""
    return pruned(w, np.abs(w) * norms_of(hessian), share, kept_of)


def norms_of(hessian: np.ndarray) -> np.ndarray:
    """‖x‖ of each input."""
    return np.sqrt(np.diag(hessian).astype(np.float64))


def pruned(w: np.ndarray, scores: np.ndarray, share: float, kept_of: tuple[int, int] | None) -> np.ndarray:
    """The matrix without the weights of the lowest of these scores, output by output or group by group."""
    kept = right_kept(scores, share, kept_of) if kept_of else ~chosen(scores, count_of(w.shape[1], share))
    return np.where(kept, w, np.float32(0))


def wanda_mistakes(
    w: np.ndarray, hessian: np.ndarray, share: float, kept_of: tuple[int, int] | None
) -> Iterator[tuple[np.ndarray, str]]:
    """The matrices that usual mistakes of `wanda` give."""
    zero, scores = np.float32(0), np.abs(w) * norms_of(hessian)
    right = pruned(w, scores, share, kept_of)
    for other, hint in score_mistakes(w, hessian):
        yield pruned(w, other, share, kept_of), hint
    stay = "the weights that score high stay, and the low ones go"
    yield pruned(w, -scores, share, kept_of), stay
    yield np.where(right == 0, w, zero), stay
    for value in (scores.astype(np.float32), np.abs(w) * np.sqrt(np.diag(hessian))):
        yield np.where(right == 0, zero, value), "the weights that stay keep their values: give no scores"
    yield right != 0, "this is the mask: give the weights, and zeros"
    if kept_of is None:
        every = np.where(right_kept(scores, share, None), w, zero)
        yield every, "outputs are compared with each other: of each output the same share goes"
        by_input = np.where(chosen(scores.T, count_of(len(w), share)).T, zero, w)
        yield by_input, "each input loses the same share: of each output the same share goes"
        return
    for kept, hint in kept_mistakes(scores, share, kept_of):
        yield np.where(kept, w, zero), hint


def score_mistakes(w: np.ndarray, hessian: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
    """The scores that usual mistakes give."""
    size, norms = np.abs(w).astype(np.float64), norms_of(hessian)
    alone = "the inputs do not count: a small weight of a large input moves the output, too"
    down = "each input has its norm: norms that are left out, or that run down the outputs, change no choice"
    yield size, down if len(w) == w.shape[1] else alone
    yield size * norms**2, "the diagonal of `hessian` holds squares: its root is the norm"
    yield w * norms, "the sign counts: a score is made of |w|"
    column = "‖x‖ is the root of a number on the diagonal, and not made of a whole column"
    yield size * np.linalg.norm(hessian, axis=0), column
    yield size * np.sqrt(np.abs(hessian.sum(axis=0))), column
    yield size * hessian.sum(axis=0), column
    yield size + norms, "the norm multiplies the weight's size"
    yield size / np.where(norms, norms, 1), "the norm multiplies: a weight of a large input matters more"
