"""Occupancy: how many blocks of a kernel fit on one multiprocessor at a time, from what the compiler says of it.

A multiprocessor hides the time of a load by running other warps meanwhile. How many warps there can be is decided by
what a block takes of four stores: places for warps, places for blocks, registers, shared memory. The store that is
used up first is the limit, and the share of the warps' places that are then taken is the occupancy.

    occupancy = blocks · warps of a block / warps of a multiprocessor

Registers are handed out to warps, 256 at a time, from four partitions that each hold a quarter; shared memory to
blocks, 128 bytes at a time, and the driver keeps 1 KiB of every block's for itself. High occupancy is a means only: a
kernel whose threads each have many loads under way needs few warps (Volkov 2010, "Better performance at lower
occupancy").

Sources: NVIDIA's CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability"; the header
cuda_occupancy.h of the CUDA toolkit, with which the tests compare.
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
MOST_THREADS = 1024  # of a block
MOST_REGISTERS = 255  # of a thread
REGISTER_UNIT = 256  # registers that a warp is given at a time
PARTITIONS = 4  # of a multiprocessor; each has a quarter of the registers
SHARED_UNIT = 128  # bytes that a block is given at a time
SHARED_RESERVED = 1024  # bytes of each block's shared memory that the driver uses


@dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor has. count: how many of them the usual device has (A100 SXM, H100 SXM)."""

    count: int
    shared: int  # bytes for all its blocks, each one's reserved bytes included
    warps: int = 64
    blocks: int = 32
    registers: int = 65536


MULTIPROCESSORS = {"sm_80": Multiprocessor(108, 164 << 10), "sm_90": Multiprocessor(132, 228 << 10)}


@dataclass(frozen=True)
class Occupancy:
    """blocks: resident on a multiprocessor; 0: the kernel cannot start. share: of its places for warps.

    limits: the stores that allow no more blocks: "warps", "blocks", "registers", "shared memory".
    """

    blocks: int
    share: float
    limits: tuple[str, ...]


def occupancy(threads: int, registers: int, shared: int, on: Multiprocessor) -> Occupancy:
    """The occupancy of blocks of `threads` threads with so many registers each and `shared` bytes a block.

    shared: static and dynamic shared memory together.
    """
    warps = -(-threads // WARP)
    most = {
        "warps": on.warps // warps if threads <= MOST_THREADS else 0,
        "blocks": on.blocks,
        "registers": blocks_by_registers(warps, registers, on),
        "shared memory": blocks_by_shared_memory(shared, on),
    }
    blocks = min(most.values())
    return Occupancy(blocks, blocks * warps / on.warps, tuple(name for name, n in most.items() if n == blocks))


def blocks_by_registers(warps: int, registers: int, on: Multiprocessor) -> int:
    """Blocks of `warps` warps for which there are registers. A launch is checked as if each partition had as many."""
    of_warp = rounded_up(WARP * max(registers, 1), REGISTER_UNIT)
    if registers > MOST_REGISTERS or of_warp * rounded_up(warps, PARTITIONS) > on.registers:
        return 0
    return on.registers // PARTITIONS // of_warp * PARTITIONS // warps


def blocks_by_shared_memory(shared: int, on: Multiprocessor) -> int:
    """Blocks for whose shared memory there is room."""
    return on.shared // rounded_up(shared + SHARED_RESERVED, SHARED_UNIT)


def rounded_up(n: int, unit: int) -> int:
    """The smallest multiple of `unit` that is at least n."""
    return -(-n // unit) * unit
