"""Speculative decoding: guess the next tokens cheaply, verify all guesses in one forward pass, keep what was right.

A decode step reads every weight to compute one row, and a few more rows with the same read are nearly free. So a
drafter proposes tokens, they ride along as further rows, and the logits of each row say whether the next guess stands
(Leviathan, Kalman & Matias 2023, algorithm 1; Chen et al. 2023). Greedy text is identical to plain decoding, and so is
sampled text while guesses are certain (probs None); guesses drawn from a draft model are kept with probability
min(1, p/q) and replaced by a draw from what q lacks of p otherwise, so that the distribution is exactly the target's.

Drafters: `prompt-lookup` copies what followed the same words before (Saxena 2023), `draft` asks a second, smaller
model, `self` the model's own first layers, or a copy in fewer bits. Wins: one sequence or few, memory-bound,
predictable text. Loses: guesses that are wrong cost their rows, and a draft model its own steps; in large batches no
arithmetic lies idle.
Several guesses at once (`rivals`) ride in branches of their sequence (batching.py), and the best branch stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.engine.config import EngineConfig
from tinyinfer.errors import SwitchError
from tinyinfer.kv_cache.base import Cache, CacheSpec
from tinyinfer.kv_cache.contiguous import ContiguousCache
from tinyinfer.model.transformer import Model, transformer
from tinyinfer.sampling import choose, distribution, draw, most_likely
from tinyinfer.sequence import Draft, Sequence, make_batch
from tinyinfer.speculative.draft_length import Lengths, most_guesses
from tinyinfer.speculative.verify import verify

if TYPE_CHECKING:
    from tinyinfer.model.interfaces import Ops

GUESS = 2  # the random stream that guesses are drawn from, beside those of plain decoding and of acceptance


# Verification.


# How many guesses.


# Drafters.


class ModelDrafter:
    """Asks a second model with the same vocabulary, which keeps its own cache.

    candidates: so many tokens are guessed for the next position, the likeliest of them with more behind it. Guesses
    that have rivals are never drawn, so that one path at most can be right.
    """

    def __init__(self, model: Model, cache: Cache, ops: Ops, lengths: Lengths, candidates: int = 1) -> None:
        self.model, self.cache, self.ops = model, cache, ops
        self.lengths, self.candidates = lengths, candidates

    verify = staticmethod(verify)

    def propose(self, sequences: list[Sequence]) -> None:
        """One token at a time, of all sequences together."""
        counts = {seq: self._count(seq) for seq in sequences if not seq.drafts}
        while asked := [seq for seq, n in counts.items() if len(seq.drafts) < n]:
            for seq, row in zip(asked, self._forward(asked), strict=True):
                seq.drafts.append(self._guess(row, seq))
                if len(seq.drafts) == 1:
                    seq.rivals = self._runners_up(row, seq.drafts[0].token)
        for seq in counts if self.candidates > 1 else ():  # a rival may be what stands
            self.cache.truncate(seq, min(self.cache.length(seq), len(seq.tokens)))

    def free(self, seq: Sequence) -> None:
        """Gives its cache back."""
        self.cache.free(seq)
        self.lengths.free(seq)

    def _count(self, seq: Sequence) -> int:
        """How many guesses to make; forgets those of the last step that were wrong."""
        self.cache.truncate(seq, min(self.cache.length(seq), len(seq.tokens) - 1))
        return min(self.lengths.of(seq), self.cache.capacity - len(seq.tokens))

    def _forward(self, sequences: list[Sequence]) -> np.ndarray:  # -> (R, V)
        """The draft model's logits after all tokens and guesses; it computes those that it has not seen yet."""
        work = []
        for seq in sequences:
            first = self.cache.length(seq)
            work.append((seq, first, len(seq.tokens) + len(seq.drafts) - first))
            self.cache.reserve(seq, work[-1][2])
        logits = transformer(self.model, make_batch(work), self.cache, self.ops)
        for seq, _, rows in work:
            self.cache.commit(seq, rows)
        return logits

    def _guess(self, logits: np.ndarray, seq: Sequence) -> Draft:  # (V,) ->
        """Its next token; greedy guesses are certain."""
        new = [*seq.new_tokens, *(draft.token for draft in seq.drafts)]
        if seq.params.temperature == 0.0:
            return Draft(choose(logits, seq.params, seq.prompt, new, seq.seed).token)
        q = distribution(logits, seq.params, seq.prompt, new)
        if self.candidates > 1:
            return Draft(int(q.argmax()))
        return Draft(draw(q, seq.seed, len(seq.prompt) + len(new), GUESS), q)

    def _runners_up(self, logits: np.ndarray, first: int) -> list[list[Draft]]:  # (V,) ->
        """The likeliest tokens beside `first`, each as a guess of its own."""
        best = most_likely(logits, self.candidates)
        return [[Draft(int(token))] for token in best if token != first][: self.candidates - 1]


def first_layers(model: Model, n: int) -> Model:
    """The model without its layers from n on, a cheap draft of itself (Elhoushi et al. 2024, LayerSkip, 4.3)."""
    c = model.config
    return replace(
        model,
        config=replace(c, num_layers=n, rope=c.rope[:n], windows=c.windows[:n]),
        layers=model.layers[:n],
    )


# Drafters by name: (target model, second model if any, operations, switches, longest sequence) -> Drafter.


def draft_model(model: Model, second: Model | None, ops: Ops, c: EngineConfig, capacity: int) -> ModelDrafter:
    """speculative=draft. Raises ValueError for a second model of another vocabulary."""
    assert second is not None
    if second.config.vocab_size != model.config.vocab_size:
        reason = (
            "{field} {value!r} has a vocabulary of {drafts} tokens and the model one of {own}, so its guesses mean "
            "something else"
        )
        sizes = {"drafts": second.config.vocab_size, "own": model.config.vocab_size}
        raise SwitchError("draft_model", c.draft_model, reason, "choose a smaller model of the same family", **sizes)
    longest = min(capacity, second.config.max_position)
    guess_cost = second.nbytes / model.nbytes
    cache = ContiguousCache(CacheSpec(second.config.memory, longest), ops)
    lengths = Lengths(most_guesses(c, 4), ops.relative_cost, guess_cost)
    return ModelDrafter(second, cache, ops, lengths, c.num_draft_candidates)


def self_draft(model: Model, second: Model | None, ops: Ops, c: EngineConfig, capacity: int) -> ModelDrafter:
    """speculative=self: fewer layers, fewer bits, or both. Raises ValueError for more layers than there are."""
    own = model.config.num_layers
    layers = c.draft_layers or (own if c.draft_quantize != "off" else max(1, own // 3))
    if layers > own:
        reason = "{field}={value} is more than the model's {own} layers"
        raise SwitchError("draft_layers", layers, reason, "choose a smaller number", own=own)
    cheaper = first_layers(model, layers)
    if c.draft_quantize != "off":
        from tinyinfer.quantization.apply import round_layers
        from tinyinfer.quantization.recipe import make_scheme

        scheme = make_scheme(c.draft_quantize, c.group_size, c.symmetric)
        assert scheme is not None, "the choices of draft_quantize are those of make_scheme"
        cheaper = round_layers(cheaper, scheme, ops)
    return draft_model(model, cheaper, ops, c, capacity)
