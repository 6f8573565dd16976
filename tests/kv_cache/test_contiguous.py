"""The one cache contract, for every cache that the registry lists; then what each promises on its own.

`keeps` says whether a cache remembers from step to step; `none` obeys the same contract with a length that stays 0.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from helpers import flat_batch, request, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.errors import RoomError
from tinyinfer.kv_cache.base import CacheSpec, NoCache
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.kv_cache.switches import CACHES
from tinyinfer.ledger import Ledger
from tinyinfer.switches import resolve

CONFIG = small_config(num_layers=3, num_kv_heads=2, head_dim=6)
CAPACITY = 20
SPEC = CacheSpec(CONFIG.memory, CAPACITY, block_size=16, num_blocks=64)
POSITION_BYTES = 2 * 3 * 2 * 6 * 4  # keys and values, layers, heads, size, float32


@pytest.fixture(params=[(kind, whole) for kind in sorted(CACHES) for whole in (True, False)], ids=str)
def cache(request: pytest.FixtureRequest):
    """Of each kind one that reserves all at once, and one that grows."""
    kind, whole = request.param
    return resolve(CACHES, kind)(replace(SPEC, reserve_all=whole), NumpyOps(Ledger()))


def keys_of(seq, position: int, layer: int) -> np.ndarray:
    """Keys that no other sequence, position, layer or head has, (K, E); values are their negatives."""
    return (1000 * seq.id + 100 * layer + position + np.arange(12).reshape(2, 6) / 16).astype(np.float32)


def write(cache, *work, shift: float = 0.0) -> None:
    """Appends positions first ... stop of each (seq, first, stop) in all layers, as one batch."""
    batch = flat_batch(work)
    for layer in range(CONFIG.num_layers):
        k = shift + np.stack([keys_of(seq, p, layer) for seq, first, stop in work for p in range(first, stop)])
        cache.append(layer, k, -k, batch)
        for seq, first, stop in work:
            check_read(cache, layer, seq, 0, first, stop, shift)


def check_read(cache, layer: int, seq, start: int, first: int, stop: int, shift: float = 0.0) -> None:
    """What `read` gives from `start` on: earlier positions as first written, those of this step shifted."""
    k, v = cache.read(layer, seq, start)
    expected = np.stack([keys_of(seq, p, layer) + (shift if p >= first else 0) for p in range(start, stop)])
    assert np.array_equal(k, expected.astype(np.float32))
    assert np.array_equal(v, -k)


def step(cache, *work) -> None:
    """One whole step; a cache that keeps nothing is given everything from position 0 again."""
    work = tuple((seq, cache.length(seq), stop) for seq, _, stop in work)
    for seq, first, stop in work:
        cache.reserve(seq, stop - first)
    write(cache, *work)
    for seq, first, stop in work:
        cache.commit(seq, stop - first)


def kept(cache, n: int) -> int:
    return n if cache.can_chunk else 0


def test_an_unknown_sequence_has_length_0(cache):
    """Asking must not raise, nor make room: `length` is how the scheduler finds out that a sequence is new."""
    seq = request(range(9))
    assert cache.length(seq) == 0
    assert cache.held_bytes == 0


def test_reads_give_what_was_appended_step_by_step(cache):
    """Catches: wrong layer, keys and values mixed up, positions counted from the batch instead of the sequence."""
    seq = request(range(9))
    for stop in (4, 5, 9):
        step(cache, (seq, None, stop))
        assert cache.length(seq) == kept(cache, stop)


def test_sequences_of_one_batch_do_not_disturb_each_other(cache):
    """A chunk of one, one token of another and a whole new one in the same batch, twice over."""
    a, b, c = request(range(12)), request(range(12)), request(range(12))
    step(cache, (a, None, 3), (b, None, 7))
    step(cache, (b, None, 8), (c, None, 5), (a, None, 6))
    step(cache, (a, None, 7), (c, None, 6), (b, None, 12))
    assert [cache.length(seq) for seq in (a, b, c)] == [kept(cache, n) for n in (7, 12, 6)]
    cache.free(b)
    step(cache, (a, None, 8), (c, None, 7))
    assert cache.length(b) == 0


def test_a_window_reads_only_from_its_start(cache):
    """Catches: a start that is ignored (too much is read and counted) or taken from the end."""
    seq = request(range(9))
    cache.reserve(seq, 8)
    write(cache, (seq, 0, 8))
    for start in (0, 3, 7):
        before = cache.ledger.kv_read_bytes
        check_read(cache, 2, seq, start, 0, 8)  # of the layer appended last, which every cache still has
        assert cache.ledger.kv_read_bytes - before == (8 - start) * POSITION_BYTES // CONFIG.num_layers


def test_nothing_is_stored_before_commit(cache):
    """A step that fails after its appends and is run again must see only its second try."""
    seq = request(range(9))
    step(cache, (seq, None, 4))
    first = cache.length(seq)
    cache.reserve(seq, 6 - first)
    write(cache, (seq, first, 6), shift=0.5)
    assert cache.length(seq) == kept(cache, 4)
    step(cache, (seq, None, 5))
    assert cache.length(seq) == kept(cache, 5)


def test_truncate_forgets_and_later_positions_are_written_anew(cache):
    """Rolling back rejected drafts: length is the one truth, and old keys never come back."""
    seq = request(range(12))
    step(cache, (seq, None, 9))
    cache.truncate(seq, kept(cache, 5))
    assert cache.length(seq) == kept(cache, 5)
    step(cache, (seq, None, 7))
    assert cache.length(seq) == kept(cache, 7)
    cache.truncate(seq, 0)
    assert cache.length(seq) == 0


@pytest.mark.parametrize("n", [-1, 10])
def test_truncate_beyond_the_length_is_refused(cache, n):
    """Else a sequence would claim positions that were never computed."""
    seq = request(range(12))
    step(cache, (seq, None, 9))
    with pytest.raises(ValueError, match=f"truncate to {n} positions"):
        cache.truncate(seq, n)
    assert cache.length(seq) == kept(cache, 9)


def test_free_forgets_and_may_be_repeated(cache):
    """Abort and the end of a run may both free; a sequence that never ran may be freed too."""
    seq = request(range(9))
    cache.free(seq)
    step(cache, (seq, None, 9))
    cache.free(seq)
    cache.free(seq)
    assert cache.length(seq) == 0
    assert cache.held_bytes == cache.wasted_bytes == 0


def test_after_free_there_is_nothing_to_read(cache):
    """A sequence that is dropped in mid-step leaves no keys behind that it, started anew, could take for its own."""
    seq = request(range(9))
    cache.reserve(seq, 4)
    write(cache, (seq, 0, 4))
    cache.free(seq)
    cache.reserve(seq, 4)
    with suppress(KeyError):
        assert len(cache.read(2, seq, 0)[0]) == 0


def test_the_ledger_counts_bytes_written_exactly(cache):
    """Keys and values of every appended row in every layer, once; and nothing is copied."""
    a, b = request(range(9)), request(range(9))
    cache.prepare([a, b])  # as the scheduler does
    cache.reserve(a, 4)
    cache.reserve(b, 2)
    write(cache, (a, 0, 4), (b, 0, 2))
    assert cache.ledger.kv_written_bytes == 6 * POSITION_BYTES
    assert cache.ledger.kv_copied_bytes == 0


def contiguous() -> ContiguousCache:
    return ContiguousCache(SPEC, NumpyOps(Ledger()))


def test_contiguous_holds_whole_contexts_and_calls_the_rest_wasted():
    """Bytes are those really reserved; what is appended but not committed counts as unused."""
    cache, a, b = contiguous(), request(range(9)), request(range(9))
    step(cache, (a, None, 4))
    step(cache, (b, None, 9))
    assert cache.held_bytes == 2 * CAPACITY * POSITION_BYTES
    assert cache.wasted_bytes == (2 * CAPACITY - 4 - 9) * POSITION_BYTES
    k, _ = cache.read(0, a, 0)
    assert k.base.nbytes * 2 == cache.held_bytes, "the arrays have the size that is claimed"
    cache.reserve(a, 1)
    write(cache, (a, 4, 5))
    assert cache.wasted_bytes == (2 * CAPACITY - 4 - 9) * POSITION_BYTES
    cache.free(b)
    assert cache.held_bytes == CAPACITY * POSITION_BYTES


def test_contiguous_reads_are_views_and_growing_moves_nothing():
    """The same memory before and after, and the keys of position 0 stay at their address: no copy anywhere."""
    cache, seq = contiguous(), request(range(12))
    step(cache, (seq, None, 4))
    before = [array for layer in range(3) for array in cache.read(layer, seq, 0)]
    step(cache, (seq, None, 12))
    after = [array for layer in range(3) for array in cache.read(layer, seq, 0)]
    for old, new in zip(before, after, strict=True):
        assert np.shares_memory(old, new)
        assert old.ctypes.data == new.ctypes.data


def test_contiguous_refuses_what_does_not_fit_and_stays_usable():
    """One position too many is an error in one sentence that names the switch; exactly full is fine."""
    cache, seq = contiguous(), request(range(30))
    step(cache, (seq, None, 12))
    with pytest.raises(ValueError, match=f"21 positions do not fit into a cache of {CAPACITY}; raise max_model_len"):
        cache.reserve(seq, 9)
    assert cache.length(seq) == 12
    step(cache, (seq, None, CAPACITY))
    assert cache.wasted_bytes == 0
    other = request(range(30))
    with pytest.raises(ValueError, match="do not fit"):
        cache.reserve(other, CAPACITY + 1)
    assert cache.held_bytes == CAPACITY * POSITION_BYTES, "a refused sequence holds nothing"


def growing() -> ContiguousCache:
    """A cache without an explicit context: 20 positions at most, each sequence as long as it can come to."""
    return ContiguousCache(replace(SPEC, reserve_all=False), NumpyOps(Ledger()))


def test_a_sequence_gets_room_for_its_prompt_and_its_answer():
    """Not for the model's whole context: llama.cpp#8817. No position is moved while the answer comes."""
    cache, a, b = growing(), request(range(4), max_tokens=5), request(range(9), max_tokens=50)
    step(cache, (a, None, 4))
    step(cache, (b, None, 9))
    assert cache.held_bytes == (4 + 5 + CAPACITY) * POSITION_BYTES
    assert cache.wasted_bytes == (5 + CAPACITY - 9) * POSITION_BYTES
    k, _ = cache.read(0, a, 0)
    assert k.base.nbytes == 9 * POSITION_BYTES, "the array has the size that is claimed"
    a.tokens.extend([7] * 5)
    step(cache, (a, None, 9))
    assert cache.ledger.kv_copied_bytes == 0
    cache.free(b)
    assert cache.held_bytes == 9 * POSITION_BYTES


def test_a_sequence_that_outgrows_its_array_gets_one_twice_as_long():
    """Nothing promises that a sequence stays within its request. Copied bytes are those of its positions, counted."""
    cache, seq = growing(), request(range(20), max_tokens=1)
    seq.request = replace(seq.request, prompt=[0, 1, 2])
    step(cache, (seq, None, 4))
    assert cache.held_bytes == 4 * POSITION_BYTES
    step(cache, (seq, None, 5))
    assert (cache.held_bytes, cache.ledger.kv_copied_bytes) == (8 * POSITION_BYTES, 4 * POSITION_BYTES)
    step(cache, (seq, None, 17))
    assert (cache.held_bytes, cache.ledger.kv_copied_bytes) == (17 * POSITION_BYTES, (4 + 5) * POSITION_BYTES)
    step(cache, (seq, None, 18))
    assert cache.held_bytes == CAPACITY * POSITION_BYTES, "twice as long, but never longer than the context"
    check_read(cache, 2, seq, 0, 18, 18)


class Tight(NumpyOps):
    """A system that gives no reservation above so many bytes."""

    def __init__(self, most: int) -> None:
        super().__init__(Ledger())
        self.most, self.asked = most, list[int]()

    def reserve(self, shape, dtype=np.float32):
        array = super().reserve(shape, dtype)
        self.asked.append(array.nbytes)
        if array.nbytes > self.most:
            raise MemoryError
        return array


def test_where_memory_is_refused_a_sequence_begins_short_and_grows():
    """An answer of "as long as may be" must not fail for room that it may never need; it fails when it needs it."""
    ops = Tight(10 * POSITION_BYTES)
    cache, seq = ContiguousCache(replace(SPEC, reserve_all=False), ops), request(range(15), max_tokens=100)
    for stop, held in ((3, 6), (6, 6), (7, 10), (10, 10)):
        step(cache, (seq, None, stop))
        assert cache.held_bytes == held * POSITION_BYTES
    with pytest.raises(RoomError, match=r"20 positions need 5\.76 kB of KV cache, .* a shorter prompt or answer, or"):
        cache.reserve(seq, 1)
    assert cache.length(seq) == 10
    check_read(cache, 0, seq, 0, 10, 10)
    with pytest.raises(RoomError, match="smaller max_model_len, which every sequence reserves, or add kv_bits=8"):
        ContiguousCache(SPEC, ops).reserve(seq, 1)
    assert ops.asked[-1] == CAPACITY * POSITION_BYTES


def test_none_keeps_one_layer_at_a_time_and_nothing_after_commit():
    """The baseline's memory: a cache that quietly kept things would make the comparison a lie."""
    cache, seq = NoCache(SPEC, NumpyOps(Ledger())), request(range(9))
    k = np.ones((9, 2, 6), np.float32)
    for layer in range(3):
        cache.append(layer, k, k, flat_batch([(seq, 0, 9)]))
        assert cache.held_bytes == 0
    cache.commit(seq, 9)
    with pytest.raises(KeyError):
        cache.read(2, seq, 0)
