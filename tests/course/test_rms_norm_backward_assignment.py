"""The tests of the assignment rms_norm_backward are fair to other right solutions, and no answer stops the grader."""

from __future__ import annotations

import pytest
from planted_bugs import outcomes

from tinyinfer.course.assignment import assignment

A = assignment("rms_norm_backward")
JACOBIAN = """
import numpy as np

def rms_norm_adjoint(dy, x, weight, eps, xp):
    dx, by_row = np.empty_like(x), np.empty_like(x)
    for place in np.ndindex(x.shape[:-1]):
        row, w = x[place].astype(np.float64), np.broadcast_to(weight, x.shape[-weight.ndim:])
        w = (w if w.ndim == 1 else w[place[1:]]).astype(np.float64)
        n, root = len(row), np.sqrt(np.dot(row, row) / len(row) + eps)
        jacobian = np.diag(w / root) - np.outer(w * row, row) / (n * root**3)
        dx[place] = dy[place] @ jacobian
        by_row[place] = dy[place] * row / root
    return dx, by_row
"""
NORMALIZED = """
import numpy as np

def rms_norm_adjoint(dy, x, weight, eps, xp):
    root = (xp.einsum("...i,...i->...", x, x)[..., None] / x.shape[-1] + eps) ** 0.5
    n = x / root
    by_row = dy * n
    return (dy * weight - n * (by_row * weight).sum(-1, keepdims=True) / x.shape[-1]) / root, by_row
"""


@pytest.mark.parametrize("text", [JACOBIAN, NORMALIZED], ids=["Jacobians of rows", "a normalized row"])
@pytest.mark.parametrize("who", ["ada", "grace", "alan"])
def test_a_right_solution_gets_full_marks_with_any_seed(text, who, tmp_path):
    """Catches a test that asks for our arithmetic: which terms are formed, in which order a sum is taken."""
    found = outcomes(A, text, tmp_path, who)
    assert {test: o.faults for test, o in found.items() if o.score(1) < 1} == {}


@pytest.mark.parametrize(
    "value",
    ["None", "(None, None)", "(1.0, [2.0])", "(x.astype('S8'), x > 0)", "(x[:, :1], x.sum())", "[x, x]", "(x, x, x)",
     "(x * np.nan, x * np.inf)", "(x.astype(int), x.astype(np.float16))", "('dx', {'a': x})", "(x[..., None], x.T)"],
)  # fmt: skip
def test_a_strange_answer_costs_points_and_never_stops_the_grader(value, tmp_path):
    """Catches a test that computes with a result before it has looked at its type and shape."""
    source = f"import numpy as np\ndef rms_norm_adjoint(dy, x, weight, eps, xp):\n    return {value}\n"
    found = outcomes(A, source, tmp_path)
    assert not [(test, o.faults) for test, o in found.items() if o.of_grader]
    assert sum(o.score(test.points) for test, o in zip(A.tests, found.values(), strict=True)) <= 10
