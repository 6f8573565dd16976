"""Scoring: the log-probabilities of a prompt's own tokens, which tell how likely the model finds a given text.

Benchmarks of several choices compare such numbers (the log-likelihood of each choice behind a question; Brown et al.
2020, "Language Models are Few-Shot Learners", section 2.4), and OpenAI's `echo` with `logprobs` asks for them.

An ordinary step wants the logits of a prompt's last row alone. Here every row's are wanted, in float32 as large as the
vocabulary: 200 MB for 1,000 tokens of a vocabulary of 49,152. So the prompt is computed in pieces before its sequence
joins the batches, one piece between two steps of the others, and of each row only the numbers that were asked for stay.
Then the sequence joins, with all that was computed but the last token, which no one needs a score behind.

A scored prompt takes nothing out of the prefix cache: what is there are keys and values, and no logits. Wins: memory,
and callers beside it wait for a piece and not for a prompt. Loses: prompts are scored one after the other, so a batch
of short ones is slower than it could be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from tinyinfer.batching.branches import same_prompt
from tinyinfer.engine.engine import Engine
from tinyinfer.sampling import Choice, describe
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import Sequence

ROWS = 128  # of a piece: 25 MB of logits for a vocabulary of 49,152


class Scoring:
    """Sequences on their way into an engine. waiting: those to be scored first, each with the time its run began."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.waiting: deque[tuple[Sequence, float]] = deque()

    def add(self, seq: Sequence, begun: float) -> None:
        """Queues a sequence, here if its prompt is to be scored. Raises ValueError for one that could never fit."""
        if seq.request.params.prompt_logprobs is None:
            self.engine.add(seq, begun)
            return
        self.engine.scheduler.check_length(seq)
        if not any(seq is other for other, _ in self.waiting):
            self.waiting.append((seq, begun))

    @property
    def next(self) -> Sequence | None:
        """The sequence whose prompt is scored now."""
        return self.waiting[0][0] if self.waiting else None

    def step(self) -> None:
        """Scores a piece of the first prompt; behind the last piece its sequence joins the others, or has ended.

        Branches (n > 1) share the scores of the first one, which stands before them, and join with it: the prompt is
        computed for all of them. Done again after an interrupt, it is the same.
        """
        while self.waiting:
            seq, begun = self.waiting[0]
            start, left = len(seq.progress.scores), len(seq.prompt) - 1 - len(seq.progress.scores)
            if left > 0 and not seq.finished:
                self._score(seq, start, min(ROWS, left))
                if left > ROWS:
                    return
            if not seq.finished and seq.request.max_tokens:
                self.engine.add(seq, begun)
            elif not seq.finished:
                seq.end_unanswered()
            if seq.finished:
                self.engine.abort(seq)  # frees its positions
            self.waiting.popleft()
            if not self.waiting or not same_prompt(seq, self.waiting[0][0]):
                return

    def drop(self, sequences: Collection[Sequence]) -> None:
        """Forgets sequences that have ended."""
        self.waiting = deque(one for one in self.waiting if one[0] not in sequences)

    def _score(self, seq: Sequence, start: int, rows: int) -> None:
        """The scores of the tokens behind so many positions from `start` on."""
        scheduler = self.engine.scheduler
        if self.engine.cache.length(seq) > start:  # an interrupt came before they were recorded
            with scheduler.change():
                scheduler.release(seq)
        logits = self.engine.logits(seq, start, rows)  # (R, V)
        seq.record_scores(start, scores(logits, seq.prompt[start + 1 :], seq.request.params))
        seq.record_computed(start + rows)


def scores(logits: np.ndarray, following: list[int], params: SamplingParams) -> list[Choice]:  # (R, V) ->
    """The token behind each row, with its log-probability and those of the best; more rows than tokens are left out."""
    wanted = replace(params, logprobs=params.prompt_logprobs)
    return [describe(token, row, wanted) for row, token in zip(logits, following, strict=False)]
