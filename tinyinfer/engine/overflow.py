"""Overflow: numbers that are not finite end their request, with an error that names the layer where that began.

A damaged weight is finite and large: one flipped bit makes 1e36 of 0.02. Its products are infinite some layers later,
and infinity minus infinity is NaN, which every operation hands on. The largest of such logits is token 0, for ever. So
each row of logits is checked before a token is chosen, which takes less than a thousandth of SmolLM2's forward pass.
The rows of a prompt that have no logits are checked by their last values (`spoiled_spans`).

Where it began is looked for only after an overflow was found: the request is computed once more, alone, and each part
of the model is checked; where several processes have the model, all of them look. A norm can hide an overflow: the
square of 1e20 is infinite, and a number divided by infinity is 0. All logits are the same then, so such rows are looked
at, too.

Other requests of the step go on, and the step stands: nothing of a row reaches the rows of another request. Only one
that shares blocks which the bad one computes in that step overflows with it, or reads them later. Then the step is
rolled back: the error names the request whose own tokens overflow, and the others are computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate

import numpy as np

from tinyinfer.backends.overflow_search import PARTS, OverflowSearch, name_of
from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import NotFiniteError
from tinyinfer.kv_cache.base import Cache, CacheSpec, NoCache
from tinyinfer.ledger import Ledger
from tinyinfer.model.interfaces import Ops, Sampled
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.sequence import Batch, Sequence, Span, make_batch

PLAIN = {"dtype": "float32", "quantize": "off", "kv_bits": "off"}  # the values that round nothing
SAME = "logits are all the same"  # suspected only: a head of zeros does the same
IN_COMPANY = "only beside drafts or other requests, not in this request alone"
REASON = "the model's numbers overflow {part}, so that its {fault}"
DAMAGED = "its weights are damaged or were converted wrongly, so get its files again"


def cure_of(c: EngineConfig) -> str:
    """What to do about an overflow, as a template of NotFiniteError: what rounds numbers may be left out, too."""
    plain = [f"{{{name}}}={value}" for name, value in PLAIN.items() if getattr(c, name) != value]
    return f"{DAMAGED}, or try {' and '.join(plain)}" if plain else DAMAGED


def overflows(
    sampled: Sampled, batch: Batch, cache: Cache, model: Model, ops: Ops, cure: str
) -> dict[Sequence, NotFiniteError]:
    """The error of each sequence of the batch whose own tokens overflow.

    Raises NotFiniteError, and names such a sequence, where another one overflows beside it.
    """
    spoiled = spoiled_spans(batch, cache, model, ops)
    if not spoiled and ((-np.inf < sampled.low) & (sampled.low < sampled.high) & (sampled.high < np.inf)).all():
        return {}  # no NaN either: it is not smaller than anything
    alone: dict[Sequence, NotFiniteError] = {}
    beside: dict[Sequence, NotFiniteError] = {}
    for span, fault in suspects(sampled, batch, spoiled):
        if not fault or span.seq.owner in alone:
            continue
        part, seq = first_overflow(model, ops, span), span.seq.owner
        if part or fault != SAME:
            errors = alone if part else beside
            errors[seq] = NotFiniteError(REASON, cure, seq.id, part=part or IN_COMPANY, fault=fault)
    others = [error for seq, error in beside.items() if seq not in alone]
    if others and len(others) + len(alone) > 1:
        raise next(iter(alone.values()), others[0])
    return beside | alone


def suspects(sampled: Sampled, batch: Batch, spoiled: list[Span]) -> Iterator[tuple[Span, str]]:
    """Each span of the batch with what is wrong with its numbers, "" for nothing. spoiled: see spoiled_spans."""
    stops = list(accumulate(span.wanted for span in batch.spans))
    for span, stop in zip(batch.spans, stops, strict=True):
        low, high = (ends[stop - span.wanted : stop] for ends in (sampled.low, sampled.high))  # (n,), (n,): its n rows
        if not ((-np.inf < low) & (high < np.inf)).all():
            yield span, "logits are not finite"
        elif span in spoiled:
            yield span, "keys and values are not finite"
        else:
            yield span, "" if (low < high).all() else SAME


def spoiled_spans(batch: Batch, cache: Cache, model: Model, ops: Ops) -> list[Span]:
    """The spans with rows without logits whose values in the last layer are not finite.

    An overflow of any row in any earlier layer reaches those values. So nothing that is not finite is ever committed,
    and the prefix cache holds no such block. The host waits for the device once, for all spans.
    """
    spans = [span for span in batch.spans if span.rows > span.wanted and not span.seq.finished]
    if not spans:
        return []
    quiet, last = cache.counting(Ledger()), len(model.layers) - 1  # reads that are not the model's
    values = (quiet.read(last, span.seq, span.first, span.first + span.rows)[1] for span in spans)  # each (T, K, E)
    right = ops.to_host(ops.xp.stack([ops.xp.isfinite(v).all() for v in values]))  # (spans,)
    return [span for span, good in zip(spans, right, strict=True) if not good]


def first_overflow(model: Model, ops: Ops, span: Span) -> str:
    """Where the numbers of a span's sequence first overflow when it is computed alone, without drafts, up to the end of
    the span: "in layer 3's MLP"; "" for nowhere.

    Layers are counted from 0, as in the names of their weights.
    """
    seq, end = span.seq.owner, span.first + span.rows
    stop, search = min(len(seq.tokens), end), OverflowSearch(ops.counting(Ledger()))  # the model's counts not this work
    cache = NoCache(CacheSpec(model.config.memory, stop), search)
    whole = make_batch([(seq, 0, stop)], model.config.rotation_sets)
    batch = replace(whole, logit_rows=np.arange(end - span.wanted, stop))
    found = ops.search_together(batch)
    if found is not None:
        return found
    short = ""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            search.look_at(transformer(model, batch, cache, search))
    except MemoryError:
        short = "in a part that could not be looked for, since memory is short"
    return name_of(search.place, len(PARTS) * model.config.num_layers) or short
