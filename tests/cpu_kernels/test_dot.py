"""The product of bytes is exact on every CPU: by the instruction, and by products of 16-bit numbers."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tinyinfer.backends.cpu_kernels.dot import dot, dot_bits, dot_by_products
from tinyinfer.backends.cpu_kernels.integers import store_ints
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.team import team
from tinyinfer.backends.cpu_kernels.vectors import load_ints

pytestmark = pytest.mark.cpu


@kernel
def both(a, item, thread):
    """totals, unsigned bytes, signed bytes, and where the results of both go; an item is 16 sums."""
    at = 64 * item
    total, unsigned, signed = load_ints(a[0] + at), load_ints(a[1] + at), load_ints(a[2] + at)
    store_ints(a[3] + at, dot(total, unsigned, signed))
    store_ints(a[4] + at, dot_by_products(total, unsigned, signed))


def test_both_give_the_sum_of_four_products():
    """At the ends, too: 255 · -128 four times is no 16-bit number, where other instructions for bytes would stop."""
    rng, lanes = np.random.default_rng(0), 16 * 50
    unsigned, signed = rng.integers(0, 256, 4 * lanes, np.uint8), rng.integers(-128, 128, 4 * lanes, np.int8)
    unsigned[:256], signed[:128], signed[128:256] = 255, -128, 127
    totals = rng.integers(-(2**30), 2**30, lanes, np.int32)
    found = [np.zeros_like(totals) for _ in range(2)]
    team().run(Plan([Launch(both, (totals, unsigned, signed, *found), lanes // 16)]), 1)
    wanted = totals + (unsigned.astype(np.int32) * signed).reshape(-1, 4).sum(axis=1)
    np.testing.assert_array_equal(found[0], wanted)
    np.testing.assert_array_equal(found[1], wanted)


@pytest.mark.parametrize(
    ("features", "bits"),
    [("+avx2", 0), ("+avx512f,-avx512vnni", 0), ("+avx2,+avxvnni", 256), ("+avx512f,+avx512vnni,+avxvnni", 512)],
)
def test_the_instruction_is_chosen_by_the_cpu_that_code_is_made_for(features, bits):
    """Not by the one that compiles, which may be another. Catches a feature that is named but switched off."""
    code = "from tinyinfer.backends.cpu_kernels.dot import dot_bits; print(dot_bits())"
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(found.stdout) == bits
    assert dot_bits() in (0, 256, 512)
