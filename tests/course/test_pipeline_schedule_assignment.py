"""The tests of the assignment pipeline_schedule are fair to other right solutions, and no answer stops the grader."""

from __future__ import annotations

import pytest
from planted_bugs import outcomes

from tinyinfer.course.assignment import assignment

A = assignment("pipeline_schedule")
RECURSIVE = """
import numpy as np
from functools import cache
from itertools import combinations

def begin_times(seconds):
    @cache
    def begin(s, i):
        ends = [0.0]
        if s:
            ends.append(begin(s - 1, i) + seconds[s - 1, i])
        if i:
            ends.append(begin(s, i - 1) + seconds[s, i - 1])
        return max(ends)
    return np.array([[begin(s, i) for i in range(seconds.shape[1])] for s in range(len(seconds))])

def decode_times(seconds, steps):
    p, m = seconds.shape
    @cache
    def begin(n, s, g):
        ends = [0.0]
        if s or n:
            before = (n, s - 1, g) if s else (n - 1, p - 1, g)
            ends.append(begin(*before) + seconds[before[1], g])
        if g or n:
            before = (n, s, g - 1) if g else (n - 1, s, m - 1)
            ends.append(begin(*before) + seconds[s, before[2]])
        return max(ends)
    return np.array([[[begin(n, s, g) for g in range(m)] for s in range(p)] for n in range(steps)])

def idle_share(begin, seconds):
    length = max((begin + seconds).ravel()) - min(begin.ravel())
    return np.mean([(length - stage.sum()) / length for stage in seconds])

def even_stages(costs, stages):
    layers = len(costs)
    def key(stops):
        sizes = np.diff([0, *stops, layers])
        loads = [part.sum() for part in np.split(np.array(costs), stops)]
        return max(loads), [-size for size in sizes]
    stops = min(combinations(range(1, layers), stages - 1), key=key)
    return np.diff([0, *stops, layers]).tolist()
"""
TABLES = """
import numpy as np

def begin_times(seconds):
    return decode_times(seconds, 1)[0]

def decode_times(seconds, steps):
    p, m = seconds.shape
    end = np.zeros((steps * m, p))
    for k in range(steps * m):
        n, g = divmod(k, m)
        ready = end[k - m, -1] if n else 0
        for s in range(p):
            end[k, s] = max(ready, end[k - 1, s] if k else 0) + seconds[s, g]
            ready = end[k, s]
    return end.reshape(steps, m, p).transpose(0, 2, 1) - seconds

def idle_share(begin, seconds):
    p, total = len(seconds), (begin + seconds).max() - begin.min()
    return (p * total - seconds.sum()) / (p * total)

def even_stages(costs, stages):
    layers, before = len(costs), np.cumsum([0, *costs])
    least = {(1, i): (before[layers] - before[i], [layers - i]) for i in range(layers)}
    for k in range(2, stages + 1):
        for i in range(layers - k + 1):
            tried = []
            for j in range(i + 1, layers - k + 2):
                slowest, sizes = least[k - 1, j]
                tried.append((max(before[j] - before[i], slowest), -(j - i), [j - i, *sizes]))
            slowest, _, sizes = min(tried)
            least[k, i] = slowest, sizes
    limit, found, first = least[stages, 0][0], [], 0
    for k in range(stages, 1, -1):
        fitting = [j for j in range(first + 1, layers - k + 2)
                   if before[j] - before[first] <= limit and least[k - 1, j][0] <= limit]
        found.append(max(fitting) - first)
        first = max(fitting)
    return [*found, layers - first]
"""


@pytest.mark.parametrize("text", [RECURSIVE, TABLES], ids=["recursive", "tables"])
@pytest.mark.parametrize("who", ["ada", "grace", "alan"])
def test_a_right_solution_gets_full_marks_with_any_seed(text, who, tmp_path):
    """Catches a test that asks for our order of additions, for our way to divide, or for a Python float."""
    found = outcomes(A, text, tmp_path, who)
    assert {test: o.faults for test, o in found.items() if o.score(1) < 1} == {}


@pytest.mark.parametrize(
    "value",
    ["None", "(None, None)", "first", "first * np.nan", "first.astype('S8')", "[first]", "'all'", "first[..., None]",
     "np.array(1)", "first > 0", "first.T", "[10**30]", "[1.5, True]", "{'a': 1}", "1e300", "[0] * 3"],
)  # fmt: skip
def test_a_strange_answer_costs_points_and_never_stops_the_grader(value, tmp_path):
    """Catches a test that computes with a result before it has looked at its type and shape."""
    source = f"""
import numpy as np
def begin_times(first):
    return {value}
def decode_times(first, steps):
    return {value}
def idle_share(first, seconds):
    return {value}
def even_stages(costs, stages):
    first = np.array(costs)
    return {value}
"""
    found = outcomes(A, source, tmp_path)
    assert not [(test, o.faults) for test, o in found.items() if o.of_grader]
    assert sum(o.score(test.points) for test, o in zip(A.tests, found.values(), strict=True)) <= 10
