"""How far an optimized model has moved from the float model: KL divergence and top-1 agreement, token by token.

Perplexity sees one number of each distribution, the probability of the token that came, and errors up and down cancel
in it: a quantized model can lose in a thousand places, gain in as many and look unchanged. The Kullback-Leibler
divergence (1951) compares the whole distributions, sum p · log(p/q), in nats; it is 0 only where both are the same.
Top-1 agreement is what greedy decoding would notice: how often both models' likeliest token is the same one.

Both models are in memory and go through the text window by window: keeping the float model's log-probabilities instead
would take 100 kB a token for a vocabulary of 49152.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinyinfer.measure.perplexity import Perplexity, begun, perplexities, windows
from tinyinfer.sampling import token_scores

if TYPE_CHECKING:
    from tinyinfer.llm import LLM


@dataclass(frozen=True)
class Divergence:
    """kl: mean over the tokens, in nats. agreement: the share of tokens at which both models' likeliest is the same."""

    kl: float
    agreement: float


def divergences(
    llm: LLM, reference: LLM, tokens: Sequence[int], window: int, beginning: Sequence[int] = ()
) -> Iterator[tuple[Perplexity, Divergence]]:
    """The perplexity of `llm` and its distance from `reference` over what was scored so far, after each window.

    beginning: the tokens that stand before each window and are not scored. From itself a model has no distance, and the
    text is read once. Raises NotFiniteError when the numbers of either model overflow.
    """
    if reference is llm:
        own = perplexities(llm, tokens, window, beginning)
        yield from ((scored, Divergence(kl=0.0, agreement=1.0)) for scored in own)
        return
    total, scored, kl, agreed = 0.0, 0, 0.0, 0
    for piece in windows(tokens, window):
        read, scores = begun(piece, beginning), []
        pairs = zip(llm.logits_by_rows(read[:-1]), reference.logits_by_rows(read[:-1]), strict=True)
        for (start, logits), (_, expected) in pairs:
            skipped = max(len(read) - len(piece) - start, 0)  # rows of the beginning tokens: nothing scored follows
            logits, expected = logits[skipped:], expected[skipped:]
            scores += token_scores(logits, read[start + skipped + 1 :])
            kl += float(kl_divergence(expected, logits).sum())
            agreed += int((expected.argmax(axis=1) == logits.argmax(axis=1)).sum())
        total, scored = total - float(np.sum(scores)), scored + len(scores)
        mean = max(kl / scored, 0.0)  # it cannot be negative; rounding alone makes it so
        yield Perplexity(total / scored, scored), Divergence(mean, agreed / scored)


def kl_divergence(expected: np.ndarray, logits: np.ndarray) -> np.ndarray:  # (R, V), (R, V) -> (R,)
    """sum p · (log p - log q) of each row, p of the expected logits and q of the others.

    The difference of the logits is taken first, so what both models share cannot blur it: the same logits give 0.
    """
    p, log_sum = _exponentials(expected)
    difference = np.vecdot(p, expected - logits) / p.sum(axis=1, dtype=np.float64)  # (R,)
    return difference - (log_sum - _exponentials(logits)[1])


def _exponentials(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (R, V) -> (R, V), (R,)
    """exp(logits - max) of each row, and log(sum(exp(logits)))."""
    largest = logits.max(axis=1, keepdims=True)  # (R, 1): no exponent is above 0, so exp cannot overflow
    p = np.exp(logits - largest)  # (R, V)
    return p, np.log(p.sum(axis=1, dtype=np.float64)) + largest[:, 0]
