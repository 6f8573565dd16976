"""Keys and values of sequences as kernels find them: pools in shuffled blocks, addresses, tables; NaN elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyinfer.model.attention import full_attention
from tinyinfer.model.heads import Heads

MOST_BLOCKS = 1100
LAYERS = 2


def random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal numbers in float32."""
    return rng.standard_normal(shape).astype(np.float32)


@dataclass
class CachedSequences:
    """Sequences of so many positions; block_size None: contiguous, each in pools of its own."""

    keys: list[list[np.ndarray]]  # of each layer and sequence, (S, K, E)
    values: list[list[np.ndarray]]
    tables: list[np.ndarray]  # of each sequence, its blocks
    block_sizes: list[int]
    stored: list[list[tuple[np.ndarray, np.ndarray]]]  # of each layer and sequence the pools, (K, P, E)

    @property
    def constants(self) -> dict[str, int]:
        """What the kernels must know at compile time about this cache."""
        return {"SLOTS": len(self.tables), "MOST_BLOCKS": MOST_BLOCKS}

    @property
    def pools(self) -> np.ndarray:  # -> (L, SLOTS, 2)
        """The addresses of the pools."""
        return np.array([[[x.ctypes.data for x in pair] for pair in layer] for layer in self.stored], np.uint64)

    @property
    def places(self) -> np.ndarray:  # -> (SLOTS, 2 + MOST_BLOCKS)
        """Of each slot P, b and the table; what lies behind the table is no block at all."""
        places = np.full((len(self.tables), 2 + MOST_BLOCKS), 2**30, np.int32)
        for slot, table in enumerate(self.tables):
            places[slot, :2] = self.stored[0][slot][0].shape[1], self.block_sizes[slot]
            places[slot, 2 : 2 + len(table)] = table
        return places

    def rows(self, slot: int) -> np.ndarray:  # -> (S,)
        """The pool's row of each position of a sequence."""
        positions, size = np.arange(len(self.keys[0][slot])), self.block_sizes[slot]
        return self.tables[slot][positions // size] * size + positions % size

    def write(self) -> None:
        """Puts all keys and values where the tables say."""
        for layer in range(LAYERS):
            for slot, (keys, values) in enumerate(self.stored[layer]):
                keys[:, self.rows(slot)] = self.keys[layer][slot].transpose(1, 0, 2)
                values[:, self.rows(slot)] = self.values[layer][slot].transpose(1, 0, 2)

    def attention(
        self, q: np.ndarray, positions: np.ndarray, slots: np.ndarray, layer: int, heads: Heads
    ) -> np.ndarray:  # (T, H, E), (T,), (T,) -> (T, H, E)
        """What the rows get by the formula, in float64; zeros for padded rows."""
        out = np.zeros(q.shape)
        for t, (position, slot) in enumerate(zip(positions, slots, strict=True)):
            if position >= 0:
                k, v = (x[layer][slot][: position + 1].astype(np.float64) for x in (self.keys, self.values))
                out[t] = full_attention(q[t : t + 1].astype(np.float64), k, v, int(position), 0, heads, np)[0]
        return out


def cached_sequences(
    lengths: Sequence[int], heads: int, size: int, block_size: int | None, seed: int = 0
) -> CachedSequences:
    """Random keys and values, written to pools that are full of NaN."""
    rng = np.random.default_rng(seed)
    keys, values = ([[random(rng, n, heads, size) for n in lengths] for _ in range(LAYERS)] for _ in range(2))

    def pools(positions: int) -> tuple[np.ndarray, np.ndarray]:
        shape = heads, positions, size
        return np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)

    if block_size is None:
        tables, sizes = [np.zeros(1, int) for _ in lengths], [n + 3 for n in lengths]
        stored = [[pools(n + 3) for n in lengths] for _ in range(LAYERS)]
    else:
        counts, sizes = [-(-n // block_size) for n in lengths], [block_size] * len(lengths)
        order = rng.permutation(sum(counts) + 3)
        tables = np.split(order[: sum(counts)], np.cumsum(counts)[:-1])
        stored = [[pools((sum(counts) + 3) * block_size)] * len(lengths) for _ in range(LAYERS)]
    cache = CachedSequences(keys, values, tables, sizes, stored)
    cache.write()
    return cache
