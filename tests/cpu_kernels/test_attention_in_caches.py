"""Norms, rotation, the cache's new rows and attention as kernels, against ReferenceOps on real caches.

Two caches of a kind go through the same steps: one by `append` and `read`, the other one by kernels. What attention
gives and what both hold must be equal: in prefill, in decode, in chunks, and with several sequences in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from helpers import flat_batch, request

from tinyinfer.backends.cpu_kernels.attention import attention
from tinyinfer.backends.cpu_kernels.buffers import Buffers
from tinyinfer.backends.cpu_kernels.pass_data import PassData, padded_size
from tinyinfer.backends.cpu_kernels.plan import Plan
from tinyinfer.backends.cpu_kernels.team import team
from tinyinfer.backends.cpu_kernels.turn_append import turn_append
from tinyinfer.backends.reference import ReferenceOps
from tinyinfer.kv_cache.base import Cache, CacheSpec
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.kv_cache.paged import PagedCache
from tinyinfer.kv_cache.quantized import QuantizedContiguousCache, QuantizedPagedCache
from tinyinfer.ledger import Ledger
from tinyinfer.model.config import Rows
from tinyinfer.model.heads import Heads, Sinks, SoftCap
from tinyinfer.model.weights import NoNorm, RMSNorm, Rotation
from tinyinfer.sequence import Batch

pytestmark = pytest.mark.cpu
TEAM, THREADS, LAYERS, LAYER, LONGEST = team(), 2, 3, 1, 400
KINDS = {"contiguous": ContiguousCache, "paged": PagedCache}
PACKED = {"contiguous": QuantizedContiguousCache, "paged": QuantizedPagedCache}
Work = list[tuple[int, int]]  # of each sequence of a step: which one, and how many rows


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def rotation_of(size: int, turns: bool) -> Rotation:
    frequencies = turns * 10000.0 ** (-np.arange(size // 2, dtype=np.float32) / (size // 2))
    return Rotation(frequencies[None], np.ones((1, 1), np.float32))


def scattered(cache: Cache) -> Cache:
    """The cache, whose free blocks are in no order."""
    if hasattr(cache, "blocks"):
        np.random.default_rng(3).shuffle(cache.blocks.free)
    return cache


@dataclass
class Pair:
    """Two caches of a kind, with the same sequences: `plain` for the formulas, `fast` for the kernels.

    turns: whether positions rotate keys. Else both caches get the same floats, to the last bit.
    """

    kind: type[Cache]
    heads: Heads
    norm: NoNorm | RMSNorm = field(default_factory=NoNorm)
    changes: dict[str, Any] = field(default_factory=dict)
    turns: bool = True

    def __post_init__(self) -> None:
        memory = (Rows(self.heads.keys, self.heads.size, self.heads.size),) * LAYERS
        numbers = {"block_size": 16, "num_blocks": 200, "reserve_all": True} | self.changes
        self.ops, self.rng = ReferenceOps(Ledger()), np.random.default_rng(0)
        self.plain, self.fast = (
            scattered(self.kind(CacheSpec(memory, LONGEST, **numbers), self.ops)) for _ in range(2)
        )
        self.sequences = [request([0] * LONGEST) for _ in range(3)]
        self.datas: dict[int, tuple[PassData, Buffers, Any]] = {}

    def step(self, work: Work) -> tuple[np.ndarray, np.ndarray]:  # -> (T, H·E), (T, H·E)
        """A step on both caches: what attention gives by the formulas, and by the kernels."""
        for cache in (self.plain, self.fast):
            for number, rows in work:
                cache.reserve(self.sequences[number], rows)
        spans = [(seq := self.sequences[n], first := self.plain.length(seq), first + rows) for n, rows in work]
        batch = flat_batch(spans)
        heads = self.heads
        qkv = normal(self.rng, len(batch), (heads.queries + 2 * heads.keys) * heads.size)
        turn = self.ops.cos_sin(batch.positions, batch.rotation_sets, rotation_of(heads.size, self.turns))
        expected, found = self.by_formulas(qkv, turn, batch), self.by_kernels(qkv, turn, batch)
        for cache in (self.plain, self.fast):
            for number, rows in work:
                cache.commit(self.sequences[number], rows)
        return expected, found

    def by_formulas(self, qkv: np.ndarray, turn: Any, batch: Batch) -> np.ndarray:  # (T, N) -> (T, H·E)
        heads = self.heads
        rows = qkv.reshape(len(batch), -1, heads.size)  # (T, H+2K, E)
        qk = self.ops.rope(self.ops.norm(rows[:, : -heads.keys], self.norm), turn)  # (T, H+K, E)
        self.plain.append(LAYER, qk[:, heads.queries :], rows[:, -heads.keys :], batch)
        out = self.ops.attention(qk[:, : heads.queries], LAYER, batch, self.plain, heads)
        return out.reshape(len(batch), -1)

    def by_kernels(self, qkv: np.ndarray, turn: Any, batch: Batch) -> np.ndarray:  # (T, N) -> (T, H·E)
        data, buffers, plan = self.plan_of(len(batch))
        buffers.rows("qkv", qkv.shape[1]).array[:, : qkv.shape[1]] = qkv
        for name, array in zip(("cos", "sin"), turn, strict=True):
            buffers.array(name, (len(batch), self.heads.size))[:] = array[:, 0]
        data.load(batch, self.fast)
        plan.refresh()
        TEAM.run(plan, THREADS)
        self.fast.record_written(batch)
        out = buffers.rows("out", self.heads.queries * self.heads.size)
        return out.array[:, : out.width]

    def plan_of(self, rows: int) -> tuple[PassData, Buffers, Plan]:
        """The plan for so many rows, made once."""
        if rows not in self.datas:
            heads, data, buffers = self.heads, PassData(rows, self.fast, THREADS), Buffers(rows, THREADS)
            qkv = buffers.rows("qkv", (heads.queries + 2 * heads.keys) * heads.size)
            q = buffers.rows("q", heads.queries * padded_size(heads.size))
            out = buffers.rows("out", heads.queries * heads.size)
            turn = tuple(buffers.array(name, (rows, heads.size)) for name in ("cos", "sin"))
            launches = turn_append(LAYER, qkv, self.norm, turn, heads, q, data)
            launches += attention(LAYER, heads, q, out, data, buffers)
            self.datas[rows] = data, buffers, Plan(launches)
        return self.datas[rows]

    def check(self, *steps: Work, atol: float = 2e-5) -> None:
        """Both give the same in each of the steps."""
        for number, work in enumerate(steps):
            expected, found = self.step(work)
            np.testing.assert_allclose(found, expected, atol=atol, rtol=1e-4, err_msg=f"step {number}: {work}")


def sinks(keys: int, group: int) -> Sinks:
    """Some that hardly count, and some that take nearly all of the weight."""
    return Sinks(np.linspace(-3, 4, keys * group, dtype=np.float32).reshape(keys, group, 1))


HEADS = Heads(queries=6, keys=2, size=64, scale=0.125, window=None)
# A prompt, decode, chunks of drafts; then others join: decode and a prompt in one batch, then decode of all.
STEPS: list[Work] = [
    [(0, 70)], [(0, 1)], [(0, 1)], [(0, 5)], [(0, 1), (1, 130)], [(0, 1), (1, 1), (2, 3)], [(1, 40), (2, 30)],
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "heads",
    [
        HEADS,
        Heads(queries=4, keys=4, size=32, scale=0.2, window=20),
        Heads(queries=8, keys=1, size=128, scale=0.1, window=None, cap=SoftCap(3.0)),
        Heads(queries=9, keys=3, size=80, scale=0.1, window=None, sinks=sinks(3, 3)),
        Heads(queries=4, keys=2, size=6, scale=0.5, window=7, cap=SoftCap(1.0), sinks=sinks(2, 2)),
    ],
    ids=["grouped", "window", "cap", "sinks", "odd size"],
)
def test_attention_over_float_caches(kind: str, heads: Heads):
    """Prompts and decode, alone and together; blocks lie in the pool in no order."""
    norm = RMSNorm(1 + 0.1 * normal(np.random.default_rng(1), heads.queries + heads.keys, heads.size), 1e-5)
    Pair(KINDS[kind], heads, norm).check(*STEPS)


@pytest.mark.parametrize("block_size", [1, 7, 32])
def test_blocks_of_any_size(block_size: int):
    """Vectors of 16 keys may lie in many blocks."""
    Pair(PagedCache, HEADS, changes={"block_size": block_size, "num_blocks": 1000}).check(*STEPS)


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_attention_over_packed_blocks(kind: str, bits: int):
    """A query reads its own block in floats and all before it packed, also in the step that fills the block."""
    pair = Pair(PACKED[kind], HEADS, changes={"kv_bits": bits}, turns=False)
    pair.check(*STEPS)
    assert_same_blocks(pair)


@pytest.mark.parametrize(("size", "block_size", "group"), [(6, 4, 3), (80, 16, 20), (48, 5, 16)])
def test_packed_blocks_of_odd_sizes(size: int, block_size: int, group: int):
    """Codes that fill no vector, and groups that are none."""
    heads = Heads(queries=4, keys=2, size=size, scale=0.3, window=25)
    changes = {"kv_bits": 4, "block_size": block_size, "kv_group_size": group}
    pair = Pair(QuantizedPagedCache, heads, changes=changes, turns=False)
    pair.check(*STEPS)
    assert_same_blocks(pair)


@pytest.mark.parametrize("kind", [*KINDS.values(), *PACKED.values()])
def test_caches_that_grow_and_sequences_that_leave(kind: type[Cache]):
    """An address of memory that was replaced or freed would be read; so would another sequence's table in its slot."""
    packed = {"kv_bits": 8} if kind in PACKED.values() else {}
    pair = Pair(kind, HEADS, changes={"reserve_all": False} | packed, turns=False)
    for seq in pair.sequences:  # each is expected to be short, and grows again and again
        del seq.request.prompt[3:]
    pair.check([(0, 3)], [(0, 1)], [(0, 14)], [(0, 20), (1, 5)], [(0, 1), (1, 1)], [(0, 1), (1, 90)], [(0, 1), (1, 1)])
    for cache in (pair.plain, pair.fast):
        cache.free(pair.sequences[0])
        cache.truncate(pair.sequences[1], 64)
    pair.check([(1, 1)], [(2, 33), (1, 1)], [(2, 1), (1, 1)], [(0, 40), (1, 1)], [(1, 1), (0, 1)])


def assert_same_blocks(pair: Pair) -> None:
    """What the kernels packed is what `PackedBlocks.write` packs, bit by bit: only the same floats give that."""
    for seq in pair.sequences:
        full = pair.plain.length(seq) // pair.plain.block_size
        plain, fast = (packed_of(cache, seq, full) for cache in (pair.plain, pair.fast))
        for a, b in zip(plain, fast, strict=True):
            np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


def packed_of(cache: Any, seq: Any, full: int) -> list[np.ndarray]:
    """Codes and scales of a sequence's full blocks, in their order."""
    layer, ids = cache.storage(seq).layers[LAYER], list(cache.block_table(seq) or range(full))[:full]
    codes = [np.ascontiguousarray(x[:, ids]) for x in (layer.key_codes, layer.value_codes)]
    return codes + [np.ascontiguousarray(x[:, :, ids]) for x in (layer.key_scales, layer.value_scales)]
