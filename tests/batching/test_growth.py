"""Caches that grow with what requests need: how much, when, what it copies, and where the system refuses memory."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from helpers import ALWAYS_DRAFT, finish, make_engine, request, small_config

from tinyinfer.backends.numpy_ops import NumpyOps
from tinyinfer.engine.engine import Engine
from tinyinfer.errors import RoomError
from tinyinfer.ledger import Ledger
from tinyinfer.sequence import Sequence

CONFIG = small_config(max_position=4000)
ROW = 2 * 2 * 2 * 6 * 4  # keys and values, layers, key heads, head size, bytes
PAGED: dict[str, Any] = {"kv_cache": "paged", "block_size": 4}
KINDS = {
    "contiguous": {}, "paged": PAGED, "prefixes": {**PAGED, "prefix_cache": True}, "8 bits": {"kv_bits": 8},
    "paged, 4 bits": {**PAGED, "kv_bits": 4},
}  # fmt: skip


class Limited(NumpyOps):
    """A system that gives caches so many bytes in all."""

    def __init__(self, limit: int) -> None:
        super().__init__(Ledger())
        self.limit, self.given = limit, 0

    def reserve(self, shape, dtype=np.float32):
        array = super().reserve(shape, dtype)
        if self.given + array.nbytes > self.limit:
            raise MemoryError
        self.given += array.nbytes
        weakref.finalize(array.base, self.take_back, array.nbytes)
        return array

    def take_back(self, nbytes: int) -> None:
        self.given -= nbytes


def requests(count: int = 9) -> list[Sequence]:
    """Prompts of 3 to 27 tokens, answers of 5 to 21."""
    return [request([(7 * i + j) % 31 for j in range(3 + 3 * i)], 5 + 2 * i) for i in range(count)]


def ending(engine: Engine, *sequences: Sequence) -> dict[int, RoomError]:
    """Runs all to their ends as a server does: an error ends the request that it names, and no other one."""
    errors = {}
    for seq in sequences:
        engine.scheduler.add(seq)
    for _ in range(1000):
        if all(seq.finished for seq in sequences):
            return errors
        try:
            engine.step()
        except RoomError as error:
            [seq] = [seq for seq in sequences if seq.id == error.request_id]
            errors[seq.id] = error
            engine.abort(seq)
    raise AssertionError("the engine never comes to an end")


@pytest.mark.parametrize("switches", KINDS.values(), ids=KINDS)
def test_growth_changes_no_token_and_copies_nothing_for_requests_that_are_known(switches):
    """More requests than slots, the longest last: the pool has the size for them before the first one holds a block."""
    fixed = {"num_blocks": 400} if switches.get("kv_cache") else {"max_model_len": 4000}
    grown, full = (make_engine(CONFIG, **switches, **more, max_num_seqs=4) for more in ({}, fixed))
    assert finish(grown, *requests()) == finish(full, *requests())
    if "prefix_cache" not in switches:  # whose remembered blocks make the pool grow
        assert grown.ledger == full.ledger
    assert full.ledger.preemptions == grown.ledger.preemptions == 0


def test_the_pool_is_as_large_as_the_requests_that_may_run_together():
    """Prompt and answer of the longest two, in whole blocks; a later, longer one makes it grow to that one's size."""
    engine = make_engine(CONFIG, **PAGED, max_num_seqs=2)
    assert engine.cache.num_blocks == 0
    sequences = [request(range(5), 4), request(range(9), 1), request(range(2), 30)]
    [first, *_] = engine.run(sequences)
    assert first.pool is not None
    assert first.pool[1] == 8 + 3, "32 positions, and 10"
    before = engine.ledger.copy()
    finish(engine, request(range(10), 50))
    assert engine.cache.num_blocks == 15, "60 positions"
    assert (engine.ledger - before).kv_copied_bytes == 0, "an idle pool has nothing to copy"


def test_scoring_reserves_its_text_at_once():
    """Computed a few rows at a time, after a shorter request: the idle pool grows before the first rows, not between.
    """
    engine, seq = make_engine(CONFIG, **PAGED), request(range(30), 1)
    finish(engine, request([1, 2], 3))
    assert engine.cache.num_blocks == 2
    for start in (0, 8, 16, 24):
        engine.logits(seq, start, 8)
        assert engine.cache.num_blocks == 8
    assert engine.ledger.kv_copied_bytes == 0


def test_a_pool_in_use_at_least_doubles_and_copies_what_it_holds():
    """A second request that comes while the first runs; else every new one would move all others."""
    engine, first, second = make_engine(CONFIG, **PAGED), request(range(9), 8), request(range(9, 0, -1), 3)
    engine.scheduler.add(first)
    engine.step()
    assert engine.cache.num_blocks == 5
    engine.scheduler.add(second)
    before = engine.ledger.copy()
    engine.step()
    assert engine.cache.num_blocks == 10
    assert (engine.ledger - before).kv_copied_bytes == 3 * 4 * ROW, "the three blocks of the first"
    while engine.scheduler.busy:
        engine.step()
    alone = make_engine(CONFIG)
    assert [first.new_tokens, second.new_tokens] == finish(alone, request(range(9), 8), request(range(9, 0, -1), 3))


def test_prefixes_are_kept_while_the_pool_may_grow_and_evicted_when_it_may_not():
    """Growth comes before eviction; the bound is full contexts for all slots: here 2 of 64 positions, 32 blocks."""
    engine = make_engine(small_config(), **PAGED, prefix_cache=True, max_num_seqs=2)
    sizes = []
    for i in range(8):
        finish(engine, request([i, *range(23)], 1))
        sizes.append((engine.cache.num_blocks, engine.ledger.blocks_evicted))
    assert [size for size, _ in sizes] == [7, 14, 28, 28, 32, 32, 32, 32]
    assert [evicted > 0 for _, evicted in sizes] == [False] * 5 + [True] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_less_memory_than_all_need_together_delays_them(kind):
    """Memory for about two of the nine: they wait, or make way for older ones, and each gets its own answer."""
    want = finish(make_engine(CONFIG, **KINDS[kind]), *requests())
    limit = {"8 bits": 50, "paged, 4 bits": 50}.get(kind, 100) * ROW
    engine, sequences = make_engine(CONFIG, **KINDS[kind], ops=Limited(limit)), requests()
    assert ending(engine, *sequences) == {}
    assert [seq.new_tokens for seq in sequences] == want
    roomy = make_engine(CONFIG, **KINDS[kind])
    finish(roomy, *requests())
    assert engine.ledger.steps > roomy.ledger.steps, "the limit was felt"


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_does_not_fit_even_alone_ends_with_a_sentence_and_the_others_go_on(kind):
    """Its prompt is too long, or its answer becomes so. Catches an engine that waits for ever (vllm#39734, #42381), and
    an error that ends the wrong request.
    """
    limit = {"8 bits": 60, "paged, 4 bits": 50}.get(kind, 60) * ROW
    engine = make_engine(CONFIG, **KINDS[kind], ops=Limited(limit), max_num_batched_tokens=32)
    long, growing = request([5] * 900, 3), request(range(9), 2000)
    before, after = requests(3), requests(3)
    errors = ending(engine, *before, long, growing, *after)
    assert errors.keys() == {long.id, growing.id}
    for seq, size in ((long, 903), (growing, 2009)):
        text = str(errors[seq.id])
        assert f"{size} positions need " in text
        assert "give a shorter prompt or answer" in text
    assert 10 < len(growing.new_tokens) < 2000, "it was answered as far as there was memory"
    want = finish(make_engine(CONFIG, **KINDS[kind]), *requests(3))
    assert [seq.new_tokens for seq in before] == [seq.new_tokens for seq in after] == want
    assert engine.cache.held_bytes == 0 or "prefix_cache" in KINDS[kind]
    assert finish(engine, *requests(3)) == want, "and the engine goes on"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_raises_the_error_of_its_request(kind):
    """`generate` of a prompt that does not fit: the error, and nothing is left behind."""
    engine = make_engine(CONFIG, **KINDS[kind], ops=Limited(60 * ROW))
    with pytest.raises(RoomError, match="shorter prompt or answer"):
        finish(engine, *requests(2), request([5] * 900, 3))
    assert not engine.scheduler.busy
    assert engine.cache.held_bytes == 0 or "prefix_cache" in KINDS[kind]


def test_a_draft_models_cache_is_as_long_as_the_text():
    """Not as its context. And where there is no memory for it, the cure names what asked for it."""
    drafting = {"speculative": "self", "draft_layers": 1, "num_draft_tokens": 3, "draft_cost": ALWAYS_DRAFT}
    drafting |= {"verification": "best-coupling"}  # such a draft of the model itself has a cache of its own
    engine, seq = make_engine(CONFIG, **drafting), request(range(9), 8)
    engine.scheduler.add(seq)
    engine.step()
    engine.step()
    assert engine.drafter.cache.held_bytes == (9 + 8) * ROW // 2, "of one layer of two"
    while engine.scheduler.busy:
        engine.step()
    assert engine.ledger.kv_copied_bytes == 0
    assert seq.new_tokens == finish(make_engine(CONFIG), request(range(9), 8))[0]
    short = make_engine(CONFIG, **drafting, ops=Limited(17 * ROW + 9 * ROW // 2))
    with pytest.raises(RoomError, match="leave out speculative"):
        finish(short, request(range(9), 8))


COPYING = {"speculative": "prompt-lookup", "num_draft_candidates": 3, "draft_cost": ALWAYS_DRAFT}


def repeating(count: int = 4) -> list[Sequence]:
    """Prompts in which every token is followed by others in turn, so that there are candidates to copy."""
    return [request([1 + i, 2, 1 + i, 3, 2, 3, 1 + i, 4, 2, 4, 1 + i] * 2, 12) for i in range(count)]


def test_candidates_are_not_left_out_because_the_pool_is_exact():
    """The other candidates of a sequence need blocks beyond what its text can need: the pool grows for them."""
    grown, full = (make_engine(CONFIG, **PAGED, **COPYING, **more) for more in ({}, {"num_blocks": 400}))
    assert finish(grown, *repeating()) == finish(full, *repeating())
    assert grown.ledger.tokens_computed == full.ledger.tokens_computed
    plain = make_engine(CONFIG, **PAGED, **(COPYING | {"num_draft_candidates": 1}))
    finish(plain, *repeating())
    assert plain.ledger.tokens_computed < full.ledger.tokens_computed, "there were other candidates"


def test_candidates_are_left_out_where_there_is_no_memory_for_them():
    """They are a try: no text and no request may depend on them."""
    want, computed = finish(make_engine(CONFIG), *repeating()), set()
    for limit in range(40, 200, 4):
        engine = make_engine(CONFIG, **PAGED, **COPYING, ops=Limited(limit * ROW))
        assert finish(engine, *repeating()) == want
        computed.add(engine.ledger.tokens_computed)
    assert len(computed) > 2, "more memory, more candidates"


def fill_with_prefixes(engine: Engine) -> None:
    """Short requests, until the pool has no room left for another one's blocks."""
    for i in range(20):
        finish(engine, request([i, 5] * 6, 3))


@pytest.mark.parametrize("bits", ["off", 8])
def test_prefixes_give_their_memory_to_a_request_that_fits_without_them(bits):
    """Growth copies what prefixes hold, and for that needs both pools at once. Catches an engine that remembers old
    prompts and refuses a request (or ends an answer, or scores no text) for which an empty pool has room.
    """
    switches: dict[str, Any] = {**PAGED, "kv_bits": bits}
    for size in (70, 90):
        want = finish(make_engine(CONFIG, **switches), request([i % 31 for i in range(size)], 4))
        engine = make_engine(CONFIG, **switches, prefix_cache=True, ops=Limited(100 * ROW))
        fill_with_prefixes(engine)
        assert finish(engine, request([i % 31 for i in range(size)], 4)) == want
        engine = make_engine(CONFIG, **switches, prefix_cache=True, ops=Limited(100 * ROW))
        fill_with_prefixes(engine)
        seq = request([i % 31 for i in range(size)], 1)
        for start in range(0, size, 10):
            engine.logits(seq, start, 10)
        engine.abort(seq)


def test_an_answer_goes_on_after_its_own_prefix_was_remembered():
    """It began short, outgrows half of the memory, and starts again with the blocks that it registered itself."""
    plain, remembering = request([1, 2, 3], 3000), request([1, 2, 3], 3000)
    ending(make_engine(CONFIG, **PAGED, ops=Limited(200 * ROW)), plain)
    ending(make_engine(CONFIG, **PAGED, prefix_cache=True, ops=Limited(200 * ROW)), remembering)
    assert len(remembering.new_tokens) == len(plain.new_tokens) > 180


@pytest.mark.parametrize("kind", ["contiguous", "paged", "prefixes"])
def test_the_last_memory_is_filled_in_a_few_pieces(kind):
    """Beyond half of the memory nothing can be copied: the sequence is computed again for every piece of room. Catches
    pieces of one position, for each of which a long answer was computed from its beginning.
    """
    engine, seq = make_engine(CONFIG, **KINDS[kind], ops=Limited(800 * ROW)), request([1, 2, 3], 3900)
    assert ending(engine, seq).keys() == {seq.id}
    assert len(seq.new_tokens) > 790
    assert seq.progress.preemptions < 10
    assert engine.ledger.tokens_computed < 10 * len(seq.new_tokens)


def test_a_workspace_that_finds_no_memory_is_no_lack_of_blocks():
    """Evicting blocks gives no workspace. Counted as blocks, the request was admitted for those that prefixes could
    free, and the step failed in the middle (KeyError) for all who were in it.
    """
    ops = Limited(100 * ROW)
    engine = make_engine(CONFIG, **PAGED, kv_bits=8, prefix_cache=True, ops=ops)
    fill_with_prefixes(engine)
    ops.limit = ops.given
    assert finish(engine, request([1, 2, 3], 2)) == finish(make_engine(CONFIG), request([1, 2, 3], 2))
