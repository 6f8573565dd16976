"""Sequences and batches: what is recorded, by which methods alone, and the flat rows that a step computes."""

from __future__ import annotations

import ast
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from helpers import request
from hypothesis import given
from hypothesis import strategies as st
from interrupts import Interrupt

import tinyinfer
from tinyinfer import sequence
from tinyinfer.rotation_sets import RotationSets
from tinyinfer.sampling import Choice
from tinyinfer.sequence import Batch, Draft, Span, make_batch
from tinyinfer.text import stop_strings

# Records


def test_a_request_arrives_after_its_delay():
    """Counted from the beginning of its run; catches a delay taken for a moment of the clock."""
    seq = request([1, 2], delay=3.0)
    seq.arrive(100.0)
    assert seq.timing.arrival == 103.0
    seq.delay_by(5.0)
    seq.arrive(100.0)
    assert (seq.timing.arrival, seq.age) == (105.0, (105.0, seq.id))


def test_only_the_first_admission_counts():
    """After a preemption the request has started long ago, and what the cache has then is its own doing."""
    seq = request([1, 2, 3])
    seq.start(2.0, cached=1)
    seq.record_preemption()
    seq.start(7.0, cached=2)
    assert (seq.timing.started, seq.progress.cached_tokens, seq.progress.preemptions) == (2.0, 1, 1)


def test_a_continuation_takes_no_tokens_behind_its_end():
    """By an end token, by the number of tokens and by a stop string. Catches choices counted that were dropped."""
    found = []
    for ends in ({"eos": [7]}, {"max_tokens": 2}, {"stop": " 7 "}):
        seq = request([1, 2], **{"max_tokens": 9} | ends)
        found.append((seq.extend([Choice(8), Choice(7), Choice(6)], 4.0), seq.new_tokens, seq.timing.times))
        assert seq.extend([Choice(5)], 5.0) == 0
    assert found == [(2, [8, 7], [4.0, 4.0])] * 3


def said(seq):
    """What a sequence says of its new tokens."""
    return seq.new_tokens, seq.timing.times, seq.text.text, seq.progress.finish_reason


@pytest.mark.parametrize("ends", [{}, {"eos": [7]}, {"max_tokens": 2}, {"stop": "7 "}, {"stop": "7 9"}], ids=str)
@pytest.mark.parametrize("abort", [False, True])
def test_an_interrupted_token_counts_once_or_not_at_all(ends, abort):
    """At every line of `append`, in text and end, too; the choices decide. Catches half a token, a text pushed twice.
    """
    whole = []  # what a sequence says after no, one and two tokens
    for count in range(3):
        seq = request([1, 2], **ends)
        seq.extend([Choice(8), Choice(7)][:count], 1.0)
        if abort and not seq.finished:
            seq.abort()
        whole.append(said(seq))
    found, at, where = set(), 0, "begun"
    while where:
        at, seq = at + 1, request([1, 2], **ends)
        interrupt = Interrupt(at, files=(sequence.__file__, stop_strings.__file__))
        with suppress(KeyboardInterrupt), interrupt:
            seq.extend([Choice(8), Choice(7)], 1.0)
            if abort and not seq.finished:
                seq.abort()
        where, had = interrupt.where, len(seq.progress.choices)
        seq.repair()
        if abort and not seq.finished:
            seq.abort()
        assert said(seq) == whole[had]
        found.add(had)
    assert found == {0, 1, 2}


def test_a_token_that_the_text_refuses_does_not_count():
    """An error of the tokenizer ends this sequence's step. Catches a repair that meets the same error for ever."""
    seq = request([1, 2])
    seq.extend([Choice(8)], 1.0)
    seq.text.push = None
    with pytest.raises(TypeError):
        seq.append(Choice(9), 2.0)
    seq.repair()
    assert said(seq) == ([8], [1.0], "8 ", None)


def test_verified_drafts_are_counted_and_gone():
    """Drafts and the alternatives to them; catches drafts that are verified twice."""
    seq = request([1, 2])
    seq.set_drafts([Draft(3), Draft(4)], [[Draft(5)]])
    seq.extend([Choice(3), Choice(6)], 1.0)
    seq.record_verification(2, 1)
    seq.record_verification(3, 0)
    kept = seq.speculation
    assert (kept.proposed, kept.accepted, kept.drafts, kept.candidates) == (5, 1, [], [])


def test_a_candidate_shares_everything_but_its_id_and_its_drafts():
    """What is appended to its owner is the candidate's, too. Catches a copy of the tokens, drafts of the owner lost."""
    seq = request([1, 2])
    seq.set_drafts([Draft(3)], [[Draft(5)]])
    candidate = seq.candidate(-1, [Draft(5)])
    seq.append(Choice(9), 1.0)
    assert (candidate.tokens, candidate.timing.times) == ([1, 2, 9], [1.0])
    assert (candidate.id, candidate.owner, seq.owner) == (-1, seq, seq)
    assert ([draft.token for draft in seq.drafts], [draft.token for draft in candidate.drafts]) == ([3], [5])


RECORDS = {"request", "progress", "timing", "speculation"}
WRITERS = {"append", "extend", "insert", "remove", "pop", "clear", "update", "sort"}


def test_only_the_methods_of_sequence_write_its_records():
    """No other file sets a field of a record, or changes a list in it."""
    package = Path(tinyinfer.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    found = {path.name: written(ast.parse(source)) for path, source in sources.items()}
    assert {name for name, targets in found.items() if targets} == {"sequence.py"}
    assert len(found["sequence.py"]) > 10


def written(tree: ast.Module) -> list[str]:
    """What a file assigns or changes in place that is a record of a sequence, or lies in one, or has a short name."""
    short = {"tokens", "new_tokens", "drafts", "prompt"}
    targets = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITERS:
            target = node.func.value
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            target = node
        else:
            continue
        parts = [part for part in ast.walk(target) if isinstance(part, ast.Attribute)]
        named = [part for part in parts if part.attr in RECORDS]
        named += [part for part in parts if part.attr in short and ast.unparse(part.value).endswith("seq")]
        targets += [ast.unparse(target)] * bool(named)
    return targets


# Batches


def test_a_batch_is_flat_and_asks_for_the_last_row_of_each_sequence():
    """Catches: positions that count from the batch's start, logits of a sequence's first row."""
    a, b = request([5, 6, 7, 8]), request([9, 10])
    batch = make_batch([(a, 1, 3), (b, 0, 2)])
    assert batch.tokens.tolist() == [6, 7, 8, 9, 10]
    assert batch.positions.tolist() == [1, 2, 3, 0, 1]
    assert batch.logit_rows.tolist() == [2, 4]
    assert [(span.seq, span.start, span.stop, span.first) for span in batch.spans] == [(a, 0, 3, 1), (b, 3, 5, 0)]
    assert [span.wanted for span in batch.spans] == [1, 1]
    assert len(batch) == 5
    assert batch.tokens.dtype == batch.positions.dtype == batch.logit_rows.dtype == np.int64


def test_a_chunk_of_a_prompt_wants_no_logits_and_its_end_does():
    """Catches: a token chosen in the middle of a prompt, which the sequence would take for its first new one."""
    a, b = request([5, 6, 7, 8]), request([9, 10, 11])
    batch = make_batch([(a, 0, 3), (b, 1, 2)])
    assert (batch.tokens.tolist(), batch.logit_rows.tolist()) == ([5, 6, 7, 10, 11], [4])
    assert [span.wanted for span in batch.spans] == [0, 1]
    assert make_batch([(a, 0, 3)]).logit_rows.tolist() == []


def test_drafts_are_rows_behind_the_last_token_and_all_their_logits_are_wanted():
    """The last known token's row verifies the first draft, and so on; catches drafts counted as known tokens."""
    a, b = request([5, 6, 7]), request([1, 2])
    a.set_drafts([Draft(20), Draft(21)])
    batch = make_batch([(b, 0, 2), (a, 2, 3)])
    assert batch.tokens.tolist() == [1, 2, 7, 20, 21]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4]
    assert batch.logit_rows.tolist() == [1, 2, 3, 4]
    assert [span.wanted for span in batch.spans] == [1, 3]
    assert a.tokens == [5, 6, 7], "drafts are no tokens yet"


def test_padding_is_a_row_that_wants_nothing():
    """A finished sequence of a static batch; catches logits computed for it, and a token that it would get."""
    a, b = request([5, 6]), request([1, 2])
    a.abort()
    batch = make_batch([(a, 1, 1), (b, 1, 1)])
    assert (batch.tokens.tolist(), batch.logit_rows.tolist()) == ([6, 2], [1])
    assert [span.wanted for span in batch.spans] == [0, 1]


def test_a_batch_of_nothing_is_still_a_batch():
    """A step without rows must not fail on the types of empty arrays."""
    batch = make_batch([])
    assert (len(batch), batch.spans) == (0, ())
    assert batch.tokens.dtype == batch.positions.dtype == batch.logit_rows.dtype == np.int64


def test_each_row_names_its_rotation_set():
    """One number a row, by its span; none for no rows. Catches a set for each span, and numbers that are floats."""
    a, b = request([5, 6, 7, 8]), request([9, 10])
    batch = make_batch([(a, 1, 3), (b, 0, 2)])
    assert batch.rotation_sets.tolist() == [0] * 5
    spans = (Span(a, 0, 3, 1, rotation_set=2), Span(b, 3, 5, 0, rotation_set=1))
    long = Batch(batch.tokens, batch.positions, batch.logit_rows, spans)
    assert long.rotation_sets.tolist() == [2, 2, 2, 1, 1]
    assert long.rotation_sets.dtype == make_batch([]).rotation_sets.dtype == np.int64
    assert make_batch([]).rotation_sets.shape == (0,)


def test_the_known_tokens_of_a_sequence_choose_its_set():
    """Whatever part of them the batch computes. Catches a set by the rows, by positions, or with drafts as tokens."""
    long, short = request([5, 6, 7, 8]), request([9, 10, 11])
    short.set_drafts([Draft(20), Draft(21)])
    batch = make_batch([(long, 0, 2), (short, 2, 3)], RotationSets(3))
    assert [span.rotation_set for span in batch.spans] == [1, 0]


def test_each_span_says_how_many_logits_it_wants():
    """Of its last known token and of each draft; a chunk of a prompt wants none."""
    a, b, c = request([5, 6, 7, 8]), request([9, 10]), request([1])
    b.set_drafts([Draft(20)])
    batch = make_batch([(a, 0, 3), (b, 1, 2), (c, 0, 1)])
    assert [(span.seq, span.wanted) for span in batch.spans] == [(a, 0), (b, 2), (c, 1)]
    assert batch.logit_rows.tolist() == [3, 4, 5]


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
    for span, (seq, first, count) in zip(batch.spans, work, strict=True):
        assert span.wanted == (first + count == len(seq.tokens))
    assert batch.logit_rows.tolist() == [span.stop - 1 for span in batch.spans if span.wanted]
