"""The blocks of lesson 17, as plain loops: Python runs them as they stand, and numba compiles the same lines.

They compute y = W x for a matrix W of N outputs and M inputs, whose codes are int8 and whose G groups of inputs have a
scale each: y[n] = sum over g of scale[n, g] · (sum over the k of group g of codes[n, k] · x[k]). A dot product for each
output, as the formula is written, stands in the notebook; here only the order differs, of the loops and of the numbers
in memory. J blocks have 64 outputs each.

`in_blocks` and `block_product` are our solutions of what the student writes. The last two functions prepare what the
products of whole numbers take (kernel_dots.py).

Wins: blocks let one vector instruction do many outputs, whose sums never have to be added to each other. Loses: in
plain Python, by a factor of thousands; and for many rows, where BLAS does the same arithmetic faster.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.backends.packed import round_groups

LANES = 64  # outputs in a block


def in_blocks(codes: np.ndarray) -> np.ndarray:  # (N, M) -> (J, M, 64)
    """Blocks of 64 outputs; inside a block input by input, so that the 64 codes of an input lie side by side."""
    return np.ascontiguousarray(codes.reshape(-1, LANES, codes.shape[1]).swapaxes(1, 2))


def block_product(
    codes: np.ndarray, scale: np.ndarray, x: np.ndarray, y: np.ndarray
) -> None:  # (J, M, 64), (J, G, 64), (M,), (J, 64) ->
    """Input by input, its code in 64 outputs at a time: 64 sums grow side by side."""
    J, M, _ = codes.shape
    G = scale.shape[1]
    size = M // G
    part = np.empty(64, np.float32)
    for j in range(J):
        y[j] = 0
        for g in range(G):
            part[:] = 0
            for k in range(g * size, g * size + size):
                for r in range(64):
                    part[r] += codes[j, k, r] * x[k]
            for r in range(64):
                y[j, r] += scale[j, g, r] * part[r]


def float_rows(
    codes: np.ndarray, scale: np.ndarray, x: np.ndarray, y: np.ndarray
) -> None:  # (J, M, 64), (J, G, 64), (T, M), (T, J, 64) ->
    """T rows at once: what was read of a block is multiplied with every row before the next codes are read."""
    G, T = scale.shape[1], len(x)
    size = codes.shape[1] // G
    part = np.empty((T, 64), np.float32)
    for j in range(len(codes)):
        y[:, j] = 0
        for g in range(G):
            part[:] = 0
            for k in range(g * size, g * size + size, 2):
                for t in range(T):
                    for r in range(64):
                        part[t, r] += codes[j, k, r] * x[t, k] + codes[j, k + 1, r] * x[t, k + 1]
            for t in range(T):
                for r in range(64):
                    y[t, j, r] += scale[j, g, r] * part[t, r]


def rounded_rows(
    x: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (T, M) -> (T, M/4), (T, groups), (T, groups)
    """Activations a as int8, four in each int32; the step of each group, x being about step · a; the sum of its a."""
    codes, step = round_groups(x, x.shape[1] // groups, np)  # (T, M), (T, G)
    a = codes.astype(np.int8)  # (T, M)
    return a.view(np.int32), step, a.reshape(len(x), groups, -1).sum(axis=2, dtype=np.int32)


def in_fours(blocks: np.ndarray) -> np.ndarray:  # (J, M, 64) -> (J, M/4, 64, 4)
    """Codes + 128 without a sign, the codes of four inputs side by side for each output."""
    fours = blocks.reshape(len(blocks), -1, 4, LANES).swapaxes(2, 3)  # (J, M/4, 64, 4)
    return np.ascontiguousarray(fours).view(np.uint8) ^ np.uint8(128)
