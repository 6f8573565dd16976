"""The product of bytes is exact on every CPU: by its instruction, by pairs of bytes, and by 16-bit numbers."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from processes import printed

from tinyinfer.backends.cpu_kernels.dot import dot, dot_bits, dot_by_products, has_pairs, signed_dot, small_dot
from tinyinfer.backends.cpu_kernels.integer_tile import TOP_BITS
from tinyinfer.backends.cpu_kernels.integers import store_ints
from tinyinfer.backends.cpu_kernels.kernel import Launch, kernel
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.team import team
from tinyinfer.backends.cpu_kernels.vectors import load_ints, splat_int

pytestmark = pytest.mark.cpu


@kernel
def all_ways(a, item, thread):
    """totals, unsigned bytes, small ones, signed bytes, the same without -128; where results go; an item is 16 sums."""
    at = 64 * item
    total, unsigned = load_ints(a[0] + at), load_ints(a[1] + at)
    small, signed, symmetric = load_ints(a[2] + at), load_ints(a[3] + at), load_ints(a[4] + at)
    store_ints(a[5] + at, dot(total, unsigned, signed))
    store_ints(a[6] + at, dot_by_products(total, unsigned, signed))
    store_ints(a[7] + at, small_dot(total, small, signed))
    store_ints(a[8] + at, signed_dot(total, unsigned ^ splat_int(TOP_BITS), symmetric))


def sums_of_fours(seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What each way found, and what it should have found. At the ends, too: 255 · -128 four times is no 16-bit number,

    where other instructions for bytes would stop; -128 · -127 and 127 · 127 twice are just one.
    """
    rng, lanes = np.random.default_rng(seed), 16 * 50
    unsigned, signed = rng.integers(0, 256, 4 * lanes, np.uint8), rng.integers(-128, 128, 4 * lanes, np.int8)
    unsigned[:256], signed[:128], signed[128:256] = 255, -128, 127
    unsigned[256:512], signed[256:384], signed[384:512] = 0, -128, 127
    small, symmetric = unsigned & np.uint8(127), np.maximum(signed, np.int8(-127))
    totals = rng.integers(-(2**30), 2**30, lanes, np.int32)
    found = [np.zeros_like(totals) for _ in range(4)]
    team().run(Plan([Launch(all_ways, (totals, unsigned, small, signed, symmetric, *found), lanes // 16)]), 1)
    pairs = [(unsigned, signed), (unsigned, signed), (small, signed), (unsigned.astype(np.int32) - 128, symmetric)]
    wanted = [totals + (one.astype(np.int32) * other).reshape(-1, 4).sum(axis=1) for one, other in pairs]
    return found, wanted


def test_every_way_gives_the_sum_of_four_products():
    """Catches sums of pairs that stop at the end of 16 bits, and a sign that goes to the wrong factor."""
    found, wanted = sums_of_fours()
    np.testing.assert_array_equal(found, wanted)


OTHERS = {"AVX2": "+avx,+avx2,+fma,+f16c", "nothing but SSE2": ""}


@pytest.mark.parametrize("features", OTHERS.values(), ids=list(OTHERS))
@pytest.mark.skipif(platform.machine() != "x86_64", reason="features of x86-64")
def test_every_way_is_right_on_lesser_cpus(features):
    """Catches a way that is right on the machine at hand only."""
    code = "import test_dot as t, numpy as np; np.testing.assert_array_equal(*t.sums_of_fours()); print(t.has_pairs())"
    name = "generic" if features else "x86-64"
    assert printed(code, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features) == str("avx2" in features)


@pytest.mark.parametrize(
    ("features", "bits"),
    [("+avx2", 0), ("+avx512f,-avx512vnni", 0), ("+avx2,+avxvnni", 256), ("+avx512f,+avx512vnni,+avxvnni", 512)],
)
def test_the_instruction_is_chosen_by_the_cpu_that_code_is_made_for(features, bits):
    """Not by the one that compiles, which may be another. Catches a feature that is named but switched off."""
    code = "from tinyinfer.backends.cpu_kernels.dot import dot_bits; print(dot_bits())"
    assert int(printed(code, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES=features)) == bits
    assert dot_bits() in (0, 256, 512)
    assert not (dot_bits() and has_pairs())
