"""Rows in another order than the file's: what a loader undoes when a file puts the numbers of a head elsewhere.

RoPE rotates pairs of numbers. In this engine the pairs of a head of E numbers are always (i, i + E/2), so that the head
is two halves, and each number of one is rotated with its number of the other. Files know two other orders:

- Partial rotation, r of E numbers (published files): the pairs are (i, i + r/2) among the first r, and the rest stands
  behind them. Each half gets one number of every pair and half of the rest, which a frequency of 0 leaves as it is.
- Neighbours (GGUF, of Llama and its like): the pairs are (2i, 2i + 1).

A product of query and key sums over all numbers of a head, so any order serves as long as both have the same. Values
and the matrix behind attention keep the file's order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.loading.checkpoint import LazyTensor

if TYPE_CHECKING:
    from tinyinfer.model.quantized_matrix import QuantizedMatrix


def reordered(tensor: LazyTensor, index: np.ndarray) -> LazyTensor:  # (n,) ->
    """The tensor of n rows whose row i is row index[i] of the file's tensor, be it floats or codes of a matrix.

    A tile of its rows reads the file from the first row that it needs to the last one: keep what belongs together near.
    """

    def read(start: int, stop: int) -> np.ndarray:  # -> (stop - start, ...)
        rows = index[start:stop]
        first, last = covering(rows)
        return tensor.read(first, last)[rows - first]

    def codes(start: int, stop: int) -> QuantizedMatrix:
        assert tensor.codes is not None
        first, last = covering(index[start:stop])
        return tensor.codes(first, last).outputs(index[start:stop] - first)

    return replace(
        tensor,
        shape=(len(index), *tensor.shape[1:]),
        nbytes=tensor.nbytes * len(index) // max(1, tensor.shape[0]),
        read=read,
        codes=codes if tensor.codes else None,
    )


def covering(rows: np.ndarray) -> tuple[int, int]:  # (n,) ->
    """The range first ... last of the file that holds these n rows."""
    return (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 0)


def partial_rotation_order(heads: int, head_dim: int, size: int) -> np.ndarray:  # -> (heads*head_dim,)
    """The published order, in which the first `size` numbers of a head are its pairs (i, i + size/2), for `reordered`.

    With `size` the whole head nothing moves. One head is what a norm's weight needs that all heads share.
    """
    half, rest = size // 2, (head_dim - size) // 2
    return of_heads(heads, range(half), range(size, size + rest), range(half, size), range(size + rest, head_dim))


def neighbour_pairs_order(heads: int, head_dim: int, size: int) -> np.ndarray:  # -> (heads*head_dim,)
    """GGUF's order, in which the first `size` numbers of a head are its pairs (2i, 2i + 1), for `reordered`."""
    rest = size + (head_dim - size) // 2
    return of_heads(heads, range(0, size, 2), range(size, rest), range(1, size, 2), range(rest, head_dim))


def of_heads(heads: int, *runs: range) -> np.ndarray:  # -> (n,)
    """The n rows of all heads, the rows of each in the order of these runs, which together are one head."""
    one = np.concatenate([np.arange(run.start, run.stop, run.step) for run in runs])  # (E,)
    return (np.arange(heads)[:, None] * len(one) + one).reshape(-1)
