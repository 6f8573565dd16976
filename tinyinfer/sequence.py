"""A Sequence is one prompt and its continuation; a Batch is the flat rows that one step computes.

Two integers describe the progress of a sequence: how many tokens it has, and how many of them the cache holds
(`cache.length`). The difference is what is still to compute: many tokens in prefill, one in decode. Drafts are further
rows behind the last token; a draft is no token of the sequence until it is verified.

A sequence keeps four records: its RequestSpec (what was asked), its Progress (what was computed), its Timing (when),
and its Speculation (drafts). Only the methods of Sequence write them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tinyinfer.arrays import Array
from tinyinfer.errors import GrammarError, RequestError
from tinyinfer.guided.bars import Bars, Open
from tinyinfer.rotation_sets import ONE_SET, RotationSets
from tinyinfer.sampling import Choice, SamplingParams
from tinyinfer.text.stop_strings import TextOutput

# What a token is chosen by, beside its logits: the parameters, the prompt, the new tokens and the noise's seed.
Wanted = tuple[SamplingParams, list[int], list[int], int]


@dataclass(frozen=True)
class Draft:
    """A proposed token. probs: with verification=best-coupling, the distribution that it was drawn from, (V,).

    confidence: the probability that it is accepted if those before it are, where the drafter knows it.
    """

    token: int
    probs: Array | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class RequestSpec:
    """What was asked: a prompt, how to continue it, and where to end."""

    id: int
    prompt: list[int]
    params: SamplingParams
    seed: int  # of the request's own noise (noise.py)
    max_tokens: int  # params.max_tokens, clipped to what the context holds
    eos: frozenset[int]  # token ids that end the text
    delay: float = 0.0  # seconds after the beginning of its run at which the request arrives
    group: int | None = None  # of one of several branches of a prompt: the id of the first of them
    branch: int = 0  # its number among them
    new_bars: Callable[[], Bars] = Bars  # makes what bars the tokens of an answer without tokens


@dataclass
class Progress:
    """The part of a sequence that changes: what was computed so far, and why the continuation ended."""

    tokens: list[int]  # the prompt's and the generated ones
    scores: list[Choice] = field(default_factory=list)  # the prompt's tokens but the first, where they are asked for
    choices: list[Choice] = field(default_factory=list)  # one for each generated token
    computed: int = 0  # positions that went through the model at least once
    cached_tokens: int = 0  # prompt tokens that the first step found in the prefix cache
    preemptions: int = 0
    finish_reason: str | None = None  # "stop", "length", "abort"
    error: RequestError | None = None  # why no token can follow; `extend` ends the continuation with it


@dataclass
class Timing:
    """When the request arrived, started and got its tokens, in seconds on the engine's clock."""

    arrival: float = 0.0
    started: float = 0.0  # the beginning of the first step
    times: list[float] = field(default_factory=list)  # of each generated token


@dataclass
class Speculation:
    """The drafts of a sequence, and how many of its drafts were accepted so far.

    candidates: alternatives to `drafts`, verified in the same step. parent: of a candidate, the sequence that it was
    proposed for.
    """

    drafts: list[Draft] = field(default_factory=list)
    candidates: list[list[Draft]] = field(default_factory=list)
    parent: Sequence | None = None
    proposed: int = 0
    accepted: int = 0


class Sequence:
    """One prompt and its continuation. Compared by identity: two sequences may hold equal tokens.

    text: turns tokens into text and looks for stop strings. new_text: makes such a text without tokens. bars: which
    tokens may come next. scores: of the prompt, shared by its branches.
    """

    def __init__(
        self, request: RequestSpec, new_text: Callable[[], TextOutput], scores: list[Choice] | None = None
    ) -> None:
        self.request, self.new_text = request, new_text
        self.id = request.id  # an attribute and no property: a step asks for it twenty times
        self.text, self.bars = new_text(), request.new_bars()
        self.progress = Progress(list(request.prompt), [] if scores is None else scores)
        self.timing = Timing()
        self.speculation = Speculation()

    # Short names for what every folder asks for.

    @property
    def prompt(self) -> list[int]:
        return self.request.prompt

    @property
    def tokens(self) -> list[int]:
        """The prompt's tokens and the generated ones."""
        return self.progress.tokens

    @property
    def new_tokens(self) -> list[int]:
        """The generated tokens, the end token included when there was one."""
        return self.tokens[len(self.prompt) :]

    @property
    def most_positions(self) -> int:
        """How many positions the sequence can come to: the prompt and the longest answer."""
        return len(self.prompt) + self.request.max_tokens

    @property
    def drafts(self) -> list[Draft]:
        """The drafts that the next step verifies."""
        return self.speculation.drafts

    @property
    def finished(self) -> bool:
        """Whether the continuation has ended."""
        return self.progress.finish_reason is not None

    @property
    def age(self) -> tuple[float, int]:
        """Orders sequences by arrival, the oldest first."""
        return self.timing.arrival, self.id

    @property
    def owner(self) -> Sequence:
        """The sequence itself; of a draft candidate, the sequence that it was proposed for."""
        return self.speculation.parent or self

    @property
    def sampling(self) -> Wanted:
        """What `choose` needs beside the logits."""
        return self.request.params, self.prompt, self.new_tokens, self.request.seed

    def open(self, logits: np.ndarray) -> Open:  # (R, V) ->
        """The rows of its newest token and of its drafts, with all tokens barred that may not come there.

        None of them is good where no token may come next: progress.error says why, and the others of the step go on.
        """
        try:
            return self.bars.over(logits, len(self.new_tokens), [one.token for one in self.drafts], self.owner.id)
        except GrammarError as error:
            self.progress.error = error
            return Open(logits, 0)

    # Before a step.

    def another_branch(self, id: int, branch: int) -> Sequence:
        """A further continuation of the same prompt, with noise of its own: that of the seed behind."""
        asked = replace(self.request, id=id, branch=branch, seed=(self.request.seed + branch) % 2**64)
        return Sequence(asked, self.new_text, self.progress.scores)

    def delay_by(self, seconds: float) -> None:
        """Lets the request arrive so many seconds after the beginning of its run."""
        self.request = replace(self.request, delay=seconds)

    def arrive(self, begun: float) -> None:
        """Sets the time of arrival, in a run that began at `begun`."""
        self.timing.arrival = begun + self.request.delay

    def start(self, now: float, cached: int) -> None:
        """Records an admission, with `cached` tokens found in the prefix cache. Only the first admission counts."""
        if not (self.progress.preemptions or self.progress.choices):
            self.timing.started, self.progress.cached_tokens = now, cached

    def record_preemption(self) -> None:
        """Counts a preemption. The drafts stay: with verification=best-coupling, other drafts would change the text."""
        self.progress.preemptions += 1

    def set_drafts(self, drafts: Iterable[Draft], candidates: Iterable[list[Draft]] = ()) -> None:
        """Replaces the drafts to verify next, and the alternatives to them."""
        self.speculation.drafts, self.speculation.candidates = list(drafts), list(candidates)

    def candidate(self, id: int, drafts: list[Draft]) -> Sequence:
        """A sequence that verifies other drafts for one step, and shares all records but the request and the drafts."""
        other = copy(self)
        other.request, other.id = replace(self.request, id=id), id  # the cache knows sequences by their id
        other.speculation = Speculation(drafts, parent=self)
        return other

    # After a step.

    def append(self, choice: Choice, time: float) -> None:
        """Records one more token and decides whether it is the last one."""
        self.timing.times.append(time)
        self.progress.tokens.append(choice.token)
        reason = self._read(choice.token, len(self.progress.choices) + 1, self.text, self.bars)
        self.progress.choices.append(choice)  # from here on the token counts: `repair` makes all else follow
        self.progress.finish_reason = reason
        if self.finished:
            self.text.finish()

    def extend(self, choices: Collection[Choice], time: float) -> int:
        """Appends tokens up to the end of the continuation; how many were appended. No drafts are left behind them.

        A continuation behind which no token can follow (progress.error) ends.
        """
        if choices:
            self.set_drafts([])
        for n, choice in enumerate(choices):
            if self.finished:
                return n
            self.append(choice, time)
        if self.progress.error is not None and not self.finished:
            self.abort()
        return len(choices)

    def record_computed(self, stop: int) -> None:
        """Records that the model has computed all positions below `stop`."""
        self.progress.computed = max(self.progress.computed, stop)

    def record_scores(self, start: int, scores: list[Choice]) -> None:
        """Records the prompt's tokens behind the positions from `start` on, with their log-probabilities."""
        self.progress.scores[start:] = scores

    def record_verification(self, proposed: int, accepted: int) -> None:
        """Counts verified drafts and the accepted ones among them."""
        self.speculation.proposed += proposed
        self.speculation.accepted += accepted

    def end_unanswered(self) -> None:
        """Ends a continuation of no tokens: only the prompt's scores were asked for."""
        self.progress.finish_reason = "length"
        self.text.finish()

    def abort(self) -> None:
        """Ends the continuation from outside."""
        self.progress.finish_reason = "abort"
        self.text.finish()

    def fail(self, error: RequestError) -> None:
        """Ends the continuation with an error; the others of its step go on."""
        self.progress.error = error
        self.abort()

    def repair(self) -> None:
        """After an interrupt, maybe inside `append` or `abort`: all that follows from the choices is derived anew."""
        if not (self.timing.times or self.finished):
            return  # nothing was written
        progress, text, bars = self.progress, self.new_text(), self.bars.restarted()
        del self.timing.times[len(progress.choices) :]
        progress.tokens[len(self.prompt) :] = [choice.token for choice in progress.choices]
        reason = None
        for n, token in enumerate(self.new_tokens, 1):
            reason = self._read(token, n, text, bars)
        if progress.finish_reason == "abort":
            reason = "abort"
        if reason:
            text.finish()
        self.text, self.bars, progress.finish_reason = text, bars, reason

    def _read(self, token: int, n: int, text: TextOutput, bars: Bars) -> str | None:
        """Adds the n-th new token to a text; why the continuation ends with it, None when it goes on."""
        bars.follow(token)
        if token in self.request.eos or text.push(token) or bars.complete:
            return "stop"
        return "length" if n >= self.request.max_tokens else None


class Span(NamedTuple):
    """Rows start ... stop of a batch, stop not included: consecutive tokens of one sequence from position `first` on.

    wanted: the logits of so many of its last rows are wanted: 0 for a chunk of a prompt, 1 for a prompt's end and for
    decode, one more for every draft. rotation_set: which set of the model's rotary frequencies these rows get.
    """

    seq: Sequence
    start: int
    stop: int
    first: int
    wanted: int = 1
    rotation_set: int = 0

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Batch:
    """The rows of one forward pass: no padding, no batch axis.

    logit_rows: the rows whose logits are wanted. scored: whether they are wanted as they are, and no token is chosen.
    """

    tokens: Array  # (T,) int
    positions: Array  # (T,) int
    logit_rows: Array  # (R,) int
    spans: tuple[Span, ...]
    scored: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def rotation_sets(self) -> Array:
        """Which set of the rotary frequencies each row uses, (T,) int."""
        pairs = [(span.rotation_set, span.rows) for span in self.spans]
        sets, rows = np.array(pairs, np.int64).reshape(-1, 2).T  # (spans,), (spans,); of an idle step (0,), (0,)
        return np.repeat(sets, rows)

    @property
    def wanted(self) -> list[Wanted]:
        """What the token after each row of the logits is chosen by, as if all drafts before it were accepted."""
        found: list[Wanted] = []
        for span in () if self.scored else self.spans:
            if span.wanted == 1 and not span.seq.drafts:
                found.append(span.seq.sampling)
                continue
            params, prompt, new, seed = span.seq.sampling
            drafts = [draft.token for draft in span.seq.drafts]
            last = span.first + span.rows - len(span.seq.tokens)  # how many drafts stand before the span's last row
            found += [(params, prompt, new + drafts[:n], seed) for n in range(last + 1 - span.wanted, last + 1)]
        return found


def make_batch(work: Iterable[tuple[Sequence, int, int]], sets: RotationSets = ONE_SET) -> Batch:
    """The batch of each (sequence, first position, rows), with logits from the sequence's last known token on.

    sets: which of the model's rotations the rows of a sequence get.
    """
    tokens: list[int] = []
    positions: list[int] = []
    wanted: list[int] = []
    spans = []
    for seq, first, rows in work:
        start, stop, known = len(tokens), first + rows, seq.tokens
        tokens += known[first:stop]
        if stop > len(known):
            tokens += [draft.token for draft in seq.drafts[max(0, first - len(known)) : stop - len(known)]]
        positions += range(first, stop)
        logits = 0 if seq.finished else max(0, stop - max(first, len(known) - 1))
        wanted += range(len(tokens) - logits, len(tokens))
        spans.append(Span(seq, start, len(tokens), first, logits, sets.of(len(known))))
    flat = [np.array(numbers, dtype=np.int64) for numbers in (tokens, positions, wanted)]  # (T,), (T,), (R,)
    return Batch(flat[0], flat[1], flat[2], tuple(spans))
