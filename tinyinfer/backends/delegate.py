"""Delegation: an `Ops` that hands every operation on to another one, for wrappers that add something of their own.

A wrapper overrides the operations that it cares about and calls `self.inner` for the work: calibration looks at the
inputs of linear layers; a tracer would note each call, a gradient tape record it, tensor parallelism add up the ranks'
parts. Whatever backend does the work, the wrapper is the same. (Inheriting from a backend would tie the wrapper to it.)
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from copy import copy
from typing import Any, Self

import numpy as np

from tinyinfer.arrays import Array, Xp
from tinyinfer.backends.uncompiled import Uncompiled
from tinyinfer.ledger import Ledger
from tinyinfer.model.heads import Heads, NoCap, SoftCap
from tinyinfer.model.interfaces import KVCache, Ops, Sampled
from tinyinfer.model.weights import Embedding, Experts, Linear, Matrix, Norm, Rotation, Weight
from tinyinfer.sequence import Batch, Wanted


class DelegatingOps(Uncompiled):
    """Hands every operation on to `inner`; a wrapper overrides the operations that it adds something to.

    It compiles nothing, since a compiled pass would not call the operations of the wrapper. `experts` is handed on
    whole: `inner` calls its own `linear` and `gate` for the experts, so that a wrapper does not see those calls.
    """

    def __init__(self, inner: Ops) -> None:
        self.inner = inner
        self.xp: Xp = inner.xp
        self.ledger: Ledger = inner.ledger

    def counting(self, ledger: Ledger) -> Self:
        other = copy(self)
        other.inner, other.ledger = self.inner.counting(ledger), ledger
        return other

    def reserve(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:  # -> shape
        return self.inner.reserve(shape, dtype)

    def to_host(self, array: Array) -> np.ndarray:  # (...,) -> (...,)
        return self.inner.to_host(array)

    @property
    def loading_threads(self) -> int:
        return self.inner.loading_threads

    @property
    def multiplies_codes(self) -> bool:
        return self.inner.multiplies_codes

    def take(self, matrix: Matrix) -> Weight:
        return self.inner.take(matrix)

    def take_array(self, *parts: np.ndarray) -> Array:
        return self.inner.take_array(*parts)

    def embed(self, tokens: Array, positions: Array, embedding: Embedding) -> Array:  # (T,), (T,) -> (T, D)
        return self.inner.embed(tokens, positions, embedding)

    def rotation(
        self, positions: Array, sets: Array, rotation: Rotation
    ) -> tuple[Array, Array]:  # (T,), (T,) -> (T, 1, E), (T, 1, E)
        return self.inner.rotation(positions, sets, rotation)

    def norm(self, x: Array, norm: Norm) -> Array:  # (T, ...) -> (T, ...)
        return self.inner.norm(x, norm)

    def linear(self, x: Array, linear: Linear) -> Array:  # (T, M) -> (T, N)
        return self.inner.linear(x, linear)

    def rope(
        self, x: Array, rotation: tuple[Array, Array]
    ) -> Array:  # (T, H+K, E), ((T, 1, E), (T, 1, E)) -> (T, H+K, E)
        return self.inner.rope(x, rotation)

    def attention(
        self, q: Array, layer: int, batch: Batch, cache: KVCache, heads: Heads
    ) -> Array:  # (T, H, E) -> (T, H, E)
        return self.inner.attention(q, layer, batch, cache, heads)

    def activate(self, x: Array, activation: str) -> Array:  # (T, F) -> (T, F)
        return self.inner.activate(x, activation)

    def gate(self, gate_up: Array, activation: str) -> Array:  # (T, 2*F) -> (T, F)
        return self.inner.gate(gate_up, activation)

    def experts(
        self, x: Array, chosen: Array, weights: Array, gate_up: Experts, down: Experts, activation: str
    ) -> Array:  # (T, D), (T, k), (T, k) -> (T, D)
        return self.inner.experts(x, chosen, weights, gate_up, down, activation)

    def add(self, x: Array, change: Array, scale: float) -> Array:  # (T, D), (T, D) -> (T, D)
        return self.inner.add(x, change, scale)

    def gather(self, x: Array, rows: Array) -> Array:  # (T, D), (R,) -> (R, D)
        return self.inner.gather(x, rows)

    def scale(self, x: Array, factor: float) -> Array:  # (R, D) -> (R, D)
        return self.inner.scale(x, factor)

    def cap(self, logits: Array, cap: NoCap | SoftCap) -> Array:  # (R, V) -> (R, V)
        return self.inner.cap(logits, cap)

    def sample(self, logits: Array, wanted: Seq[Wanted]) -> Sampled:  # (R, V) ->
        return self.inner.sample(logits, wanted)

    def whole(self, logits: Array) -> np.ndarray:  # (R, V) -> (R, all)
        return self.inner.whole(logits)

    def on_this_thread(self) -> None:
        self.inner.on_this_thread()

    def share_memory(self, processes: int) -> None:
        self.inner.share_memory(processes)

    def available_memory(self) -> int:
        return self.inner.available_memory()

    def relative_cost(self, rows: int) -> float:
        return self.inner.relative_cost(rows)
