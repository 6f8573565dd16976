"""The kernels' tests have teeth: a line left out makes a named test fail. deletions.py does it with any line."""

from __future__ import annotations

import pytest
from kernels.deletions import FOLDER, failing, statements, without

# In six kernels: a line by its beginning, which is there once, and the test file that must miss it.
LINES = [
    ("decode.cuh", "__threadfence();  // every thread's part", "test_attention_kernels.py", "decode"),
    ("decode.cuh", "if (threadIdx.x == 0) arrived = atomicAdd", "test_attention_kernels.py", "decode"),
    ("rms_head_sample.cu", "mine = best_of_warp(mine, draw);", "test_head_sample.py", ""),
    ("rms_head_sample.cu", "__syncthreads();  // all warps have read the step", "test_head_sample.py", ""),
    ("append.cuh", "if (position < 0) continue;", "test_rope_append.py", ""),
    ("append.cuh", "if (qk_norm) inverse = ", "test_rope_append.py", ""),
    ("small_batch_product.cu", "__syncthreads();  // the scales are known", "test_small_batch_product.py", ""),
    ("small_batch_product.cu", "if (norm) measure<", "test_small_batch_product.py", ""),
    ("product.cuh", "if (piece < P::Part::PIECES && group < GROUPS) held", "test_products.py", ""),
    ("sample.cu", "if (threadIdx.x == 0 && atomicAdd(counters, 1)", "test_sample.py", ""),
]


def number_of(file: str, line: str) -> int:
    """Where a line is; AssertionError when it is no longer there, so that no deletion dies unseen."""
    text = (FOLDER / file).read_text(encoding="utf-8")
    numbers = [number for number, found in enumerate(text.splitlines()) if found.strip().startswith(line)]
    assert len(numbers) == 1, f"{file} must have one line that begins with {line!r}, and has {len(numbers)}"
    return numbers[0]


@pytest.mark.cuda
@pytest.mark.parametrize(("file", "line", "tests", "keyword"), LINES)
def test_a_line_left_out_is_missed(file, line, tests, keyword):
    """By a test of its own kernel, and not by the compiler."""
    text = (FOLDER / file).read_text(encoding="utf-8")
    test = failing(file, without(text, number_of(file, line)), [tests], keyword)
    assert test is not None
    assert test.startswith(tests)


def test_the_lines_to_leave_out_are_there():
    """At once, and not only when all of them are left out in turn."""
    assert all(number_of(file, line) >= 0 for file, line, *_ in LINES)


def test_statements_are_lines_that_can_be_left_out():
    """Not a declaration, which the compiler misses, nor a part of a statement."""
    text = "f();\nint x;\nx = 1;\nfor (;;) {\n    g(1,\n      2);\n    h();  // why\n}\nreturn;\n"
    assert statements(text) == [2, 6]
