"""Overflow: numbers that are not finite end their request, with an error that names the layer where that began.

A damaged weight is finite and large: one flipped bit makes 1e36 of 0.02. Its products are infinite some layers later,
and infinity minus infinity is NaN, which every operation hands on. The largest of such logits is token 0, for ever. So
each row of logits is checked before a token is chosen, which takes less than a thousandth of SmolLM2's forward pass.
The rows of a prompt that have no logits are checked by their last values (`values_are_finite`).

Where it began is looked for only after an overflow was found: the request is computed once more, alone, and each part
of the model is checked. A norm can hide an overflow: the square of 1e20 is infinite, and a number divided by infinity
is 0. All logits are the same then, so such rows are looked at, too.

Other requests of the step go on: nothing of a row reaches the rows of another request, unless it shares their blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.backends.delegate import DelegatingOps
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import NotFiniteError
from tinyinfer.kv_cache.base import Cache, CacheSpec, NoCache
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import Ops
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.model.weights import Embedding
from tinyinfer.sequence import Batch, Sequence, Span, make_batch

PARTS = "attention", "MLP"  # of a layer, in the order in which each adds its change
PLAIN = {"dtype": "float32", "quantize": "off", "kv_bits": "off"}  # the values that round nothing
SAME = "logits are all the same"  # suspected only: a head of zeros does the same
IN_COMPANY = "only beside drafts or other requests, not in this request alone"
REASON = "the model's numbers overflow {part}, so that its {fault}"
DAMAGED = "its weights are damaged or were converted wrongly, so get its files again"


def cure_of(c: EngineConfig) -> str:
    """What to do about an overflow, as a template of NotFiniteError: what rounds numbers may be left out, too."""
    plain = [f"{{{name}}}={value}" for name, value in PLAIN.items() if getattr(c, name) != value]
    return f"{DAMAGED}, or try {' and '.join(plain)}" if plain else DAMAGED


def check_finite(
    logits: np.ndarray, batch: Batch, cache: Cache, model: Model, ops: Ops, cure: str
) -> None:  # (R, V) ->
    """Raises NotFiniteError for a sequence of the batch whose numbers overflow, the one whose own tokens do so."""
    faults = [(span.seq.owner, fault) for span, fault in suspects(logits, batch, cache, model, ops) if fault]
    alone = ((seq, fault, first_overflow(model, ops, seq)) for seq, fault in faults)
    beside = ((seq, fault, IN_COMPANY) for seq, fault in faults if fault != SAME)
    for seq, fault, part in chain((found for found in alone if found[2]), beside):
        raise NotFiniteError(REASON, cure, seq.id, part=part, fault=fault)


def suspects(
    logits: np.ndarray, batch: Batch, cache: Cache, model: Model, ops: Ops
) -> Iterator[tuple[Span, str]]:  # (R, V) ->
    """Each span of the batch with what is wrong with its numbers, "" for nothing."""
    for span, (seq, rows) in zip(batch.spans, batch.split(logits), strict=True):
        low, high = rows.min(axis=1), rows.max(axis=1)  # (n,), (n,), for the span's n rows of logits; NaN for NaN
        if not ((-np.inf < low) & (high < np.inf)).all():
            yield span, "logits are not finite"
        elif span.rows > span.wanted and not seq.finished and not values_are_finite(span, cache, model, ops):
            yield span, "keys and values are not finite"  # of a prompt's rows, which have no logits
        else:
            yield span, "" if (low < high).all() else SAME


def values_are_finite(span: Span, cache: Cache, model: Model, ops: Ops) -> bool:
    """Whether the last layer's values of a span are finite: an overflow of any row, in any earlier layer, reaches them.

    So nothing that is not finite is ever committed, and the prefix cache has no such block.
    """
    stop, unseen = span.first + span.rows, cache.counting(Ledger())  # this is no work of the model's
    _, v = unseen.read(len(model.layers) - 1, span.seq, span.first, stop)  # (T, K, E)
    return bool(ops.xp.isfinite(v).all())


def first_overflow(model: Model, ops: Ops, seq: Sequence) -> str:
    """Where the numbers of a sequence first overflow when it is computed alone: "in layer 3's MLP"; "" for nowhere.

    Layers are counted from 0, as in the names of their weights.
    """
    search = OverflowSearch(ops)
    cache = NoCache(CacheSpec(model.config.memory, len(seq.tokens)), search)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            logits = search.to_host(transformer(model, make_batch([(seq, 0, len(seq.tokens))]), cache, search))
    except MemoryError:
        return search.place or "in a part that could not be looked for, since memory is short"
    return search.place or ("" if np.isfinite(logits).all() else "in the output head")


class OverflowSearch(DelegatingOps):
    """Wraps a backend. place: the first part of the model that gave a number whose square is not finite.

    The next norm squares every number. A layer adds the change of its attention, then that of its MLP.
    """

    def __init__(self, ops: Ops) -> None:
        super().__init__(ops.counting(Ledger()))  # the ledger of the model does not count this work
        self.place, self.changes = "", 0

    def embed(self, tokens: Array, positions: Array, embedding: Embedding) -> Array:  # (T,), (T,) -> (T, D)
        return self._checked(self.inner.embed(tokens, positions, embedding), "in the embedding")

    def add(self, x: Array, change: Array) -> Array:  # (T, D), (T, D) -> (T, D)
        layer, part = divmod(self.changes, len(PARTS))
        self.changes += 1
        return self._checked(self.inner.add(x, change), f"in layer {layer}'s {PARTS[part]}")

    def _checked(self, x: Array, place: str) -> Array:  # (T, D) -> (T, D)
        if not self.place and not self.xp.isfinite((x * x).sum(axis=-1)).all():
            self.place = place
        return x
