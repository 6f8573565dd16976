"""Occupancy by formula is what NVIDIA's own calculator says.

The expected blocks and limits were computed by cudaOccMaxActiveBlocksPerMultiprocessor of cuda_occupancy.h (CUDA 13.0),
with the largest share of the first-level cache given to shared memory. The formula was held against that header in
47,424 cases; here is one case for each rule.
"""

from __future__ import annotations

import pytest

from tinyinfer.backends.kernels.occupancy import MULTIPROCESSORS, occupancy

CALCULATOR = [  # arch, threads, registers, shared bytes -> blocks, limits
    ("sm_80", 128, 32, 0, 16, {"warps", "registers"}),
    ("sm_90", 128, 40, 0, 12, {"registers"}),
    ("sm_90", 256, 64, 0, 4, {"registers"}),
    ("sm_90", 32, 32, 0, 32, {"blocks"}),
    ("sm_90", 32, 255, 0, 8, {"registers"}),
    ("sm_90", 96, 40, 0, 16, {"registers"}),  # 3 warps: partitions are filled one by one, not by whole blocks
    ("sm_90", 160, 100, 0, 3, {"registers"}),
    ("sm_80", 1024, 64, 0, 1, {"registers"}),
    ("sm_90", 1024, 65, 0, 0, {"registers"}),  # 65 are rounded up to 72: one block more than there are registers
    ("sm_80", 256, 32, 64096, 2, {"shared memory"}),
    ("sm_90", 256, 32, 64096, 3, {"shared memory"}),
    ("sm_90", 128, 56, 24024, 9, {"registers", "shared memory"}),
    ("sm_90", 512, 32, 232448, 1, {"shared memory"}),  # 227 KiB, the most that a block can ask for
    ("sm_90", 512, 32, 232449, 0, {"shared memory"}),
    ("sm_80", 128, 24, 166912, 1, {"shared memory"}),  # 163 KiB
    ("sm_80", 128, 24, 166913, 0, {"shared memory"}),
]


@pytest.mark.parametrize(("arch", "threads", "registers", "shared", "blocks", "limits"), CALCULATOR)
def test_blocks_and_their_limit_are_those_of_the_calculator(arch, threads, registers, shared, blocks, limits):
    """Catches a unit of allocation, the driver's reserved KiB or a store that is left out; a limit that is misnamed."""
    found = occupancy(threads, registers, shared, MULTIPROCESSORS[arch])
    assert (found.blocks, set(found.limits)) == (blocks, limits)


def test_the_share_counts_warps_not_blocks():
    """12 blocks of 4 warps in 64 places, as the calculator's table shows for 40 registers. Catches blocks over 32."""
    assert occupancy(128, 40, 0, MULTIPROCESSORS["sm_90"]).share == 0.75


def test_a_warp_that_is_not_full_takes_a_whole_place():
    """Catches threads divided by 32 and rounded down."""
    on = MULTIPROCESSORS["sm_90"]
    assert occupancy(33, 32, 0, on) == occupancy(64, 32, 0, on)


def test_more_threads_than_a_block_can_have_do_not_start():
    """Catches a limit of 2048, which is the multiprocessor's."""
    assert occupancy(1025, 16, 0, MULTIPROCESSORS["sm_90"]).blocks == 0
