"""Drafts of a model: a second, smaller one (`draft`), the model's own first layers or a copy in fewer bits (`self`).

A second model has a KV cache of its own, which follows the accepted tokens; a draft of the target itself computes in
the target's cache (draft_cache.py). How its scores become drafts: drafting.py.

Wins: any text, where the small model agrees often and costs little. Loses: each draft is a forward pass of the small
model, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import CacheSpec
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.model.draft_head import DraftHead, no_fit
from tinyinfer.model.interfaces import Ops, Sampled
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.pruning.layers import keep_layers
from tinyinfer.sequence import Sequence, Wanted, make_batch
from tinyinfer.speculative.base import Costs, DraftCost, DraftSettings, Target
from tinyinfer.speculative.costs import MeasuredCosts
from tinyinfer.speculative.draft_cache import DraftCache, OwnCache, TargetCache
from tinyinfer.speculative.draft_head import HeadDrafter
from tinyinfer.speculative.draft_length import DraftLengths, most_drafts
from tinyinfer.speculative.drafting import Drafting


class ModelDrafter(Drafting):
    """Proposes the tokens of a second model with the same tokens, which may have more rows than the target, or fewer.

    held: where its keys and values lie.
    """

    def __init__(
        self, model: Model, held: DraftCache, ops: Ops, lengths: DraftLengths, vocab_size: int, c: DraftSettings
    ) -> None:
        super().__init__(ops, lengths, model.config.vocab_size, vocab_size, c)
        self.model, self.held, self.cache = model, held, held.cache
        self.compiled = ops.compile(model, held.cache)  # None: the backend runs `transformer` as it is

    def proposed(self, sequences: list[Sequence]) -> None:
        """The room of rejected drafts is free again."""
        self.held.leave(sequences)

    def free(self, seq: Sequence) -> None:
        """Frees what the draft model holds of the sequence, too."""
        self.held.free(seq)
        super().free(seq)

    def keep(self, sequences: Collection[Sequence]) -> None:
        """Frees all that the draft model holds, too."""
        self.held.clear()
        super().keep(sequences)

    def count(self, seq: Sequence) -> int:
        """How many drafts to propose; none while the draft model only computes a chunk of what it is behind."""
        known, behind = len(seq.tokens), self.held.behind(seq)
        n = self.held.make_room(seq, self.lengths.of(seq, behind))
        rows = self.lengths.cost.part(behind) if n > 0 else behind
        if rows == behind:
            return n
        with self._computing([(seq, known - behind, rows)]):
            return 0

    def scores(self, sequences: list[Sequence], there: bool) -> tuple[Array, Sampled]:  # ->
        """The logits of the draft model's next pass, (R, N), over what it has not computed yet."""
        work = []
        for seq in sequences:
            first = self.held.first(seq)
            work.append((seq, first, len(seq.tokens) + len(seq.drafts) - first))
        with self._computing(work) as (logits, wanted):
            return logits, (self.compiled if there and self.compiled else self.ops).sample(logits, wanted)

    @contextmanager
    def _computing(self, work: list[tuple[Sequence, int, int]]) -> Iterator[tuple[Array, list[Wanted]]]:  # ->
        """The draft model's logits, (R, N), of (sequence, first position, rows), timed until they have been used.

        The rows are committed at the end.
        """
        for seq, _, rows in work:
            self.held.reserve(seq, rows)
        batch = make_batch(work, self.cache.spec.sets)
        known = np.minimum(batch.tokens, self.model.config.vocab_size - 1)  # an id that the draft model lacks: its last
        with self.lengths.cost.draft_pass(len(batch)):
            with np.errstate(over="ignore", invalid="ignore"):
                batch = replace(batch, tokens=known)
                if self.compiled:
                    logits = self.compiled.forward(batch)
                else:
                    logits = transformer(self.model, batch, self.cache, self.ops)
            yield logits, batch.wanted
        for seq, _, rows in work:
            self.held.commit(seq, rows)


# Drafters by name: (target, second model if any, operations, switches, clock, cost) -> Drafter.


def draft_model(
    target: Target, second: Model | DraftHead | None, ops: Ops, c: DraftSettings, clock: Callable[[], float],
    cost: DraftCost | None,
) -> ModelDrafter | HeadDrafter:  # fmt: skip
    """Builds the drafter of speculative=draft. The tokens of both agree: LLM has compared them."""
    assert second is not None
    if isinstance(second, DraftHead):
        return head_drafter(second, target, ops, c, clock, cost)
    return drafter_of(second, own_cache(second, target, ops, c), target, ops, c, clock, cost)


def head_drafter(
    head: DraftHead, target: Target, ops: Ops, c: DraftSettings, clock: Callable[[], float], cost: DraftCost | None
) -> HeadDrafter:
    """The drafter of a head. Raises SwitchError for a target that it was not made for, or one that keeps nothing in its
    cache.
    """
    if how := head.shape.misfit(target.model.config):  # of a file the loader has said so; a target may be cut since
        raise no_fit(c.second_model, how)
    if not target.cache.can_chunk:
        reason = "{field}=none keeps no values, which the draft head reads"
        cure = "choose another {kv_cache}, or name a whole model with {draft_model}"
        raise SwitchError("kv_cache", "none", reason, cure)
    costs = cost or estimated_costs(head.nbytes / target.model.pass_nbytes, ops, c, clock)
    lengths = DraftLengths(most_drafts(c, 4), costs, target.model.config.rotation_sets)
    return HeadDrafter(head, target, ops, lengths, c)


def self_draft(
    target: Target, second: Model | DraftHead | None, ops: Ops, c: DraftSettings, clock: Callable[[], float],
    cost: DraftCost | None,
) -> ModelDrafter:  # fmt: skip
    """Builds the drafter of speculative=self: fewer layers, fewer bits, or both.

    Raises ValueError for more layers than the model has.
    """
    model = target.model
    total = model.config.num_layers
    layers = c.draft_layers or (total if c.draft_quantize != "off" else max(1, total // 3))
    if layers > total:
        reason = "{field}={value} is more than the model's {total} layers"
        raise SwitchError("draft_layers", layers, reason, "choose a smaller number", total=total)
    cheaper = keep_layers(model, range(layers))  # the first ones (Elhoushi et al. 2024, LayerSkip, 4.3)
    if c.draft_quantize != "off":
        from tinyinfer.quantization.apply import coarser_copy
        from tinyinfer.quantization.recipe import make_scheme

        scheme, head = (make_scheme(bits, c.group_size, c.symmetric) for bits in (c.draft_quantize, "int8"))
        assert scheme, "the choices of draft_quantize are those of make_scheme"
        assert head
        cheaper = coarser_copy(cheaper, scheme, head, ops)
    shared = shares_cache(target, ops, c)
    held = TargetCache(target.cache, target.prefixes) if shared else own_cache(cheaper, target, ops, c)
    return drafter_of(cheaper, held, target, ops, c, clock, cost)


def shares_cache(target: Target, ops: Ops, c: DraftSettings) -> bool:
    """Whether a draft of the target itself computes in the target's cache.

    Not where the cache keeps nothing between steps. Not with verification=best-coupling, where the text depends on the
    number of drafts, so that the room that others leave must not change it. And not beside the compiled steps of a GPU,
    which may run ahead of the drafts and would lose what they have written (backends/kernels/ahead.py).
    """
    fits = target.cache.can_chunk and c.verification != "best-coupling"
    return fits and (ops.xp is np or ops.compile(target.model, target.cache) is None)


def own_cache(model: Model, target: Target, ops: Ops, c: DraftSettings) -> OwnCache:
    """An empty cache of the draft model's own, for as long sequences as both models can have."""
    longest = min(target.cache.capacity, model.config.max_position)
    spec = CacheSpec(
        model.config.memory, longest, reserve_all=False, smaller="leave out {speculative}",
        sets=model.config.rotation_sets,
    )  # fmt: skip
    # Of several candidates another one than that of the cache may be accepted.
    return OwnCache(ContiguousCache(spec, ops), follows=c.num_draft_candidates == 1)


def drafter_of(
    model: Model, held: DraftCache, target: Target, ops: Ops, c: DraftSettings, clock: Callable[[], float],
    cost: DraftCost | None,
) -> ModelDrafter:  # fmt: skip
    """The drafter of a draft model, whose passes are estimated to take the share of its bytes."""
    costs = cost or estimated_costs(model.pass_nbytes / target.model.pass_nbytes, ops, c, clock)
    lengths = DraftLengths(most_drafts(c, 4), costs, target.model.config.rotation_sets)
    return ModelDrafter(model, held, ops, lengths, target.model.config.vocab_size, c)


def estimated_costs(share: float, ops: Ops, c: DraftSettings, clock: Callable[[], float]) -> Costs:
    """The costs of a draft model that takes this share of the target's time, as the sizes of the models say.

    With verification=best-coupling the text depends on the number of drafts, so time must not change it.
    """
    if c.verification == "best-coupling":
        return DraftCost(ops.relative_cost, share)
    return MeasuredCosts(clock, ops.ledger, ops.relative_cost, share, c.num_draft_candidates)
