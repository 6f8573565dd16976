"""How many sums of a tile fit into registers, on the CPU that code is made for."""

from __future__ import annotations

import platform

import pytest
from processes import printed

from tinyinfer.backends.cpu_kernels.registers import OPERANDS, columns, fits, vectors_held

pytestmark = pytest.mark.cpu


def test_a_tile_takes_as_many_vectors_as_fit():
    """Counted by hand for AVX-512, AVX2 and SSE2. Catches sums that go to memory, and turns that need not be."""
    wide = [columns(rows, 32) for rows in (1, 2, 4, 6)]
    assert wide == [4, 4, 4, 4], "24 sums, and 8 registers for the rest"
    assert [columns(rows, 8) for rows in range(1, 7)] == [4, 2, 2, 1, 1, 1]
    assert [columns(rows, 4) for rows in (1, 2, 6)] == [2, 1, 1]


@pytest.mark.parametrize("held", [4, 8, 32])
def test_what_is_taken_at_a_time_fits_where_anything_does(held):
    """Catches a rule that is right for one CPU. One vector is the least that a tile can take."""
    for rows in range(1, 13):
        taken = columns(rows, held)
        assert taken in (1, 2, 4)
        assert taken == 1 or fits(taken * rows, held)
        assert taken == 4 or not fits(2 * taken * rows, held)
    assert fits(held - OPERANDS, held)
    assert not fits(held - OPERANDS + 1, held)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="features of x86-64")
@pytest.mark.parametrize(("features", "held"), [("+sse2", 4), ("+avx,+avx2", 8), ("+avx512f,+avx2,+avx", 32)])
def test_registers_are_those_of_the_cpu_that_code_is_made_for(features, held):
    """Not of the one that compiles. Catches AVX-512 that is named but switched off."""
    code = "from tinyinfer.backends.cpu_kernels.registers import vectors_held; print(vectors_held())"
    assert int(printed(code, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES=features)) == held
    assert vectors_held() in (4, 8, 32)
