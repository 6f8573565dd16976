"""Drafts of a model: a second, smaller one (`draft`), the model's own first layers or a copy in fewer bits (`self`).

A second model has a KV cache of its own, which follows the accepted tokens; a draft of the target itself computes in
the target's cache (draft_cache.py). A draft is what the draft model would choose in the target's place: the largest of
its scores with the same noise, so that both often choose the same token (verify.py). With verification=best-coupling
the draft is drawn by itself.

Two models with one tokenizer may pad their embeddings to different sizes (Qwen2.5: 152064 and 151936 rows). Only ids
that both have are proposed; verification is right for every draft. A draft model whose numbers overflow proposes
nothing.

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
from tinyinfer.model.interfaces import HOST, Ops, Sampled
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.pruning.layers import keep_layers
from tinyinfer.sampling import most_likely, perturbed
from tinyinfer.sequence import Batch, Draft, Sequence, Wanted, make_batch
from tinyinfer.speculative.base import Costs, DraftCost, DraftSettings, Target
from tinyinfer.speculative.best_coupling import drawn
from tinyinfer.speculative.costs import MeasuredCosts
from tinyinfer.speculative.draft_cache import DraftCache, OwnCache, TargetCache
from tinyinfer.speculative.draft_length import DraftLengths, most_drafts
from tinyinfer.speculative.verify import verify


class ModelDrafter:
    """Proposes the tokens of a second model with the same tokens.

    vocab_size: the target's rows, of which the second model may have more or fewer. c: num_draft_candidates tokens are
    proposed for the next position, and more tokens behind the best of them; verification: how a draft is chosen.
    """

    def __init__(
        self, model: Model, held: DraftCache, ops: Ops, lengths: DraftLengths, vocab_size: int, c: DraftSettings
    ) -> None:
        self.model, self.held, self.cache, self.ops = model, held, held.cache, ops
        self.compiled = ops.compile(model, held.cache)  # None: the backend runs `transformer` as it is
        self.lengths, self.vocab_size = lengths, vocab_size
        self.candidates, self.best_coupling = c.num_draft_candidates, c.verification == "best-coupling"

    verify = staticmethod(verify)

    def propose(self, sequences: list[Sequence]) -> None:
        """Drafts one token at a time, for all sequences together in one forward pass."""
        with self.lengths.cost.proposing(len(sequences)):
            counts = {seq: self._count(seq) for seq in sequences if not seq.drafts}
            asked = [seq for seq, n in counts.items() if n > 0]
            while drafting := [seq for seq, n in counts.items() if len(seq.drafts) < n]:
                self._draft(drafting, counts)
            self.held.leave(asked)

    def _draft(self, drafting: list[Sequence], counts: dict[Sequence, int]) -> None:
        """One more draft for each of these sequences; none at all where the draft model's numbers overflow."""
        there = self._chooses_there(drafting)
        logits, sampled = self._forward(drafting, there)
        there = there and bool((sampled.tokens != HOST).all())
        rows = None if there else self._on_host(logits, sampled)  # (R, V)
        for n, seq in enumerate(drafting):
            if not np.isfinite(sampled.high[n]):  # NaN or infinity: the target model decides alone
                counts[seq] = 0
                continue
            draft, *others = [Draft(int(sampled.tokens[n]))] if rows is None else self._drafts(rows[n], seq)
            candidates = seq.speculation.candidates if seq.drafts else [[other] for other in others]
            seq.set_drafts([*seq.drafts, draft], candidates)

    def observe(self, batch: Batch) -> None:
        """Learns from the time of a step."""
        self.lengths.cost.observe(batch)

    def free(self, seq: Sequence) -> None:
        """Frees what the draft model holds of the sequence."""
        self.held.free(seq)
        self.lengths.free(seq)

    def keep(self, sequences: Collection[Sequence]) -> None:
        """Frees all that the draft model holds, and drops the draft lengths of all other sequences."""
        self.held.clear()
        self.lengths.keep(sequences)

    def _count(self, seq: Sequence) -> int:
        """How many drafts to propose; none while the draft model only computes a chunk of what it is behind."""
        known, behind = len(seq.tokens), self.held.behind(seq)
        n = self.held.make_room(seq, self.lengths.of(seq, behind))
        rows = self.lengths.cost.part(behind) if n > 0 else behind
        if rows == behind:
            return n
        with self._computing([(seq, known - behind, rows)]):
            return 0

    def _forward(self, sequences: list[Sequence], there: bool) -> tuple[Array, Sampled]:  # ->
        """The draft model's logits after all tokens and drafts, (R, N), and what the host gets of them.

        there: whether the drafts are chosen where the backend computes; else the logits must stay (Compiled).
        """
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

    def _chooses_there(self, sequences: list[Sequence]) -> bool:
        """Whether tokens that the backend chooses can be the drafts: one for each sequence, of the target's ids."""
        one = self.candidates == 1 or all(seq.drafts for seq in sequences)
        coupled = not self.best_coupling or all(seq.request.params.temperature == 0.0 for seq in sequences)
        fits = self.model.config.vocab_size <= self.vocab_size
        return one and coupled and fits

    def _on_host(self, logits: Array, sampled: Sampled) -> np.ndarray:  # (R, N) -> (R, V)
        """The logits in the host's memory, over the target's vocabulary."""
        rows = self.ops.to_host(logits) if sampled.rows is None else sampled.rows  # (R, N)
        return over_vocabulary(rows, self.vocab_size)

    def _drafts(self, logits: np.ndarray, seq: Sequence) -> list[Draft]:  # (V,) ->
        """The draft model's next token, and at the first position its runners-up, as many as there are candidates."""
        params, prompt, new, seed = seq.sampling
        new = [*new, *(draft.token for draft in seq.drafts)]
        if self.best_coupling and params.temperature > 0.0:
            return [drawn(logits, params, prompt, new, seed)]
        s = perturbed(logits, params, prompt, new, seed)  # (V,)
        first, *others = most_likely(s, 1 if seq.drafts else self.candidates)
        return [Draft(int(first)), *(Draft(int(token)) for token in others if s[token] > -np.inf)]


def over_vocabulary(logits: np.ndarray, size: int) -> np.ndarray:  # (R, N) -> (R, V)
    """The draft model's logits over the target's vocabulary: rows that only one of them has are never proposed."""
    lacking = size - logits.shape[1]
    return np.pad(logits, ((0, 0), (0, lacking)), constant_values=-np.inf) if lacking > 0 else logits[:, :size]


# Drafters by name: (target, second model if any, operations, switches, clock, cost) -> Drafter.


def draft_model(
    target: Target, second: Model | None, ops: Ops, c: DraftSettings, clock: Callable[[], float],
    cost: DraftCost | None,
) -> ModelDrafter:  # fmt: skip
    """Builds the drafter of speculative=draft. The two models' tokens agree: LLM has compared their tokenizers."""
    assert second is not None
    return drafter_of(second, own_cache(second, target, ops, c), target, ops, c, clock, cost)


def self_draft(
    target: Target, second: Model | None, ops: Ops, c: DraftSettings, clock: Callable[[], float],
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
