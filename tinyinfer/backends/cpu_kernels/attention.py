"""The launches of a layer's attention: what each row's queries find in the cache.

First the pieces of few lanes, then those of many, then the ends of those that were cut along the positions. How a batch
is cut is decided anew in each pass (attention_pieces.py), so that the same launches serve decode, a prompt, and both in
one batch; a launch without pieces costs next to nothing.
"""

from __future__ import annotations

from tinyinfer.arrays import FLOAT
from tinyinfer.backends.cpu_kernels import few_queries, many_queries
from tinyinfer.backends.cpu_kernels.attention_work import MOST_LANES, combine
from tinyinfer.backends.cpu_kernels.buffers import Buffers, Rows
from tinyinfer.backends.cpu_kernels.cached_rows import WIDTH
from tinyinfer.backends.cpu_kernels.few_queries import attend_few
from tinyinfer.backends.cpu_kernels.kernel import Launch
from tinyinfer.backends.cpu_kernels.many_queries import attend_many
from tinyinfer.backends.cpu_kernels.pass_data import PassData, padded_size
from tinyinfer.backends.cpu_kernels.scalars import bits_of
from tinyinfer.model.heads import Heads, NoCap, NoSinks


def attention(layer: int, heads: Heads, q: Rows, out: Rows, data: PassData, buffers: Buffers) -> list[Launch]:
    """softmax(cap(q·k) + mask) v of all rows, (T, H·E), into `out`; q: what `turn_append` leaves."""
    pieces, row = data.pieces_of(heads), padded_size(heads.size) + WIDTH
    partials = buffers.array("partials", (pieces.most_partials, heads.keys, MOST_LANES, row))
    common = (
        *data.place(layer, heads), heads.queries, q.array, q.stride * FLOAT, out.array, out.stride * FLOAT,
        data.positions, heads.window or 0, 0 if isinstance(heads.cap, NoCap) else bits_of(heads.cap.limit),
        0 if isinstance(heads.sinks, NoSinks) else heads.sinks.scores,
    )  # fmt: skip
    floats = max(few_queries.scratch_floats(heads.size), many_queries.scratch_floats(heads.size))
    scratch = buffers.array("attention", (buffers.threads, floats))
    parts = (attend_few, pieces.few), (attend_many, pieces.many), (combine, pieces.cut)
    rest = partials, scratch, FLOAT * floats
    return [Launch(kernel, (*common, table.array, *rest), table.count) for kernel, table in parts]
