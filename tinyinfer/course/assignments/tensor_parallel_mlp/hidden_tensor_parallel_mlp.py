"""Hidden tests of the assignment "tensor_parallel_mlp": the public claims for other sizes, and arguments that stay."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyinfer.course.assignments.tensor_parallel_mlp.test_tensor_parallel_mlp import (
    check_bytes,
    check_neurons,
    check_parts,
    check_sum,
    check_term,
    mlp,
    rows,
)
from tinyinfer.course.compare import Failure

IN_PLACE = "an operator with `=` writes into its operand: make a new array"


def test_other_divisions(student: Any, part: Any, rng: Any) -> None:
    """Catches what only some numbers of neurons, ranks and units break."""
    ranks, more = int(rng.integers(4, 7)), int(rng.integers(1, 4))
    neurons = 3 * ranks + more
    with part("neurons"):
        check_neurons(student, neurons, ranks, 1)
        check_neurons(student, 8 * neurons - 3, ranks, 8)
    with part("parts"):
        check_parts(student, mlp(rng, neurons, 6), ranks, 1)
    with part("a term"):
        check_term(student, rows(rng, 2, 9), mlp(rng, neurons, 9))
    with part("a sum"):
        check_sum(student, rows(rng, 2, 6), mlp(rng, 4 * neurons - 1, 6), ranks, 4)


def test_more_ranks_than_units(student: Any, part: Any, rng: Any) -> None:
    """Catches a rank without neurons, whose term is zeros."""
    ranks = int(rng.integers(4, 6))
    with part("which neurons"):
        check_neurons(student, 10, ranks, 4)
    with part("a sum"):
        check_sum(student, rows(rng, 2, 3), mlp(rng, 10, 3), ranks, 4)


def test_bytes_of_uneven_parts(student: Any, part: Any, rng: Any) -> None:
    """Catches parts that are all taken for equal, and bytes of another size."""
    ranks = int(rng.integers(4, 8))
    with part("numbers that do not divide"):
        check_bytes(student, 5 * ranks + 1, ranks, 4)
        check_bytes(student, 5 * ranks + 2, ranks, 2)
    with part("fewer numbers than ranks"):
        check_bytes(student, 2, ranks, 4)


def test_inputs_stay_as_they_are(student: Any, part: Any, rng: Any) -> None:
    """Catches matrices or rows that are changed in place: the next token needs them again."""
    whole, x = mlp(rng, 6, 4), rows(rng, 3, 4)
    for name, work, given in (("parts", "mlp_part", (*whole, 1, 2, 1)), ("a term", "mlp_term", (x, *whole))):
        with part(name):
            check_parts(student, whole, 2, 1)
            check_term(student, x, whole)
            _, after = student.after(work, *given)
            for before, then in zip(given, after, strict=True):
                if not isinstance(before, np.ndarray):
                    continue
                if not (isinstance(then, np.ndarray) and np.array_equal(before, then)):
                    raise Failure(f"{work} has changed an argument.", IN_PLACE)
