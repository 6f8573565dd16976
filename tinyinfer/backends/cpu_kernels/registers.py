"""How many sums a core keeps in registers: what the shape of a tile depends on.

A register tile multiplies several rows with several vectors of weights, all its sums in registers. A sum that finds no
register goes to memory and back in every step, which takes longer than the multiplication. AVX-512 has 32 registers of
16 numbers; AVX2 has 16 of 8, a quarter of that, and NEON 32 of 4, also a quarter. So a tile there takes fewer vectors
of weights at a time, down to one, and goes through a block of 64 outputs in two or four turns. Each output's sum stays
the same, bit for bit: an order of outputs is no order of additions.

Wins: a tile of six rows runs from registers on AVX2 and NEON, too. Loses: in four turns each number of x is broadcast
four times as often.
"""

from __future__ import annotations

import platform

from numba.core.registry import cpu_target

OPERANDS = 2  # registers for weights and x, beside the sums


def vectors_held() -> int:
    """How many vectors of 16 float32 numbers fit into the registers of the CPU that numba compiles for."""
    features = cpu_features()
    if "+avx512f" in features:
        return 32
    if "+avx" in features or platform.machine() in ("aarch64", "arm64"):
        return 8
    return 4


def cpu_features() -> list[str]:
    """Features of the CPU that numba compiles for, such as "+avx2"."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return str(features).split(",")


def fits(sums: int, held: int | None = None) -> bool:
    """Whether so many vectors of sums stay in registers. held: vectors_held(), unless another CPU is meant."""
    return sums + OPERANDS <= (vectors_held() if held is None else held)


def columns(rows: int, held: int | None = None) -> int:
    """How many of the 4 vectors of a block a tile of so many rows takes at a time: 4, 2 or 1. held: as in `fits`."""
    return next((n for n in (4, 2) if fits(n * rows, held)), 1)
