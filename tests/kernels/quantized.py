"""Sequences in a quantized cache, in the middle of a step, and where kernels find their blocks and float rows."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np
from helpers import flat_batch, request

from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.packed_blocks import PackedLayer
from tinyinfer.kv_cache.quantized import QuantizedCache, QuantizedContiguousCache, QuantizedPagedCache
from tinyinfer.ledger import Ledger
from tinyinfer.model.attention import full_attention
from tinyinfer.model.config import Rows
from tinyinfer.model.heads import Heads

LAYERS, MOST_BLOCKS = 2, 80
CACHES: dict[str, type[QuantizedCache]] = {"contiguous": QuantizedContiguousCache, "paged": QuantizedPagedCache}
# Of each sequence the positions before the step, and after it; block size 4. A first block; one that is begun; two that
# the step fills, the second one to its end; a float row alone after full blocks; one that fills its block exactly.
STEPS = [(0, 3), (5, 6), (18, 24), (40, 41), (63, 64)]


class Quantized:
    """A cache with sequences that a step makes longer: `steps` has lengths before and after it."""

    def __init__(
        self, kind: str, bits: int, keys: int, size: int, *, group: int | None = None, block: int = 4,
        steps: list[tuple[int, int]] = STEPS, seed: int = 0,
    ) -> None:  # fmt: skip
        rows = (Rows(keys, size, size),) * LAYERS
        spec = CacheSpec(rows, 256, block, 256, kv_bits=bits, kv_group_size=group)
        self.cache, self.rng = CACHES[kind](spec, ReferenceOps(Ledger())), np.random.default_rng(seed)
        self.steps, self.keys, self.size, self.bits, self.block = steps, keys, size, bits, block
        self.seqs = [request(range(stop)) for _, stop in steps]
        self.cache.prepare(self.seqs)
        before = [range(0, first, block) for first, _ in steps]
        for starts in zip_longest(*before):  # a block of each in turn, so that tables of a pool are mixed
            for seq, start, (first, _) in zip(self.seqs, starts, steps, strict=True):
                if start is not None:
                    self.append(seq, start, min(start + block, first))
                    self.cache.commit(seq, min(block, first - start))
        for seq, (first, stop) in zip(self.seqs, steps, strict=True):
            self.cache.reserve(seq, stop - first)

    def append(self, seq: Any, first: int, stop: int) -> None:
        """Puts random keys and values of some positions into the cache, in all layers, without a commit."""
        batch = flat_batch([(seq, first, stop)])
        if self.cache.length(seq) + stop - first > self.cache.length(seq):
            self.cache.reserve(seq, stop - self.cache.length(seq))
        for layer in range(LAYERS):
            k, v = (self.numbers(stop - first) for _ in range(2))
            self.cache.append(layer, k, v, batch)

    def numbers(self, rows: int) -> np.ndarray:  # -> (T, K, E)
        """Keys or values with every kind of channel: large, tiny, always the same, and beyond float16."""
        x = self.rng.standard_normal((rows, self.keys, self.size)) * 2.0 ** self.rng.integers(-3, 4, self.size)
        x[..., 0], x[..., 1], x[..., 2] = 1.5, x[..., 1] * 1e-6, 0
        x[..., 3] *= 3e4
        return x.astype(np.float32)

    def step(self) -> None:
        """What the host does in this step: appends the rows, and packs the blocks that they fill."""
        for seq, (first, stop) in zip(self.seqs, self.steps, strict=True):
            self.append(seq, first, stop)

    @property
    def constants(self) -> dict[str, int]:
        """What the kernels must know at compile time about this cache."""
        cache, group = self.cache, self.packed(0).value_scales.shape[-1]
        return {
            "SLOTS": len(self.seqs), "MOST_BLOCKS": MOST_BLOCKS, "BITS": self.bits, "BLOCK": self.block,
            "GROUP": self.size // group, "NUMBERS": cache._columns[-1][1].stop, "K": self.keys, "E": self.size,
        }  # fmt: skip

    def packed(self, slot: int, layer: int = 1) -> PackedLayer:
        """A layer of the packed blocks in which a sequence lies."""
        return self.cache.storage(self.seqs[slot]).layers[layer]

    def floats(self, slot: int) -> np.ndarray:  # -> (S, NUMBERS)
        """The float rows of a sequence."""
        return self.cache._open[self.seqs[slot].id].rows

    @property
    def stores(self) -> np.ndarray:  # -> (L, SLOTS, 5)
        """The addresses of codes, scales and float rows."""
        return np.array(
            [
                [
                    [array.ctypes.data for array in self.packed(slot, layer)]
                    + [self.floats(slot).ctypes.data + 4 * self.cache._columns[layer][0].start]
                    for slot in range(len(self.seqs))
                ]
                for layer in range(LAYERS)
            ],
            np.uint64,
        )

    @property
    def places(self) -> np.ndarray:  # -> (SLOTS, 2 + MOST_BLOCKS)
        """Of each slot B, first and the packed blocks; what lies behind them is no block at all."""
        places = np.full((len(self.seqs), 2 + MOST_BLOCKS), 2**30, np.int32)
        for slot, (seq, (_, stop)) in enumerate(zip(self.seqs, self.steps, strict=True)):
            full = stop // self.block
            ids = self.cache.block_ids(seq, 0, full)
            places[slot, 0] = self.cache.storage(seq).count
            places[slot, 1] = self.cache._open[seq.id].first
            places[slot, 2 : 2 + full] = np.arange(ids.start, ids.stop) if isinstance(ids, slice) else ids
        return places

    def rows(self) -> tuple[np.ndarray, np.ndarray]:  # -> (T,), (T,)
        """Positions and slots of the step's rows, and a padded row among them."""
        rows = [(p, slot) for slot, (first, stop) in enumerate(self.steps) for p in range(first, stop)]
        rows.insert(2, (-1, 0))
        positions, slots = np.array(rows, np.int32).T.copy()
        return positions, slots

    def attention(self, q: np.ndarray, heads: Heads) -> np.ndarray:  # (T, H, E) -> (T, H, E)
        """What the rows get by the formula, in float64, from what the cache says that they read."""
        out = np.zeros(q.shape)
        for t, (position, slot) in enumerate(zip(*self.rows(), strict=True)):
            if position >= 0:
                read = self.cache.read(1, self.seqs[slot], 0, int(position) + 1)
                k, v = (x.astype(np.float64) for x in read)
                out[t] = full_attention(q[t : t + 1].astype(np.float64), k, v, int(position), 0, heads, np)[0]
        return out
