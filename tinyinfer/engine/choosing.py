"""From the logits of a step to its new tokens: chosen where the backend computes, or on the host.

A backend with a device of its own chooses there (`Ops.sample`): a token and two numbers of each row come to the host in
one copy, and the logits, 196 KB a row for a vocabulary of 49,152, stay where they are. What needs more than a row of
logits is left to the host, for which those rows are copied: penalties, which need all tokens so far; log-probabilities;
drafts that were drawn by themselves (verification=best-coupling). Either way the same token is chosen.
"""

from __future__ import annotations

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.model.interfaces import HOST, Ops, Sampled
from tinyinfer.sampling import Choice, choose
from tinyinfer.sequence import Batch, Sequence
from tinyinfer.speculative.base import Drafter


def choose_tokens(
    logits: Array, sampled: Sampled, batch: Batch, drafter: Drafter, ops: Ops
) -> list[list[Choice]]:  # (R, V) ->
    """The new tokens of each span, its drafts verified; none for a chunk of a prompt."""
    spans = batch.split(np.arange(len(sampled.tokens)))  # each with the numbers of its rows, (n,)
    left = [numbers for seq, numbers in spans if not is_chosen(seq, sampled.tokens[numbers])]
    rows = iter(host_rows(logits, sampled, left, ops))
    return [
        chosen(seq, sampled.tokens[numbers])
        if is_chosen(seq, sampled.tokens[numbers])
        else judged(seq, next(rows), drafter)
        for seq, numbers in spans
    ]


def is_chosen(seq: Sequence, tokens: np.ndarray) -> bool:  # (n,) ->
    """Whether the tokens after all n rows of a span were chosen by the backend."""
    return bool((tokens != HOST).all()) and all(draft.probs is None for draft in seq.drafts)


def chosen(seq: Sequence, tokens: np.ndarray) -> list[Choice]:  # (n,) ->
    """The tokens of n rows, chosen as if all drafts were accepted, up to the first one that is not its draft."""
    pairs = zip(tokens.tolist(), seq.drafts, strict=False)
    right = next((n for n, (token, draft) in enumerate(pairs) if token != draft.token), len(seq.drafts))
    return [Choice(token) for token in tokens[: right + 1].tolist()]


def judged(seq: Sequence, rows: np.ndarray, drafter: Drafter) -> list[Choice]:  # (R, V) ->
    """The tokens that the host chooses from a span's rows."""
    return drafter.verify(rows, seq) if seq.drafts else [choose(row, *seq.sampling) for row in rows]


def host_rows(logits: Array, sampled: Sampled, numbers: list[np.ndarray], ops: Ops) -> list[np.ndarray]:  # (R, V) ->
    """The rows of those numbers in the host's memory, for each span by itself; one copy for all of them."""
    if not numbers:
        return []
    if sampled.rows is not None:
        return [sampled.rows[some] for some in numbers]
    rows = ops.to_host(ops.gather(logits, np.concatenate(numbers)))  # (rows of all these spans, V)
    return np.split(rows, np.cumsum([len(some) for some in numbers])[:-1])
