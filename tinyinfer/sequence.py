"""A sequence, what it asked for and what it got so far; and a Batch, the flat rows that one step computes.

Two integers say all about a sequence's progress: how many tokens it has, and how many of them the cache holds
(`cache.length`); the difference is what is still to compute. Prefill is a difference of many, decode of one, and
guesses (`drafts`) are further rows behind it, which count for nothing until they are verified.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.sampling import Choice, SamplingParams
from tinyinfer.text.stop_strings import TextOutput


@dataclass(frozen=True)
class Draft:
    """A guessed token. probs: the distribution that it was drawn from, (V,); None when it was not drawn but certain."""

    token: int
    probs: Array | None = None


@dataclass(eq=False)
class Sequence:
    """One prompt and its continuation. Compared by identity: two requests may hold equal tokens."""

    id: int
    prompt: list[int]
    params: SamplingParams
    seed: int  # of its own random stream
    text: TextOutput  # turns tokens into text and watches for stop strings
    max_tokens: int  # params.max_tokens, clipped to what the context holds
    eos: frozenset[int]  # ids that end it
    delay: float = 0.0  # seconds after the beginning of its run at which it arrives
    arrival: float = 0.0  # seconds on the engine's clock: when it arrived
    started: float = 0.0  # when its first step began
    cached_tokens: int = 0  # prompt tokens that its first step found in the cache
    times: list[float] = field(default_factory=list)  # when each new token came
    choices: list[Choice] = field(default_factory=list)
    tokens: list[int] = field(init=False)
    seen: int = 0  # positions that have been through the model at least once
    preemptions: int = 0  # how often it had to give its cache back
    drafts: list[Draft] = field(default_factory=list)  # guesses to verify in its next step
    rivals: list[list[Draft]] = field(default_factory=list)  # other guesses, to verify beside them
    parent: Sequence | None = None  # of a branch, which verifies a rival
    proposed: int = 0  # guesses that were verified
    accepted: int = 0  # and those of them that were right
    finish_reason: str | None = None  # "stop", "length", "abort"

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def new_tokens(self) -> list[int]:
        """The generated tokens, the end token included when there was one."""
        return self.tokens[len(self.prompt) :]

    @property
    def age(self) -> tuple[float, int]:
        """Orders sequences by arrival, the oldest first."""
        return self.arrival, self.id

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None

    def append(self, choice: Choice, time: float) -> None:
        """One more token: records it and decides whether it was the last."""
        self.tokens.append(choice.token)
        self.choices.append(choice)
        self.times.append(time)
        if choice.token in self.eos or self.text.push(choice.token):
            self.finish_reason = "stop"
        elif len(self.choices) >= self.max_tokens:
            self.finish_reason = "length"
        if self.finished:
            self.text.finish()

    def branch(self, id: int, drafts: list[Draft]) -> Sequence:
        """The same sequence with other guesses, for one step; it shares everything but its cache."""
        other = copy(self)
        other.id, other.drafts, other.rivals, other.parent = id, drafts, [], self
        return other

    def abort(self) -> None:
        """Ends it from outside."""
        self.finish_reason = "abort"
        self.text.finish()


@dataclass(frozen=True)
class Span:
    """Rows start ... stop of a batch: consecutive tokens of one sequence, the first of them at position `first`.

    wanted: of how many of its last rows the logits are wanted. None for a piece of a prompt, one for its end and for
    decode, one more for every guess.
    """

    seq: Sequence
    start: int
    stop: int
    first: int
    wanted: int = 1

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start


@dataclass(frozen=True)
class Batch:
    """The rows of one forward pass: no padding, no batch axis. logit_rows: the rows whose logits are wanted."""

    tokens: Array  # (T,) int
    positions: Array  # (T,) int
    logit_rows: Array  # (R,) int
    spans: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def rotation_sets(self) -> Array:  # (T,) -> (T,)
        """Which set of a Rotation each row uses; every family of today has one."""
        return np.zeros(len(self), dtype=np.int64)

    def split(self, logits: Array) -> list[tuple[Sequence, Array]]:  # (R, V) ->
        """Each span's sequence and its rows of the logits; no rows for a piece of a prompt."""
        stops = list(accumulate(span.wanted for span in self.spans))
        return [(span.seq, logits[stop - span.wanted : stop]) for span, stop in zip(self.spans, stops, strict=True)]


def make_batch(work: list[tuple[Sequence, int, int]]) -> Batch:
    """The batch of each (sequence, first position, rows); logits from each one's last known token on."""
    tokens: list[int] = []
    positions: list[int] = []
    wanted: list[int] = []
    spans = []
    for seq, first, rows in work:
        start, stop = len(tokens), first + rows
        tokens += [*seq.tokens, *(draft.token for draft in seq.drafts)][first:stop]
        positions += range(first, stop)
        logits = 0 if seq.finished else max(0, stop - max(first, len(seq.tokens) - 1))
        wanted += range(len(tokens) - logits, len(tokens))
        spans.append(Span(seq, start, len(tokens), first, logits))
    return Batch(np.array(tokens), np.array(positions), np.array(wanted, dtype=np.int64), tuple(spans))
