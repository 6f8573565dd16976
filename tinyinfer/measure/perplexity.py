"""Perplexity: how surprised a model is by a text, and so what an optimization that changes numbers has cost.

The mean negative log-likelihood of the text's tokens, exponentiated: a model of perplexity 20 is as uncertain of each
token as of a fair die with 20 sides (Jelinek et al. 1977). Quantization is judged by it (fewer bytes for how much more
perplexity?), a lossless optimization must not move it.

Tokens see only what precedes them in their own window, the first ones next to nothing, so perplexity falls as
windows grow, and only figures of the same text, tokenizer and window can be compared. Windows share one token: the last
of one is the first of the next, so that every token but the first of all is scored once.

A model whose training texts all began with a beginning token expects one: attention that has nothing to look at goes
there (Xiao et al. 2023, attention sinks), and without the token Gemma's perplexity is several times too high. So the
beginning token stands before each window, and the same tokens are scored. (llama.cpp's llama-perplexity puts it in the
place of each window's first token.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyinfer.llm import LLM


@dataclass(frozen=True)
class Perplexity:
    """tokens: how many were scored. nll: their mean negative log-likelihood, in nats."""

    nll: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(nll); infinite where a float cannot hold it."""
        return math.exp(self.nll) if self.nll < 700 else math.inf


def windows(tokens: Sequence[int], window: int) -> Iterator[Sequence[int]]:
    """Windows of window + 1 tokens, one starting every `window` tokens; the last may be shorter, but none below two.

    >>> list(windows([0, 1, 2, 3, 4, 5], 2))
    [[0, 1, 2], [2, 3, 4], [4, 5]]
    """
    for start in range(0, len(tokens) - 1, window):
        yield tokens[start : start + window + 1]


def begun(window: Sequence[int], beginning: Sequence[int]) -> list[int]:
    """What the model reads of a window: the beginning tokens, then the window; once, where the window has them itself.

    >>> begun([7, 8], [0]), begun([0, 7], [0]), begun([7, 8], [])
    ([0, 7, 8], [0, 7], [7, 8])
    """
    has_them = list(window[: len(beginning)]) == list(beginning)
    return list(window) if has_them else [*beginning, *window]


def perplexities(llm: LLM, tokens: Sequence[int], window: int, beginning: Sequence[int] = ()) -> Iterator[Perplexity]:
    """The perplexity of what was scored so far, after each window; the last one is the text's.

    beginning: the tokens that stand before each window and are not scored. Raises NotFiniteError when the model's
    numbers overflow.
    """
    total, scored = 0.0, 0
    for piece in windows(tokens, window):
        logprobs = llm.score(begun(piece, beginning))[1 - len(piece) :]  # (piece - 1,)
        total, scored = total - float(logprobs.sum()), scored + len(logprobs)
        yield Perplexity(total / scored, scored)
