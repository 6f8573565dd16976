"""From logits to a token: greedy, or a draw after the usual filters, in the order in which transformers applies them.

penalties (repetition, then presence and frequency) → temperature → top-k → top-p → min-p → draw.

What bars tokens (guided/bars.py) has changed the logits before.

A draw adds noise to the scores that the filters left, and takes the largest (the Gumbel-max trick). The noise is a
function of the request's seed, the position and the token id (noise.py), so that the same seed gives the same text,
whatever runs beside it or is computed again. The logits are not the same to the last bit: the number of rows in a batch
changes the rounding of a matrix product. Rounding that moves each score by at most d changes the token only where the
two largest perturbed scores lie within 2d. (An inverse CDF in the order of the vocabulary is far less stable: the place
of each token depends on the rounding of all tokens before it.) What stays unstable is the edge of a filter: a token
that ties with the last one of top-k, top-p or min-p enters or leaves by rounding, and if its perturbed score is the
largest, the token changes. And d is not small where rounding decides about codes: kv_cache/quantized.py and, far more,
quantization/w8a8.py say by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from tinyinfer.noise import gumbel
from tinyinfer.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token; its log-probability before any filter, and the best alternatives' (id -> logprob), when asked."""

    token: int
    logprob: float | None = None
    top: dict[int, float] | None = None


def choose(logits: np.ndarray, params: SamplingParams, prompt: Seq[int], new: Seq[int], seed: int) -> Choice:  # (V,) ->
    """The next token of a sequence whose prompt and new tokens are given; `seed` is its noise's."""
    return describe(int(perturbed(logits, params, prompt, new, seed).argmax()), logits, params)


def describe(token: int, logits: np.ndarray, params: SamplingParams) -> Choice:  # (V,) ->
    """A token that was chosen, with the log-probabilities that were asked for."""
    if params.logprobs is None:
        return Choice(token)
    logprobs = log_softmax(logits)
    best = most_likely(logprobs, params.logprobs)
    return Choice(token, float(logprobs[token]), {int(t): float(logprobs[t]) for t in best})


def most_likely(s: np.ndarray, n: int) -> np.ndarray:  # (V,) -> (n,)
    """The ids of the n largest numbers, largest first; all ids when there are fewer."""
    n = min(n, len(s))
    if n == 1:
        return np.array([s.argmax()])
    best = np.argpartition(-s, n - 1)[:n]  # (n,), unordered: only the n best are sorted, not the vocabulary
    return best[np.argsort(-s[best], kind="stable")]


def perturbed(
    logits: np.ndarray, params: SamplingParams, prompt: Seq[int], new: Seq[int], seed: int
) -> np.ndarray:  # (V,) -> (V,)
    """The scores of which the largest is the next token's: with the position's noise, and without any when greedy."""
    if params.temperature == 0.0:
        return penalize(logits, params, prompt, new)
    return add_noise(filtered(logits, params, prompt, new), seed, len(prompt) + len(new))


def add_noise(s: np.ndarray, seed: int, position: int, stream: int = 0) -> np.ndarray:  # (V,) -> (V,)
    """Scores, which are log-probabilities but for a constant, with the noise of (seed, position); -inf stays."""
    return s + gumbel(seed, position, len(s), stream)


def draw(s: np.ndarray, seed: int, position: int, stream: int = 0) -> int:  # (V,) ->
    """A token drawn with probability exp(s) / sum(exp(s)); streams of noise serve different purposes."""
    return int(add_noise(s, seed, position, stream).argmax())


def distribution(
    logits: np.ndarray, params: SamplingParams, prompt: Seq[int], new: Seq[int]
) -> np.ndarray:  # (V,) -> (V,)
    """The probabilities that a token is drawn from at a temperature above 0, all filters applied."""
    return softmax(filtered(logits, params, prompt, new))


def filtered(logits: np.ndarray, params: SamplingParams, prompt: Seq[int], new: Seq[int]) -> np.ndarray:  # (V,) -> (V,)
    """Logits over the temperature, which is above 0, with all penalties; -inf where a filter leaves a token out."""
    s = penalize(logits, params, prompt, new).astype(np.float64)  # (V,)
    with np.errstate(over="ignore"):  # at a tiny temperature all but the largest become -infinity, as they should
        s = (s - s.max()) / params.temperature
    s = keep_top_k(s, params.top_k) if params.top_k else s
    s = keep_top_p(s, params.top_p) if params.top_p < 1.0 else s
    return keep_min_p(s, params.min_p) if params.min_p else s


def has_penalties(params: SamplingParams) -> bool:
    """Whether earlier tokens change the logits."""
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def is_changed(params: SamplingParams) -> bool:
    """Whether logits are changed before a token is chosen at all: by earlier tokens, or by what bars tokens."""
    return has_penalties(params) or params.bars


def is_plain(params: SamplingParams) -> bool:
    """Whether a token is chosen by its row of logits alone: the largest, with or without noise."""
    filtered = params.temperature > 0 and (params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0)
    return params.logprobs is None and not is_changed(params) and not filtered


def penalize(s: np.ndarray, params: SamplingParams, prompt: Seq[int], new: Seq[int]) -> np.ndarray:  # (V,) -> (V,)
    """Repetition scales the logits of all tokens so far; presence and frequency lower those of new ones; in float64.

    The same logits where there are no penalties. (Keskar et al. 2019, section 4.1, for repetition.)
    """
    if not has_penalties(params):
        return s
    s = s.astype(np.float64)  # (V,), a copy
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.asarray([*prompt, *new], dtype=np.int64))  # (n,): n different tokens
        # Both ways lower the logit: a positive one is divided, a negative one multiplied.
        s[seen] = np.where(s[seen] > 0, s[seen] / params.repetition_penalty, s[seen] * params.repetition_penalty)
    tokens, counts = np.unique(np.asarray(new, dtype=np.int64), return_counts=True)  # (n,), (n,)
    s[tokens] -= params.presence_penalty + params.frequency_penalty * counts
    return s


def keep_top_k(s: np.ndarray, k: int) -> np.ndarray:  # (V,) -> (V,)
    """Only the k largest stay, and what ties with the last of them (Fan et al. 2018)."""
    if k >= len(s):
        return s
    return np.where(s < np.partition(s, -k)[-k], -np.inf, s)


def keep_top_p(s: np.ndarray, p: float) -> np.ndarray:  # (V,) -> (V,)
    """The likeliest tokens that together reach mass p: those before which less than p lies (Holtzman et al. 2020)."""
    order = np.argsort(-s)  # (V,)
    mass = softmax(s[order])  # (V,), falling
    before = np.cumsum(mass) - mass  # (V,): without the token itself, so that the token that reaches p stays
    out = s.copy()
    out[order[before >= p]] = -np.inf
    return out


def keep_min_p(s: np.ndarray, p: float) -> np.ndarray:  # (V,) -> (V,)
    """Only tokens at least p times as likely as the likeliest (Nguyen et al. 2024)."""
    return np.where(s < s.max() + np.log(p), -np.inf, s)  # the quotient of two probabilities is exp(s - s.max())


def softmax(s: np.ndarray) -> np.ndarray:  # (V,) -> (V,)
    """The probabilities exp(s) / sum(exp(s))."""
    e = np.exp(s - s.max())  # no exponent above 0, so exp cannot overflow; the quotient stays the same
    return e / e.sum()


def log_softmax(s: np.ndarray) -> np.ndarray:  # (V,) -> (V,)
    """The log-probabilities s - log(sum(exp(s))), in float64."""
    s = s.astype(np.float64)
    s = s - s.max()
    return s - np.log(np.exp(s).sum())


def token_scores(logits: np.ndarray, following: Sequence[int]) -> list[float]:  # (R, V) ->
    """The log-probability of the token that follows each row; `following` may go on after the last row."""
    return [log_softmax(row)[token] for row, token in zip(logits, following, strict=False)]
