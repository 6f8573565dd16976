"""The paged cache beyond the common contract (test_contiguous.py): blocks, tables, sharing, and what each costs."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import flat_batch, request, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.errors import RoomError
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.blocks import BlockPool
from tinyinfer.kv_cache.memory import most_blocks
from tinyinfer.kv_cache.paged import PagedCache
from tinyinfer.ledger import Ledger

CONFIG = small_config(num_layers=3, num_kv_heads=2, head_dim=6)
POSITION_BYTES = 2 * 3 * 2 * 6 * 4  # keys and values, layers, heads, size, float32


def paged(num_blocks: int = 8, block_size: int = 4, capacity: int = 64) -> PagedCache:
    return PagedCache(CacheSpec(CONFIG.memory, capacity, block_size, num_blocks), NumpyOps(Ledger()))


def seq_of(n: int = 40):
    return request(range(n))


def step(cache: PagedCache, seq, n: int, keep: int | None = None, mark: float = 0.0) -> None:
    """Reserves and appends n positions, each with keys of `mark` + its position, and commits `keep` of them."""
    first = cache.length(seq)
    cache.reserve(seq, n)
    k = np.broadcast_to((mark + np.arange(first, first + n, dtype=np.float32))[:, None, None], (n, 2, 6))
    for layer in range(CONFIG.num_layers):
        cache.append(layer, k + 100 * layer, -k, flat_batch([(seq, first, first + n)]))
    cache.commit(seq, n if keep is None else keep)


def marks(cache: PagedCache, seq, start: int = 0, layer: int = 0) -> list[float]:
    """What was written at each position from `start` on; every head and the values must say the same."""
    k, v = cache.read(layer, seq, start)
    assert (k == k[:, :1, :1]).all()
    assert (v == 100 * layer - k).all()
    return (k[:, 0, 0] - 100 * layer).tolist()


# The pool


def test_a_block_is_free_until_it_is_taken_and_again_when_the_last_holder_lets_go():
    """Counts of holders, one by one; catches a block freed while a sequence still reads it."""
    pool = BlockPool(3)
    a, b = pool.allocate(), pool.allocate()
    pool.hold(a)
    assert (sorted([a, b, *pool.free]), pool.holders[a], pool.holders[b]) == ([0, 1, 2], 2, 1)
    pool.release(a)
    assert (a in pool.free, pool.holders[a]) == (False, 1)
    pool.release(a)
    assert (a in pool.free, pool.holders[a]) == (True, 0)


def test_blocks_of_a_new_pool_lie_side_by_side():
    """In order of their numbers, so that a single sequence never needs a gather; then the warmest one first."""
    pool = BlockPool(4)
    assert [pool.allocate() for _ in range(4)] == [0, 1, 2, 3]
    pool.release(1)
    pool.release(3)
    assert pool.allocate() == 3


def test_misuse_of_the_pool_is_an_error():
    """Each would otherwise give one block to two owners, later and somewhere else."""
    pool = BlockPool(1)
    with pytest.raises(ValueError, match="block 0 is free already"):
        pool.release(0)
    with pytest.raises(ValueError, match="block 0 is free and cannot be shared"):
        pool.hold(0)
    pool.allocate()
    with pytest.raises(ValueError, match="all 1 blocks of the cache are taken; raise num_blocks"):
        pool.allocate()
    assert (pool.free, pool.holders) == ([], [1])


def test_the_pool_suits_the_contexts_it_is_for():
    """Whole blocks for every sequence's longest context, but never above half of the memory."""
    assert most_blocks(100, max_model_len=33, block_size=16, max_num_seqs=5, memory=4 << 30) == 5 * 3
    assert most_blocks(1 << 20, 8192, block_size=16, max_num_seqs=16, memory=4 << 30) == (2 << 30) // (16 << 20)
    assert most_blocks(1 << 40, 8, block_size=16, max_num_seqs=1, memory=4 << 30) == 1


# Tables


def test_a_sequence_takes_a_block_when_its_last_is_full():
    """Catches: a block too early (at 3 of 4) or too late (at 5), and blocks taken that are there already."""
    cache, seq = paged(), seq_of()
    taken = []
    for _ in range(9):
        step(cache, seq, 1)
        taken.append(len(cache.block_table(seq)))
    assert taken == [1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert cache.ledger.blocks_allocated == 3
    assert cache.block_table(seq_of()) == ()


@pytest.mark.parametrize(
    ("length", "n", "missing"),
    [(0, 0, 0), (0, 12, 0), (0, 13, 1), (5, 7, 0), (5, 8, 1), (8, 0, 0), (8, 4, 0), (8, 9, 2), (12, 1, 1)],
)
def test_missing_is_what_reserve_would_lack(length, n, missing):
    """A pool of 3 blocks of 4: asking changes nothing, and 0 means that reserve succeeds."""
    cache, seq = paged(num_blocks=3), seq_of()
    if length:
        step(cache, seq, length)
    held = cache.held_bytes
    assert cache.missing(seq, n) == missing
    assert cache.held_bytes == held
    if not missing:
        cache.reserve(seq, n)
        assert len(cache.block_table(seq)) == max(-(-(length + n) // 4), -(-length // 4))


def test_what_does_not_fit_is_refused_and_what_is_there_stays():
    """By the context, or by a pool that is too small; the message names what to raise."""
    cache, seq = paged(num_blocks=3, capacity=10), seq_of()
    assert cache.capacity == 10
    assert paged(num_blocks=3).capacity == 12
    step(cache, seq, 8)
    with pytest.raises(ValueError, match="11 positions do not fit into a cache of 10; raise max_model_len or num_bl"):
        cache.reserve(seq, 3)
    assert marks(cache, seq) == list(range(8))
    assert len(cache.block_table(seq)) == 2
    other = seq_of()
    with pytest.raises(RoomError, match="all 3 blocks of the cache are taken; raise num_blocks") as caught:
        cache.reserve(other, 8)
    assert caught.value.request_id == other.id
    cache.free(other)
    step(cache, seq, 2)
    assert marks(cache, seq) == list(range(10))


def test_held_and_wasted_bytes_by_hand():
    """Only the rest of each last block is wasted: at most block_size - 1 positions a sequence."""
    cache, a, b = paged(), seq_of(), seq_of()
    step(cache, a, 9)
    step(cache, b, 4)
    assert cache.held_bytes == (3 + 1) * 4 * POSITION_BYTES
    assert cache.wasted_bytes == 3 * POSITION_BYTES
    cache.reserve(b, 5)
    assert cache.held_bytes == (3 + 3) * 4 * POSITION_BYTES
    assert cache.wasted_bytes == (3 + 8) * POSITION_BYTES, "reserved, not committed"
    cache.commit(b, 0)
    cache.free(a)
    assert (cache.held_bytes, cache.wasted_bytes) == (4 * POSITION_BYTES, 0)


def test_a_commit_of_fewer_gives_the_rest_back():
    """Rejected drafts across the edge of a block; the kept one before the edge stays."""
    cache, seq = paged(), seq_of()
    step(cache, seq, 3)
    step(cache, seq, 7, keep=1)
    assert (cache.length(seq), len(cache.block_table(seq)), len(cache.blocks.free)) == (4, 1, 7)
    step(cache, seq, 2, mark=0.5)
    assert marks(cache, seq) == [0, 1, 2, 3, 4.5, 5.5]


@pytest.mark.parametrize(("n", "blocks"), [(9, 3), (8, 2), (5, 2), (4, 1), (1, 1), (0, 0)])
def test_truncate_gives_whole_blocks_back(n, blocks):
    """Rollback over the edges of blocks: exactly those behind position n - 1."""
    cache, seq = paged(), seq_of()
    step(cache, seq, 9)
    cache.truncate(seq, n)
    assert (cache.length(seq), len(cache.block_table(seq))) == (n, blocks)
    assert len(cache.blocks.free) == 8 - blocks
    step(cache, seq, 3, mark=0.5)
    assert marks(cache, seq) == [*range(n), n + 0.5, n + 1.5, n + 2.5]


# Reading


def test_blocks_side_by_side_are_read_in_place():
    """A view of the pool, nothing copied; what one sequence alone always gets."""
    cache, seq = paged(), seq_of()
    step(cache, seq, 9)
    for start in (0, 3, 4, 8):
        k, v = cache.read(1, seq, start)
        assert np.shares_memory(k, cache.pools[1].keys)
        assert np.shares_memory(v, cache.pools[1].values)
        assert marks(cache, seq, start, layer=1) == list(range(start, 9))
    assert cache.ledger.kv_copied_bytes == 0


@pytest.mark.parametrize("start", [0, 1, 3, 4, 7, 8, 9])
def test_scattered_blocks_are_gathered_and_the_copy_is_counted(start):
    """Two sequences growing in turn: every block of one lies before one of the other."""
    cache, a, b = paged(), seq_of(), seq_of()
    for n in (3, 4, 3):
        step(cache, a, n)
        step(cache, b, n, mark=0.5)
    assert cache.block_table(a) == (0, 2, 4)
    before = cache.ledger.copy()
    assert marks(cache, a, start, layer=2) == list(range(start, 10))
    assert marks(cache, b, start) == [p + 0.5 for p in range(start, 10)]
    read = 2 * (10 - start) * POSITION_BYTES // CONFIG.num_layers
    counted = cache.ledger - before
    assert (counted.kv_copied_bytes, counted.kv_read_bytes) == (read, read)


def test_blocks_in_the_wrong_order_are_not_taken_for_neighbours():
    """Freed and allocated again, they come in the order 2, 1, 0: as many, and as close together, but turned round."""
    cache, a = paged(num_blocks=3), seq_of()
    step(cache, a, 12)
    cache.free(a)
    step(cache, a, 12, mark=0.5)
    assert sorted(cache.block_table(a)) == [0, 1, 2]
    assert marks(cache, a) == [p + 0.5 for p in range(12)]


def test_blocks_written_in_one_step_may_be_scattered():
    """A prompt's positions go to wherever its blocks lie; catches slots counted on from the first block."""
    cache, a, b, c = paged(num_blocks=4), seq_of(), seq_of(), seq_of()
    for seq in (a, b, c):
        step(cache, seq, 4)
    cache.free(a)
    cache.free(c)
    step(cache, a, 11, mark=0.5)
    assert marks(cache, a) == [p + 0.5 for p in range(11)]
    assert marks(cache, b) == [0, 1, 2, 3]


# Sharing


@pytest.mark.parametrize("writer", ["parent", "child"])
def test_the_first_to_write_into_a_shared_block_gets_a_copy(writer):
    """Copy-on-write in both directions: two filled rows of one block are copied, and the other's are as they were."""
    cache, parent, child = paged(), seq_of(), seq_of()
    step(cache, parent, 6)
    cache.fork(parent, child)
    assert cache.block_table(child) == cache.block_table(parent)
    assert (cache.held_bytes, cache.ledger.blocks_allocated) == (2 * 4 * POSITION_BYTES, 2), "sharing costs nothing"
    assert cache.wasted_bytes == 2 * POSITION_BYTES, "a shared block's empty rows count once"
    first, second = (parent, child) if writer == "parent" else (child, parent)
    step(cache, first, 1, mark=0.5)
    assert (cache.ledger.kv_copied_bytes, cache.ledger.blocks_allocated) == (2 * POSITION_BYTES, 3)
    assert cache.block_table(first)[0] == cache.block_table(second)[0]
    assert cache.block_table(first)[1] != cache.block_table(second)[1]
    step(cache, second, 1, mark=0.25)
    assert cache.ledger.blocks_allocated == 3, "the last holder of a block writes into it"
    assert marks(cache, first) == [0, 1, 2, 3, 4, 5, 6.5]
    assert marks(cache, second) == [0, 1, 2, 3, 4, 5, 6.25]


def test_a_fork_at_the_edge_of_a_block_copies_nothing():
    """Both go on in blocks of their own."""
    cache, parent, child = paged(), seq_of(), seq_of()
    step(cache, parent, 8)
    cache.fork(parent, child)
    step(cache, child, 1, mark=0.5)
    step(cache, parent, 1)
    assert cache.ledger.kv_copied_bytes == 0
    assert (marks(cache, child), marks(cache, parent)) == ([*range(8), 8.5], list(range(9)))


def test_missing_counts_the_copy_of_a_shared_block():
    """One row needs no new block, but a copy does; catches a reserve that fails after `missing` said that it fits."""
    cache, parent, child = paged(num_blocks=3), seq_of(), seq_of()
    step(cache, parent, 6)
    cache.fork(parent, child)
    assert [cache.missing(child, n) for n in (0, 1, 2, 3)] == [0, 0, 0, 1]
    cache.reserve(child, 0)
    assert cache.block_table(child) == cache.block_table(parent), "no row, no copy"
    step(cache, child, 1)
    assert [cache.missing(parent, n) for n in (1, 2, 3)] == [0, 0, 1], "whose block is now its own"


def test_a_fork_survives_its_parent_and_the_other_way_round():
    """Blocks are freed by the last holder; catches a free that takes its neighbours' blocks along."""
    cache, a, b, c = paged(), seq_of(), seq_of(), seq_of()
    step(cache, a, 6)
    cache.fork(a, b)
    cache.fork(b, c)
    cache.free(a)
    cache.free(c)
    step(cache, c, 8, mark=0.5)
    assert marks(cache, b) == list(range(6))
    cache.free(b)
    cache.free(c)
    assert sorted(cache.blocks.free) == list(range(8))


def test_truncating_into_a_shared_block_leaves_it_to_the_other():
    """A candidate is truncated to before the fork, and writes something else there."""
    cache, parent, child = paged(), seq_of(), seq_of()
    step(cache, parent, 7)
    cache.fork(parent, child)
    cache.truncate(child, 2)
    step(cache, child, 4, mark=0.5)
    assert cache.ledger.kv_copied_bytes == 2 * POSITION_BYTES
    assert marks(cache, child) == [0, 1, 2.5, 3.5, 4.5, 5.5]
    assert marks(cache, parent) == list(range(7))


def test_rows_that_one_holder_fills_are_not_wasted():
    """A truncated child ends in a block that its parent has filled, or in one that both leave partly empty."""
    cache, parent, child = paged(), seq_of(), seq_of()
    step(cache, parent, 7)
    cache.fork(parent, child)
    assert cache.wasted_bytes == 1 * POSITION_BYTES
    cache.truncate(child, 6)
    assert cache.wasted_bytes == 1 * POSITION_BYTES
    cache.truncate(child, 2)
    assert cache.wasted_bytes == 1 * POSITION_BYTES
    cache.free(parent)
    assert cache.wasted_bytes == 2 * POSITION_BYTES


def test_a_fork_gets_what_is_computed_and_not_what_is_reserved():
    """In the middle of a step, whose positions a child must not count on; nor hold the blocks that they will fill."""
    cache, parent, child = paged(), seq_of(), seq_of()
    step(cache, parent, 4)
    cache.reserve(parent, 6)
    cache.fork(parent, child)
    assert (len(cache.block_table(parent)), cache.block_table(child)) == (3, cache.block_table(parent)[:1])


def test_a_fork_of_nothing_is_nothing():
    """A sequence that has not run yet may be forked too."""
    cache, parent, child = paged(), seq_of(), seq_of()
    cache.fork(parent, child)
    assert (cache.length(child), cache.held_bytes) == (0, 0)
    step(cache, child, 2)
    assert cache.length(parent) == 0


def test_the_next_blocks_are_those_that_are_allocated_next():
    """What runs ahead of the engine writes there. Catches another order, and more blocks than are free."""
    cache = paged(6)
    a, b = seq_of(), seq_of()
    for seq in (a, b):
        cache.reserve(seq, 5)
    cache.free(a)
    foreseen = cache.next_blocks(9)
    assert len(foreseen) == 4
    assert foreseen[:2] == cache.next_blocks(2)
    c = seq_of()
    cache.reserve(c, 16)
    assert list(cache.block_table(c)) == foreseen
    assert cache.next_blocks(3) == []
