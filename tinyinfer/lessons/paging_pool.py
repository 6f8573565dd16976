"""A pool of blocks that fits on a page, and a student's block table inside the real engine.

The pool holds the rows of one head: block B, row b, E numbers. Which blocks are free is the library's own `BlockPool`,
so a student's table that takes blocks in the right order has the block numbers of the library's tables.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.engine.engine import Engine
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.blocks import BlockPool
from tinyinfer.kv_cache.paged import PagedCache
from tinyinfer.lessons.own_part import own_engine
from tinyinfer.llm import LLM
from tinyinfer.model.interfaces import Device
from tinyinfer.prompts import Prompt
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Sequence


class Pool:
    """Blocks of b = block_size rows: rows[block, offset] is one row of E numbers. allocate() gives a free block."""

    def __init__(self, rows: Array) -> None:  # (B, b, E) ->
        self.rows, self.block_size = rows, rows.shape[1]
        self.given: list[int] = []  # the blocks that were allocated
        self._blocks = BlockPool(len(rows))

    def allocate(self) -> int:
        """The number of a free block, which is free no longer. Raises ValueError when no block is free."""
        self.given.append(self._blocks.allocate())
        return self.given[-1]


class UsedPool(Pool):
    """A pool after long use: its free blocks come in no order."""

    def allocate(self) -> int:
        """The number of a free block. Every block comes once: 7 and the number of blocks have no common divisor."""
        self.given.append((7 * self._blocks.allocate() + 3) % len(self.rows))
        return self.given[-1]


class BlockTable:
    """Where the rows of one sequence lie in a pool: `blocks` in the order of the positions, and how many rows."""

    def __init__(self, pool: Pool, blocks: Seq[int] = (), length: int = 0) -> None:
        self.pool, self.blocks, self.length = pool, list(blocks), length

    def slot(self, position: int) -> tuple[int, int]:
        """Block and offset of a position."""
        return self.blocks[position // self.pool.block_size], position % self.pool.block_size

    def append(self, rows: Array) -> None:  # (T, E) ->
        """Stores rows behind the others, and takes a block whenever the last one is full."""
        for row in rows:
            if self.length == len(self.blocks) * self.pool.block_size:
                self.blocks.append(self.pool.allocate())
            self.pool.rows[self.slot(self.length)] = row
            self.length += 1

    def gather(self) -> Array:  # -> (S, E)
        """All rows of the sequence, in the order of the positions."""
        return np.array([self.pool.rows[self.slot(position)] for position in range(self.length)])


class TableCache(PagedCache):
    """The library's paged cache, but whatever attention reads is gathered by the student's table."""

    def __init__(self, spec: CacheSpec, device: Device, table: Callable[..., Any]) -> None:
        super().__init__(spec, device)
        self._new_table = table

    def read(
        self, layer: int, seq: Sequence, start: int, stop: int | None = None
    ) -> tuple[Array, Array]:  # -> (S, K, E), (S, K, E)
        """Copies, whatever the layout of the blocks."""
        length = self._written[seq.id] if stop is None else stop
        keys, values = [self._heads(pool, seq, length)[start:] for pool in self.pools[layer]]
        return keys, values

    def _heads(self, pool: Array, seq: Sequence, length: int) -> Array:  # (K, P, E) -> (S, K, E)
        heads = []
        for head in pool:
            rows = head.reshape(self.num_blocks, self.block_size, -1)  # (B, b, E)
            table = self._new_table(Pool(rows), self.block_table(seq), length)
            heads.append(np.asarray(table.gather(), dtype=np.float32))
        return np.stack(heads, axis=1)


def read_by(llm: LLM, table: Callable[..., Any]) -> Engine:
    """An engine like that of a model with a paged cache, but with reads by a student's table."""
    return own_engine(llm, TableCache(llm.engine.cache.spec, llm.ops, table))


def answers(llm: LLM, prompts: Seq[Prompt], n: int, table: Callable[..., Any] | None = None) -> list[list[int]]:
    """The first n new tokens of each prompt, greedy. table: reads by a student's table; None: by the library."""
    engine = llm.engine if table is None else read_by(llm, table)
    sequences = llm.sequences(list(prompts), SamplingParams(max_tokens=n, ignore_eos=True))
    for _ in engine.run(sequences):
        continue
    return [seq.new_tokens for seq in sequences]


def replayed(llm: LLM, prompts: Seq[Prompt], n: int, table: Callable[..., Any]) -> list[tuple[list[int], list[int]]]:
    """After each step of each sequence: the block table of the library, and the student's that got as many rows."""
    spec, tables, pairs = llm.engine.cache.spec, dict[int, Any](), []
    pool = Pool(np.zeros((spec.num_blocks, spec.block_size, 1), np.float32))
    for step in llm.steps(list(prompts), SamplingParams(max_tokens=n, ignore_eos=True)):
        for turn in step.turns:
            mine = tables.setdefault(turn.id, table(pool))
            mine.append(np.zeros((turn.rows, 1), np.float32))
            pairs.append(([block.number for block in turn.blocks], list(mine.blocks)))
    return pairs
