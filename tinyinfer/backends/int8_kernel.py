"""One row of inputs times a matrix of int8 codes: the product of decode, as plain loops that numba compiles.

A decode step multiplies each weight once, and waits until the weight has come from memory. So a code stays a byte
until it is in a register: no float copy of the matrix is ever in memory. Codes and scales lie as rows_in_lanes.py lays
them, scales in float32, since numba has no float16 on a CPU. `multiply` takes float inputs; `multiply_codes` takes
inputs that are codes themselves, whose products are whole numbers, added without rounding.

The kernels of the numba backend (cpu_kernels/) begin here, and add vectors by hand, several rows, threads and other
codes.

Wins: 4 times fewer bytes than float32. Loses: for many rows, where BLAS uses each restored float of a tile for all of
them; and one thread alone may not fill the memory's width.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tinyinfer.backends.packing import LANES


def weight_bytes(outputs: int, inputs: int, group: int) -> int:
    """Bytes that one product reads of a matrix in lanes: of codes and scales, with the zeros of the last block."""
    groups = -(-inputs // group)
    return -(-outputs // LANES) * LANES * (inputs + 4 * groups)


@njit
def multiply(
    blocks: np.ndarray, scale: np.ndarray, x: np.ndarray, group: int, y: np.ndarray
) -> None:  # (J, M, 64), (J, G, 64), (M,), (N,) ->
    """Writes into y: y[n] = Σ scale[n, g] · (Σ code[n, k] · x[k]), k over the inputs of group g, in float32."""
    total, part = np.empty(LANES, np.float32), np.empty(LANES, np.float32)  # (64,), (64,)
    for j in range(len(blocks)):
        total[:] = 0
        for g in range(scale.shape[1]):
            part[:] = 0
            for k in range(g * group, min((g + 1) * group, len(x))):
                for n in range(LANES):
                    part[n] += np.float32(blocks[j, k, n]) * x[k]
            for n in range(LANES):
                total[n] += scale[j, g, n] * part[n]
        for n in range(min(LANES, len(y) - j * LANES)):
            y[j * LANES + n] = total[n]


@njit
def multiply_codes(
    blocks: np.ndarray, scale: np.ndarray, x_codes: np.ndarray, x_scale: np.ndarray, group: int, y: np.ndarray
) -> None:  # (J, M, 64), (J, G, 64), (M,), (G,), (N,) ->
    """Writes into y: y[n] = Σ x_scale[g] · scale[n, g] · (Σ code[n, k] · x_codes[k]), the inner sum exact, in int32."""
    total, part = np.empty(LANES, np.float32), np.empty(LANES, np.int32)  # (64,), (64,)
    for j in range(len(blocks)):
        total[:] = 0
        for g in range(scale.shape[1]):
            part[:] = 0
            for k in range(g * group, min((g + 1) * group, len(x_codes))):
                for n in range(LANES):
                    part[n] += np.int32(blocks[j, k, n]) * np.int32(x_codes[k])
            for n in range(LANES):
                total[n] += x_scale[g] * scale[j, g, n] * np.float32(part[n])
        for n in range(min(LANES, len(y) - j * LANES)):
            y[j * LANES + n] = total[n]
