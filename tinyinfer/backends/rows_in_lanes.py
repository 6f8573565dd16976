"""Rows in lanes: the order of memory in which a compiled product of few rows reads a matrix.

A product of one row of inputs with a matrix waits for the matrix. Row by row, an output is a sum along its row, and the
lanes of a SIMD register would have to be added up at its end. In blocks of 64 outputs, each block's columns first, one
step of the innermost loop multiplies one input with the weights of 64 outputs, which lie side by side in memory.

Wins: a plain loop becomes SIMD instructions without a horizontal sum, and memory is read in one run. Loses: to look up
one output's weights touches as many lines of memory as there are inputs; and the last block is filled up with zeros.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.backends.packing import LANES


def to_lanes(rows: np.ndarray) -> np.ndarray:  # (N, n) -> (J, n, 64)
    """The rows of n numbers in J blocks of 64, each block's columns first; rows that the last one lacks are zeros."""
    blocks = -(-len(rows) // LANES)
    full = np.zeros((blocks * LANES, rows.shape[1]), dtype=rows.dtype)  # (64·J, n)
    full[: len(rows)] = rows
    return np.ascontiguousarray(full.reshape(blocks, LANES, -1).swapaxes(1, 2))


def from_lanes(blocks: np.ndarray, count: int) -> np.ndarray:  # (J, n, 64) -> (count, n)
    """The first `count` rows of n numbers: the inverse of `to_lanes`."""
    return blocks.swapaxes(1, 2).reshape(-1, blocks.shape[1])[:count]
