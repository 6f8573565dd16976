"""A pass over any rows: prompts, chunks of prompts, and decodes beside them, with cuBLAS's products and own attention.

A prompt's rows are many, so its products limit it, and cuBLAS has the best of them. cuBLAS cannot be captured, and
there is no need: what a launch costs the host is little beside the work of a thousand rows. So `transformer` runs as it
is written, with CuPy's operations; only the mixer of each layer is another one. `KernelAttention` lets three kernels
do what lies between two products: they turn and append the rows, attend, and know paged caches by their block tables.

Wins: no (H, T, S) array of scores, no gathered copy of a paged cache. Loses: a step of few rows, in which the host
cannot keep up (bucket.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinyinfer.arrays import FLOAT, Array
from tinyinfer.backends.kernels.buffers import Seats, Staging
from tinyinfer.backends.kernels.launch import NULL, Kernels, Launch, threads_of
from tinyinfer.backends.kernels.memory import Sizes, constants_of, fields_of, tile_of
from tinyinfer.backends.kernels.plan import attention_args
from tinyinfer.model.attention import GroupedQuery
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.model.weights import NoNorm
from tinyinfer.sequence import Batch

LEAST = 16  # rows and slots of the smallest pass; from there on powers of two


class PromptPass:
    """Runs `transformer` with the kernels' attention."""

    def __init__(self, model: Model, ops: Any, kernels: Kernels, most_blocks: int, processors: int) -> None:
        self.model, self.ops, self.kernels = model, ops, kernels
        self._most_blocks, self._processors = most_blocks, processors
        self._stagings: dict[Sizes, tuple[Staging, Seats]] = {}

    def forward(self, batch: Batch, cache: Any) -> Array:  # (T,) -> (R, V)
        """The logits that the batch asks for; keys and values go to the cache."""
        sizes = self._sizes(batch)
        staging, seats = self._staging(sizes)
        staging.wait()
        host, rows = staging.host, len(batch)
        host["positions"][:rows], host["positions"][rows:] = batch.positions, -1
        host["sets"][:rows] = batch.rotation_sets
        seats.take([cache.pools_of(span.seq) for span in batch.spans])
        for slot, span in enumerate(batch.spans):
            host["slots"][span.start : span.stop] = slot
        staging.send(None)
        attend = Attend(self.kernels, constants_of(self.model, sizes), sizes, staging.device, batch)
        layers: Any = self.model.layers  # of the only kind that is covered
        attending = tuple(replace(layer, mixer=KernelAttention(layer.mixer, self.model, attend)) for layer in layers)
        return transformer(replace(self.model, layers=attending), batch, cache, self.ops)

    def _sizes(self, batch: Batch) -> Sizes:
        return Sizes(power(len(batch)), power(len(batch.spans)), self._most_blocks, self._processors)

    def _staging(self, sizes: Sizes) -> tuple[Staging, Seats]:
        if sizes not in self._stagings:
            staging = Staging(self.kernels.xp, fields_of(self.model, sizes))
            self._stagings[sizes] = staging, Seats(staging)
        return self._stagings[sizes]


def power(number: int) -> int:
    """The smallest power of two that holds a number, from LEAST on: few sizes, few compilations."""
    return max(LEAST, 1 << (number - 1).bit_length())


class Attend:
    """The kernels' attention over one batch: turn and append, attend with single rows, attend with tiles of rows."""

    def __init__(self, kernels: Kernels, constants: Any, sizes: Sizes, row: dict[str, Array], batch: Batch) -> None:
        xp = kernels.xp
        self.kernels, self.constants, self.sizes, self.row, self.rows = kernels, constants, sizes, row, len(batch)
        tile = tile_of(constants["E"])
        self.tiles = [
            (start, min(tile, span.stop - start), slot)
            for slot, span in enumerate(batch.spans) if span.rows > 1
            for start in range(span.start, span.stop, tile)
        ]  # fmt: skip
        alone = [span.start for span in batch.spans if span.rows == 1]
        positions = np.full(sizes.rows, -1, np.int32)
        positions[alone] = batch.positions[alone]
        self.alone = xp.asarray(positions) if alone else None  # the positions of rows that attend by themselves
        self.device_tiles = xp.asarray(np.array(self.tiles, np.int32).reshape(-1, 3))
        keys, queries, size = constants["K"], constants["H"], constants["E"]
        shared = constants["SPLITS"] if constants["SPLITS"] > 1 else 0  # a row of one part needs no partial sums
        self.partial = xp.empty((sizes.rows * queries * shared, size + 2), dtype=xp.float32)
        self.counters = xp.zeros(sizes.rows * keys, dtype=xp.int32)
        self.q, self.out = (xp.zeros((sizes.rows, queries * size), dtype=xp.float32) for _ in range(2))

    def __call__(self, qkv: Array, layer: int, mixer: GroupedQuery, rotation: Any) -> Array:  # (T, N) -> (T, M)
        """What attention gives for the rows' queries, keys and values."""
        row, c, heads, norm = self.row, self.constants, mixer.heads, mixer.qk_norm
        weight, eps = (NULL, 0.0) if isinstance(norm, NoNorm) else (norm.weight, norm.eps)  # type: ignore[union-attr]
        where = (row["positions"], row["slots"], row["sets"], rotation.frequencies, rotation.amplitudes)
        args = (qkv, weight, np.float32(eps), *where, row["pools"], row["places"], np.int32(layer), self.q)
        self._launch("qk_norm_rope_append", args, -(-self.rows * (c["H"] + 2 * c["K"]) // 4))
        over = attention_args(row, layer, heads)
        if self.alone is not None:  # first, as it writes zeros where a row has no position
            args = (self.q, self.alone, *over[1:], self.partial, self.counters, self.out)
            self._launch("attention_decode", args, self.sizes.rows * c["K"] * c["SPLITS"])
        if self.tiles:
            args = (self.q, *over[:2], self.device_tiles, *over[2:], self.out, np.int32(len(self.tiles)))
            self._launch("attention_prefill", args, len(self.tiles) * c["H"], shared_bytes(c["E"]))
        return self.out[: self.rows]

    def _launch(self, name: str, args: tuple[Any, ...], grid: int, shared: int = 0) -> None:
        self.kernels.bind(Launch(name, self.constants, grid, threads_of(name), args, shared))()


def shared_bytes(head_size: int) -> int:
    """Shared memory of a block of attention_prefill: a tile of queries, of keys, of values and of scores."""
    tile = tile_of(head_size)
    return FLOAT * ((tile + 2 * 32) * (-(-head_size // 4) * 4 + 4) + tile * 36)


@dataclass(frozen=True)
class KernelAttention:
    """A layer's mixer whose rows attend by kernels, in the place of its GroupedQuery."""

    plain: GroupedQuery
    model: Model
    attend: Attend

    @property
    def nbytes(self) -> int:
        return self.plain.nbytes

    def __call__(
        self, x: Array, rotations: Any, layer: int, batch: Batch, cache: Any, ops: Any
    ) -> Array:  # (T, D) -> (T, D)
        """The change that attention makes to each row, as GroupedQuery's."""
        qkv = ops.xp.ascontiguousarray(ops.linear(x, self.plain.qkv))  # (T, (H+2K)·E)
        mixed = self.attend(qkv, layer, self.plain, self.model.rotations[self.plain.rotation])  # (T, H·E)
        return ops.linear(mixed, self.plain.o)
