"""A grammar without a library, for engines without a tokenizer: each token is one, two or five more than the last one.

It is strict: a token that it did not allow, or more taken back than followed, is an error of the test. A fault stays
until the tokens that led there are taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from helpers import Words

from tinyinfer.guided.bars import Allowed, Bars
from tinyinfer.sampling_params import SamplingParams
from tinyinfer.sequence import RequestSpec
from tinyinfer.sequence import Sequence as Request
from tinyinfer.text.stop_strings import TextOutput

IDS = count(5000)
STEPS = (1, 2, 5)


class Steps:
    """The tokens so far. size: of the vocabulary without padding; an answer has from `least` to `most` tokens.

    fails_at: how many tokens lead to a state that the grammar cannot be followed from.
    """

    def __init__(self, size: int, first: int, least: int = 0, most: int = 1000, fails_at: int = -1) -> None:
        self.size, self.first, self.least, self.most, self.fails_at = size, first, least, most, fails_at
        self.tokens: list[int] = []

    @property
    def fault(self) -> str:
        return "too large" if 0 <= self.fails_at <= len(self.tokens) else ""

    def allowed(self) -> Allowed:
        marks = np.zeros(self.size, bool)
        last = (self.tokens or [self.first])[-1]
        if len(self.tokens) < self.most and not self.fault:
            marks[[(last + step) % self.size for step in STEPS]] = True
        return Allowed(marks, len(self.tokens) >= self.least or bool(self.fault))  # of a fault nothing is said

    def follow(self, token: int) -> None:
        assert self.allowed().tokens[token], f"{token} is not allowed behind {self.tokens}"
        self.tokens.append(token)

    def take_back(self, n: int) -> None:
        assert n <= len(self.tokens)
        del self.tokens[len(self.tokens) - n :]

    def restarted(self) -> Steps:
        return Steps(self.size, self.first, self.least, self.most, self.fails_at)


def new_text() -> TextOutput:
    """A text that travels by its name."""
    return TextOutput(Words())


def new_bars(size: int, prompt: list[int], params: SamplingParams, ends: frozenset[int], **limits: int) -> Bars:
    """What bars the tokens of such a request; it travels by its name, too."""
    steps = Steps(size, prompt[-1] % size, **limits) if limits else None
    return Bars(ends, params.min_tokens, tuple(dict(params.logit_bias).items()), steps)


def guided(
    prompt: Sequence[int], max_tokens: int, size: int, eos: Sequence[int] = (), limits: dict[str, int] | None = None,
    **params: Any,
) -> Request:  # fmt: skip
    """A sequence whose answer follows Steps (none without limits); greedy unless told otherwise."""
    given, ends = SamplingParams(max_tokens=max_tokens, regex="any", **params), frozenset(eos)
    bars = partial(new_bars, size, list(prompt), given, ends, **(limits or {}))
    spec = RequestSpec(next(IDS), list(prompt), given, given.seed or 0, max_tokens, ends, new_bars=bars)
    return Request(spec, new_text)


def in_step(seq: Request) -> bool:
    """Whether the matcher stands where the sequence does."""
    matcher = seq.bars.matcher
    assert isinstance(matcher, Steps)
    return matcher.tokens == [token for token in seq.new_tokens if token not in seq.request.eos]
