"""Who runs next: one sequence after another, each from its prompt to its last token."""

from __future__ import annotations

import numpy as np
from helpers import make_engine, request, small_config

from tinyinfer.batching import make_batch
from tinyinfer.sampling import Choice


def setup():
    engine = make_engine(small_config())
    return engine.scheduler, engine.cache, engine.ledger


def test_a_batch_is_flat_and_asks_for_the_last_row_of_each_sequence():
    """Catches: positions that count from the batch's start, logits of a sequence's first row."""
    a, b = request([5, 6, 7, 8]), request([9, 10])
    batch = make_batch([(a, 1), (b, 0)])
    assert batch.tokens.tolist() == [6, 7, 8, 9, 10]
    assert batch.positions.tolist() == [1, 2, 3, 0, 1]
    assert batch.logit_rows.tolist() == [2, 4]
    assert [(span.seq, span.start, span.stop, span.first) for span in batch.spans] == [(a, 0, 3, 1), (b, 3, 5, 0)]
    assert len(batch) == 5
    assert batch.tokens.dtype == batch.positions.dtype == np.int64


def test_first_come_first_served_to_the_last_token():
    """A prompt, then one row a step, then the next sequence; `busy` until all are done."""
    scheduler, cache, ledger = setup()
    a, b = request([1, 2, 3], max_tokens=2), request([4, 5], max_tokens=1)
    assert not scheduler.busy
    scheduler.add(a)
    scheduler.add(b)
    rows = []
    while scheduler.busy:
        batch = scheduler.next_batch(now=7.0)
        rows.append((batch.spans[0].seq, len(batch), batch.spans[0].first))
        scheduler.update(batch, [Choice(9)], now=8.0)
    assert rows == [(a, 3, 0), (a, 1, 3), (b, 2, 0)]
    assert (a.tokens, b.tokens) == ([1, 2, 3, 9, 9], [4, 5, 9])
    assert (a.started, a.times, b.finish_reason) == (7.0, [8.0, 8.0], "length")
    assert (ledger.tokens_reused, ledger.tokens_recomputed) == (3, 0)
    assert cache.held_bytes == 0, "a finished sequence gives its cache back"


def test_started_is_when_its_first_step_began():
    """Waiting in the queue is no work: time to first token counts from arrival, prompt speed from the start."""
    scheduler, _, _ = setup()
    a, b = request([1], max_tokens=1), request([2], max_tokens=1)
    for seq in (a, b):
        scheduler.add(seq)
    for now in (3.0, 5.0):
        scheduler.update(scheduler.next_batch(now), [Choice(0)], now + 1)
    assert (a.started, b.started) == (3.0, 5.0)


def test_drop_forgets_a_sequence_wherever_it_is():
    """Running, waiting or unknown; the others keep their turn."""
    scheduler, cache, _ = setup()
    a, b, c = (request([1, 2]) for _ in range(3))
    for seq in (a, b, c):
        scheduler.add(seq)
    scheduler.next_batch(0.0)
    assert cache.held_bytes > 0
    scheduler.drop(b)
    scheduler.drop(a)
    scheduler.drop(request([1]))
    assert cache.held_bytes == 0
    assert [span.seq for span in scheduler.next_batch(0.0).spans] == [c]
    scheduler.drop(c)
    assert not scheduler.busy
