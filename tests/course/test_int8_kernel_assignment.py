"""The tests of the assignment int8_kernel are fair, and its code runs compiled in the limited process."""

from __future__ import annotations

import numpy as np
import pytest
from planted_bugs import functions_of

from tinyinfer.course.assignment import assignment
from tinyinfer.course.assignments.int8_kernel.test_int8_kernel import check, small
from tinyinfer.course.cut import solution
from tinyinfer.course.grading.grade import grade
from tinyinfer.course.hidden import write_secret
from tinyinfer.course.runner import run_test
from tinyinfer.course.sandbox.piped import PipedStudent
from tinyinfer.course.student import LocalStudent, StudentError

pytestmark = pytest.mark.course  # numba's compiler takes seconds, and is no part of the test extra
A = assignment("int8_kernel")
HEAD = '''
import numba
import numpy as np
from numba import float32, int64, njit, prange
'''
LAYOUT = '''
def to_lanes(rows):
    out = np.zeros((-(-len(rows) // 64), rows.shape[1], 64), rows.dtype)
    for n in range(len(rows)):
        out[n // 64, :, n % 64] = rows[n]
    return out

def weight_bytes(outputs, inputs, group):
    blocks = (outputs + 63) // 64
    return 64 * blocks * inputs + 256 * blocks * ((inputs + group - 1) // group)
'''
ROWS_AT_ONCE = HEAD + LAYOUT + '''
@numba.njit(fastmath=True)
def multiply(blocks, scale, x, group, y):
    J, M, _ = blocks.shape
    for j in range(J):
        total = np.zeros(64)
        for first in range(0, M, group):
            part = np.zeros(64)
            for k in range(first, min(first + group, M)):
                part += blocks[j, k] * x[k]
            total += part * scale[j, first // group]
        y[64 * j : 64 * j + 64] = total[: len(y) - 64 * j]

@njit
def multiply_codes(blocks, scale, x_codes, x_scale, group, y):
    J, M, _ = blocks.shape
    for j in range(J):
        total = np.zeros(64, np.float32)
        for first in range(0, M, group):
            part = np.zeros(64, np.int64)
            for k in range(first, min(first + group, M)):
                part += blocks[j, k].astype(np.int64) * x_codes[k]
            total += part * scale[j, first // group] * x_scale[first // group]
        rest = min(64, len(y) - 64 * j)
        y[64 * j : 64 * j + rest] = total[:rest]
'''
WITH_HELPERS = HEAD + LAYOUT + '''
@njit(inline="always")
def add(total, codes, x):
    for i in range(64):
        total[i] += codes[i] * x

@njit
def one_block(blocks, scale, x, own, group, out):
    total = np.zeros(64, np.float64)
    for g, first in enumerate(range(0, len(x), group)):
        part = np.zeros(64, np.float64)
        for k in range(first, min(first + group, len(x))):
            add(part, blocks[k], x[k])
        for i in range(64):
            total[i] += own[g] * scale[g][i] * part[i]
    for i in range(len(out)):
        out[i] = total[i]

@njit(parallel=True)
def multiply(blocks, scale, x, group, y):
    own = np.ones(scale.shape[1], np.float32)
    for j in prange(len(blocks)):
        one_block(blocks[j], scale[j], x, own, group, y[64 * j : 64 * (j + 1)])

@njit("void(int8[:,:,::1], float32[:,:,::1], int8[::1], float32[::1], int64, float32[::1])")
def multiply_codes(blocks, scale, x_codes, x_scale, group, y):
    for j in range(len(blocks)):
        one_block(blocks[j], scale[j], x_codes, x_scale, group, y[64 * j : 64 * (j + 1)])
'''
TWO_LINES = HEAD + LAYOUT + '''
@njit
def run(blocks, scale, x, own, group, y, kind):
    sums = np.zeros((2, 64), kind)
    for output in range(0, len(y), 64):
        j = output // 64
        y[output : output + 64] = 0
        k = 0
        for g in range(scale.shape[1]):
            sums[:] = 0
            last = min(k + group, len(x))
            while k + 1 < last:
                for i in range(64):
                    sums[0, i] += kind(blocks[j, k, i]) * kind(x[k])
                for i in range(64):
                    sums[1, i] += kind(blocks[j, k + 1, i]) * kind(x[k + 1])
                k += 2
            if k < last:
                for i in range(64):
                    sums[0, i] += kind(blocks[j, k, i]) * kind(x[k])
                k += 1
            for i in range(64):
                s = scale[j, g, i] * own[g]
                if output + i < len(y):
                    y[output + i] += s * (sums[0, i] + sums[1, i])

@njit
def multiply(blocks, scale, x, group, y):
    run(blocks, scale, x, np.ones(scale.shape[1], np.float32), group, y, np.float32)

@njit
def multiply_codes(blocks, scale, x_codes, x_scale, group, y):
    run(blocks, scale, x_codes, x_scale, group, y, np.int32)
'''
RIGHT = {"rows at once": ROWS_AT_ONCE, "with helpers": WITH_HELPERS, "two lines": TWO_LINES}


@pytest.mark.parametrize("name", RIGHT)
def test_right_solutions_get_full_marks_with_any_seed(name, tmp_path):
    """Catches a test that asks for our loops: arithmetic in other types, rows at once, helpers, threads, unrolling."""
    (tmp_path / A.file).write_text(RIGHT[name], encoding="utf-8")
    functions, student = functions_of(A), LocalStudent(A, tmp_path / A.file)  # one: what is compiled stays so
    for seed in range(2):
        for test in A.tests:
            outcome = run_test(functions[test.name], student, test.parts, np.random.default_rng(seed))
            assert outcome.passed == test.parts, (test.name, seed, outcome.faults)
            assert not outcome.faults


def test_it_is_graded_in_the_limited_process(tmp_path):
    """Catches limits in which numba cannot compile."""
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / A.file).write_text(solution(A), encoding="utf-8")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / f"hidden_{A.file}").write_text((A.folder / f"hidden_{A.file}").read_text("utf-8"), encoding="utf-8")
    write_secret(hidden / "secret")
    report = grade(tmp_path / "ada", A, student="ada", hidden=hidden)
    assert [(one.name, one.sentence) for one in report.results if one.score < one.points] == []
    assert report.score == 100
    assert any("NumPy, numba and llvmlite" in limit for limit in report.limits)


def test_threads_work_in_the_limited_process():
    """Catches limits in which numba cannot start the threads that a student asks for."""
    with PipedStudent(A, WITH_HELPERS.encode()) as student:
        check(student, small(np.random.default_rng(0), 192, 24, 8))


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("@njit(cache=True)\ndef to_lanes(rows): pass", "RuntimeError", "cannot cache function"),
        ("@njit\ndef to_lanes(rows): return rows.no_such_thing", "TypingError", "no_such_thing"),
        ("@njit\ndef to_lanes(rows): return rows[10**6, 0]", "IndexError", "out of bounds"),
        ("@njit('int8(int8[:,::1])')\ndef to_lanes(rows): return rows[10**6, 0]", "IndexError", "out of bounds"),
        ("def to_lanes(rows):\n    import pytest", "ModuleNotFoundError", "pytest"),
    ],
)
def test_what_cannot_be_compiled_or_kept_is_told(code, kind, said):
    """Catches an index beyond an array's end that reads other memory, and a grader that writes a cache for numba."""
    source = solution(A).replace("def to_lanes", "def other", 1) + "\n\n" + code
    with PipedStudent(A, source.encode()) as student, pytest.raises(StudentError) as caught:
        student.to_lanes(np.zeros((3, 2), np.int8))
    assert kind in f"{caught.value.kind} {caught.value.sentence}"
    assert said in caught.value.sentence
    assert bool(caught.value.hint) == (kind in ("TypingError", "ModuleNotFoundError"))
    assert "\n" not in caught.value.sentence
