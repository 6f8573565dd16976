"""Static and dynamic batching: when a batch starts, what has a slot, and what padding costs; on a clock that
only the test moves.
"""

from __future__ import annotations

import pytest
from driven import drive, play, rows_of, scheduler_of
from helpers import request

from tinyinfer.sequence import Draft


def test_static_waits_for_a_full_batch():
    """Three slots: nothing starts until the third has come, though two could run."""
    sequences = [request([1], max_tokens=1, delay=delay) for delay in (0.0, 1.0, 7.0, 9.0)]
    scheduler = scheduler_of(*sequences, batching="static", max_num_seqs=3)
    assert scheduler.ready_at() == 7.0
    assert drive(scheduler, now=6.9) == []
    assert [who for who, _, _ in drive(scheduler, now=7.0)] == sequences[:3]
    assert scheduler.ready_at() == 9.0, "the last one, since no other is known"


def test_static_starts_with_all_that_are_known():
    """Fewer sequences than slots start when the last of them has come; else they would wait forever."""
    a, b = request([1], max_tokens=1), request([2], max_tokens=1, delay=3.0)
    scheduler = scheduler_of(a, b, batching="static", max_num_seqs=8)
    assert scheduler.ready_at() == 3.0
    assert [who for who, _, _ in drive(scheduler, now=3.0)] == [a, b]


@pytest.mark.parametrize("batching", ["static", "dynamic"])
def test_finished_rows_keep_their_slots_and_none_joins_before_all_end(batching):
    """a ends after one token and b after four; until then c waits and a's slot costs a row a step, counted."""
    a, b, c = request([1, 2], 1), request([3], 4), request([4, 5, 6], 1)
    scheduler = scheduler_of(a, b, c, batching=batching, max_num_seqs=2)
    steps = play(scheduler, now=10.0)
    assert rows_of(steps, a, b, c) == [(2, 1, 0), (1, 1, 0), (1, 1, 0), (1, 1, 0), (0, 0, 3)]
    assert scheduler.ledger.tokens_padding == 3
    assert (len(a.new_tokens), len(b.new_tokens)) == (1, 4), "padding brings no tokens"
    assert [first for step in steps for who, first, _ in step if who is a] == [0, 2, 2, 2], "and stores nothing"
    assert scheduler.cache.held_bytes == 0


def test_padding_is_one_row_without_a_cache_too():
    """A slot costs a row; catches a finished sequence that is computed anew as a whole in every step."""
    a, b = request([1, 2], 1), request([3], 3)
    steps = play(scheduler_of(a, b, batching="static", kv_cache="none"))
    assert rows_of(steps, a, b) == [(2, 1), (1, 2), (1, 3)]


def test_padding_takes_only_rows_that_are_left_over():
    """a has ended; b's drafts and c fill the step. Catches padding beyond the step's rows, or ahead of decodes."""
    a, b, c = request([1], 1), request([2], 5), request([3], 5)
    scheduler = scheduler_of(a, b, c, batching="static", max_num_batched_tokens=3)
    drive(scheduler)
    b.set_drafts([Draft(8)])
    assert rows_of([drive(scheduler), drive(scheduler)], a, b, c) == [(0, 2, 1), (1, 1, 1)]


def test_continuous_has_no_padding():
    """The same three: c takes a's slot at once, and two steps are saved."""
    a, b, c = request([1, 2], 1), request([3], 4), request([4, 5, 6], 1)
    scheduler = scheduler_of(a, b, c, max_num_seqs=2)
    assert rows_of(play(scheduler), a, b, c) == [(2, 1, 0), (0, 1, 3), (0, 1, 0), (0, 1, 0)]
    assert scheduler.ledger.tokens_padding == 0


def test_the_deadline_of_dynamic_batching_counts_from_the_first():
    """Whichever comes first: a full batch, or batch_timeout seconds after the oldest arrived; a later one waits."""
    a, b, c = (request([1], max_tokens=2, delay=delay) for delay in (1.0, 1.5, 4.0))
    scheduler = scheduler_of(a, b, c, batching="dynamic", batch_timeout=2.0, max_num_seqs=3)
    assert scheduler.ready_at() == 3.0
    assert drive(scheduler, now=2.9) == []
    assert [who for who, _, _ in drive(scheduler, now=3.0)] == [a, b]
    assert [who for who, _, _ in drive(scheduler, now=4.0)] == [a, b], "c has come, but the batch is closed"
    assert scheduler.ready_at() == 4.0, "c alone is all that is known"


def test_dynamic_starts_a_full_batch_before_the_deadline():
    """Catches a deadline that is always waited for."""
    a, b = request([1], delay=1.0), request([1], delay=1.5)
    scheduler = scheduler_of(a, b, batching="dynamic", batch_timeout=2.0, max_num_seqs=2)
    assert scheduler.ready_at() == 1.5
    assert len(drive(scheduler, now=1.5)) == 2


@pytest.mark.parametrize("batching", ["static", "dynamic"])
def test_a_batch_that_has_begun_waits_for_no_arrival(batching):
    """b has its slot, but no rows were left for it; when a is done it must not wait for c, which comes much later."""
    a, b, c = request(range(4), 1), request([1, 2], 1), request([3], 1, delay=100.0)
    scheduler = scheduler_of(a, b, c, batching=batching, max_num_seqs=2, max_num_batched_tokens=4)
    assert drive(scheduler, now=1.0) == [(a, 0, 4)]
    assert scheduler.ready_at() <= 1.0
    assert drive(scheduler, now=1.0) == [(b, 0, 2)]
    assert scheduler.ready_at() == 100.0
