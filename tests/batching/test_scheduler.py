"""What runs next: which sequences join and leave, and how the rows of a step are shared.

Static and dynamic batching are in test_policies.py, what happens when the cache is full in test_preemption.py,
and that no sequence starves in test_fairness.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from driven import drive, play, rows_of, scheduler_of
from helpers import finish, make_engine, request, small_config

from tinyinfer.sampling import Choice
from tinyinfer.sequence import Draft

# One slot


def test_first_come_first_served_to_the_last_token():
    """A prompt, then one row a step, then the next sequence; `busy` until all are done."""
    scheduler = scheduler_of(max_num_seqs=1)
    a, b = request([1, 2, 3], max_tokens=2), request([4, 5], max_tokens=1)
    assert not scheduler.busy
    scheduler.add(a)
    scheduler.add(b)
    rows = []
    while scheduler.busy:
        batch = scheduler.next_batch(now=7.0)
        rows.append((batch.spans[0].seq, len(batch), batch.spans[0].first))
        scheduler.update(batch, [[Choice(9)]], now=8.0)
    assert rows == [(a, 3, 0), (a, 1, 3), (b, 2, 0)]
    assert (a.tokens, b.tokens) == ([1, 2, 3, 9, 9], [4, 5, 9])
    assert (a.timing.started, a.timing.times, b.progress.finish_reason) == (7.0, [8.0, 8.0], "length")
    assert (scheduler.ledger.tokens_reused, scheduler.ledger.tokens_recomputed) == (3, 0)
    assert scheduler.cache.held_bytes == 0, "a finished sequence gives its cache back"


def test_started_is_when_its_first_step_began():
    """Waiting in the queue is no work: time to first token counts from arrival, prompt speed from the start."""
    a, b = request([1], max_tokens=1), request([2], max_tokens=1)
    scheduler = scheduler_of(a, b, max_num_seqs=1)
    for now in (3.0, 5.0):
        scheduler.update(scheduler.next_batch(now), [[Choice(0)]], now + 1)
    assert (a.timing.started, b.timing.started) == (3.0, 5.0)


def test_drop_forgets_a_sequence_wherever_it_is():
    """Running, waiting or unknown; the others keep their turn."""
    a, b, c = (request([1, 2]) for _ in range(3))
    scheduler = scheduler_of(a, b, c, max_num_seqs=1)
    scheduler.next_batch(0.0)
    assert scheduler.cache.held_bytes > 0
    scheduler.drop(b)
    scheduler.drop(a)
    scheduler.drop(request([1]))
    assert scheduler.cache.held_bytes == 0
    assert [span.seq for span in scheduler.next_batch(0.0).spans] == [c]
    scheduler.drop(c)
    assert not scheduler.busy


# Continuous


def test_sequences_join_and_leave_at_every_step():
    """Two slots, four sequences: a slot that becomes free is taken in the next step, in order of arrival."""
    a, b, c, d = (request([1, 2], max_tokens=n) for n in (3, 1, 1, 2))
    scheduler = scheduler_of(a, b, c, d, max_num_seqs=2)
    seen = []
    while scheduler.busy:
        drive(scheduler)
        seen.append((list(scheduler.joined), list(scheduler.running)))
    assert seen == [([a, b], [a]), ([c], [a]), ([d], [d]), ([], [])]


def test_no_sequence_runs_before_it_arrives_and_the_earliest_comes_first():
    """By arrival and not by the order in which they were queued; `ready_at` says when there is work again."""
    late, early = request([1], max_tokens=1, delay=5.0), request([2, 3], max_tokens=1, delay=2.0)
    scheduler = scheduler_of(late, early)
    assert scheduler.ready_at() == 2.0
    assert drive(scheduler, now=1.0) == []
    assert drive(scheduler, now=2.0) == [(early, 0, 2)]
    assert scheduler.ready_at() == 5.0
    assert drive(scheduler, now=6.0) == [(late, 0, 1)]
    assert (scheduler.ready_at(), scheduler.busy) == (np.inf, False)


def test_a_running_sequence_makes_the_scheduler_ready_at_once():
    """Else a running sequence would wait for the next arrival."""
    a, b = request([1], max_tokens=9), request([2], delay=50.0)
    scheduler = scheduler_of(a, b)
    drive(scheduler)
    assert scheduler.ready_at() == -np.inf


# Chunked prefill: a step holds at most max_num_batched_tokens rows


def test_decodes_come_first_and_chunks_fill_the_step():
    """5 rows a step. The long prompt's chunks never displace a decode, and the next prompt starts in its last step."""
    a, long, b = request([1, 2], 4), request(range(10), 1), request([3, 4, 5], 2)
    steps = play(scheduler_of(a, long, b, max_num_batched_tokens=5))
    assert rows_of(steps, a, long, b) == [(2, 3, 0), (1, 4, 0), (1, 3, 1), (1, 0, 2), (0, 0, 1)]
    assert [who for who, _, _ in steps[1]] == [a, long]
    assert [first for step in steps for who, first, _ in step if who is long] == [0, 3, 7]


def test_a_prompt_that_has_waited_still_comes_after_decodes():
    """a's drafts take the whole step, twice; catches a turn that goes to the one without rows last time."""
    a, long = request([1, 2], 9), request(range(10), 1)
    scheduler = scheduler_of(a, long, max_num_batched_tokens=3)
    steps = [drive(scheduler)]
    for _ in range(2):
        a.set_drafts([Draft(8), Draft(8)])
        steps.append(drive(scheduler))
    assert rows_of([*steps, drive(scheduler)], a, long) == [(2, 1), (3, 0), (3, 0), (1, 2)]


def test_only_the_end_of_a_prompt_brings_a_token():
    """Chunks in between change nothing but the length; catches a prompt that is answered after its first chunk."""
    long = request(range(10), 2)
    scheduler = scheduler_of(long, max_num_batched_tokens=4)
    lengths = []
    while scheduler.busy:
        drive(scheduler)
        lengths.append((scheduler.cache.length(long), len(long.new_tokens)))
    assert lengths == [(4, 0), (8, 0), (10, 1), (0, 2)]
    assert scheduler.ledger.tokens_recomputed == 0
    assert scheduler.ledger.tokens_reused == 4 + 8 + 10


def test_fewer_rows_than_running_sequences_are_shared_in_turn():
    """Two rows for three decodes: each gets its turn; catches the oldest ones always being served first."""
    a, b, c = (request([1], max_tokens=5) for _ in range(3))
    steps = rows_of(play(scheduler_of(a, b, c, max_num_batched_tokens=2)), a, b, c)
    assert steps[:5] == [(1, 1, 0), (1, 1, 0), (1, 1, 0), (1, 1, 0), (1, 1, 0)], "c waits for a free row to begin"
    assert steps[5:] == [(0, 0, 1)] * 5


def test_running_sequences_take_turns_when_the_rows_do_not_suffice():
    """Three decodes that began together in one large step go on with two rows a step, each in two of three."""
    a, b, c = (request([1], max_tokens=7) for _ in range(3))
    scheduler = scheduler_of(a, b, c)
    drive(scheduler)
    scheduler.limits = type(scheduler.limits)(max_num_batched_tokens=2)
    assert rows_of([drive(scheduler) for _ in range(6)], a, b, c) == [(1, 1, 0), (1, 0, 1), (0, 1, 1)] * 2


def test_drafts_are_verified_together_or_in_a_later_step():
    """A sequence whose drafts do not fit waits, and is first next time. Catches drafts verified without their rest."""
    a, b = request([1, 2], 9), request([3], 9)
    scheduler = scheduler_of(a, b, max_num_batched_tokens=4)
    drive(scheduler)
    for seq in (a, b):
        seq.set_drafts([Draft(8), Draft(7)])
    first, second = drive(scheduler), drive(scheduler)
    assert rows_of([first, second], a, b) == [(3, 0), (1, 3)]
    assert [(seq.speculation.proposed, seq.speculation.accepted, seq.drafts) for seq in (a, b)] == [(2, 0, [])] * 2
    assert (scheduler.ledger.drafts_proposed, scheduler.ledger.drafts_accepted) == (4, 0)


def test_a_sequence_that_ends_inside_its_drafts_keeps_nothing_behind_its_end():
    """The end token was drafted right, and so was what follows it; catches tokens after the end, and their rows."""
    a = request([1, 2], 9, eos=[7])
    scheduler = scheduler_of(a)
    drive(scheduler)
    a.set_drafts([Draft(8), Draft(7), Draft(6)])
    batch = scheduler.next_batch(0.0)
    scheduler.update(batch, [[Choice(8), Choice(7), Choice(6), Choice(5)]], 0.0)
    assert (a.new_tokens, a.progress.finish_reason) == ([9, 8, 7], "stop")
    assert (a.speculation.proposed, a.speculation.accepted) == (3, 2)


def test_a_planned_sequence_that_must_make_way_is_not_in_the_step():
    """c is served first, as it had no rows last time, and then preempted for b; catches rows that stay planned."""
    a, b, c = (request([n], 5) for n in range(3))
    switches = {"kv_cache": "paged", "block_size": 2, "num_blocks": 4, "prefix_cache": True}
    scheduler = scheduler_of(a, b, c, max_num_batched_tokens=4, **switches)
    assert drive(scheduler) == [(a, 0, 1), (b, 0, 1), (c, 0, 1)]
    a.set_drafts([Draft(8), Draft(8)])
    assert drive(scheduler) == [(a, 1, 3), (b, 1, 1)]
    before = scheduler.ledger.copy()
    assert drive(scheduler) == [(a, 2, 1), (b, 2, 1)]
    assert scheduler.preempted == [c]
    assert (scheduler.ledger - before).tokens_reused == 4
    assert scheduler.prefixes.evictable == 0, "c's block was never computed, and no prompt may find it"


def test_age_decides_and_not_the_order_of_joining():
    """Two that arrived at the same moment: the earlier id is the older, also when it joins later."""
    old, young = request([1], 9), request([2], 9)
    scheduler = scheduler_of(young)
    drive(scheduler)
    scheduler.add(old)
    drive(scheduler)
    assert scheduler.running == [old, young]


def test_without_a_cache_whole_sequences_fit_into_a_step_or_wait():
    """`none` cannot go on in the middle: 2048 rows hold one such prompt and not two; a longer one runs alone."""
    a, b, long = request([1] * 1500, 2), request([2] * 900, 1), request([3] * 2100, 1)
    config = small_config(max_position=4096)
    scheduler = make_engine(config, kv_cache="none").scheduler
    for seq in (a, b, long):
        scheduler.add(seq)
    assert rows_of(play(scheduler), a, b, long) == [(1500, 0, 0), (1501, 0, 0), (0, 900, 0), (0, 0, 2100)]


@pytest.mark.parametrize("batching", ["static", "dynamic", "continuous"])
def test_every_policy_gives_the_same_tokens(batching):
    """Policies decide when, never what."""
    prompts = [([1, 2, 3], 4), ([4, 5], 7), (list(range(9)), 2), ([6], 5)]
    alone = [finish(make_engine(small_config()), request(*prompt))[0] for prompt in prompts]
    engine = make_engine(small_config(), batching=batching, max_num_seqs=2, max_num_batched_tokens=5)
    assert finish(engine, *(request(*prompt) for prompt in prompts)) == alone
