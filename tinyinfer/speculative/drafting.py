"""How the drafts of a model are proposed: one token at a time for all sequences together, as the target would choose.

A draft is what the draft model would choose in the target's place: the largest of its scores with the same noise, so
that both often choose the same token (verify.py). With verification=best-coupling the draft is drawn by itself. Where
the scores come from is the subclasses' matter: a second model (draft_model.py), or a head that reads the target's
cache (draft_head.py).

Two models with one tokenizer may pad their embeddings to different sizes (Qwen2.5: 152064 and 151936 rows). Only ids
that both have are proposed; verification is right for every draft. A draft model whose numbers overflow proposes
nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.model.interfaces import HOST, Ops, Sampled
from tinyinfer.sampling import most_likely, perturbed
from tinyinfer.sequence import Draft, Sequence
from tinyinfer.speculative.base import DraftSettings
from tinyinfer.speculative.best_coupling import drawn
from tinyinfer.speculative.draft_length import DraftLengths, LearnedLengths


class Drafting(LearnedLengths, ABC):
    """Proposes tokens by the scores that a subclass computes.

    known: how many tokens have scores; vocab_size: the target's. c: num_draft_candidates tokens are proposed for the
    next position, and more tokens behind the best of them; verification: how a draft is chosen.
    """

    def __init__(self, ops: Ops, lengths: DraftLengths, known: int, vocab_size: int, c: DraftSettings) -> None:
        super().__init__(lengths)
        self.ops, self.known, self.vocab_size = ops, known, vocab_size
        self.candidates, self.best_coupling = c.num_draft_candidates, c.verification == "best-coupling"

    @abstractmethod
    def count(self, seq: Sequence) -> int:
        """How many drafts to propose for a sequence that has none."""

    @abstractmethod
    def scores(self, sequences: list[Sequence], there: bool) -> tuple[Array, Sampled]:
        """The logits after all tokens and drafts of each sequence, (R, N), and what the host gets of them.

        there: whether the drafts are chosen where the backend computes; else the logits must stay (Compiled).
        """

    def confidence(self, logits: np.ndarray, token: int, seq: Sequence) -> float | None:  # (N,) ->
        """With which probability a draft with these logits will be accepted; None where that is not known."""
        return None

    @abstractmethod
    def proposed(self, sequences: list[Sequence]) -> None:
        """Told when the drafts of these sequences are complete."""

    def propose(self, sequences: list[Sequence]) -> None:
        """Drafts one token at a time, for all sequences together."""
        with self.lengths.cost.proposing(len(sequences)):
            counts = {seq: self.count(seq) for seq in sequences if not seq.drafts}
            asked = [seq for seq, n in counts.items() if n > 0]
            while drafting := [seq for seq, n in counts.items() if len(seq.drafts) < n]:
                self._draft(drafting, counts)
            self.proposed(asked)

    def _draft(self, drafting: list[Sequence], counts: dict[Sequence, int]) -> None:
        """One more draft for each of these sequences; none at all where the draft model's numbers overflow."""
        there = self._chooses_there(drafting)
        logits, sampled = self.scores(drafting, there)
        there = there and bool((sampled.tokens != HOST).all())
        rows = None if there else self._on_host(logits, sampled)  # (R, V)
        seen = sampled.rows if there else rows  # None: the logits stay where the backend computes
        for n, seq in enumerate(drafting):
            if not np.isfinite(sampled.high[n]):  # NaN or infinity: the target model decides alone
                counts[seq] = 0
                continue
            draft, *others = [Draft(int(sampled.tokens[n]))] if rows is None else self._drafts(rows[n], seq)
            candidates = seq.speculation.candidates if seq.drafts else [[other] for other in others]
            if seen is not None and self.candidates == 1:
                draft = replace(draft, confidence=self.confidence(seen[n], draft.token, seq))
            seq.set_drafts([*seq.drafts, draft], candidates)
            if draft.confidence is not None:
                counts[seq] = self.lengths.after(seq, [one.confidence or 0.0 for one in seq.drafts])
                seq.set_drafts(seq.drafts[: counts[seq]])

    def _chooses_there(self, sequences: list[Sequence]) -> bool:
        """Whether tokens that the backend chooses can be the drafts: one for each sequence, of the target's ids."""
        one = self.candidates == 1 or all(seq.drafts for seq in sequences)
        coupled = not self.best_coupling or all(seq.request.params.temperature == 0.0 for seq in sequences)
        fits = self.known <= self.vocab_size
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
