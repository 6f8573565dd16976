"""Drafts of a model: a second, smaller one (`draft`), the model's own first layers or a copy in fewer bits (`self`).

The draft model has its own KV cache, which follows the accepted tokens: before it proposes, the cache is cut back to
the tokens that the sequence really has, and what is missing is computed. A draft is what the draft model would choose
in the target's place: the largest of its scores with the same noise, so that both often choose the same token
(verify.py). With verification=best-coupling the draft is drawn by itself. (First layers: Elhoushi et al. 2024, 4.3.)

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
from tinyinfer.kv_cache.base import Cache, CacheSpec
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.model.interfaces import HOST, Ops, Sampled
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.sampling import most_likely, perturbed
from tinyinfer.sequence import Batch, Draft, Sequence, Wanted, make_batch
from tinyinfer.speculative.base import Costs, DraftCost, DraftSettings
from tinyinfer.speculative.best_coupling import drawn
from tinyinfer.speculative.costs import MeasuredCosts
from tinyinfer.speculative.draft_length import DraftLengths, most_drafts
from tinyinfer.speculative.verify import verify


class ModelDrafter:
    """Proposes the tokens of a second model with the same tokens.

    vocab_size: the target's rows, of which the second model may have more or fewer. c: num_draft_candidates tokens are
    proposed for the next position, and more tokens behind the best of them; verification: how a draft is chosen.
    """

    def __init__(
        self, model: Model, cache: Cache, ops: Ops, lengths: DraftLengths, vocab_size: int, c: DraftSettings
    ) -> None:
        self.model, self.cache, self.ops = model, cache, ops
        self.compiled = ops.compile(model, cache)  # None: the backend runs `transformer` as it is
        self.lengths, self.vocab_size = lengths, vocab_size
        self.candidates, self.best_coupling = c.num_draft_candidates, c.verification == "best-coupling"

    verify = staticmethod(verify)

    def propose(self, sequences: list[Sequence]) -> None:
        """Drafts one token at a time, for all sequences together in one forward pass."""
        with self.lengths.cost.proposing(len(sequences)):
            counts = {seq: self._count(seq) for seq in sequences if not seq.drafts}
            while drafting := [seq for seq, n in counts.items() if len(seq.drafts) < n]:
                self._draft(drafting, counts)
        for seq in counts if self.candidates > 1 else ():  # another candidate than the cached one may be accepted
            self.cache.truncate(seq, min(self.cache.length(seq), len(seq.tokens)))

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
        """Frees the draft model's cache of the sequence."""
        self.cache.free(seq)
        self.lengths.free(seq)

    def keep(self, sequences: Collection[Sequence]) -> None:
        """Frees the draft model's cache, and drops the draft lengths of all other sequences."""
        self.cache.clear()
        self.lengths.keep(sequences)

    def _count(self, seq: Sequence) -> int:
        """How many drafts to propose, after the rejected drafts of the last step are cut off the cache.

        The draft model may have a boundary of its own (rotation_sets.py), which its drafts do not cross. Only before it
        was timed does it compute chunks; else its cache holds more positions than the boundary as soon as its keys are
        those of a long sequence. A chunk in front of the boundary is computed again.
        """
        held, known, sets = self.cache.length(seq), len(seq.tokens), self.cache.spec.sets
        self.cache.truncate(seq, min(held, known - 1) if sets.of(held) == sets.of(known) else 0)
        behind = known - self.cache.length(seq)
        n = int(min(self.lengths.of(seq, behind), self.cache.capacity - known, sets.most_drafts(known)))
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
            first = self.cache.length(seq)
            work.append((seq, first, len(seq.tokens) + len(seq.drafts) - first))
        with self._computing(work) as (logits, wanted):
            return logits, (self.compiled if there and self.compiled else self.ops).sample(logits, wanted)

    @contextmanager
    def _computing(self, work: list[tuple[Sequence, int, int]]) -> Iterator[tuple[Array, list[Wanted]]]:  # ->
        """The draft model's logits, (R, N), of (sequence, first position, rows), timed until they have been used.

        The rows are committed at the end.
        """
        for seq, _, rows in work:
            self.cache.reserve(seq, rows)
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
            self.cache.commit(seq, rows)

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


def first_layers(model: Model, n: int) -> Model:
    """The model without its layers from n on, a cheap draft of itself (Elhoushi et al. 2024, LayerSkip, 4.3)."""
    c = model.config
    return replace(
        model,
        config=replace(c, num_layers=n, rope=c.rope[:n], windows=c.windows[:n]),
        layers=model.layers[:n],
    )


# Drafters by name: (target model, second model if any, operations, switches, longest sequence, clock, cost) -> Drafter.


def draft_model(
    model: Model, second: Model | None, ops: Ops, c: DraftSettings, capacity: int, clock: Callable[[], float],
    cost: DraftCost | None,
) -> ModelDrafter:  # fmt: skip
    """Builds the drafter of speculative=draft. The two models' tokens agree: LLM has compared their tokenizers."""
    assert second is not None
    longest = min(capacity, second.config.max_position)
    spec = CacheSpec(
        second.config.memory, longest, reserve_all=False, smaller="leave out {speculative}",
        sets=second.config.rotation_sets,
    )  # fmt: skip
    costs = cost or estimated_costs(second.nbytes / model.nbytes, ops, c, clock)
    lengths = DraftLengths(most_drafts(c, 4), costs, model.config.rotation_sets)
    return ModelDrafter(second, ContiguousCache(spec, ops), ops, lengths, model.config.vocab_size, c)


def estimated_costs(share: float, ops: Ops, c: DraftSettings, clock: Callable[[], float]) -> Costs:
    """The costs of a draft model that takes this share of the target's time, as the sizes of the models say.

    With verification=best-coupling the text depends on the number of drafts, so time must not change it.
    """
    if c.verification == "best-coupling":
        return DraftCost(ops.relative_cost, share)
    return MeasuredCosts(clock, ops.ledger, ops.relative_cost, share, c.num_draft_candidates)


def self_draft(
    model: Model, second: Model | None, ops: Ops, c: DraftSettings, capacity: int, clock: Callable[[], float],
    cost: DraftCost | None,
) -> ModelDrafter:  # fmt: skip
    """Builds the drafter of speculative=self: fewer layers, fewer bits, or both.

    Raises ValueError for more layers than the model has.
    """
    total = model.config.num_layers
    layers = c.draft_layers or (total if c.draft_quantize != "off" else max(1, total // 3))
    if layers > total:
        reason = "{field}={value} is more than the model's {total} layers"
        raise SwitchError("draft_layers", layers, reason, "choose a smaller number", total=total)
    cheaper = first_layers(model, layers)
    if c.draft_quantize != "off":
        from tinyinfer.quantization.apply import round_layers
        from tinyinfer.quantization.recipe import make_scheme

        scheme = make_scheme(c.draft_quantize, c.group_size, c.symmetric)
        assert scheme is not None, "the choices of draft_quantize are those of make_scheme"
        cheaper = round_layers(cheaper, scheme, ops)
    return draft_model(model, cheaper, ops, c, capacity, clock, cost)
