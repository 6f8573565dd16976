"""The tests of the assignment tensor_parallel_mlp are fair to other right solutions, and no answer stops the grader."""

from __future__ import annotations

import pytest
from planted_bugs import outcomes

from tinyinfer.course.assignment import assignment

A = assignment("tensor_parallel_mlp")
LOOPS = """
import numpy as np

def own_neurons(neurons, rank, ranks, unit=1):
    owners = sorted(u % ranks for u in range(-(-neurons // unit)))
    mine = [n for n in range(neurons) if owners[n // unit] == rank]
    before = sum(owners[n // unit] < rank for n in range(neurons))
    return before, before + len(mine)

def mlp_part(gate_up, down, bias, rank, ranks, unit=1):
    gate, up = np.split(gate_up, 2)
    part = slice(*own_neurons(len(gate), rank, ranks, unit))
    return np.vstack([gate[part], up[part]]), np.ascontiguousarray(down[:, part]), bias * (rank == 0)

def mlp_term(x, gate_up, down, bias):
    y = np.tile(bias.astype(np.float64), (len(x), 1))
    f = down.shape[1]
    for i in range(f):
        g = x.astype(np.float64) @ gate_up[i]
        y += np.outer(g / (1 + np.exp(-g)) * (x @ gate_up[f + i]), down[:, i])
    return y.astype(np.float32)

def bytes_sent(numbers, rank, ranks, itemsize=4):
    parts = np.array_split(np.zeros(numbers, np.int8), ranks)
    total = 0
    for i in range(ranks - 1):
        total += len(parts[(rank - i) % ranks]) + len(parts[(rank + 1 - i) % ranks])
    return total * itemsize
"""
EINSUM = """
import numpy as np

def own_neurons(neurons, rank, ranks, unit=1):
    units = -(-neurons // unit)
    stops = np.minimum(neurons, unit * np.cumsum([0, *(units // ranks + (r < units % ranks) for r in range(ranks))]))
    return int(stops[rank]), int(stops[rank + 1])

def mlp_part(gate_up, down, bias, rank, ranks, unit=1):
    first, stop = own_neurons(down.shape[1], rank, ranks, unit)
    rows = gate_up.reshape(2, -1, gate_up.shape[1])[:, first:stop].reshape(-1, gate_up.shape[1])
    return rows.copy(), down[:, first:stop].copy(), bias.copy() if rank == 0 else np.zeros(len(bias), np.float32)

def mlp_term(x, gate_up, down, bias):
    gate, up = np.split(x @ gate_up.T, 2, axis=1)
    return np.einsum("tf,df->td", gate * (0.5 + 0.5 * np.tanh(gate / 2)) * up, down) + bias

def bytes_sent(numbers, rank, ranks, itemsize=4):
    size = lambda i: (numbers + ranks - 1 - i % ranks) // ranks
    return itemsize * (2 * numbers - size(rank + 1) - size(rank + 2))
"""


@pytest.mark.parametrize("text", [LOOPS, EINSUM], ids=["loops", "other forms"])
@pytest.mark.parametrize("who", ["ada", "grace", "alan"])
def test_a_right_solution_gets_full_marks_with_any_seed(text, who, tmp_path):
    """Catches a test that asks for our arithmetic, or for views where copies are as right."""
    found = outcomes(A, text, tmp_path, who)
    assert {test: o.faults for test, o in found.items() if o.score(1) < 1} == {}


@pytest.mark.parametrize(
    "value",
    ["None", "(None, None)", "(0, 0, 0)", "(bias, bias, bias)", "bias", "np.nan * bias", "bias.astype('S8')", "'all'",
     "(bias[None], bias[:, None], bias > 0)", "[bias] * 3", "(0, 10**30)", "(-1, True)", "{'a': bias}", "1e300",
     "(1.0, 2.0)"],
)  # fmt: skip
def test_a_strange_answer_costs_points_and_never_stops_the_grader(value, tmp_path):
    """Catches a test that computes with a result before it has looked at its type and shape."""
    source = f"""
import numpy as np
bias = np.ones(3, np.float32)
def own_neurons(neurons, rank, ranks, unit=1):
    return {value}
def mlp_part(gate_up, down, bias, rank, ranks, unit=1):
    return {value}
def mlp_term(x, gate_up, down, bias):
    return {value}
def bytes_sent(numbers, rank, ranks, itemsize=4):
    return {value}
"""
    found = outcomes(A, source, tmp_path)
    assert not [(test, o.faults) for test, o in found.items() if o.of_grader]
    assert sum(o.score(test.points) for test, o in zip(A.tests, found.values(), strict=True)) <= 10
