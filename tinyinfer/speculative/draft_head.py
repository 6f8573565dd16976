"""Drafts of a head (model/draft_head.py), which reads the target's KV cache.

The values of the newest computed position come out of any cache by its `read`, so a head needs no seam of its own.
Where the backend compiles it (`Ops.compile_head`), a draft is one plan of kernels.

Wins: a draft costs a few percent of a pass. Loses: it drafts only where the target's cache holds all tokens but the
newest.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Seq

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.kv_cache.base import Cache
from tinyinfer.model.draft_head import DraftHead
from tinyinfer.model.interfaces import Ops, Sampled
from tinyinfer.sampling import is_changed
from tinyinfer.sequence import Sequence, Wanted
from tinyinfer.speculative.base import DraftSettings, Target
from tinyinfer.speculative.draft_length import DraftLengths
from tinyinfer.speculative.drafting import Drafting


def values_at(cache: Cache, seq: Sequence, position: int, layers: Seq[int], ops: Ops) -> Array:  # -> (M,)
    """What the cache holds of a position as values, of these layers, one behind the other."""
    # Each is a copy, since a quantized cache unpacks all layers into the same memory.
    read = [cache.read(layer, seq, position, position + 1)[1].copy().reshape(-1) for layer in layers]  # (K·Ev,) each
    return ops.xp.concatenate(read)


class HeadDrafter(Drafting):
    """Proposes the tokens of a head."""

    def __init__(self, head: DraftHead, target: Target, ops: Ops, lengths: DraftLengths, c: DraftSettings) -> None:
        super().__init__(ops, lengths, head.head.weight.shape[0], target.model.config.vocab_size, c)
        self.head, self.target = head, target
        self.compiled = ops.compile_head(head, target.model.embedding)  # None: the backend runs `head` as it is
        self._states: dict[Sequence, Array] = {}  # of the drafts that are being proposed, (D,) each

    def count(self, seq: Sequence) -> int:
        """None where the target does not hold all tokens but the newest, so none right after a preemption."""
        n = self.lengths.of(seq, 1)
        return n if 0 < self.target.cache.length(seq) == len(seq.tokens) - 1 else 0

    def scores(self, sequences: list[Sequence], there: bool) -> tuple[Array, Sampled]:  # ->
        """The logits behind the newest token or draft of each sequence, (R, N)."""
        ops, xp, drafted = self.ops, self.ops.xp, sequences[0].drafts
        newest = np.array([seq.drafts[-1].token if drafted else seq.tokens[-1] for seq in sequences])  # (R,)
        positions = np.array([len(seq.tokens) + len(seq.drafts) - 1 for seq in sequences])  # (R,)
        with self.lengths.cost.draft_pass(len(sequences)), np.errstate(over="ignore", invalid="ignore"):
            before = xp.stack([self._states[seq] if drafted else self._values(seq) for seq in sequences])  # (R, ...)
            if self.compiled:
                state, logits = self.compiled.draft(before, newest, positions, not drafted)  # (R, D), (R, N)
            else:
                token = ops.embed(newest, positions, self.target.model.embedding)  # (R, D)
                state = (self.head.next if drafted else self.head.first)(before, token, ops)  # (R, D)
                logits = self.head.logits(state, ops)  # (R, N)
            self._states = dict(zip(sequences, state, strict=True))
            sample = (self.compiled if there and self.compiled else ops).sample
            return logits, sample(logits, [self._wanted(seq) for seq in sequences])

    def confidence(self, logits: np.ndarray, token: int, seq: Sequence) -> float | None:  # (N,) ->
        """The token's probability: a head has learned from a target's text how often the target says what it says.

        Not for text that is drawn, nor with penalties: there noise or earlier tokens decide as well, and the head knows
        both. And not for other draft models: a copy of the target in fewer bits is as unsure as the target, and yet
        mostly right.
        """
        if seq.request.params.temperature > 0 or is_changed(seq.request.params):
            return None
        return float(1 / np.exp(logits - logits[token]).sum())

    def free(self, seq: Sequence) -> None:
        """Forgets the sequence's state, too."""
        self._states.pop(seq, None)
        super().free(seq)

    def keep(self, sequences: Collection[Sequence]) -> None:
        """Forgets all states, too: a proposal may have been interrupted."""
        self._states = {}
        super().keep(sequences)

    def proposed(self, sequences: list[Sequence]) -> None:
        """Forgets the states: the target's next pass knows more."""
        self._states = {}

    def _values(self, seq: Sequence) -> Array:  # -> (M,)
        return values_at(self.target.cache, seq, len(seq.tokens) - 2, self.head.shape.layers, self.ops)

    @staticmethod
    def _wanted(seq: Sequence) -> Wanted:
        params, prompt, new, seed = seq.sampling
        return params, prompt, [*new, *(draft.token for draft in seq.drafts)], seed
