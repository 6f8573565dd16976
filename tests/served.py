"""A paged cache and its prefixes without a scheduler or a model, for tests that look at blocks.

Keys of a position are marked by all tokens up to it, as a model's are, so that a wrong block shows.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
from helpers import flat_batch, request, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.paged import PagedCache
from tinyinfer.kv_cache.prefix_cache import PrefixCache
from tinyinfer.ledger import Ledger
from tinyinfer.sequence import Sequence

CONFIG = small_config(num_layers=1, num_kv_heads=1, head_dim=2)


def mark(tokens: Seq[int]) -> float:
    """What a position's keys are: a number that depends on all tokens up to it, exact in float32."""
    value = 7
    for token in tokens:
        value = (31 * value + token + 1) % 1000003
    return float(value)


class Served:
    """A paged cache of blocks of 4 and its prefixes, used as a scheduler uses them."""

    def __init__(self, num_blocks: int = 16, reserve_all: bool = True, ops: type[NumpyOps] = NumpyOps) -> None:
        self.ledger = Ledger()
        spec = CacheSpec(CONFIG.memory, 100, 4, num_blocks, reserve_all=reserve_all)
        self.ops = ops(self.ledger)
        self.cache = PagedCache(spec, self.ops)
        self.prefixes = PrefixCache(self.cache, self.ledger)

    def plan(self, seq: Sequence, rows: int | None = None) -> tuple[Sequence, int]:
        """Room for its pending rows, or so many of them, and a place in the tree for the blocks that they fill."""
        first = self.cache.length(seq)
        rows = len(seq.tokens) - first if rows is None else rows
        while self.cache.missing(seq, rows):
            assert self.prefixes.evict()
        self.cache.reserve(seq, rows)
        self.prefixes.register(seq, first + rows)
        return seq, rows

    def write(self, *plans: tuple[Sequence, int]) -> None:
        """Keys and values of the rows of one step."""
        work = [(seq, self.cache.length(seq), self.cache.length(seq) + rows) for seq, rows in plans]
        marks = [mark(seq.tokens[: p + 1]) for seq, first, stop in work for p in range(first, stop)]
        k = np.broadcast_to(np.array(marks, np.float32)[:, None, None], (len(marks), 1, 2))
        self.cache.append(0, k, -k, flat_batch(work))

    def compute(self, *plans: tuple[Sequence, int]) -> None:
        """One step of these."""
        self.write(*plans)
        self.prefixes.commit()
        for seq, rows in plans:
            self.cache.commit(seq, rows)

    def start(self, *prompts: list[int], salt: str | None = None) -> list[tuple[Sequence, int]]:
        """New sequences that run side by side, one step each: them, and how many positions each one found."""
        started, plans = [], []
        for prompt in prompts:
            seq = request(prompt, cache_salt=salt)
            started.append((seq, self.prefixes.match(seq)))
            plans.append(self.plan(seq))
        self.compute(*plans)
        for seq, _ in started:
            self.check(seq)
        return started

    def check(self, seq: Sequence) -> None:
        """It reads what its own tokens say, at every position."""
        k, v = self.cache.read(0, seq, 0)
        assert k[:, 0, 0].tolist() == [mark(seq.tokens[: p + 1]) for p in range(self.cache.length(seq))]
        assert (v == -k).all()

    def end(self, *sequences: Sequence) -> None:
        for seq in sequences:
            self.prefixes.free(seq)
            self.cache.free(seq)

    def run(self, prompt: list[int], salt: str | None = None) -> int:
        """A prompt from its start to its end; how many positions it found."""
        [(seq, found)] = self.start(prompt, salt=salt)
        self.end(seq)
        return found
