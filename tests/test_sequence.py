"""Sequences and batches: flat rows, and which of them belong to which sequence."""

from __future__ import annotations

import numpy as np
from helpers import request
from hypothesis import given
from hypothesis import strategies as st

from tinyinfer.sequence import make_batch


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 8), st.integers(1, 9)), min_size=1, max_size=6))
def test_spans_and_logits_are_partitions_of_the_rows(pieces):
    """Each row belongs to one span and each row of logits to one sequence, in order: none lost, none twice.

    A piece of a prompt gets no logits, its end gets one row.
    """
    work = []
    for length, first, rows in pieces:
        first = min(first, length - 1)
        work.append((request(range(100, 100 + length)), first, min(rows, length - first)))
    batch = make_batch(work)
    assert [span.seq for span in batch.spans] == [seq for seq, _, _ in work]
    assert [0, *(span.stop for span in batch.spans)] == [*(span.start for span in batch.spans), len(batch)]
    for span, (seq, first, rows) in zip(batch.spans, work, strict=True):
        assert batch.tokens[span.start : span.stop].tolist() == seq.tokens[first : first + rows]
        assert batch.positions[span.start : span.stop].tolist() == list(range(first, first + rows))
    logits = np.arange(len(batch.logit_rows))[:, None]
    parts = batch.split(logits)
    assert np.concatenate([rows for _, rows in parts]).ravel().tolist() == logits.ravel().tolist()
    for (seq, rows), (owner, first, count) in zip(parts, work, strict=True):
        assert seq is owner
        assert len(rows) == (first + count == len(seq.tokens))
    assert len(batch.rotation_sets) == len(batch)
    assert not batch.rotation_sets.any()
