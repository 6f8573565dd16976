"""The launches of a layer's attention: from the product of queries, keys and values to the rows that `o` multiplies.

    turn_append      norms, rotation; new keys and values into the cache, queries beside it; blocks that are full, packed
    attention        pieces of few lanes, pieces of many, and the ends of those that were cut along the positions

How a batch is cut is decided anew in each pass (attention_pieces.py), so that the same launches serve decode, a prompt,
and both in one batch; a launch without pieces costs next to nothing.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.arrays import FLOAT
from tinyinfer.backends.cpu_kernels import few_queries, many_queries
from tinyinfer.backends.cpu_kernels.attention_work import FIELDS, MOST_LANES, combine
from tinyinfer.backends.cpu_kernels.buffers import Rows
from tinyinfer.backends.cpu_kernels.cached_rows import BYTES, WIDTH
from tinyinfer.backends.cpu_kernels.few_queries import attend_few
from tinyinfer.backends.cpu_kernels.kernel import Launch
from tinyinfer.backends.cpu_kernels.many_queries import attend_many
from tinyinfer.backends.cpu_kernels.pass_data import PassData
from tinyinfer.backends.cpu_kernels.scalars import bits_of
from tinyinfer.backends.cpu_kernels.turn_append import pack_blocks
from tinyinfer.backends.cpu_kernels.turn_append import turn_append as turn_append_kernel
from tinyinfer.model.heads import Heads, NoCap, NoSinks
from tinyinfer.model.weights import FullQKNorm, NoNorm, RMSNorm

Argument = int | np.ndarray


def turn_append(
    data: PassData, layer: int, heads: Heads, norm: NoNorm | RMSNorm | FullQKNorm, qkv: Rows, cos: np.ndarray, sin: np.ndarray
) -> list[Launch]:  # (T, E), (T, E) ->
    """Queries and keys normalized and turned, and put where attention finds them. cos, sin: of the layer's rotation."""
    weight, eps, together = norm_of(norm)
    arguments = (
        *place_of(data, layer, heads), qkv.array, qkv.stride * FLOAT, heads.queries, queries_of(data, heads), cos, sin,
        weight, bits_of(eps), bits_of(heads.scale), data.positions, data.row_slots, together,
    )  # fmt: skip
    launches = [Launch(turn_append_kernel, arguments, len(qkv))]
    if data.block_size:
        codes = data.buffers.array(
            "codes", (data.buffers.threads, -(-data.block_size * heads.size // BYTES) * BYTES), np.uint8
        )
        launches.append(
            Launch(pack_blocks, (*place_of(data, layer, heads), codes, data.filled), data.blocks_filled[layer])
        )
    return launches


def attention(data: PassData, layer: int, heads: Heads, out: Rows) -> list[Launch]:
    """What each row's queries, left by `turn_append`, find in the cache: (T, H·E), into `out`."""
    pieces, buffers, size = data.pieces_of(heads), data.buffers, padded_size(heads.size)
    partials = buffers.array("partials", (pieces.most_partials, heads.keys, MOST_LANES, size + WIDTH))
    common = (
        *place_of(data, layer, heads), heads.queries, queries_of(data, heads), out.array, out.stride * FLOAT,
        data.positions, heads.window or 0, 0 if isinstance(heads.cap, NoCap) else bits_of(heads.cap.limit),
        0 if isinstance(heads.sinks, NoSinks) else heads.sinks.scores,
    )  # fmt: skip
    launches = []
    for kernel, table, floats in (
        (attend_few, pieces.few, few_queries.scratch_floats(heads.size)),
        (attend_many, pieces.many, many_queries.scratch_floats(heads.size)),
        (combine, pieces.cut, WIDTH),
    ):
        scratch = buffers.array("attention", (buffers.threads, floats))
        arguments = (*common, table.array, partials, scratch, scratch.shape[1] * FLOAT)
        launches.append(Launch(kernel, arguments, table.count))
    return launches


def place_of(data: PassData, layer: int, heads: Heads) -> tuple[Argument, ...]:
    """The arguments with which every kernel begins that knows the cache (cached_rows.py)."""
    column, row = FLOAT * data.columns[layer], FLOAT * data.columns[-1]
    return data.addresses[layer], data.slots, heads.size, heads.keys, data.bits, data.group, column, row


def queries_of(data: PassData, heads: Heads) -> np.ndarray:  # -> (T, H, E), E padded to whole vectors
    """Where the rows' queries lie between the two."""
    return data.buffers.array("queries", (data.buffers.count, heads.queries, padded_size(heads.size)))


def padded_size(size: int) -> int:
    """E, as a whole number of vectors."""
    return -(-size // WIDTH) * WIDTH


def norm_of(norm: NoNorm | RMSNorm | FullQKNorm) -> tuple[Argument, float, int]:
    """The weights of a norm of queries and keys, its epsilon, and whether all heads are normalized as one vector."""
    if isinstance(norm, NoNorm):
        return 0, 0.0, 0
    if isinstance(norm, RMSNorm):
        return norm.weight, norm.eps, 0
    return np.concatenate((norm.query.weight, norm.key.weight)), norm.query.eps, 1
