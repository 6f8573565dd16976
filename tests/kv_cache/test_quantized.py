"""Quantized caches: what a query sees, held against a slow model of it; that nothing else changes it; bytes by hand.

The reference has no cache. It computes all rows at once, and for each query takes the keys and values of its own block
as they are and those of earlier blocks quantized by a quantizer of its own, one number at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from golden import load_golden
from helpers import ALWAYS_DRAFT, ROUNDING, distance, finish, flat_batch, forward, make_engine, request, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.engine import Engine
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.memory import position_bytes
from tinyinfer.kv_cache.packed_blocks import PackedBlocks, quantize
from tinyinfer.kv_cache.quantized import QuantizedCache, QuantizedContiguousCache, QuantizedPagedCache
from tinyinfer.ledger import Ledger
from tinyinfer.loading import load
from tinyinfer.model.config import ModelConfig, MoEConfig
from tinyinfer.model.heads import NoCap, NoSinks, Sinks, SoftCap
from tinyinfer.sequence import Batch, Draft
from tinyinfer.sequence import Sequence as Request
from tinyinfer.speculative.verify import verify

BITS = (8, 4, 2)
CACHES = ("contiguous", "paged")
SIZE = 4  # positions of a block

# The reference.


class Quantizer:
    """Quantizes a group at a time; `margin` is the smallest distance to where a rounding would go the other way."""

    def __init__(self, bits: int) -> None:
        self.most, self.margin = 2**bits - 1, 0.5

    def __call__(self, group: list[float]) -> list[float]:
        low = self.half(min(group), -1)
        scale = self.half((max(group) - low) / self.most, 1)
        return [low + scale * self.nearest((x - low) / scale) for x in group]

    def nearest(self, x: float) -> int:
        self.margin = min(self.margin, abs(x % 1 - 0.5))
        return min(max(round(x), 0), self.most)

    def half(self, x: float, towards: int) -> float:
        """The next float16 below or above."""
        found = np.float16(x)
        if (float(found) - x) * towards < 0:
            found = np.nextafter(found, np.float16(towards * np.inf))
        beyond = abs(float(found) - x) / abs(float(np.spacing(found)))
        self.margin = min(self.margin, beyond, abs(1 - beyond))
        return float(found)


def capped(score: float, cap: NoCap | SoftCap) -> float:
    return cap.limit * math.tanh(score / cap.limit) if isinstance(cap, SoftCap) else score


def sink_of(head: int, sinks: NoSinks | Sinks) -> float:
    """How much of a query head's softmax is its sink's."""
    return math.exp(sinks.scores.reshape(-1)[head]) if isinstance(sinks, Sinks) else 0.0


class PlainOps(NumpyOps):
    """Attention as the promise says it, a query and a head at a time."""

    quantizer: Quantizer

    def attention(self, q: Any, i: int, batch: Any, cache: Any, heads: Any) -> Any:
        [span] = batch.spans
        k, v = cache.read(i, span.seq, 0)
        packed_k, packed_v = self.rounded(k, v)
        out = np.zeros(q.shape)
        for p in range(len(q)):
            seen = range(0 if heads.window is None else max(0, p - heads.window + 1), p + 1)
            own = p // SIZE * SIZE
            for h in range(heads.queries):
                g = h // (heads.queries // heads.keys)
                keys = [k[s, g] if s >= own else packed_k[s, g] for s in seen]
                values = [v[s, g] if s >= own else packed_v[s, g] for s in seen]
                scores = [capped(float(q[p, h] @ key) * heads.scale, heads.cap) for key in keys]
                weights, sink = np.exp(scores), sink_of(h, heads.sinks)
                out[p, h] = sum(w * value for w, value in zip(weights / (weights.sum() + sink), values, strict=True))
        return out.astype(np.float32)

    def rounded(self, k: Any, v: Any) -> tuple[Any, Any]:
        """Full blocks: keys by channel, values by token in groups of 3."""
        k, v = k.astype(np.float64), v.astype(np.float64)
        for a in range(0, len(k) - SIZE + 1, SIZE):
            for h in range(k.shape[1]):
                for e in range(k.shape[2]):
                    k[a : a + SIZE, h, e] = self.quantizer(k[a : a + SIZE, h, e].tolist())
                for s in range(a, a + SIZE):
                    for e in range(0, k.shape[2], 3):
                        v[s, h, e : e + 3] = self.quantizer(v[s, h, e : e + 3].tolist())
        return k, v


MODELS: dict[str, ModelConfig] = {
    "llama": small_config(),
    "windows": small_config(windows=(5, None, 9), num_layers=3),
    "gpt2": small_config(norm="layer", gated=False, learned_positions=True, rope=(None, None), num_kv_heads=4),
    "caps and sinks": small_config(score_cap=1.5, sinks=True, windows=(6, None)),
    "moe": small_config(qk_norm="full", experts=MoEConfig(5, 2, 12), num_kv_heads=1, head_dim=12),
}
PROMPT = [(7 * i * i + 3) % 31 for i in range(23)]


def engine_of(name: str, seed: int = 0, **switches: Any) -> Engine:
    own = {"block_size": SIZE, "kv_group_size": 3}
    return make_engine(MODELS[name], seed=seed, draft_cost=ALWAYS_DRAFT, **own | switches)


@cache
def expected(name: str, bits: int) -> tuple[int, np.ndarray]:
    """A seed for the weights and the logits of PROMPT, (23, V).

    Weights are chosen so that no number lies where float32's rounding could decide which way it is quantized.
    """
    for seed in range(200):
        engine = make_engine(MODELS[name], seed=seed, kv_cache="none")
        plain = PlainOps(Ledger())
        plain.quantizer, engine.ops = Quantizer(bits), plain
        [logits] = forward(engine, (request(PROMPT), 0, len(PROMPT)))
        if plain.quantizer.margin > 6e-4:
            return seed, logits
    raise AssertionError("no seed keeps clear of all edges")


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", MODELS)
def test_a_query_sees_its_own_block_in_float_and_earlier_ones_quantized(name, bits):
    """Every family, windows and grouped queries. Catches: the own block packed, the last full one still in float, keys
    quantized by token or values by channel, a block's scales taken for another's.
    """
    seed, logits = expected(name, bits)
    for kv_cache in CACHES:
        [found] = forward(engine_of(name, seed, kv_bits=bits, kv_cache=kv_cache), (request(PROMPT), 0, len(PROMPT)))
        assert distance(found, logits) < ROUNDING
    [plain] = forward(engine_of(name, seed, kv_group_size=None), (request(PROMPT), 0, len(PROMPT)))
    assert distance(plain, logits) > 10 * ROUNDING, "the test would notice a cache that quantizes nothing"


@pytest.mark.parametrize("kv_cache", CACHES)
@pytest.mark.parametrize("cuts", [range(1, 23), range(3, 23, 3), [4, 8, 9, 16], [1, 22], [7, 12, 20]])
def test_the_cuts_of_a_prompt_do_not_matter(cuts, kv_cache):
    """Row by row, across and at the edges of blocks, another sequence in between: one and the same answer."""
    for name, bits in (("windows", 4), ("llama", 8), ("llama", 2)):
        seed, logits = expected(name, bits)
        engine, seq, found = engine_of(name, seed, kv_bits=bits, kv_cache=kv_cache), request(PROMPT), []
        other, edges = request(PROMPT[::-1]), [0, *cuts, len(PROMPT)]
        for first, stop in pairwise(edges):
            found.append(forward(engine, (other, first, stop), (seq, first, stop))[1])
        assert distance(np.concatenate(found), logits) < ROUNDING


# Features on top.


class Scripted:
    """Drafts the next tokens of a known text, but wrong ones from the `right`-th on."""

    def __init__(self, texts: dict[Request, list[int]], right: int, count: int) -> None:
        self.texts, self.right, self.count = texts, right, count

    verify = staticmethod(verify)

    def propose(self, sequences: list[Request]) -> None:
        for seq in sequences:
            done = len(seq.new_tokens)
            text = self.texts[seq][done : min(done + self.count, seq.request.max_tokens - 1)]
            seq.set_drafts([Draft((token + (i >= self.right)) % 31) for i, token in enumerate(text)])

    def observe(self, batch: Batch) -> None:
        """Learns nothing."""

    def free(self, seq: Request) -> None:
        pass


def requests() -> list[Request]:
    """Prompts that begin alike, one of whole blocks, one very short."""
    long = [*PROMPT, *PROMPT[:10]]
    return [request(prompt, 12) for prompt in (long, long[:16], [*long[:18], 5, 5], [3], long[:16])]


@cache
def answers(name: str, bits: int) -> list[list[int]]:
    """One at a time, contiguous."""
    return finish(engine_of(name, kv_bits=bits, max_num_seqs=1), *requests())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"kv_cache": "paged"},
        {"kv_cache": "paged", "num_blocks": 14},  # some must wait or go
        {"kv_cache": "paged", "prefix_cache": True},
        {"kv_cache": "paged", "prefix_cache": True, "num_blocks": 14, "max_num_batched_tokens": 9},
        {"max_num_batched_tokens": 1},
        {"max_num_batched_tokens": 7},
        {"batching": "static", "max_num_seqs": 2, "max_num_batched_tokens": 5},
        {"speculative": "prompt-lookup", "max_num_batched_tokens": 11},
        {"kv_cache": "paged", "speculative": "self", "num_draft_candidates": 3},
    ],
    ids=str,
)
def test_switches_change_no_token(switches, bits):
    """DESIGN.md: chunking, paging, prefix hits, preemption, batches and drafts change no result."""
    engine = engine_of("windows", kv_bits=bits, **switches)
    assert finish(engine, *requests()) == answers("windows", bits)
    ledger = engine.ledger
    assert not switches.get("prefix_cache") or ledger.tokens_cached >= 2 * 16
    assert "num_blocks" not in switches or ledger.preemptions
    assert "speculative" not in switches or ledger.drafts_proposed
    held = engine.scheduler.prefixes.evictable * engine.cache.blocks.num_blocks if switches.get("prefix_cache") else 0
    assert bool(engine.cache.held_bytes) == bool(held), "only remembered prefixes are left"


@pytest.mark.parametrize("kv_cache", CACHES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("right", "count"), [(0, 7), (1, 6), (3, 9), (5, 5), (2, 3)])
def test_rejected_drafts_are_rolled_back_across_block_edges(right, count, bits, kv_cache):
    """Blocks that only rejected drafts filled were packed within the step; their float rows must still be there."""
    sequences, texts = requests(), answers("windows", bits)
    engine = engine_of("windows", kv_bits=bits, kv_cache=kv_cache)
    engine.drafter = engine.scheduler.drafter = Scripted(dict(zip(sequences, texts, strict=True)), right, count)
    assert finish(engine, *sequences) == texts
    assert bool(engine.ledger.drafts_accepted) == bool(right)
    assert engine.ledger.drafts_proposed > 30
    assert right == count or engine.ledger.drafts_accepted < engine.ledger.drafts_proposed


# The contract, and bytes.

CONFIG = small_config(num_layers=3, num_kv_heads=2, head_dim=6)
CAPACITY = 20
SPEC = CacheSpec(CONFIG.memory, CAPACITY, SIZE, num_blocks=20, kv_bits=4, kv_group_size=3)
ROW = 2 * 3 * 2 * 6 * 4  # keys and values, layers, heads, size, float32
CODES = 4 * 6 * 4 // 8  # of a block of keys, or of values, in a head: 4 positions of 6 numbers of 4 bits
BLOCK = 3 * 2 * (2 * CODES + 6 * 2 * 2 + 4 * 2 * 2 * 2)  # and two float16 for 6 channels, and for 4 tokens of 2 groups


def cache_of(kind: type[QuantizedCache]) -> QuantizedCache:
    return kind(SPEC, NumpyOps(Ledger()))


@pytest.fixture(params=[QuantizedContiguousCache, QuantizedPagedCache])
def quantized(request: pytest.FixtureRequest) -> Any:
    return cache_of(request.param)


def rows_of(seq: Request, layer: int, stop: int, shift: float = 0.0) -> np.ndarray:
    """Keys of positions 0 ... stop, (stop, K, E); values are their negatives."""
    positions, heads, channels = np.ogrid[:stop, :2, :6]
    return np.sin(seq.id + 3 * layer + 7 * positions + 2 * heads + 5 * channels + shift).astype(np.float32)


def step(store: Any, seq: Request, stop: int, kept: int | None = None, shift: float = 0.0) -> None:
    """Appends positions up to `stop` in all layers and commits those up to `kept`, all by default."""
    first = store.length(seq)
    store.reserve(seq, stop - first)
    for layer in range(3):
        k = rows_of(seq, layer, stop, shift)[first:]
        store.append(layer, k, -k, flat_batch([(seq, first, stop)]))
    store.commit(seq, (stop if kept is None else kept) - first)


def check(store: Any, seq: Request, layer: int, like: Request | None = None) -> None:
    """What is kept: full blocks within half a scale (a fifteenth of the range of a sine), later rows exactly."""
    length = store.length(seq)
    k, v = store.read(layer, seq, 0)
    wanted = rows_of(like or seq, layer, length)
    full = length // SIZE * SIZE
    assert np.array_equal(k[full:], wanted[full:])
    assert np.array_equal(v[full:], -wanted[full:])
    for found, exact in ((k, wanted), (v, -wanted)):
        assert np.abs(found[:full] - exact[:full]).max(initial=0) < 2 / 15 / 2 * 1.01
    assert full == 0 or not np.array_equal(k[:full], wanted[:full])


@pytest.mark.parametrize("kept", range(1, 12))
def test_committing_fewer_than_were_appended(quantized, kept):
    """11 rows appended from position 2 on, as many kept as drafts were accepted, and the rest computed anew."""
    seq = request(range(20))
    step(quantized, seq, 2)
    step(quantized, seq, 13, kept=2 + kept - 1)
    assert quantized.float_bytes == SIZE * ROW, "the room of the step is freed"
    for layer in (2, 0):
        check(quantized, seq, layer)
    step(quantized, seq, 14)
    for layer in (0, 2):
        check(quantized, seq, layer)


def test_a_step_that_is_run_again_leaves_no_trace(quantized):
    """Rows of the first try were packed, and must not be what the second one's queries see."""
    seq = request(range(20))
    step(quantized, seq, 6)
    step(quantized, seq, 13, kept=6, shift=0.7)
    step(quantized, seq, 13)
    check(quantized, seq, 1)


def test_a_sequence_that_starts_again_reads_nothing_of_its_first_life(quantized):
    """The workspace may still hold the layer that was read last, of blocks that are gone."""
    seq = request(range(20))
    step(quantized, seq, 14, shift=0.7)
    quantized.read(2, seq, 0)
    quantized.free(seq)
    step(quantized, seq, 14)
    check(quantized, seq, 2)


@pytest.mark.parametrize(("n", "left"), [(11, 11), (10, 10), (8, 8), (7, 4), (5, 4), (4, 4), (3, 0), (0, 0)])
def test_truncate_keeps_float_rows_and_whole_blocks(quantized, n, left):
    """Within the unfinished block to the row; into a packed one only whole blocks, and `length` says so."""
    seq = request(range(20))
    step(quantized, seq, 11)
    quantized.truncate(seq, n)
    assert quantized.length(seq) == left
    check(quantized, seq, 0)
    step(quantized, seq, 13)
    check(quantized, seq, 2)
    for beyond in (-1, 14):
        with pytest.raises(ValueError, match=f"truncate to {beyond} positions"):
            quantized.truncate(seq, beyond)


@pytest.mark.parametrize("length", [3, 8, 10])
def test_a_fork_goes_its_own_way(quantized, length):
    """Parent and child fill the same unfinished block differently. Catches: shared float rows, shared packed blocks
    that are written to, positions counted twice.
    """
    seq, child = request(range(20)), request(range(20))
    step(quantized, seq, length)
    quantized.fork(seq, child)
    assert quantized.length(child) == length
    check(quantized, child, 1, like=seq)
    step(quantized, child, 13)
    step(quantized, seq, 12)
    check(quantized, seq, 1)
    k, _ = quantized.read(2, child, 0)
    assert np.array_equal(k[12:], rows_of(child, 2, 13)[12:])
    packed = np.concatenate([rows_of(seq, 2, length), rows_of(child, 2, 12)[length:]])
    assert np.abs(k[:12] - packed).max() < 2 / 15 / 2 * 1.01
    quantized.free(seq)
    quantized.free(child)
    assert quantized.held_bytes == quantized.wasted_bytes == 0


@pytest.mark.parametrize("committed", [True, False])
def test_reads_from_any_start_in_any_order(quantized, committed):
    """The workspace remembers what it unpacked; a read that starts or ends earlier must not trust it. Within a step the
    last block of each read is float, after it only the unfinished one; and only rows that are asked for count as read.
    """
    seq, k = request(range(20)), rows_of(seq=request(range(20)), layer=1, stop=14)
    quantized.reserve(seq, 14)
    for layer in range(3):
        quantized.append(layer, k + layer, k, flat_batch([(seq, 0, 14)]))
    packed = quantized.read(1, seq, 0)[0][:12].copy()
    if committed:
        quantized.commit(seq, 14)
    quantized.read(0, seq, 0)
    for start, stop in ((9, 14), (0, 14), (5, 7), (2, 14), (13, 14), (0, 9), (0, 14), (6, 11), (0, 12)):
        edge = 12 if committed else (stop - 1) // SIZE * SIZE
        wanted = np.concatenate([packed[:edge], k[edge:] + np.float32(1)])[start:stop]
        assert np.array_equal(quantized.read(1, seq, start, stop)[0], wanted)
    quantized.read(0, seq, 0)
    before = quantized.ledger.kv_read_bytes
    quantized.read(1, seq, 13, 14)
    assert quantized.ledger.kv_read_bytes - before == ROW // 3


def seen(rows: list[int], layer: int) -> np.ndarray:
    """What is to be read of rows with these numbers: full blocks packed by themselves, the rest as it is, (2, S, K, E).

    A row's keys and values are drawn by its number.
    """
    drawn = [np.random.default_rng([row, layer]).standard_normal((2, 2, 6), np.float32) for row in rows]
    x = np.array(drawn, np.float32).reshape(-1, 2, 2, 6).transpose(1, 2, 0, 3).copy()  # (2, K, S, E)
    for a in range(0, len(rows) - SIZE + 1, SIZE):
        block, one = x[:, :, None, a : a + SIZE], PackedBlocks(SPEC, 1, NumpyOps(Ledger()))
        one.write(0, [0], *block)
        one.read(0, [0], *block)
    return x.transpose(0, 2, 1, 3)


@pytest.mark.parametrize("seed", range(12))
def test_steps_rollbacks_truncations_and_forks_in_any_order(quantized, seed):
    """A random walk; afterwards and in between every sequence reads its own rows and no others."""
    rng, count = np.random.default_rng(seed), 0
    living: list[tuple[Request, list[int]]] = []
    for _ in range(50):
        if len(living) < 2:
            living.append((request(range(20)), []))
        i = int(rng.integers(len(living)))
        seq, rows = living[i]
        action = rng.choice(["step", "step", "step", "step", "truncate", "fork", "free"])
        if action == "step" and len(rows) < CAPACITY:
            n = int(rng.integers(1, min(9, CAPACITY - len(rows)) + 1))
            new, kept, batch = range(count, count + n), int(rng.integers(n + 1)), [(seq, len(rows), len(rows) + n)]
            count += n
            quantized.reserve(seq, n)
            for layer in range(3):
                x = [np.random.default_rng([row, layer]).standard_normal((2, 2, 6), np.float32) for row in new]
                quantized.append(layer, np.stack(x)[:, 0], np.stack(x)[:, 1], flat_batch(batch))
            quantized.commit(seq, kept)
            rows += new[:kept]
        elif action == "truncate":
            quantized.truncate(seq, int(rng.integers(len(rows) + 1)))
            del rows[quantized.length(seq) :]
        elif action == "fork" and rows and len(living) < 4:
            living.append((request(range(20)), [*rows]))
            quantized.fork(seq, living[-1][0])
        elif action == "free":
            quantized.free(living.pop(i)[0])
        for other, theirs in living:
            assert quantized.length(other) == len(theirs)
            if theirs:
                layer = int(rng.integers(3))
                assert np.array_equal(np.stack(quantized.read(layer, other, 0)), seen(theirs, layer))
    for seq, _ in living:
        quantized.free(seq)
    assert quantized.held_bytes == quantized.wasted_bytes == 0


def test_contiguous_bytes_by_hand():
    """Held are a context of packed blocks and one block of float rows each; wasted, what of them is empty."""
    store, a, b = cache_of(QuantizedContiguousCache), request(range(20)), request(range(20))
    step(store, a, 6)
    step(store, b, 9)
    assert store.held_bytes == 2 * (5 * BLOCK + SIZE * ROW)
    assert store.wasted_bytes == (5 - 1 + 5 - 2) * BLOCK + (2 * SIZE - 6 % SIZE - 9 % SIZE) * ROW
    kept = sum(store.storage(seq).nbytes for seq in (a, b)) + store.float_bytes
    assert kept == store.held_bytes, "what is really kept"


def test_paged_bytes_by_hand():
    """Blocks as they are taken; the unfinished one is wasted as a block and filled in float."""
    store, a, b = cache_of(QuantizedPagedCache), request(range(20)), request(range(20))
    step(store, a, 6)
    step(store, b, 8)
    assert store.held_bytes == 4 * BLOCK + 2 * SIZE * ROW
    assert store.wasted_bytes == BLOCK + (2 * SIZE - 2) * ROW
    child = request(range(20))
    store.fork(a, child)
    assert store.held_bytes == 4 * BLOCK + 3 * SIZE * ROW
    assert store.wasted_bytes == BLOCK + (3 * SIZE - 4) * ROW, "the shared unfinished block once"
    assert store.ledger.kv_copied_bytes == 2 * ROW
    step(store, child, 7)
    assert store.ledger.kv_copied_bytes == 2 * ROW, "an unfinished block has nothing else to copy"
    assert store.packed.nbytes == 20 * BLOCK


def test_scattered_blocks_are_gathered_packed_and_counted():
    """Two sequences take blocks in turn, so that neither's lie side by side; side by side nothing is copied."""
    store, a, b = cache_of(QuantizedPagedCache), request(range(20)), request(range(20))
    for stop in (4, 8, 10):
        step(store, a, stop)
        step(store, b, stop)
    store.read(0, a, 0)
    assert store.ledger.kv_copied_bytes == 2 * BLOCK // 3, "two full blocks of one layer"
    alone = cache_of(QuantizedPagedCache)
    step(alone, a, 10)
    alone.read(0, a, 0)
    assert alone.ledger.kv_copied_bytes == 0


def test_four_bits_take_a_fifth_of_the_memory_and_two_a_ninth():
    """At SmolLM2's shape and blocks of 16, scales included; the claim of the lesson."""
    config, float_block = small_config(num_layers=1, num_kv_heads=3, head_dim=64), 2 * 3 * 16 * 64 * 4
    found = {}
    for bits in BITS:
        store = QuantizedPagedCache(CacheSpec(config.memory, 64, num_blocks=4, kv_bits=bits), NumpyOps(Ledger()))
        found[bits] = float_block / store.packed.block_bytes
        assert position_bytes(config.memory, bits) * 16 == store.packed.block_bytes, "what inspect says"
    assert {bits: round(ratio, 1) for bits, ratio in found.items()} == {8: 3.4, 4: 5.8, 2: 9.1}


@pytest.mark.parametrize("kv_cache", CACHES)
def test_the_ledger_counts_packed_bytes_and_float_rows(kv_cache):
    """A prefill reads each packed block once, however many pieces look at it; a decode step all of them again."""
    config = small_config(num_layers=3, num_kv_heads=2, head_dim=6)
    engine = make_engine(config, kv_cache=kv_cache, block_size=SIZE, kv_bits=4, kv_group_size=3)
    seq, plain = request(range(20)), make_engine(config)
    forward(engine, (seq, 0, 10))
    ledger = engine.ledger.copy()
    assert ledger.kv_written_bytes == 10 * ROW + 2 * BLOCK
    assert ledger.kv_read_bytes == 10 * ROW + 2 * BLOCK
    assert ledger.kv_copied_bytes == 0
    forward(engine, (seq, 10, 11))
    step = engine.ledger - ledger
    assert step.kv_written_bytes == ROW
    assert step.kv_read_bytes == 3 * ROW + 2 * BLOCK
    forward(plain, (seq, 0, 10))
    assert (ledger.flops, ledger.attention_flops) == (plain.ledger.flops, plain.ledger.attention_flops)


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3"])
def test_more_bits_lose_less(name, golden_folder):
    """Logits of a golden model: each bit halves a step, so 4 bits lose 17 times as much as 8, and 2 five times as much
    as 4, about; in any case several times.
    """
    golden = load_golden(name)
    checkpoint, tokens = load(str(golden_folder(name))), golden.tokens.tolist()
    [exact] = forward(make_engine(checkpoint), (request(tokens), 0, len(tokens)))
    lost = {}
    for bits in BITS:
        engine = make_engine(checkpoint, kv_bits=bits, block_size=SIZE)
        [found] = forward(engine, (request(tokens), 0, len(tokens)))
        lost[bits] = float(np.sqrt(np.mean((found - exact) ** 2)))
    assert 0 < 5 * lost[8] < lost[4] < lost[2] / 2


# What company may change


NEAR = 5e-3  # of a code, or of a step of float16: what float32's rounding can decide lies closer to an edge than this


@pytest.mark.parametrize("bits", BITS)
def test_the_same_floats_are_the_same_bits_and_other_last_bits_matter_only_at_an_edge(bits):
    """kv_bits' promise about company (bugs B16, M7), for one group of numbers: what other rows in a product do to it.

    Catches an edge that moves with the noise of another number, a scale that follows it by more than a step of float16,
    and a code that falls by more than one.
    """
    rng, clear, flipped = np.random.default_rng(bits), 0, 0
    for n in range(160):
        x = rng.standard_normal(16).astype(np.float32)
        if n % 4 == 0:  # one number on the edge between two codes, as float32 sees it
            codes, scale, minimum = quantize(x, bits, np)
            x[5] = np.float32(minimum[0]) + np.float32(scale[0]) * (np.float32(codes[5] % 2) + np.float32(0.5))
        noisy = x * (1 + 4e-7 * rng.uniform(-1, 1, 16)).astype(np.float32)
        quantizer, found, moved = Quantizer(bits), quantize(x, bits, np), quantize(noisy, bits, np)
        assert all(np.array_equal(a, b) for a, b in zip(quantize(x.copy(), bits, np), found, strict=True))
        quantizer(x.tolist())
        same = all(np.array_equal(a, b) for a, b in zip(found, moved, strict=True))
        assert same or quantizer.margin < NEAR
        values = [codes * scale.astype(np.float64) + minimum for codes, scale, minimum in (found, moved)]
        step = max(float(found[1][0]), float(moved[1][0]))
        assert np.abs(values[0] - values[1]).max() <= step + np.abs(x - noisy).max()
        assert np.abs(found[0].astype(int) - moved[0]).max() <= 1
        clear, flipped = clear + (quantizer.margin > NEAR), flipped + (not same)
    assert clear > 40, "groups that no rounding touches"
    assert flipped > 4, "and groups that it does"


@dataclass(frozen=True)
class Packing:
    """What became of a sequence's full blocks in one layer, keys or values; each (K, n, b, E)."""

    floats: np.ndarray  # as they came to be packed
    unpacked: np.ndarray
    scale: np.ndarray  # of each number's group: the step between two codes
    minimum: np.ndarray


def packings_of(
    engine: Engine, seq: Request, company: list[Request], prompt: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, list[Packing]]:
    """The logits of a sequence whose prompt and then each token is computed beside others, and its keys and values."""
    kept: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    write = PackedBlocks.write

    def watched(packed: PackedBlocks, layer: int, ids: Any, keys: np.ndarray, values: np.ndarray) -> None:
        kept.setdefault((id(packed), layer), []).append((keys.copy(), values.copy()))
        write(packed, layer, ids, keys, values)

    with monkeypatch.context() as patched:
        patched.setattr(PackedBlocks, "write", watched)
        logits = forward(engine, *((one, 0, prompt) for one in (*company, seq)))[-1:]
        for p in range(prompt, len(seq.tokens)):
            logits += forward(engine, *((one, p, p + 1) for one in (*company, seq)))[-1:]
    found, packed = [], engine.cache.storage(seq)
    for layer, held in enumerate(packed.layers):
        floats = [np.concatenate(parts, axis=1) for parts in zip(*kept[id(packed), layer], strict=True)]
        unpacked, n = [np.empty_like(x) for x in floats], floats[0].shape[1]
        packed.read(layer, slice(0, n), *unpacked)
        scales = held.key_scales[:, :, :n, None], held.value_scales[:, :, :n]
        for x, y, of in zip(floats, unpacked, scales, strict=True):
            spread = np.repeat(of.astype(np.float32), x.shape[-1] // of.shape[-1], axis=-1)
            found.append(Packing(x, y, *(np.broadcast_to(part, x.shape) for part in spread)))
    return np.concatenate(logits), found


B16 = [[3 + (i * 7 + k * 5) % 250 for i in range(42)] for k in range(6)]  # six texts; greedy, one of them changed
M7 = [142, 131, 42, 9, 85, 174, 74, 166, 33, 21, 149, 137, 70, 62, 185, 105, 13, 92, 127, 263, 146, 172, 22, 13, 257]


@pytest.mark.parametrize(
    ("name", "bits", "size", "texts"),
    [("gemma3", 4, 8, B16), ("llama", 8, 4, [M7] * 3)],
    ids=["B16", "M7"],
)
def test_company_changes_by_a_step_what_lies_at_an_edge_and_nothing_more(
    name, bits, size, texts, golden_folder, monkeypatch
):
    """Bugs B16 and M7: a batch changes the last bits of keys and values, and so the code of a number at an edge.

    Held is the promise of quantized.py. The same company: the same bits. Other company: each number is within half a
    step of its own float, so that two differ by a step at most. In the first layer, whose floats no code reaches, they
    differ only where the number lies at an edge, or the group's minimum or scale does. The logits move less than
    quantizing itself moves them.
    """
    checkpoint, n = load(str(golden_folder(name))), min(map(len, texts))

    def run(count: int) -> tuple[np.ndarray, list[Packing]]:
        seq, *others = (request(text[:n]) for text in texts[:count])
        engine = make_engine(checkpoint, block_size=size, kv_bits=bits)
        return packings_of(engine, seq, others, n - 6, monkeypatch)

    (alone, mine), (again, _), (together, theirs) = run(1), run(1), run(len(texts))
    np.testing.assert_array_equal(again, alone, "the same company, the same bits")
    for layer in (*mine, *theirs):
        noise = 1e-6 * np.abs(layer.floats).max()
        assert (np.abs(layer.unpacked - layer.floats) <= layer.scale / 2 + noise).all()
    for one, other in zip(mine[:2], theirs[:2], strict=True):
        assert np.abs(one.floats - other.floats).max() <= 1e-5 * np.abs(one.floats).max()
        same_grid = (one.scale == other.scale) & (one.minimum == other.minimum)
        moved = (one.unpacked != other.unpacked) & same_grid
        to_edge = np.abs(np.abs(one.floats - one.unpacked) / one.scale - 0.5)
        assert (to_edge[moved] < NEAR).all()
        assert same_grid.mean() > 0.95
    [exact] = forward(make_engine(checkpoint), (request(texts[0][:n]), 0, n))
    assert np.abs(together - alone).max() < np.abs(alone - exact).max()
