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

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.batching import make_batch
from tinyinfer.config import EngineConfig
from tinyinfer.kv_cache import Cache, ContiguousCache
from tinyinfer.sampling import Choice, choose, describe, distribution, draw, most_likely, uniform
from tinyinfer.sequence import Draft, Sequence
from tinyinfer.transformer import Model, transformer

if TYPE_CHECKING:
    from tinyinfer.backends.numpy_ops import NumpyOps

ACCEPT, GUESS = 1, 2  # random streams beside the one that plain decoding draws from


# Verification.


def verify(logits: np.ndarray, seq: Sequence) -> list[Choice]:  # (R, V) ->
    """The next tokens of a sequence: its guesses as far as they stand, and one more after them.

    Row i holds the logits after the first i guesses. Penalties and filters see the guesses before it as if they had
    come one at a time.
    """
    new, choices = seq.new_tokens, []
    for row, draft in zip(logits, [*seq.drafts, None][: len(logits)], strict=True):
        choice = judge(row, draft, seq, new)
        choices.append(choice)
        if draft is None or choice.token != draft.token:
            break
        new.append(choice.token)
    return choices


def judge(logits: np.ndarray, draft: Draft | None, seq: Sequence, new: list[int]) -> Choice:  # (V,) ->
    """The token after `new`: the draft's if it stands."""
    if draft is None or draft.probs is None:
        return choose(logits, seq.params, seq.prompt, new, seq.seed)
    p = distribution(logits, seq.params, seq.prompt, new)
    token = accept_or_replace(p, draft.probs, draft.token, seq.seed, len(seq.prompt) + len(new))
    return describe(token, logits, seq.params)


def accept_or_replace(
    p: np.ndarray, q: np.ndarray, token: int, seed: int, position: int
) -> int:  # (V,), (V,) ->
    """A token drawn from q becomes one from p: kept with probability min(1, p/q), else drawn from max(p - q, 0)."""
    if uniform(seed, position, ACCEPT) * q[token] < p[token]:
        return token
    lacking = np.maximum(p - q, 0)
    return draw(lacking if lacking.any() else p, seed, position)  # nothing is lacking when p and q differ by rounding


# How many guesses.


@dataclass
class DraftLength:
    """How many guesses to make: as many as bring the most tokens per cost, by how often this sequence's guesses stood.

    With k guesses, each standing with probability a, a step brings (1 - a^(k+1)) / (1 - a) tokens (Leviathan et al.,
    equation 1). It costs `cost(1 + k)` forward passes of one row, plus `guess_cost` for each guess. Only the sequence's
    own past counts, never its neighbours, so that its text does not depend on them.
    """

    most: int
    cost: Callable[[int], float]
    guess_cost: float = 0.0
    rate: float = 0.8  # a, at first

    def best(self) -> int:
        """The number of guesses; 0 when none pays."""
        return max(range(self.most + 1), key=lambda k: self.tokens(k) / (self.cost(1 + k) + k * self.guess_cost))

    def tokens(self, k: int) -> float:
        """How many tokens k guesses bring, one without any guess included."""
        return sum(self.rate**i for i in range(k + 1))

    def learn(self, proposed: int, accepted: int) -> None:
        """Counts the guesses up to the first wrong one; after a step without any, confidence slowly returns."""
        if not proposed:
            self.rate += 0.02 * (0.8 - self.rate)
        for i in range(min(accepted + 1, proposed)):
            self.rate += 0.1 * ((i < accepted) - self.rate)


@dataclass
class Asked:
    """When a sequence last got guesses: how long it was, how many of its guesses had been verified, how many stood."""

    length: DraftLength
    tokens: int
    proposed: int
    accepted: int


class Lengths:
    """The DraftLength of every sequence."""

    def __init__(self, most: int, cost: Callable[[int], float], guess_cost: float = 0.0) -> None:
        self.most, self.cost, self.guess_cost = most, cost, guess_cost
        self._known: dict[int, Asked] = {}

    def of(self, seq: Sequence) -> int:
        """How many guesses to make now, after learning from what became of the last ones.

        Asked again before the sequence went on (it had no turn, or was preempted), the answer is the same.
        """
        asked = self._known.get(seq.id)
        if asked is None:
            length = DraftLength(self.most, self.cost, self.guess_cost)
        else:
            length = asked.length
            if len(seq.tokens) > asked.tokens:
                length.learn(seq.proposed - asked.proposed, seq.accepted - asked.accepted)
        self._known[seq.id] = Asked(length, len(seq.tokens), seq.proposed, seq.accepted)
        return min(length.best(), seq.max_tokens - len(seq.new_tokens) - 1)

    def free(self, seq: Sequence) -> None:
        """Forgets a sequence."""
        if seq.finished:  # a preempted one goes on where it was
            self._known.pop(seq.id, None)


# Drafters.


class PromptLookup:
    """Copies what followed the last time that the newest tokens stood together (Saxena 2023).

    candidates: how many such places, with different tokens behind them, are copied from side by side.
    """

    def __init__(self, lengths: Lengths, candidates: int = 1, longest: int = 3) -> None:
        self.lengths, self.candidates, self.longest = lengths, candidates, longest

    verify = staticmethod(verify)

    def propose(self, sequences: list[Sequence]) -> None:
        """Guesses without a model: they cost nothing but the rows that verify them."""
        for seq in sequences:
            if not seq.drafts:
                found = self.lookup(seq.tokens, self.lengths.of(seq))
                guesses = [[Draft(token) for token in tokens] for tokens in found]
                seq.drafts, seq.rivals = (guesses[0], guesses[1:]) if guesses else ([], [])

    def lookup(self, tokens: list[int], n: int) -> list[list[int]]:
        """The n tokens behind earlier places of the longest ending found, the latest first, then of shorter endings.

        An ending has at most `longest` tokens. No two results begin with the same token: of such, one is enough.
        """
        text, found = np.array(tokens), dict[int, list[int]]()
        for size in range(min(self.longest, len(tokens) - 1), 0, -1):
            starts = np.lib.stride_tricks.sliding_window_view(text[:-1], size)
            for place in np.flatnonzero((starts == text[-size:]).all(axis=1))[::-1]:
                begin = int(place) + size
                if n > 0 and len(found) < self.candidates:
                    found.setdefault(tokens[begin], tokens[begin : begin + n])
        return list(found.values())

    def free(self, seq: Sequence) -> None:
        """Forgets it."""
        self.lengths.free(seq)


class ModelDrafter:
    """Asks a second model with the same vocabulary, which keeps its own cache.

    candidates: so many tokens are guessed for the next position, the likeliest of them with more behind it. Guesses
    that have rivals are never drawn, so that one path at most can be right.
    """

    def __init__(self, model: Model, cache: Cache, ops: NumpyOps, lengths: Lengths, candidates: int = 1) -> None:
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


def prompt_lookup(model: Model, second: Model | None, ops: NumpyOps, c: EngineConfig, capacity: int) -> PromptLookup:
    """speculative=prompt-lookup."""
    return PromptLookup(Lengths(most_guesses(c, 7), ops.relative_cost), c.num_draft_candidates)


def draft_model(model: Model, second: Model | None, ops: NumpyOps, c: EngineConfig, capacity: int) -> ModelDrafter:
    """speculative=draft. Raises ValueError for a second model of another vocabulary."""
    assert second is not None
    if second.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"draft_model {c.draft_model!r} has a vocabulary of {second.config.vocab_size} tokens and the model one of "
            f"{model.config.vocab_size}, so its guesses mean something else; choose a smaller model of the same family"
        )
    longest = min(capacity, second.config.max_position)
    guess_cost = second.nbytes / model.nbytes
    cache = ContiguousCache(second.config, longest, ops)
    lengths = Lengths(most_guesses(c, 4), ops.relative_cost, guess_cost)
    return ModelDrafter(second, cache, ops, lengths, c.num_draft_candidates)


def self_draft(model: Model, second: Model | None, ops: NumpyOps, c: EngineConfig, capacity: int) -> ModelDrafter:
    """speculative=self: fewer layers, fewer bits, or both. Raises ValueError for more layers than there are."""
    own = model.config.num_layers
    layers = c.draft_layers or (own if c.draft_quantize != "off" else max(1, own // 3))
    if layers > own:
        raise ValueError(f"draft_layers={layers} is more than the model's {own} layers; choose a smaller number")
    cheaper = first_layers(model, layers)
    if c.draft_quantize != "off":
        from tinyinfer.quantization.apply import round_layers

        cheaper = round_layers(cheaper, c, ops)
    return draft_model(model, cheaper, ops, c, capacity)


def most_guesses(c: EngineConfig, default: int) -> int:
    """How many guesses a step has room for."""
    return min(c.num_draft_tokens or default, c.max_num_batched_tokens - 1)
