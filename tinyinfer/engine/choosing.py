"""From the logits of a step to its new tokens: chosen where the backend computes, or on the host.

A backend with a device of its own chooses there (`Ops.sample`): a token and two numbers of each row come to the host in
one copy, and the logits, 197 KB a row for a vocabulary of 49,152, stay where they are. What needs more than a row of
logits is left to the host, for which those rows are copied: penalties, which need all tokens so far; log-probabilities;
what bars tokens (guided/bars.py); drafts that were drawn by themselves (verification=best-coupling). Either way the
same token is chosen.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import compress

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.model.interfaces import HOST, Ops, Sampled
from tinyinfer.sampling import Choice, choose, describe
from tinyinfer.sequence import Batch, Sequence
from tinyinfer.speculative.base import Drafter


def choose_tokens(
    logits: Array, sampled: Sampled, batch: Batch, drafter: Drafter, ops: Ops
) -> list[list[Choice]]:  # (R, V) ->
    """The new tokens of each span, its drafts verified; none for a chunk of a prompt, or for what has failed."""
    found: list[list[Choice]] = []
    tokens, stop, left = sampled.tokens.tolist(), 0, {}
    for n, span in enumerate(batch.spans):
        start, stop = stop, stop + span.wanted
        if span.seq.progress.error is not None:
            found.append([])
            continue
        own = tokens[start:stop]
        found.append(chosen(span.seq, own) if span.seq.drafts else [Choice(token) for token in own])
        if HOST in own or (span.seq.drafts and any(draft.probs is not None for draft in span.seq.drafts)):
            left[n] = slice(start, stop)
    for n, rows in zip(left, host_rows(logits, sampled, list(left.values()), ops), strict=True):
        found[n] = judged(batch.spans[n].seq, rows, drafter)
    return found


def living(batch: Batch, sampled: Sampled, lives: list[bool]) -> tuple[Batch, Sampled]:
    """The batch, and what was sampled, without the spans of sequences that have left it while it was computed.

    lives: of each span, whether its sequence still waits for the result.
    """
    if all(lives):
        return batch, sampled
    rows = np.repeat(lives, [span.wanted for span in batch.spans])  # (R,)
    left = None if sampled.rows is None else sampled.rows[rows]
    spans = tuple(compress(batch.spans, lives))
    return replace(batch, spans=spans), Sampled(sampled.tokens[rows], sampled.low[rows], sampled.high[rows], left)


def chosen(seq: Sequence, tokens: list[int]) -> list[Choice]:
    """The tokens after drafts, chosen as if all of them were accepted, up to the first that is not its draft."""
    pairs = enumerate(zip(tokens, seq.drafts, strict=False))
    right = next((n for n, (token, draft) in pairs if token != draft.token), len(seq.drafts))
    return [Choice(token) for token in tokens[: right + 1]]


def judged(seq: Sequence, rows: np.ndarray, drafter: Drafter) -> list[Choice]:  # (R, V) ->
    """The tokens that the host chooses from a span's rows, among those that nothing bars; none where all are barred."""
    left, good = seq.open(rows)  # (R, V)
    if not good:
        return []
    found = drafter.verify(left, seq) if seq.drafts else [choose(row, *seq.sampling) for row in left]
    if left is rows:
        return found
    params = seq.request.params  # log-probabilities are those before anything is barred
    return [describe(one.token, row, params) for one, row in zip(found[:good], rows, strict=False)]


def host_rows(logits: Array, sampled: Sampled, spans: list[slice], ops: Ops) -> list[np.ndarray]:  # (R, V) ->
    """The rows of those spans in the host's memory; one copy for all of them."""
    if not spans:
        return []
    if sampled.rows is not None:
        return [sampled.rows[span] for span in spans]
    numbers = [np.arange(span.start, span.stop) for span in spans]  # each (n,)
    rows = ops.to_host(ops.gather(logits, np.concatenate(numbers)))  # (rows of all these spans, V)
    return np.split(rows, np.cumsum([len(some) for some in numbers])[:-1])
