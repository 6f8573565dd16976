"""A gradient tape: the operations of a forward pass are noted, and their adjoints are run in reverse order.

The tape is an `Ops` that wraps another one, so the transformer is differentiated as it is written, and any backend
whose weights are plain arrays does the work. Each operation adds one closure to the tape; `backward` runs them from the
last to the first, and a gradient is complete when the last operation that used its array has been run (Griewank &
Walther 2008, chapter 3.2).

A model cuts arrays apart without asking its backend: q, k and v are views of one product, and a cache hands views of k
and v back. So a gradient is a shadow: of each array's memory there is one array of gradients with the same layout, and
the gradient of a view is the same view of the shadow. What is added to a part's gradient is in the whole's at once.

Wins: no operation is written twice, and the model knows nothing of gradients. Loses: memory, because what an adjoint
reads must be kept until then; `recompute` keeps only a layer's input, for one forward pass more.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np

from tinyinfer.arrays import Array, Xp
from tinyinfer.backends.delegate import DelegatingOps
from tinyinfer.distillation.adjoints import (
    ACTIVATIONS,
    attention_adjoint,
    cap_adjoint,
    norm_adjoint,
    rope_adjoint,
)
from tinyinfer.distillation.padding import Padding, PassCache
from tinyinfer.model.attention import full_attention
from tinyinfer.model.config import ModelConfig
from tinyinfer.model.heads import Heads, NoCap, SoftCap
from tinyinfer.model.interfaces import KVCache, Ops
from tinyinfer.model.weights import Dense, Embedding, Linear, NoNorm, Norm
from tinyinfer.sequence import Batch


class Shadows:
    """The gradients of arrays, by the memory in which the arrays lie.

    Each array whose gradient was asked for is kept until `drop` or `clear`, so that no other one gets its memory. A
    model may reshape what an operation gave; so that this is a view and no copy, operations give contiguous arrays.
    """

    def __init__(self, xp: Xp) -> None:
        self.xp = xp
        self.held: dict[int, tuple[Array, Array]] = {}  # id of a whole array -> itself, and its gradients

    def of(self, array: Array) -> Array:  # (...,) -> (...,)
        """The gradient of an array, zeros at first: a view, to be added to in place."""
        whole = array
        while whole.base is not None and isinstance(whole.base, type(whole)):
            whole = whole.base
        if id(whole) not in self.held:
            self.held[id(whole)] = whole, self.xp.zeros_like(whole)
        shadow = self.held[id(whole)][1]
        if array is whole:
            return shadow
        if self.xp is np:
            offset = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
            return np.ndarray(array.shape, array.dtype, shadow, offset, array.strides)
        memory = shadow.data + (array.data.ptr - whole.data.ptr)
        return self.xp.ndarray(array.shape, array.dtype, memory, array.strides)

    def add(self, array: Array, change: Array) -> None:  # (...,), (...,) ->
        """Adds to an array's gradient. A first change becomes the gradient itself: nothing else may use it then."""
        new = id(array) not in self.held and array.base is None and change.base is None
        if new and change.strides == array.strides and change.dtype == array.dtype:
            self.held[id(array)] = array, change
            return
        shadow = self.of(array)  # (...,)
        shadow += change

    def drop(self, array: Array) -> None:
        """Forgets a whole array, whose gradient nothing will read again; of a view nothing is forgotten."""
        self.held.pop(id(array), None)

    def clear(self) -> None:
        """Forgets all arrays and their gradients."""
        self.held.clear()


class Tape(DelegatingOps):
    """Notes the operations of a model that run through it, and hands each of them on to `inner`.

    Raises ValueError for a mixture of experts, whose router computes without asking its backend.

    weights: the gradients of parameters, added up over all calls of `backward`: by the id of a Dense weight (M, N), of
    a norm's weight or bias, of a bias, and of learned positions, each in the layout of what it belongs to.
    """

    def __init__(self, inner: Ops, model: ModelConfig) -> None:
        super().__init__(inner)
        if model.experts:
            raise ValueError("a mixture of experts has no gradients here; train a dense model")
        self.shadows = Shadows(inner.xp)
        self.notes: list[Callable[[], None]] = []
        self.padding: tuple[Batch, Padding] | None = None
        self.weights: dict[int, tuple[Any, Array]] = {}
        self.untouched: set[int] = set()  # the ids of weights whose gradients are zeros, where that is known

    def backward(self, y: Array, dy: Array) -> None:  # (...,), (...,) ->
        """Runs the adjoints of all that was noted, y's gradient being dy, which is used up; then the tape is empty.

        The gradients of parameters are added to `weights`. Those of arrays that no operation gave are in `shadows`
        until `clear`; those of results are dropped as soon as they have been passed on.
        """
        self.shadows.add(y, dy)
        while self.notes:
            self.notes.pop()()

    def clear(self) -> None:
        """Forgets a pass, whether or not it was run backward; gradients of parameters stay."""
        self.notes.clear()
        self.shadows.clear()

    def zero(self, gradients: Array) -> None:  # (P,) ->
        """Begins anew with gradients of zeros; gradients: the memory in which all of them lie."""
        gradients[...] = 0
        self.untouched = set(self.weights)

    def gradient(self, parameter: Any) -> Array:
        """The gradient of a parameter, zeros at first: an array to be added to in place."""
        self.untouched.discard(id(parameter))
        if id(parameter) not in self.weights:
            array = parameter.array if isinstance(parameter, Dense) else parameter
            self.weights[id(parameter)] = parameter, self.xp.zeros_like(array)
        return self.weights[id(parameter)][1]

    def recompute(self, run: Callable[[Ops, Array], Array], x: Array) -> Array:  # (T, D) -> (T, D)
        """run(ops, x), of which only the input is kept: backward runs it again, noted (Chen et al. 2016, section 3).

        run must give the same numbers each time. One forward pass more, for the memory of one layer instead of all.
        """
        y = run(self.inner, x.copy())  # (T, D)

        def adjoint() -> None:
            again = copy(self)  # the same gradients of parameters, other notes
            again.shadows, again.notes = Shadows(self.xp), []
            again.backward(run(again, x), self.shadows.of(y))
            self.padding = again.padding  # the next layer's, too
            self.shadows.add(x, again.shadows.of(x))
            self.shadows.drop(y)

        self.notes.append(adjoint)
        return y

    def _note(self, x: Array, y: Array, adjoint: Callable[[Array], Array]) -> Array:
        """y, a new array, for which adjoint(dy) gives what is to be added to the gradient of x."""

        def run() -> None:
            self.shadows.add(x, adjoint(self.shadows.of(y)))
            self.shadows.drop(y)

        self.notes.append(run)
        return y

    # Operations, in the order of backends/reference.py.

    def embed(self, tokens: Array, positions: Array, embedding: Embedding) -> Array:  # (T,), (T,) -> (T, D)
        x, table = self.inner.embed(tokens, positions, embedding), dense(embedding.table)  # x: (T, D)

        def adjoint() -> None:
            dx = self.shadows.of(x)  # (T, D)
            self.xp.add.at(self.gradient(table).T, self.xp.asarray(tokens), dx * np.float32(embedding.scale))
            if embedding.positions is not None:
                self.xp.add.at(self.gradient(embedding.positions), self.xp.asarray(positions), dx)

        self.notes.append(adjoint)
        return x

    def norm(self, x: Array, norm: Norm) -> Array:  # (T, ...) -> (T, ...)
        y = self.inner.norm(x, norm)  # (T, ...)

        def adjoint(dy: Array) -> Array:  # (T, ...) -> (T, ...)
            dx, found = norm_adjoint(dy, x, norm, self.xp)  # (T, ...)
            for parameter, change in found:
                total = self.gradient(parameter)  # (...,)
                total += change
            return dx

        return y if isinstance(norm, NoNorm) else self._note(x, y, adjoint)

    def linear(self, x: Array, linear: Linear) -> Array:  # (T, M) -> (T, N)
        weight = dense(linear.weight)

        def adjoint(dy: Array) -> Array:  # (T, N) -> (T, M)
            first = id(weight) in self.untouched
            gradient = self.gradient(weight)  # (M, N)
            if first:  # without a product in new memory, whose pages cost as much as its numbers
                self.xp.matmul(x.T, dy, out=gradient)
            else:
                gradient += x.T @ dy
            if linear.bias is not None:
                bias = self.gradient(linear.bias)  # (N,)
                bias += dy.sum(axis=0)
            return dy @ weight.array.T

        return self._note(x, self.inner.linear(x, linear), adjoint)

    def rope(
        self, x: Array, rotation: tuple[Array, Array]
    ) -> Array:  # (T, H+K, E), ((T, 1, E), (T, 1, E)) -> (T, H+K, E)
        return self._note(x, self.inner.rope(x, rotation), lambda dy: rope_adjoint(dy, *rotation, self.xp))

    def attention(
        self, q: Array, layer: int, batch: Batch, cache: KVCache, heads: Heads
    ) -> Array:  # (T, H, E) -> (T, H, E)
        """All sequences at once (padding.py). The cache must be a PassCache, which keeps the keys and values whole."""
        assert isinstance(cache, PassCache)
        padding, k, v = self._padding_of(batch), cache.k, cache.v  # k, v: (T, K, E)
        wide = padding.heads(heads)
        wide_q, wide_k, wide_v = (padding.spread(x) for x in (q, k, v))  # (R, n*H, E), (R, n*K, E), (R, n*K, E)
        if len(batch.spans) == 1:
            y = self.inner.attention(q, layer, batch, cache, heads)  # (T, H, E)
        else:
            y = full_attention(wide_q, wide_k, wide_v, 0, 0, wide, self.xp)  # (R, n*H, E)
        out = self.xp.ascontiguousarray(padding.collect(y))  # (T, H, E): see Shadows

        def adjoint() -> None:
            do = padding.spread_gradient(self.shadows.of(out))  # (R, n*H, E)
            parts = attention_adjoint(do, wide_q, wide_k, wide_v, 0, 0, wide, self.xp)
            for x, part in zip((q, k, v), parts, strict=True):
                self.shadows.add(x, padding.collect(part))
            self.shadows.drop(out)

        self.notes.append(adjoint)
        return out

    def _padding_of(self, batch: Batch) -> Padding:
        """The batch's padding, the same in all layers."""
        if self.padding is None or self.padding[0] is not batch:
            self.padding = batch, Padding.of(batch, self.xp)
        return self.padding[1]

    def activate(self, x: Array, activation: str) -> Array:  # (T, F) -> (T, F)
        return self._note(x, self.inner.activate(x, activation), lambda dy: ACTIVATIONS[activation](dy, x, self.xp))

    def gate(self, gate_up: Array, activation: str) -> Array:  # (T, 2*F) -> (T, F)
        half = gate_up.shape[1] // 2

        def adjoint(dy: Array) -> Array:  # (T, F) -> (T, 2*F)
            gate, up = gate_up[:, :half], gate_up[:, half:]  # (T, F), (T, F)
            parts = ACTIVATIONS[activation](dy * up, gate, self.xp), dy * self.inner.activate(gate, activation)
            return self.xp.concatenate(parts, axis=1)

        return self._note(gate_up, self.inner.gate(gate_up, activation), adjoint)

    def add(self, x: Array, change: Array, scale: float) -> Array:  # (T, D), (T, D) -> (T, D)
        """Into new memory: x may still be read by an adjoint."""
        y = self.inner.add(x.copy(), change, scale)  # (T, D)

        def adjoint() -> None:
            dy = self.shadows.of(y)  # (T, D)
            self.shadows.add(change, dy.copy() if scale == 1 else dy * np.float32(scale))
            self.shadows.add(x, dy)
            self.shadows.drop(y)

        self.notes.append(adjoint)
        return y

    def gather(self, x: Array, rows: Array) -> Array:  # (T, D), (R,) -> (R, D)
        y = self.inner.gather(x, rows)  # (R, D)

        def adjoint() -> None:
            self.xp.add.at(self.shadows.of(x), self.xp.asarray(rows), self.shadows.of(y))
            self.shadows.drop(y)

        self.notes.append(adjoint)
        return y

    def scale(self, x: Array, factor: float) -> Array:  # (R, D) -> (R, D)
        return self._note(x, self.inner.scale(x, factor), lambda dy: dy * np.float32(factor))

    def cap(self, logits: Array, cap: NoCap | SoftCap) -> Array:  # (R, V) -> (R, V)
        y = self.inner.cap(logits, cap)  # (R, V)
        return y if isinstance(cap, NoCap) else self._note(logits, y, lambda dy: cap_adjoint(dy, y, cap.limit, self.xp))


def dense(weight: Any) -> Dense:
    """The weight. Raises ValueError unless it is a plain array of float32, which alone can be trained."""
    if not isinstance(weight, Dense) or weight.array.dtype not in (np.float32, np.float64):
        raise ValueError("only float32 weights in plain arrays have gradients; load the model as floats, with numpy")
    return weight
