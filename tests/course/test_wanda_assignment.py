"""The tests of the assignment wanda are fair to other right solutions, and no answer stops the grader."""

from __future__ import annotations

import pytest
from planted_bugs import outcomes

from tinyinfer.course.assignment import assignment

A = assignment("wanda")
LOOPS = """
import numpy as np
from fractions import Fraction

class Pattern:
    def __init__(self, share, kept_of=None):
        self.share, self.kept_of = share, kept_of

    def divides(self, inputs):
        return self.kept_of is None or inputs % self.kept_of[1] == 0

    def kept(self, scores):
        if self.kept_of is None:
            return np.logical_not(lowest(scores.ravel(), self.share)).reshape(scores.shape)
        keep, group = self.kept_of
        if not self.divides(scores.shape[1]):
            raise ValueError(f"{keep}:{group}")
        out = np.zeros(scores.shape, bool)
        for n, row in enumerate(scores):
            for first in range(0, len(row), group):
                best = sorted(range(first, first + group), key=lambda m: -row[m])[:keep]
                out[n, best] = True
        return out

def lowest(scores, share):
    count = int(Fraction(share).limit_denominator(10_000) * scores.shape[-1])
    ranks = np.argsort(np.argsort(scores, axis=-1, kind="stable"), axis=-1)
    return ranks < count

def wanda(w, hessian, pattern):
    scores = w.astype(float) ** 2 * hessian.diagonal()
    if pattern.kept_of is not None:
        return w * pattern.kept(scores)
    pruned = w.copy()
    for row, score in zip(pruned, scores):
        row[lowest(score, pattern.share)] = 0
    return pruned
"""


@pytest.mark.parametrize("who", ["ada", "grace", "alan"])
def test_a_right_solution_gets_full_marks_with_any_seed(who, tmp_path):
    """Catches a test that asks for our arithmetic: roots or squares, argsort once or twice, -0.0 or 0."""
    found = outcomes(A, LOOPS, tmp_path, who)
    assert {test: o.faults for test, o in found.items() if o.score(1) < 1} == {}


@pytest.mark.parametrize(
    "value",
    ["None", "first[..., :1]", "first.astype('S8')", "first * np.nan", "[first]", "'all'", "first.T", "np.array(1)",
     "first.astype(complex)", "first > 0"],
)  # fmt: skip
def test_a_strange_answer_costs_points_and_never_stops_the_grader(value, tmp_path):
    """Catches a test that computes with a result before it has looked at its type and shape."""
    source = f"""
import numpy as np
class Pattern:
    def __init__(self, share, kept_of=None):
        self.share, self.kept_of = share, kept_of
    def kept(self, first):
        return {value}
def lowest(first, share):
    return {value}
def wanda(first, hessian, pattern):
    return {value}
"""
    found = outcomes(A, source, tmp_path)
    assert not [(test, o.faults) for test, o in found.items() if o.of_grader]
    assert sum(o.score(test.points) for test, o in zip(A.tests, found.values(), strict=True)) <= 15
