"""A layer's attention as data: how many heads, and what is done to a query's scores before they weigh values.

    score = cap(scale · q·k)     hidden where the key lies in the future, or too far back for the window
    weight = exp(score - m) / (Σ exp(score - m) + exp(sink - m)),    m the largest score, the sink's included

A family without a cap has `NoCap`, one without sinks `NoSinks`: no backend asks which family a layer is of.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyinfer.arrays import Array, Xp


@dataclass(frozen=True)
class NoCap:
    """Null object: scores, or logits, as they are."""

    def __call__(self, x: Array, xp: Xp) -> Array:  # (...,) -> (...,)
        return x


@dataclass(frozen=True)
class SoftCap:
    """limit · tanh(x / limit): nothing beyond ±limit, and small numbers hardly changed (Bello et al. 2016, A.2).

    Gemma 2 caps the scores of attention before the mask, and the logits (Gemma Team 2024, section 2).
    """

    limit: float

    def __call__(self, x: Array, xp: Xp) -> Array:  # (...,) -> (...,)
        limit = xp.float32(self.limit)
        return limit * xp.tanh(x / limit)


@dataclass(frozen=True)
class NoSinks:
    """Null object: a query's weights sum to 1 over the keys that it sees."""

    nbytes: int = 0

    def largest(self, m: Array, xp: Xp) -> Array:  # (K, ..., 1) -> (K, ..., 1)
        """m as it is: no sink is larger."""
        return m

    def total(self, total: Array, m: Array, xp: Xp) -> Array:  # (K, ..., 1), (K, ..., 1) -> (K, ..., 1)
        """The total as it is: no sink has a share."""
        return total


@dataclass(frozen=True)
class Sinks:
    """One learned score more in the softmax of each query head, for a value of zero (Xiao et al. 2023, section 3.3).

    Of a head whose keys all score low, the sink takes nearly all of the weight. gpt-oss has sinks (OpenAI 2025).
    """

    scores: Array  # (K, H/K, 1)

    @property
    def nbytes(self) -> int:
        return int(self.scores.nbytes)

    def largest(self, m: Array, xp: Xp) -> Array:  # (K, ..., 1) -> (K, ..., 1)
        """The larger of each query's largest score m and its head's sink."""
        keys, queries, _ = self.scores.shape
        return xp.maximum(m.reshape(keys, queries, -1), self.scores).reshape(m.shape)

    def total(self, total: Array, m: Array, xp: Xp) -> Array:  # (K, ..., 1), (K, ..., 1) -> (K, ..., 1)
        """The sum of exp(score - m), the sink's share included; no sink may be above m (`largest`)."""
        keys, queries, _ = self.scores.shape
        share = xp.exp(self.scores - m.reshape(keys, queries, -1))  # (K, H/K, T)
        return total + share.reshape(m.shape)


@dataclass(frozen=True)
class Heads:
    """A layer's attention as data: its heads, their scale and window, and what is done to their scores."""

    queries: int  # H
    keys: int  # K: H/K query heads share a key head
    size: int  # E
    scale: float  # multiplies the scores
    window: int | None  # how many positions back a query sees, itself included; None: all
    cap: NoCap | SoftCap = NoCap()  # of the scaled scores, before the mask
    sinks: NoSinks | Sinks = NoSinks()
