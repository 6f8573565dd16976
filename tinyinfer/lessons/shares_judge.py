"""Lesson 20: an MLP divided among ranks, and the judge of a student's lines about it.

Any division is right with which the ranks' terms add up to the whole MLP, each weight is one rank's, and no rank has
much more than another. So a student may take neurons in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyinfer.lessons.exercise import Wrong
from tinyinfer.parallel.comm import sizes
from tinyinfer.units import show

Matrices = tuple[np.ndarray, np.ndarray, np.ndarray]  # gate (F, D), up (F, D), down (D, F)
CASES = ((12, 3), (12, 4), (10, 3), (11, 4), (7, 2), (6, 1))  # neurons, ranks
WIDTH, ROWS = 5, 4


def shares(
    gate: np.ndarray, up: np.ndarray, down: np.ndarray, rank: int, n: int
) -> Matrices:  # (F, D), (F, D), (D, F) -> (f, D), (f, D), (D, f)
    """The part of an MLP that a rank of n has: f of its neurons."""
    first, stop = rank * len(gate) // n, (rank + 1) * len(gate) // n
    return gate[first:stop], up[first:stop], down[:, first:stop]


def mlp(
    x: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray
) -> np.ndarray:  # (T, D), (F, D), (F, D), (D, F) -> (T, D)
    """The whole MLP, or a rank's term of it: down(silu(gate(x)) · up(x))."""
    h = x @ gate.T  # (T, F)
    return np.asarray((h / (1 + np.exp(-h)) * (x @ up.T)) @ down.T)


def matrices(neurons: int, width: int = WIDTH) -> Matrices:  # -> (F, D), (F, D), (D, F)
    """Some MLP: no neuron is like another."""
    rng = np.random.default_rng(neurons)
    return rng.normal(size=(neurons, width)), rng.normal(size=(neurons, width)), rng.normal(size=(width, neurons))


def judge_shares(answer: Any) -> Wrong | None:
    """The student's parts for several numbers of neurons and ranks."""
    if not callable(answer):
        return Wrong(f"{show(answer)} is not a function.", "keep the line that begins with `def`")
    for neurons, n in CASES:
        whole = matrices(neurons)
        parts = [answer(*(matrix.copy() for matrix in whole), rank, n) for rank in range(n)]
        if wrong := _form(parts) or _slip(parts, whole, n) or _sums(parts, whole, n):
            return wrong
    return None


def _form(parts: list[Any]) -> Wrong | None:
    """What is no part of an MLP: not three matrices, or matrices that do not fit each other."""
    for rank, part in enumerate(parts):
        if not isinstance(part, tuple | list) or len(part) != 3 or not all(isinstance(m, np.ndarray) for m in part):
            return Wrong("The function did not return three matrices.", "return the parts of gate, up and down")
        if any(matrix.ndim != 2 for matrix in part):
            return Wrong("A part is no matrix any more.", "slices keep both axes")
        gate, up, down = part
        if gate.shape[1] == WIDTH and down.shape[0] != WIDTH and gate.shape[0] != down.shape[1]:
            hint = "each neuron of a rank multiplies one column of down: its inputs are divided, and no output"
            return Wrong(f"Rank {rank} has {len(gate)} neurons, and outputs of down instead of inputs.", hint)
        if gate.shape[1] != WIDTH:
            hint = "silu needs the whole sum over the inputs: silu(a) + silu(b) is not silu(a + b)"
            return Wrong("The inputs of gate are divided, and so each rank has terms in place of neurons.", hint)
        if gate.shape != up.shape or down.shape != gate.shape[::-1]:
            hint = "a rank has the same neurons in all three: rows of gate and up, columns of down"
            return Wrong(f"On rank {rank} gate is {gate.shape}, up {up.shape} and down {down.shape}.", hint)
    return None


def _slip(parts: list[Matrices], whole: Matrices, n: int) -> Wrong | None:
    """Weights that no rank has, that several have, or that one rank has too many of."""
    neurons = len(whole[0])
    each = [len(gate) for gate, _, _ in parts]
    if n > 1 and each == [neurons] * n:
        return Wrong("Every rank has the whole MLP.", "of F neurons each of the n ranks has about F / n: which?")
    if sum(each) < neurons:
        hint = "where n does not divide the neurons, some ranks have one more: r * F // n is a good border"
        return Wrong(f"Of {neurons} neurons {n} ranks have {sum(each)} together.", hint)
    if sum(each) > neurons:
        return Wrong(f"Of {neurons} neurons {n} ranks have {sum(each)}.", "each neuron belongs to one rank")
    if max(each) > sizes(neurons, n)[0]:
        hint = "the slowest rank decides how long a step takes: no two shares differ by more than one neuron"
        return Wrong(f"{n} ranks have {', '.join(map(str, each))} of {neurons} neurons.", hint)
    return None


def _sums(parts: list[Matrices], whole: Matrices, n: int) -> Wrong | None:
    """Terms that do not add up to the MLP."""
    x = np.random.default_rng(1).normal(size=(ROWS, WIDTH))  # (T, D)
    found, truth = sum(mlp(x, *part) for part in parts), mlp(x, *whole)  # (T, D), (T, D)
    if np.allclose(found, truth, atol=1e-9):
        return None
    owned = [_neurons(parts, whole, which) for which in range(3)]
    for (one, other), sentence, hint in MIXED:
        if owned[one] != owned[other] and not any(None in some for some in owned[one] + owned[other]):
            return Wrong(sentence, hint)
    hint = "rows of gate and up, columns of down, and nothing of their numbers changed"
    return Wrong(f"The terms of {n} ranks do not add up to the whole MLP.", hint)


def _neurons(parts: list[Matrices], whole: Matrices, which: int) -> list[list[int | None]]:
    """Of each rank, which neurons of a matrix it has, by their weights; None for other weights."""
    [of_whole, *of_parts] = [one[which].T if which == DOWN else one[which] for one in (whole, *parts)]
    known = {row.tobytes(): i for i, row in enumerate(of_whole)}
    return [[known.get(row.tobytes()) for row in one] for one in of_parts]


GATE, UP, DOWN = range(3)
MIXED: tuple[tuple[tuple[int, int], str, str], ...] = (
    (
        (GATE, UP),
        "A rank's neurons of gate are others than its neurons of up.",
        "a neuron is a row of gate times the same row of up",
    ),
    (
        (GATE, DOWN),
        "A rank's columns of down belong to other neurons than its rows of gate.",
        "neuron i is row i of gate and up, and column i of down: take the same neurons of all three",
    ),
)

Divide = Callable[[np.ndarray, np.ndarray, np.ndarray, int, int], Matrices]
